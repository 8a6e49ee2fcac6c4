"""From names to objects: what a `_target_` may name, and what is built of a spec."""

import dataclasses
import sys
from pathlib import Path

import pytest
import torch
from torch import nn

from kdrun import losses, methods, models
from kdrun.data import DataError
from kdrun.experiment import datasets
from kdrun.experiment.build import build_method, build_student
from kdrun.experiment.datasets import data_root, describe_dataset, load_splits
from kdrun.experiment.stages import optimizer_for
from kdrun.methods import Method
from kdrun.spec.components import (
    all_options,
    component,
    method_component,
    resolve,
    student_component,
    trusted_packages,
)
from kdrun.spec.dataset import ImageDatasetSpec
from kdrun.spec.spec import Component, Recipe

MADE_UP = ImageDatasetSpec("kdrun.data.synthetic", "synthetic-v1", 5, 1, 8, 40, 20, mean=(0.5,), std=(0.25,))
MLP = Component("kdrun.models.mlp", {"hidden": (6,)})


def test_a_target_is_found_by_its_dotted_path():
    assert resolve("kdrun.methods.KD") is methods.KD
    assert resolve("kdrun.models.mobilenetv2") is models.mobilenetv2
    assert resolve("kdrun.losses.kd_loss") is losses.kd_loss


@pytest.mark.parametrize(
    ("target", "reason"),
    [
        ("os.system", "outside the trusted packages"),
        ("torch.load", "outside the trusted packages"),
        ("kdrunx.models.cnn", "outside the trusted packages"),
        ("builtins.eval", "outside the trusted packages"),
        ("eval", "outside the trusted packages"),
        ("", "outside the trusted packages"),
        ("kdrun", "cannot be imported"),
        ("kdrun.models.resnet21", "cannot be imported"),
        ("kdrun.nowhere.resnet18", "cannot be imported"),
        ("kdrun..models.cnn", "cannot be imported"),
        ("kdrun.models.", "cannot be imported"),
        ("kdrun.losses.base.torch.load", "cannot be imported"),
        ("kdrun.experiment.build.importlib.import_module", "cannot be imported"),
        ("kdrun.losses", "no class or function"),
        ("kdrun.losses.base.torch", "no class or function"),
        ("kdrun.losses.SPREADS", "no class or function"),
        ("kdrun.files.Path", "outside the trusted packages"),
        ("kdrun.experiment.stages.MultiStepSchedule.__init__", "cannot be imported"),
        ("kdrun.losses.base.Tensor", "outside the trusted packages"),
        ("kdrun.cli.Sequence", "outside the trusted packages"),
    ],
)
def test_what_is_not_ours_is_refused(target, reason):
    with pytest.raises(ValueError, match=reason):
        resolve(target)


def test_trust_comes_from_the_environment_and_covers_the_object_itself(monkeypatch, tmp_path):
    (tmp_path / "trusted_extra.py").write_text("from subprocess import Popen\nfrom kdrun.models import cnn\n")
    monkeypatch.syspath_prepend(tmp_path)
    with pytest.raises(ValueError, match="KDRUN_TRUST"):
        resolve("trusted_extra.cnn")
    assert "trusted_extra" not in sys.modules, "refused before it is imported: importing runs its code"
    monkeypatch.setenv("KDRUN_TRUST", " a , trusted_extra:b,")
    assert trusted_packages() == ("kdrun", "a", "trusted_extra", "b")
    assert resolve("trusted_extra.cnn") is models.cnn
    with pytest.raises(ValueError, match="outside"):
        resolve("trusted_extra.Popen")


def test_a_component_is_its_target_and_what_differs_from_the_defaults():
    problems: list[str] = []
    node = {"_target_": "kdrun.methods.KD", "temperature": 4, "alpha": 0.5}
    assert method_component(node, "method", problems) == Component("kdrun.methods.KD", {"alpha": 0.5})
    node = {"_target_": "kdrun.models.mlp", "hidden": [800, 800], "dropout": 0.5}
    assert student_component(node, "student", problems) == Component("kdrun.models.mlp", {"dropout": 0.5})
    assert problems == []
    assert Component("kdrun.models.mlp").name == "mlp"


