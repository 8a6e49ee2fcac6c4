"""The wall between kdrun and the papers: the core runs without a paper, and a stranger's paper works from outside."""

import csv
import json
import os
import shutil
import subprocess
import sys
from pathlib import Path

import pytest

ROOT = Path(__file__).parents[2]
COPIED = (
    "kdrun",
    "conf",
    "tests",
    "benchmarks",
    "examples",
    "pyproject.toml",
    "scripts",
    "docs",
    "README.md",
    "CONTRIBUTING.md",
)
QUICK = ("tests/test_imports.py", "tests/config/test_composition.py", "tests/tables/test_caption.py")
OF_DOCUMENTS = ("tests/test_documents.py", "tests/test_packaging.py", "tests/papers/weight_distillation2021")
"""What names the papers' commands, or uses a paper's dataset (weight_distillation_lm that of abnar2020)."""


def python(*words: str, cwd: Path, trusted: str = "", path: Path | None = None) -> subprocess.CompletedProcess:
    environ = {**os.environ, "KDRUN_TRUST": trusted, "PYTHONPATH": str(path or ""), "OMP_NUM_THREADS": "1"}
    return subprocess.run([sys.executable, *words], cwd=cwd, env=environ, capture_output=True, text=True, timeout=3000)


@pytest.fixture
def without(tmp_path):
    """Copies the checkout without a paper's folder and its tests."""

    def copied(paper: str) -> Path:
        copy = tmp_path / "copy"
        ignored = shutil.ignore_patterns("__pycache__", ".git", "outputs")
        copy.mkdir()
        for name in COPIED:
            if (ROOT / name).is_dir():
                shutil.copytree(ROOT / name, copy / name, symlinks=True, ignore=ignored)
            else:
                shutil.copy(ROOT / name, copy / name)
        shutil.rmtree(copy / "kdrun" / "papers" / paper)
        shutil.rmtree(copy / "tests" / "papers" / paper)
        return copy

    return copied


COMMANDS = """
from kdrun.cli import main

assert main(["table"]) == 0
assert main(["method=ce", "student=mlp", "recipe.epochs=1", "evaluation=[test]"]) == 0
assert main(["student=abnar_mlp", "--dry-run"]) == (2 if PAPER == "abnar2020" else 0)
assert main(["teacher=mlp_1200", "--dry-run"]) == (2 if PAPER == "hinton2015" else 0)
main(["--help"])
"""


@pytest.mark.parametrize("paper", ["abnar2020", pytest.param("hinton2015", marks=pytest.mark.slow)])
def test_without_a_paper_s_folder_commands_and_a_quick_part_of_the_other_tests_run(without, paper, tmp_path):
    copy = without(paper)
    done = python("-c", COMMANDS.replace("PAPER", repr(paper)), cwd=tmp_path, path=copy)
    assert done.returncode == 0, done.stderr
    assert "tfkd_t1 " in done.stdout
    assert f"{paper.rstrip('0123456789')}_" not in done.stdout, "no table, network or recipe of it"
    done = python("-m", "pytest", "-q", "-p", "no:cacheprovider", *QUICK, cwd=copy, path=copy)
    assert done.returncode == 0, done.stdout[-3000:]


@pytest.mark.slow
@pytest.mark.parametrize("paper", ["abnar2020", "hinton2015", "fsp2017"])
def test_without_a_paper_s_folder_all_other_tests_pass(without, paper):
    copy = without(paper)
    ignored = [f"--ignore={name}" for name in (*OF_DOCUMENTS, "tests/papers/test_walls.py")]
    done = python("-m", "pytest", "-q", "-n", "2", "-p", "no:cacheprovider", *ignored, "tests", cwd=copy, path=copy)
    assert done.returncode == 0, done.stdout[-3000:]


