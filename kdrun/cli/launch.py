"""Runs as jobs of Hydra's launchers (joblib, submitit, Ray): one job for each run, after the runs that it needs."""

from __future__ import annotations

import contextlib
import dataclasses
import importlib
import os
import shutil
import subprocess
import threading
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass
from importlib.util import find_spec
from pathlib import Path
from typing import Any

import torch
from hydra._internal.callbacks import Callbacks
from hydra.core.global_hydra import GlobalHydra
from hydra.core.plugins import Plugins
from hydra.plugins.launcher import Launcher
from hydra.types import HydraContext, RunMode
from omegaconf import DictConfig, OmegaConf

from kdrun.analysis.sweep import NOT_BEGUN, obstacle_to, state_of
from kdrun.config.compose import hydra_session
from kdrun.config.composition import CONFIG_NAME
from kdrun.config.preflight import Job
from kdrun.config.search import LAUNCHER, Search
from kdrun.experiment.attempt import Request
from kdrun.experiment.runner import Runner
from kdrun.experiment.runtime import Runtime
from kdrun.experiment.sizes import threads_for
from kdrun.files import DamagedError, read_json, write_json
from kdrun.log import log, set_up_console
from kdrun.redaction import redacted
from kdrun.spec.spec import Spec
from kdrun.stopping import DeviceLost
from kdrun.store.run import Run
from kdrun.store.store import Store
from kdrun.training.precision import resolve_device

JOB = "job"
"""The key by which a job's config names its run."""

POLL_SECONDS = 2.0
SUBMITIT = "submitit_"
SLURM = "submitit_slurm"
SBATCH_SECONDS = 60


@dataclass(frozen=True)
class Task:
    """The function that the jobs call: executes the run whose request is in a directory.

    Attributes:
        directory: of the requests.
        place: the working directory.
        runtime: of the runs.
        weight_files: the user's own weights, by SHA-256.
        threads: available to a run; None takes all of the job.
        on_gpu: whether a job without a GPU must fail.
    """

    directory: Path
    place: str
    runtime: Runtime
    weight_files: Mapping[str, Path]
    threads: int | None
    on_gpu: bool

    def __call__(self, config: DictConfig) -> None:
        """Executes a job's run; raises its failure, which is in its status, too."""
        os.chdir(self.place)
        set_up_console()
        request = _read_request(self.directory / f"{config[JOB]}.json")
        runtime = self.runtime
        if runtime.auto_device:
            runtime = dataclasses.replace(runtime, device=resolve_device("auto"))
        if self.on_gpu and runtime.device.type == "cpu":
            raise RuntimeError(f"the job has no GPU on {os.uname().nodename}")
        torch.set_num_threads(self.threads or _threads_of_job())
        runner = Runner(Store(runtime.output_root), runtime, weight_files=self.weight_files)
        try:
            (ended,) = runner.execute_together([request])
        except DeviceLost as lost:  # which would end the launcher, too
            raise RuntimeError(str(lost)) from lost
        if isinstance(ended, Exception):
            raise ended


def _threads_of_job() -> int:
    """The CPUs that Slurm gives to a job, where that is known; at most as many as torch sees."""
    given = os.environ.get("SLURM_CPUS_PER_TASK", "")
    return min(torch.get_num_threads(), int(given)) if given.isdigit() else torch.get_num_threads()


def launched(
    jobs: Sequence[Job], runner: Runner, search: Search, directory: Path, requests: Sequence[Request]
) -> dict[str, str]:
    """Executes runs as jobs of a launcher, and logs a line for each.

    Args:
        jobs: the checked runs.
        runner: of this process; it reads runs, and trains none.
        search: the launcher with its options.
        directory: of the sweep or table; the jobs' files are in `jobs/`.
        requests: the runs.

    Returns:
        Error messages by run_id, of runs that are not finished.
    """
    weight_files = {digest: path.absolute() for job in jobs for digest, path in job.weight_files.items()}
    place = (directory / "jobs").absolute()
    return Jobs(search, runner, jobs[0].runtime, weight_files, place).execute(requests)


