"""The losses against hand-computed values, closed forms and an independent computation in plain Python."""

import math

import pytest
import torch
import torch.nn.functional as F
from torch.testing import assert_close

from kdrun import losses
from kdrun.losses.base import HIGHEST_TEMPERATURE, LOWEST_TEMPERATURE

K = 7


@pytest.fixture
def logits():
    generator = torch.Generator().manual_seed(1)
    student = torch.randn(5, K, generator=generator, dtype=torch.float64) * 3
    teacher = torch.randn(5, K, generator=generator, dtype=torch.float64) * 3
    labels = torch.tensor([0, 3, 6, 3, 1])
    return student, teacher, labels


def softmax(row, temperature=1.0):
    powers = [math.exp(value / temperature) for value in row]
    return [power / sum(powers) for power in powers]


def reference_kl(target_logits, logits, temperature_target, temperature):
    """KL per image, averaged over the images, with the scalars of Python's math only."""
    total = 0.0
    for target_row, row in zip(target_logits.tolist(), logits.tolist(), strict=True):
        p, q = softmax(target_row, temperature_target), softmax(row, temperature)
        total += sum(a * (math.log(a) - math.log(b)) for a, b in zip(p, q, strict=True))
    return total / len(logits)


def reference_ce(logits, labels):
    rows = zip(logits.tolist(), labels.tolist(), strict=True)
    return sum(-math.log(softmax(row)[label]) for row, label in rows) / len(labels)


@pytest.mark.parametrize("temperature", [0.5, 1.0, 4.0, 20.0])
@pytest.mark.parametrize(("kl_reduction", "divisor"), [("batchmean", 1), ("mean", K)])
def test_kd_loss_equals_an_independent_computation(logits, temperature, kl_reduction, divisor):
    student, teacher, labels = logits
    kl = reference_kl(teacher, student, temperature, temperature) / divisor
    expected = 0.3 * reference_ce(student, labels) + 0.7 * 2.5 * temperature**2 * kl
    loss = losses.kd_loss(
        student, teacher, labels, temperature=temperature, alpha=0.7, kl_reduction=kl_reduction, multiplier=2.5
    )
    assert loss.dtype == torch.float64
    assert_close(loss.item(), expected, rtol=1e-12, atol=1e-12)


def test_kd_loss_of_two_classes_by_hand():
    # Teacher (1/4, 3/4), student (1/2, 1/2): KL = 1/4 ln(1/2) + 3/4 ln(3/2).
    teacher = torch.tensor([[0.0, math.log(3)]])
    loss = losses.kd_loss(torch.zeros(1, 2), teacher, torch.tensor([1]), temperature=1.0, alpha=0.5)
    by_hand = 0.5 * math.log(2) + 0.5 * (0.25 * math.log(0.5) + 0.75 * math.log(1.5))
    assert_close(loss.item(), by_hand, rtol=1e-6, atol=1e-7)


@pytest.mark.parametrize(("spread", "wrong", "right"), [("uniform", 0.2 / K, 0.8 + 0.2 / K), ("others", 0.2 / 6, 0.8)])
def test_label_smoothing_equals_cross_entropy_with_the_smoothed_target(logits, spread, wrong, right):
    student, _, labels = logits
    expected = 0.0
    for row, label in zip(student.tolist(), labels.tolist(), strict=True):
        expected -= sum((right if k == label else wrong) * math.log(p) for k, p in enumerate(softmax(row))) / 5
    loss = losses.label_smoothing_loss(student, labels, epsilon=0.2, spread=spread)
    assert_close(loss.item(), expected, rtol=1e-12, atol=1e-12)


def test_label_smoothing_agrees_with_torch_and_others_is_uniform_with_a_larger_epsilon(logits):
    student, _, labels = logits
    uniform = losses.label_smoothing_loss(student, labels, epsilon=0.1)
    assert_close(uniform, F.cross_entropy(student, labels, label_smoothing=0.1))
    others = losses.label_smoothing_loss(student, labels, epsilon=0.1, spread="others")
    assert_close(others, losses.label_smoothing_loss(student, labels, epsilon=0.1 * K / (K - 1)))


