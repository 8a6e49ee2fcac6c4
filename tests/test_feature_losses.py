"""Feature and relation losses against loops in plain NumPy, and a property of each from its paper."""

import numpy as np
import pytest
import torch
from torch.testing import assert_close

from kdrun import losses

N = 5


def draw(*shape: int, seed: int = 0) -> torch.Tensor:
    return torch.randn(*shape, generator=torch.Generator().manual_seed(seed), dtype=torch.float64)


def huber(a: float, b: float) -> float:
    return 0.5 * (a - b) ** 2 if abs(a - b) < 1 else abs(a - b) - 0.5


def pooled(features: np.ndarray, size: int, reduce) -> np.ndarray:
    """Blocks of a map `[N, C, H, W]` reduced to `size` x `size`."""
    step = features.shape[2] // size
    rows = [
        [reduce(features[:, :, i * step : (i + 1) * step, j * step : (j + 1) * step], axis=(2, 3)) for j in range(size)]
        for i in range(size)
    ]
    return np.array(rows).transpose(2, 3, 0, 1)


def reference_at(student: np.ndarray, teacher: np.ndarray) -> float:
    total = 0.0
    for ours, theirs in zip(student, teacher, strict=True):
        maps = [sum(channel**2 for channel in features) / len(features) for features in (ours, theirs)]
        one, other = (found / np.sqrt((found**2).sum()) for found in maps)
        total += ((one - other) ** 2).sum()
    return total / len(student) / student[0, 0].size


def reference_at_of_the_paper(student: np.ndarray, teacher: np.ndarray) -> float:
    """Half the norms of equation 2, with beta = 1 / HW, the mean over the images."""
    total = 0.0
    for ours, theirs in zip(student, teacher, strict=True):
        one, other = ((features**2).sum(0).ravel() for features in (ours, theirs))
        total += np.linalg.norm(one / np.linalg.norm(one) - other / np.linalg.norm(other)) / 2
    return total / len(student) / student[0, 0].size


def reference_rkd(student: np.ndarray, teacher: np.ndarray) -> tuple[float, float]:
    found = []
    for features in (student, teacher):
        distances = np.array([[np.sqrt(((a - b) ** 2).sum()) for a in features] for b in features])
        cosines = np.zeros((N, N, N))
        for i, j, k in np.ndindex(N, N, N):
            if i not in (j, k):
                one, other = features[j] - features[i], features[k] - features[i]
                cosines[i, j, k] = one @ other / np.sqrt((one @ one) * (other @ other))
        found.append((distances / (distances.sum() / (N * (N - 1))), cosines))
    pairs = [zip(one.flat, other.flat, strict=True) for one, other in zip(*found, strict=True)]
    distance, angle = (sum(huber(a, b) for a, b in values) for values in pairs)
    return distance / N**2, angle / N**3


def reference_sp(student: np.ndarray, teacher: np.ndarray) -> float:
    found = []
    for features in (student, teacher):
        rows = np.array([[sum(a * b for a, b in zip(x.flat, y.flat, strict=True)) for y in features] for x in features])
        found.append(np.array([row / np.sqrt(sum(value**2 for value in row)) for row in rows]))
    return ((found[0] - found[1]) ** 2).sum() / N**2


def reference_fsp(first: np.ndarray, last: np.ndarray) -> np.ndarray:
    matrix = np.zeros((N, first.shape[1], last.shape[1]))
    for n, i, j in np.ndindex(matrix.shape):
        for s, t in np.ndindex(first.shape[2:]):
            matrix[n, i, j] += first[n, i, s, t] * last[n, j, s, t] / first[0, 0].size
    return matrix


@pytest.mark.parametrize(("size", "other"), [(4, 4), (8, 4), (4, 8)])
def test_attention_transfer_equals_an_independent_computation(size, other):
    student, teacher = draw(N, 3, size, size), draw(N, 7, other, other, seed=1)
    ours, theirs = (pooled(features.numpy(), 4, np.mean) for features in (student, teacher))
    loss = losses.attention_transfer_loss(student, teacher)
    assert_close(loss.item(), reference_at(ours, theirs), rtol=1e-12, atol=0)
    paper = losses.attention_transfer_loss(student, teacher, variant="paper")
    assert_close(paper.item(), reference_at_of_the_paper(ours, theirs), rtol=1e-12, atol=0)


def test_attention_maps_ignore_the_scale_the_sign_and_the_order_of_channels():
    student, teacher = draw(N, 6, 4, 4), draw(N, 6, 4, 4, seed=1)
    loss = losses.attention_transfer_loss(student, teacher)
    assert_close(losses.attention_transfer_loss(-3 * student[:, torch.randperm(6)], teacher), loss)
    assert losses.attention_transfer_loss(2 * teacher, teacher) < 1e-30


def test_rkd_equals_an_independent_computation():
    student, teacher = draw(N, 4), draw(N, 6, seed=1)
    distance, angle = reference_rkd(student.numpy(), teacher.numpy())
    assert_close(losses.rkd_distance_loss(student, teacher).item(), distance, rtol=1e-12, atol=0)
    assert_close(losses.rkd_angle_loss(student, teacher).item(), angle, rtol=1e-12, atol=0)


@pytest.mark.parametrize("loss", [losses.rkd_distance_loss, losses.rkd_angle_loss])
def test_rkd_is_invariant_to_rotation_translation_and_scale(loss):
    student, teacher = draw(N, 4), draw(N, 6, seed=1)
    rotation = torch.linalg.qr(draw(4, 4, seed=2))[0]
    moved = 2.5 * student @ rotation + draw(4, seed=3)
    assert_close(loss(moved, teacher), loss(student, teacher))
    assert_close(loss(student, student @ rotation), torch.tensor(0.0, dtype=torch.float64), rtol=0, atol=1e-15)
    assert loss(student * draw(4, seed=4), teacher) != loss(student, teacher)


