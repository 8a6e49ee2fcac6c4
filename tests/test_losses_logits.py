"""Logit matching, standardisation, ensembles, correlation, triplets and the born-again ablations: their equations."""

import itertools
import math

import pytest
import torch
from torch.testing import assert_close

from kdrun import losses

N, K = 6, 7
LABELS = torch.tensor([0, 3, 6, 3, 1, 3])


def drawn(seed, *shape):
    return torch.randn(*shape, generator=torch.Generator().manual_seed(seed), dtype=torch.float64) * 3


@pytest.fixture
def student():
    return drawn(1, N, K).requires_grad_()


@pytest.fixture
def teacher():
    return drawn(2, N, K)


def gradient(loss, logits):
    return torch.autograd.grad(loss, logits)[0]


def numpy(*tensors):
    return [tensor.detach().numpy() for tensor in tensors]


def softmax(row):
    powers = [math.exp(value) for value in row]
    return [power / sum(powers) for power in powers]


# Logit matching


def test_logit_matching_is_half_the_squared_distance_of_centred_logits(student, teacher):
    z, v = numpy(student, teacher)
    total = 0.0
    for a, b in zip(z, v, strict=True):
        total += sum(((x - a.mean()) - (y - b.mean())) ** 2 for x, y in zip(a, b, strict=True)) / 2
    assert_close(losses.logit_matching_loss(student, teacher, class_reduction="sum").item(), total / N)
    assert_close(losses.logit_matching_loss(student, teacher).item(), total / N / K)
    shifted = losses.logit_matching_loss(student + 5, teacher - torch.arange(N)[:, None])
    assert_close(shifted.item(), total / N / K)


def test_kd_tends_to_logit_matching_in_value_and_gradient(student, teacher):
    """Hinton et al. 2015, part 2.1: N T^2 dC/dz tends to z - v. The next term of the series falls as 1/T."""
    found = losses.logit_matching_loss(student, teacher)
    matched = gradient(found, student)
    errors = []
    for temperature in (1e2, 1e3, 1e4):
        kd = losses.soft_target_loss(student, teacher, temperature=temperature)
        errors.append((abs(kd / found - 1).item(), (gradient(kd, student) - matched).norm() / matched.norm()))
    assert max(errors[-1]) < 1e-3
    for coarse, fine in itertools.pairwise(errors):
        assert all(9 < a / b < 11 for a, b in zip(coarse, fine, strict=True))
    summed = losses.logit_matching_loss(student, teacher, class_reduction="sum")
    assert_close(summed, K * losses.soft_target_loss(student, teacher, temperature=1e5), rtol=1e-4, atol=0)
    centred = (student - teacher) - (student - teacher).mean(1, keepdim=True)
    assert_close(gradient(summed, student), centred.detach() / N)


# Standardisation


def test_standardised_logits_have_mean_0_and_the_samples_deviation_1(student):
    (z,) = numpy(student)
    for row, found in zip(z, losses.standardized(student), strict=True):
        assert_close(found.tolist(), ((row - row.mean()) / (row.std(ddof=1) + 1e-7)).tolist())


def test_standardised_logits_that_are_all_the_same_are_0_with_a_finite_gradient():
    logits = torch.full((2, K), 3.0, requires_grad=True)
    found = losses.standardized(logits)
    assert (found == 0).all()
    assert gradient(found.square().sum(), logits).isfinite().all()


# Ensembles


@pytest.mark.parametrize("mean", losses.ENSEMBLE_MEANS)
def test_ensemble_is_kd_from_the_mean_of_the_softened_outputs(student, mean):
    temperature, members = 2.0, drawn(3, 3, N, K)
    total = 0.0
    for i, row in enumerate(student.tolist()):
        probs = [softmax([value / temperature for value in member]) for member in members[:, i].tolist()]
        if mean == "arithmetic":
            p = [sum(column) / 3 for column in zip(*probs, strict=True)]
        else:
            p = [math.prod(column) ** (1 / 3) for column in zip(*probs, strict=True)]
            p = [value / sum(p) for value in p]
        q = softmax([value / temperature for value in row])
        total += temperature**2 * sum(a * math.log(a / b) for a, b in zip(p, q, strict=True)) / N
    found = losses.ensemble_loss(student, members, temperature=temperature, mean=mean)
    assert_close(found.item(), total)
    assert_close(losses.ensemble_loss(student, members[[2, 0, 1]], temperature=temperature, mean=mean), found)
    one = losses.ensemble_loss(student, members[:1], temperature=temperature, mean=mean)
    assert_close(one, losses.soft_target_loss(student, members[0], temperature=temperature))


def test_teachers_of_other_shapes_are_refused(student, teacher):
    for wrong in (teacher, torch.empty(0, N, K), torch.empty(2, N, K + 1)):
        with pytest.raises(ValueError, match=r"teacher logits must be \[M, N, K\] of at least one teacher"):
            losses.ensemble_loss(student, wrong, temperature=1.0)


# DIST


