"""What ranks other than 0 do: they train what rank 0 trains, and write nothing."""

from __future__ import annotations

import contextlib
import time
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import torch

from kdrun import stopping, torchrun
from kdrun.distributed import broadcast
from kdrun.experiment.choices import Choices
from kdrun.experiment.member import build_member
from kdrun.experiment.runner import Runner, training_views
from kdrun.experiment.steps import fail
from kdrun.experiment.teachers import teacher_source
from kdrun.place import place
from kdrun.spec.spec import Spec
from kdrun.store.run import Run
from kdrun.training.trainer import fit

SECONDS_TO_APPEAR = 60.0
"""The longest that a finished run takes to appear on another node: NFS caches directories for up to a minute."""


def follow(runner: Runner, spec: Spec, weight_files: Mapping[str, Path]) -> int:
    """Takes part in the training of a run, and of those before it, until rank 0 ends; returns rank 0's exit code.

    Raises:
        RankEndedError: another rank has failed.
        FileNotFoundError: a teacher is not in this node's output root.
        Exception: a failure of this rank.
    """
    runs = {each.run_id: each for each in (spec, *spec.all_before())}
    for task in torchrun.tasks():
        if "code" in task:
            break
        _train(runner, runs[task["run"]], Choices(**task["choices"]), weight_files)
    code: int = task["code"]
    return code


def _train(runner: Runner, spec: Spec, choices: Choices, weight_files: Mapping[str, Path]) -> None:
    """Trains one run with the other ranks."""
    before = {each.run_id: _finished(runner.store.run(each)) for each in spec.before}
    data = runner.data(spec.dataset, spec.recipe.augmentation)
    torch.set_num_threads(choices.threads)
    with contextlib.closing(data), torchrun.group(runner.device):
        views = training_views(data, spec)
        state: dict[str, Any] | None = broadcast(None)
        member = build_member(
            spec,
            data,
            len(views),
            state,
            _Raising(),
            choices=lambda: choices,
            weight_files=weight_files,
            start=None if spec.start is None else before[spec.start.run_id],
            on_failure=fail,
            on_epoch=lambda *_: None,
        )
        teachers = [before[teacher.run_id] for teacher in spec.teachers]
        needs = [member.training.method.needs]
        source = teacher_source(teachers, [spec], needs, data, runner.runtime, choices) if teachers else None
        fit([member], views, source, seed=spec.seed)


def _finished(run: Run) -> Run:
    """A finished run, as soon as it is visible here.

    Raises:
        FileNotFoundError: it does not become visible.
    """
    deadline = time.monotonic() + SECONDS_TO_APPEAR
    while not run.finished:
        if time.monotonic() > deadline:
            raise FileNotFoundError(
                f"{run.directory}: finished on rank 0, not visible here (node {place().node}); "
                "runtime.output_root must be one directory that all nodes share"
            )
        time.sleep(torchrun.POLL_SECONDS)
        stopping.check()
    return run


class _Raising:
    """The owner of a member whose failure ends the process."""

    failed = False

    def isolated_failure(self) -> contextlib.AbstractContextManager[None]:
        return contextlib.nullcontext()
