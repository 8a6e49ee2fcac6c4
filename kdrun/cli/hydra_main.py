"""Calls of Hydra's own main: flags that only show something, and sweeps by other sweepers."""

from __future__ import annotations

import argparse
import contextlib
import os
import sys
from collections.abc import Iterator, Sequence

import hydra
from hydra.core.hydra_config import HydraConfig
from omegaconf import DictConfig, OmegaConf
from omegaconf.errors import OmegaConfBaseException

from kdrun.cli.options import BAD_INPUT, misused, refuse
from kdrun.config.command_line import Command, expand, read_command
from kdrun.config.compose import ConfigError, compose_job, hydra_overrides, hydra_session, on_hydra
from kdrun.config.composition import COMPOSE_ERRORS, CONFIG_NAME, config_directory
from kdrun.config.search import MAXIMIZED
from kdrun.config.yaml_files import restart_resolving

FULL_ERROR = "HYDRA_FULL_ERROR"
SHELLS = ("bash", "fish", "zsh")
COMPLETION = ("install", "uninstall", "query")


def look(options: argparse.Namespace) -> int:
    """Shows help, config, information or completions; the config is checked first, since Hydra acts on it."""
    problems = misused(options)
    problems += _problems_of_completion(options.overrides) if options.shell_completion else _problems_of_look(options)
    if problems:
        return refuse(list(dict.fromkeys(problems)))
    switches = ("help", "hydra_help", "shell_completion", "resolve")
    flags = [f"--{name.replace('_', '-')}" for name in switches if vars(options)[name]]
    whole = options.cfg == "hydra" and options.resolve  # what is under hydra. refers to the rest
    cfg, package = ("all", options.package or "hydra") if whole else (options.cfg, options.package)
    named = {"cfg": cfg, "info": options.info, "package": package}
    flags += [f"--{name}={value}" for name, value in named.items() if value]
    words = options.overrides
    if options.hydra_help:  # which does not show the config of runs
        words = [text for text in words if on_hydra(text)]
    try:
        with _raising():
            _call_hydra([*flags, *_config_dir(options), *hydra_overrides(*words)])
    except SystemExit as error:  # Hydra has printed why
        return BAD_INPUT if error.code else 0
    except COMPOSE_ERRORS as error:
        return refuse([" ".join(str(error).split())])
    return 0


@contextlib.contextmanager
def _raising() -> Iterator[None]:
    """In this context Hydra raises its errors instead of printing a traceback."""
    before = os.environ.get(FULL_ERROR)
    os.environ[FULL_ERROR] = "1"
    try:
        yield
    finally:
        del os.environ[FULL_ERROR]
        if before is not None:
            os.environ[FULL_ERROR] = before


def _problems_of_completion(words: Sequence[str]) -> list[str]:
    found = [pair for word in words if (pair := word.partition("="))[0] in COMPLETION]
    if len(found) != 1 or found[0][2] not in SHELLS:
        return [f"--shell-completion: must be install=SHELL or uninstall=SHELL; allowed: {', '.join(SHELLS)}"]
    if found[0][0] == "query" and "COMP_LINE" not in os.environ:
        return ["--shell-completion query=...: is called by the shell, which sets COMP_LINE"]
    return []


def _problems_of_look(options: argparse.Namespace) -> list[str]:
    problems: list[str] = []
    try:
        with hydra_session():
            command = read_command(options.overrides, problems, multirun=True, extra=options.config_dir)
            typed = [text for text in options.overrides if not on_hydra(text)]
            (overrides,) = expand(typed, multirun=False, problems=problems)
            config = compose_job(overrides, problems, extra=options.config_dir, search=command.search)
            if options.resolve:
                restart_resolving()
                OmegaConf.resolve(config)
    except ConfigError as error:
        problems += error.problems
    except OmegaConfBaseException as error:
        problems.append("; ".join(str(error).split("\n")[:2]))
    return list(dict.fromkeys(problems))


def search_main(command: Command, options: argparse.Namespace) -> int:
    """Hands a checked sweep to Hydra, which launches its jobs."""
    from kdrun.log import log

    sweeper = command.search.sweeper
    if sweeper not in MAXIMIZED:
        log.info("hydra/sweeper=%s: the objective is top-1 in percent, to be maximized", sweeper)
    further = ["hydra.sweeper.params=null"] if command.search.params else []  # they are among the overrides
    if command.search.options.get("n_jobs", 1) is None:  # as joblib's plugin has it by itself
        further.append("hydra.launcher.n_jobs=-1")
    words = [*command.hydra, *MAXIMIZED.get(sweeper, ()), *further, *hydra_overrides(*command.overrides)]
    _call_hydra(["--multirun", *_config_dir(options), *words])
    return 0


def _config_dir(options: argparse.Namespace) -> list[str]:
    return [f"--config-dir={options.config_dir}"] if options.config_dir else []


def _call_hydra(words: list[str]) -> None:
    sys.argv = ["kdrun", *words]
    hydra.main(version_base="1.3", config_path=str(config_directory()), config_name=CONFIG_NAME)(_hydra_task)()


def _hydra_task(config: DictConfig) -> float:
    """One job of another sweeper.

    Returns:
        The objective of a search, to be maximized: top-1 of the last epoch in percent, on the validation split where
        one is held out, else on the test set.
    """
    from kdrun.cli.execution import runner_for
    from kdrun.config.preflight import check_job
    from kdrun.log import log, set_up_console
    from kdrun.spec.components import TRUST_VARIABLE

    set_up_console()
    if TRUST_VARIABLE in HydraConfig.get().job.env_set:
        raise ConfigError([f"hydra.job.env_set: {TRUST_VARIABLE} is taken from the environment, never from a config"])
    job = check_job(config, tuple(HydraConfig.get().overrides.task))
    outcome = runner_for([job]).execute(job.spec, config=job.config)
    log.info("result: %s", outcome.run.result_path)
    split = "val" if "val" in outcome.result else "test"
    top1: float = outcome.result[split]["last"]["top1"]
    warning = "" if split == "val" else ": the search is on the test set; dataset.val_fraction=0.1 holds out a split"
    log.info("objective: top-1 %.2f %% on %s%s", top1, split, warning)
    return top1
