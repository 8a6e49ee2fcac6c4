"""Composes every job of a command line, and tells all that is wrong with it in one message.

Hydra's own main stops at the first bad override, after it has written files; so the command line composes each job
itself. When that fails, the overrides that do not fit are looked for, told and left out.
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
    misnamed,
)
from kdrun.config.quoting import parsed
from kdrun.config.search import CHOICES, Search, not_installed
from kdrun.config.secrets import watch_environment
from kdrun.spec.signature import unknown

SPOKEN = {
    "teacher": "student",
    "teacher.method": "method",
    "teacher.teacher": "student",
    "teacher.trained_on": "dataset",
    "method.assistant": "student",
}
"""Groups as the user types them, and where their options come from."""

FURTHER_TEACHER = re.compile(r"(teacher\.also\.\w+)=")
EVALUATION = "evaluation"
"""A group of which several options can be chosen: evaluation=[test,translate]."""

OPEN = "method.terms"
"""A node to which the user can add what he likes."""

LONGEST_TOLD = 80
"""Characters of an override that is nested too deeply, in its message."""

OF_FILES = "its launcher, sweeper and hydra.sweeper.params"
NO_EFFECT = "has no effect on runs; where they are written is runtime.output_root"


class ConfigError(ValueError):
    """What is wrong with a command line or config: one line for each problem."""

    def __init__(self, problems: Sequence[str]) -> None:
        super().__init__("\n".join(problems))
        self.problems = list(problems)


def in_hydras_words(*overrides: str) -> list[str]:
    """Overrides as Hydra wants them: a teacher's network and method are students and methods in another place."""
    return [word for text in last_choices(overrides) for word in _in_hydras_words(text)]


def last_choices(overrides: Sequence[str]) -> list[str]:
    """Overrides without those that a later one replaces, where Hydra does not do so itself."""
    keys = [text.partition("=")[0] for text in overrides]
    last = {key: index for index, key in enumerate(keys)}
    return [
        text
        for index, (key, text) in enumerate(zip(keys, overrides, strict=True))
        if last[key] == index or not (key in SPOKEN or key in (OPEN, EVALUATION) or FURTHER_TEACHER.match(text))
    ]


def _in_hydras_words(text: str) -> list[str]:
    if text == "teacher=none":
        return ["~student@teacher"]
    for spoken, group in SPOKEN.items():
        if text.startswith(f"{spoken}="):
            return [f"{group}@{text}"]
    if text.startswith(f"{EVALUATION}="):
        return _evaluations_in_hydras_words(text)
    if FURTHER_TEACHER.match(text):
        return [f"+student@{text}"]
    if text.startswith(f"{OPEN}="):  # Hydra would add them to those of the config
        return [f"~{OPEN}", f"+{text}"]
    return [f"++{text}" if text.startswith(f"{OPEN}.") else text]


def _evaluations_in_hydras_words(text: str) -> list[str]:
    """Each option of `evaluation` at a place of its own; a value that is no option or list of options as it is."""
    override = parsed(text)
    value: Any = override and override.value()
    names = value if isinstance(value, list) else [value]
    if not all(isinstance(name, str) and re.fullmatch(r"[\w-]+", name) for name in names):
        return [text]
    return [f"+{EVALUATION}@{EVALUATION}.{name}={name}" for name in dict.fromkeys(names)]


@contextmanager
def hydra_session() -> Iterator[None]:
    """Within it jobs can be composed."""
    watch_environment()
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
        problems: every override that does not fit is told here by name and left out; and every config file that sets
            a launcher or a sweeper without being one of `search`.
        extra: a config tree of the user's own, searched behind the shipped one.
        search: the command's; None where launchers and sweepers have no effect.

    Raises:
        ConfigError: `extra` is no directory, or not even the shipped config can be composed (with an `extra` that
            breaks it).
    """
    idle = [text for text in overrides if on_hydra(text)]
    problems += [f"{text}: {NO_EFFECT}" for text in idle]
    words = accepted_words([text for text in overrides if text not in idle], problems, extra)
    taken_up = () if search is None else search.files
    problems += [
        f"{file}: {OF_FILES} have an effect on kdrun -m only, where the option that names the file is not swept"
        for file in compose_search(words).files
        if file not in taken_up
    ]
    return compose_config(words)


def on_hydra(text: str) -> bool:
    """Whether an override is of Hydra's own config."""
    return text.lstrip("+~").startswith(("hydra.", "hydra/"))


def accepted_words(overrides: Sequence[str], problems: list[str], extra: Path | None) -> list[str]:
    """Overrides as Hydra wants them, the search path first; those that do not fit are told and left out."""
    words = [*search_path(extra), *in_hydras_words(*overrides)]
    words = _with_a_recipe(_with_single_options(words, problems), problems)
    try:
        compose_config(words)
        return words
    except COMPOSE_ERRORS as error:
        accepted = _accepted(words, error, problems)
        if len(accepted) == len(words):
            raise ConfigError([_first_lines(error)]) from error
        return accepted


