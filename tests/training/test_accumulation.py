"""Gradients of micro-batches add up to those of the whole batch, where the images do not see each other."""

import contextlib

import pytest
import torch
from torch import nn
from torch.testing import assert_close

from kdrun.methods import CE, KD, Batch, TeacherOutput
from kdrun.mixed import Mixed
from kdrun.training.optimisation import build_optimizer
from kdrun.training.step import Step, parts

CLASSES = 3


def batch_of(images: int, *, views: int = 1, tokens: int = 1) -> tuple[Batch, TeacherOutput]:
    """Rows that say which image they are of; labels by token."""
    generator = torch.Generator().manual_seed(images)
    rows = images * views * tokens
    y = torch.randint(CLASSES, (rows,), generator=generator)
    mixed = Mixed(y.flip(0), torch.rand(rows, generator=generator).double())
    x = torch.randn(images * views, 6, generator=generator, dtype=torch.float64)
    index = torch.arange(images).repeat(views)
    batch = Batch(x, y, index, 0, 0, 0.0, torch.Generator(), views, mixed, label_smoothing=0.1)
    logits = torch.randn(rows, CLASSES, generator=generator, dtype=torch.float64)
    return batch, TeacherOutput(logits, {"tap": x + 1}, members=torch.stack([logits, 2 * logits]))


def step_of(micro_batch, batch, teacher):
    torch.manual_seed(0)
    student = nn.Sequential(nn.Linear(6, 8), nn.LayerNorm(8), nn.ReLU(), nn.Linear(8, CLASSES)).double()
    method = KD(student, temperature=2.0, alpha=0.5).train()
    optimizer = build_optimizer("sgd", method.parameters(), lr=0.1, momentum=0.9, nesterov=False, weight_decay=1e-3)
    step = Step(method, optimizer, contextlib.nullcontext(), micro_batch=micro_batch)
    step(batch, teacher, first=True)
    return torch.cat([parameter.detach().flatten() for parameter in method.parameters()]), step.end_epoch()


@pytest.mark.parametrize(("images", "views"), [(12, 1), (11, 1), (9, 1), (8, 2)])
def test_micro_batches_take_the_step_of_the_whole_batch(images, views):
    """Also where the last one is smaller, and where its single image joins the one before it."""
    batch, teacher = batch_of(images, views=views)
    whole, means = step_of(None, batch, teacher)
    cut, sums = step_of(4, batch, teacher)
    assert_close(cut, whole, rtol=1e-12, atol=1e-14)
    assert (sums.images, sums.first_bad_step) == (means.images, None)
    assert sums.means == pytest.approx(means.means, rel=1e-6)
    assert sums.shares.keys() == means.shares.keys() == {"ce", "kd"}


@pytest.mark.parametrize(("images", "sizes"), [(4, [4]), (5, [5]), (6, [4, 2]), (8, [4, 4]), (9, [4, 5]), (2, [2])])
def test_no_part_has_one_image(images, sizes):
    assert [len(part.index) for part, _ in parts(*batch_of(images), 4)] == sizes


@pytest.mark.parametrize(("views", "tokens"), [(1, 1), (3, 1), (1, 5)])
def test_a_part_has_all_views_and_tokens_of_its_images(views, tokens):
    batch, teacher = batch_of(8, views=views, tokens=tokens)
    found = list(parts(batch, teacher, 4))
    for number, (part, output) in enumerate(found):
        here = slice(4 * number, 4 * number + 4)
        for whole, cut in (
            (batch.x, part.x),
            (batch.index, part.index),
            (teacher.features["tap"], output.features["tap"]),
        ):
            assert torch.equal(cut, torch.cat([view[here] for view in whole.chunk(views)]))
        rows = slice(4 * tokens * number, 4 * tokens * (number + 1))
        several = [(batch.y, part.y), (teacher.logits, output.logits), *zip(batch.mixed, part.mixed, strict=True)]
        several += zip(teacher.members, output.members, strict=True)
        for whole, cut in several:
            assert torch.equal(cut, torch.cat([view[rows] for view in whole.chunk(views)]))


def test_statistics_of_batchnorm_are_those_of_the_micro_batches():
    batch, _ = batch_of(8)
    student = nn.Sequential(nn.BatchNorm1d(6), nn.Linear(6, CLASSES)).double()
    method = CE(student).train()
    step = Step(method, torch.optim.SGD(method.parameters(), lr=0.1), contextlib.nullcontext(), micro_batch=4)
    step(batch, None, first=True)
    mean = torch.zeros(6, dtype=torch.float64)
    for part in batch.x.split(4):
        mean = 0.9 * mean + 0.1 * part.mean(dim=0)
    assert student[0].num_batches_tracked == 2
    assert_close(student[0].running_mean, mean)


def test_a_bad_step_is_counted_in_steps():
    student = nn.Linear(6, CLASSES).double()
    method = CE(student).train()
    step = Step(method, torch.optim.SGD(method.parameters(), lr=0.0), contextlib.nullcontext(), micro_batch=4)
    for number in range(3):
        batch, _ = batch_of(8)
        if number == 1:
            batch.x[-1] = torch.nan
        step(batch, None, first=number == 0)
    assert step.end_epoch().first_bad_step == 2
