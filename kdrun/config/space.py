"""The search space of `kdrun search`: swept overrides as ranges and choices from which trials are drawn."""

from __future__ import annotations

import dataclasses
import math
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from hydra.core.override_parser.types import IntervalSweep, RangeSweep

from kdrun.config.command_line import expand
from kdrun.config.quoting import not_parsed, parsed

LOG = "log"
"""The tag of an interval that is drawn from on a logarithmic scale: `tag(log,interval(0.01,1))`."""

DIGITS = 4


@dataclass(frozen=True)
class Dimension:
    """A key with the values that it can have.

    Attributes:
        key: as typed, the left side of an override.
        low: the least number.
        high: the greatest, included.
        log: whether numbers are drawn on a logarithmic scale.
        step: between integers; None for real numbers.
        values: in place of numbers: the choices in Hydra's syntax.
    """

    key: str
    low: float = 0
    high: float = 0
    log: bool = False
    step: int | None = None
    values: tuple[str, ...] = ()

    def suggest(self, trial: Any) -> str:
        """The value of one of Optuna's trials, in Hydra's syntax; drawn if the trial has none yet.

        Real numbers are rounded to `DIGITS` significant digits, so that settings can be typed.
        """
        if self.values:
            return str(trial.suggest_categorical(self.key, self.values))
        if self.step is not None:
            return repr(trial.suggest_int(self.key, self.low, self.high, log=self.log, step=self.step))
        drawn = trial.suggest_float(self.key, self.low, self.high, log=self.log)
        return repr(min(max(float(f"{drawn:.{DIGITS}g}"), self.low), self.high))

    @property
    def ends(self) -> tuple[str, ...]:
        """The values that are checked before the search: every choice, or both ends of a range."""
        return self.values or (repr(self.low), repr(self.high))


@dataclass(frozen=True)
class Space:
    """The overrides of a search, in the order typed: dimensions, and those with one value."""

    words: tuple[str | Dimension, ...]

    @property
    def dimensions(self) -> list[Dimension]:
        """By key, so that neither a draw nor the search's identity depends on the order typed."""
        return sorted((word for word in self.words if isinstance(word, Dimension)), key=lambda each: each.key)

    def overrides(self, values: Mapping[str, str]) -> list[str]:
        """The overrides of the trial with these values by key."""
        return [f"{word.key}={values[word.key]}" if isinstance(word, Dimension) else word for word in self.words]

    def fixed(self, *words: str) -> Space:
        """The same space with further overrides."""
        return dataclasses.replace(self, words=(*self.words, *words))

    def corners(self) -> list[dict[str, str]]:
        """Values by key that together have each dimension's `ends`, changed one at a time."""
        first = {each.key: each.ends[0] for each in self.dimensions}
        return [first, *({**first, each.key: value} for each in self.dimensions for value in each.ends[1:])]


def read_space(overrides: Sequence[str], problems: list[str], *, extra: Path | None) -> Space:
    """The space of a search's overrides.

    Args:
        overrides: swept or not, in Hydra's syntax.
        problems: a line is added for each fault, and where nothing is swept.
        extra: the user's config tree, whose options a glob(...) finds, too.
    """
    words = [word for text in overrides if (word := _word(text, problems, extra)) is not None]
    space = Space(tuple(words))
    keys = [word.key if isinstance(word, Dimension) else word.partition("=")[0] for word in words]
    searched = dict.fromkeys(each.key for each in space.dimensions)
    problems += [f"{key}: is searched and given again" for key in searched if keys.count(key) > 1]
    if not (searched or problems):
        problems.append("no key is searched: KEY=interval(0.1,0.9), KEY=choice(1,2,4) or KEY=range(1,9)")
    return space


def _word(text: str, problems: list[str], extra: Path | None) -> str | Dimension | None:
    """A dimension, or an override with one value; None for one that is a problem."""
    override = parsed(text)
    if override is None:
        problems.append(not_parsed(text))
        return None
    key, swept = override.get_key_element(), override.value()
    tags: set[str] = getattr(swept, "tags", set())
    if strange := tags - ({LOG} if isinstance(swept, IntervalSweep) else set()):
        problems.append(f"{text}: has the tag {min(strange)}; the only one is log: tag(log,interval(0.01,1))")
    elif isinstance(swept, IntervalSweep):
        low, high = swept.start, swept.end
        if not (low is not None and high is not None and low < high and math.isfinite(high - low)):
            problems.append(f"{text}: must be an interval of two numbers, the lesser first")
        elif LOG in tags and low <= 0:
            problems.append(f"{text}: must begin above 0 on a logarithmic scale")
        else:
            return Dimension(key, low, high, log=LOG in tags, step=1 if isinstance(low, int) else None)
    elif choices := [job[0] for job in expand([text], multirun=True, problems=problems, extra=extra) if job]:
        if len(choices) == 1:
            return choices[0]
        values = dict.fromkeys(each.partition("=")[2] for each in choices)
        if isinstance(swept, RangeSweep) and isinstance(swept.step, int) and isinstance(swept.start, int):
            return Dimension(key, min(map(int, values)), max(map(int, values)), step=abs(swept.step))
        return Dimension(key, values=tuple(values))
    return None
