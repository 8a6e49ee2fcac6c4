"""A job of a launcher: one run, whose request is in a file."""

from __future__ import annotations

import dataclasses
import os
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path

import torch
from omegaconf import DictConfig

from kdrun.experiment.attempt import Request
from kdrun.experiment.runner import Runner
from kdrun.experiment.runtime import Runtime
from kdrun.files import DamagedError, read_json, write_json
from kdrun.log import set_up_console
from kdrun.spec.spec import Spec
from kdrun.stopping import DeviceLost
from kdrun.store.store import Store

JOB = "job"
"""The key by which a job's config names its run."""


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
        request, runtime = read_request(self.directory, config[JOB]), self.runtime.here()
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


def write_request(directory: Path, request: Request) -> None:
    """Writes a request, except for what it calls."""
    fields = {field.name: getattr(request, field.name) for field in dataclasses.fields(request)}
    path = request_path(directory, request.spec.run_id)
    write_json(path, {**fields, "spec": request.spec.canonical(), "on_epoch": None})


def read_request(directory: Path, run_id: str) -> Request:
    """Reads a file of `write_request`.

    Raises:
        DamagedError: it is of another kdrun, or has another run than its name.
    """
    path = request_path(directory, run_id)
    fields = read_json(path)
    try:
        request = Request(**{**fields, "spec": Spec.from_canonical(fields["spec"])})
        found = request.spec.run_id
    except (KeyError, TypeError, ValueError, AttributeError, RecursionError) as error:
        raise DamagedError(f"{path} is no request of this kdrun ({type(error).__name__}: {error})") from error
    if found != run_id:
        raise DamagedError(f"{path} is not whole: it has the run {found}")
    return request


def request_path(directory: Path, run_id: str) -> Path:
    return directory / f"{run_id}.json"
