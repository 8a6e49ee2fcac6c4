"""A new method is one file and one YAML: checked, trained, a term, a table's row with controls and its objective."""

import csv
import os
import shutil
import subprocess
import sys
from pathlib import Path

import pytest

ROOT = Path(__file__).parents[1]
CODE = '''
"""Soft targets at T=1."""

from torch import nn

from kdrun import losses
from kdrun.methods.base import Distillation
from kdrun.methods.facts import Weights


class SoftLabels(Distillation):
    """`CE + weight KL`."""

    name = "soft_labels"

    def __init__(self, student: nn.Module, *, weight: float = 0.25) -> None:
        super().__init__(student)
        self.weigh(weight)

    def distill(self, student, batch, teacher):
        return losses.soft_target_loss(student.logits, teacher.logits, temperature=1.0)

    @classmethod
    def effective_weights(cls, options, num_classes):
        return Weights(1.0, options["weight"], epsilon=options["weight"] / (1 + options["weight"]))
'''
TABLE = """
title: A new method
overrides: [dataset=digits, dataset.train_fraction=0.05, student=mlp, teacher=cnn, recipe.epochs=1]
controls: [no_kl, scaled, matched_lsr, untrained, uniform]
rows:
  - {name: mlp/ce, overrides: [method=ce]}
  - {name: mlp/soft/cnn, overrides: [method=soft_labels], baseline: mlp/ce}
  - {name: mlp/sum/cnn, overrides: [method=sum, "method.terms={kd: {}, TERM: {OPTIONS}}"], baseline: mlp/ce}
"""
OBJECTIVES = {
    "mlp/ce": "CE",
    "mlp/soft/cnn": "CE + 0.25 soft_labels",
    "mlp/soft/cnn/no_kl": "CE",
    "mlp/soft/cnn/scaled": "1.25 CE",
    "mlp/soft/cnn/matched_lsr": "LSR, ε=0.2",
    "mlp/soft/cnn/untrained": "CE + 0.25 soft_labels",
    "mlp/sum/cnn": "CE + 0.9 kd + 0.25 TERM",
    "mlp/sum/cnn/untrained": "CE + 0.9 kd + 0.25 TERM",
}
LIMITS = ("runtime.threads=1",)


def check_table(path: Path, term: str) -> None:
    """Every row has its objective, and each but the one that equals the baseline was trained."""
    rows = {row["row"]: row for row in csv.DictReader(path.read_text().splitlines())}
    expected = {name: text.replace("TERM", term) for name, text in OBJECTIVES.items()}
    assert {name: row["objective"] for name, row in rows.items()} | expected == expected
    assert rows.keys() >= {"mlp/soft/cnn", "mlp/soft/cnn/scaled", "mlp/soft/cnn/untrained", "mlp/sum/cnn"}
    assert {row["n"] for row in rows.values()} == {"1"}
    assert rows["mlp/soft/cnn"]["run_ids"] != rows["mlp/soft/cnn/untrained"]["run_ids"]


def test_a_strangers_method_takes_every_way(kdrun, here, monkeypatch, tmp_path):
    package = tmp_path / "src" / "my_methods"
    package.mkdir(parents=True)
    (package / "soft.py").write_text(CODE)
    (tmp_path / "my_conf" / "method").mkdir(parents=True)
    node = "_target_: my_methods.soft.SoftLabels\nweight: 0.25\n"
    (tmp_path / "my_conf" / "method" / "soft_labels.yaml").write_text(node)
    monkeypatch.syspath_prepend(str(package.parent))
    monkeypatch.setenv("KDRUN_TRUST", "my_methods")
    words = ("--config-dir", str(tmp_path / "my_conf"))
    code, _, err = kdrun("--dry-run", *words, "method=soft_labels", "student=mlp", "teacher=mlp", "method.weight=2")
    assert code == 0, err
    assert list(here.iterdir()) == []
    assert kdrun(*words, "method=soft_labels", "method.weight=-1")[0] == 2
    Path("new.yaml").write_text(
        TABLE.replace("TERM", "mine").replace("OPTIONS", "_target_: my_methods.soft.SoftLabels")
    )
    code, _, err = kdrun("table", "new.yaml", *words, "--seeds", "1", *LIMITS)
    assert code == 0, err
    check_table(Path("outputs/tables/new/table.csv"), "mine")


@pytest.mark.slow
def test_a_method_in_kdrun_is_one_file_and_one_yaml(tmp_path):
    """In a copy of the package; the tests that run over every method find it there, too."""
    copy = tmp_path / "copy"
    ignored = shutil.ignore_patterns("__pycache__")
    for folder in ("kdrun", "conf", "tests"):
        shutil.copytree(ROOT / folder, copy / folder, symlinks=True, ignore=ignored)
    shutil.copy(ROOT / "pyproject.toml", copy)
    (copy / "kdrun" / "methods" / "soft_labels.py").write_text(CODE)
    (copy / "conf" / "method" / "soft_labels.yaml").write_text("_target_: kdrun.methods.SoftLabels\nweight: 0.25\n")
    (copy / "new.yaml").write_text(TABLE.replace("TERM", "soft_labels").replace("OPTIONS", ""))

    def python(*words: str) -> None:
        environ = {**os.environ, "PYTHONPATH": str(copy), "OMP_NUM_THREADS": "1"}
        done = subprocess.run([sys.executable, "-m", *words], cwd=copy, env=environ, capture_output=True, text=True)
        assert done.returncode == 0, done.stdout + done.stderr

    python("kdrun", "table", "new.yaml", "--seeds", "1", *LIMITS)
    check_table(copy / "outputs" / "tables" / "new" / "table.csv", "soft_labels")
    files = ("tests/methods", "tests/config/test_groups.py", "tests/experiment/test_every_method.py")
    python("pytest", "-q", "-p", "no:cacheprovider", *files, "-k", "soft_labels or SoftLabels")
