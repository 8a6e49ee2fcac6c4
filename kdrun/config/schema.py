"""Types, defaults and ranges of the options outside components; `Recipe` and `DatasetSpec` are in `kdrun.spec`."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from typing import Any, Literal

from kdrun.experiment.runtime import Computation
from kdrun.limits import MOST_EPOCHS

MOST_TEACHERS = 100
"""Seeds of a teacher, at most."""


@dataclass(frozen=True)
class RootOptions:
    """The top level of the config; its nodes are checked separately.

    Attributes:
        seed: from 0 to 2^32 - 1.
        stop_epoch: an integer, or a fraction of `recipe.epochs`; None trains through.
        start: `teacher`: the student begins with the teacher's weights; None is from the seed.
        evaluation: evaluations of finished runs, `_target_` nodes by name; not part of a spec.
    """

    dataset: Any
    recipe: Any
    student: Any
    teacher: Any
    method: Any
    runtime: Any
    seed: int = 0
    stop_epoch: Any = None
    start: Literal["teacher"] | None = None
    evaluation: Mapping[str, Any] = field(default_factory=dict)


@dataclass(frozen=True)
class Selection:
    """The part of a dataset that is trained on: fields of `DatasetSpec`, and `drop_classes`."""

    train_fraction: float = 1.0
    val_fraction: float = 0.0
    classes: tuple[int, ...] | None = None
    drop_classes: tuple[int, ...] | None = None


@dataclass(frozen=True)
class TeacherOptions:
    """The options of a teacher node beside its network's.

    Attributes:
        dataset: the part of its dataset that it is trained on.
        recipe: as the run's own.
        method: a `_target_` node: the teacher's method.
        seeds: one teacher per seed; None is the run's own seed.
        stop_epoch: an integer, or a fraction of its `recipe.epochs`.
        checkpoint: a file with weights of the user's own.
        teacher: the network of the teacher's own teacher, where `method` needs one.
        trained_on: its dataset, a `_target_` node; None is the run's own.
        also: networks of further teachers by any name, for a method that takes several.
    """

    dataset: Selection
    recipe: Any
    method: Any
    seeds: tuple[int, ...] | None = None
    stop_epoch: Any = None
    checkpoint: str | None = None
    teacher: Any = None
    trained_on: Any = None
    also: Mapping[str, Any] = field(default_factory=dict)

    def __post_init__(self) -> None:
        if self.seeds is not None:
            if not 0 < len(self.seeds) <= MOST_TEACHERS:
                shown = f"a list of {len(self.seeds)}" if self.seeds else "[]"
                raise ValueError(f"seeds={shown}: must be null or at least one seed and at most {MOST_TEACHERS}")
            try:
                check_seeds(self.seeds)
            except ValueError as error:
                raise ValueError(f"seeds={error}") from error


@dataclass(frozen=True, kw_only=True)
class RuntimeOptions(Computation):
    """Where and how a run computes, as in the config.

    Attributes:
        device: auto, cpu, cuda, cuda:N or mps.
        devices: on which runs are executed side by side: names, or numbers of CUDA devices; `all` is every CUDA device;
            None is one run after the other on `device`.
        precision: auto, fp32 or bf16.
        output_root: where runs and sweeps are written.
    """

    device: str = "auto"
    devices: Literal["all"] | tuple[int | str, ...] | None = None
    precision: str = "auto"
    output_root: str = "outputs"


def check_seeds(seeds: Sequence[int]) -> None:
    """Raises `ValueError` unless all seeds are from 0 to 2^32 - 1."""
    for seed in seeds:
        if not 0 <= seed < 2**32:
            raise ValueError(f"{seed}: must be from 0 to {2**32 - 1}")


def resolve_stop_epoch(value: int | float | None, epochs: int) -> int | None:
    """The epoch at which training stops; None where that is the end of the schedule.

    A fraction is rounded, to at least one epoch; the integer 0 is the network as initialised.

    Raises:
        ValueError: an integer outside 0..epochs, or a fraction outside (0, 1).
    """
    if value is None:
        return None
    if isinstance(value, bool) or not isinstance(value, int | float):
        raise ValueError(f"stop_epoch={value!r}: must be null, an integer, or a fraction of recipe.epochs")
    stop = max(1, round(value * epochs)) if isinstance(value, float) and 0 < value < 1 else value
    if isinstance(stop, float) or not 0 <= stop <= epochs:
        raise ValueError(f"stop_epoch={value}: must be an integer from 0 to {epochs}, or a fraction of it in (0, 1)")
    return None if stop == epochs else stop


def resolve_stage1_epochs(value: Any, epochs: int) -> int:
    """The epochs of a first stage: an integer is their number, a float a multiple of `epochs`, at least one.

    Raises:
        ValueError: an integer below 0, a number with a point not above 0, or more than `MOST_EPOCHS` epochs.
    """
    if type(value) is int and 0 <= value <= MOST_EPOCHS:
        return value
    if type(value) is float and 0 < value * epochs <= MOST_EPOCHS:
        return max(1, round(value * epochs))
    raise ValueError(
        f"stage1_epochs={value!r}: must be an integer, a number of epochs (0: one stage), or a number with a point "
        f"above 0, a multiple of recipe.epochs (0.5); at most {MOST_EPOCHS} epochs"
    )
