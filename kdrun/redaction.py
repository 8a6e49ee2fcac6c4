"""Values that configs read from the environment, `${oc.env:NAME}`: kdrun shows the name instead.

Of a variable that is called like a secret the value is shown nowhere: console, logs and status files have
`${oc.env:NAME}` in its place. Of other variables it is left out of the messages on bad input alone, since a path or a
device that is read from the environment has to be told elsewhere.
"""

from __future__ import annotations

import functools
import json
import re
from collections.abc import Iterator
from pathlib import Path

SECRET = re.compile("token|secret|passw|passphrase|(api|access|private)[_-]?key|credential", re.IGNORECASE)
"""What options and variables of secrets are called."""

_SECRET_VARIABLE = re.compile(rf"{SECRET.pattern}|key$|auth", re.IGNORECASE)
_HAS_PASSWORD = re.compile(r"://[^/\s]+@")
"""Of an address: a password behind a name, or a token in the place of both."""

SHORTEST = 4
"""Characters of a value that is left out: a shorter one is part of many words, and no secret."""

_names: dict[str, str] = {}
"""What has been read so far: the variable's name by its value."""


def note(name: str, value: str) -> None:
    """Remembers what was read from the environment; of two variables with one value, the one called like a secret."""
    if len(value) >= SHORTEST and not (value in _names and _is_secret(_names[value], value)):
        _names[value] = name


def forget() -> None:
    """Forgets what was read: a new command begins."""
    _names.clear()


def has_secret(text: str) -> bool:
    """Whether a text has the value of a variable that is called like a secret."""
    return redacted(text) != text


def redacted(text: str, *, all_values: bool = False) -> str:
    """A text with names in place of values that were read from the environment.

    Args:
        text: any.
        all_values: of every variable; else of those that are called like a secret, or are an address with a password.
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
    """Finds a value in a text, the longest of its parts first."""
    parts = {part.strip() for part in _parts(value)}
    longest_first = sorted((part for part in parts if len(part) >= SHORTEST), key=lambda part: (-len(part), part))
    return re.compile("|".join(map(_quoted, longest_first)) or "(?!)", re.IGNORECASE)


def _parts(value: str) -> Iterator[str]:
    """A value, its lines, the items of the list, the path and the number that it can become."""
    yield from (value, *value.splitlines())
    if value.strip()[:1] in ("[", "{"):  # what `oc.decode` makes of it has the items alone
        yield from re.split(r"""[\s,:'"\[\]{}]+""", value)
    if "/" in value:
        yield str(Path(value))
        yield value.strip().removeprefix("~").rstrip("/")  # behind a home directory
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
