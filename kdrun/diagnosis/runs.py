"""Checks of whole runs, executed as any run is, in a temporary output root."""

from __future__ import annotations

import math
from collections.abc import Iterator, Sequence
from dataclasses import dataclass, replace
from functools import partial
from pathlib import Path
from typing import Literal

import torch
from torch import Tensor, nn

from kdrun.diagnosis.cases import Case
from kdrun.diagnosis.row import BF16, FOLDED, GRAPHED, LOCKSTEP, REPLAY, RESUME, STEP, Row, Unit
from kdrun.experiment.attempt import Outcome, Request
from kdrun.experiment.build import needs_of
from kdrun.experiment.choices import recorded_choices
from kdrun.experiment.runner import Runner
from kdrun.experiment.runtime import Runtime
from kdrun.log import counted
from kdrun.methods.base import Batch
from kdrun.spec.spec import Spec
from kdrun.store.checkpoint import read_weights
from kdrun.store.store import Store
from kdrun.training.cuda_graphs import GraphedTeacher
from kdrun.training.evaluation import predict
from kdrun.training.precision import autocast
from kdrun.training.replay import replays
from kdrun.training.teacher import LiveTeacher

EQUAL = "equal bits"
CACHE_GB = 1.0
REPEATS = 10
"""Where the repetition of a run has other bits, further runs may differ by this multiple of its difference."""

LOGIT_BOUNDS = {"fp32": 1e-9, "bf16": 1e-3}
"""KL divergence of a folded teacher, in nats per example, of logits that are scaled to a deviation of 2."""

LOSS_BOUND = 0.1
"""Relative difference of the training loss in bf16 and in fp32."""


@dataclass(frozen=True)
class Trained:
    """What a run ended with.

    Attributes:
        bits: its weights and metrics as they are in the files.
        weights: all of them, float64 `[P]`.
        loss: mean training loss of its first epoch.
        seconds: of a step; None for captured ones, whose time is that of the capture.
        spread: how far a repetition of this run is from it (see `_distance`).
    """

    bits: tuple[bytes, bytes]
    weights: Tensor
    loss: float
    seconds: float | None
    spread: float = 0.0


