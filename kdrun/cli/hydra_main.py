"""What Hydra's own main serves: its flags, and jobs of other launchers and sweepers."""

from __future__ import annotations

import argparse
import sys
from collections.abc import Sequence

import hydra
from hydra.core.hydra_config import HydraConfig
from omegaconf import DictConfig

from kdrun.cli.options import FOREIGN, refuse, run_parser
from kdrun.config.compose import (
    ConfigError,
    compose_job,
    config_directory,
    expand,
    hydra_group_options,
    hydra_session,
    in_hydras_words,
)
from kdrun.config.composition import CONFIG_NAME
from kdrun.experiment.signature import unknown


def hydra_main(words: Sequence[str]) -> int:
    """Hands over to Hydra, after its own way of telling a bad override has been spared the user."""
    options, _ = run_parser().parse_known_intermixed_args(words)
    if options.cfg:
        overrides = [word for word in words if "=" in word and not word.startswith("-")]
        problems: list[str] = []
        try:
            with hydra_session():
                compose_job(overrides, problems, extra=options.config_dir)
        except ConfigError as error:
            problems += error.problems
        if problems:
            return refuse(problems)
    elif any(word.startswith(FOREIGN) for word in words) and (problems := _foreign_problems(options)):
        return refuse(problems)
    sys.argv = ["kdrun", *(said for word in words for said in in_hydras_words(word))]
    hydra.main(version_base="1.3", config_path=str(config_directory()), config_name=CONFIG_NAME)(_hydra_task)()
    return 0


def _foreign_problems(options: argparse.Namespace) -> list[str]:
    """What is wrong with a command for another launcher or sweeper, as far as it shows before the first job.

    A sweeper draws its values later; of what it sweeps over, the first is checked here.
    """
    from kdrun.config.preflight import check_job

    problems: list[str] = []
    chosen = [text for text in options.overrides if text.startswith(FOREIGN)]
    own = [text for text in options.overrides if not text.lstrip("+~").startswith(("hydra.", "hydra/"))]
    with hydra_session():
        for text in chosen:
            group, _, name = text.partition("=")
            installed = hydra_group_options(group)
            if name not in installed:
                problems.append(f"{text}: {unknown(name, installed, 'option')} (more with a plugin of Hydra's)")
            elif not options.multirun:
                problems.append(f"{text}: has an effect with -m (--multirun) only")
        if any(text.startswith("hydra/sweeper=") for text in chosen):
            values = [expand([text], multirun=True, problems=[]) for text in own]
            jobs = [[choices[0][0] for choices in values if choices]]
        else:
            jobs = expand(own, multirun=options.multirun, problems=problems)
        for job in jobs:
            try:
                check_job(compose_job(job, problems, extra=options.config_dir), job)
            except ConfigError as error:
                problems += error.problems
    return list(dict.fromkeys(problems))


def _hydra_task(config: DictConfig) -> float:
    """One job of a foreign launcher or sweeper: returns the top-1 of the last epoch on the test set, in percent."""
    from kdrun.cli.runs import runner_for
    from kdrun.config.preflight import check_job
    from kdrun.experiment.components import TRUST_VARIABLE
    from kdrun.experiment.reporting import log, set_up_console

    set_up_console()
    if TRUST_VARIABLE in HydraConfig.get().job.env_set:
        raise ConfigError([f"hydra.job.env_set: {TRUST_VARIABLE} is taken from the environment, never from a config"])
    job = check_job(config, tuple(HydraConfig.get().overrides.task))
    outcome = runner_for([job]).execute(job.spec, config=job.config)
    log.info("result: %s", outcome.run.result_path)
    top1: float = outcome.result["test"]["last"]["top1"]
    return top1
