"""Keeps secrets out of a run's files: masked in its config.yaml, refused as options.

A secret is an option named like one, or the value that `${oc.env:NAME}` reads from a variable named like one.
"""

from __future__ import annotations

import os
from collections.abc import Iterator, Mapping, Sequence
from typing import Any

import yaml
from omegaconf import DictConfig, OmegaConf
from omegaconf._utils import get_omega_conf_dumper
from omegaconf.resolvers import oc

from kdrun import redaction
from kdrun.redaction import SECRET


def watch_environment() -> None:
    """Reports values that `${oc.env:NAME}` and `${oc.env:NAME,default}` read to `kdrun.redaction`."""
    OmegaConf.register_new_resolver("oc.env", _read_environment, replace=True)


def _read_environment(key: str, *default: str | None) -> str | None:
    value: str | None = oc.env(key, *default)
    if key in os.environ:
        redaction.note(key, os.environ[key])
    return value


def masked_yaml(config: DictConfig) -> str:
    """The composed config as YAML, interpolations unresolved, values of secret-looking keys masked."""
    masked = _masked(OmegaConf.to_container(config, resolve=False))
    text: str = yaml.dump(
        masked, default_flow_style=False, allow_unicode=True, sort_keys=False, Dumper=get_omega_conf_dumper()
    )  # as OmegaConf.to_yaml
    return text


def _masked(node: Any) -> Any:
    if isinstance(node, dict):
        return {key: "***" if SECRET.search(str(key)) else _masked(value) for key, value in node.items()}
    if isinstance(node, list):
        return [_masked(item) for item in node]
    return node


def without_secrets(node: Any, path: str, problems: Sequence[str]) -> tuple[list[str], list[str]]:
    """Finds a component's options that look like secrets: spec.json, which rebuilds the run, holds its options.

    Args:
        node: the component's `_target_` node.
        path: of the node.
        problems: of the component.

    Returns:
        A line for each such option, without its value; and the `problems` that quote none of these values.
    """
    refused: dict[str, None] = {}
    values = []
    for option, value in node.items() if isinstance(node, Mapping) else ():
        if any(line.startswith(f"{path}.{option}: no such option") for line in problems):
            continue
        for key, text in _secrets({option: value}):
            refused[f"{path}.{key}"] = None
            values.append(text)
    lines = [
        f"{key}: looks like a secret, and the options of a run are written to its spec.json; "
        "let your code read it from the environment"
        for key in refused
    ]
    return lines, [line for line in problems if not any(value in line for value in values)]


def _secrets(node: Any, key: str = "", hidden: bool = False) -> Iterator[tuple[str, str]]:
    """Dotted key and text of every value behind a secret-looking key."""
    if isinstance(node, Mapping):
        for name, value in node.items():
            yield from _secrets(value, f"{key}.{name}" if key else str(name), hidden or bool(SECRET.search(str(name))))
    elif isinstance(node, list):
        for item in node:
            yield from _secrets(item, key, hidden)
    elif node in (None, "") or isinstance(node, bool):
        return
    elif (hidden and not _is_size(node, key)) or redaction.has_secret(str(node)):
        yield key, str(node)


def _is_size(value: Any, key: str) -> bool:
    """Whether a number is one of a network's sizes: num_tokens, token_dim."""
    return isinstance(value, int | float) and "token" in key.lower()
