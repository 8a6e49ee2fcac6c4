"""CRD against its formula in plain loops, its memories, and its negatives."""

import math

import pytest
import torch
from torch import nn
from torch.testing import assert_close

from kdrun.methods import CRD, Batch, Pair, StudentOutput, TeacherOutput, TrainingSet
from kdrun.taps import Outline

M, N, K, SIZE = 40, 8, 4, 6
LABELS = torch.arange(M) % K
PAIR = Pair(
    Outline("student", {"map": (2, 2, 2), "pool": (5,), "out": (K,)}, output=frozenset({"out"})),
    Outline("teacher", {"map": (3, 2, 2), "pool": (7,), "out": (K,)}, output=frozenset({"out"})),
    nn.Identity,
)


def made(labels: torch.Tensor = LABELS, **options: object) -> CRD:
    torch.manual_seed(0)
    training = TrainingSet(labels, len(labels), K)
    return CRD(nn.Identity(), PAIR, training, **{"num_negatives": 10, "embedding_size": SIZE, **options}).double()


def batch_of(index: torch.Tensor, seed: int = 0, views: int = 1, labels: torch.Tensor = LABELS) -> Batch:
    generator = torch.Generator().manual_seed(seed)
    return Batch(torch.zeros(len(index), 1), labels[index], index, 0, 0, 0.0, generator, views)


def features(seed: int, rows: int = N) -> tuple[StudentOutput, TeacherOutput]:
    generator = torch.Generator().manual_seed(seed)

    def drawn(*shape: int) -> torch.Tensor:
        return torch.randn(rows, *shape, generator=generator, dtype=torch.float64)

    student = StudentOutput(drawn(K).requires_grad_(), {"pool": drawn(5).requires_grad_(), "map": drawn(2, 2, 2)})
    return student, TeacherOutput(drawn(K), {"pool": drawn(7), "map": drawn(3, 2, 2)})


def term(method: CRD, seed: int = 0, index: torch.Tensor | None = None) -> torch.Tensor:
    index = torch.arange(0, 2 * N, 2) if index is None else index
    student, teacher = features(seed)
    return method.distill(student, batch_of(index, seed), teacher)


def reference(anchors, memory, index, negatives, z, temperature, k):
    """Equations 17 and 18 summed one image and one pair at a time; z None is the first batch's."""
    chosen = [(position, *others) for position, others in zip(index, negatives, strict=True)]
    pairs = [[math.exp(float(anchors[i] @ memory[j]) / temperature) for j in chosen[i]] for i in range(N)]
    if z is None:
        z = sum(map(sum, pairs)) / (N * (k + 1)) * M
    total = 0.0
    for positive, *others in pairs:
        total -= math.log(positive / z / (positive / z + k / M + 1e-7))
        total -= sum(math.log((k / M) / (other / z + k / M + 1e-7)) for other in others)
    return total / N, z


def test_value_memories_and_normalisation_over_three_steps_are_those_of_plain_loops():
    method, z = made(), [None, None]
    memories = [method.student_memory.clone(), method.teacher_memory.clone()]
    for seed in range(3):
        index = torch.randperm(M, generator=torch.Generator().manual_seed(seed))[:N]
        student, teacher = features(seed)
        negatives = method._negatives(batch_of(index, seed))
        found = method.distill(student, batch_of(index, seed), teacher)
        ours, theirs = (
            nn.functional.normalize(projection(output.features["pool"]), dim=1).detach()
            for projection, output in ((method.student_projection, student), (method.teacher_projection, teacher))
        )
        first, z[0] = reference(ours, memories[1], index, negatives, z[0], 0.07, 10)
        second, z[1] = reference(theirs, memories[0], index, negatives, z[1], 0.07, 10)
        assert found.item() == pytest.approx(first + second, rel=1e-12)
        for memory, new in zip(memories, (ours, theirs), strict=True):
            for row, position in enumerate(index):
                mean = (memory[position] + new[row]) / 2
                memory[position] = mean / mean.norm()
        assert_close(method.student_memory, memories[0])
        assert_close(method.teacher_memory, memories[1])
        assert_close(method.log_z.exp(), torch.tensor(z, dtype=torch.float64))


