"""Runs made up here, so that every number in their files is known."""

import functools
import sys
from collections.abc import Sequence
from contextlib import contextmanager
from dataclasses import dataclass, replace
from pathlib import Path

import pytest

from kdrun.analysis import plots
from kdrun.analysis.aggregate import SweepRun
from kdrun.config.compose import compose_job, hydra_session
from kdrun.config.preflight import check_job
from kdrun.experiment.evaluations import NamedEvaluation, OnTestSet
from kdrun.spec.dataset import ImageDatasetSpec
from kdrun.spec.spec import Component, Recipe, Spec
from kdrun.store.run import Run
from kdrun.store.store import Store
from kdrun.tables import Definition, Entry, Published, Row
from kdrun.tables.controls import no_kl
from kdrun.tables.figures import Figure, Rendering
from kdrun.tables.render.table_files import render

DATASET = ImageDatasetSpec("kdrun.data.synthetic", "none", 4, 1, 8, 64, 40, (0.5,), (0.25,))
EVALUATIONS = tuple(
    NamedEvaluation(name, OnTestSet(), Component("kdrun.experiment.evaluations.OnTestSet"))
    for name in ("test", "translate", "agreement", "blimp")
)
"""Of the made-up tables: names alone, of which nothing is computed."""


@dataclass
class Archive:
    """Makes up runs: a run whose last top-1 is t had t - 10 after its first epoch."""

    root: Path

    def finish(
        self,
        spec: Spec,
        top1: float,
        *,
        best: float | None = None,
        val: float | None = None,
        teachers: Sequence[float] = (),
        peers: Sequence[float] = (),
    ) -> Run:
        """A finished run: `best` is the best top-1 on test (else 1 more than the last)."""
        run = self.run(spec)
        run.open(config=None)
        curve = [top1 - 10, top1][: spec.epochs_trained]
        rows = [{"epoch": i + 1, "test": {"top1": value, "nll": 1.0}} for i, value in enumerate(curve)]
        for i, row in enumerate(rows if peers else []):
            row["peers"] = {f"peer{k + 1}": {"test": {"top1": peer - 10 * (1 - i)}} for k, peer in enumerate(peers)}
        beside = {f"peer{k + 1}": {"test": {"last": {"top1": peer}}} for k, peer in enumerate(peers)}
        selected = {} if val is None else {"val": {"selected": {"epoch": 1, "test": {"top1": val}}}}
        result = {
            "schema": 1,
            "run_id": spec.run_id,
            "student": {"name": spec.student.name, "params": 270_000, "macs": 40_810_000},
            "test": {
                "last": {"top1": top1, "nll": top1 / 100, "ece": 0.05},
                "best": {"top1": top1 + 1 if best is None else best},
            },
            "teachers": [
                {"run_id": teacher.run_id, "top1": accuracy, "confidence": accuracy / 100}
                for teacher, accuracy in zip(spec.teachers, teachers, strict=False)
            ],
            "epochs": spec.epochs_trained,
            "train": {"seconds": 10 * top1, "extra_params": 1234 * len(spec.teachers)},
            "environment": {"device": "cpu (x)"},
            **selected,
            **({"peers": beside} if peers else {}),
        }
        run.write_result(result, rows)
        return run

    def teacher(self, seed: int = 0, stop_epoch: int | None = None) -> Spec:
        student, method = Component("kdrun.models.resnet20"), Component("kdrun.methods.CE")
        return Spec(DATASET, student, method, Recipe(epochs=2), seed=seed, stop_epoch=stop_epoch)

    def student(self, seed: int = 0, **options: float) -> Spec:
        """Of the teacher with the same seed; `options` are those of KD."""
        student, method = Component("kdrun.models.cnn"), Component("kdrun.methods.KD", options)
        return Spec(DATASET, student, method, Recipe(epochs=2), seed=seed, teachers=(self.teacher(seed),))

    def run(self, spec: Spec) -> Run:
        return Store(self.root).run(spec)

    def job(self, top1: float | None, seed: int = 0, **options: float) -> SweepRun:
        """A job of a sweep over the options and the seed; without `top1` it has failed."""
        spec = self.student(seed, **options)
        choices = {**{f"method.{name}": f"{value:g}" for name, value in options.items()}, "seed": str(seed)}
        teachers = tuple(self.run(teacher) for teacher in spec.teachers)
        if top1 is None:
            return SweepRun(choices, self.run(spec), teachers, error="RuntimeError: no")
        return SweepRun(choices, self.finish(spec, top1), teachers)


@pytest.fixture
def archive(tmp_path) -> Archive:
    return Archive(tmp_path)


@pytest.fixture
def sweep(archive) -> list[SweepRun]:
    """Temperatures 1, 4 and 16 by seeds 0 and 1, with their teachers; one of the six has failed."""
    for seed, top1 in ((0, 80.0), (1, 82.0)):
        archive.finish(archive.teacher(seed), top1)
    accuracies = {(1.0, 0): 60.0, (1.0, 1): 64.0, (4.0, 0): 71.0, (4.0, 1): 71.5, (16.0, 0): 66.0, (16.0, 1): None}
    return [archive.job(top1, seed, temperature=t) for (t, seed), top1 in accuracies.items()]


