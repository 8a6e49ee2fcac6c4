"""Composes the jobs of a command line, and reports every override that does not fit in one message.

Hydra's own main stops at the first bad override, after it has written files. Here the overrides that do not fit are
explained and left out, so that the others are checked too.
"""

from __future__ import annotations

import os
import re
from collections.abc import Iterator, Mapping, Sequence
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import yaml
from hydra import initialize_config_dir
from hydra.core.global_hydra import GlobalHydra
from omegaconf import DictConfig, OmegaConf

from kdrun.config.composition import (
    COMPOSE_ERRORS,
    SEARCH_PATH,
    RefusedFileError,
    compose_config,
    compose_search,
    config_directory,
    group_options,
    option_problem,
    prepare_hydra,
)
from kdrun.config.quoting import parsed
from kdrun.config.search import Search
from kdrun.config.secrets import watch_environment
from kdrun.spec.signature import unknown

ALIASES = {
    "teacher": "student",
    "teacher.method": "method",
    "teacher.teacher": "student",
    "teacher.trained_on": "dataset",
    "method.assistant": "student",
}
"""Keys that choose an option of another group: `teacher=cnn` is Hydra's `student@teacher=cnn`."""

FURTHER_TEACHER = re.compile(r"teacher\.also\.\w+")
EVALUATION = "evaluation"
"""A group of which several options can be chosen: evaluation=[test,translate]."""

TERMS = "method.terms"
"""A node that accepts new keys."""

MOST_SHOWN = 80
"""Characters of an override that is nested too deeply, in its message."""

OF_FILES = "its launcher, sweeper and hydra.sweeper.params"
NO_EFFECT = "has no effect on runs; where they are written is runtime.output_root"


class ConfigError(ValueError):
    """The problems of a command line or config, one line each."""

    def __init__(self, problems: Sequence[str]) -> None:
        super().__init__("\n".join(problems))
        self.problems = list(problems)


def hydra_overrides(*overrides: str) -> list[str]:
    """Typed overrides in Hydra's form; of a group chosen twice only the last."""
    return [word for text in last_choices(overrides) for word in _hydra_overrides(text)]


def last_choices(overrides: Sequence[str]) -> list[str]:
    """Overrides without the replaced ones (a later one for the same key), where Hydra does not do so itself."""
    keys = [text.partition("=")[0] for text in overrides]
    last = {key: index for index, key in enumerate(keys)}
    return [
        text
        for index, (key, text) in enumerate(zip(keys, overrides, strict=True))
        if last[key] == index or not (key in (*ALIASES, TERMS, EVALUATION) or FURTHER_TEACHER.fullmatch(key))
    ]


def _hydra_overrides(text: str) -> list[str]:
    key, equals, _ = text.partition("=")
    if text == "teacher=none":
        return ["~student@teacher"]
    if equals and key in ALIASES:
        return [f"{ALIASES[key]}@{text}"]
    if equals and key == EVALUATION:
        return _evaluation_overrides(text)
    if equals and FURTHER_TEACHER.fullmatch(key):
        return [f"+student@{text}"]
    if equals and key == TERMS:  # Hydra would add them to those of the config
        return [f"~{TERMS}", f"+{text}"]
    return [f"++{text}" if text.startswith(f"{TERMS}.") else text]


def _evaluation_overrides(text: str) -> list[str]:
    """One override for each chosen evaluation; a value that is no option or list of options is returned as it is."""
    override = parsed(text)
    value: Any = override and override.value()
    names = value if isinstance(value, list) else [value]
    if not all(isinstance(name, str) and re.fullmatch(r"[\w-]+", name) for name in names):
        return [text]
    return [f"+{EVALUATION}@{EVALUATION}.{name}={name}" for name in dict.fromkeys(names)]


@contextmanager
def hydra_session() -> Iterator[None]:
    """A context in which jobs can be composed."""
    watch_environment()
    prepare_hydra()
    GlobalHydra.instance().clear()
    with initialize_config_dir(str(config_directory()), version_base="1.3", job_name="kdrun"):
        yield


def compose_job(
    overrides: Sequence[str],
    problems: list[str],
    *,
    extra: Path | None = None,
    search: Search | None = None,
) -> DictConfig:
    """Composes one job.

    Args:
        overrides: of this job, none of them swept.
        problems: a line is added for each override that does not fit, which is left out, and for each config file that
            sets a launcher or a sweeper without being one of `search`.
        extra: the user's config tree, searched behind the shipped one.
        search: the command's; None where launchers and sweepers have no effect.

    Raises:
        ConfigError: `extra` is no directory, or not even the shipped config can be composed (with an `extra` that
            breaks it).
    """
    idle = [text for text in overrides if on_hydra(text)]
    problems += [f"{text}: {NO_EFFECT}" for text in idle]
    words = accepted_words([text for text in overrides if text not in idle], problems, extra)
    used = () if search is None else search.files
    problems += [
        f"{file}: {OF_FILES} have an effect on kdrun -m only, where the option that names the file is not swept"
        for file in compose_search(words).files
        if file not in used
    ]
    return compose_config(words)


def on_hydra(text: str) -> bool:
    """Whether an override is of Hydra's own config."""
    return text.lstrip("+~").startswith(("hydra.", "hydra/"))


