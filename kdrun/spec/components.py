"""The objects that `_target_`s name: the allow-list, and their options."""

from __future__ import annotations

import dataclasses
import importlib
import inspect
import os
import typing
from collections.abc import Callable, Mapping
from typing import Any

from torch import nn

from kdrun.methods import Method as Method
from kdrun.methods import Weights as Weights
from kdrun.methods import shipped_methods as shipped_methods  # how tables reach it
from kdrun.methods.facts import INJECTED as METHOD_INJECTED
from kdrun.methods.sum import Sum
from kdrun.spec.own_code import sources as sources  # how config reaches it
from kdrun.spec.signature import bind, without_defaults
from kdrun.spec.spec import Component
from kdrun.spec.terms import bound_terms, whole_terms

TRUST_VARIABLE = "KDRUN_TRUST"
IMAGE_INJECTED = ("num_classes", "in_channels", "image_size")
SEQUENCE_INJECTED = ("num_classes", "num_tokens", "length", "per_token")
"""The parameters of networks for images, and for sequences, that `DatasetSpec.network_options` sets."""


def trusted_packages() -> tuple[str, ...]:
    """`kdrun`, and the packages that the environment variable `KDRUN_TRUST` names (comma separated)."""
    named = os.environ.get(TRUST_VARIABLE, "").replace(":", ",").split(",")
    return ("kdrun", *(package.strip() for package in named if package.strip()))


def resolve(target: str, kind: type | None = None) -> Callable[..., Any]:
    """The class or function that a `_target_` names.

    A config from a stranger is data, not code: the name must lie in a trusted package, and so must the object that
    it resolves to, which an alias such as `kdrun.losses.base.torch.load` does not.

    Args:
        target: dotted path.
        kind: what it must be a concrete subclass of, or a function that returns one; None takes anything.

    Raises:
        ValueError: not trusted, not found, nothing that can be called, or of another kind.
    """
    allowed = trusted_packages()
    refusal = (
        f"{target!r} is outside the trusted packages ({', '.join(allowed)}); to trust one, name it in the "
        f"environment variable {TRUST_VARIABLE}"
    )
    if target.partition(".")[0] not in allowed:
        raise ValueError(refusal)
    module_name, _, name = target.rpartition(".")
    try:
        found = getattr(importlib.import_module(module_name), name)
    except (ImportError, AttributeError, ValueError) as error:
        raise ValueError(f"{target!r} cannot be imported: {error}") from error
    except Exception as error:  # whatever the user's own module raises
        raise ValueError(f"{target!r} cannot be imported: {type(error).__name__}: {error}") from error
    if not inspect.isclass(found) and not inspect.isfunction(found):
        raise ValueError(f"{target!r} is no class or function")
    if found.__module__.partition(".")[0] not in allowed:
        raise ValueError(refusal)
    if kind is nn.Module and inspect.isclass(found) and issubclass(found, Method):
        raise ValueError(f"{target!r} is a distillation method, no network")
    if kind is not None and not _makes(found, kind):
        missing = _missing(found, kind)
        lack = f": it does not define {', '.join(missing)}" if missing else ", nor a function that returns one"
        raise ValueError(f"{target!r} is no concrete {kind.__name__}{lack}")
    resolved: Callable[..., Any] = found
    return resolved


def _makes(found: Any, kind: type) -> bool:
    """Whether calling a class or function gives a `kind`; a function without annotation is assumed to."""
    made = found if inspect.isclass(found) else typing.get_type_hints(found).get("return", kind)
    return inspect.isclass(made) and issubclass(made, kind) and not (made is found and _missing(found, kind))


def _missing(found: Any, kind: type) -> list[str]:
    """What a subclass of `kind` must define and does not: abstract methods, and the `name` of a method."""
    if not inspect.isclass(found) or not issubclass(found, kind):
        return []
    unnamed = ["name"] if issubclass(found, Method) and not hasattr(found, "name") else []
    return [*sorted(getattr(found, "__abstractmethods__", ())), *unnamed]


def set_by_dataset(network: Callable[..., Any]) -> tuple[str, ...]:
    """The parameters of a network that its dataset sets: of sequences if it requires `num_tokens`, else of images."""
    vocabulary = inspect.signature(network).parameters.get("num_tokens")
    of_sequences = vocabulary is not None and vocabulary.default is inspect.Parameter.empty
    return SEQUENCE_INJECTED if of_sequences else IMAGE_INJECTED


