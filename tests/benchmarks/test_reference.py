"""Each reference does what its code did: its loss, its steps, its data, its evaluation."""

import itertools
import math
import subprocess
from functools import partial

import pytest
import torch
from torch import Tensor, nn

from benchmarks import ours, reference, task, worker
from benchmarks.mdistiller import MDistiller
from benchmarks.reference import PILImages, training_loader
from benchmarks.released import Released, TwoLines, kd_loss, virtual_teacher
from benchmarks.task import Pair
from benchmarks.timing import UnavailableError
from kdrun.data import ResidentImages
from kdrun.experiment.choices import Choices
from kdrun.experiment.steps import make_step
from kdrun.losses import virtual_teacher_probs
from kdrun.models import mlp, resnet20
from kdrun.training.evaluation import evaluate
from kdrun.training.precision import autocast
from kdrun.training.teacher import LiveTeacher

CPU = torch.device("cpu")
PAIRS = {
    reduction: Pair("student", "teacher", alpha=0.6, temperature=4.0, kl_reduction=reduction)
    for reduction in ("mean", "batchmean")
}


@pytest.fixture(autouse=True)
def no_workers(monkeypatch):
    monkeypatch.setattr(reference, "num_workers", lambda: 0)


def softmax(row: list[float]) -> list[float]:
    total = sum(math.exp(value) for value in row)
    return [math.exp(value) / total for value in row]


@pytest.mark.parametrize("seed", range(10))
def test_loss_is_the_released_formula(seed):
    """`(1 - alpha) CE + alpha T^2 KL / K`, summed up number by number."""
    generator = torch.Generator().manual_seed(seed)
    num, classes = 3 + seed, 5 + 7 * seed
    student = 3 * torch.randn(num, classes, generator=generator, dtype=torch.float64)
    teacher = 3 * torch.randn(num, classes, generator=generator, dtype=torch.float64)
    labels = torch.randint(classes, (num,), generator=generator)
    alpha, temperature = seed / 10, 1.0 + 2 * seed
    ce = kl = 0.0
    for own, theirs, label in zip(student.tolist(), teacher.tolist(), labels.tolist(), strict=True):
        ce -= math.log(softmax(own)[label]) / num
        q, p = (softmax([value / temperature for value in row]) for row in (own, theirs))
        kl += sum(b * math.log(b / a) for a, b in zip(q, p, strict=True)) / num
    expected = (1 - alpha) * ce + alpha * temperature**2 * kl / classes
    found = kd_loss(student, labels, teacher, alpha=alpha, temperature=temperature)
    assert found.item() == pytest.approx(expected, rel=1e-9)


def test_virtual_teachers_of_both_sides_are_equal():
    labels = torch.tensor([2, 0, 4, 2])
    logits = torch.randn(4, 5)
    expected = torch.full((4, 5), 0.0025)
    for row, label in enumerate(labels.tolist()):
        expected[row, label] = 0.99
    torch.testing.assert_close(virtual_teacher(logits, labels, 0.99), expected)
    torch.testing.assert_close(virtual_teacher_probs(logits, labels, 0.99), expected)


def networks(student: str = "resnet20") -> tuple[nn.Module, nn.Module]:
    """A student and a teacher, the same every time."""
    torch.manual_seed(0)
    students = {"mlp": partial(mlp, hidden=(64, 64)), "resnet20": resnet20}
    return students[student](num_classes=task.NUM_CLASSES), resnet20(num_classes=task.NUM_CLASSES)


def weights(network: nn.Module) -> Tensor:
    return torch.cat([parameter.detach().flatten() for parameter in network.parameters()]).clone()


def data(pair: Pair, train: int = 24, test: int = 70) -> tuple[PILImages, PILImages]:
    images = task.image_sets(train, test)
    return PILImages(images[0], pair.law), PILImages(images[1])


def kdruns_steps(name: str, pair: Pair, precision: str = "fp32") -> tuple[list[tuple], list[float], Tensor]:
    """Three batches of kdrun's views; its losses on them, and the change of the student's weights."""
    views = ours.training_views(task.image_sets(72, 0)[0], pair.law, CPU, batch_size=24)
    student, teacher = networks(name)
    before = weights(student)
    steps = ours.kd_steps(student, teacher, pair, views, Choices(threads=1), precision=precision, device=CPU)
    losses = [step.end_epoch().means["loss"] for step in itertools.islice(steps, 3)]
    return [(x.contiguous(), y) for x, y, *_ in views.epoch(0)], losses, weights(student) - before


