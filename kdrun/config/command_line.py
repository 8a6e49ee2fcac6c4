"""A command line's overrides: the jobs that they make, and the launcher and sweeper that they choose."""

from __future__ import annotations

import itertools
import math
from collections.abc import Sequence
from dataclasses import dataclass
from fractions import Fraction
from pathlib import Path
from typing import Any

from hydra.core.override_parser.types import Glob, IntervalSweep, Override, RangeSweep

from kdrun.config.compose import (
    ALIASES,
    NO_EFFECT,
    OF_FILES,
    accepted_words,
    chooses_group,
    group_of,
    hydra_overrides,
    on_hydra,
    search_path,
)
from kdrun.config.composition import SEARCH_PATH, compose_search, group_options, option_problem
from kdrun.config.quoting import as_one_value, not_parsed, parsed, quoted
from kdrun.config.search import (
    BASIC,
    CHOICES,
    LAUNCHER,
    MAXIMIZED,
    OPTIONS,
    PARAMS,
    Search,
    launcher_problems,
    unknown_option,
)

MOST_JOBS = 10_000
"""Jobs of a sweep."""

CONTINUOUS = (
    "a continuous range needs a sweeper that draws from it, hydra/sweeper=optuna; else values: 1,2 or range(1,9)"
)


def expand(
    overrides: Sequence[str],
    *,
    multirun: bool,
    problems: list[str],
    one_value: str = "several values need -m (--multirun)",
    extra: Path | None = None,
) -> list[list[str]]:
    """The override lists of all jobs: the product of what is swept, the last one varying fastest.

    Args:
        overrides: what the user typed.
        multirun: whether several values are allowed.
        problems: a line is added for each override that cannot be parsed, is swept without `-m` or over nothing, or
            makes more than `MOST_JOBS` jobs. It is left out, or expanded with quotes where these mend it.
        one_value: the message for several values without `multirun`.
        extra: the user's config tree, whose options a glob(...) finds, too.
    """
    swept: list[list[str]] = []
    for text in overrides:
        override = parsed(text)
        if override is None:
            problems.append(not_parsed(text))
            swept += [[meant]] if (meant := quoted(text)) else []
        elif override.is_sweep_override() and not multirun:
            problems.append(f"{text}: {one_value}{as_one_value(text)}")
            swept += [[meant]] if as_one_value(text) and (meant := quoted(text)) else []
        elif isinstance(override.value(), IntervalSweep):
            problems.append(f"{text}: {CONTINUOUS}")
        elif _is_longer(override.value(), MOST_JOBS):
            problems.append(f"{text}: has more than {MOST_JOBS:,} values, and a sweep at most as many jobs")
        elif choices := _choices(override, extra):
            swept.append(choices)
        else:
            problems.append(f"{text}: no value to sweep over; a,b or range(...) or glob(...) of a group's options")
    keys = [choices[0].partition("=")[0] for choices in swept]
    for key, choices in zip(keys, swept, strict=True):
        if len(choices) > 1 and keys.count(key) > 1:
            problems.append(f"{key}: is swept and given again")
    count = math.prod(map(len, swept))
    if count > MOST_JOBS:
        counts = ", ".join(f"{key}: {len(choices)}" for key, choices in zip(keys, swept, strict=True) if choices[1:])
        problems.append(f"the sweep has {count:,} jobs ({counts} values); at most {MOST_JOBS:,}")
        return []
    return [list(job) for job in itertools.product(*swept)]


def _is_longer(value: Any, most: int) -> bool:
    """Whether a range has more than `most` values, or does not end; computed without enumerating it."""
    if not isinstance(value, RangeSweep) or value.start is None or value.stop is None:
        return False
    numbers = (value.start, value.stop, value.step)
    if not all(map(math.isfinite, numbers)) or not value.step:
        return True
    start, stop, step = map(Fraction, numbers)
    return (stop - start) / step > most


def first_jobs(overrides: Sequence[str], problems: list[str], *, extra: Path | None = None) -> list[list[str]]:
    """Two jobs that a sweeper which draws its values could begin with: the first values, and the ends of intervals.

    Args:
        overrides: what the user typed.
        problems: as in `expand`.
        extra: as in `expand`.
    """
    pairs = []
    for text in overrides:
        override = parsed(text)
        value = override and override.value()
        if override and isinstance(value, IntervalSweep):
            pairs.append([f"{override.get_key_element()}={end}" for end in (value.start, value.end)])
        elif override and isinstance(value, RangeSweep) and _is_longer(value, MOST_JOBS):
            pairs.append([f"{override.get_key_element()}={value.start}"] * 2)
        else:
            pairs += [job[:1] * 2 for job in expand([text], multirun=True, problems=problems, extra=extra)[:1] if job]
    return [list(job) for job in dict.fromkeys([tuple(first for first, _ in pairs), tuple(last for _, last in pairs)])]


