"""The reference does what the released code did: its loss, its steps, its data, its evaluation."""

import itertools
import math
from functools import partial

import pytest
import torch
from torch import Tensor, nn

from benchmarks import ours, task
from benchmarks.reference import Reference, kd_loss, test_loader, training_loader, virtual_teacher
from kdrun.data import ResidentImages
from kdrun.experiment.choices import Choices
from kdrun.losses import virtual_teacher_probs
from kdrun.models import mlp, resnet20
from kdrun.training.evaluation import evaluate
from kdrun.training.precision import autocast

test_loader.__test__ = False
CPU = torch.device("cpu")


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


@pytest.mark.parametrize(("name", "tolerance"), [("mlp", 1e-4), ("resnet20", 0.1)])
def test_both_sides_take_the_same_steps(name, tolerance):
    """The same views and weights give the same losses and the same updates in fp32.

    Weight decay is 0.5 % of the update, momentum and the order of the steps are much more. In the deeper network
    rounding moves ReLUs across zero: there the gradient in NCHW memory is itself 1 % off the one in float64.
    """
    views = ours.training_views(task.training_images(72), CPU, batch_size=24)
    student, teacher = networks(name)
    before = weights(student)
    reference = Reference(student, teacher.eval(), alpha=0.6, temperature=4.0, device=CPU)
    theirs = [reference.step(x.contiguous(), y)[0] for x, y, _ in views.epoch(0)]
    their_update = weights(student) - before
    student, teacher = networks(name)
    steps = ours.kd_steps(
        student, teacher, views, Choices(threads=1), alpha=0.6, temperature=4.0, precision="fp32", device=CPU
    )
    losses = [step.end_epoch().means["loss"] for step in itertools.islice(steps, 3)]
    assert losses == pytest.approx(theirs, rel=1e-4)
    assert (weights(student) - before - their_update).norm() < tolerance * their_update.norm()


def test_the_teacher_stays_as_it_is():
    student, teacher = networks()
    before = {name: tensor.clone() for name, tensor in teacher.state_dict().items()}
    loop = Reference(student, teacher, alpha=0.9, device=CPU)
    images = task.training_images(24)
    losses = list(loop.epoch(training_loader(images, workers=0)))
    assert len(losses) == 1
    assert all(torch.equal(tensor, before[name]) for name, tensor in teacher.state_dict().items())
    assert all(parameter.grad is None for parameter in teacher.parameters())


def test_the_images_are_those_that_kdrun_sees():
    images = task.random_images(task.NUM_CLASSES, 3, 32, 2, 70).test
    resident = ResidentImages(images, mean=task.MEAN, std=task.STD, device=CPU)
    found = list(test_loader(images, workers=0))
    assert [len(labels) for _, labels in found] == [64, 6]
    torch.testing.assert_close(torch.cat([x for x, _ in found]), resident.batch(torch.arange(70)))
    assert torch.equal(torch.cat([labels for _, labels in found]), images.labels)


def test_training_views_follow_the_law_of_kdrun():
    """Where white stands on average over many views of an image that is white on its left: crop, flip and rotation."""
    images = task.training_images(8)
    images.images[:] = 0
    images.images[:, :, :16] = 255
    loader = training_loader(images, workers=0, num_images=16 * task.BATCH_SIZE)
    batches = [x for x, _ in loader]
    assert [tuple(x.shape) for x in batches] == [(task.BATCH_SIZE, 3, 32, 32)] * 16, "longer than the data"
    views = ours.training_views(images, CPU)
    own = torch.cat([x for epoch in range(128) for x, *_ in views.epoch(epoch)])
    mean, std = (torch.tensor(values).view(3, 1, 1) for values in (task.MEAN, task.STD))
    found, expected = (x.mean(dim=0) * std + mean for x in (torch.cat(batches), own))
    # Without the crop 0.22, without flips 0.50, without rotation 0.14.
    assert (found - expected).abs().max() < 0.09


def test_evaluation_agrees_with_that_of_kdrun():
    student, teacher = networks()
    images = task.random_images(4, 3, 32, 2, 70).test
    resident = ResidentImages(images, mean=task.MEAN, std=task.STD, device=CPU)
    images.labels[::2] = student.eval()(resident.batch(torch.arange(70))).argmax(dim=1)[::2]
    found = Reference(student.train(), teacher, alpha=0.9, device=CPU).evaluate(test_loader(images, workers=0))
    resident = ResidentImages(images, mean=task.MEAN, std=task.STD, device=CPU)
    assert found == pytest.approx(evaluate(student, resident, autocast(CPU, "fp32"))["top1"])
    assert 50 <= found < 70
