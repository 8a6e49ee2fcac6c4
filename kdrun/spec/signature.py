"""The typed signature as schema: binds plain config values to what a callable or dataclass accepts.

One mechanism for everything a user can set: the constructor of a model, a method or a dataclass says by its
annotations and defaults what is allowed, and `bind` finds every fault at once.
"""

from __future__ import annotations

import collections.abc
import dataclasses
import difflib
import inspect
import math
import types
import typing
from collections.abc import Callable, Iterable, Mapping
from typing import Any


def bind(
    target: Callable[..., Any],
    values: Mapping[str, Any],
    path: str,
    problems: list[str],
    *,
    injected: Iterable[str] = (),
) -> dict[str, Any]:
    """Checks and normalises keyword arguments for `target`.

    Integers become floats where a float is asked for, lists become tuples, mappings become dataclasses; a class with
    `from_values(value, path, problems)` reads its value.

    Args:
        target: a class or function with annotated parameters.
        values: what the config gives, by parameter name.
        path: where the values stand in the config (`student`, `recipe.augmentation`), for the messages.
        problems: every fault found is added here as one line.
        injected: parameters that the program supplies itself; they cannot be set.

    Returns:
        The faultless values, normalised. Parameters left at their default are not added.
    """
    parameters = {
        name: parameter
        for name, parameter in inspect.signature(target).parameters.items()
        if parameter.kind in (parameter.POSITIONAL_OR_KEYWORD, parameter.KEYWORD_ONLY) and name not in set(injected)
    }
    # A dataclass's own hints are read where each of its bases is defined, those of its __init__ only where it is.
    hinted = target if inspect.isfunction(target) or dataclasses.is_dataclass(target) else target.__init__
    annotations = typing.get_type_hints(hinted)
    bound = {}
    prefix = f"{path}." if path else ""
    for name, value in values.items():
        if name not in parameters:
            problems.append(f"{prefix}{name}: {unknown(name, parameters, 'option')}")
            continue
        fault_count = len(problems)
        normalised = _normalise(value, annotations.get(name, Any), f"{prefix}{name}", problems)
        if len(problems) == fault_count:
            bound[name] = normalised
    for name, parameter in parameters.items():
        if parameter.default is parameter.empty and name not in values:
            problems.append(f"{prefix}{name}: is missing and has no default")
    return bound


def without_defaults(target: Callable[..., Any], bound: Mapping[str, Any]) -> dict[str, Any]:
    """The bound values that differ from the defaults of `target`: so a new option never changes an old identity."""
    parameters = inspect.signature(target).parameters
    return {name: value for name, value in bound.items() if parameters[name].default != value}


def unknown(name: str, allowed: Iterable[str], what: str) -> str:
    """The message for a name that does not exist: the nearest spelling, and everything that is allowed."""
    known = sorted(allowed, key=lambda name: (0, int(name), "") if name.isdecimal() else (1, 0, name))
    near = difflib.get_close_matches(name, known, n=1)
    hint = f"did you mean {near[0]}? " if near else ""
    return f"no such {what}; {hint}Allowed: {', '.join(known) or 'none'}"


def _normalise(value: Any, annotation: Any, path: str, problems: list[str]) -> Any:
    """`value` as the annotated type, or None after a problem was noted."""
    origin, arguments = typing.get_origin(annotation), typing.get_args(annotation)
    if annotation is Any:
        return value
    if hasattr(annotation, "from_values"):
        return annotation.from_values(value, path, problems)
    if origin is typing.Literal:
        if value not in arguments or isinstance(value, bool):
            problems.append(f"{path}={value!r}: must be {_describe(annotation)}")
            return None
        return value
    if origin in (typing.Union, types.UnionType):
        if value is None and type(None) in arguments:
            return None
        choices = [argument for argument in arguments if argument is not type(None)]
        if hasattr(choices[0], "from_values"):
            return _normalise(value, choices[0], path, problems)
        for choice in choices:
            attempt: list[str] = []
            result = _normalise(value, choice, path, attempt)
            if not attempt:
                return result
        problems.append(f"{path}={value!r}: must be {_describe(annotation)}")
        return None
    if dataclasses.is_dataclass(annotation) and isinstance(annotation, type):
        return construct(annotation, value, path, problems)
    if origin is tuple:
        if not isinstance(value, (list, tuple)):
            problems.append(f"{path}={value!r}: must be {_describe(annotation)}")
            return None
        return tuple(_normalise(item, arguments[0], f"{path}[{i}]", problems) for i, item in enumerate(value))
    if origin is collections.abc.Mapping:
        if not isinstance(value, Mapping):
            problems.append(f"{path}={value!r}: must be {_describe(annotation)}")
            return None
        return {str(name): _normalise(item, arguments[1], f"{path}.{name}", problems) for name, item in value.items()}
    if annotation is float and type(value) is int and abs(value) < 2**1023:
        value = float(value)
    # bool is a subclass of int, but True is no number of epochs.
    if type(value) is not annotation or (annotation is float and not math.isfinite(value)):
        problems.append(f"{path}={value!r}: must be {_describe(annotation)}")
        return None
    return value


def construct(
    target: Callable[..., Any],
    values: Any,
    path: str,
    problems: list[str],
    *,
    injected: Mapping[str, Any] = types.MappingProxyType({}),
) -> Any:
    """Binds and calls `target`; what its constructor refuses is a problem like any other. None after one.

    `injected` are arguments that the program supplies itself; they cannot be set.
    """
    if not isinstance(values, Mapping):
        problems.append(f"{path}={values!r}: must be a group of options")
        return None
    fault_count = len(problems)
    bound = bind(target, values, path, problems, injected=injected)
    faulty = len(problems) > fault_count
    try:
        built = target(**injected, **bound)  # with defaults in place of what is faulty, to find what else is
    except TypeError:
        if not faulty:
            raise
        return None
    except ValueError as error:
        problems.extend(f"{path}.{line}" for line in str(error).splitlines())
        return None
    return None if faulty else built


def _describe(annotation: Any) -> str:
    names = {
        int: "an integer",
        float: "a finite number",
        bool: "true or false",
        str: "text",
        type(None): "null",
    }
    if annotation in names:
        return names[annotation]
    arguments = typing.get_args(annotation)
    if typing.get_origin(annotation) is typing.Literal:
        return f"{'one of ' if len(arguments) > 1 else ''}{', '.join(map(str, arguments))}"
    if typing.get_origin(annotation) is tuple:
        return f"a list, each item {_describe(arguments[0])}"
    if typing.get_origin(annotation) is collections.abc.Mapping:
        return "a mapping of names"
    if arguments:
        return " or ".join(_describe(argument) for argument in arguments)
    return getattr(annotation, "__name__", str(annotation))


def enforce(instance: Any, *rules: tuple[str, bool, str]) -> None:
    """Raises one `ValueError` with a line for each (field, holds, what is allowed) that does not hold."""
    broken = [(name, getattr(instance, name), allowed) for name, holds, allowed in rules if not holds]
    if broken:
        shown = [(name, list(value) if isinstance(value, tuple) else value, allowed) for name, value, allowed in broken]
        raise ValueError("\n".join(f"{name}={value!r}: must be {allowed}" for name, value, allowed in shown))