def accepted_words(overrides: Sequence[str], problems: list[str], extra: Path | None) -> list[str]:
    """Overrides in Hydra's form, the search path first; overrides that do not fit are explained and left out.

    Choices of groups come before values, since they decide which keys exist.
    """
    words = [*search_path(extra), *hydra_overrides(*overrides)]
    words = _with_a_recipe(_with_single_options(words, problems), problems)
    try:
        compose_config(words)
        return words
    except COMPOSE_ERRORS as error:
        whole = error
    choices = [text for text in words if text.startswith(SEARCH_PATH) or chooses_group(text, words)]
    accepted: list[str] = []
    for texts in (choices, [text for text in words if text not in choices]):
        try:
            compose_config([*accepted, *texts])
            accepted += texts
        except COMPOSE_ERRORS:
            for text in texts:
                try:
                    compose_config([*accepted, text])
                    accepted.append(text)
                except COMPOSE_ERRORS as error:
                    problems += _explain(text, error, accepted)
    if len(accepted) == len(words):
        raise ConfigError([_first_lines(whole)]) from whole
    return accepted


def _with_single_options(words: list[str], problems: list[str]) -> list[str]:
    """Refuses and leaves out lists and mappings instead of a group's option, which Hydra merges or ignores."""
    kept = []
    for word in words:
        override = parsed(word) if chooses_group(word, words) and not word.startswith("~") else None
        value, typed = override and override.value(), word.rpartition("@")[2]
        if isinstance(value, dict) or (isinstance(value, list) and group_of(word) == EVALUATION):
            problems.append(f"{typed}: {unknown('', group_options(group_of(word), words), 'option')}")
        elif isinstance(value, list):
            problems.append(f"{typed}: must be one option; to run each: -m {typed.replace('[', '').replace(']', '')}")
        else:
            kept.append(word)
    return kept


def _with_a_recipe(words: list[str], problems: list[str]) -> list[str]:
    """Replaces a recipe that does not exist, which Hydra ignores; it is a problem."""
    chosen, dataset = (
        next((word.partition("=")[2] for word in words if word.startswith(f"{group}=")), None)
        for group in ("recipe", "dataset")
    )
    options = group_options("recipe", words)
    if chosen is not None and chosen not in options:
        problems.append(f"recipe={chosen}: {unknown(chosen, options, 'option')}")
    elif chosen is None and dataset in set(group_options("dataset", words)) - set(options):
        problems.append(f"dataset={dataset}: has no recipe of its own; add recipe=OPTION: {', '.join(options)}")
    else:
        return words
    return [*(word for word in words if word != f"recipe={chosen}"), f"recipe={options[0]}"]


def search_path(extra: Path | None) -> list[str]:
    """The override that adds a user's config tree behind the shipped one."""
    if extra is None:
        return []
    if not os.path.isdir(extra):
        raise ConfigError([f"--config-dir {extra}: no such directory"])
    quoted = re.sub(r"(\\*)('|$)", lambda found: found[1] * 2 + found[2].replace("'", r"\'"), str(extra.resolve()))
    return [f"{SEARCH_PATH}['file://{quoted}']"]


def _explain(text: str, error: Exception, accepted: list[str]) -> list[str]:
    """The problem of an override that does not fit: one line, or one for each key that a config file must not set."""
    if isinstance(error, RefusedFileError):
        return error.problems
    if isinstance(error, RecursionError):
        return [f"{text if len(text) <= MOST_SHOWN else text[:MOST_SHOWN] + '...'}: is nested too deeply"]
    key, _, value = text.partition("=")
    typed = text.rpartition("@")[2] if "@" in key else text
    if chooses_group(text, accepted) and not text.startswith("~"):
        if problem := option_problem(group_of(text), value, accepted):
            return [f"{EVALUATION}: {value}: {problem}" if group_of(text) == EVALUATION else f"{typed}: {problem}"]
    elif not text.startswith(("+", "~")) and not on_hydra(text):
        places = (word.rpartition("@")[2] for word in accepted if chooses_group(word, accepted))
        chosen = {word.partition("=")[0]: word for word in places}
        missing = _missing_key(key.split("."), OmegaConf.to_container(compose_config(accepted)), chosen)
        if missing is not None:
            return [f"{text}: {missing}"]
    if gone := re.search(r"(?:In '([\w/-]+)': )?Could not (?:find|load) '([\w/-]+)/([\w.-]+)'", str(error)):
        place, group, option = gone.groups()
        inside = "" if place in (None, "config", "hydra/config") else f" in {place}"
        return [f"{typed}: {group}={option}{inside}: {option_problem(group, option, accepted)}"]
    return [f"{typed}: {_first_lines(error)}"]


def _missing_key(path: list[str], node: Any, chosen: Mapping[str, str]) -> str | None:
    """The problem of the first part of a key that does not exist in a config; None where all exist.

    Args:
        path: the parts of the key.
        node: the config.
        chosen: the chosen options of groups, by their place: `method` to `method=at`.
    """
    for depth, part in enumerate(path):
        if not isinstance(node, dict) or part not in node:
            place = ".".join(path[:depth])
            inside = f" in {chosen.get(place, place)}" if depth else ""
            allowed = [str(child) for child in node if child != "_target_"] if isinstance(node, dict) else []
            own = isinstance(node, dict) and not str(node.get("_target_", "kdrun.")).startswith("kdrun.")
            hint = f"; an option that only the constructor has: +{'.'.join(path)}=VALUE" if own else ""
            return unknown(part, allowed, f"key{inside}") + hint
        node = node[part]
    return None


def group_of(text: str) -> str:
    """The group that an override names, if any: without its sign and its package."""
    return text.partition("=")[0].lstrip("+~").partition("@")[0]


def chooses_group(text: str, overrides: Sequence[str]) -> bool:
    """Whether an override chooses an option of a group of the config, or of the search path among `overrides`."""
    group = group_of(text)
    return group != "" and "." not in group and bool(group_options(group, overrides))


def _first_lines(error: Exception) -> str:
    lines = [line.strip() for line in str(error).splitlines() if line.strip()]
    # Of broken YAML, file, line and column come last.
    return "; ".join(lines if isinstance(error, yaml.YAMLError) else lines[:3])
