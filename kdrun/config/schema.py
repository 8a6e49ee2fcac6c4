"""The options that are not a component's: their types, defaults and ranges. `Recipe` and `DatasetSpec` are in spec."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any


@dataclass(frozen=True)
class RootOptions:
    """The top of the config. Nodes with a `_target_`, and the teacher, are checked apart.

    Attributes:
        seed: from 0 to 2^32 - 1.
        stop_epoch: an integer, or a fraction of `recipe.epochs`; None trains through.
    """

    dataset: Any
    recipe: Any
    student: Any
    teacher: Any
    method: Any
    runtime: Any
    seed: int = 0
    stop_epoch: int | float | None = None

    def __post_init__(self) -> None:
        if not 0 <= self.seed < 2**32:
            raise ValueError(f"seed={self.seed}: must be from 0 to {2**32 - 1}")


@dataclass(frozen=True)
class TeacherOptions:
    """What a teacher node has beside its network.

    Attributes:
        recipe: as the run's own.
        method: a `_target_` node: how the teacher learned.
        seeds: one teacher per seed; None is the run's own seed.
        stop_epoch: an integer, or a fraction of its `recipe.epochs`.
        checkpoint: a file with weights of the user's own.
    """

    recipe: Any
    method: Any
    seeds: tuple[int, ...] | None = None
    stop_epoch: int | float | None = None
    checkpoint: str | None = None

    def __post_init__(self) -> None:
        if self.seeds is not None and not (self.seeds and all(0 <= seed < 2**32 for seed in self.seeds)):
            raise ValueError(f"seeds={list(self.seeds)}: must be null or at least one seed from 0 to {2**32 - 1}")


@dataclass(frozen=True)
class RuntimeOptions:
    """Where and how a run computes.

    Attributes:
        device: auto, cpu, cuda, cuda:N or mps.
        precision: auto, fp32 or bf16.
        output_root: where runs and sweeps are written.
        threads: CPU threads; None takes all, or one where a step is too small to share.
    """

    device: str = "auto"
    precision: str = "auto"
    output_root: str = "outputs"
    threads: int | None = None

    def __post_init__(self) -> None:
        if self.threads is not None and self.threads < 1:
            raise ValueError(f"threads={self.threads}: must be null or at least 1")


def resolve_stop_epoch(value: int | float | None, epochs: int) -> int | None:
    """The epoch at which training stops; None where that is the end of the schedule.

    Raises:
        ValueError: an integer outside 0..epochs, or a fraction outside (0, 1).
    """
    if value is None:
        return None
    stop = round(value * epochs) if isinstance(value, float) and 0 < value < 1 else value
    if isinstance(stop, float) or not 0 <= stop <= epochs:
        raise ValueError(f"stop_epoch={value}: must be an integer from 0 to {epochs}, or a fraction of it in (0, 1)")
    return None if stop == epochs else stop
