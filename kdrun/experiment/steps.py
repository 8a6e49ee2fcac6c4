"""How a run's steps are computed: in the fast ways that it chose, or one operation after the other."""

from __future__ import annotations

from collections.abc import Callable
from contextlib import AbstractContextManager

from kdrun.distributed import num_ranks
from kdrun.experiment.choices import Choices
from kdrun.training.cuda_graphs import GraphedStep
from kdrun.training.distributed import DistributedStep
from kdrun.training.guarded import GuardedStep
from kdrun.training.step import DEFAULT_MODE, Step
from kdrun.training.trainer import Training


def fail(error: Exception) -> None:
    """Raises the exception of a fast way."""
    raise error


def make_step(
    training: Training,
    context: AbstractContextManager[None],
    choices: Choices,
    on_failure: Callable[[Exception], None] = fail,
    *,
    micro_batch: int | None = None,
    mode: str = DEFAULT_MODE,
) -> Step | GuardedStep:
    """What computes a run's steps.

    Args:
        training: its method and optimiser.
        context: in which the method computes.
        choices: the fast ways.
        on_failure: called with the exception of a fast way; if it returns, the steps are ordinary ones from then on.
        micro_batch: see `Step`.
        mode: of torch.compile.
    """

    def ordinary() -> Step:
        return Step(
            training.method, training.optimizer, context, micro_batch=micro_batch, has_shares=training.has_shares
        )

    if num_ranks() > 1:
        assert not choices.has_fast_ways, "there are none on several ranks"
        return DistributedStep(
            training.method, training.optimizer, context, micro_batch=micro_batch, has_shares=training.has_shares
        )
    if not choices.has_fast_ways:
        return ordinary()
    kind = GraphedStep if choices.cuda_graphs else Step
    compiled = mode if choices.compile else None
    fast = kind(
        training.method,
        training.optimizer,
        context,
        micro_batch=micro_batch,
        compiled=compiled,
        has_shares=training.has_shares,
    )
    return GuardedStep(fast, ordinary, on_failure)
