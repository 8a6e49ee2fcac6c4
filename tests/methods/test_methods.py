"""Each method's objective is the library's loss with its options, and every option does what it says."""

import inspect
import math

import pytest
import torch
from torch import nn
from torch.testing import assert_close

from kdrun import losses, methods
from kdrun.methods import CE, KD, LSR, Batch, KDUniform, Method, TeacherOutput, TfKDReg, TfKDSelf

N, K = 8, 6
METHODS = [
    kind for name in methods.__all__ if issubclass(kind := getattr(methods, name), Method) and kind is not Method
]
SOFT = {"temperature": 3.0, "alpha": 0.7, "kl_reduction": "mean", "multiplier": 2.5}
VIRTUAL = {"temperature": 5.0, "alpha": 0.3, "correct_prob": 0.9, "multiplier": 4.0, "variant": "released"}


class Answer(nn.Module):
    """A student whose logits `[N, K]` are its only parameter; it counts its calls."""

    def __init__(self) -> None:
        super().__init__()
        generator = torch.Generator().manual_seed(0)
        self.logits = nn.Parameter(torch.randn(N, K, generator=generator, dtype=torch.float64))
        self.inputs: list[torch.Tensor] = []

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        self.inputs.append(x)
        return self.logits


@pytest.fixture
def batch() -> Batch:
    generator = torch.Generator().manual_seed(1)
    return Batch(
        x=torch.zeros(N, 3, 8, 8),
        y=torch.arange(N) % K,
        index=torch.arange(N),
        epoch=0,
        step=0,
        progress=0.0,
        generator=generator,
    )


@pytest.fixture
def teacher() -> TeacherOutput:
    generator = torch.Generator().manual_seed(2)
    return TeacherOutput(3 * torch.randn(N, K, generator=generator, dtype=torch.float64))


def objective(kind: type[Method], batch: Batch, teacher: TeacherOutput, **options):
    return kind(Answer(), **options)(batch, teacher)


def gradient(loss: torch.Tensor, logits: torch.Tensor) -> torch.Tensor:
    return torch.autograd.grad(loss, logits)[0]


@pytest.mark.parametrize("options", [{}, SOFT])
@pytest.mark.parametrize("kind", [KD, TfKDSelf])
def test_kd_is_the_librarys_loss(batch, teacher, kind, options):
    found = objective(kind, batch, teacher, **options)
    options = {"temperature": 4.0, "alpha": 0.9, **options}
    expected = losses.kd_loss(found.logits, teacher.logits, batch.y, **options)
    assert torch.equal(found.loss, expected)
    soft = {name: value for name, value in options.items() if name in ("temperature", "kl_reduction")}
    assert found.terms.keys() == {"ce", "kd"}
    assert torch.equal(found.terms["ce"], losses.cross_entropy(found.logits, batch.y))
    assert torch.equal(found.terms["kd"], losses.soft_target_loss(found.logits, teacher.logits, **soft))


@pytest.mark.parametrize("options", [{}, VIRTUAL])
def test_tfkd_reg_is_the_librarys_loss(batch, teacher, options):
    found = objective(TfKDReg, batch, teacher, **options)
    options = {"temperature": 20.0, "alpha": 0.1, **options}
    assert torch.equal(found.loss, losses.tfkd_reg_loss(found.logits, batch.y, **options))
    virtual = {name: value for name, value in options.items() if name in ("temperature", "correct_prob", "variant")}
    assert found.terms.keys() == {"ce", "virtual_teacher"}
    assert torch.equal(found.terms["ce"], losses.cross_entropy(found.logits, batch.y))
    assert torch.equal(found.terms["virtual_teacher"], losses.virtual_teacher_loss(found.logits, batch.y, **virtual))


@pytest.mark.parametrize("options", [{}, SOFT])
def test_kd_uniform_is_kd_from_a_teacher_that_gives_every_class_the_same(batch, options):
    found = objective(KDUniform, batch, None, **options)
    constant = TeacherOutput(torch.full((N, K), 7.0, dtype=torch.float64))
    assert_close(found.loss, objective(KD, batch, constant, **options).loss, rtol=1e-12, atol=0)
    # At T=1 and per image it is label smoothing: (1 - alpha) H(q, p) + alpha H(u, p), less the entropy of u.
    smoothed = losses.label_smoothing_loss(found.logits, batch.y, epsilon=0.3)
    plain = objective(KDUniform, batch, None, temperature=1.0, alpha=0.3).loss
    assert_close(plain, smoothed - 0.3 * math.log(K), rtol=1e-12, atol=0)