def _choices(override: Override, extra: Path | None) -> list[str]:
    """The override itself, or one for each swept value."""
    if not override.is_sweep_override():
        return [override.input_line or ""]
    key, swept = override.get_key_element(), override.value()
    if isinstance(swept, Glob):
        values = swept.filter(group_options(group_of(f"{ALIASES.get(key, key)}="), search_path(extra)))
    else:
        values = list(override.sweep_string_iterator())
    return [f"{key}={value}" for value in values]


@dataclass(frozen=True)
class Command:
    """A command line's overrides, by what they are for.

    Attributes:
        search: the launcher and sweeper that it or its config files choose.
        overrides: of the runs: `hydra.sweeper.params` of config files without the keys that are typed, then the typed.
        hydra: typed overrides of Hydra's own config.
    """

    search: Search
    overrides: list[str]
    hydra: list[str]


def read_command(typed: Sequence[str], problems: list[str], *, multirun: bool, extra: Path | None = None) -> Command:
    """Finds the launcher and sweeper of a command line and of the config files that it names.

    Args:
        typed: the overrides.
        problems: a line is added for each fault in Hydra's own config and in the config files.
        multirun: whether it is a sweep.
        extra: the user's config tree.
    """
    on_runs = [text for text in typed if not on_hydra(text)]
    refusals = {text: _refused_typed(text) for text in typed if on_hydra(text)}
    problems += filter(None, refusals.values())
    fitting = [text for text, problem in refusals.items() if problem is None]
    refused = [text for text in typed if group_of(text) in CHOICES and text not in fitting]
    if refused:  # what else is typed depends on it: only the choice is a problem
        sweeper = next((text.partition("=")[2] for text in refused if group_of(text) == "hydra/sweeper"), BASIC)
        return Command(Search(sweeper=sweeper), on_runs, fitting)
    search = Search()
    of_search = [text for text in fitting if group_of(text) in CHOICES]
    if fitting or extra is not None:
        chosen = [*(text for text in on_runs if _chooses_one(text, extra)), *of_search]
        search = compose_search(accepted_words(chosen, problems, extra))
        others = [text for text in fitting if text not in of_search]
        if search.sweeper == BASIC:
            unused = [text for text in others if search.is_own or not _is_option(text)]
            problems += [f"{text}: {NO_EFFECT}" for text in unused]
            others = [text for text in others if text not in unused]
        search = _with_options(search, chosen, others, problems, extra)
    if not multirun:
        problems += [f"{text}: has an effect with -m (--multirun) only" for text in of_search]
        problems += [f"{file}: {OF_FILES} have an effect with -m (--multirun) only" for file in search.files]
        return Command(search, on_runs, fitting)
    keys = {_node(text) for text in on_runs}
    params = [text for key, value in search.params.items() if _node(text := f"{key}={value}") not in keys]
    return Command(search, [*params, *on_runs], fitting)


def _is_option(text: str) -> bool:
    """Whether an override sets an option of a launcher."""
    return text.lstrip("+~").startswith(f"{OPTIONS}.")


def _with_options(
    search: Search, chosen: Sequence[str], typed: Sequence[str], problems: list[str], extra: Path | None
) -> Search:
    """The search with typed options; adds a problem for each that does not fit, and for a plugin that is missing."""
    if problem := option_problem(LAUNCHER, search.launcher, search_path(extra)):
        problems.append(f"{LAUNCHER}={search.launcher}: {problem}")
        return search
    strange = {text: problem for text in typed if _is_option(text) and (problem := unknown_option(search, text))}
    problems += strange.values()
    if typed:
        search = compose_search(
            accepted_words([*chosen, *(text for text in typed if text not in strange)], problems, extra)
        )
    problems += launcher_problems(search)
    return search


def _node(text: str) -> str:
    """Where an override applies: `teacher` of `student@teacher=cnn`."""
    return text.partition("=")[0].lstrip("+~").rpartition("@")[2]


def _refused_typed(text: str) -> str | None:
    """The problem of a typed override of Hydra's own config."""
    override = parsed(text)
    if override is None:
        return not_parsed(text)
    key = override.key_or_group
    if override.is_sweep_override():
        return f"{text}: a launcher, a sweeper and their options cannot be swept"
    if key == SEARCH_PATH.removesuffix("="):
        return f"{text}: a config tree of one's own is --config-dir DIR"
    if f"{key}.".startswith(f"{PARAMS}."):
        return f"{text}: is for config files; on the command line the keys themselves are swept: -m seed=0,1"
    if key in CHOICES and (problem := option_problem(key, str(override.value()), [])):
        return f"{text}: {problem}"
    for maximized in itertools.chain.from_iterable(MAXIMIZED.values()):
        if key == maximized.partition("=")[0] and text != maximized:
            return f"{text}: the objective is top-1: {maximized}"
    return None


def _chooses_one(text: str, extra: Path | None) -> bool:
    """Whether an override chooses one option of a group."""
    override = parsed(text)
    words = [*search_path(extra), *hydra_overrides(text)]
    return override is not None and not override.is_sweep_override() and chooses_group(words[-1], words)
