"""Metrics against hand-made cases and independent computations."""

import math

import pytest
import torch

from kdrun.metrics import (
    classification_metrics,
    expected_calibration_error,
    num_agreeing,
    num_correct,
    standard_error_by_example,
)


def test_top_k_counts_by_hand():
    logits = torch.tensor([[3.0, 2.0, 1.0, 0.0], [0.0, 1.0, 2.0, 3.0], [1.0, 3.0, 2.0, 0.0]])
    labels = torch.tensor([0, 2, 3])
    assert [num_correct(logits, labels, k).item() for k in (1, 2, 3, 4, 5)] == [1, 2, 2, 3, 3]
    assert num_agreeing(logits, logits.flip(1)).item() == 0
    assert num_agreeing(logits, logits * 2).item() == 3


def test_metrics_are_percent_and_nats():
    probs = torch.tensor([[0.5, 0.25, 0.25], [0.2, 0.7, 0.1]])
    metrics = classification_metrics(probs.log(), torch.tensor([0, 2]))
    assert metrics["top1"] == pytest.approx(50)
    assert metrics["top5"] == pytest.approx(100)
    assert metrics["nll"] == pytest.approx((math.log(2) + math.log(10)) / 2, rel=1e-6)


@pytest.mark.parametrize("bins", [15, 1000, 2000, 10**6])
def test_ece_equals_a_loop_over_bins(bins):
    generator = torch.Generator().manual_seed(0)
    logits = torch.randn(500, 10, generator=generator, dtype=torch.float64) * 2
    labels = torch.randint(10, (500,), generator=generator)
    confidence, prediction = logits.softmax(1).max(1)
    expected = 0.0
    members: dict[int, list[int]] = {}
    for i in range(500):
        members.setdefault(math.ceil(confidence[i].item() * bins), []).append(i)
    for number, inside in members.items():
        assert all((number - 1) / bins < confidence[i].item() <= number / bins for i in inside)
        accuracy = sum(float(prediction[i] == labels[i]) for i in inside) / len(inside)
        mean = sum(confidence[i].item() for i in inside) / len(inside)
        expected += len(inside) / 500 * abs(accuracy - mean)
    assert expected_calibration_error(logits, labels, bins=bins).item() == pytest.approx(expected, rel=1e-9)
    if bins == 10**6:  # hardly two in one bin: the mean of |correct - confidence|
        alone = ((prediction == labels).double() - confidence).abs().mean().item()
        assert expected == pytest.approx(alone, rel=1e-2)


def test_certain_and_right_is_calibrated_certain_and_wrong_is_not():
    certain = torch.eye(4) * 100
    assert expected_calibration_error(certain, torch.arange(4)).item() == pytest.approx(0, abs=1e-6)
    assert expected_calibration_error(certain, (torch.arange(4) + 1) % 4).item() == pytest.approx(1, abs=1e-6)


def test_the_error_of_tokens_is_that_of_their_sequences():
    """Tokens of a sequence that are all right or all wrong are worth one observation, not so many."""
    right = torch.tensor([True, False, True, True])
    assert standard_error_by_example(right, 1) == pytest.approx((0.75 * 0.25 / 3) ** 0.5), "the binomial"
    assert standard_error_by_example(right.repeat_interleave(8), 8) == pytest.approx((0.75 * 0.25 / 3) ** 0.5)
    mixed = torch.tensor([[1, 1, 0, 1], [0, 0, 0, 1], [1, 0, 1, 0]]).bool()  # shares 0.75, 0.25 and 0.5
    assert standard_error_by_example(mixed.flatten(), 4) == pytest.approx(0.25 / 3**0.5)


def test_the_error_of_tokens_is_reported_in_percent_and_only_of_several_labels_each():
    logits = torch.eye(2)[[0, 0, 1, 0, 1, 1]] * 5
    labels = torch.tensor([0, 0, 1, 1, 1, 0])  # right: 2 of 2, 1 of 2, 1 of 2
    assert classification_metrics(logits, labels, labels_each=2)["top1_se"] == pytest.approx(100 / 6)
    assert "top1_se" not in classification_metrics(logits, labels)
    assert "top1_se" not in classification_metrics(logits, labels, labels_each=6), "one example has no deviation"
