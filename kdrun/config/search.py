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

_OPTUNA = "hydra-optuna-sweeper"
CHOICES: Mapping[str, Mapping[str, str]] = {
    "hydra/launcher": {
        BASIC: "hydra-core",
        "joblib": "hydra-joblib-launcher",
        "submitit_local": "hydra-submitit-launcher",
        "submitit_slurm": "hydra-submitit-launcher",
    },
    "hydra/sweeper": {BASIC: "hydra-core", "optuna": _OPTUNA},
    "hydra/sweeper/sampler": dict.fromkeys(("tpe", "random", "cmaes", "nsgaii", "motpe", "grid"), _OPTUNA),
}
"""The options that a config file may choose, by group, with their packages."""

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
        params: `hydra.sweeper.params`: swept keys with their values, as text.
        files: config files from outside kdrun that set any of it.
    """

    launcher: str = BASIC
    sweeper: str = BASIC
    params: Mapping[str, str] = field(default_factory=dict)
    files: tuple[str, ...] = ()

    @property
    def is_own(self) -> bool:
        """Whether kdrun's own sweep runs it."""
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


_COUNT = _Plain(f"an integer of at least 1 and at most {MOST_COUNTED}", lambda value: _is_integer(value, 1))
_WHOLE = _Plain(f"an integer of at least 0 and at most {MOST_COUNTED}", lambda value: _is_integer(value, 0))
_FRACTION = _Plain("a number from 0 to 1", lambda value: type(value) in (int, float) and 0 <= value <= 1)
_SWITCH = _Plain("true or false", lambda value: isinstance(value, bool))
_LINE = _Plain("one line of plain text", _is_line)
_MAXIMIZE = _Plain("maximize: the objective is top-1", lambda value: value == "maximize")

_LAUNCHER = {
    **dict.fromkeys(("n_jobs", "timeout_min", "cpus_per_task", "mem_gb", "array_parallelism", "cpus_per_gpu"), _COUNT),
    **dict.fromkeys(("gpus_per_node", "gpus_per_task", "signal_delay_s", "max_num_timeout"), _WHOLE),
    **dict.fromkeys(("name", "partition", "qos", "account", "constraint", "comment", "exclude", "gres"), _LINE),
    **dict.fromkeys(("mem_per_gpu", "mem_per_cpu"), _LINE),
}
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
_BLOCK: Mapping[str, Any] = {"launcher": _LAUNCHER, "sweeper": _SWEEPER}
PARAMS = "hydra.sweeper.params"


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