@dataclass
class PaperTable:
    """A table's definition, its rows, and where their runs are found."""

    definition: Definition
    entries: list[Entry]
    archive: Archive

    def find(self, spec: Spec) -> Run | None:
        return Store(self.archive.root).find(spec)


@pytest.fixture
def paper_table(archive) -> PaperTable:
    """Three seeds of a baseline, KD (one seed missing), its control (one finished) and De-KD; a row that cannot run."""
    rows = (
        Row("cnn/ce", published=Published(68.0)),
        Row("cnn/kd/resnet20", ("method.multiplier=2",), (), "cnn/ce", Published(70.5, 0.25), note="a doubt"),
        Row("cnn/kd/resnet20/no_kl", baseline="cnn/ce"),
        Row(
            "cnn/de_kd/resnet20@1",
            ("method.multiplier=2",),
            (),
            "cnn/ce",
            Published(gain=1.25, teacher_top1=15.48),
            "De-KD",
        ),
        Row("cnn/kd/big", baseline="cnn/ce", published=Published(67.0), unavailable="kdrun has no big"),
    )
    options = {"alpha": 0.5, "temperature": 20.0, "kl_reduction": "mean", "multiplier": 2 * 4 / 100}
    kd = [archive.student(seed, **options) for seed in range(3)]
    specs = {
        "cnn/ce": [replace(spec, method=Component("kdrun.methods.CE"), teachers=()) for spec in kd],
        "cnn/kd/resnet20": kd,
        "cnn/kd/resnet20/no_kl": [no_kl(spec) for spec in kd],
        "cnn/de_kd/resnet20@1": [replace(spec, teachers=(archive.teacher(spec.seed, 1),)) for spec in kd],
        "cnn/kd/big": [],
    }
    for name, seed, last, best, teacher in (
        *(("cnn/ce", 0, 60.0, 61.0, ()), ("cnn/ce", 1, 65.0, 66.0, ()), ("cnn/ce", 2, 64.0, 64.0, ())),
        *(("cnn/kd/resnet20", 0, 61.5, 63.0, (80.0,)), ("cnn/kd/resnet20", 2, 66.5, 67.0, (82.0,))),
        ("cnn/kd/resnet20/no_kl", 0, 59.0, 59.5, ()),
        *(("cnn/de_kd/resnet20@1", seed, 66.0, 66.0, (15.0 + seed,)) for seed in range(3)),
    ):
        archive.finish(specs[name][seed], last, best=best, teachers=teacher)
    definition = Definition(
        "toy",
        "A toy table",
        "CIFAR-100",
        rows,
        source="Someone 2020, table 1",
        runs=5,
        num_classes=100,
        notes=("A note.",),
    )
    entries = [Entry(row, tuple(specs[row.name]), named_evaluations=EVALUATIONS) for row in rows]
    return PaperTable(definition, entries, archive)


@pytest.fixture
def drawn(monkeypatch) -> list:
    """The figures that are drawn."""
    figures = []
    original = plots.figure

    @contextmanager
    def recording(path, width, height):
        with original(path, width, height) as figure:
            figures.append(figure)
            yield figure

    for module in list(sys.modules.values()):
        if getattr(module, "figure", None) is original and module is not plots:
            monkeypatch.setattr(module, "figure", recording)
    return figures


@pytest.fixture
def draw(paper_table, tmp_path):
    """Draws one figure of given lines into `tmp_path`, of the toy table or another definition."""

    def draw(figure: Figure, lines, *, title: str = "title", definition: Definition = paper_table.definition) -> None:
        figure.write(Rendering(tmp_path, definition, lines, lambda _: None, published=True, title=title))

    return draw


COMMAND = "kdrun table toy --seeds 3"


@pytest.fixture
def rendered(paper_table, tmp_path):
    """Renders the toy table into a directory; returns its files' texts by suffix."""

    def rendered(name="out", *, published=True, command=COMMAND, entries=None, definition=None, **options):
        entries = paper_table.entries if entries is None else entries
        definition = definition or paper_table.definition
        directory = tmp_path / name
        options = {"published": published, "command": command, **options}
        markdown = render(directory, definition, entries, paper_table.find, **options)
        assert (directory / "table.md").read_text() == markdown
        return {path.suffix[1:]: path.read_text() for path in directory.glob("table.[!p]*")}

    return rendered


@pytest.fixture
def cells():
    """The cells of a Markdown table with something in them, by column; of the main table, or of its differences."""
    return _cells


def _cells(markdown: str, *, differences: bool = False) -> list[dict[str, str]]:
    part = markdown.partition("\n## Differences\n")[2 if differences else 0]
    lines = [line for line in part.splitlines() if line.startswith("|")]
    header, _, *rows = [[cell.strip() for cell in line.strip("|").split("|")] for line in lines]
    return [{name: cell for name, cell in zip(header, row, strict=True) if cell} for row in rows]


@functools.cache
def spec_of(*words: str) -> Spec:
    """The spec of a command line, on the CPU unless it says otherwise."""
    problems: list[str] = []
    words = ("runtime.device=cpu", *words)
    with hydra_session():
        config = compose_job(words, problems)
    assert problems == []
    return check_job(config, words).spec