@pytest.mark.parametrize("captured", [False, True])
def test_kdruns_teacher_computes_as_in_a_run(monkeypatch, captured):
    """Its wide convolutions on small maps in NCHW memory, its forward pass captured if the steps are."""
    made = []
    for kind in ("LiveTeacher", "GraphedTeacher"):
        monkeypatch.setattr(
            ours, kind, lambda *given, kind=kind: made.append((kind, LiveTeacher(*given))) or made[0][1]
        )
    monkeypatch.setattr(ours, "make_step", lambda training, context, _: make_step(training, context, Choices(1)))
    wide = nn.Conv2d(256, 256, 3, padding=1)
    teacher = nn.Sequential(nn.Conv2d(3, 256, 8, 8), wide, nn.AdaptiveAvgPool2d(1), nn.Flatten(), nn.Linear(256, 100))
    pair = PAIRS["mean"]
    views = ours.training_views(task.image_sets(24, 0)[0], pair.law, CPU, batch_size=24)
    choices = Choices(1, small_maps_nchw=True, cuda_graphs=captured)
    next(ours.kd_steps(networks("mlp")[0], teacher, pair, views, choices, precision="fp32", device=CPU))
    ((kind, source),) = made
    assert kind == ("GraphedTeacher" if captured else "LiveTeacher")
    assert source._model[1].weight.is_contiguous()
    assert source._model[0].weight.is_contiguous(memory_format=torch.channels_last)


@pytest.mark.parametrize(("loop", "reduction"), [(Released, "mean"), (MDistiller, "batchmean")])
@pytest.mark.parametrize(("name", "tolerance"), [("mlp", 1e-4), ("resnet20", 0.1)])
def test_a_reference_takes_kdruns_steps(loop, reduction, name, tolerance):
    """The same views and weights give the same losses and the same updates in fp32.

    Weight decay is 0.5 % of the update, momentum and the order of the steps are much more. In the deeper network
    rounding moves ReLUs across zero: there the gradient in NCHW memory is itself 1 % off the one in float64.
    """
    pair = PAIRS[reduction]
    views, losses, update = kdruns_steps(name, pair)
    student, teacher = networks(name)
    before = weights(student)
    training = loop(student, teacher.eval(), pair, data(pair), num_images=24, device=CPU)
    assert [training.step(x, y) for x, y in views] == pytest.approx(losses, rel=1e-4)
    assert (weights(student) - before - update).norm() < tolerance * update.norm()


def test_the_two_lines_are_bf16_in_channels_last():
    pair = PAIRS["mean"]
    views, losses, _ = kdruns_steps("resnet20", pair, "bf16")
    student, teacher = networks()
    training = TwoLines(student, teacher, pair, data(pair), num_images=24, device=CPU)
    next(training.epoch())
    assert student.stem.conv.weight.is_contiguous(memory_format=torch.channels_last)
    student.load_state_dict(networks()[0].state_dict())
    dtypes = []
    student.classifier.register_forward_hook(lambda module, inputs, output: dtypes.append(output.dtype))
    assert training.step(*views[0]) == pytest.approx(losses[0], rel=0.01)
    assert dtypes == [torch.bfloat16]


TORCHDISTILL = """
import sys, torch
from benchmarks.torchdistill_worker import TorchDistill
student, teacher, pair, data, views = torch.load(sys.argv[1], weights_only=False)
training = TorchDistill(student, teacher, pair, data, num_images=64, device=torch.device("cpu"))
state = {name: tensor.clone() for name, tensor in teacher.state_dict().items()}
training.box.pre_epoch_process(epoch=0)
losses = [training.step(x, y) for x, y in views]
found = {"losses": losses, "student": {name: tensor.clone() for name, tensor in student.state_dict().items()}}
found["epoch"] = list(training.epoch())
found["top1"] = training.evaluate()
found["teacher stays"] = all(torch.equal(tensor, state[name]) for name, tensor in teacher.state_dict().items())
found["trained"] = student.state_dict()
torch.save(found, sys.argv[1])
"""