def test_similarities_equal_an_independent_computation_and_ignore_rotation_and_scale():
    student, teacher = draw(N, 2, 3, 3), draw(N, 11, seed=1)
    loss = losses.similarity_loss(student, teacher)
    assert_close(loss.item(), reference_sp(student.numpy(), teacher.numpy()), rtol=1e-12, atol=0)
    rotation = torch.linalg.qr(draw(18, 18, seed=2))[0]
    assert_close(losses.similarity_loss(4 * student.flatten(1) @ rotation, teacher), loss)
    assert losses.similarity_loss(student + 1, teacher) != loss


@pytest.mark.parametrize(("pooling", "reduce"), [("max", np.max), ("average", np.mean)])
@pytest.mark.parametrize(("size", "other"), [(4, 4), (8, 4), (4, 8)])
def test_fsp_matrix_equals_an_independent_computation(size, other, pooling, reduce):
    first, last = draw(N, 2, size, size), draw(N, 3, other, other, seed=1)
    expected = reference_fsp(*(pooled(features.numpy(), 4, reduce) for features in (first, last)))
    assert_close(losses.fsp_matrix(first, last, pooling=pooling).numpy(), expected, rtol=1e-12, atol=1e-14)


def test_fsp_loss_is_the_squared_frobenius_norm_per_image_or_its_share():
    student, teacher = draw(N, 2, 3), draw(N, 2, 3, seed=1)
    expected = sum(np.linalg.norm(matrix) ** 2 for matrix in (student - teacher).numpy()) / N
    assert_close(losses.fsp_loss(student, teacher).item(), expected, rtol=1e-12, atol=0)
    assert_close(losses.fsp_loss(student, teacher, reduction="mean").item(), expected / 6, rtol=1e-12, atol=0)


def test_hint_loss_is_half_the_squared_norm_per_image_or_the_mean_square():
    student, teacher = draw(N, 2, 3, 3), draw(N, 2, 3, 3, seed=1)
    squares = sum((a - b) ** 2 for a, b in zip(student.numpy().flat, teacher.numpy().flat, strict=True))
    assert_close(losses.hint_loss(student, teacher).item(), squares / student.numel(), rtol=1e-12, atol=0)
    half = losses.hint_loss(student, teacher, reduction="half_sum")
    assert_close(half.item(), squares / 2 / N, rtol=1e-12, atol=0)


LOSSES = {
    "at": losses.attention_transfer_loss,
    "at_paper": lambda student, teacher: losses.attention_transfer_loss(student, teacher, variant="paper"),
    "rkd_distance": losses.rkd_distance_loss,
    "rkd_angle": losses.rkd_angle_loss,
    "sp": losses.similarity_loss,
    "hint": losses.hint_loss,
    "fsp": lambda student, teacher: losses.fsp_loss(
        losses.fsp_matrix(student, student.flip(1)), losses.fsp_matrix(teacher, teacher.flip(1))
    ),
}


@pytest.mark.parametrize("loss", LOSSES.values(), ids=LOSSES)
def test_zero_when_the_student_is_the_teacher_and_no_gradient_reaches_it(loss):
    student, teacher = draw(N, 3, 4, 4).requires_grad_(), draw(N, 3, 4, 4, seed=1).requires_grad_()
    assert loss(student, student.detach()).item() == 0
    found = loss(student, teacher)
    assert found > 0
    found.backward()
    assert student.grad.abs().sum() > 0
    assert teacher.grad is None


@pytest.mark.parametrize("loss", LOSSES.values(), ids=LOSSES)
def test_narrow_features_are_computed_in_float32_and_no_number_is_not_hidden(loss):
    student, teacher = (draw(N, 3, 4, 4, seed=seed).bfloat16() for seed in (0, 1))
    with torch.autocast("cpu", dtype=torch.bfloat16):
        found = loss(student, teacher)
    assert found.dtype == torch.float32
    assert_close(found.double(), loss(student.double(), teacher.double()), rtol=1e-4, atol=1e-6)
    student[1, 1] = float("nan")
    assert loss(student, teacher).isnan()


@pytest.mark.parametrize("loss", LOSSES.values(), ids=LOSSES)
def test_dead_and_equal_features_give_finite_gradients(loss):
    """Two images alike, and one whose features are all zero: distances and norms of 0."""
    student, teacher = draw(N, 3, 4, 4), draw(N, 3, 4, 4, seed=1)
    student[1] = student[0]
    student[2] = 0
    for features in (student, torch.zeros_like(student)):
        features.requires_grad_()
        loss(features, teacher).backward()
        assert features.grad.isfinite().all()
        assert features.grad.abs().max() < 1e3


@pytest.mark.parametrize(
    ("call", "message"),
    [
        (lambda maps: losses.hint_loss(maps, maps[:, :2]), "must have the same shape"),
        (lambda maps: losses.fsp_loss(maps[0], maps[0, :, :2]), "must have the same shape"),
        (lambda maps: losses.hint_loss(maps, maps, reduction="sum"), "reduction='sum': must be one of mean, half_sum"),
        (lambda maps: losses.fsp_loss(maps[0], maps[0], reduction="batch"), "reduction='batch': must be one of"),
        (lambda maps: losses.fsp_matrix(maps, maps, pooling="avg"), "pooling='avg': must be one of max, average"),
    ],
)
def test_wrong_arguments_are_refused_by_name(call, message):
    with pytest.raises(ValueError, match=message):
        call(draw(N, 3, 4, 4))