@pytest.mark.parametrize("kind", [CE, LSR])
def test_scale_multiplies_the_loss_and_not_its_term(batch, kind):
    whole, part = objective(kind, batch, None), objective(kind, batch, None, scale=0.0595)
    assert torch.equal(part.loss, 0.0595 * whole.loss)
    assert part.terms == whole.terms


@pytest.mark.parametrize("options", [{}, {"epsilon": 0.3, "spread": "others"}])
def test_methods_without_a_teacher_are_the_librarys_losses(batch, options):
    smoothed = objective(LSR, batch, None, **options)
    assert torch.equal(
        smoothed.loss, losses.label_smoothing_loss(smoothed.logits, batch.y, **{"epsilon": 0.1, **options})
    )
    assert smoothed.terms == {"lsr": smoothed.loss}
    plain = objective(CE, batch, None)
    assert torch.equal(plain.loss, losses.cross_entropy(plain.logits, batch.y))
    assert plain.terms == {"ce": plain.loss}


@pytest.mark.parametrize("kind", METHODS)
def test_one_forward_of_the_student_on_the_batchs_views(batch, teacher, kind):
    student = Answer()
    found = kind(student)(batch, teacher if kind.needs.teacher else None)
    assert len(student.inputs) == 1
    assert student.inputs[0] is batch.x
    assert found.logits is student.logits
    assert found.loss.shape == ()
    assert all(term.shape == () for term in found.terms.values())


@pytest.mark.parametrize("kind", METHODS)
def test_gradient_reaches_the_student_and_nothing_else(batch, teacher, kind):
    logits = teacher.logits.clone().requires_grad_()
    built = kind(Answer())
    built(batch, TeacherOutput(logits)).loss.backward()
    assert logits.grad is None
    assert built.student.logits.grad.abs().sum() > 0
    assert [name for name, _ in built.named_parameters()] == ["student.logits"]


def test_what_a_method_asks_of_a_teacher():
    needs = {kind.name: (kind.needs.teacher, kind.needs.logits, kind.needs.own_architecture) for kind in METHODS}
    assert needs == {
        "ce": (False, False, False),
        "lsr": (False, False, False),
        "kd": (True, True, False),
        "kd_uniform": (False, False, False),
        "tfkd_self": (True, True, True),
        "tfkd_reg": (False, False, False),
    }


@pytest.mark.parametrize("kind", [KD, TfKDSelf, TfKDReg])
def test_alpha_0_is_cross_entropy_and_1_leaves_the_label_out(batch, teacher, kind):
    plain = objective(CE, batch, teacher)
    hard = objective(kind, batch, teacher, alpha=0.0)
    assert torch.equal(gradient(hard.loss, hard.logits), gradient(plain.loss, plain.logits))
    soft = objective(kind, batch, teacher, alpha=1.0)
    term = next(term for name, term in soft.terms.items() if name != "ce")
    assert torch.equal(soft.loss, term)


def share(method: Method, found, y) -> float:
    """How far from the cross-entropy to the other term the loss has gone."""
    soft = next(term for name, term in found.terms.items() if name != "ce")
    return ((found.loss - found.terms["ce"]) / (soft - found.terms["ce"])).item()


def divergence(method: Method, found, y) -> float:
    """The KL divergence per image of the softened distributions: without T^2."""
    return (found.terms["kd"] / method.temperature**2).item()


def soft_loss(method: Method, found, y) -> float:
    return next(term for name, term in found.terms.items() if name != "ce").item()


def pull(method: Method, found, y) -> float:
    """How hard a step of gradient descent pulls the logit of the label up."""
    return -gradient(found.loss, found.logits).gather(1, y[:, None]).mean().item()


