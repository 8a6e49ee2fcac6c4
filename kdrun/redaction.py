"""Values that configs read from the environment, `${oc.env:NAME}`: kdrun shows the name instead.

Of a variable that is called like a secret the value is shown nowhere: console, logs and status files have
`${oc.env:NAME}` in its place. Of other variables it is left out of the messages on bad input alone, since a path or a
device that is read from the environment has to be told elsewhere.
"""

from __future__ import annotations

import json
import re

SECRET = re.compile("token|secret|passw|passphrase|(api|access|private)[_-]?key|credential", re.IGNORECASE)
"""What options and variables of secrets are called."""

_SECRET_VARIABLE = re.compile(rf"{SECRET.pattern}|key$|auth", re.IGNORECASE)
_HAS_PASSWORD = re.compile(r"://[^/\s]*:[^/\s]*@")
SHORTEST = 4
"""Characters of a value that is left out: a shorter one is part of many words, and no secret."""

_names: dict[str, str] = {}
"""What has been read so far: the variable's name by its value."""


def note(name: str, value: str) -> None:
    """Remembers what was read from the environment."""
    if len(value) >= SHORTEST:
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
            for form in _forms(value):
                text = text.replace(form, f"${{oc.env:{name}}}")
    return text


def _is_secret(name: str, value: str) -> bool:
    return bool(_SECRET_VARIABLE.search(name) or _HAS_PASSWORD.search(value))


def _forms(value: str) -> list[str]:
    """How a value can stand in a message, the longest first: quoted, line by line, or as the items of a list."""
    parts = [value, *value.splitlines()]
    if value.strip()[:1] in ("[", "{"):  # what `oc.decode` makes of it has the items alone
        parts += re.split(r"""[\s,:'"\[\]{}]+""", value)
    quoted = [form for part in parts for form in (part, repr(part)[1:-1], json.dumps(part)[1:-1])]
    return sorted({form for form in quoted if len(form) >= SHORTEST}, key=lambda form: -len(form))
