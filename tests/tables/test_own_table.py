"""A table of a user's own: its derived row and its figure are classes of a package outside kdrun, named in the YAML."""

import json
import sys

import pytest

PACKAGE = '''
from dataclasses import dataclass

import torch

from kdrun.experiment.derived import Derived, DerivedRow, described
from kdrun.tables.figures import Figure


@dataclass(frozen=True)
class Sharpened(DerivedRow):
    """Logits times a factor, which changes no prediction."""

    factor: float
    figures = {"factor": "by which logits are multiplied"}

    def words(self):
        return f"logits times {self.factor:g}"

    def compute(self, runner):
        logits, labels = runner.logits(self.specs[0])
        return {**described(self.factor * logits.double(), labels), "figures": {"factor": self.factor}}


@dataclass(frozen=True)
class Counted(Derived):
    """How often each class is predicted."""

    def words(self):
        return "predictions by class"

    def compute(self, runner):
        logits, _ = runner.logits(self.specs[0])
        return {"counts": torch.bincount(logits.argmax(dim=1), minlength=logits.shape[1]).tolist()}


@dataclass(frozen=True)
class Counts(Figure):
    """A text file of the counts of each row."""

    separator: str = ","
    files = ("counts.txt",)

    def needs(self, entries):
        return [Counted((spec,)) for entry in entries for spec in entry.specs]

    def draw(self, table):
        found = [table.kept(each) for each in self.needs([line.entry for line in table.lines])]
        lines = [self.separator.join(map(str, record["counts"])) for record in found if record]
        if lines:
            (table.directory / "counts.txt").write_text("\\n".join(lines))
'''
TABLE = """
title: Mine
overrides: [dataset=synthetic, dataset.test_size=50, recipe.epochs=1, runtime.device=cpu, student=mlp]
figures: [{_target_: own_paper.Counts, separator: ";"}]
rows:
  - {name: mlp/ce, overrides: [method=ce]}
  - {name: mlp/sharpened, derived: {_target_: own_paper.Sharpened, of: mlp/ce, factor: 2}, baseline: mlp/ce}
"""
WORDS = ("table", "own_table.yaml", "--seeds", "1")


@pytest.fixture
def own(here, tmp_path, monkeypatch):
    """The table in `here`; its package on the path, not yet trusted. Returns the package's file."""
    monkeypatch.syspath_prepend(tmp_path)
    (here / "own_table.yaml").write_text(TABLE)
    path = tmp_path / "own_paper.py"
    path.write_text(PACKAGE)
    yield path
    sys.modules.pop("own_paper", None)


@pytest.fixture
def trusted(monkeypatch):
    monkeypatch.setenv("KDRUN_TRUST", "own_paper")


def test_a_derived_row_and_a_figure_of_ones_own(own, trusted, here, kdrun):
    code, _, err = kdrun(*WORDS)
    assert (code, err) == (0, "")
    directory = here / "outputs" / "tables" / "own_table"
    header, base, sharpened = (line.split(",") for line in (directory / "table.csv").read_text().splitlines())
    row, plain = dict(zip(header, sharpened, strict=True)), dict(zip(header, base, strict=True))
    assert (row["objective"], row["factor_mean"], row["n"]) == ("logits times 2", "2.0", "1")
    assert row["last_mean"] == plain["last_mean"]
    counts = (directory / "counts.txt").read_text()
    assert sum(map(int, counts.split(";"))) == 50
    records = {path.stem: json.loads(path.read_text()) for path in here.glob("outputs/derived/*.json")}
    assert {record["kind"] for record in records.values()} == {"sharpened", "counted"}
    assert all("own_paper" in record["source"] for record in records.values())
    (directory / "counts.txt").unlink()
    for path in here.glob("outputs/runs/**/student.safetensors"):
        path.unlink()
    assert kdrun(*WORDS, "--render-only")[0] == 0
    assert (directory / "counts.txt").read_text() == counts, "rendered from what was computed"


def test_changed_code_computes_anew(own, trusted, here, kdrun):
    """As a run of a changed method is another run."""
    assert kdrun(*WORDS)[0] == 0
    sys.modules.pop("own_paper")
    own.write_text(PACKAGE.replace("self.factor * logits", "-self.factor * logits"))
    assert kdrun(*WORDS)[0] == 0
    assert len(list(here.glob("outputs/derived/*.json"))) == 4


@pytest.mark.parametrize("mode", [(), ("--dry-run",), ("--render-only",)])
def test_without_trust_nothing_is_imported(own, here, kdrun, mode):
    code, out, err = kdrun(*WORDS, *mode)
    assert (code, out) == (2, [])
    assert err.count("KDRUN_TRUST") == 2, "of the row and of the figure, in one message"
    assert "own_paper" not in sys.modules
    assert sorted(path.name for path in here.iterdir()) == ["own_table.yaml"]


@pytest.mark.parametrize(
    ("change", "key"),
    [
        (("factor: 2", "factor: two"), "rows[1].derived.factor='two'"),
        ((", factor: 2", ""), "rows[1].derived.factor: is missing"),
        (("separator: ", "separater: "), "figures[0].separater: no such option; did you mean separator?"),
    ],
)
def test_faults_are_refused_by_key(own, trusted, here, kdrun, change, key):
    assert change[0] in TABLE
    (here / "own_table.yaml").write_text(TABLE.replace(*change))
    code, out, err = kdrun(*WORDS, "--dry-run")
    assert (code, out) == (2, [])
    assert key in err
