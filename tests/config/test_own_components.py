"""Models, methods and datasets of a user's own: trusted by the environment only, checked like kdrun's."""

import sys
from pathlib import Path

import pytest

EXTRA_MODULE = """
from subprocess import Popen
from torch import nn
import torch
from kdrun.data import ImageSet, Splits
from kdrun.methods import KD

def blank() -> Splits:
    part = ImageSet(torch.zeros(40, 8, 8, 1, dtype=torch.uint8), torch.arange(40) % 2)
    return Splits(part, part, ("even", "odd"))

def narrow(num_classes: int, in_channels: int) -> nn.Module:
    return nn.Sequential(nn.Conv2d(in_channels + 1, 4, 3), nn.Flatten(), nn.LazyLinear(num_classes))

def short(num_classes: int, in_channels: int, image_size: int) -> nn.Module:
    return nn.Sequential(nn.Flatten(), nn.Linear(in_channels * image_size**2, num_classes - 1))

def lazy(num_classes: int) -> nn.Module:
    return nn.Sequential(nn.Flatten(), nn.LazyLinear(num_classes))

class Looking(nn.Linear):
    # Looks at numbers, which a network without data does not have.
    def forward(self, x):
        return super().forward(x.flatten(1) * (1 if x.sum().item() < 0 else 2))

def looking(num_classes: int, in_channels: int, image_size: int) -> nn.Module:
    return Looking(in_channels * image_size**2, num_classes)

def untyped(num_classes, in_channels=3, width=8):
    return nn.Sequential(nn.AdaptiveAvgPool2d(1), nn.Flatten(), nn.Linear(in_channels, width))

def linear(num_classes: int, in_channels: int, image_size: int, bias: bool = True) -> nn.Module:
    return nn.Sequential(nn.Flatten(), nn.Linear(in_channels * image_size**2, num_classes, bias))

class Mine(KD):
    name = "mine"
"""


@pytest.fixture
def own_config(tmp_path, monkeypatch) -> Path:
    """A user's config tree whose components are in a package of theirs."""
    package = tmp_path / "src" / "my_extras"
    package.mkdir(parents=True)
    (package / "__init__.py").touch()
    (package / "parts.py").write_text(EXTRA_MODULE)
    monkeypatch.syspath_prepend(str(package.parent))
    for module in [name for name in sys.modules if name.partition(".")[0] == "my_extras"]:
        monkeypatch.delitem(sys.modules, module)  # of another test
    tree = tmp_path / "my conf's"
    for name, text in {
        "student/linear": "_target_: my_extras.parts.linear\nbias: false\n",
        "student/process": "_target_: my_extras.parts.Popen\nargs: [echo]\n",
        "method/mine": "_target_: my_extras.parts.Mine\ntemperature: 2.0\n",
        "dataset/blank": "_target_: my_extras.parts.blank\nidentity: blank-v1\nnum_classes: 2\nin_channels: 1\n"
        "image_size: 8\ntrain_size: 40\ntest_size: 40\nmean: [0.5]\nstd: [0.5]\n",
    }.items():
        (tree / name).parent.mkdir(parents=True, exist_ok=True)
        (tree / f"{name}.yaml").write_text(text)
    return tree


def test_a_users_own_components_work_once_the_environment_trusts_them(kdrun, own_config, monkeypatch):
    words = ("--config-dir", str(own_config), "student=linear", "method=mine", "dataset=synthetic", "teacher=mlp")
    said = kdrun("--dry-run", *words)
    assert said.code == 2
    for node in ("student", "method"):
        assert f"{node}._target_: 'my_extras.parts." in said.err
    assert "KDRUN_TRUST" in said.err
    monkeypatch.setenv("KDRUN_TRUST", "my_extras")
    said = kdrun("--dry-run", *words)
    assert said.code == 0, said.err
    assert "student linear mine on synthetic" in said.out
    assert f"{16 * 16 * 3 * 10:,} parameters" in said.out


def test_a_users_own_network_teaches_on_a_users_own_data(kdrun, own_config, monkeypatch):
    monkeypatch.setenv("KDRUN_TRUST", "my_extras")
    words = ("--config-dir", str(own_config), "dataset=blank", "teacher=linear", "student=linear", "recipe.epochs=1")
    said = kdrun(*words)
    assert said.code == 2
    assert "1 problem" in said.err
    assert "dataset=blank: has no recipe of its own; add recipe=OPTION: " in said.err
    said = kdrun(*words, "recipe=digits")
    assert said.code == 0, said.err
    assert "teacher linear ce: 1 epoch in" in said.out
    assert "student linear kd: 1 epoch in" in said.out