@pytest.mark.parametrize(("variant", "student_temperature", "divisor"), [("paper", 20.0, 1), ("released", 1.0, K)])
def test_tfkd_reg_equals_an_independent_computation(logits, variant, student_temperature, divisor):
    student, _, labels = logits
    virtual = torch.full((5, K), 0.01 / (K - 1), dtype=torch.float64)
    for row, label in enumerate(labels.tolist()):
        virtual[row, label] = 0.99
    kl = reference_kl(virtual, student, 20.0, student_temperature) / divisor
    expected = 0.9 * reference_ce(student, labels) + 0.1 * 3.0 * kl
    loss = losses.tfkd_reg_loss(student, labels, temperature=20.0, alpha=0.1, multiplier=3.0, variant=variant)
    assert_close(loss.item(), expected, rtol=1e-12, atol=1e-12)


@pytest.mark.parametrize(
    ("alpha", "temperature", "multiplier"),
    [(0.95, 40.0, 1.0), (0.95, 10.0, 1.0), (0.1, 20.0, 100.0), (0.1, 40.0, 50.0)],
)
def test_tfkd_reg_as_released_is_scaled_label_smoothing(alpha, temperature, multiplier):
    """Up to a constant, for every published CIFAR-100 setting: c LSR(eps), w = alpha m / K, c = 1 - alpha + w."""
    num_classes = 100
    generator = torch.Generator().manual_seed(2)
    student = torch.randn(16, num_classes, generator=generator, dtype=torch.float64, requires_grad=True)
    labels = torch.randint(num_classes, (16,), generator=generator)
    wrong = 0.01 / (num_classes - 1)
    u = math.exp(wrong / temperature) / (math.exp(0.99 / temperature) + 99 * math.exp(wrong / temperature))
    weight = alpha * multiplier / num_classes
    scale = 1 - alpha + weight
    smoothing = scale * losses.label_smoothing_loss(student, labels, epsilon=weight * num_classes * u / scale)
    reg = losses.tfkd_reg_loss(
        student, labels, temperature=temperature, alpha=alpha, multiplier=multiplier, variant="released"
    )
    expected, actual = (torch.autograd.grad(loss, student)[0] for loss in (smoothing, reg))
    assert_close(actual, expected, rtol=0, atol=1e-12)
    assert expected.abs().max() > 1e-4


def test_narrow_logits_are_computed_in_float32_even_under_autocast(logits):
    student, teacher, labels = logits
    narrow = [tensor.bfloat16() for tensor in (student, teacher)]
    with torch.autocast("cpu", dtype=torch.bfloat16):
        loss = losses.kd_loss(*narrow, labels, temperature=4.0, alpha=0.9)
    assert loss.dtype == torch.float32
    wide = losses.kd_loss(*(tensor.double() for tensor in narrow), labels, temperature=4.0, alpha=0.9)
    assert_close(loss.double(), wide, rtol=1e-5, atol=1e-6)


@pytest.mark.parametrize(
    ("change", "message"),
    [
        ({"temperature": 0.0}, "temperature=0.0: must be a finite number, more than 0"),
        ({"temperature": float("nan")}, "temperature=nan"),
        ({"temperature": float("inf")}, "temperature=inf"),
        ({"alpha": 1.5}, "alpha=1.5: must be a finite number, from 0 to 1"),
        ({"alpha": -0.1}, "alpha=-0.1"),
        ({"multiplier": -1.0}, "multiplier=-1.0"),
        ({"kl_reduction": "sum"}, "kl_reduction='sum': must be one of batchmean, mean"),
        ({"teacher_logits": torch.zeros(5, K + 1)}, "same shape"),
        ({"labels": torch.full((5,), K)}, f"labels must be from 0 to {K - 1}"),
        ({"labels": torch.zeros(5)}, "labels must be int64"),
        ({"labels": torch.zeros(4, dtype=torch.int64)}, "labels must be int64 of shape"),
        ({"student_logits": torch.zeros(5)}, "logits must be floating point of shape"),
    ],
)
def test_wrong_arguments_are_refused_by_name(logits, change, message):
    student, teacher, labels = logits
    arguments = {"student_logits": student, "teacher_logits": teacher, "labels": labels}
    with pytest.raises(ValueError, match=message):
        losses.kd_loss(**{**arguments, "temperature": 4.0, "alpha": 0.9, **change})


