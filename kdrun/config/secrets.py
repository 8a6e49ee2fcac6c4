"""Secrets have no place in the files of a run: masked in the config that is kept, refused as options."""

from __future__ import annotations

import re
from collections.abc import Iterator, Mapping, Sequence
from typing import Any

from omegaconf import DictConfig, OmegaConf

SECRET = re.compile("token|secret|passw|passphrase|(api|access|private)[_-]?key|credential", re.IGNORECASE)


def masked_yaml(config: DictConfig) -> str:
    """The composed config as YAML, interpolations unresolved, values of secret-looking keys masked."""
    return OmegaConf.to_yaml(OmegaConf.create(_masked(OmegaConf.to_container(config, resolve=False))))


def _masked(node: Any) -> Any:
    if isinstance(node, dict):
        return {key: "***" if SECRET.search(str(key)) else _masked(value) for key, value in node.items()}
    if isinstance(node, list):
        return [_masked(item) for item in node]
    return node


def without_secrets(node: Any, path: str, told: Sequence[str]) -> tuple[list[str], list[str]]:
    """Finds a component's options that look like secrets: its options stand in spec.json, which rebuilds the run.

    Args:
        node: the component's `_target_` node.
        path: where it stands in the config.
        told: what has been found wrong with it.

    Returns:
        A line for each such option, without its value; and what of `told` does not quote one.
    """
    refused: dict[str, None] = {}
    values = []
    for option, value in node.items() if isinstance(node, Mapping) else ():
        if any(line.startswith(f"{path}.{option}: no such option") for line in told):
            continue  # is not taken anyway
        for key, text in _secrets({option: value}):
            refused[f"{path}.{key}"] = None
            values.append(text)
    lines = [
        f"{key}: looks like a secret, and the options of a run are written to its spec.json; "
        "let your code read it from the environment"
        for key in refused
    ]
    return lines, [line for line in told if not any(value in line for value in values)]


def _secrets(node: Any, key: str = "", hidden: bool = False) -> Iterator[tuple[str, str]]:
    """Dotted key and text of every value behind a secret-looking key."""
    if isinstance(node, Mapping):
        for name, value in node.items():
            yield from _secrets(value, f"{key}.{name}" if key else str(name), hidden or bool(SECRET.search(str(name))))
    elif isinstance(node, list):
        for item in node:
            yield from _secrets(item, key, hidden)
    elif hidden and not (node in (None, "") or isinstance(node, bool) or _is_size(node, key)):
        yield key, str(node)


def _is_size(value: Any, key: str) -> bool:
    """Whether a number is one of a network's sizes: num_tokens, token_dim."""
    return isinstance(value, int | float) and "token" in key.lower()
