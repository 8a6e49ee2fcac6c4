"""The controls: what each keeps of its row, against the published weights and an independent gradient."""

import dataclasses

import pytest
import torch
from torch.testing import assert_close

from kdrun import losses
from kdrun.experiment.build import build_method
from kdrun.methods import Batch
from kdrun.spec.dataset import ImageDatasetSpec
from kdrun.spec.spec import Component, Spec
from kdrun.tables.controls import CONTROLS, effective_weights, objective, rescaled

DATASET = ImageDatasetSpec("kdrun.data.synthetic", "none", 100, 3, 32, 500, 100, (0.5,) * 3, (0.25,) * 3)
TEACHER = Spec(DATASET, Component("kdrun.models.resnet18"), Component("kdrun.methods.CE"), stop_epoch=50)


def run(method: str, *teachers: Spec, **options) -> Spec:
    student = Component("kdrun.models.mobilenetv2")
    return Spec(DATASET, student, Component(f"kdrun.methods.{method}", options), seed=3, teachers=teachers)


KD = run("KD", TEACHER, alpha=0.95, temperature=20.0, kl_reduction="mean")
REG = run("TfKDReg", alpha=0.95, temperature=40.0, multiplier=1.0)


@pytest.mark.parametrize(
    ("alpha", "multiplier", "hard", "soft", "scale"),
    # facts of the released settings at K=100: MobileNetV2, ResNet18 (Re-KD), self ResNet18, self GoogLeNet, plain CNN
    [
        (0.95, 1.0, 0.05, 0.0095, 0.0595),
        (0.6, 1.0, 0.4, 0.006, 0.406),
        (0.95, 50.0, 0.05, 0.475, 0.525),
        (0.4, 50.0, 0.6, 0.2, 0.8),
        (0.9, 1.0, 0.1, 0.009, 0.109),
    ],
)
def test_effective_weights_are_those_of_the_released_code(alpha, multiplier, hard, soft, scale):
    weights = effective_weights(run("KD", TEACHER, alpha=alpha, multiplier=multiplier, kl_reduction="mean"))
    assert (weights.hard, weights.soft, weights.scale) == pytest.approx((hard, soft, scale))
    per_image = effective_weights(run("KD", TEACHER, alpha=alpha, multiplier=multiplier))
    assert per_image.soft == pytest.approx(100 * soft)


def test_every_control_changes_one_thing():
    made = {name: control(KD) for name, control in CONTROLS.items()}
    assert {name: (spec.method.name, dict(spec.method.options)) for name, spec in made.items()} == {
        "no_kl": ("CE", {"scale": 0.05}),
        "scaled": ("CE", {"scale": 0.0595}),
        "matched_lsr": ("LSR", {"epsilon": 0.159664}),
        "untrained": ("KD", dict(KD.method.options)),
        "uniform": ("KDUniform", dict(KD.method.options)),
    }
    assert [teacher.stop_epoch for teacher in made["untrained"].teachers] == [0]
    for name, spec in made.items():
        same = dataclasses.replace(KD, method=spec.method, teachers=spec.teachers)
        assert spec == same, f"{name}: all but method and teacher stay"
        assert bool(spec.teachers) == (name == "untrained")


def test_an_untrained_teacher_has_no_weights_of_the_users_own():
    own = dataclasses.replace(TEACHER, stop_epoch=None, weights="ab" * 32)
    (teacher,) = CONTROLS["untrained"](run("KD", own)).teachers
    assert (teacher.weights, teacher.stop_epoch, teacher.student) == (None, 0, own.student)


def test_controls_that_do_not_apply_are_none():
    assert all(control(run("CE")) is None for control in CONTROLS.values())
    assert all(control(run("LSR")) is None for control in CONTROLS.values())
    assert {name for name, control in CONTROLS.items() if control(REG)} == {"no_kl", "scaled", "matched_lsr"}
    assert CONTROLS["no_kl"](run("KD", TEACHER, alpha=1.0)) is None, "nothing is left without the soft targets"
    assert CONTROLS["matched_lsr"](run("TfKDReg", variant="paper")) is None, "T on both sides is no label smoothing"