@dataclass(frozen=True)
class Jobs:
    """A launcher for the runs of a command.

    Attributes:
        search: the launcher with its options.
        runner: of this process; it reads runs, and trains none.
        runtime: of the runs.
        weight_files: the user's own weights, by SHA-256.
        directory: of the jobs' requests and logs.
    """

    search: Search
    runner: Runner
    runtime: Runtime
    weight_files: Mapping[str, Path]
    directory: Path

    def execute(self, requests: Sequence[Request]) -> dict[str, str]:
        """Executes runs, and those that they need before them, and logs a line for each.

        Returns:
            Error messages by run_id, of runs that are not finished.
        """
        store = self.runner.store
        numbered = [
            dataclasses.replace(request, number=number, total=len(requests))
            for number, request in enumerate(requests, start=1)
        ]
        waves, errors = _waves(numbered, store), {}
        missing = {request.spec.run_id for wave in waves for request in wave}
        for request in numbered:
            if request.spec.run_id not in missing:
                _report(request, store.run(request.spec), before=True)
        for wave in waves:
            ready = [request for request in wave if all(store.run(spec).finished for spec in request.spec.before)]
            if ready:
                self._execute_wave(ready)
            for request in wave:
                if error := obstacle_to(store, request.spec):
                    errors[request.spec.run_id] = error
                    log.error("%s failed: %s", _title(request), error)
        return {
            request.spec.run_id: errors[request.spec.run_id] for request in numbered if request.spec.run_id in errors
        }

    def _execute_wave(self, requests: Sequence[Request]) -> None:
        """Executes runs that need none of each other."""
        self.directory.mkdir(parents=True, exist_ok=True)
        for request in requests:
            write_json(self._file(request), _plain(request))
        options, threads, at_once = self._settled([request.spec for request in requests])
        on_gpu = _on_gpus(self.search) if self.search.launcher in (SLURM, "ray") else self.runtime.device.type != "cpu"
        task = Task(self.directory, os.getcwd(), self.runtime, self.weight_files, threads, on_gpu)
        log.info("%s=%s: %d runs, logs in %s", LAUNCHER, self.search.launcher, len(requests), self.directory)
        with hydra_session(), self._reporting(requests):
            launcher = _launcher(self.search.launcher, options, task, self.directory)
            for first in range(0, len(requests), at_once):
                self._launch(launcher, requests[first : first + at_once])
        set_up_console()  # a launcher sets up logging anew

    def _launch(self, launcher: Launcher, requests: Sequence[Request]) -> None:
        """Launches jobs until each has ended.

        A killed process ends the other jobs of joblib and Ray: the rest is launched again, first the runs that were
        not begun, then each of the others, of which one was killed, alone.
        """
        begun: list[Request] = []
        left = list(requests)
        while left and not _launched(launcher, left):
            left = [request for request in left if self._is_pending(request)]
            stopped = [request for request in left if state_of(self.runner.store.run(request.spec)) != NOT_BEGUN]
            if not stopped:
                return
            begun += stopped
            left = [request for request in left if request not in stopped]
        for request in begun:
            _launched(launcher, [request])

    def _is_pending(self, request: Request) -> bool:
        """Whether a run has neither a result nor a failure."""
        return state_of(self.runner.store.run(request.spec)) not in ("finished", "failed", "diverged")

    def _settled(self, specs: Sequence[Spec]) -> tuple[dict[str, Any], int | None, int]:
        """The launcher's options, the threads that a run can have (None: all of its job), and the jobs at once."""
        options, name = dict(self.search.options), self.search.launcher
        if name in (SLURM, "ray"):
            return options, None, len(specs)
        threads, device = torch.get_num_threads(), self.runtime.device
        most = self.runtime.threads or max(threads_for(spec, device, threads) for spec in specs)
        fitting = max(1, threads // most) if device.type == "cpu" else 1
        if name != "joblib":
            options["gpus_per_node"] = options["gpus_per_node"] or torch.cuda.device_count()
            return options, threads, fitting
        if options["n_jobs"] is not None:
            threads = max(1, threads // options["n_jobs"])
        options["n_jobs"] = options["n_jobs"] or fitting
        return options, threads, len(specs)

    def _file(self, request: Request) -> Path:
        return self.directory / f"{request.spec.run_id}.json"

    @contextlib.contextmanager
    def _reporting(self, requests: Sequence[Request]) -> Iterator[None]:
        """In this context a line is logged for each run that has finished."""
        store, ended, reported = self.runner.store, threading.Event(), set()

        def report() -> None:
            for request in requests:
                if request.spec.run_id not in reported and store.run(request.spec).finished:
                    reported.add(request.spec.run_id)
                    _report(request, store.run(request.spec))

        def watch() -> None:
            while not ended.wait(POLL_SECONDS):
                report()

        thread = threading.Thread(target=watch, daemon=True)
        thread.start()
        try:
            yield
        finally:
            ended.set()
            thread.join()
        report()


def _waves(requests: Sequence[Request], store: Store) -> list[list[Request]]:
    """The runs to execute: first those that need no other, then those that need only the first, and so on."""
    pending = [request for request in requests if not _is_done(store.run(request.spec))]
    every = {spec.run_id: Request(spec, role="teacher") for each in pending for spec in each.spec.all_before()}
    every = {run_id: each for run_id, each in every.items() if not _is_done(store.run(each.spec))}
    every |= {request.spec.run_id: request for request in pending}
    waves: dict[int, list[Request]] = {}
    for request in every.values():
        waves.setdefault(_depth(request.spec), []).append(request)
    return [waves[depth] for depth in sorted(waves)]


def _depth(spec: Spec) -> int:
    return max((1 + _depth(each) for each in spec.before), default=0)


def _is_done(run: Run) -> bool:
    """Whether a run has its result and its weights; where they are damaged, its job reports that."""
    try:
        return run.finished and run.weights_problem() is None
    except DamagedError:
        return False


def _title(request: Request) -> str:
    """A run in the log."""
    name = request.label or f"{request.role} {request.spec.student.name}"
    return f"{request.place} {name}:" if request.place else f"{name}:"


def _report(request: Request, run: Run, *, before: bool = False) -> None:
    """Logs the accuracy of a finished run."""
    more = f" (finished before: {run.origin()})" if before else ""
    log.info("%s top-1 %.2f %%%s", _title(request), run.result()["test"]["last"]["top1"], more)


def _plain(request: Request) -> dict[str, Any]:
    """A request as plain values."""
    fields = {field.name: getattr(request, field.name) for field in dataclasses.fields(request)}
    return {**fields, "spec": request.spec.canonical(), "on_epoch": None}


def _read_request(path: Path) -> Request:
    fields = read_json(path)
    return Request(**{**fields, "spec": Spec.from_canonical(fields["spec"])})


def _launcher(name: str, options: Mapping[str, Any], task: Task, directory: Path) -> Launcher:
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


def _launched(launcher: Launcher, requests: Sequence[Request]) -> bool:
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


def _on_gpus(search: Search) -> bool:
    """Whether each job has GPUs."""
    if search.launcher == "ray":
        return bool(search.options["ray"]["remote"]["num_gpus"])
    return any(search.options[name] for name in ("gpus_per_node", "gpus_per_task", "gres"))


def launcher_obstacles(search: Search, runtime: Runtime) -> list[str]:
    """The problems of launching jobs from here: what must be decided before, and a Slurm that does not answer."""
    if search.launcher not in (SLURM, "ray"):
        return []
    problems = []
    if _on_gpus(search) and runtime.device.type == "cpu":
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
