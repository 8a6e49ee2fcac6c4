"""Replaces values that configs read from the environment by `${oc.env:NAME}`.

The value of a variable that is named like a secret is replaced everywhere: console, logs, status files. Values of other
variables are replaced in messages on bad input only: a path or a device must be shown elsewhere.
"""

from __future__ import annotations

import functools
import json
import re
from collections.abc import Iterator
from pathlib import Path

SECRET = re.compile("token|secret|passw|passphrase|(api|access|private)[_-]?key|credential", re.IGNORECASE)
"""Names of options and variables that hold secrets."""

_SECRET_VARIABLE = re.compile(rf"{SECRET.pattern}|key$|auth", re.IGNORECASE)
_HAS_PASSWORD = re.compile(r"://[^/\s]+@")
"""An address with a name and a password, or a token, before `@`."""

SHORTEST = 4
"""Characters of a replaced value, at least: a shorter one is part of many words, and no secret."""

_names: dict[str, str] = {}
"""The names of the variables that have been read, by their values."""


def note(name: str, value: str) -> None:
    """Records a variable that was read; of two with one value, the one that is named like a secret."""
    if len(value) >= SHORTEST and not (value in _names and _is_secret(_names[value], value)):
        _names[value] = name


def noted() -> dict[str, str]:
    """The recorded variables: names by value, for another process of the same command."""
    return dict(_names)


def forget() -> None:
    """Clears the recorded variables, before a new command."""
    _names.clear()


def has_secret(text: str) -> bool:
    """Whether a text contains the value of a variable that is named like a secret."""
    return redacted(text) != text


def redacted(text: str, *, all_values: bool = False) -> str:
    """A text with values that were read from the environment replaced by their variables' names.

    Args:
        text: any.
        all_values: of every variable; else of secrets: by name, or an address with a password.
    """
    for value, name in sorted(_names.items(), key=lambda item: -len(item[0])):
        if all_values or _is_secret(name, value):
            shown = f"${{oc.env:{name}}}".replace("\\", "\\\\")  # of a template of `re`
            text = _pattern(value).sub(shown, text)
    return text


def _is_secret(name: str, value: str) -> bool:
    return bool(_SECRET_VARIABLE.search(name) or _HAS_PASSWORD.search(value))


@functools.cache
def _pattern(value: str) -> re.Pattern[str]:
    """A pattern for a value or a part of it, the longest first."""
    parts = {part.strip() for part in _parts(value)}
    longest_first = sorted((part for part in parts if len(part) >= SHORTEST), key=lambda part: (-len(part), part))
    return re.compile("|".join(map(_quoted, longest_first)) or "(?!)", re.IGNORECASE)


def _parts(value: str) -> Iterator[str]:
    """A value, its lines, and the items, path and numbers that it can be decoded as."""
    yield from (value, *value.splitlines())
    if value.strip()[:1] in ("[", "{"):  # `oc.decode` gives the items
        yield from re.split(r"""[\s,:'"\[\]{}]+""", value)
    if "/" in value:
        yield str(Path(value))
        yield value.strip().removeprefix("~").rstrip("/")  # after a home directory
    for number in (float, functools.partial(int, base=0)):
        try:
            found = number(value)
            forms = (str(found), f"{found:g}")
        except (ValueError, OverflowError):  # text, or too many digits
            continue
        yield from forms


_GAP = r"(?:\s|\\+[nrtNLP_ \n])+"
"""White space as it stands, or escaped; YAML folds long lines there."""
_FOLD = r"(?:\\\n *\\?)?"
"""Where YAML breaks a text between double quotes."""


def _quoted(part: str) -> str:
    """A pattern of a part, however Python, JSON and YAML quote it."""
    return _GAP.join(_FOLD.join(map(_character, word)) for word in part.split())


def _character(character: str) -> str:
    forms = {character, repr(character)[1:-1], json.dumps(character)[1:-1], character.encode("unicode_escape").decode()}
    if character in "'\"\\":
        forms |= {character * 2, f"\\{character}"}
    return f"(?:{'|'.join(map(re.escape, sorted(forms, key=len, reverse=True)))})"