@pytest.mark.parametrize(
    ("node", "problem"),
    [
        (None, "m: must be a group option or a mapping with a _target_, not None"),
        ("kd", "m: must be a group option or a mapping with a _target_, not 'kd'"),
        ({"temperature": 3}, "m: must be a group option or a mapping with a _target_"),
        ({"_target_": "kdrun.models.cnn"}, "m._target_: 'kdrun.models.cnn' is no concrete Method"),
        ({"_target_": "kdrun.methods.Method"}, "m._target_: 'kdrun.methods.Method' is no concrete Method"),
        ({"_target_": "kdrun.methods.Batch"}, "m._target_: 'kdrun.methods.Batch' is no concrete Method"),
        ({"_target_": "kdrun.methods.KD", "student": 1}, "m.student: no such option"),
        ({"_target_": "kdrun.methods.KD", "_partial_": True}, "m._partial_: no such option"),
    ],
    ids=str,
)
def test_faults_of_a_component_are_problems(node, problem):
    problems: list[str] = []
    assert component(node, "m", problems, injected=("student",), kind=Method) is None
    assert len(problems) == 1
    assert problems[0].startswith(problem)


def test_a_network_gets_of_the_dataset_what_it_asks_for():
    x = torch.zeros(2, 1, 8, 8)
    assert build_student(MLP, MADE_UP)(x).shape == (2, 5)
    assert build_student(Component("kdrun.models.resnet20"), MADE_UP)(x).shape == (2, 5)
    with pytest.raises(ValueError, match=r"hidden\[0\]=0"):
        build_student(Component("kdrun.models.mlp", {"hidden": (0,)}), MADE_UP)


def test_a_method_is_built_around_its_student():
    student = nn.Linear(3, 3)
    method = build_method(Component("kdrun.methods.KD", {"temperature": 9.0}), student)
    assert method.student is student
    assert method.temperature == 9.0
    options = all_options(Component("kdrun.methods.LSR", {"epsilon": 0.3}))
    assert options == {"epsilon": 0.3, "spread": "uniform", "scale": 1.0}


def described(**changes) -> dict:
    values = dataclasses.asdict(MADE_UP)
    return {"_target_": values.pop("target"), **values, **changes}


def test_a_dataset_with_a_constant_identity_is_described_without_its_data():
    node = described(_target_="kdrun.data.cifar100")
    assert describe_dataset(node, Path("/nowhere")) == node


def test_what_a_config_leaves_open_is_found_in_the_data():
    node = described(identity=None, train_size=40)
    found = describe_dataset(node, Path("/nowhere"))
    assert found["identity"].startswith("content-sha256:")
    assert {**found, "identity": None} == node
    other = describe_dataset(described(identity=None, train_size=41), Path("/nowhere"))
    assert other["identity"] != found["identity"]


def test_loaded_data_must_be_what_the_spec_says():
    splits = load_splits(MADE_UP, Path("/nowhere"))
    assert (len(splits.train), len(splits.test)) == (40, 20)
    digits = dataclasses.replace(MADE_UP, target="kdrun.data.digits", num_classes=10)
    with pytest.raises(DataError, match=r"1437 training and 360 test images, not dataset\.train_size=40"):
        load_splits(digits, Path("/nowhere"))
    with pytest.raises(DataError, match=r"dataset\.num_classes=5, but the data has 10"):
        load_splits(dataclasses.replace(digits, num_classes=5), Path("/nowhere"))
    changed = dataclasses.replace(MADE_UP, identity="content-sha256:" + 64 * "0")
    with pytest.raises(DataError, match="its images have changed"):
        load_splits(changed, Path("/nowhere"))


def test_data_lies_where_it_is_named(monkeypatch, tmp_path):
    monkeypatch.setenv("KDRUN_DATA", str(tmp_path))
    assert data_root({}) == tmp_path
    assert data_root({"root": "~/images"}) == Path.home() / "images"


@pytest.mark.parametrize(
    ("recipe", "kind", "options"),
    [
        (Recipe(), torch.optim.SGD, {"momentum": 0.9, "nesterov": False, "weight_decay": 5e-4}),
        (
            Recipe(optimizer="adam", momentum=0.8, weight_decay=0.0),
            torch.optim.Adam,
            {"betas": (0.8, 0.999), "weight_decay": 0.0},
        ),
    ],
)
def test_an_optimiser_is_built_as_the_recipe_says(recipe, kind, options):
    method = build_method(Component("kdrun.methods.CE"), build_student(MLP, MADE_UP))
    optimizer = optimizer_for(recipe, method.parameters())
    (group,) = optimizer.param_groups
    assert type(optimizer) is kind
    assert {name: group[name] for name in options} == options
    assert len(group["params"]) == len(list(method.parameters())), "biases and BatchNorm decay too"


def test_a_name_of_two_classes_is_no_choice(monkeypatch):
    monkeypatch.setattr(datasets, "class_names", lambda node, root: ("crane", "gull", "crane"))
    assert datasets.class_indices([2, "gull"], {}, Path()) == [2, 1]
    with pytest.raises(ValueError, match=r"crane: is the name of classes \[0, 2\]"):
        datasets.class_indices(["crane"], {}, Path())
