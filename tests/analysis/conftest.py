"""Runs made up here, so that every number in their files is known."""

from dataclasses import dataclass
from pathlib import Path

import pytest

from kdrun.analysis.aggregate import SweepRun
from kdrun.experiment.spec import Component, DatasetSpec, Recipe, Spec
from kdrun.experiment.store import Run, Store
from kdrun.files import write_json

DATASET = DatasetSpec("kdrun.data.synthetic", "none", 4, 1, 8, 64, 40, (0.5,), (0.25,))


@dataclass
class Archive:
    """Makes up runs: a run whose last top-1 is t had t - 10 after its first epoch."""

    root: Path

    def finish(self, spec: Spec, top1: float, *, val: float | None = None) -> Run:
        run = self.run(spec)
        run.open(config=None)
        curve = [top1 - 10, top1][: spec.epochs_trained]
        rows = [{"epoch": i + 1, "test": {"top1": value, "nll": 1.0}} for i, value in enumerate(curve)]
        run.write_rows(rows)
        selected = {} if val is None else {"val": {"selected": {"epoch": 1, "test": {"top1": val}}}}
        result = {
            "schema": 1,
            "run_id": spec.run_id,
            "student": {"name": spec.student.name, "params": 270_000, "macs": 40_810_000},
            "test": {"last": {"top1": top1, "nll": top1 / 100, "ece": 0.05}, "best": {"top1": top1 + 1}},
            "train": {"seconds": 10 * top1},
            "environment": {"device": "cpu (x)"},
            **selected,
        }
        write_json(run.result_path, result)
        return run

    def teacher(self, seed: int = 0, stop_epoch: int | None = None) -> Spec:
        student, method = Component("kdrun.models.resnet20"), Component("kdrun.methods.CE")
        return Spec(DATASET, student, method, Recipe(epochs=2), seed=seed, stop_epoch=stop_epoch)

    def student(self, seed: int = 0, **options: float) -> Spec:
        """Of the teacher with the same seed; `options` are those of KD."""
        student, method = Component("kdrun.models.cnn"), Component("kdrun.methods.KD", options)
        return Spec(DATASET, student, method, Recipe(epochs=2), seed=seed, teachers=(self.teacher(seed),))

    def run(self, spec: Spec) -> Run:
        return Store(self.root).run(spec)

    def job(self, top1: float | None, seed: int = 0, **options: float) -> SweepRun:
        """A job of a sweep over the options and the seed; without `top1` it has failed."""
        spec = self.student(seed, **options)
        choices = {**{f"method.{name}": f"{value:g}" for name, value in options.items()}, "seed": str(seed)}
        teachers = tuple(self.run(teacher) for teacher in spec.teachers)
        if top1 is None:
            return SweepRun(choices, self.run(spec), teachers, error="RuntimeError: no")
        return SweepRun(choices, self.finish(spec, top1), teachers)


@pytest.fixture
def archive(tmp_path) -> Archive:
    return Archive(tmp_path)


@pytest.fixture
def sweep(archive) -> list[SweepRun]:
    """Temperatures 1, 4 and 16 by seeds 0 and 1, with their teachers; one of the six has failed."""
    for seed, top1 in ((0, 80.0), (1, 82.0)):
        archive.finish(archive.teacher(seed), top1)
    accuracies = {(1.0, 0): 60.0, (1.0, 1): 64.0, (4.0, 0): 71.0, (4.0, 1): 71.5, (16.0, 0): 66.0, (16.0, 1): None}
    return [archive.job(top1, seed, temperature=t) for (t, seed), top1 in accuracies.items()]