def every_loss(student, teacher, labels, temperature: float) -> dict[str, torch.Tensor]:
    """Each loss at a temperature, and at the extremes of its other options."""
    found = {"ce": losses.cross_entropy(student, labels)}
    for reduction in losses.KL_REDUCTIONS:
        options = {"temperature": temperature, "kl_reduction": reduction}
        found[f"kd {reduction}"] = losses.kd_loss(student, teacher, labels, alpha=0.9, **options)
    for spread in losses.SPREADS:
        found[f"lsr {spread}"] = losses.label_smoothing_loss(student, labels, epsilon=0.1, spread=spread)
    for variant in losses.TFKD_REG_VARIANTS:
        found[f"reg {variant}"] = losses.tfkd_reg_loss(
            student, labels, temperature=temperature, alpha=0.5, variant=variant
        )
    wide = [losses.standardized(logits) for logits in (student, teacher)]
    found["standardised"] = losses.soft_target_loss(*wide, temperature=temperature)
    for renormalize in (True, False):
        found[f"topk {renormalize}"] = losses.topk_loss(
            student, teacher, temperature=temperature, k=2, renormalize=renormalize
        )
    found["pt"] = losses.true_class_loss(student, teacher, labels, temperature=temperature)
    found["dkd"] = losses.dkd_loss(student, teacher, labels, temperature=temperature, alpha=1.0, beta=8.0)
    for mean in losses.ENSEMBLE_MEANS:
        members = torch.stack([teacher, teacher.flip(1)])
        found[f"ensemble {mean}"] = losses.ensemble_loss(student, members, temperature=temperature, mean=mean)
    found["dist"] = losses.dist_loss(student, teacher, temperature=temperature)
    found["cwtm"] = losses.confidence_weighted_loss(student, teacher, labels)
    found["dkpp"] = losses.permuted_target_loss(student, teacher, generator=torch.Generator().manual_seed(0))
    return found


@pytest.mark.parametrize("temperature", [LOWEST_TEMPERATURE, 0.1, 1.0, 4.0, 100.0, HIGHEST_TEMPERATURE])
def test_losses_and_gradients_are_finite_for_logits_of_any_magnitude(temperature):
    generator = torch.Generator().manual_seed(0)
    largest = torch.finfo(torch.float32).max
    for exponent in range(-30, 39, 4):
        student, teacher = (
            (torch.randn(64, 10, generator=generator) * 10.0**exponent).clamp(-largest, largest) for _ in range(2)
        )
        student[0, :2] = torch.tensor([largest, -largest])
        teacher[1, :2] = torch.tensor([-largest, largest])
        labels = torch.randint(10, (64,), generator=generator)
        labels[0] = 1  # the label has the smallest logit there is
        student.requires_grad_()
        for name, loss in every_loss(student, teacher, labels, temperature).items():
            assert loss.isfinite(), (name, exponent, loss)
            (gradient,) = torch.autograd.grad(loss, student)
            assert gradient.isfinite().all(), (name, exponent)


@pytest.mark.parametrize("bad", [float("inf"), -float("inf"), float("nan")])
def test_logits_that_are_no_numbers_are_never_hidden(bad):
    student, teacher, labels = torch.randn(4, 3), torch.randn(4, 3), torch.tensor([0, 1, 2, 0])
    student[2, 1] = bad
    assert not any(loss.isfinite() for loss in every_loss(student, teacher, labels, 2.0).values())