def test_dist_is_one_minus_pearsons_correlation_over_classes_and_over_images(student, teacher):
    np = pytest.importorskip("numpy")
    p, q = ([softmax([value / 2 for value in row]) for row in logits.tolist()] for logits in (teacher, student))
    p, q = np.array(p), np.array(q)
    inter = 1 - np.mean([np.corrcoef(p[i], q[i])[0, 1] for i in range(N)])
    intra = 1 - np.mean([np.corrcoef(p[:, k], q[:, k])[0, 1] for k in range(K)])
    for beta, gamma in ((1.0, 0.0), (0.0, 1.0), (2.0, 0.5)):
        found = losses.dist_loss(student, teacher, temperature=2.0, beta=beta, gamma=gamma)
        assert_close(found.item(), beta * inter + gamma * intra, rtol=1e-4, atol=0)


def test_dist_of_constant_outputs_and_of_one_image_has_finite_gradients():
    for rows in (1, 4):
        logits = torch.zeros(rows, K, requires_grad=True)
        loss = losses.dist_loss(logits, torch.randn(rows, K))
        assert_close(loss, torch.tensor(2.0))
        assert gradient(loss, logits).isfinite().all()


# Triplets


def test_triplet_loss_of_raw_logits(student, teacher):
    negatives = torch.tensor([1, 0, 1, 4, 5, 2])
    exists = torch.tensor([True, True, True, True, True, False])
    s, t = student.tolist(), teacher.tolist()
    for margin in (0.0, 1.0, 5.0):
        hinges = [max(0.0, math.dist(t[i], s[i]) - math.dist(t[i], s[n]) + margin) for i, n in enumerate(negatives)]
        found = losses.triplet_loss(student, teacher, negatives, exists, margin=margin)
        assert_close(found.item(), sum(hinges[:-1]) / N)
    # Far from the negatives and on the teacher there is nothing left to do.
    apart = 100 * torch.eye(N, K, dtype=torch.float64)
    assert losses.triplet_loss(apart, apart, negatives, exists, margin=5.0) == 0


def test_the_gradient_of_a_student_that_equals_its_teacher_is_finite(teacher):
    student = teacher.float().requires_grad_()
    loss = losses.triplet_loss(student, teacher, torch.arange(N).roll(1), torch.ones(N, dtype=torch.bool), margin=90.0)
    assert gradient(loss, student).isfinite().all()


def test_negatives_are_of_other_classes_each_as_often_as_the_others():
    generator = torch.Generator().manual_seed(0)
    counts = torch.zeros(N, N)
    for _ in range(3000):
        negatives, exists = losses.draw_negatives(LABELS, generator)
        counts[torch.arange(N), negatives] += 1
        assert exists.all()
    allowed = LABELS[:, None] != LABELS
    assert (counts[~allowed] == 0).all()
    expected = (allowed / allowed.sum(1, keepdim=True) * 3000)[allowed]
    assert ((counts[allowed] - expected).abs() < 5 * expected.sqrt()).all()


def test_a_batch_of_one_class_has_no_triplets(student, teacher):
    negatives, exists = losses.draw_negatives(torch.full((N,), 2), torch.Generator())
    assert not exists.any()
    loss = losses.triplet_loss(student, teacher, negatives, exists, margin=5.0)
    assert loss == 0
    assert (gradient(loss, student) == 0).all()


# Born-again networks


def test_confidence_weighs_the_images_and_nothing_else(student, teacher):
    weights = [max(softmax(row)) for row in teacher.tolist()]
    entropies = [-math.log(softmax(row)[label]) for row, label in zip(student.tolist(), LABELS.tolist(), strict=True)]
    expected = sum(w / sum(weights) * h for w, h in zip(weights, entropies, strict=True))
    assert_close(losses.confidence_weighted_loss(student, teacher, LABELS).item(), expected)
    equally_sure = torch.eye(N, K, dtype=torch.float64)
    found = losses.confidence_weighted_loss(student, equally_sure, LABELS)
    assert_close(found, losses.cross_entropy(student, LABELS))


def test_permuting_moves_every_probability_but_the_largest(teacher):
    """The cross-entropy is linear in the target, so a unit change of one logit reads the target off the gradient."""
    generator = torch.Generator().manual_seed(0)
    logits = torch.zeros(N, K, dtype=torch.float64, requires_grad=True)
    probs, top = teacher.softmax(1), teacher.argmax(1, keepdim=True)
    seen = torch.zeros(N, K, dtype=torch.float64)
    for _ in range(400):
        loss = losses.permuted_target_loss(logits, teacher, generator=generator)
        target = 1 / K - N * gradient(loss, logits)  # dL/dz = (softmax(z) - target) / N
        assert_close(target.gather(1, top), probs.gather(1, top))
        assert_close(target.sort(1).values, probs.sort(1).values)
        seen += target / 400
    # On average the wrong classes share what is left: the permutations are fair.
    rest = ((1 - probs.gather(1, top)) / (K - 1)).expand(N, K).scatter(1, top, probs.gather(1, top))
    assert (seen - rest).abs().max() < 0.05
    again = losses.permuted_target_loss(logits, teacher, generator=torch.Generator().manual_seed(0))
    assert again != losses.permuted_target_loss(drawn(4, N, K), teacher, generator=torch.Generator().manual_seed(1))