KD_DIRECTIONS = [
    ("alpha", (0.0, 0.3, 0.9, 1.0), {}, share, "rises"),
    ("multiplier", (0.0, 1.0, 50.0), {}, pull, "falls"),  # this teacher disagrees with the labels
    ("temperature", (0.5, 1.0, 4.0, 20.0), {}, divergence, "falls"),
    ("kl_reduction", ("mean", "batchmean"), {}, soft_loss, "rises"),
]
DIRECTIONS = [
    *((KD, *row) for row in KD_DIRECTIONS),
    *((TfKDSelf, *row) for row in KD_DIRECTIONS),
    *((KDUniform, *row) for row in KD_DIRECTIONS if row[0] != "multiplier"),
    (KDUniform, "multiplier", (0.0, 1.0, 50.0), {}, pull, "rises"),  # the label has less than 1/K here
    (CE, "scale", (0.1, 1.0, 2.0), {}, pull, "rises"),
    (LSR, "scale", (0.1, 1.0, 2.0), {}, pull, "rises"),
    (LSR, "epsilon", (0.0, 0.1, 0.5, 1.0), {}, pull, "falls"),
    (LSR, "spread", ("uniform", "others"), {}, pull, "falls"),
    (TfKDReg, "alpha", (0.0, 0.3, 0.9, 1.0), {}, share, "rises"),
    (TfKDReg, "multiplier", (0.0, 1.0, 50.0), {"temperature": 1.0}, pull, "rises"),
    (TfKDReg, "temperature", (1.0, 5.0, 20.0, 40.0), {"alpha": 1.0}, pull, "falls"),
    (TfKDReg, "correct_prob", (0.2, 0.5, 0.9, 1.0), {"alpha": 1.0}, pull, "rises"),
    # As released the KL is divided by K. (At T=1, where the other difference vanishes.)
    (TfKDReg, "variant", ("released", "paper"), {"temperature": 1.0}, soft_loss, "rises"),
]


@pytest.mark.parametrize(
    ("kind", "option", "values", "fixed", "measure", "direction"),
    DIRECTIONS,
    ids=[f"{row[0].name}-{row[1]}" for row in DIRECTIONS],
)
def test_every_option_moves_the_loss_its_way(batch, teacher, kind, option, values, fixed, measure, direction):
    seen = []
    for value in values:
        method = kind(Answer(), **fixed, **{option: value})
        seen.append(measure(method, method(batch, teacher), batch.y))
    ordered = sorted(set(seen), reverse=direction == "falls")
    assert seen == ordered, f"{option} {direction} strictly"


def test_no_option_is_left_out_of_the_directions():
    options = {(kind, name) for kind in METHODS for name in inspect.signature(kind).parameters if name != "student"}
    assert {(kind, option) for kind, option, *_ in DIRECTIONS} == options


@pytest.mark.parametrize(
    ("kind", "option", "wrong"),
    [
        *((kind, "temperature", value) for kind in (KD, TfKDSelf, TfKDReg) for value in (0.0, -1.0, float("nan"))),
        *((kind, "alpha", value) for kind in (KD, TfKDSelf, TfKDReg) for value in (-0.1, 1.1)),
        *((kind, "multiplier", value) for kind in (KD, TfKDReg) for value in (-1.0, float("inf"))),
        (KD, "kl_reduction", "sum"),
        (TfKDReg, "correct_prob", 0.0),
        (TfKDReg, "correct_prob", 1.01),
        (TfKDReg, "variant", "published"),
        (LSR, "epsilon", -0.1),
        (LSR, "epsilon", 1.1),
        (LSR, "spread", "even"),
        *((kind, "scale", value) for kind in (CE, LSR) for value in (0.0, -1.0, float("inf"))),
    ],
)
def test_wrong_options_are_refused_before_training(kind, option, wrong):
    with pytest.raises(ValueError, match=rf"^{option}={wrong!r}: must be"):
        kind(Answer(), **{option: wrong})


@pytest.mark.parametrize("kind", METHODS)
def test_the_number_of_operations_does_not_grow_with_the_batch(batch, teacher, kind):
    """No loop over the images, as there is in released code where soft labels are built."""

    class Counting(torch.utils._python_dispatch.TorchDispatchMode):
        calls = 0

        def __torch_dispatch__(self, operation, types, arguments=(), options=None):
            self.calls += 1
            return operation(*arguments, **(options or {}))

    counts = []
    for times in (1, 8):
        method = kind(Answer())
        method.student.logits = nn.Parameter(method.student.logits.detach().repeat(times, 1))
        larger = Batch(**{**vars(batch), "y": batch.y.repeat(times)})
        with Counting() as counting:
            method(larger, TeacherOutput(teacher.logits.repeat(times, 1))).loss.backward()
        counts.append(counting.calls)
    assert counts[0] == counts[1] > 0