PARTS = '''
import torch
from torch import nn

from kdrun.data import SequenceSet, Splits
from kdrun.experiment.evaluations import Evaluation


def walks(train_size: int, test_size: int, length: int) -> Splits:
    """Random walks of tokens; the class is whether the last is larger than the first."""

    def walked(size: int, seed: int) -> SequenceSet:
        tokens = torch.randint(0, 9, (size, length), generator=torch.Generator().manual_seed(seed))
        return SequenceSet(tokens, (tokens[:, -1] > tokens[:, 0]).long())

    return Splits(walked(train_size, 0), walked(test_size, 1), ("no", "yes"))


class Bag(nn.Sequential):
    """The mean of embeddings."""

    def __init__(self, num_classes: int, num_tokens: int, length: int, width: int = 8) -> None:
        super().__init__(nn.EmbeddingBag(num_tokens, width), nn.Linear(width, num_classes))


class Constant(Evaluation):
    """The share of answers that are one class."""

    what = "sequences of one token"
    of = "walks"
    meanings = {"share": "of the answers in the class of the option"}

    def __init__(self, answer: int = 1) -> None:
        if answer not in (0, 1):
            raise ValueError(f"answer={answer}: must be 0 or 1")
        self.answer = answer

    def fits(self, dataset):
        return dataset.name == "walks"

    def evaluate(self, runner, spec):
        tokens = torch.arange(9)[:, None].expand(9, *spec.dataset.shape).to(runner.device)
        answers = runner.network(spec).eval()(tokens).argmax(dim=1)
        return {"figures": {"share": 100 * (answers == self.answer).double().mean().item()}}
'''
CONF = {
    "dataset/walks": "_target_: stranger.parts.walks\nidentity: walks-v1\nnum_classes: 2\nnum_tokens: 9\nlength: 6\n"
    "per_token: false\ntrain_size: 64\ntest_size: 32\n",
    "recipe/walks": "defaults: [digits, _self_]\nepochs: 2\n"
    "augmentation: {crop_padding: 0, flip: false, rotation: 0.0}\n",
    "student/bag": "_target_: stranger.parts.Bag\nwidth: 8\n",
    "evaluation/constant": "_target_: stranger.parts.Constant\nanswer: 1\n",
    "evaluation/others": "_target_: stranger.parts.Constant\nanswer: 0\n",
}
TABLE = """
title: Bags of tokens
overrides: [dataset=walks, student=bag, runtime.device=cpu]
evaluations: [test, constant, others]
figures: [evaluations]
rows:
  - {name: bag/ce, overrides: [method=ce], published: {top1: 50.0, figures: {constant share: 40}}}
  - {name: bag/kd/bag, overrides: [teacher=bag, 'teacher.seeds=[9]', method=kd], baseline: bag/ce}
"""


@pytest.fixture
def stranger(tmp_path) -> Path:
    """A package with a dataset, a network, two evaluations and a table of its own."""
    package = tmp_path / "src" / "stranger"
    package.mkdir(parents=True)
    (package / "__init__.py").write_text("")
    (package / "parts.py").write_text(PARTS)
    (package / "bags.yaml").write_text(TABLE)
    for name, text in CONF.items():
        (package / "conf" / name).parent.mkdir(parents=True, exist_ok=True)
        (package / "conf" / f"{name}.yaml").write_text(text)
    return package


def test_a_stranger_s_paper_works_from_outside(stranger, tmp_path):
    here = tmp_path / "here"
    here.mkdir()
    words = (
        "-m",
        "kdrun",
        "table",
        str(stranger / "bags.yaml"),
        "--seeds",
        "1",
        "--config-dir",
        str(stranger / "conf"),
    )
    refused = python(*words, cwd=here, path=stranger.parent)
    assert (refused.returncode, list(here.iterdir())) == (2, [])
    assert "KDRUN_TRUST" in refused.stderr
    assert "evaluation.constant._target_" in refused.stderr
    done = python(*words, cwd=here, path=stranger.parent, trusted="stranger")
    assert done.returncode == 0, done.stderr
    directory = here / "outputs" / "tables" / "bags"
    rows = {row["row"]: row for row in csv.DictReader((directory / "table.csv").read_text().splitlines())}
    assert rows.keys() == {"bag/ce", "bag/kd/bag"}
    assert rows["bag/ce"]["published_constant share"] == "40.0"
    shares = [float(rows["bag/ce"][f"{name} share_mean"]) for name in ("constant", "others")]
    assert sum(shares) == pytest.approx(100)
    assert '"constant ...": at the last epoch, of sequences of one token' in (directory / "table.md").read_text()
    assert (directory / "evaluations.png").exists()
    records = [json.loads(path.read_text()) for path in here.glob("outputs/derived/*.json")]
    options = [record["options"] for record in records if record["options"]["on"] == "others"]
    assert [sorted(each) for each in options] == [["on", "options", "source"]] * 2
    assert options[0]["options"] == {"answer": 0}


@pytest.mark.parametrize(
    ("words", "text"),
    [
        (("evaluation=[constan]",), "evaluation: constan: no such option; did you mean constant? Allowed: "),
        (("evaluation=[constant]", "evaluation.constant.answer=7"), "evaluation.constant.answer=7: must be 0 or 1"),
        (("evaluation=[constant]", "evaluation.constant.answr=0"), "evaluation.constant.answr=0: no such key in"),
        (
            ("evaluation=[constant]", "dataset=digits", "student=mlp"),
            "evaluation: constant: is of walks, not of digits",
        ),
    ],
)
def test_what_is_wrong_with_a_stranger_s_evaluation_is_one_problem(stranger, tmp_path, monkeypatch, kdrun, words, text):
    monkeypatch.setenv("KDRUN_TRUST", "stranger")
    monkeypatch.syspath_prepend(str(stranger.parent))
    own = ("dataset=walks", "student=bag", "method=ce", "--config-dir", str(stranger / "conf"))
    code, out, err = kdrun(*own, *words)
    assert (code, out) == (2, [])
    assert "1 problem" in err
    assert text in err
