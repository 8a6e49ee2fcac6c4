"""The losses that teach a part of the soft targets, against plain Python and the identities of their papers."""

import math

import pytest
import torch
from torch.testing import assert_close

from kdrun import losses
from kdrun.losses.partial_targets import num_kept

N, K, T = 5, 7, 3.0


@pytest.fixture
def student():
    return torch.randn(N, K, generator=torch.Generator().manual_seed(1), dtype=torch.float64) * 3


@pytest.fixture
def teacher():
    return torch.randn(N, K, generator=torch.Generator().manual_seed(2), dtype=torch.float64) * 3


@pytest.fixture
def labels():
    return torch.tensor([0, 3, 6, 3, 1])


def softmax(row, temperature=1.0):
    powers = [math.exp(value / temperature) for value in row]
    return [power / sum(powers) for power in powers]


def kl_row(p, q):
    """KL(p || q), scalars only; classes with p = 0 count nothing."""
    return sum(a * (math.log(a) - math.log(b)) for a, b in zip(p, q, strict=True) if a)


def reference(targets, student, temperature):
    """T^2 KL per image, averaged, from rows of target probabilities."""
    rows = zip(targets, student.tolist(), strict=True)
    return temperature**2 * sum(kl_row(p, softmax(row, temperature)) for p, row in rows) / len(targets)


def gradient(loss, logits):
    return torch.autograd.grad(loss(logits.requires_grad_()), logits)[0]


@pytest.mark.parametrize(("k", "kept"), [(1, 1), (3, 3), (7, 7), (0.25, 2), (0.01, 1), (1.0, 7)])
def test_topk_is_kd_from_the_teachers_softmax_over_its_k_largest_logits(student, teacher, k, kept):
    targets, masses = [], []
    for row in teacher.tolist():
        probs = softmax(row, T)
        floor = sorted(probs)[-kept]
        mass = sum(p for p in probs if p >= floor)
        targets.append([p / mass if p >= floor else 0.0 for p in probs])
        masses.append(mass)
    assert_close(losses.topk_loss(student, teacher, temperature=T, k=k).item(), reference(targets, student, T))
    each = [
        mass * reference([target], row[None], T) for mass, target, row in zip(masses, targets, student, strict=True)
    ]
    whole = losses.topk_loss(student, teacher, temperature=T, k=k, renormalize=False)
    assert_close(whole.item(), sum(each) / N)


def test_topk_of_all_classes_is_kd_and_of_one_is_the_teachers_decision(student, teacher):
    kd = losses.soft_target_loss(student, teacher, temperature=T)
    for renormalize in (True, False):
        assert_close(losses.topk_loss(student, teacher, temperature=T, k=K, renormalize=renormalize), kd)
    hard = T**2 * losses.cross_entropy(student / T, teacher.argmax(1))
    assert_close(losses.topk_loss(student, teacher, temperature=T, k=1), hard)


def test_a_student_equal_to_a_flat_teacher_still_has_the_loss_of_what_is_cut_off():
    """T^2 ln(K / k): why equal alpha is no equal weight."""
    flat = torch.zeros(5, 100)
    assert losses.topk_loss(flat, flat, temperature=4.0, k=0.25).item() == pytest.approx(16 * math.log(4))
    assert losses.soft_target_loss(flat, flat, temperature=4.0).item() == pytest.approx(0.0, abs=1e-5)


def test_a_fraction_of_the_classes_is_rounded_free_of_binary_fractions():
    assert [num_kept(k, 100) for k in (0.25, 0.29, 0.07, 0.001)] == [25, 29, 7, 1]
    assert num_kept(0.25, 10) == 2


@pytest.mark.parametrize(("k", "told"), [(0, "k=0: must be"), (-0.5, "k=-0.5: "), (1.5, "k=1.5: "), (8, "k=8: .* 7")])
def test_a_k_that_is_no_number_of_classes_is_refused(student, teacher, k, told):
    with pytest.raises(ValueError, match=told):
        losses.topk_loss(student, teacher, temperature=T, k=k)


