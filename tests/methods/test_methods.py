"""Each method's objective is the library's loss with its options; what holds for every method of logits."""

import inspect
import math

import pytest
import torch
from torch import nn
from torch.testing import assert_close

from kdrun import losses
from kdrun.methods import (
    CE,
    KD,
    LSR,
    Batch,
    KDSim,
    KDTopK,
    KDUniform,
    Method,
    TeacherOutput,
    TfKDReg,
    TfKDSelf,
    shipped_methods,
)

K = 6
METHODS = [
    kind
    for kind in shipped_methods().values()
    if "pair" not in inspect.signature(kind).parameters or kind in (KDSim, KDTopK)
]
"""All that need no features, no second network and no terms: the others are tested in files of their own."""
SOFT = {"temperature": 3.0, "alpha": 0.7, "kl_reduction": "mean", "multiplier": 2.5}
VIRTUAL = {"temperature": 5.0, "alpha": 0.3, "correct_prob": 0.9, "multiplier": 4.0, "variant": "released"}


@pytest.fixture
def objective(build, batch):
    """The objective of a method with its options."""

    def make(kind: type[Method], teacher: TeacherOutput | None, **options):
        return build(kind, **options)(batch, teacher)

    return make


def gradient(loss: torch.Tensor, logits: torch.Tensor) -> torch.Tensor:
    return torch.autograd.grad(loss, logits)[0]


@pytest.mark.parametrize("options", [{}, SOFT])
@pytest.mark.parametrize("kind", [KD, TfKDSelf])
def test_kd_is_the_librarys_loss(objective, batch, teacher, kind, options):
    found = objective(kind, teacher, **options)
    options = {"temperature": 4.0, "alpha": 0.9, **options}
    expected = losses.kd_loss(found.logits, teacher.logits, batch.y, **options)
    assert torch.equal(found.loss, expected)
    soft = {name: value for name, value in options.items() if name in ("temperature", "kl_reduction")}
    assert found.terms.keys() == {"ce", "kd"}
    assert torch.equal(found.terms["ce"], losses.cross_entropy(found.logits, batch.y))
    assert torch.equal(found.terms["kd"], losses.soft_target_loss(found.logits, teacher.logits, **soft))


@pytest.mark.parametrize("options", [{}, VIRTUAL])
def test_tfkd_reg_is_the_librarys_loss(objective, batch, teacher, options):
    found = objective(TfKDReg, teacher, **options)
    options = {"temperature": 20.0, "alpha": 0.1, **options}
    assert torch.equal(found.loss, losses.tfkd_reg_loss(found.logits, batch.y, **options))
    virtual = {name: value for name, value in options.items() if name in ("temperature", "correct_prob", "variant")}
    if "multiplier" not in options:
        virtual["kl_reduction"] = "batchmean"
    assert found.terms.keys() == {"ce", "virtual_teacher"}
    assert torch.equal(found.terms["ce"], losses.cross_entropy(found.logits, batch.y))
    assert torch.equal(found.terms["virtual_teacher"], losses.virtual_teacher_loss(found.logits, batch.y, **virtual))


def test_tfkd_reg_is_by_default_label_smoothing_of_weight_alpha_at_any_number_of_classes(objective, batch):
    """As released for ResNet18: T=20, alpha=0.1 and a multiplier that is K, here 6, where 100 is at K=100."""
    found = objective(TfKDReg, None)
    assert_close(found.loss, objective(TfKDReg, None, multiplier=6.0).loss)
    label = losses.virtual_teacher_target(K, temperature=20.0)
    epsilon = K * 0.1 * (1 - label) / (K - 1)
    smoothed = losses.label_smoothing_loss(found.logits, batch.y, epsilon=epsilon)
    assert_close(gradient(found.loss, found.logits), gradient(smoothed, found.logits), rtol=1e-10, atol=1e-14)