def test_gradients_are_those_of_finite_differences_and_reach_student_and_projections_alone():
    method = made(temperature=0.5)
    start = {name: tensor.clone() for name, tensor in method.state_dict().items()}

    def value(pool: torch.Tensor, *parameters: torch.Tensor) -> torch.Tensor:
        method.load_state_dict(start)
        student, teacher = features(0)
        student = StudentOutput(student.logits, {"pool": pool})
        arguments = (student, batch_of(torch.arange(N)), teacher)
        names = [name for name, _ in method.named_parameters()]
        given = dict(zip(names, parameters, strict=True))
        return torch.func.functional_call(_Distill(method), {f"method.{n}": p for n, p in given.items()}, arguments)

    term(method)  # the normalisation does not move with the features
    start["log_z"] = method.log_z.clone()
    student, _ = features(0)
    inputs = [student.features["pool"].detach().requires_grad_()]
    inputs += [parameter.detach().clone().requires_grad_() for parameter in method.parameters()]
    assert torch.autograd.gradcheck(value, inputs)
    assert {name.partition(".")[0] for name, _ in method.named_parameters()} == {
        "student_projection",
        "teacher_projection",
    }


class _Distill(nn.Module):
    def __init__(self, method: CRD) -> None:
        super().__init__()
        self.method = method

    def forward(self, *arguments: object) -> torch.Tensor:
        return self.method.distill(*arguments)


@pytest.mark.parametrize(("k", "distinct"), [(30, True), (31, False), (200, False)])
def test_negatives_are_of_other_classes_and_come_once_where_there_are_enough(k, distinct):
    index = torch.arange(N)
    negatives = made(num_negatives=k)._negatives(batch_of(index))
    assert negatives.shape == (N, k)
    assert (LABELS[negatives] != LABELS[index][:, None]).all()
    assert all((len(set(row.tolist())) == k) is distinct for row in negatives)
    again, other = (made(num_negatives=k)._negatives(batch_of(index, seed)) for seed in (0, 1))
    assert torch.equal(again, negatives)
    assert not torch.equal(other, negatives), "the batch's generator draws them"


@pytest.mark.parametrize("k", [10, 60])
def test_negatives_are_drawn_evenly(k):
    """Of 30 images each is one in 30 of the draws, without replacement and with it; 5 standard deviations at most."""
    draws = 4000
    negatives = made(num_negatives=k)._negatives(batch_of(torch.full((draws,), 5)))
    counts = negatives.flatten().bincount(minlength=M)
    assert (counts[LABELS[5] == LABELS] == 0).all()
    deviation = math.sqrt(draws * k / 30 * (1 - 10 / 30 if k == 10 else 1 - 1 / 30))
    assert (counts[LABELS[5] != LABELS] - draws * k / 30).abs().max() < 5 * deviation


def test_images_of_one_class_have_no_negatives():
    with pytest.raises(ValueError, match="of one class"):
        made(labels=torch.full((M,), 2))._negatives(batch_of(torch.arange(N), labels=torch.full((M,), 2)))


def test_of_several_views_the_first_is_remembered():
    method, alone = made(), made()
    index = torch.arange(4)
    student, teacher = features(0)
    method.distill(student, batch_of(index.repeat(2), views=2), teacher)
    first = StudentOutput(student.logits[:4], {"pool": student.features["pool"][:4]})
    alone.distill(first, batch_of(index), TeacherOutput(teacher.logits[:4], {"pool": teacher.features["pool"][:4]}))
    assert_close(method.student_memory, alone.student_memory)
    assert_close(method.teacher_memory, alone.teacher_memory)
    assert not torch.equal(method.student_memory, made().student_memory)


def test_a_small_temperature_overflows_nothing():
    method = made(temperature=1e-3).float()
    student, teacher = features(0)
    found = method.distill(
        StudentOutput(student.logits, {"pool": student.features["pool"].float()}),
        batch_of(torch.arange(N)),
        TeacherOutput(teacher.logits, {"pool": teacher.features["pool"].float()}),
    )
    found.backward()
    assert found.isfinite()
    assert method.student_projection.weight.grad.isfinite().all()


def test_a_label_for_every_token_is_refused():
    with pytest.raises(ValueError, match="every token has a label"):
        CRD(nn.Identity(), PAIR, TrainingSet(torch.zeros(3 * M, dtype=torch.int64), M, K))
