"""Methods of two stages: each has its own optimiser and schedule, and can be resumed anywhere."""

import pytest
import torch
import torch.nn.functional as F
from torch import nn

from kdrun.data import Augmentation, ImageSet, ResidentImages, TrainingViews
from kdrun.methods import Method, Objective
from kdrun.store import checkpoint
from kdrun.training.optimisation import build_optimizer
from kdrun.training.precision import autocast
from kdrun.training.step import Step
from kdrun.training.trainer import Member, Stage, Training, fit
from tests.training.owners import Raising

CPU = torch.device("cpu")
CONTEXT = autocast(CPU, "fp32")
NUM, BATCH_SIZE, STEPS = 20, 8, 3  # 8, 8 and 4 images
FIRST, SECOND = 3, 4  # epochs
RATES = (0.03, 0.2)


class Warmed(Method):
    """Draws its logits to zero in the first stage, and learns the labels in the second; `scale` is learned in one."""

    name = "warmed"
    stage1_epochs = FIRST

    def __init__(self, student: nn.Module) -> None:
        super().__init__(student)
        self.scale = nn.Parameter(torch.ones(()))
        self.progress: list[tuple[int, int, float]] = []
        self.begun = 0

    def trained(self):
        return [self.scale, *self.student.parameters()] if self.stage == 0 else self.student.parameters()

    def begin_stage2(self) -> None:
        super().begin_stage2()
        self.begun += 1
        with torch.no_grad():  # a weight that is moved at the border must be moved once
            self.student[1].bias += 0.5

    def objective(self, student, batch, teacher):
        self.progress.append((batch.epoch, self.stage, batch.progress))
        logits = student.logits
        loss = (self.scale * logits).square().mean() if self.stage == 0 else F.cross_entropy(logits, batch.y)
        return Objective(loss, logits)


@pytest.fixture
def images() -> ResidentImages:
    generator = torch.Generator().manual_seed(0)
    pixels = torch.randint(0, 256, (NUM, 8, 8, 1), dtype=torch.uint8, generator=generator)
    return ResidentImages(ImageSet(pixels, torch.arange(NUM) % 4), mean=[0.5], std=[0.25], device="cpu")


def optimizer_of(method: Method) -> torch.optim.Optimizer:
    options = {"lr": RATES[method.stage], "momentum": 0.9, "nesterov": False, "weight_decay": 0.0}
    return build_optimizer("sgd", method.trained(), **options)


def run(images: ResidentImages, place, *, stop: int = FIRST + SECOND) -> Training:
    """Trains from what lies at `place` up to an epoch, and saves each, as a run does."""
    torch.manual_seed(0)
    method = Warmed(nn.Sequential(nn.Flatten(), nn.Linear(64, 4)))
    state = checkpoint.load(place, CPU) if place.exists() else None
    if state is not None:
        method.stage = state["stage"]
    training = Training(method, optimizer_of(method))
    if state is not None:
        training.load_state_dict(state)

    def begin_stage2() -> Step:
        method.begin_stage2()
        training.optimizer = optimizer_of(method)
        return Step(method, training.optimizer, CONTEXT)

    member = Member(
        training,
        Step(method, training.optimizer, CONTEXT),
        [Stage(0, FIRST, lambda step: RATES[0] / (1 + step)), Stage(FIRST, SECOND, lambda step: RATES[1] / (1 + step))],
        begin_stage2,
        CONTEXT,
        splits={"test": images},
        stop_epoch=stop,
        on_epoch=lambda images_per_second: checkpoint.save(place, training.state_dict()),
        owner=Raising(),
    )
    views = TrainingViews(images, Augmentation(crop_padding=1), batch_size=BATCH_SIZE, seed=0)
    fit([member], views, None, seed=0)
    return training


def test_each_stage_has_its_own_schedule_and_optimiser(images, tmp_path):
    training = run(images, tmp_path / "last.pt")
    method = training.method
    expected = [(e, 0, (e * STEPS + s) / (FIRST * STEPS)) for e in range(FIRST) for s in range(STEPS)]
    expected += [(FIRST + e, 1, (e * STEPS + s) / (SECOND * STEPS)) for e in range(SECOND) for s in range(STEPS)]
    assert method.progress == expected
    assert method.begun == 1
    last = [(FIRST, RATES[0]), (SECOND, RATES[1])]
    rates = [rate / ((epoch + 1) * STEPS) for epochs, rate in last for epoch in range(epochs)]
    assert [row["lr"] for row in training.rows] == pytest.approx(rates)
    assert [row["stage"] for row in training.rows] == [1] * FIRST + [2] * SECOND
    assert len(training.optimizer.param_groups[0]["params"]) == 2, "what the first stage alone learned is left out"
