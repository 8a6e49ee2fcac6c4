"""Hydra's launchers: their start with a task, and what must hold before."""

from __future__ import annotations

import contextlib
import importlib
import shutil
import subprocess
from collections.abc import Iterator, Mapping, Sequence
from importlib.util import find_spec
from pathlib import Path
from typing import Any

from hydra._internal.callbacks import Callbacks
from hydra.core.global_hydra import GlobalHydra
from hydra.core.plugins import Plugins
from hydra.plugins.launcher import Launcher
from hydra.types import HydraContext, RunMode
from omegaconf import OmegaConf

from kdrun.cli.job import JOB, Task
from kdrun.config.composition import CONFIG_NAME
from kdrun.config.search import LAUNCHER, Search
from kdrun.experiment.attempt import Request
from kdrun.experiment.runtime import Runtime
from kdrun.log import log
from kdrun.redaction import redacted

SLURM = "submitit_slurm"
HERE = ("joblib", "submitit_local")
"""Launchers whose jobs are processes of this machine."""

SBATCH_SECONDS = 60


def hydra_launcher(name: str, options: Mapping[str, Any], task: Task, directory: Path) -> Launcher:
    """Hydra's launcher of a task; within a session.

    Args:
        name: an option of `hydra/launcher`.
        options: of the launcher.
        task: called in each job.
        directory: of the logs.
    """
    hydra = GlobalHydra.instance().hydra
    assert hydra is not None, "within a session"
    words = [f"{LAUNCHER}={name}", "hydra/hydra_logging=none", "hydra/job_logging=none"]
    words += ["hydra.sweep.dir=.", "hydra.sweep.subdir=."]  # of the jobs, which write nothing there
    config = hydra.compose_config(CONFIG_NAME, words, run_mode=RunMode.MULTIRUN, with_log_configuration=False)
    OmegaConf.update(config, "hydra.sweep.dir", str(directory).replace("${", "\\${"))
    OmegaConf.update(config, "hydra.launcher", options, merge=False)
    context = HydraContext(config_loader=hydra.config_loader, callbacks=Callbacks(config))
    return Plugins.instance().instantiate_launcher(hydra_context=context, task_function=task, config=config)


def launch(launcher: Launcher, requests: Sequence[Request]) -> bool:
    """Launches a job for each run, and waits for them; False, with an error line, if they could not all end."""
    try:
        with _waiting_for_all_jobs():
            launcher.launch([[f"+{JOB}='{request.spec.run_id}'"] for request in requests], initial_job_idx=0)
    except Exception as error:  # of the library behind the launcher
        log.error("%s: %s", type(error).__name__, redacted(" ".join(str(error).split())))
        return False
    return True


@contextlib.contextmanager
def _waiting_for_all_jobs() -> Iterator[None]:
    """In this context submitit's plugin waits for all of its jobs; by itself it stops at the first that was killed."""
    if find_spec("submitit") is None:
        yield
        return
    submitit: Any = importlib.import_module("submitit")
    errors = (submitit.core.utils.FailedJobError, submitit.core.utils.UncompletedJobError)

    class Patient:
        """A job whose result is None if its process was killed; the status of its run is true in either case."""

        def __init__(self, job: Any) -> None:
            self.job = job

        def results(self) -> list[Any]:
            try:
                return list(self.job.results())
            except errors:
                return [None]

    class Executor(submitit.AutoExecutor):  # type: ignore[misc]
        def map_array(self, function: Any, *arguments: Any) -> list[Any]:
            return [Patient(job) for job in super().map_array(function, *arguments)]

    own, submitit.AutoExecutor = submitit.AutoExecutor, Executor
    try:
        yield
    finally:
        submitit.AutoExecutor = own


def has_gpus(search: Search, runtime: Runtime) -> bool:
    """Whether each job has a GPU, by the launcher's options; here, and for launchers without these, by the runtime."""
    if search.launcher == SLURM:
        return any(search.options[name] for name in ("gpus_per_node", "gpus_per_task", "gres"))
    if search.launcher == "ray":
        return bool(search.options["ray"]["remote"]["num_gpus"])
    return runtime.device.type != "cpu"


def launcher_obstacles(search: Search, runtime: Runtime) -> list[str]:
    """The problems of launching jobs from here: what must be decided before, and a Slurm that does not answer."""
    problems = []
    if runtime.devices:
        problems.append(f"runtime.devices: has no effect with {LAUNCHER}={search.launcher}; each job has one device")
    if has_gpus(search, runtime) and runtime.device.type == "cpu":
        if runtime.auto_precision:
            problems.append("runtime.precision=auto: the jobs have GPUs and this machine has none: bf16 or fp32")
        if not runtime.auto_device:
            problems.append("runtime.device=cpu: the jobs have GPUs: auto, or hydra.launcher.gpus_per_node=0")
    if search.launcher == SLURM and (problem := _slurm_problem(search.options)):
        problems.append(f"{LAUNCHER}={SLURM}: {problem}")
    return problems


def _slurm_problem(options: Mapping[str, Any]) -> str | None:
    """Why Slurm would not take a job with these options: the answer of `sbatch --test-only`, which submits nothing."""
    if missing := [name for name in ("sbatch", "srun") if shutil.which(name) is None]:
        return f"{' and '.join(missing)}: not found; start kdrun on a machine that submits to Slurm"
    try:
        done = subprocess.run(
            ["sbatch", "--test-only"],
            input=batch_script(options),
            text=True,
            capture_output=True,
            timeout=SBATCH_SECONDS,
        )
    except (OSError, subprocess.TimeoutExpired) as error:
        return f"sbatch: {error}"
    return f"sbatch: {' '.join((done.stderr or done.stdout).split())}" if done.returncode else None


def batch_script(options: Mapping[str, Any]) -> str:
    """The script of one job, as submitit writes it."""
    from submitit.slurm.slurm import SlurmExecutor

    own = {"_target_", "submitit_folder", "max_num_timeout"}
    executor = SlurmExecutor("submitit")
    given = {name: value for name, value in options.items() if name not in own and value is not None}
    executor._internal_update_parameters(**executor._convert_parameters(given))
    return str(executor._make_submission_file_text("true", ""))
