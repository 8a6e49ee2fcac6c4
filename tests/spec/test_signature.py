"""A typed signature as schema: what binds, how it is normalised, and what is told of what does not."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from typing import Any

import pytest

from kdrun.spec.signature import bind, construct, unknown, without_defaults


@dataclass(frozen=True)
class Inner:
    size: int = 3
    share: float = 0.5

    def __post_init__(self) -> None:
        if self.size < 0:
            raise ValueError(f"size={self.size}: must be at least 0\nand a second line")


@dataclass(frozen=True)
class Outer:
    count: int
    rate: float = 0.1
    flag: bool = False
    name: str = "x"
    values: tuple[float, ...] = (1.0, 2.0)
    stop: int | float | None = None
    seeds: tuple[int, ...] | None = None
    inner: Inner = Inner()
    anything: Any = None


class Network:
    def __init__(self, num_classes: int, *, width: int, bias: bool = True) -> None: ...


def function(num_classes: int, /, width: int = 4, *rest: int, depth: float = 1.0, **more: int) -> None: ...


def bound(target: Callable[..., Any], values: dict[str, Any], **options: Any) -> dict[str, Any]:
    """What binds without a problem."""
    problems: list[str] = []
    result = bind(target, values, "node", problems, **options)
    assert problems == []
    return result


def told(values: dict[str, Any]) -> list[str]:
    problems: list[str] = []
    assert construct(Outer, values, "node", problems) is None
    return problems


def test_values_become_what_the_annotation_says():
    found = bound(
        Outer,
        {"count": 2, "rate": 1, "values": [1, 0.5], "stop": 0.25, "seeds": [3], "inner": {"share": 1}, "anything": {}},
    )
    assert found == {
        "count": 2,
        "rate": 1.0,
        "values": (1.0, 0.5),
        "stop": 0.25,
        "seeds": (3,),
        "inner": Inner(share=1.0),
        "anything": {},
    }
    assert [type(value) for value in (found["rate"], found["values"][0], found["inner"].share)] == [float] * 3
    assert type(bound(Outer, {"count": 1, "stop": 3})["stop"]) is int, "the first type that fits"
    assert bound(Outer, {"count": 1, "seeds": None}) == {"count": 1, "seeds": None}


@pytest.mark.parametrize(
    ("value", "problem"),
    [
        ({"count": True}, "node.count=True: must be an integer"),
        ({"count": 2.0}, "node.count=2.0: must be an integer"),
        ({"count": None}, "node.count=None: must be an integer"),
        ({"rate": True}, "node.rate=True: must be a finite number"),
        ({"rate": float("nan")}, "node.rate=nan: must be a finite number"),
        ({"rate": float("-inf")}, "node.rate=-inf: must be a finite number"),
        ({"rate": "0.1"}, "node.rate='0.1': must be a finite number"),
        ({"flag": 1}, "node.flag=1: must be true or false"),
        ({"name": 3}, "node.name=3: must be text"),
        ({"values": 0.5}, "node.values=0.5: must be a list, each item a finite number"),
        ({"values": "12"}, "node.values='12': must be a list, each item a finite number"),
        ({"values": [0.5, "a"]}, "node.values[1]='a': must be a finite number"),
        ({"stop": "soon"}, "node.stop='soon': must be an integer or a finite number or null"),
        ({"stop": True}, "node.stop=True: must be an integer or a finite number or null"),
        ({"seeds": 3}, "node.seeds=3: must be a list, each item an integer or null"),
        ({"inner": 3}, "node.inner=3: must be a group of options"),
        ({"inner": {"siez": 3}}, "node.inner.siez: no such option; did you mean size? Allowed: share, size"),
        ({"inner": {"size": -1}}, "node.inner.size=-1: must be at least 0"),
        ({"cuont": 3}, "node.cuont: no such option; did you mean count?"),
    ],
    ids=str,
)
def test_a_value_that_does_not_fit_is_told(value, problem):
    problems = told({"count": 1, **value})
    assert problems[0].startswith(problem)
    assert len(problems) == (2 if "at least 0" in problem else 1), "each line of a ValueError is a problem"


def test_all_faults_are_told_at_once():
    assert told({"rate": "a", "flag": "b", "foo": 1}) == [
        "node.rate='a': must be a finite number",
        "node.flag='b': must be true or false",
        "node.foo: no such option; Allowed: anything, count, flag, inner, name, rate, seeds, stop, values",
        "node.count: is missing and has no default",
    ]
    assert told({}) == ["node.count: is missing and has no default"]


def test_what_the_program_supplies_cannot_be_set():
    assert bound(Network, {"width": 3}, injected=("num_classes",)) == {"width": 3}
    problems: list[str] = []
    bind(Network, {"width": 3, "num_classes": 5}, "", problems, injected=("num_classes",))
    assert problems == ["num_classes: no such option; Allowed: bias, width"]


def test_only_parameters_that_have_a_keyword_can_be_set():
    assert bound(function, {"width": 3, "depth": 2}) == {"width": 3, "depth": 2.0}
    problems: list[str] = []
    bind(function, {"rest": 1, "more": 2, "num_classes": 3}, "f", problems)
    assert [problem.partition(":")[0] for problem in problems] == ["f.rest", "f.more", "f.num_classes"]


def test_defaults_are_left_out_after_normalising():
    values = bound(Outer, {"count": 1, "rate": 0.1, "values": [1, 2], "inner": {}, "flag": True})
    assert without_defaults(Outer, values) == {"count": 1, "flag": True}


def test_construct_builds_the_object():
    assert construct(Outer, {"count": 1, "inner": {"size": 0}}, "", []) == Outer(1, inner=Inner(0))


def test_the_nearest_spelling_is_told_where_there_is_one():
    assert unknown("tempreature", ["alpha", "temperature"], "key") == (
        "no such key; did you mean temperature? Allowed: alpha, temperature"
    )
    assert unknown("zzz", ["b", "a"], "option") == "no such option; Allowed: a, b"
    assert unknown("x", ["10", "2", "b", "1"], "class").endswith("Allowed: 1, 2, 10, b")
    assert unknown("zzz", [], "option") == "no such option; Allowed: none"