def test_true_class_keeps_the_confidence_and_spreads_the_rest(student, teacher, labels):
    targets = []
    for row, label in zip(teacher.tolist(), labels.tolist(), strict=True):
        confidence = softmax(row, T)[label]
        targets.append([confidence if k == label else (1 - confidence) / (K - 1) for k in range(K)])
    found = losses.true_class_loss(student, teacher, labels, temperature=T)
    assert_close(found.item(), reference(targets, student, T))
    # Which wrong class the teacher prefers is not seen: those of each image in another order.
    shuffled = teacher.clone()
    for row, label in zip(shuffled, labels, strict=True):
        wrong = [k for k in range(K) if k != label]
        row[wrong] = row[wrong[::-1]]
    assert not torch.equal(shuffled, teacher)
    assert_close(losses.true_class_loss(student, shuffled, labels, temperature=T), found)


def test_true_class_of_a_teacher_that_is_sure_is_finite_and_the_label(student, labels):
    sure = torch.zeros(N, K).scatter(1, labels[:, None], 1e4)
    found = losses.true_class_loss(student.float(), sure, labels, temperature=1.0)
    assert_close(found, losses.cross_entropy(student.float(), labels))


@pytest.mark.parametrize("normalize", [True, False])
def test_class_similarity_is_kd_from_the_classifiers_rows(student, labels, normalize):
    weights = torch.randn(K, 4, generator=torch.Generator().manual_seed(3), dtype=torch.float64)
    rows = weights.tolist()
    if normalize:
        rows = [[w / math.hypot(*row) for w in row] for row in rows]
    targets = []
    for label in labels.tolist():
        targets.append(softmax([sum(a * b for a, b in zip(rows[label], row, strict=True)) for row in rows], 0.5))
    options = {"temperature": T, "similarity_temperature": 0.5, "normalize": normalize}
    found = losses.class_similarity_loss(student, weights, labels, **options)
    assert_close(found.item(), reference(targets, student, T))
    rescaled = losses.class_similarity_loss(student, weights * torch.arange(1.0, K + 1)[:, None], labels, **options)
    assert torch.allclose(rescaled, found) == normalize


def test_unrelated_classes_have_the_mass_that_the_yaml_says():
    """Orthogonal rows are label smoothing; at a similarity temperature of 0.2 and K=100 with 0.6 on the label."""
    student, labels = torch.randn(4, 100), torch.arange(4)
    found = losses.class_similarity_loss(student, torch.eye(100), labels, temperature=1.0, similarity_temperature=0.2)
    right = math.exp(5) / (math.exp(5) + 99)
    assert round(right, 1) == 0.6
    target = torch.full((4, 100), (1 - right) / 99).scatter(1, labels[:, None], right)
    assert_close(found, (target * (target.log() - student.log_softmax(1))).sum(1).mean())


def test_class_weights_that_do_not_fit_are_refused(student, labels):
    with pytest.raises(ValueError, match=r"class weights must be \[K, D\] with K=7 rows, got \[6, 4\]"):
        losses.class_similarity_loss(student, torch.ones(6, 4), labels, temperature=1.0, similarity_temperature=1.0)


def test_dkd_terms_equal_an_independent_computation(student, teacher, labels):
    tckd = nckd = 0.0
    for row, target, label in zip(student.tolist(), teacher.tolist(), labels.tolist(), strict=True):
        p, q = softmax(target, T), softmax(row, T)
        tckd += T**2 * kl_row([p[label], 1 - p[label]], [q[label], 1 - q[label]]) / N
        others = [k for k in range(K) if k != label]
        nckd += T**2 * kl_row(softmax([target[k] for k in others], T), softmax([row[k] for k in others], T)) / N
    assert_close(losses.target_class_loss(student, teacher, labels, temperature=T).item(), tckd)
    assert_close(losses.other_classes_loss(student, teacher, labels, temperature=T).item(), nckd)
    found = losses.dkd_loss(student, teacher, labels, temperature=T, alpha=0.5, beta=8.0)
    assert_close(found.item(), 0.5 * tckd + 8 * nckd)


def test_kd_is_tckd_and_nckd_weighed_by_what_the_teacher_leaves_to_the_wrong_classes(student, teacher, labels):
    for i, label in enumerate(labels):
        one = student[i : i + 1], teacher[i : i + 1]
        confidence = (one[1] / T).softmax(1)[0, label]
        tckd = losses.target_class_loss(*one, label[None], temperature=T)
        nckd = losses.other_classes_loss(*one, label[None], temperature=T)
        kd = losses.soft_target_loss(*one, temperature=T)
        assert_close(tckd + (1 - confidence) * nckd, kd, rtol=1e-12, atol=0)
