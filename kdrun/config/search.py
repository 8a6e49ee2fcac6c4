"""What a config file from outside kdrun may set under `hydra.`: a launcher, a sweeper, their plain options.

A config file is data, but Hydra builds objects from the nodes under `hydra.` (callbacks, log handlers, launchers) and
writes to their paths. So a file may choose from the closed lists of this module and set plain values; every other key
is a problem, in a `hydra:` block, by a package, or by a defaults list.
"""

from __future__ import annotations

import posixpath
import re
from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import dataclass, field
from typing import Any

from hydra.core.default_element import GroupDefault, InputDefault

from kdrun.spec.signature import unknown

BASIC = "basic"
"""Hydra's own launcher and sweeper; kdrun's sweep replaces both."""

LAUNCHER = "hydra/launcher"
_OPTUNA = "hydra-optuna-sweeper"
CHOICES: Mapping[str, Mapping[str, str]] = {
    LAUNCHER: {
        BASIC: "hydra-core",
        "joblib": "'kdrun[joblib]'",
        "submitit_local": "'kdrun[submitit]'",
        "submitit_slurm": "'kdrun[submitit]'",
        "ray": "'kdrun[ray]'",
    },
    "hydra/sweeper": {BASIC: "hydra-core", "optuna": _OPTUNA},
    "hydra/sweeper/sampler": dict.fromkeys(("tpe", "random", "cmaes", "nsgaii", "motpe", "grid"), _OPTUNA),
}
"""The options that a config file may choose, by group, with what pip installs for them."""

PLUGINS: Mapping[str, str] = {
    "joblib": "hydra_joblib_launcher",
    "submitit_local": "hydra_submitit_launcher",
    "submitit_slurm": "hydra_submitit_launcher",
    "ray": "hydra_ray_launcher",
}
"""The launchers whose options are in kdrun's config, with their packages in `hydra_plugins`."""

MAXIMIZED: Mapping[str, tuple[str, ...]] = {
    BASIC: (),  # tries all
    "optuna": ("hydra.sweeper.direction=maximize",),
}
"""The overrides by which a sweeper maximizes top-1: Optuna minimizes by default."""


@dataclass(frozen=True)
class Search:
    """The launcher and sweeper of a composed config.

    Attributes:
        launcher: an option of `hydra/launcher`.
        sweeper: an option of `hydra/sweeper`.
        options: `hydra.launcher`, not resolved.
        params: `hydra.sweeper.params`: swept keys with their values, as text.
        files: config files from outside kdrun that set any of it.
    """

    launcher: str = BASIC
    sweeper: str = BASIC
    options: Mapping[str, Any] = field(default_factory=dict)
    params: Mapping[str, str] = field(default_factory=dict)
    files: tuple[str, ...] = ()

    @property
    def is_own(self) -> bool:
        """Whether kdrun executes the jobs in its own process."""
        return self.launcher == self.sweeper == BASIC


MOST_COUNTED = 1_000_000


@dataclass(frozen=True)
class _Plain:
    """A plain value: what is allowed, in words and as a check."""

    allowed: str
    fits: Callable[[Any], bool]


def _is_line(value: Any) -> bool:
    """A line break would add a line to a batch script; an interpolation can read the environment."""
    return isinstance(value, str) and value.isprintable() and "${" not in value and value != "???"


def _is_integer(value: Any, least: int) -> bool:
    return type(value) is int and least <= value <= MOST_COUNTED


def _is_scalar(value: Any) -> bool:
    return isinstance(value, bool | int | float) or _is_line(value)


def _is_named(item: tuple[Any, Any]) -> bool:
    return _is_line(item[0]) and _is_scalar(item[1])


_COUNT = _Plain(f"an integer of at least 1 and at most {MOST_COUNTED}", lambda value: _is_integer(value, 1))
_WHOLE = _Plain(f"an integer of at least 0 and at most {MOST_COUNTED}", lambda value: _is_integer(value, 0))
_FRACTION = _Plain("a number from 0 to 1", lambda value: type(value) in (int, float) and 0 <= value <= 1)
_SWITCH = _Plain("true or false", lambda value: isinstance(value, bool))
_LINE = _Plain("one line of plain text", _is_line)
_SHARE = _Plain("a number of at least 0", lambda value: type(value) in (int, float) and 0 <= value <= MOST_COUNTED)
_PATH = _Plain("a path", lambda value: isinstance(value, str) and value.isprintable())
_LINES = _Plain("a list of lines", lambda value: isinstance(value, list) and all(map(_is_line, value)))
_NAMED = _Plain(
    "a mapping of plain values", lambda value: isinstance(value, dict) and all(map(_is_named, value.items()))
)
_MAXIMIZE = _Plain("maximize: the objective is top-1", lambda value: value == "maximize")

_REMOTE = {"num_cpus": _COUNT, "num_gpus": _SHARE, "max_retries": _WHOLE}
_LAUNCHER: Mapping[str, Any] = {
    **dict.fromkeys(("n_jobs", "timeout_min", "cpus_per_task", "mem_gb", "array_parallelism", "cpus_per_gpu"), _COUNT),
    **dict.fromkeys(("gpus_per_node", "gpus_per_task", "signal_delay_s", "max_num_timeout"), _WHOLE),
    **dict.fromkeys(("name", "partition", "qos", "account", "constraint", "comment", "exclude", "gres"), _LINE),
    **dict.fromkeys(("mem_per_gpu", "mem_per_cpu"), _LINE),
    "ray": {"init": {"num_cpus": _COUNT}, "remote": _REMOTE},
}
FLAGS = "additional_parameters"
_TYPED_LAUNCHER = {
    **_LAUNCHER,
    "submitit_folder": _PATH,
    "setup": _LINES,
    FLAGS: _NAMED,
    "ray": {"init": {"num_cpus": _COUNT, "address": _LINE}, "remote": _REMOTE},
}
"""Those of the command line: they name commands, files and machines."""

