"""Every option of every method has an effect, and a wrong value is refused by name; methods are found by themselves."""

import copy
import inspect
import itertools
import re

import pytest
import torch
import yaml
from torch import nn

from kdrun.config.compose import config_directory
from kdrun.methods import KD, Batch, Method, Pair, TrainingSet
from kdrun.methods.facts import INJECTED
from kdrun.spec.components import resolve
from kdrun.spec.signature import bind
from tests.methods.small import LABELS, K, N, X, answer, network, outline_of

NODES = [yaml.safe_load(path.read_text()) for path in sorted((config_directory() / "method").glob("*.yaml"))]
METHODS = {resolve(node["_target_"]): node for node in NODES}
POOL = [True, False, 1, 2, 3, 0.25, 0.5, 5.0, "layer1", ("stem", "layer1"), (0.25,), {"kd": {}}]
"""Values to try; those of another type than the option's are left out, and names are added that a refusal lists."""
WRONG = [-1, "nonsense", ("nonsense",), (2.0,)]


STUDENT = network(0, 4, 6, 8)
TEACHERS = {"equal": network(1, 4, 6, 8, depth=2).eval(), "wide": network(1, 8, 6, 12, depth=2).eval()}


def built(kind: type[Method], teacher: nn.Module, options: dict) -> Method:
    shapes = [outline_of(net) for net in (STUDENT, teacher)]
    given = {"pair": Pair(*shapes, fresh=lambda: network(3, 4, 6, 8)), "training": TrainingSet(LABELS, N, K)}
    given = {name: value for name, value in given.items() if name in inspect.signature(kind).parameters}
    with torch.random.fork_rng():
        torch.manual_seed(2)
        return kind(copy.deepcopy(STUDENT), **given, **options)


def observed(kind: type[Method], teacher: nn.Module, options: dict) -> list:
    """What a run would notice of a method: its needs, its stages, and losses and gradients of two steps in each."""
    method = built(kind, teacher, options)
    found: list = [method.needs, method.taps, method.stage1_epochs, method.stage1_recipe()]
    for stage, step in itertools.product(range(2 if method.stage1_epochs else 1), range(2)):
        if stage > method.stage:
            method.begin_stage2()
        generator = torch.Generator().manual_seed(step)
        batch = Batch(X, LABELS, torch.arange(N), epoch=0, step=step, progress=0.5, generator=generator)
        method.zero_grad()
        loss = method(batch, answer(teacher)).loss
        assert loss.isfinite(), "two that are no numbers are never equal"
        loss.backward()
        found += [loss.item(), *(p.grad.sum().item() for p in method.parameters() if p.grad is not None)]
    return found


def options_of(kind: type[Method]) -> list[str]:
    return [name for name in inspect.signature(kind).parameters if name not in INJECTED]


def fitting(kind: type[Method], option: str, values: list) -> list:
    """Those of the values that have the option's type."""
    others = inspect.signature(kind).parameters.keys() - {option}
    return [value for value in values if option in bind(kind, {option: value}, "", [], injected=others)]


def refusal(kind: type[Method], options: dict) -> str:
    """The first line of the refusal of these options; empty where they are accepted."""
    try:
        built(kind, TEACHERS["equal"], options)
    except ValueError as error:
        return str(error).splitlines()[0]
    return ""


def forms(kind: type[Method], node: dict) -> list[dict]:
    """The options that must be given, once for each number of stages that the method can have."""
    needed = {name: value for name, value in node.items() if name == "terms"}
    if "stage1_epochs" not in options_of(kind):
        return [needed]
    has_one = "stage1_epochs" in kind.defaults()
    return [{**needed, "stage1_epochs": epochs} for epochs in ((0, 2) if has_one else (2,))]


def idle_options(kind: type[Method], node: dict) -> list[str]:
    """Options of which no other value than the default changes anything, but those that decide about teachers."""
    found = []
    settings = [(form, teacher) for form in forms(kind, node) for teacher in TEACHERS.values()]
    usual = [_observed_or_none(kind, teacher, form) for form, teacher in settings]
    for option in options_of(kind):
        names = fitting(kind, option, ["nonsense"]) and refusal(kind, {**forms(kind, node)[-1], option: "nonsense"})
        listed = re.search(r"must be one of (.*)", names or "")
        values = fitting(kind, option, [*POOL, *(listed[1].split(", ") if listed else ())])
        acts = any(
            (other := _observed_or_none(kind, teacher, {**form, option: value})) is not None and other != before
            for value in values
            for (form, teacher), before in zip(settings, usual, strict=True)
        )
        found += [] if acts else [option]
    return [option for option in found if option not in kind.of_teachers]


def _observed_or_none(kind: type[Method], teacher: nn.Module, options: dict) -> list | None:
    try:
        return observed(kind, teacher, options)
    except ValueError:
        return None


@pytest.mark.parametrize(("kind", "node"), METHODS.items(), ids=[kind.name for kind in METHODS])
def test_every_option_of_a_method_has_an_effect(kind, node):
    assert idle_options(kind, node) == []


def test_an_option_without_effect_is_found():
    class Idle(KD):
        name = "idle"

        def __init__(self, student: nn.Module, *, temperature: float = 4.0, depth: int = 3) -> None:
            super().__init__(student, temperature=temperature)

    assert idle_options(Idle, {}) == ["depth"]


@pytest.mark.parametrize(("kind", "node"), METHODS.items(), ids=[kind.name for kind in METHODS])
def test_a_wrong_value_is_refused_by_the_name_of_its_option(kind, node):
    """A number out of range, none at all, a name that does not exist: those of an option's type."""
    for option in options_of(kind):
        for value in [*fitting(kind, option, WRONG), *([float("nan")] if fitting(kind, option, [0.5]) else [])]:
            said = refusal(kind, {**forms(kind, node)[-1], option: value})
            assert said.startswith(f"{option}="), (option, value, said)