def _with_single_options(words: list[str], problems: list[str]) -> list[str]:
    """Tells and leaves out lists and mappings in place of a group's option: Hydra merges them or passes them over."""
    kept = []
    for word in words:
        value = None
        if chooses_group(word, words) and not word.startswith("~"):
            override = parsed(word)
            value = override and override.value()
        spoken = word.rpartition("@")[2]
        if isinstance(value, dict) or (isinstance(value, list) and group_of(word) == EVALUATION):
            problems.append(f"{spoken}: {unknown('', group_options(group_of(word), words), 'option')}")
        elif isinstance(value, list):
            problems.append(f"{spoken}: must be one option; to run each: -m {spoken.replace('[', '').replace(']', '')}")
        else:
            kept.append(word)
    return kept


def _with_a_recipe(words: list[str], problems: list[str]) -> list[str]:
    """Tells a recipe that does not exist, which Hydra passes over, and puts another in its place."""
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


def _accepted(overrides: Sequence[str], error: Exception, problems: list[str]) -> list[str]:
    """The overrides that fit; each that does not is explained.

    The search path comes first, then the choices of groups, since they decide what the others can be. Halves that fail
    are halved again, since a composition takes time and few overrides are wrong.

    Args:
        overrides: do not fit as a whole.
        error: what their composition raised.
        problems: the explanations go here.
    """
    accepted: list[str] = []

    def rank(text: str) -> int:
        return 0 if text.startswith(SEARCH_PATH) else 1 if chooses_group(text, overrides) else 2

    def add(texts: Sequence[str]) -> None:
        try:
            compose_config([*accepted, *texts])
            accepted.extend(texts)
        except COMPOSE_ERRORS as error:
            divide(texts, error)

    def divide(texts: Sequence[str], error: Exception) -> None:
        if len(texts) == 1:
            problems.extend(_explain(texts[0], error, accepted))
        elif texts:
            middle = len(texts) // 2
            add(texts[:middle])
            add(texts[middle:])

    divide(sorted(overrides, key=rank), error)
    return accepted


def _explain(text: str, error: Exception, accepted: list[str]) -> list[str]:
    """What is wrong with an override that does not fit: a line, or one for each key that a config file must not set."""
    if isinstance(error, RefusedFileError):
        return error.problems
    if isinstance(error, RecursionError):
        return [f"{text if len(text) <= LONGEST_TOLD else text[:LONGEST_TOLD] + '...'}: is nested too deeply"]
    key, _, value = text.partition("=")
    if chooses_group(text, accepted) and not text.startswith("~"):
        options = group_options(group_of(text), accepted)
        if value not in options:
            problem = misnamed(group_of(text), value, accepted) or unknown(value, options, "option")
            place = f"{EVALUATION}: {value}" if group_of(text) == EVALUATION else f"{key.rpartition('@')[2]}={value}"
            return [f"{place}: {problem}"]
    elif not text.startswith(("+", "~")) and not on_hydra(text):
        places = (word.rpartition("@")[2] for word in accepted if chooses_group(word, accepted))
        chosen = {word.partition("=")[0]: word for word in places}
        config = OmegaConf.to_container(compose_config(accepted))
        missing = _missing_key(key.split("."), config, chosen)
        if missing is not None:
            return [f"{text}: {missing}"]
    spoken = key.rpartition("@")[2] + text[len(key) :]
    if gone := re.search(r"(?:In '([\w/-]+)': )?Could not (?:find|load) '([\w/-]+)/([\w.-]+)'", str(error)):
        place, group, option = gone.groups()
        inside = "" if place in (None, "config", "hydra/config") else f" in {place}"
        return [f"{spoken}: {group}={option}{inside}{_gone(group, option, accepted)}"]
    return [f"{spoken}: {_first_lines(error)}"]


def _gone(group: str, option: str, words: Sequence[str]) -> str:
    """What is wrong with an option that a config file chooses and that does not exist."""
    known = CHOICES.get(group, {})
    if option in known:
        return f" {not_installed(known[option])}"
    return f": {misnamed(group, option, words) or unknown(option, known or group_options(group, words), 'option')}"


def _missing_key(path: list[str], node: Any, chosen: Mapping[str, str]) -> str | None:
    """What is wrong with the first part of a key that does not exist in a config; None where all exist.

    Args:
        path: the parts of the key.
        node: the config.
        chosen: the options of groups that were chosen, by their place: `method` to `method=at`.
    """
    for depth, part in enumerate(path):
        if not isinstance(node, dict) or part not in node:
            place = ".".join(path[:depth])
            inside = f" in {chosen.get(place, place)}" if depth else ""
            allowed = [str(child) for child in node if child != "_target_"] if isinstance(node, dict) else []
            return unknown(part, allowed, f"key{inside}")
        node = node[part]
    return None


def group_of(text: str) -> str:
    """The group an override names, if it names one: without its sign and its package."""
    return text.partition("=")[0].lstrip("+~").partition("@")[0]


def chooses_group(text: str, overrides: Sequence[str]) -> bool:
    group = group_of(text)
    return group != "" and "." not in group and bool(group_options(group, overrides))


def _first_lines(error: Exception) -> str:
    lines = [line.strip() for line in str(error).splitlines() if line.strip()]
    # Of broken YAML, file, line and column come last.
    return "; ".join(lines if isinstance(error, yaml.YAMLError) else lines[:3])
