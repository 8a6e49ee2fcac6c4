"""The search space of `kdrun search`: what is drawn from, and what is checked before."""

from types import SimpleNamespace

import pytest

from kdrun.config.compose import hydra_session
from kdrun.config.space import Dimension, Space, read_space


def read(*overrides: str) -> tuple[Space, list[str]]:
    problems: list[str] = []
    with hydra_session():
        return read_space(overrides, problems, extra=None), problems


@pytest.mark.parametrize(
    ("text", "expected", "ends"),
    [
        ("method.alpha=interval(0.1,0.9)", Dimension("method.alpha", 0.1, 0.9), ("0.1", "0.9")),
        ("method.alpha=interval(0,1)", Dimension("method.alpha", 0.0, 1.0), ("0.0", "1.0")),
        ("recipe.epochs=int(interval(2,9))", Dimension("recipe.epochs", 2, 9, step=1), ("2", "9")),
        ("recipe.lr=tag(log,interval(1e-3,1))", Dimension("recipe.lr", 0.001, 1.0, log=True), ("0.001", "1.0")),
        ("recipe.epochs=range(2,9,3)", Dimension("recipe.epochs", 2, 8, step=3), ("2", "8")),
        ("recipe.epochs=range(9,2,-3)", Dimension("recipe.epochs", 3, 9, step=3), ("3", "9")),
        ("method.alpha=range(0,1,0.5)", Dimension("method.alpha", values=("0.0", "0.5")), ("0.0", "0.5")),
        ("method=kd,at", Dimension("method", values=("kd", "at")), ("kd", "at")),
        ("+x.y=choice([1,2],'a b',1)", Dimension("+x.y", values=("[1,2]", "a\\ b", "1")), ("[1,2]", "a\\ b", "1")),
        ("student=glob(resnet8*)", Dimension("student", values=("resnet8", "resnet8x4")), ("resnet8", "resnet8x4")),
    ],
)
def test_a_swept_override_is_a_dimension(text, expected, ends):
    space, problems = read(text)
    assert problems == []
    assert space.words == (expected,)
    assert expected.ends == ends


@pytest.mark.parametrize(
    "text",
    [
        "a=interval(2,1)",
        "a=interval(1,1)",
        "a=interval(0,inf)",
        "a=interval(nan,1)",
        "a=tag(log,interval(0,1))",
        "a=tag(log,choice(1,2))",
        "a=tag(other,interval(1,2))",
        "a=range(1,1)",
        "a=range(0,1000000)",
        "a b",
    ],
)
def test_a_bad_range_is_a_problem_by_its_text(text):
    (problem,) = read("b=1,2", text)[1]
    assert problem.startswith(f"{text}: ")


def test_overrides_keep_their_order_and_every_end_is_checked_once():
    space, problems = read("a=1,2,3", "b=0", "c=interval(0,1)", "d=choice(x)")
    assert problems == []
    assert space.overrides({"a": "2", "c": "0.5"}) == ["a=2", "b=0", "c=0.5", "d=x"]
    assert space.corners() == [
        {"a": "1", "c": "0.0"},
        {"a": "2", "c": "0.0"},
        {"a": "3", "c": "0.0"},
        {"a": "1", "c": "1.0"},
    ]
    assert read("a=1,2", "a=3")[1] == ["a: is searched and given again"]
    assert len(read("a=1")[1]) == 1


def test_a_drawn_value_is_an_override():
    space, _ = read("a=interval(0,1)", "b=int(interval(1,5))", "c='x y',z")
    drawn = SimpleNamespace(
        suggest_float=lambda *_, **options: 0.123456 if options == {"log": False} else None,
        suggest_int=lambda *_, **options: 3 if options == {"log": False, "step": 1} else None,
        suggest_categorical=lambda _, values: values[0],
    )
    assert [each.suggest(drawn) for each in space.dimensions] == ["0.1235", "3", "'x y'"]
    narrow = Dimension("a", 0.333333, 0.333334)
    assert narrow.suggest(SimpleNamespace(suggest_float=lambda *_, **__: 0.3333333)) == "0.333333"