class RunChecks:
    """Checks of the runs of some cases; the first checks train their references.

    Args:
        cases: the runs; those of one teacher are trained together.
        runtime: its device, threads and data root are used.
        directory: an output root, which need not exist.
        captured: whether steps are captured (CUDA), those of the references too.
    """

    def __init__(self, cases: Sequence[Case], runtime: Runtime, directory: Path, *, captured: bool = False) -> None:
        self._cases = [Case(f"captured {case.name}", case.spec) for case in cases] if captured else cases
        self._captured = captured
        graphs: Literal["on", "off"] = "on" if captured else "off"
        self._runtime = replace(runtime, output_root=directory, compile="off", cuda_graphs=graphs, keep="all")
        self._store = Store(directory)
        self._references: dict[str, Trained] = {}

    def units(self) -> Iterator[Unit]:
        """The checks in order; each must be run before the next is requested."""
        for case in self._cases:
            yield Unit(STEP, case.name, partial(self.ordinary, case))
        sound = [case for case in self._cases if case.name in self._references]
        if sound:
            yield Unit(LOCKSTEP, counted(len(sound), "run"), partial(self.lockstep, sound))
        for case in sound:
            if case.spec.teachers and replays(needs_of(case.spec)) and case.spec.dataset.labels_each == 1:
                yield Unit(REPLAY, case.name, partial(self.replay, case))
        for check, compare in ((RESUME, self.resume), *(() if self._captured else ((BF16, self.bf16),))):
            for case in sound:
                yield Unit(check, case.name, partial(compare, case))

    def ordinary(self, case: Case) -> list[Row]:
        """Trains the reference of a case, and again; checks its network as a teacher."""
        runner = self._runner()
        outcome = runner.execute(case.spec)
        choices = recorded_choices(outcome.run)
        if self._captured and not (choices and choices.cuda_graphs):
            return [Row(STEP, case.name, EQUAL, "its steps were not captured", False)]
        first = self._trained(outcome)
        as_teacher = [] if self._captured else self._as_teacher(runner, case)
        again = self._execute(case.spec)
        spread = 0.0 if again.bits == first.bits else _distance(first, again)
        # The repetition's seconds are without what a device does once.
        self._references[case.name] = replace(first, seconds=again.seconds, spread=spread)
        # The promise of equal bits is for the CPU: kernels of other devices may add up in any order.
        is_exact = self._runtime.device.type == "cpu"
        agrees = again.bits == first.bits if is_exact else bool(again.weights.isfinite().all())
        expected = EQUAL if is_exact else f"{EQUAL} or finite weights"
        return [Row(STEP, case.name, expected, _compared(first, again), agrees, again.seconds), *as_teacher]

    def lockstep(self, cases: Sequence[Case]) -> list[Row]:
        """Trains all cases in groups and compares each with its reference; logits are cached."""
        if len(cases) == 1:  # with a second member of another learning rate
            (only,) = cases
            recipe = replace(only.spec.recipe, lr=only.spec.recipe.lr / 2, min_lr=only.spec.recipe.min_lr / 2)
            cases = [only, Case("", replace(only.spec, recipe=recipe))]
        for case in cases:
            self._store.run(case.spec).remove()
        requests = [Request(case.spec) for case in cases]
        ended = {request.spec.run_id: end for request, end in self._runner(replay_gb=CACHE_GB).execute_all(requests)}
        rows = []
        for case in cases:
            end = ended[case.spec.run_id]
            if isinstance(end, Exception):
                rows.append(Row(LOCKSTEP, case.name, EQUAL, f"{type(end).__name__}: {end}", False))
            elif case.name:
                rows.append(self._row(LOCKSTEP, case, self._trained(end)))
        return rows

    def replay(self, case: Case) -> list[Row]:
        """Trains a case on the logits that lockstep has cached."""
        if not list(self._store.root.glob("replay/*/*.pt")):
            return [Row(REPLAY, case.name, EQUAL, "no logits in the cache", False)]
        return [self._row(REPLAY, case, self._execute(case.spec, replay_gb=CACHE_GB))]

    def resume(self, case: Case) -> list[Row]:
        """Trains the first epoch of a case in one command, the rest in another."""
        shorter = self._runner().execute(replace(case.spec, stop_epoch=1)).run
        choices = shorter.choices()
        assert choices is not None, "a run that is finished has begun"
        if self._store.longest_beginning(case.spec, choices) is None:
            return [Row(RESUME, case.name, EQUAL, "its checkpoint is not found", False)]
        return [self._row(RESUME, case, self._execute(case.spec))]

    def bf16(self, case: Case) -> list[Row]:
        """Trains a case, and its teachers, in the other precision."""
        other = case.spec.at_precision("fp32" if case.spec.precision == "bf16" else "bf16")
        trained = {case.spec.precision: self._references[case.name], other.precision: self._execute(other)}
        slow, fast = trained["fp32"], trained["bf16"]
        apart = abs(fast.loss - slow.loss) / abs(slow.loss)
        expected, found = f"at most {LOSS_BOUND:.0%} apart", f"{apart:.2%} apart"
        return [Row(BF16, case.name, expected, found, apart <= LOSS_BOUND, slow.seconds, fast.seconds)]

    def _as_teacher(self, runner: Runner, case: Case) -> list[Row]:
        """A finished run's network as a teacher, against itself in fp32, on its test examples."""
        network, test = runner.network(case.spec), runner.data(case.spec.dataset).test
        precision, bound = case.spec.precision, LOGIT_BOUNDS[case.spec.precision]
        index = torch.arange(len(test), device=test.labels.device)
        (x,), generator = test.batches([index]), torch.Generator(test.labels.device)
        batch = Batch(x, test.labels, index, epoch=0, step=0, progress=0.0, generator=generator)
        expected = predict(network, test, autocast(runner.device, "fp32")).double()
        kinds: dict[str, type[LiveTeacher]] = {}
        if any(isinstance(module, nn.BatchNorm2d) for module in network.modules()):
            kinds[FOLDED] = LiveTeacher
        if runner.device.type == "cuda":
            kinds[GRAPHED] = GraphedTeacher
        rows = []
        for check, kind in kinds.items():
            teacher = kind(network, autocast(runner.device, precision), precision)
            teacher(replace(batch, x=x.flip(0)))  # a captured teacher captures this batch
            kl = _divergence(teacher(batch).logits.double(), expected)
            is_used = not isinstance(teacher, GraphedTeacher) or teacher.captured
            found = f"{kl:.1e} nats" if is_used else "cannot be captured"
            rows.append(Row(check, case.name, f"KL at most {bound:.0e} nats", found, is_used and kl <= bound))
        return rows

    def _row(self, check: str, case: Case, trained: Trained) -> Row:
        """Compares a run with its reference: bits, or where a repetition already differs, a multiple of that."""
        reference = self._references[case.name]
        limit = REPEATS * reference.spread
        expected, found = f"weights at most {limit:.0e} apart" if limit else EQUAL, _compared(reference, trained)
        agrees = found == EQUAL or (limit > 0 and _distance(reference, trained) <= limit)
        return Row(check, case.name, expected, found, agrees, reference.seconds, trained.seconds)

    def _runner(self, *, replay_gb: float = 0.0) -> Runner:
        return Runner(self._store, replace(self._runtime, replay_gb=replay_gb))

    def _execute(self, spec: Spec, *, replay_gb: float = 0.0) -> Trained:
        """Trains a run from the start; its teachers stay."""
        self._store.run(spec).remove()
        return self._trained(self._runner(replay_gb=replay_gb).execute(spec))

    def _trained(self, outcome: Outcome) -> Trained:
        run, train = outcome.run, outcome.result["train"]
        state, _ = read_weights(run.weights)
        steps = run.spec.epochs_trained * math.ceil(run.spec.dataset.num_train_examples / run.spec.recipe.batch_size)
        return Trained(
            (run.weights.read_bytes(), (run.directory / "metrics.jsonl").read_bytes()),
            torch.cat([tensor.double().flatten() for tensor in state.values()]),
            run.rows()[0]["train"]["loss"],
            None if self._captured else train["seconds"] / steps,
        )


def _distance(first: Trained, second: Trained) -> float:
    """Relative difference (L2) of all weights."""
    return float((first.weights - second.weights).norm() / first.weights.norm())


def _divergence(found: Tensor, expected: Tensor) -> float:
    """KL divergence of logits `[N, K]`, in nats per example, all scaled so that the expected ones deviate by 2."""
    q, p = ((logits * (2 / expected.std())).log_softmax(dim=1) for logits in (found, expected))
    return abs(nn.functional.kl_div(q, p, log_target=True, reduction="batchmean").item())


def _compared(first: Trained, second: Trained) -> str:
    if first.bits == second.bits:
        return EQUAL
    if first.bits[0] == second.bits[0]:
        return "equal weights, other metrics"
    return f"weights {_distance(first, second):.1e} apart"
