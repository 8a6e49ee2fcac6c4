"""A line of the doctor's table."""

from __future__ import annotations

import dataclasses
from dataclasses import dataclass
from typing import Any

STEP, LOCKSTEP, REPLAY, RESUME = "ordinary steps", "lockstep", "cached logits", "resume"
FOLDED, BF16, OPTIMISER = "folded teacher", "bf16", "fused optimiser"

QUESTIONS = {
    STEP: "a run of ordinary steps, and the same run again",
    LOCKSTEP: "a run in a group of runs, and alone",
    REPLAY: "a run on cached logits of its teacher, and on computed ones",
    RESUME: "a run resumed from a checkpoint, and uninterrupted",
    FOLDED: "a teacher's logits with BatchNorm folded, and of its network in fp32",
    BF16: "mean training loss of the first epoch in bf16, and in fp32",
    OPTIMISER: "weights after 10 steps of the fused optimiser, and of one operation after the other",
}
"""What each check compares."""

ADVICE = {
    STEP: "nothing can be trained on this device as it is: please report this table",
    LOCKSTEP: "runtime.sweep=one_by_one",
    REPLAY: "runtime.replay_gb=0",
    RESUME: "do not interrupt runs here; please report this table",
    FOLDED: "runtime.precision=fp32 if the run is in bf16; else please report this table",
    BF16: "runtime.precision=fp32",
    OPTIMISER: "please report this table; there is no option for it",
}
"""What to do where a check fails."""


@dataclass(frozen=True)
class Row:
    """The outcome of one check on one case.

    Attributes:
        check: its name, a key of `QUESTIONS`.
        case: what it was tried on.
        expected: a condition.
        found: what came out.
        agrees: whether the condition holds; None where the check was left out.
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
