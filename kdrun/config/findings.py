"""What a walk over a config finds: problems, and what the user should know."""

from __future__ import annotations

import dataclasses
from collections.abc import Callable, Mapping, Sequence
from pathlib import Path
from typing import Any

from kdrun.config.secrets import without_secrets
from kdrun.spec.spec import Component


class Findings:
    """Problems and notices, collected on one walk over a config.

    Attributes:
        problems: one line each.
        notices: one line each.
        left_aside: of notices that say so, which of `overrides` have no use.
        weight_files: files with the user's own weights, by SHA-256.
        overrides: what the user typed.
        complete: whether all of `overrides` are in the config.
    """

    def __init__(self, overrides: Sequence[str], *, complete: bool = True) -> None:
        self.problems: list[str] = []
        self.notices: list[str] = []
        self.left_aside: dict[str, tuple[str, ...]] = {}
        self.weight_files: dict[str, Path] = {}
        self.overrides = tuple(overrides)
        self.complete = complete

    def leave_aside(self, why: str, overrides: Sequence[str]) -> None:
        """A notice that overrides have no use."""
        notice = f"{why}: {' '.join(overrides)} is left aside"
        self.notices.append(notice)
        self.left_aside[notice] = tuple(overrides)

    def attempt(self, prefix: str, function: Callable[..., Any], *arguments: Any) -> Any:
        """Calls a function; what it refuses becomes a problem, each of its lines behind `prefix`."""
        try:
            return function(*arguments)
        except ValueError as error:
            self.problems.extend(prefix + line for line in str(error).splitlines())
            return None

    def builds(
        self,
        prefix: str,
        build: Callable[..., Any],
        component: Component,
        *others: Any,
        elsewhere: Mapping[str, str] | None = None,
    ) -> bool:
        """Whether a component can be built; each option that its constructor refuses is a problem.

        Args:
            prefix: where the component's options stand.
            build: builds it.
            component: what is built.
            others: what `build` takes behind it.
            elsewhere: what a constructor can refuse and stands in another place: a method its networks.
        """
        options = dict(component.options)
        while True:
            try:
                build(dataclasses.replace(component, options=options), *others)
                return options == component.options
            except ValueError as error:
                for line in str(error).splitlines():
                    refused, equals, told = line.partition("=")
                    place = (elsewhere or {}).get(refused, prefix + refused)
                    self.problems.append(place + equals + told)
                refused = str(error).partition("=")[0]
                if options.pop(refused, None) is None:
                    return False
            except Exception as error:  # whatever the user's own code raises
                if options != component.options and isinstance(error, TypeError):
                    return False  # what was refused and left out cannot be done without
                self.problems.append(f"{prefix}_target_={component.target}: {type(error).__name__}: {error}")
                return False

    def component(self, read: Callable[..., Component | None], node: Any, path: str) -> Component | None:
        """Reads a `_target_` node; of options that look like secrets only the names are told."""
        told: list[str] = []
        found = read(node, path, told)
        secrets, told = without_secrets(node, path, told)
        self.problems += [*secrets, *told]
        return None if secrets else found
