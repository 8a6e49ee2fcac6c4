"""Which tap of the student goes with which of the teacher: as named, or by default as the networks suggest."""

from __future__ import annotations

from collections.abc import Callable, Sequence

from kdrun.methods.base import Pair
from kdrun.taps import Outline, Shape

Taps = tuple[str, ...]


def one_tap(
    pair: Pair, student_tap: str | None, teacher_tap: str | None, default: Callable[[Outline], str]
) -> tuple[str, str]:
    """The student's tap and the teacher's.

    Args:
        pair: of the networks.
        student_tap: as the user named it, or None.
        teacher_tap: as the user named it, or None.
        default: a network's tap where none was named.

    Raises:
        ValueError: no such tap, or no default.
    """
    return (
        _named("student_tap", student_tap, pair.student, default),
        _named("teacher_tap", teacher_tap, pair.teacher, default),
    )


def _named(option: str, tap: str | None, network: Outline, default: Callable[[Outline], str]) -> str:
    if tap is None:
        try:
            return default(network)
        except ValueError as error:
            raise ValueError(f"{option}=None: {error}; name another tap") from None
    shape_at(option, tap, network)
    return tap


def map_taps(
    pair: Pair,
    student_taps: Taps | None,
    teacher_taps: Taps | None,
    default: Callable[[Outline], Sequence[str]] = lambda network: network.maps,
) -> tuple[Taps, Taps]:
    """The student's feature maps and the teacher's, as many of one as of the other.

    Args:
        pair: of the networks.
        student_taps: as the user named them, or None.
        teacher_taps: as the user named them, or None.
        default: a network's where none were named; the last of them are taken, as many as both have.

    Raises:
        ValueError: no such tap, no feature map, none at all, or more of one than of the other.
    """
    student = tuple(default(pair.student)) if student_taps is None else student_taps
    teacher = tuple(default(pair.teacher)) if teacher_taps is None else teacher_taps
    _check_maps("student_taps", student, pair.student)
    _check_maps("teacher_taps", teacher, pair.teacher)
    shared = min(len(student), len(teacher))
    if student_taps is None:
        student = student[-shared:]
    if teacher_taps is None:
        teacher = teacher[-shared:]
    if len(student) != len(teacher):
        raise ValueError(
            f"student_taps={list(student)} and teacher_taps={list(teacher)}: each tap needs its counterpart, "
            f"got {len(student)} and {len(teacher)}"
        )
    return student, teacher


def shape_at(option: str, tap: str, network: Outline) -> Shape:
    """The shape at a tap that the user named.

    Raises:
        ValueError: there is none, with the option's name.
    """
    try:
        return network.shape(tap)
    except ValueError as error:
        raise ValueError(f"{option}={error}") from None


def _check_maps(option: str, taps: Taps, network: Outline) -> None:
    if not taps:
        raise ValueError(f"{option}=[]: must be feature maps [C, H, W], and {network.name} offers too few")
    for tap in taps:
        shape = shape_at(option, tap, network)
        if len(shape) != 3:
            raise ValueError(f"{option}={tap!r}: must be a feature map [C, H, W], and is {list(shape)}")
