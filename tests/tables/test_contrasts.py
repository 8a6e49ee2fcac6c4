"""Differences of rows: closed forms, an independent computation, and what a table shows of them."""

import csv
import subprocess
import sys
from dataclasses import replace

import pytest

from kdrun.analysis.differences import Difference, paired, student_t, unpaired
from kdrun.experiment.derived import Ensemble, EvaluatedRun
from kdrun.tables import Entry, Row
from kdrun.tables.compare import Archive, compare
from kdrun.tables.contrasts import contrasts
from tests.made_up import EVALUATIONS

PRINTED_T = {1: 12.706, 2: 4.303, 3: 3.182, 4: 2.776, 9: 2.262, 30: 2.042, 1e9: 1.960}
"""By degrees of freedom: two-sided 95 %, as in printed tables of Student's t."""


@pytest.mark.parametrize(("degrees", "quantile"), PRINTED_T.items())
def test_quantiles_are_those_of_printed_tables(degrees, quantile):
    assert student_t(degrees) == pytest.approx(quantile, abs=6e-4)


def test_means_of_unpaired_numbers_have_welchs_error():
    """Against `scipy.stats.ttest_ind`, which kdrun does not use."""
    from scipy import stats

    values, others = [60.0, 61.5, 66.0], [70.0, 90.0, 50.0, 74.0]
    found = unpaired(values, others)
    expected = stats.ttest_ind(values, others, equal_var=False)
    interval = expected.confidence_interval(0.95)
    assert found.degrees == pytest.approx(expected.df)
    assert found.mean / found.standard_error == pytest.approx(expected.statistic)
    assert 2 * found.clear_beyond * found.standard_error == pytest.approx(interval.high - interval.low)
    assert found.pairs is None
    assert unpaired([1.0, 1.0], [0.0, 0.0]) == Difference(1.0, 0.0, 2.0, None), "no deviation on either side"
    assert unpaired([1.0], others).standard_error is None
    assert unpaired([], others) is None


def test_pairs_are_of_the_same_seed():
    assert paired({0: 5.0, 1: 7.0, 2: 1.0}, {1: 4.0, 2: 2.0, 3: 9.0}) == Difference(1.0, 2.0, 1, 2)
    assert paired({0: 5.0}, {1: 4.0}) is None


@pytest.fixture
def finished(paper_table, archive) -> dict:
    """The rows of `paper_table` with every seed of the control: 59, 63 and 61, where KD has 61.5 and 66.5 (0 and 2)."""
    entries = {entry.row.name: entry for entry in paper_table.entries}
    for spec, top1 in zip(entries["cnn/kd/resnet20/no_kl"].specs[1:], (63.0, 61.0), strict=True):
        archive.finish(spec, top1)
    return entries


def test_a_row_less_its_control_is_paired_by_seed(finished, paper_table):
    (found,) = contrasts(compare([*finished.values()], Archive(paper_table.find)))
    assert (found.line.entry.row.name, found.name, found.kind) == (
        "cnn/kd/resnet20",
        "cnn/kd/resnet20/no_kl",
        "control",
    )
    # 61.5 - 59 and 66.5 - 61; the errors to the common baseline say nothing of it
    assert found.differences["ours, last epoch"] == Difference(4.0, pytest.approx(1.5), 1, 2)


def test_a_control_that_is_shown_under_another_row_is_still_subtracted(finished, paper_table):
    control = finished["cnn/kd/resnet20/no_kl"]
    shared = {**finished, "cnn/kd/resnet20/no_kl": replace(control, same_as=("cnn/de_kd/resnet20@1/no_kl",))}
    found = {
        each.line.entry.row.name: each for each in contrasts(compare([*shared.values()], Archive(paper_table.find)))
    }
    assert list(found) == ["cnn/kd/resnet20", "cnn/de_kd/resnet20@1"]
    de_kd = found["cnn/de_kd/resnet20@1"].differences["ours, last epoch"]  # 66 less 59, 63, 61
    assert (de_kd.mean, de_kd.pairs) == (5.0, 3)


def test_rows_are_compared_against_rows_they_name(rendered, finished, cells):
    kd, de_kd = finished["cnn/kd/resnet20"], finished["cnn/de_kd/resnet20@1"]
    named = replace(de_kd, row=replace(de_kd.row, against=("cnn/kd/resnet20",)))
    texts = rendered(entries=[finished["cnn/ce"], kd, named])
    assert cells(texts["md"], differences=True) == [
        {
            **{"student": "cnn", "method": "De-KD ← resnet20 at epoch 1 of 2", "less": "KD ← resnet20"},
            **{"ours, last epoch": "+2.00 ± 2.50", "best on test": "+1.00 ± 2.00", "pairs": "2"},
        }
    ]


