"""Which tap of the student goes with which of the teacher: as named, or by default as the networks suggest."""

from __future__ import annotations

import math
from collections.abc import Callable, Mapping, Sequence

from kdrun.methods.base import Pair
from kdrun.taps import Outline, Shape

Taps = tuple[str, ...]
KINDS = {3: "a feature map [C, H, W]", 1: "a vector [C]"}
"""Of what modules return, by the number of its dimensions for one image."""


def one_tap(
    pair: Pair, student_tap: str | None, teacher_tap: str | None, default: Callable[[Outline], str]
) -> tuple[str, str]:
    """The student's tap and the teacher's; where one is named, the other is its namesake.

    Args:
        pair: of the networks.
        student_tap: as the user named it, or None.
        teacher_tap: as the user named it, or None.
        default: a network's tap where none was named of either.

    Raises:
        ValueError: no such tap, no default, or a name that the other network does not have.
    """
    for option, tap, network in (
        ("student_tap", student_tap, pair.student),
        ("teacher_tap", teacher_tap, pair.teacher),
    ):
        if tap is not None:
            shape_at(option, tap, network)
    if student_tap is None:
        if teacher_tap is None:
            return _default("student_tap", pair.student, default), _default("teacher_tap", pair.teacher, default)
        return _namesake("student_tap", teacher_tap, pair.teacher, pair.student), teacher_tap
    if teacher_tap is None:
        return student_tap, _namesake("teacher_tap", student_tap, pair.student, pair.teacher)
    return student_tap, teacher_tap


def _default(option: str, network: Outline, default: Callable[[Outline], str]) -> str:
    try:
        return default(network)
    except ValueError as error:
        raise ValueError(f"{option}=None: {error}; name another tap") from None


def stage_ends(pair: Pair, smallest: int = 1) -> tuple[Taps, Taps]:
    """The feature maps where the stages of both networks end.

    One by one where both have as many; else each of the fewer with the one of the nearest size, in order.

    Args:
        pair: of the networks.
        smallest: the least number of positions (height times width) of a map.

    Raises:
        ValueError: a network has no such map.
    """
    ends = []
    for role, network in (("student", pair.student), ("teacher", pair.teacher)):
        areas = {tap: math.prod(network.shape(tap)[1:]) for tap in network.maps}
        ends.append({tap: area for tap, area in areas.items() if area >= smallest})
        if not ends[-1]:
            raise ValueError(
                f"{role}={network.name}: has no feature maps [C, H, W] of at least {smallest} "
                f"position{'' if smallest == 1 else 's'}; fitnet, rkd and sp take vectors as well, and methods on "
                "responses (kd, dkd, ...) need no features"
            )
    ours, theirs = ends
    few, many = (ours, theirs) if len(ours) < len(theirs) else (theirs, ours)
    matched = _nearest(list(few.values()), many)
    return (tuple(ours), matched) if few is ours else (matched, tuple(theirs))


def _nearest(areas: Sequence[int], maps: Mapping[str, int]) -> Taps:
    """For each area the map of the nearest one, from the last to the first, each after the one before it."""
    names, found = list(maps), []
    for before, area in reversed(list(enumerate(areas))):
        best = min(range(before, len(names)), key=lambda at: (abs(math.log(maps[names[at]] / area)), -at))
        found.append(names[best])
        names = names[:best]
    return tuple(reversed(found))


def pooled_notice(pair: Pair, student_taps: Taps, teacher_taps: Taps) -> tuple[str, ...]:
    """One line where maps of different sizes are compared: the larger one is average-pooled first; else none."""
    differing = []
    for ours, theirs in zip(student_taps, teacher_taps, strict=True):
        sizes = [network.shape(tap)[1:] for network, tap in ((pair.student, ours), (pair.teacher, theirs))]
        if sizes[0] != sizes[1]:
            here, there = (" x ".join(map(str, size)) for size in sizes)
            differing.append(f"{ours} {here} with the teacher's {theirs} {there}")
    return (f"maps of different sizes, the larger one average-pooled: {'; '.join(differing)}",) if differing else ()


def map_taps(
    pair: Pair,
    student_taps: Taps | None,
    teacher_taps: Taps | None,
    default: Callable[[Pair], tuple[Taps, Taps]] = stage_ends,
) -> tuple[Taps, Taps]:
    """The student's feature maps and the teacher's, as many of one as of the other.

    Args:
        pair: of the networks.
        student_taps: as the user named them, or None.
        teacher_taps: as the user named them, or None; where one side is named, the other are the namesakes.
        default: the taps of both where none were named.

    Raises:
        ValueError: no such tap, no feature map, too few of them, more of one network than of the other, or a name that
            the other network does not have.
    """
    for option, taps, network in (
        ("student_taps", student_taps, pair.student),
        ("teacher_taps", teacher_taps, pair.teacher),
    ):
        if taps is not None:
            _check_maps(option, taps, network)
    if student_taps is None:
        if teacher_taps is None:
            return default(pair)
        return tuple(_namesake("student_taps", tap, pair.teacher, pair.student) for tap in teacher_taps), teacher_taps
    if teacher_taps is None:
        return student_taps, tuple(_namesake("teacher_taps", tap, pair.student, pair.teacher) for tap in student_taps)
    if len(student_taps) != len(teacher_taps):
        raise ValueError(
            f"student_taps={list(student_taps)} and teacher_taps={list(teacher_taps)}: each tap needs its counterpart, "
            f"got {len(student_taps)} and {len(teacher_taps)}"
        )
    return student_taps, teacher_taps


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
        raise ValueError(f"{option}=[]: must have one feature map [C, H, W] at least, or be null")
    for tap in taps:
        shape = shape_at(option, tap, network)
        if len(shape) != 3:
            raise ValueError(f"{option}={tap!r}: must be a feature map [C, H, W], and is {list(shape)}")


def _namesake(option: str, tap: str, named: Outline, other: Outline) -> str:
    """The tap of the other network that is called as one that was named, and returns the same kind of thing.

    Raises:
        ValueError: there is none, so the option must name one.
    """
    dimensions = len(named.shape(tap))
    if len(other.taps.get(tap, ())) != dimensions:
        kind = KINDS.get(dimensions, f"of {dimensions} dimensions")
        raise ValueError(
            f"{option}: say {'them' if option.endswith('s') else 'it'} too, since {other.name} has no {tap!r} that is "
            f"{kind}, as that of {named.name}"
        )
    return tap
