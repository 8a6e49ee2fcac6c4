"""Reads YAML files of bounded size, and bounds the number of interpolations: a config file can be a stranger's.

An alias (`*name`) or an interpolation (`${name}`) repeats a value. A few lines that repeat each other ten times
expand to billions of values; so values are counted before, or while, they are expanded.
"""

from __future__ import annotations

import functools
import io
import os
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import omegaconf.base
import yaml
from omegaconf import Container, DictConfig, ListConfig, OmegaConf
from omegaconf._utils import get_yaml_loader
from omegaconf.errors import InterpolationResolutionError

from kdrun.files import read_regular

FILE_LIMIT = 2**18
"""Bytes of a file."""

MOST_VALUES = 10_000
"""Keys, values, lists and mappings of a file, with aliases expanded."""

LONGEST_VALUE = 10_000
"""Characters of a single key or value."""

LONGEST_SHARED = 200
"""Characters of an interpolation whose parse is kept: a parse takes much more memory than its text."""

MOST_RESOLVED = 5_000
"""Values that the interpolations of one config expand to."""


def read_yaml_text(path: Path | str) -> str:
    """The text of a YAML file.

    Raises:
        ValueError: it cannot be read, is too large, or is not UTF-8; the message names it.
    """
    try:
        content = read_regular(path, FILE_LIMIT)
    except OSError as error:
        raise ValueError(f"{path} cannot be read: {error.strerror or error}") from error
    try:
        return content.decode()
    except UnicodeDecodeError as error:
        line = content.count(b"\n", 0, error.start) + 1
        where = f"{path}, line {line}: byte 0x{content[error.start]:02x} at position {error.start}"
        raise ValueError(f"{where} is not UTF-8; must be saved as UTF-8") from error


def parse_yaml(text: str, path: Path | str) -> DictConfig | ListConfig:
    """As `OmegaConf.load`, of the text of a file.

    Raises:
        ValueError: it has too many or too long values, aliases expanded, or is nested too deeply.
        yaml.YAMLError: no YAML.
    """
    stream = io.StringIO(text)
    stream.name = os.fspath(path)  # for messages
    loader = get_yaml_loader()(stream)
    try:
        node = loader.get_single_node()
        if node is None:
            return OmegaConf.create()
        if _count(node, {}, path) > MOST_VALUES:
            raise ValueError(f"{path} has more than {MOST_VALUES} values, counting each use of an alias")
        content = loader.construct_document(node)
        if not isinstance(content, dict | list | str):
            raise ValueError(f"{path} has a single value, {content!r}; must be a mapping")
        return OmegaConf.create(content)
    except RecursionError:
        raise ValueError(f"{path} is nested too deeply") from None
    finally:
        loader.dispose()


def _count(node: yaml.Node, counts: dict[int, int], path: Path | str) -> int:
    """The number of a node's values; more than are allowed for one that contains itself.

    Args:
        node: as composed: an alias is the same object as the node that it names.
        counts: of the nodes counted before, by `id`.
        path: of the file.
    """
    if id(node) not in counts:
        if isinstance(node, yaml.ScalarNode) and len(node.value) > LONGEST_VALUE:
            raise ValueError(f"{path} has a value of {len(node.value)} characters; at most {LONGEST_VALUE}")
        counts[id(node)] = MOST_VALUES + 1  # meanwhile: a node that contains itself is endless
        counts[id(node)] = 1 + sum(_count(child, counts, path) for child in _children(node))
    return counts[id(node)]


def _children(node: yaml.Node) -> Iterator[yaml.Node]:
    if isinstance(node, yaml.SequenceNode):
        yield from node.value
    elif isinstance(node, yaml.MappingNode):
        for pair in node.value:
            yield from pair


class _Budget:
    """The number of values that interpolations may still expand to."""

    left = MOST_RESOLVED


def restart_resolving() -> None:
    """Starts counting for another config."""
    _Budget.left = MOST_RESOLVED


_resolve = Container.resolve_parse_tree


def _resolve_counted(self: Container, *arguments: Any, **named: Any) -> Any:
    """`Container.resolve_parse_tree`, with bounds."""
    resolved = _resolve(self, *arguments, **named) if _Budget.left > 0 else None
    if isinstance(resolved, str) and len(resolved) > LONGEST_VALUE:
        raise InterpolationResolutionError(f"a value has {len(resolved)} characters; at most {LONGEST_VALUE}")
    _Budget.left -= _num_nodes(resolved)
    if _Budget.left <= 0:
        raise InterpolationResolutionError(
            f"interpolations (${{...}}) of this config repeat more than {MOST_RESOLVED} values"
        )
    return resolved


def _num_nodes(value: Any) -> int:
    content = value._content if isinstance(value, DictConfig | ListConfig) else None
    items = content.values() if isinstance(content, dict) else content if isinstance(content, list) else ()
    return 1 + sum(map(_num_nodes, items))


Container.resolve_parse_tree = _resolve_counted  # type: ignore[method-assign]


_parse: Any = omegaconf.base.parse  # type: ignore[attr-defined]
_parse_again = functools.lru_cache(maxsize=256)(_parse)


def _parse_shared(value: str, *rules: str, **named: str) -> Any:
    """`omegaconf.base.parse`, which takes a millisecond: the jobs of a sweep have the same few interpolations."""
    return (_parse_again if len(value) <= LONGEST_SHARED else _parse)(value, *rules, **named)


omegaconf.base.parse = _parse_shared  # type: ignore[attr-defined]