def test_torchdistill_takes_kdruns_steps(tmp_path):
    """Its process in its own environment: losses, update, length of an epoch, evaluation."""
    try:
        worker.version()
    except UnavailableError as error:
        pytest.skip(f"torchdistill: {error}")
    pair = PAIRS["mean"]
    views, losses, update = kdruns_steps("mlp", pair)
    student, teacher = networks("mlp")
    before = weights(student)
    file = tmp_path / "exchanged.pt"
    torch.save((student, teacher, pair, data(pair), views), file)
    subprocess.run([worker.PYTHON, "-c", TORCHDISTILL, file], cwd=worker.ROOT, check=True, capture_output=True)
    found = torch.load(file)
    assert found["losses"] == pytest.approx(losses, rel=1e-4)
    student.load_state_dict(found["student"])
    assert (weights(student) - before - update).norm() < 1e-4 * update.norm()
    assert len(found["epoch"]) == 1
    assert found["teacher stays"]
    student.load_state_dict(found["trained"])
    assert found["top1"] == pytest.approx(top1_of_kdrun(student, task.image_sets(24, 70)[1]))


@pytest.mark.parametrize("loop", [Released, TwoLines, MDistiller])
def test_an_epoch_leaves_the_teacher_as_it_is(loop):
    student, teacher = networks()
    before = {name: tensor.clone() for name, tensor in teacher.state_dict().items()}
    pair = PAIRS["mean"]
    losses = list(loop(student, teacher, pair, data(pair), num_images=70, device=CPU).epoch())
    assert len(losses) == 2, "longer than the data"
    assert all(torch.equal(tensor, before[name]) for name, tensor in teacher.state_dict().items())
    assert all(parameter.grad is None for parameter in teacher.parameters())


def test_the_images_are_those_that_kdrun_sees():
    images = task.image_sets(2, 70)[1]
    resident = ResidentImages(images, mean=task.MEAN, std=task.STD, device=CPU)
    found = list(reference.test_loader(PILImages(images)))
    assert [len(labels) for _, labels in found] == [64, 6]
    torch.testing.assert_close(torch.cat([x for x, _ in found]), resident.batch(torch.arange(70)))
    assert torch.equal(torch.cat([labels for _, labels in found]), images.labels)


@pytest.mark.parametrize("name", ["resnet18", "resnet20"])
def test_training_views_follow_the_law_of_kdrun(name):
    """Where white stands on average over many views of an image that is white on its left: crop, flip and rotation."""
    law = task.PAIRS[name].law
    images, _ = task.image_sets(8, 0)
    images.images[:] = 0
    images.images[:, :, :16] = 255
    loader = training_loader(PILImages(images, law), 16 * task.BATCH_SIZE)
    batches = [x for x, _ in loader]
    assert [tuple(x.shape) for x in batches] == [(task.BATCH_SIZE, 3, 32, 32)] * 16, "longer than the data"
    views = ours.training_views(images, law, CPU)
    own = torch.cat([x for epoch in range(128) for x, *_ in views.epoch(epoch)])
    mean, std = (torch.tensor(values).view(3, 1, 1) for values in (task.MEAN, task.STD))
    found, expected = (x.mean(dim=0) * std + mean for x in (torch.cat(batches), own))
    # Without the crop 0.22, without flips 0.50, without rotation 0.14.
    assert (found - expected).abs().max() < 0.09


def top1_of_kdrun(student: nn.Module, images) -> float:
    resident = ResidentImages(images, mean=task.MEAN, std=task.STD, device=CPU)
    return evaluate(student, resident, autocast(CPU, "fp32"))["top1"]


@pytest.mark.parametrize("loop", [Released, MDistiller])
def test_evaluation_agrees_with_that_of_kdrun(loop):
    student, teacher = networks()
    images = task.image_sets(2, 70)[1]
    resident = ResidentImages(images, mean=task.MEAN, std=task.STD, device=CPU)
    images.labels[::2] = student.eval()(resident.batch(torch.arange(70))).argmax(dim=1)[::2]
    sets = (PILImages(images), PILImages(images))
    found = loop(student.train(), teacher, PAIRS["mean"], sets, num_images=70, device=CPU).evaluate()
    assert found == pytest.approx(top1_of_kdrun(student, images))
    assert 50 <= found < 70
