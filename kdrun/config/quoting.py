"""Messages for overrides that Hydra cannot parse, with the quoted override to type."""

from __future__ import annotations

import functools
import re
import shlex
from collections.abc import Mapping, Sequence
from typing import Any

from hydra.core.override_parser.overrides_parser import OverridesParser
from hydra.core.override_parser.types import Override
from hydra.errors import HydraException
from omegaconf import OmegaConf
from omegaconf.errors import OmegaConfBaseException

KEY = re.compile(r"[+~]{0,2}[A-Za-z_][\w./@:$-]*", re.ASCII)
ONE_TEXT = re.compile(r"(root|checkpoint)$")
"""Keys of paths: several values are more likely one path with a comma."""
ENVIRONMENT = re.compile(r"\$\{oc\.env:[^{}]*\}")
REFERENCE = re.compile(r"\$\{([\w.]+)\}")


@functools.lru_cache(maxsize=4096)  # the jobs of a sweep share most of theirs
def parse_override(text: str) -> Override:
    """An override as Hydra parses it, or the error it raises."""
    (override,) = OverridesParser.create().parse_overrides([text])
    return override


def parsed(text: str) -> Override | None:
    """An override as Hydra parses it; None where it cannot."""
    try:
        return parse_override(text)
    except (HydraException, RecursionError, ValueError):  # nested too deeply; an integer of thousands of digits
        return None


def quoted(text: str) -> str | None:
    """An override `key=value` with its value in quotes, or a list with its unparsable items in quotes.

    None where quotes do not help: the key or the brackets are at fault.
    """
    key, equals, value = text.partition("=")
    if not equals or _several_words(text) or re.fullmatch(r"[+-]?[\d_]+", value):  # an integer of thousands of digits
        return None
    candidates = _quoted_items(value) if value.startswith(("[", "{")) else [_quoted_text(value)]
    return next((meant for each in candidates if KEY.fullmatch(key) and parsed(meant := f"{key}={each}")), None)


def in_shell(text: str) -> str:
    """An override, quoted for the shell."""
    return shlex.quote(text)


def not_parsed(text: str) -> str:
    """The problem of an override that cannot be parsed, and the override to type instead."""
    if meant := quoted(text):
        return f"{text}: has characters that need quotes: {in_shell(meant)}"
    if several := _several_words(text):
        return f"{text}: is one word to the shell; must be {len(several)}: {shlex.join(several)}"
    key, equals, value = text.partition("=")
    stripped = f"{key.strip()}={value.strip()}"
    if equals and stripped != text and parsed(stripped):
        return f"{text}: must have no spaces around key and =: {in_shell(stripped)}"
    if equals and not KEY.fullmatch(key):
        return f"{text}: {key!r} cannot be a key: must be letters from a to z, digits and _, joined by dots"
    hint = f"; as text: {in_shell(meant)}" if equals and (meant := _whole(text)) else ""
    return f"{text}: cannot be parsed as key=value{hint}"


def as_one_value(text: str) -> str:
    """A hint for the several values of a path, which may be one; empty for another key."""
    meant = quoted(text) if ONE_TEXT.search(text.partition("=")[0]) else None
    return f"; a comma that belongs to the value needs quotes: {in_shell(meant)}" if meant else ""


def with_hints(problems: Sequence[str], overrides: Sequence[str], raw: Mapping[str, Any]) -> list[str]:
    """Problems with the override to type: quotes where text is required, `oc.decode` where a number is.

    Args:
        problems: one line each.
        overrides: as typed.
        raw: the config, interpolations not resolved.
    """
    return [_with_hint(line, overrides, raw) for line in problems]


def _with_hint(line: str, overrides: Sequence[str], raw: Mapping[str, Any]) -> str:
    key, _, rest = line.partition("=")
    due = re.search(r": must be (?!one of|a group)[\w, ]+$", rest)
    if due is None:
        return line
    value = _raw_value(key, raw)
    if decoded := _decoded(value):
        found = f"[{','.join(map(str, value))}]" if isinstance(value, list) else value
        return f"{key}={found}{due[0]}; an environment variable is text: {in_shell(f'{key}={decoded}')}"
    typed = next((text for text in reversed(overrides) if text.lstrip("+").startswith(f"{key}=")), None)
    if typed and due[0].startswith(": must be text") and (meant := _whole(typed)) and meant != typed:
        return f"{line}: {in_shell(meant)}"
    return line


def _decoded(value: Any) -> str | None:
    """A value, or a list, with its environment variables decoded, in quotes; None where it has none."""
    items = value if isinstance(value, list) else [value]
    if not any(isinstance(item, str) and ENVIRONMENT.search(item) for item in items):
        return None
    decoded = [ENVIRONMENT.sub(r"${oc.decode:\g<0>}", str(item)) for item in items]
    texts = [text if text == str(item) else _quoted_text(text) for text, item in zip(decoded, items, strict=True)]
    return f"[{','.join(texts)}]" if isinstance(value, list) else texts[0]


def _raw_value(key: str, raw: Any) -> Any:
    """A key's value in a config; references to other keys are followed."""
    found = raw
    for part in key.split("."):
        found = found.get(part) if isinstance(found, Mapping) else None
    reference = REFERENCE.fullmatch(found) if isinstance(found, str) else None
    return _raw_value(reference[1], raw) if reference and reference[1] != key else found


def _whole(text: str) -> str | None:
    key, _, value = text.partition("=")
    meant = f"{key}={_quoted_text(value)}"
    return meant if parsed(meant) else None


def _quoted_text(value: str) -> str:
    """A value as Hydra's quoted text: backslashes matter only before a quote, `${` begins an interpolation."""
    mark = "'" if '"' in value and "'" not in value else '"'
    escaped = re.sub(rf"(\\*)({mark}|$)", lambda found: found[1] * 2 + (f"\\{mark}" if found[2] else ""), value)
    if "${" in value and not _interpolates(value):
        escaped = escaped.replace("${", "\\${")
    return f"{mark}{escaped}{mark}"


def _several_words(text: str) -> list[str]:
    """The overrides in one word of the shell, if there are several."""
    words = text.split()
    return words if len(words) > 1 and all("=" in word and parsed(word) for word in words) else []


def _interpolates(value: Any) -> bool:
    """Whether OmegaConf can read the interpolations of a text."""
    try:
        OmegaConf.create({"value": value})
    except OmegaConfBaseException:
        return False
    return True


def _quoted_items(value: str) -> list[str]:
    """A list with quotes around the items that cannot be parsed; nothing where it is no list of plain items."""
    if not re.fullmatch(r"\[[^\[\]{}]*\]", value):
        return []
    items = [item.strip() for item in value[1:-1].split(",")]
    return [f"[{','.join(item if parsed(f'key={item}') else _quoted_text(item) for item in items)}]"]