def test_runs_of_other_seeds_are_not_called_paired(rendered, finished, paper_table, cells):
    """As in `hinton_ensemble`: ensembles of the seeds (0, 1) and (2, 0) against single runs of the seeds 0 and 1."""
    ce = replace(finished["cnn/ce"], specs=finished["cnn/ce"].specs[:2])
    runs = finished["cnn/ce"].specs
    derived = (Ensemble(runs[:2]), Ensemble((runs[2], runs[0])))
    tops = {each.key: {"test": {"last": {"top1": top1}}} for each, top1 in zip(derived, (70.0, 71.0), strict=True)}
    entry = Entry(Row("cnn/ensemble", baseline="cnn/ce"), derived=derived)
    options = {"entries": [ce, entry], "kept": lambda each: tops.get(each.key)}
    markdown = rendered(**options)["md"]
    # 70.5 less 62.5; variances 0.5 and 12.5 of two each: SE = sqrt((0.5 + 12.5) / 2)
    assert cells(markdown)[1]["Δ last"] == f"+8.00 ± {6.5**0.5:.2f}"
    assert any("Not paired by seed" in line and "cnn/ensemble" in line for line in markdown.splitlines())
    assert "(n = " not in markdown
    (record,) = [row for row in csv.DictReader(rendered(**options)["csv"].splitlines()) if row["row"] == "cnn/ensemble"]
    assert record["difference_last_n"] == ""
    assert float(record["difference_last_df"]) == pytest.approx(6.5**2 / (0.25**2 + 6.25**2))


def test_figures_of_evaluations_have_paired_differences(rendered, finished, paper_table, cells, drawn, tmp_path):
    ce, kd = finished["cnn/ce"], finished["cnn/kd/resnet20"]
    answers = {"cnn/ce": (20.0, 30.0, 25.0), "cnn/kd/resnet20": (31.0, 43.0, 33.0)}
    records = {
        EvaluatedRun((spec,), EVALUATIONS[0]).key: {"figures": {"top-1": value, "ECE": value / 1000}}
        for entry in (ce, kd)
        for spec, value in zip(entry.specs, answers[entry.row.name], strict=True)
    }
    definition = replace(paper_table.definition, evaluations=("test",))
    options = {"definition": definition, "entries": [ce, kd], "kept": lambda each: records.get(each.key)}
    (row,) = cells(rendered(**options)["md"], differences=True)
    assert (row["less"], row["ours, last epoch"]) == ("baseline", "+2.00 ± 0.50")
    assert row["test top-1"] == f"+10.67 ± {(19 / 9) ** 0.5:.2f}", "of 11, 13 and 8"
    assert row["test ECE"] == "+0.011 ± 0.001"
    rows = list(csv.DictReader((tmp_path / "out" / "differences.csv").read_text().splitlines()))
    (top1,) = [each for each in rows if each["figure"] == "test top-1"]
    assert (top1["row"], top1["less"], top1["kind"], top1["n"], top1["df"]) == (
        *("cnn/kd/resnet20", "cnn/ce", "baseline", "3", "2"),
    )
    assert float(top1["se"]) == pytest.approx((19 / 3 / 3) ** 0.5)
    panels = {axes.get_title(): axes for axes in drawn[0].axes if axes.get_title()}
    assert list(panels) == ["ours, last epoch (points)", "test top-1 (points)", "test ECE"]
    (dot,) = panels["test top-1 (points)"].containers
    assert dot.lines[0].get_xdata()[0] == pytest.approx(32 / 3)


def test_a_teacher_that_all_seeds_share_is_said_to_be_outside_the_errors(rendered, finished, archive):
    assert "One teacher for" not in rendered()["md"]
    control = replace(finished["cnn/kd/resnet20"], row=Row("cnn/shared", baseline="cnn/ce"))
    specs = tuple(replace(spec, teachers=(archive.teacher(9),)) for spec in control.specs)
    for spec in specs:
        archive.finish(spec, 70.0, teachers=(81.0,))
    markdown = rendered(entries=[finished["cnn/ce"], replace(control, specs=specs)])["md"]
    assert any(line.startswith("- One teacher for") and "cnn/shared" in line for line in markdown.splitlines())


def test_nothing_of_differences_is_left_where_there_are_none(rendered, finished, tmp_path):
    rendered()
    assert (tmp_path / "out" / "differences.png").stat().st_size > 5000
    markdown = rendered(entries=[finished["cnn/ce"], finished["cnn/kd/resnet20"]])["md"]
    assert "Differences" not in markdown
    assert not list((tmp_path / "out").glob("differences.*"))


@pytest.mark.slow
def test_a_plain_run_needs_no_scipy(tmp_path):
    code = (
        "import sys; from kdrun.cli import main; code = main(); "
        "print(sorted(name for name in sys.modules if name.partition('.')[0] == 'scipy')); sys.exit(code)"
    )
    words = ["dataset=synthetic", "dataset.train_size=64", "dataset.test_size=40", "student=mlp", "method=ce"]
    words += ["recipe.epochs=1", f"runtime.output_root={tmp_path}", "runtime.device=cpu"]
    done = subprocess.run([sys.executable, "-c", code, *words], capture_output=True, text=True, timeout=120)
    assert done.returncode == 0, done.stderr
    assert done.stdout.splitlines()[-1] == "[]"
