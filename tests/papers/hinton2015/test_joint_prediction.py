"""Specialists: joint answers against a general minimiser and closed forms, the dustbin's correction against Bayes."""

import math

import pytest
import torch

from kdrun.experiment.initial_weights import oversampling_correction
from kdrun.papers.hinton2015.joint_prediction import (
    Coverage,
    accuracy_by_coverage,
    active,
    class_sets,
    combined,
    conditional_accuracy,
)

SETS = ((0, 1, 2), (1, 2, 3), (2, 4))


def predictions(num_images=5, num_classes=6, sets=SETS, seed=0, scale=1.5):
    generator = torch.Generator().manual_seed(seed)
    draw = [
        torch.randn(num_images, k, generator=generator).double() for k in (num_classes, *(len(s) + 1 for s in sets))
    ]
    generalist, *specialists = ((scale * logits).log_softmax(1) for logits in draw)
    return generalist, specialists


def objective(z, generalist, specialists, sets, active):
    """The sum over images of KL(p_g, q) + sum KL(p_m, q), written out model by model."""
    q = z.softmax(1)
    total = (generalist.exp() * (generalist - q.log())).sum()
    for answer, classes, asked in zip(specialists, sets, active.T, strict=True):
        rest = [k for k in range(q.shape[1]) if k not in classes]
        seen = torch.cat([q[:, list(classes)], q[:, rest].sum(1, keepdim=True)], dim=1)
        total = total + ((answer.exp() * (answer - seen.log())).sum(1) * asked).sum()
    return total


def general_minimiser(loss, start):
    """L-BFGS, then Newton's method with the Hessian of autograd: knows nothing of the loss."""
    z = start.clone().requires_grad_()
    optimiser = torch.optim.LBFGS([z], max_iter=500, tolerance_grad=1e-7, line_search_fn="strong_wolfe")

    def closure():
        optimiser.zero_grad()
        value = loss(z)
        value.backward()
        return value

    optimiser.step(closure)
    for _ in range(3):
        closure()
        hessian = torch.autograd.functional.hessian(loss, z.detach()).reshape(z.numel(), z.numel())
        # An image's logits are known up to a constant only: hence the pseudo-inverse.
        with torch.no_grad():
            z -= (torch.linalg.pinv(hessian, rtol=1e-10, hermitian=True) @ z.grad.flatten()).reshape(z.shape)
    closure()
    assert z.grad.abs().max() < 1e-12
    return z.detach()


@pytest.mark.parametrize("seed", range(4))
def test_the_joint_answer_is_what_a_general_minimiser_finds(seed):
    generalist, specialists = predictions(seed=seed)
    asked = torch.tensor([[1, 1, 1], [1, 1, 0], [0, 1, 1], [0, 0, 1], [1, 0, 1]]).bool()
    z = general_minimiser(lambda z: objective(z, generalist, specialists, SETS, asked), generalist)
    result = combined(generalist, specialists, SETS, asked, tolerance=1e-14, steps=20_000)
    torch.testing.assert_close(result.log_q, z.log_softmax(1), rtol=0, atol=1e-9)


def test_excess_bounds_what_is_left_to_gain():
    generalist, specialists = predictions(num_images=1, scale=3)
    asked = torch.ones(1, 3, dtype=torch.bool)
    end = combined(generalist, specialists, SETS, asked, tolerance=1e-13, steps=50_000)
    assert 0 <= end.excess.item() <= 1e-13
    lowest = objective(end.log_q, generalist, specialists, SETS, asked)
    for steps in (1, 3, 10, 30):
        result = combined(generalist, specialists, SETS, asked, steps=steps)
        left = objective(result.log_q, generalist, specialists, SETS, asked) - lowest
        assert 0 < left < result.excess.item()


def test_models_of_every_class_are_averaged():
    """KL(p, q) summed over p is least at the arithmetic mean; KL(q, p) would give the geometric one."""
    everything = tuple(range(6))
    generalist, others = predictions(sets=(everything[:5], everything[:5]))  # 5 classes and a dustbin: 6 outputs
    specialists = [torch.cat([other, torch.full((5, 1), -math.inf)], dim=1) for other in others]
    result = combined(generalist, specialists, (everything, everything), torch.ones(5, 2, dtype=torch.bool))
    mean = (generalist.exp() + others[0].exp() + others[1].exp()) / 3
    torch.testing.assert_close(result.log_q.exp(), mean)


def test_one_specialist_has_a_closed_form():
    """Half of each on its classes; half of both dustbins outside, shared as the generalist would."""
    generalist, specialists = predictions(sets=((4, 1),))
    p, special = generalist.exp(), specialists[0].exp()
    rest = p[:, [0, 2, 3, 5]]
    mass = rest.sum(1, keepdim=True)
    expected = torch.empty_like(p)
    expected[:, [4, 1]] = (p[:, [4, 1]] + special[:, :2]) / 2
    expected[:, [0, 2, 3, 5]] = (mass + special[:, 2:]) / 2 * rest / mass
    result = combined(generalist, specialists, ((4, 1),), torch.ones(5, 1, dtype=torch.bool))
    torch.testing.assert_close(result.log_q.exp(), expected)


