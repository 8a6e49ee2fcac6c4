"""Soft targets as numbers: closed forms, and the file beside a run."""

import math

import pytest
import torch

from kdrun.files import read_record
from kdrun.losses import label_smoothing_loss, virtual_teacher_loss
from kdrun.papers.tfkd2020.soft_targets import TEMPERATURES, describe, kl_to_uniform
from kdrun.papers.tfkd2020.soft_targets_plot import distance_to_uniform, smoothed, virtual_teacher


def test_distance_to_uniform_in_closed_form():
    assert kl_to_uniform(torch.full((3, 8), 1 / 8, dtype=torch.float64)).abs().max() < 1e-7
    one_hot = torch.eye(8, dtype=torch.float64)
    assert kl_to_uniform(one_hot) == pytest.approx([math.log(8)] * 8)
    halves = torch.tensor([0.5, 0.5, 0.0, 0.0], dtype=torch.float64)
    assert kl_to_uniform(halves).item() == pytest.approx(math.log(2))
    assert distance_to_uniform(halves.tolist()) == pytest.approx(math.log(2))


def test_a_confident_teacher_comes_to_the_uniform_as_the_square_of_the_temperature():
    """For small logits z/T, KL(p_T || u) tends to var(z) / (2 T^2)."""
    generator = torch.Generator().manual_seed(0)
    logits = 2 * torch.randn(50, 10, generator=generator, dtype=torch.float64)
    found = describe(logits, logits.argmax(1))
    assert found["temperatures"] == list(TEMPERATURES)
    assert found["kl_to_uniform"] == sorted(found["kl_to_uniform"], reverse=True)
    variance = logits.var(dim=1, unbiased=False).mean().item()
    assert found["kl_to_uniform"][-1] == pytest.approx(variance / (2 * 80**2), rel=0.05)


def test_the_image_is_of_median_confidence_among_those_that_are_right():
    # Images 0, 1, 2 are right with growing confidence, image 3 is surest and wrong.
    logits = torch.tensor([[1.0, 0, 0], [0, 2.0, 0], [0, 0, 3.0], [9.0, 0, 0]], dtype=torch.float64)
    found = describe(logits, torch.tensor([0, 1, 2, 1]))
    assert (found["index"], found["label"], found["num_classes"]) == (1, 1, 3)
    assert found["classes"][0] == 1
    assert found["probs"][0][0] == pytest.approx(math.exp(2) / (math.exp(2) + 2))


def test_the_smoothed_label_and_the_virtual_teacher_are_those_of_the_losses():
    """By the entropies: a loss at logits log(target) is the target's own entropy, or a KL of nothing."""
    labels = torch.tensor([0])
    target = torch.tensor([smoothed(100, 0.1)], dtype=torch.float64)
    entropy = -(target * target.log()).sum().item()
    assert label_smoothing_loss(target.log(), labels, epsilon=0.1).item() == pytest.approx(entropy)
    virtual = torch.tensor([virtual_teacher(100, 20.0)], dtype=torch.float64)
    loss = virtual_teacher_loss(20 * virtual.log(), labels, temperature=20.0, variant="paper")
    assert loss.item() == pytest.approx(0, abs=1e-12)


TABLE = """
title: Soft targets
figures: [{_target_: kdrun.papers.tfkd2020.soft_targets.SoftTargetsFigure}]
rows:
  - {name: mlp/ce, overrides: [dataset=synthetic, recipe.epochs=1, runtime.device=cpu, student=mlp, method=ce]}
"""


def test_they_are_computed_once_and_drawn_without_data(here, kdrun):
    (here / "mine.yaml").write_text(TABLE)
    picture = here / "outputs" / "tables" / "mine" / "soft_targets.png"
    words = ("table", "mine.yaml", "--seeds", "1")
    assert kdrun(*words)[0] == 0
    size = picture.stat().st_size
    assert size > 20_000
    (kept,) = here.glob("outputs/derived/*.json")
    record = read_record(kept)
    assert (record["kind"], record["num_classes"], record["temperatures"]) == ("softtargets", 10, list(TEMPERATURES))
    assert [len(values) for values in record["probs"]] == [10] * len(TEMPERATURES)
    picture.unlink()
    for path in here.glob("outputs/runs/**/student.safetensors"):
        path.unlink()
    assert kdrun(*words, "--render-only", "dataset.root=/nowhere")[0] == 0
    assert picture.stat().st_size == size
    kept.unlink()
    code, out, _ = kdrun(*words, "--render-only")
    assert code == 0
    assert any("soft_targets" in line for line in out)
    assert not picture.exists(), "none that is older than the table"