_SAMPLER = {
    **dict.fromkeys(("n_ei_candidates", "population_size"), _COUNT),
    **dict.fromkeys(("seed", "n_startup_trials"), _WHOLE),
    "multivariate": _SWITCH,
}
_SWEEPER = {
    **dict.fromkeys(("n_trials", "n_jobs"), _COUNT),
    "max_failure_rate": _FRACTION,
    "study_name": _LINE,
    "direction": _MAXIMIZE,
    "sampler": _SAMPLER,
}
OPTIONS = "hydra.launcher"
_BLOCK: Mapping[str, Any] = {"launcher": _LAUNCHER, "sweeper": _SWEEPER}
PARAMS = "hydra.sweeper.params"


def unknown_option(search: Search, text: str) -> str | None:
    """The problem of an override of `hydra.launcher` that names no option of the launcher."""
    node: Any = search.options if search.launcher in PLUGINS else None
    for part in text.partition("=")[0].lstrip("+~").split(".")[2:]:
        if not isinstance(node, dict) or node is search.options.get(FLAGS):
            break
        if part not in node:
            allowed = [name for name in node if name != "_target_"]
            return f"{text}: {unknown(part, allowed, f'option of {LAUNCHER}={search.launcher}')}"
        node = node[part]
    return None


def launcher_problems(search: Search) -> list[str]:
    """A problem for each option of the launcher whose value does not fit."""
    return list(_misfits(search.options, _TYPED_LAUNCHER, OPTIONS)) if search.launcher in PLUGINS else []


def _misfits(node: Any, allowed: Mapping[str, Any], path: str) -> Iterator[str]:
    if not isinstance(node, dict):
        yield f"{path}={node!r}: must be a mapping"
        return
    for key, option in allowed.items():
        value = node.get(key)
        if isinstance(option, _Plain):
            if value is not None and not option.fits(value):
                yield f"{path}.{key}={value!r}: must be {option.allowed}"
        elif key in node:
            yield from _misfits(value, option, f"{path}.{key}")


def refusals(config: Any, defaults: Sequence[InputDefault]) -> tuple[list[str], bool]:
    """The problems of a config file's keys under `hydra.`, and whether it has any such keys.

    Args:
        config: the file's content at its place in the whole config, as plain values, not resolved.
        defaults: its defaults list.
    """
    chosen = [default for default in defaults if _is_on_hydra(default)]
    problems = [text for default in chosen if (text := _refused_choice(default))]
    sets_keys = isinstance(config, dict) and "hydra" in config
    if sets_keys:
        problems += _refused_keys(config["hydra"], _BLOCK, "hydra")
    return problems, bool(chosen) or sets_keys


def _place(default: InputDefault) -> str:
    """The group or config that an entry of a defaults list names, without its leading slash."""
    place = default.group if isinstance(default, GroupDefault) else getattr(default, "path", None)
    return posixpath.normpath(place or ".").lstrip("/")


def _is_on_hydra(default: InputDefault) -> bool:
    package = (default.package or "").removeprefix("_global_.")
    return not default.is_self() and (_place(default).split("/")[0] == "hydra" or package.split(".")[0] == "hydra")


def _refused_choice(default: InputDefault) -> str | None:
    group = _place(default)
    if not isinstance(default, GroupDefault) or default.package is not None or group not in CHOICES:
        name = f"{group}@{default.package}" if default.package else group
        return f"defaults: {name}: must not be in a config file; allowed: override /{', /'.join(CHOICES)}"
    if not isinstance(default.value, str) or default.value not in CHOICES[group]:
        return f"defaults: {group}: {default.value}: {unknown(str(default.value), list(CHOICES[group]), 'option')}"
    return None


def _refused_keys(node: Any, allowed: Mapping[str, Any], path: str) -> Iterator[str]:
    if not isinstance(node, dict):
        yield f"{path}: must be a mapping"
        return
    for key, value in node.items():
        name = f"{path}.{key}"
        option = allowed.get(key)
        if name == PARAMS:
            yield from _refused_params(value)
        elif option is None:
            keys = ", ".join(sorted([*allowed, *(["params"] if allowed is _SWEEPER else [])]))
            yield f"{name}: must not be set in a config file; allowed in {path}: {keys}"
        elif not isinstance(option, _Plain):
            yield from _refused_keys(value, option, name)
        elif not option.fits(value):
            yield f"{name}={value!r}: must be {option.allowed}"


def _refused_params(params: Any) -> Iterator[str]:
    if not isinstance(params, dict):
        yield f"{PARAMS}: must be a mapping of swept keys to their values"
        return
    for key, value in params.items():
        parts = [part.strip() for part in re.split(r"[+~@:./=]", str(key))]
        if not _is_line(key) or "hydra" in parts or "=" in key:
            yield f"{PARAMS}: {key!r}: must be a key of a run, such as method.temperature"
        elif not _is_scalar(value):
            yield f"{PARAMS}: {key}={value!r}: must be one line of plain text, such as 1,2,4 or interval(1,8)"
