"""How alike the representations of several runs are, where they end and on the way there (Abnar et al. 2020)."""

from __future__ import annotations

import dataclasses
import itertools
from collections.abc import Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

import torch
from torch import Tensor

from kdrun import stopping
from kdrun.experiment.build import outline_of
from kdrun.experiment.derived import Derived
from kdrun.papers.abnar2020.similarity import BATCH_SIZE, cka_matrix, classical_mds, distance_matrix, similarity_matrix
from kdrun.spec.spec import Spec
from kdrun.taps import tapped
from kdrun.training.precision import autocast

if TYPE_CHECKING:
    from kdrun.experiment.runner import Runner

NUM_EXAMPLES = 21 * BATCH_SIZE
"""Of the test set, the first ones, as in the paper; all where there are fewer."""


def check_epochs(epochs: Sequence[int]) -> None:
    """Raises ValueError unless a run can be looked at after these epochs, one after the other."""
    if any(epoch < 0 for epoch in epochs) or any(a >= b for a, b in itertools.pairwise(epochs)):
        raise ValueError(
            f"epochs={list(epochs)}: must be whole numbers from 0 (as initialised) on, each once, in order"
        )


@dataclass(frozen=True)
class Paths(Derived):
    """What the penultimate layers of several networks make of the same test examples, and a plane for these networks.

    The networks are those of the runs at their end and, with `epochs`, those of the same runs stopped earlier. Stopped
    runs are runs of their own; computing this executes them, each going on from the one before.

    Similarity and distances are those of `similarity`, by the paper's text: its code takes the logits, in
    training mode. The paper has a plane for each path; here all networks share one, so that paths can be compared.

    Attributes:
        epochs: after which each run is looked at, beside its end; 0 is the network as initialised. Epochs that do not
            come before a run's end are left out.
    """

    epochs: tuple[int, ...] = ()

    def __post_init__(self) -> None:
        problems = []
        try:
            check_epochs(self.epochs)
        except ValueError as error:
            problems.append(str(error))
        names = sorted({f"{spec.dataset.name} ({spec.dataset.identity[:8]})" for spec in self.specs})
        if len(names) > 1:
            problems.append(f"rows: their runs must be of one dataset, not of {' and '.join(names)}")
        for spec in {spec.student.name: spec for spec in self.specs}.values():
            try:
                _tap(spec)
            except ValueError as error:
                problems.append(f"rows: {error}")
        if not problems and len(self.networks) < 2:
            problems.append("rows: one network alone is like no other; needs at least two, or epochs")
        if problems:
            raise ValueError("\n".join(problems))

    @property
    def networks(self) -> list[tuple[int, Spec]]:
        """The run of each network, after the position in `specs` of the run that it is of: run by run, its end last."""
        return [
            (i, run)
            for i, spec in enumerate(self.specs)
            for run in (
                *(dataclasses.replace(spec, stop_epoch=epoch) for epoch in self.epochs if epoch < spec.epochs_trained),
                spec,
            )
        ]

    @property
    def further(self) -> Sequence[Spec]:
        """The stopped runs: of each run in order, so that they continue one another."""
        return [run for i, run in self.networks if run != self.specs[i]]

    def words(self) -> str:
        after = f" and after {', '.join(map(str, self.epochs))} epochs" if self.epochs else ""
        return f"representations of {len(self.specs)} runs at their end{after}"

    def compute(self, runner: Runner) -> dict[str, Any]:
        """All of M networks in the order of `networks`.

        Returns:
            `networks`, for each the position of its run in `specs`, its epoch, and the run_id it is stored under;
            `num_examples`; `similarity` and `cka`, `[M, M]`; `coordinates`, `[M, 2]`, and `kept`, the share of the
            variance that this plane keeps.
        """
        runner.announce(self.further)
        for run in self.further:
            runner.execute(run, role="stopped")
        seen = [_representations(runner, run) for _, run in self.networks]
        similarity = similarity_matrix(seen, batch_size=min(BATCH_SIZE, len(seen[0])))
        plane = classical_mds(distance_matrix(similarity))
        return {
            "networks": [{"run": i, "epoch": run.epochs_trained, "run_id": run.run_id} for i, run in self.networks],
            "num_examples": len(seen[0]),
            "similarity": similarity.tolist(),
            "cka": cka_matrix(seen).tolist(),
            "coordinates": plane.points.tolist(),
            "kept": plane.kept,
        }


def _tap(spec: Spec) -> str:
    """The penultimate layer of a run's network; raises ValueError where that is no vector for each example."""
    return outline_of(spec.student, spec.dataset).vector


@torch.no_grad()
def _representations(runner: Runner, spec: Spec) -> Tensor:
    """What the penultimate layer of a run's network returns in eval mode, `[n, d]`, float32, on the CPU."""
    tap = _tap(spec)
    network = runner.network(spec).eval()
    test = runner.data(spec.dataset).test
    positions = torch.arange(min(NUM_EXAMPLES, len(test)), device=runner.device)
    found = []
    with tapped(network, [tap]) as seen, autocast(runner.device, spec.precision):
        for x in test.batches(positions.split(BATCH_SIZE)):
            network(x)
            found.append(seen[tap].float().cpu())
            stopping.check()
    return torch.cat(found)