def test_an_image_nobody_is_asked_about_keeps_the_generalists_answer_and_the_others_do_not_matter():
    generalist, specialists = predictions()
    generalist, specialists = generalist.float(), [answer.float() for answer in specialists]
    asked = torch.tensor([[0, 0, 0], [1, 1, 0], [0, 0, 0], [0, 1, 0], [1, 1, 1]]).bool()
    together = combined(generalist, specialists, SETS, asked).log_q
    assert together.dtype == torch.float32
    assert torch.equal(together[[0, 2]], generalist[[0, 2]])
    for row in (1, 3, 4):
        alone = combined(generalist[[row]], [answer[[row]] for answer in specialists], SETS, asked[[row]]).log_q
        torch.testing.assert_close(together[[row]], alone)


def test_a_generalist_who_is_certain_does_not_overflow():
    """Logits 2000 apart underflow as probabilities, in float64 too."""
    generalist = torch.tensor([[0.0, -2000, -2000, -2000, -2000, -2000]]).double().log_softmax(1)
    specialists = [torch.zeros(1, 4).double().log_softmax(1), *predictions(num_images=1)[1][1:]]
    result = combined(generalist, specialists, SETS, torch.tensor([[True, False, False]]))
    expected = torch.tensor([[(1 + 1 / 4) / 2, 1 / 8, 1 / 8, 1 / 24, 1 / 24, 1 / 24]]).double()
    torch.testing.assert_close(result.log_q.exp(), expected)


def test_the_correction_of_the_dustbin_restores_the_true_prior():
    """Bayes' rule over six kinds of image: classes 0 and 1 whole, the rest (70 000 images) drawn 6 000 times."""
    likelihood = torch.rand(6, 3, generator=torch.Generator().manual_seed(0)).double()
    likelihood = likelihood / likelihood.sum(0)  # p(x | class 0, class 1, rest)
    seen = (likelihood * torch.tensor([2000.0, 4000, 6000])).log()  # the best logits on what the specialist trains on
    seen[:, 2] += oversampling_correction(6000, 70_000)
    true = likelihood * torch.tensor([2000.0, 4000, 70_000])
    torch.testing.assert_close(seen.softmax(1), true / true.sum(1, keepdim=True))


def test_class_sets_find_the_classes_predicted_together():
    """Three groups of classes; on an image of a group the mass wanders within it."""
    groups = ((0, 4, 7), (1, 2, 9), (3, 5, 6, 8))
    generator = torch.Generator().manual_seed(0)
    logits = torch.randn(600, 10, generator=generator) * 0.3
    for image in range(600):
        logits[image, list(groups[image % 3])] += 6
    probabilities = logits.softmax(1)
    for seed in range(5):
        assert class_sets(probabilities, 3, seed=seed) == groups
        overlapping = class_sets(probabilities, 3, size=4, seed=seed)
        assert len(overlapping) == 3
        assert all(len(classes) == 4 and classes == tuple(sorted(classes)) for classes in overlapping)
        assert all(any(set(group) <= set(classes) for classes in overlapping) for group in groups)


def test_class_sets_go_by_covariance_not_by_how_frequent_classes_are():
    wandering = torch.tensor([0.05, -0.05]).repeat(20)[:, None] * torch.tensor([1.0, 1, -1, -1])
    assert class_sets(torch.tensor([0.4, 0.1, 0.4, 0.1]) + wandering, 2, seed=0) == ((0, 1), (2, 3))


def test_sets_of_one_class_are_dropped_and_equal_ones_given_once():
    rows = torch.tensor([[0.48, 0.48, 0.02, 0.02], [0.02, 0.02, 0.9, 0.06], [0.02, 0.02, 0.06, 0.9]])
    pair = rows.repeat(30, 1)  # 0 and 1 go together
    assert class_sets(pair, 3, seed=0) == ((0, 1),)
    apart = torch.eye(4).repeat(20, 1)
    with pytest.raises(ValueError, match="no cluster of 2 to 3 of the 4 classes"):
        class_sets(apart, 4, seed=0)
    assert class_sets(rows[:2].repeat(30, 1), 2, size=2, seed=0) == ((0, 1), (2, 3))
    assert class_sets(pair, 4, size=3, seed=0) == ((0, 1, 2), (0, 1, 3))


def test_a_specialist_is_active_when_its_set_holds_a_likeliest_class():
    probabilities = torch.tensor([[0.5, 0.1, 0.1, 0.05, 0.05, 0.2], [0.1, 0.1, 0.5, 0.2, 0.1, 0.0]])
    assert active(probabilities, SETS).tolist() == [[True, False, False], [True, True, True]]
    assert active(probabilities[:, [5, 1, 2, 3, 4, 0]], SETS).tolist() == [[False] * 3, [True, True, True]]
    assert active(probabilities[:1, [5, 1, 2, 3, 4, 0]], SETS, num_top=2).tolist() == [[True, False, False]]


def test_accuracies_by_hand():
    labels = torch.tensor([0, 2, 2, 5, 4])
    generalist = torch.nn.functional.one_hot(torch.tensor([0, 5, 2, 5, 5]), 6) * 4.0
    generalist[1, 2] = generalist[4, 3] = 1
    joint = torch.nn.functional.one_hot(torch.tensor([0, 2, 2, 2, 5]), 6) * 4.0
    # Without class 5, which no set holds: 0 and 2 right, 4 taken for 3; the image of class 5 does not count.
    assert conditional_accuracy(generalist, labels, SETS) == pytest.approx(75)
    assert accuracy_by_coverage(generalist, joint, labels, SETS) == (
        Coverage(0, 1, 1, 0),
        Coverage(1, 2, 1, 1),
        Coverage(3, 2, 1, 2),
    )
    with pytest.raises(ValueError, match="no image is of a class that a specialist knows"):
        conditional_accuracy(generalist, torch.full((5,), 5), SETS)
