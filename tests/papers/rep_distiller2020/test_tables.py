"""The table of RepDistiller (Tian 2020): what is printed, and the settings of its scripts."""

import itertools

import pytest
import torch
from torch import nn

from kdrun.config.table import load_table
from kdrun.experiment.build import build_method, offered
from tests.papers.shipped import composed, of_recipe, printed

RD_SCHEDULE = [(150, 0.05), (180, 0.005), (210, 0.0005), (240, 0.00005)]  # in epochs

# The networks; beta of DKD; and what is printed of student, teacher and each kind.
KINDS = ("kd", "fitnet", "at", "rkd", "fsp", "crd", "dkd", "kd_std")
REP_DISTILLER = """
    resnet20      resnet56    2  69.06 72.34  70.66 69.21 70.55 69.61 69.95 71.16 71.97 71.43
    resnet32      resnet110   2  71.14 74.31  73.08 71.06 72.31 71.82 71.89 73.48 74.11 74.17
    resnet8x4     resnet32x4  8  72.50 79.42  73.33 73.50 73.44 71.90 72.62 75.51 76.32 76.62
    wrn_16_2      wrn_40_2    6  73.26 75.61  74.92 73.58 74.08 73.35 72.91 75.48 76.23 76.11
    vgg8          vgg13       6  70.36 74.64  72.98 71.02 71.43 71.48 70.23 73.94 74.68 74.36
    shufflenetv2  resnet32x4  -  71.82 79.42  74.45 73.54 72.73 73.21 -     75.65 77.07 75.56
"""
PAIRS = [line.split() for line in REP_DISTILLER.strip().splitlines()]


def test_rep_distiller_rows_carry_what_is_printed():
    expected = {}
    for student, teacher, _, own, of_teacher, *taught in PAIRS:
        expected |= {f"{student}/ce": float(own), f"{teacher}/ce": float(of_teacher)}
        rows = zip(KINDS, taught, strict=True)
        expected |= {f"{student}/{kind}/{teacher}": float(text) for kind, text in rows if text != "-"}
    assert printed("rep_distiller_cifar100") == {name: (top1, None) for name, top1 in expected.items()}


def test_the_settings_of_rep_distiller_and_of_the_papers_beside_it():
    """What its scripts pass (KD a=0.9, hint 100, attention 1000, RKD 1, CRD 0.8, FSP 30 epochs), of each pair."""
    definition = load_table("rep_distiller_cifar100")
    typed = {row.name: dict(text.split("=", 1) for text in row.overrides) for row in definition.rows}
    for student, teacher, beta, *_ in PAIRS[:-1]:
        method = {kind: typed[f"{student}/{kind}/{teacher}"] for kind in KINDS}
        assert (method["kd"]["method.alpha"], method["kd"]["method.temperature"]) == ("0.9", "4")
        weights = {kind: float(method[kind]["method.weight"]) for kind in ("fitnet", "at", "rkd", "fsp", "crd")}
        assert weights == {"fitnet": 100, "at": 1000, "rkd": 1, "fsp": 1, "crd": 0.8}
        assert method["fitnet"]["method.stage1_epochs"] == "0"
        assert method["fitnet"]["method.regressor_relu"] == "true"
        assert float(method["kd_std"]["method.temperature"]) == (3 if student == "vgg8" else 2), "of its published logs"
        assert method["dkd"]["method.beta"] == beta
        assert float(method["fsp"]["method.stage1_epochs"]) * 240 == 30
        alpha, multiplier = (float(method["kd_std"][f"method.{key}"]) for key in ("alpha", "multiplier"))
        assert (1 - alpha, alpha * multiplier) == (pytest.approx(0.1), pytest.approx(9))


def test_wide_resnets_and_vggs_take_rep_distiller_s_maps():
    """Its `feat`: the stem, the stages (a wide ResNet's before the final BatchNorm), the vector, which no row takes."""
    rows = composed("rep_distiller_cifar100", patterns=("wrn_16_2/at/*", "wrn_16_2/fsp/*", "vgg8/at/*", "vgg8/fsp/*"))
    stages = {"wrn_16_2": ("layer1", "layer2", "layer3"), "vgg8": ("layer1", "layer2", "layer3", "layer4")}
    for row, (spec,) in rows.items():
        if spec.teachers:
            ends = stages[row.split("/")[0]]
            flow = tuple(tap for pair in itertools.pairwise(("stem", *ends)) for tap in pair)
            method = build_method(spec.method, nn.Identity(), offered(spec, torch.device("meta")))
            expected = ends if "/at/" in row else tuple(dict.fromkeys(flow))
            assert method.taps == method.needs.features == expected, row
            if "/fsp/" in row:
                assert method._ends == list(zip(flow, flow, strict=True)), row
        for trained in (spec, *spec.teachers):
            assert of_recipe(trained.recipe) == RD_SCHEDULE, row
            assert trained.recipe.batch_size == 64, row