@pytest.mark.parametrize(
    ("target", "option", "text"),
    [
        ("narrow", (), "student: narrow cannot take images [2, 1, 8, 8]: RuntimeError: "),
        ("looking", (), "student: looking cannot take images [2, 1, 8, 8]: RuntimeError: Tensor.item()"),
        ("short", (), "student: short returns [2, 9] for 2 images, not logits [2, 10]"),
        ("lazy", (), "lazy has 2 parameters without a shape (torch's lazy modules)"),
        ("untyped", ("student.width=wide",), "student._target_=my_extras.parts.untyped: TypeError: "),
    ],
)
def test_a_network_that_cannot_run_is_told_before_its_teacher_is_trained(
    kdrun, own_config, monkeypatch, target, option, text
):
    monkeypatch.setenv("KDRUN_TRUST", "my_extras")
    own_config.joinpath("student/own.yaml").write_text(f"_target_: my_extras.parts.{target}\n")
    if option:
        own_config.joinpath("student/own.yaml").write_text(f"_target_: my_extras.parts.{target}\nwidth: 8\n")
    said = kdrun("--config-dir", str(own_config), "student=own", *option)
    assert said.code == 2
    assert text in said.err
    assert list(Path().iterdir()) == []


def test_editing_own_code_makes_another_run_and_says_what_differs(kdrun, own_config, monkeypatch):
    """Loader, network and a helper that is imported late; a module of the package that nobody imports is no part."""
    monkeypatch.setenv("KDRUN_TRUST", "my_extras")
    package = own_config.parent / "src" / "my_extras"
    parts = package / "parts.py"
    parts.write_text(
        EXTRA_MODULE.replace("def blank() -> Splits:\n", "def blank() -> Splits:\n    import my_extras.late\n")
    )
    (package / "late.py").write_text("")
    (package / "unrelated.py").write_text("")
    words = ("--config-dir", str(own_config), "dataset=blank", "student=mlp", "method=ce", "recipe=digits")
    first = kdrun(*words, "recipe.epochs=1")
    assert first.code == 0, first.err
    (package / "unrelated.py").write_text("# edited\n")
    assert "already finished" in kdrun(*words, "recipe.epochs=1").out
    (package / "late.py").write_text("# edited\n")
    edited = kdrun(*words, "recipe.epochs=1")
    assert edited.code == 0, edited.err
    assert "is equal except for its code: my_extras.late changed" in edited.out
    (package / "late.py").write_text("")
    assert "already finished" in kdrun(*words, "recipe.epochs=1").out
    parts.write_text(parts.read_text() + "# edited\n")
    assert "my_extras.parts changed" in kdrun(*words, "recipe.epochs=1").out


@pytest.mark.parametrize(
    ("body", "missing"),
    [
        ("Method):\n    name = 'm'\n    def forward(self, batch, teacher): ...", "objective"),
        ("Distillation):\n    pass", "distill, name"),
        ("Distillation):\n    def distill(self, student, batch, teacher): ...", "name"),
    ],
)
def test_a_method_that_lacks_a_member_is_refused_by_its_name(kdrun, own_config, monkeypatch, body, missing):
    monkeypatch.setenv("KDRUN_TRUST", "my_extras")
    package = own_config.parent / "src" / "my_extras"
    (package / "lacking.py").write_text(f"from kdrun.methods import Distillation, Method\nclass Lacking({body}\n")
    (own_config / "method" / "mine.yaml").write_text("_target_: my_extras.lacking.Lacking\n")
    said = kdrun("--config-dir", str(own_config), "method=mine")
    assert said.code == 2
    assert f"'my_extras.lacking.Lacking' is no concrete Method: it does not define {missing}\n" in said.err


def test_a_module_that_cannot_be_imported_is_a_problem_like_any_other(kdrun, own_config, monkeypatch):
    monkeypatch.setenv("KDRUN_TRUST", "my_extras")
    (own_config.parent / "src" / "my_extras" / "parts.py").write_text("def broken(:\n")
    said = kdrun("--config-dir", str(own_config), "student=linear", "recipe.epochs=0")
    assert said.code == 2
    assert "student._target_: 'my_extras.parts.linear' cannot be imported: SyntaxError" in said.err
    assert "recipe.epochs=0" in said.err


def test_a_users_own_options_are_told_among_the_allowed_ones(kdrun, own_config, monkeypatch):
    monkeypatch.setenv("KDRUN_TRUST", "other, my_extras")
    said = kdrun("--config-dir", str(own_config), "student=linaer")
    assert "student=linaer: no such option; did you mean linear?" in said.err
    said = kdrun("--config-dir", str(own_config), "student=linear", "method=mine", "method.temprature=3")
    assert said.err.count("\n") == 3, "an option of the user's own is not told as unknown because of another mistake"
    assert "method.temprature=3: no such key in method=mine; did you mean temperature?" in said.err
    assert "+method.temprature=VALUE" in said.err, "for options of the constructor"


def test_what_a_trusted_package_imports_is_not_trusted(kdrun, own_config, monkeypatch):
    monkeypatch.setenv("KDRUN_TRUST", "my_extras")
    said = kdrun("--config-dir", str(own_config), "student=process")
    assert said.code == 2
    assert "'my_extras.parts.Popen' is outside the trusted packages (kdrun, my_extras)" in said.err


def test_trust_is_not_for_a_config_to_give(kdrun, own_config):
    own_config.joinpath("student/linear.yaml").write_text("_target_: my_extras.parts.linear\nKDRUN_TRUST: my_extras\n")
    said = kdrun("--config-dir", str(own_config), "student=linear")
    assert said.code == 2
    assert "'my_extras.parts.linear' is outside the trusted packages (kdrun)" in said.err
