"""Problems and notices of a config."""

from __future__ import annotations

import dataclasses
from collections.abc import Callable, Mapping, Sequence
from pathlib import Path
from typing import Any

from kdrun.config.secrets import without_secrets
from kdrun.spec.dataset import DatasetSpec
from kdrun.spec.spec import Component


class Findings:
    """Problems and notices, collected on one walk over a config.

    Attributes:
        problems: one line each.
        notices: one line each.
        left_aside: the unused overrides by their notice.
        weight_files: files with the user's own weights, by SHA-256.
        networks: the networks that are to be tried, each with its place in the config and its data.
        overrides: as typed.
        complete: whether all of `overrides` are in the config.
    """

    def __init__(self, overrides: Sequence[str], *, complete: bool = True) -> None:
        self.problems: list[str] = []
        self.notices: list[str] = []
        self.left_aside: dict[str, tuple[str, ...]] = {}
        self.weight_files: dict[str, Path] = {}
        self.networks: list[tuple[str, Component, DatasetSpec]] = []
        self.overrides = tuple(overrides)
        self.complete = complete

    def leave_aside(self, why: str, overrides: Sequence[str]) -> None:
        """Adds a notice about unused overrides."""
        notice = f"{why}: {' '.join(overrides)} is left aside"
        self.notices.append(notice)
        self.left_aside[notice] = tuple(overrides)

    def attempt(self, prefix: str, function: Callable[..., Any], *arguments: Any) -> Any:
        """Calls a function; each line of its `ValueError` becomes a problem behind `prefix`."""
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
            prefix: of the component's options.
            build: builds it.
            component: the first argument of `build`.
            others: its further arguments.
            elsewhere: the places of refused arguments that are no options: a method's networks.
        """
        options = dict(component.options)
        while True:
            try:
                build(dataclasses.replace(component, options=options), *others)
                return options == component.options
            except ValueError as error:
                for line in str(error).splitlines():
                    refused, equals, rest = line.partition("=")
                    self.problems.append((elsewhere or {}).get(refused, prefix + refused) + equals + rest)
                refused = str(error).partition("=")[0]
                if options.pop(refused, None) is None:
                    return False
            except Exception as error:  # whatever the user's own code raises
                if options != component.options and isinstance(error, TypeError):
                    return False  # a refused option, left out here, is required
                self.problems.append(f"{prefix}_target_={component.target}: {type(error).__name__}: {error}")
                return False

    def component(self, read: Callable[..., Component | None], node: Any, path: str) -> Component | None:
        """Reads a `_target_` node; no problem shows the value of an option that looks like a secret."""
        problems: list[str] = []
        found = read(node, path, problems)
        secrets, problems = without_secrets(node, path, problems)
        self.problems += [*secrets, *problems]
        return None if secrets else found
