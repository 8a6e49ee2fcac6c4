"""The checks by name, a check that is still to be run, and a line of the table."""

from __future__ import annotations

import dataclasses
from collections.abc import Callable
from dataclasses import dataclass
from typing import Any

STEP, LOCKSTEP, REPLAY, RESUME = "ordinary steps", "lockstep", "cached logits", "resume"
FOLDED, GRAPHED, BF16, OPTIMISER = "folded teacher", "captured teacher", "bf16", "fused optimiser"
CAPTURED, COMPILED, BOTH = "captured steps", "compiled steps", "compiled and captured steps"
REDUCED, AUTOTUNED = "reduce-overhead", "max-autotune"

QUESTIONS = {
    STEP: "a run of ordinary steps, and the same run again",
    LOCKSTEP: "a run in a group of runs, and alone",
    REPLAY: "a run on cached logits of its teacher, and on computed ones",
    RESUME: "a run resumed from a checkpoint, and uninterrupted",
    FOLDED: "a teacher's logits with BatchNorm folded, and of its network in fp32",
    GRAPHED: "a teacher's logits from a captured graph, and of its network in fp32",
    BF16: "mean training loss of the first epoch in bf16, and in fp32",
    OPTIMISER: "weights after 10 steps of the fused optimiser, and of one operation after the other",
    CAPTURED: "weights and loss after some steps that are replayed, and ordinary ones",
    COMPILED: "weights and loss after some compiled steps, and ordinary ones",
    BOTH: "weights and loss after some compiled and captured steps, and ordinary ones",
    REDUCED: "the same with torch.compile(mode='reduce-overhead'), which runs do not use",
    AUTOTUNED: "the same with torch.compile(mode='max-autotune'), which runs do not use",
}
"""What each check compares, in the order of the table."""

REPORT = "please report this table"
ADVICE = {
    STEP: f"nothing can be trained on this device as it is: {REPORT}",
    LOCKSTEP: "runtime.sweep=one_by_one",
    REPLAY: "runtime.replay_gb=0",
    RESUME: f"do not interrupt runs here; {REPORT}",
    FOLDED: f"{REPORT}; in bf16: runtime.precision=fp32",
    GRAPHED: "runtime.cuda_graphs=off",
    BF16: "runtime.precision=fp32",
    OPTIMISER: f"{REPORT}; no option turns it off",
    CAPTURED: "runtime.cuda_graphs=off, though runs notice it themselves",
    COMPILED: "runtime.compile=off, though runs notice it themselves",
    BOTH: "runtime.cuda_graphs=off or runtime.compile=off, though runs notice it themselves",
}
"""What to do where a check fails."""


@dataclass(frozen=True)
class Row:
    """The outcome of one check on one case.

    Attributes:
        check: its name, a key of `QUESTIONS`.
        case: network and method.
        expected: a condition.
        found: the outcome.
        agrees: whether the condition holds; None where the case cannot be computed in this way, by its nature.
        ordinary_seconds: of an ordinary step, where they were measured.
        fast_seconds: of a step of the fast way.
    """

    check: str
    case: str
    expected: str
    found: str
    agrees: bool | None
    ordinary_seconds: float | None = None
    fast_seconds: float | None = None

    def record(self) -> dict[str, Any]:
        """Plain values; `advice` where it fails."""
        advice = {"advice": ADVICE[self.check]} if self.agrees is False else {}
        return {**dataclasses.asdict(self), **advice}


@dataclass(frozen=True)
class Unit:
    """A check that is still to be run.

    Attributes:
        check: its name.
        case: network and method.
        run: returns its rows; an exception is a failed check.
    """

    check: str
    case: str
    run: Callable[[], list[Row]]

    @property
    def title(self) -> str:
        return f"{self.check}: {self.case}"