@pytest.mark.parametrize(
    ("alpha", "temperature", "multiplier", "epsilon"),
    [(0.95, 40.0, 1.0, 0.1597), (0.95, 10.0, 1.0, 0.1595), (0.1, 20.0, 100.0, 0.1), (0.1, 40.0, 50.0, 0.0526)],
)
def test_the_scaled_control_of_tfkd_reg_as_released_has_its_gradient(alpha, temperature, multiplier, epsilon):
    """Up to the six digits of a control's numbers."""
    spec = run("TfKDReg", alpha=alpha, temperature=temperature, multiplier=multiplier, variant="released")
    assert effective_weights(spec).epsilon == pytest.approx(epsilon, abs=2e-4)
    generator = torch.Generator().manual_seed(5)
    logits = torch.randn(16, 100, generator=generator, dtype=torch.float64, requires_grad=True)
    y = torch.randint(100, (16,), generator=generator)
    batch = Batch(logits, y, y, epoch=0, step=0, progress=0.0, generator=generator)
    gradients = [
        torch.autograd.grad(build_method(each.method, torch.nn.Identity())(batch, None).loss, logits)[0]
        for each in (spec, CONTROLS["scaled"](spec))
    ]
    assert_close(*gradients, rtol=0, atol=1e-6 * gradients[0].abs().max().item())
    ce = torch.autograd.grad(losses.cross_entropy(logits, y), logits)[0]
    assert (gradients[0] - ce).abs().max() > 1e-3 * ce.abs().max(), "which cross-entropy has not"


def test_the_weights_are_kept_at_another_number_of_classes():
    """The multiplier of a KL that is divided by K grows with K; elsewhere nothing depends on K."""
    for spec in (KD, REG):
        options = {**spec.method.options, **rescaled(spec, 100, 10)}
        method = dataclasses.replace(spec.method, options=options)
        small = dataclasses.replace(spec, method=method, dataset=dataclasses.replace(DATASET, num_classes=10))
        assert options["multiplier"] == pytest.approx(0.1)
        assert effective_weights(small).soft == pytest.approx(effective_weights(spec).soft)
    for spec in (run("KD", TEACHER), run("TfKDReg"), run("CE"), run("FitNet", TEACHER)):
        assert rescaled(spec, 100, 10) == {}


def test_objectives_read_as_formulas():
    assert objective(KD) == "0.05 CE + 0.0095 T²KL, T=20"
    assert objective(REG) == "0.05 CE + 0.0095 KL, T=40, student at T=1"
    assert objective(run("TfKDReg")) == "0.9 CE + 0.1 KL, T=20, student at T=1"
    assert objective(run("TfKDReg", variant="paper")) == "0.9 CE + 0.1 KL, T=20"
    assert objective(run("KDSim", TEACHER, alpha=0.5, multiplier=0.34)) == "0.5 CE + 0.17 kd_sim"
    assert objective(run("KDEnsemble", TEACHER, alpha=1.0)) == "kd_ensemble"
    assert objective(run("FitNet", TEACHER, stage1_epochs=1)) == "fitnet, 1 epoch of stage 1 first"
    assert objective(run("FitNet", TEACHER)) == "CE + 100 fitnet"
    assert objective(run("DML", weight=0.5)) == "CE + 0.5 dml"
    assert objective(run("CE")) == "CE"
    assert objective(run("CE", scale=0.406)) == "0.406 CE"
    assert objective(run("LSR", spread="others")) == "LSR, ε=0.1, on the wrong classes"
    assert objective(run("LSR", epsilon=0.16, scale=0.06)) == "0.06 LSR, ε=0.16"
    assert objective(run("Sum", terms={"kd": {}, "at": {}})) == "CE + 1000 at + 0.9 kd"
    terms = {"kd": {"weight": 1.0}, "sp": {"weight": 0.0}, "rkd": {"weight": 0.5}}
    assert objective(run("Sum", terms=terms, hard_weight=0.1)) == "0.1 CE + kd + 0.5 rkd"
