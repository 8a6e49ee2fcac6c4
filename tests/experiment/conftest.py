"""A laboratory for whole runs: small networks on made-up images, a fraction of a second each."""

import inspect
import time
from collections.abc import Sequence
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

import pytest
import torch

from kdrun import methods
from kdrun.data import Augmentation
from kdrun.experiment import runner
from kdrun.experiment.attempt import Outcome, Request
from kdrun.experiment.runner import Runner
from kdrun.experiment.runtime import Runtime
from kdrun.spec.components import method_class
from kdrun.spec.dataset import DatasetSpec, ImageDatasetSpec
from kdrun.spec.spec import Component, Recipe, Spec
from kdrun.store.run import Run
from kdrun.store.store import Store

STUDENTS = {
    "mlp": Component("kdrun.models.mlp", {"hidden": (32,), "dropout": 0.2}),
    "cnn": Component("kdrun.models.cnn"),
    "resnet20": Component("kdrun.models.resnet20"),
    "resnet14": Component("kdrun.models.resnet14"),
    "resnet8": Component("kdrun.models.resnet8"),
    "lstm": Component("kdrun.models.lstm", {"width": 8, "embedding": 8}),
    "transformer": Component("kdrun.models.transformer", {"causal": True, "width": 8, "heads": 2, "depth": 2}),
    "deep_transformer": Component("kdrun.models.transformer", {"causal": True, "width": 8, "heads": 2}),
}
DATASET = ImageDatasetSpec("kdrun.data.synthetic", "none", 4, 1, 8, 66, 40, (0.5,), (0.25,))
LAW = Augmentation(crop_padding=1, flip=True, rotation=15.0)
RECIPE = Recipe(epochs=3, batch_size=16, lr=0.4, augmentation=LAW)


@dataclass(frozen=True)
class Lab:
    """Makes specs and executes them under `root`: each `place` is an output root of its own.

    An epoch has 5 steps: 16, 16, 16, 16 and 2 of 66 images in 4 classes.

    Attributes:
        root: where everything lies.
        dataset: of every run.
        recipe: of every run.
        pupil: the student where none is named.
        master: the teacher where none is named.
    """

    root: Path
    dataset: DatasetSpec = DATASET
    recipe: Recipe = RECIPE
    pupil: str = "mlp"
    master: str = "cnn"

    def plain(self, student: str = "", **changes: Any) -> Spec:
        """A run without a teacher; `changes` are fields of the spec."""
        return replace(Spec(self.dataset, STUDENTS[student or self.pupil], self.by("CE"), self.recipe), **changes)

    def taught(self, student: str = "", *, teacher: Spec | None = None, **options: Any) -> Spec:
        """A student of the cnn, or of another `teacher`; `options` are those of KD."""
        return self.plain(student, method=self.by("KD", **options), teachers=(teacher or self.teacher,))

    @staticmethod
    def by(method: str, **options: Any) -> Component:
        return Component(f"kdrun.methods.{method}", options)

    def every(self, name: str, **options: Any) -> Spec:
        """A resnet8 by the method of this name, two stages where it has them, and the teachers it asks for."""
        kind = methods.shipped_methods()[name]
        if "stage1_epochs" in inspect.signature(kind).parameters:
            options = {"stage1_epochs": 2, **options}
        if name == "sum":
            options = {"terms": {"kd": {}, "at": {}, "fitnet": {}}, **options}
        teachers = (self.plain("resnet14"), self.plain("resnet14", seed=1))
        needs = kind.needs
        taught = teachers if needs.several else teachers[:1]
        if needs.own_architecture:
            taught = (self.plain("resnet8", seed=1),)
        return self.plain("resnet8", method=self.by(kind.__name__, **options), teachers=taught if needs.teacher else ())

    @property
    def teacher(self) -> Spec:
        return self.plain(self.master)

    def runner(self, place: str = "outputs", **options: Any) -> Runner:
        """`options` are those of Runtime, and `weight_files`; checkpoints are kept."""
        files = options.pop("weight_files", None)
        places = {"data_root": self.root, "output_root": self.root / place}
        runtime = Runtime(device=torch.device("cpu"), **places, **{"keep": "all", **options})
        return Runner(Store(runtime.output_root), runtime, weight_files=files)

    def execute(self, spec: Spec, place: str = "outputs", **options: Any) -> Outcome:
        """In a runner of its own."""
        return self.runner(place, **options).execute(spec)

    def execute_all(self, specs: Sequence[Spec], place: str = "outputs", **options: Any) -> list[Outcome | Exception]:
        """In one runner; the ends in the order of `specs`."""
        requests = [Request(spec) for spec in specs]
        ended = {request.spec.run_id: end for request, end in self.runner(place, **options).execute_all(requests)}
        return [ended[spec.run_id] for spec in specs]

    def alone(self, spec: Spec) -> tuple[bytes, bytes]:
        """The bits of a run that nothing disturbs: in an output root without lockstep and replay."""
        return self.bits(self.execute(spec, "alone", replay_gb=0.0).run)

    def run(self, spec: Spec, place: str = "outputs") -> Run:
        return Store(self.root / place).run(spec)

    @staticmethod
    def bits(run: Run) -> tuple[bytes, bytes]:
        """What must be equal bit for bit when a run is repeated."""
        return run.weights.read_bytes(), (run.directory / "metrics.jsonl").read_bytes()

    @staticmethod
    def wait_for_files(run: Run, *, epochs: int) -> None:
        """Waits until the files of an epoch are written, which happens while the next one trains."""
        deadline = time.monotonic() + 30
        while run.status().get("epoch") != epochs:
            assert time.monotonic() < deadline
            time.sleep(0.001)

    @staticmethod
    def images_trained_on(outcome: Outcome) -> int:
        train = outcome.result["train"]
        return round(train["seconds"] * train["images_per_second"])


@pytest.fixture
def lab(tmp_path) -> Lab:
    return Lab(tmp_path)


@pytest.fixture(scope="module")
def shared_lab(tmp_path_factory) -> Lab:
    """For tests of a module that train students of the same few teachers."""
    torch.set_num_threads(1)
    return Lab(tmp_path_factory.mktemp("shared"))


@pytest.fixture(scope="module")
def finished(tmp_path_factory) -> Outcome:
    """A student and its teacher, for tests that only look at them."""
    torch.set_num_threads(1)
    lab = Lab(tmp_path_factory.mktemp("finished"))
    return lab.execute(lab.taught(temperature=2.0))


@pytest.fixture
def trained(monkeypatch) -> list[str]:
    """The methods by which something was trained, one name for each training."""
    names = []
    fit = runner.fit

    def recording(members, *arguments, **options):
        names.extend(type(member.training.method).name for member in members)
        fit(members, *arguments, **options)

    monkeypatch.setattr(runner, "fit", recording)
    return names


@pytest.fixture
def interrupted(lab):
    """Trains so many epochs of a run, and two steps, which Ctrl-C then stops; returns the run."""

    def stop(spec: Spec, place: str = "outputs", *, epochs: int = 2, **options: Any) -> Run:
        method = method_class(spec.method)
        forward = method.forward

        def stopping(self, batch, teacher):
            if (batch.epoch, batch.step) == (epochs, 2):
                raise KeyboardInterrupt
            return forward(self, batch, teacher)

        with pytest.MonkeyPatch.context() as patch:
            patch.setattr(method, "forward", stopping)
            with pytest.raises(KeyboardInterrupt):
                lab.execute(spec, place, **options)
        return lab.run(spec, place)

    return stop