def target_of(
    node: Any, path: str, problems: list[str], *, kind: type
) -> tuple[Callable[..., Any], dict[str, Any]] | None:
    """The object that a `_target_` node names, and its unbound options; None after a fault, see `component`."""
    if not isinstance(node, Mapping) or not isinstance(node.get("_target_"), str):
        problems.append(f"{path}: must be a group option or a mapping with a _target_, not {node!r}")
        return None
    try:
        target = resolve(node["_target_"], kind)
    except ValueError as error:
        problems.append(f"{path}._target_: {error}")
        return None
    return target, {name: value for name, value in node.items() if name != "_target_"}


def component(
    node: Any,
    path: str,
    problems: list[str],
    *,
    injected: tuple[str, ...] | Callable[[Callable[..., Any]], tuple[str, ...]],
    kind: type,
) -> Component | None:
    """Reads a `_target_` node of the config; every fault becomes a line in `problems`, and the result None.

    Args:
        node: `{"_target_": dotted path, option: value, ...}`.
        path: where it stands in the config.
        problems: faults found so far.
        injected: parameters the program supplies, or a function that returns them for the target.
        kind: what the target must be a subclass of, or return.
    """
    found = target_of(node, path, problems, kind=kind)
    if found is None:
        return None
    target, options = found
    fault_count = len(problems)
    supplied = injected(target) if callable(injected) else injected
    bound = bind(target, options, path, problems, injected=supplied)
    if len(problems) > fault_count:
        return None
    try:
        source = sources(target, node["_target_"], {**_defaults(target), **bound})
    except ValueError as error:
        problems.append(f"{path}._target_={node['_target_']}: {error}")
        return None
    return Component(node["_target_"], without_defaults(target, bound), source)


def student_component(node: Any, path: str, problems: list[str]) -> Component | None:
    """Reads a network's node, see `component`."""
    return component(node, path, problems, injected=set_by_dataset, kind=nn.Module)


def method_component(node: Any, path: str, problems: list[str]) -> Component | None:
    """Reads a method's node, see `component`; of a sum, the terms' options too.

    An option that is not at its default must have an effect in the method's form, of one stage or of two.
    """
    found = component(node, path, problems, injected=METHOD_INJECTED, kind=Method)
    if found is None:
        return None
    if is_sum(found):
        terms, code = bound_terms(found.options["terms"], f"{path}.terms", problems, method_of)
        code |= found.source if isinstance(found.source, Mapping) else {}
        return dataclasses.replace(found, options={**found.options, "terms": terms}, source=code or None)
    made = resolve(found.target)
    if inspect.isclass(made) and issubclass(made, Method):
        staged = all_options(found).get("stage1_epochs", 0) > 0
        form = "two stages" if staged else "one stage (stage1_epochs=0)"
        idle = made.of_one_stage if staged else made.of_two_stages
        problems += [
            f"{path}.{name}={found.options[name]!r}: has no effect in the form of {form}; leave it out"
            for name in idle
            if name in found.options
        ]
    return found


def is_sum(method: Component) -> bool:
    """Whether a method's option `terms` is that of the sum."""
    found = resolve(method.target)
    return inspect.isclass(found) and issubclass(found, Sum)


def asks_for(method: Component) -> set[str]:
    """The parameters `pair` (networks) and `training` (examples) that a method's constructor has."""
    return {"pair", "training"} & set(inspect.signature(method_class(method)).parameters)


def method_class(method: Component) -> type[Method]:
    """The class a method component names: its `name` and `needs`.

    Raises:
        ValueError: it cannot be resolved, or is no method.
    """
    return method_of(method.target)


def method_of(target: str) -> type[Method]:
    """The class that a method's `_target_` names; raises as `method_class`."""
    found = resolve(target)
    if not (inspect.isclass(found) and issubclass(found, Method)):
        raise ValueError(f"{target!r} is no Method")
    return found


def all_options(method: Component) -> dict[str, Any]:
    """A component's options with those at their default filled in, for people to read; of a sum, its terms' too."""
    options = {**_defaults(resolve(method.target)), **method.options}
    if is_sum(method):
        options["terms"] = whole_terms(options["terms"], method_of)
    return options


def _defaults(target: Callable[..., Any]) -> dict[str, Any]:
    """The default of each parameter that has one."""
    parameters = inspect.signature(target).parameters.values()
    return {parameter.name: parameter.default for parameter in parameters if parameter.default is not parameter.empty}