@pytest.mark.parametrize(("temperature", "label"), [(5.0, 0.01216), (20.0, 0.010502), (40.0, 0.010248)])
def test_the_released_target_is_nearly_uniform_at_any_temperature(temperature, label):
    """At K=100: 1.05 and 1.02 times 1/K at the paper's T of 20 and 40."""
    assert losses.virtual_teacher_target(100, temperature=temperature) == pytest.approx(label, rel=1e-3)
    probs = losses.virtual_teacher_probs(torch.zeros(1, 100, dtype=torch.float64), torch.tensor([3]), 0.99)
    softened = torch.softmax(probs / temperature, dim=1)[0, 3].item()
    assert losses.virtual_teacher_target(100, temperature=temperature) == pytest.approx(softened, rel=1e-12)


@pytest.mark.parametrize("options", [{}, SOFT])
def test_kd_uniform_is_kd_from_a_teacher_that_gives_every_class_the_same(objective, batch, options):
    found = objective(KDUniform, None, **options)
    constant = TeacherOutput(torch.full((8, K), 7.0, dtype=torch.float64))
    assert_close(found.loss, objective(KD, constant, **options).loss, rtol=1e-12, atol=0)
    # At T=1 and per image it is label smoothing: (1 - alpha) H(q, p) + alpha H(u, p), less the entropy of u.
    smoothed = losses.label_smoothing_loss(found.logits, batch.y, epsilon=0.3)
    plain = objective(KDUniform, None, temperature=1.0, alpha=0.3).loss
    assert_close(plain, smoothed - 0.3 * math.log(K), rtol=1e-12, atol=0)


@pytest.mark.parametrize("kind", [CE, LSR])
def test_scale_multiplies_the_loss_and_not_its_term(objective, kind):
    whole, part = objective(kind, None), objective(kind, None, scale=0.0595)
    assert torch.equal(part.loss, 0.0595 * whole.loss)
    assert part.terms == whole.terms


@pytest.mark.parametrize("options", [{}, {"epsilon": 0.3, "spread": "others"}])
def test_methods_without_a_teacher_are_the_librarys_losses(objective, batch, options):
    smoothed = objective(LSR, None, **options)
    assert torch.equal(
        smoothed.loss, losses.label_smoothing_loss(smoothed.logits, batch.y, **{"epsilon": 0.1, **options})
    )
    assert smoothed.terms == {"lsr": smoothed.loss}
    plain = objective(CE, None)
    assert torch.equal(plain.loss, losses.cross_entropy(plain.logits, batch.y))
    assert plain.terms == {"ce": plain.loss}


@pytest.mark.parametrize("kind", METHODS)
def test_one_forward_of_the_student_on_the_batchs_views(build, batch, teacher, kind):
    method = build(kind)
    found = method(batch, teacher if kind.needs.teacher else None)
    student = method.student
    assert len(student.inputs) == 1
    assert student.inputs[0] is batch.x
    assert found.logits is student.logits
    assert found.loss.shape == ()
    assert all(term.shape == () for term in found.terms.values())


@pytest.mark.parametrize("kind", METHODS)
def test_gradient_reaches_the_student_and_nothing_else(build, batch, teacher, kind):
    tensors = [teacher.logits, teacher.members, *teacher.weights.values()]
    for tensor in tensors:
        tensor.requires_grad_()
    built = build(kind)
    built(batch, teacher).loss.backward()
    assert all(tensor.grad is None for tensor in tensors)
    assert built.student.logits.grad.abs().sum() > 0
    assert [name for name, _ in built.named_parameters()] == ["student.logits"]


@pytest.mark.parametrize("kind", METHODS)
def test_the_number_of_operations_does_not_grow_with_the_batch(build, batch, teacher, kind):
    """No loop over the images, as there is in released code where soft labels are built."""

    class Counting(torch.utils._python_dispatch.TorchDispatchMode):
        calls = 0

        def __torch_dispatch__(self, operation, types, arguments=(), options=None):
            self.calls += 1
            return operation(*arguments, **(options or {}))

    counts = []
    for times in (1, 8):
        method = build(kind)
        method.student.logits = nn.Parameter(method.student.logits.detach().repeat(times, 1))
        larger = Batch(**{**vars(batch), "y": batch.y.repeat(times)})
        members, weights = teacher.members.repeat(1, times, 1), teacher.weights
        with Counting() as counting:
            method(larger, TeacherOutput(teacher.logits.repeat(times, 1), {}, weights, members)).loss.backward()
        counts.append(counting.calls)
    assert counts[0] == counts[1] > 0
