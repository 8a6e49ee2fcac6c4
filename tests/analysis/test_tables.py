"""Tables: the numbers of the results, unrounded for machines and rounded for people."""

import csv

from kdrun.analysis.aggregate import Statistic, SweepRun, group_by_seed, teachers_by_seed
from kdrun.analysis.sweep import run_table
from kdrun.analysis.tables import csv_table, markdown_table


def test_csv_has_the_numbers_of_the_results_unrounded(sweep):
    table = csv_table([*teachers_by_seed(sweep), *group_by_seed(sweep)])
    rows = list(csv.DictReader(table.splitlines()))
    assert [row["run"] for row in rows] == [
        "teacher resnet20 ce",
        *(f"method.temperature={t}" for t in ("1", "4", "16")),
    ]
    assert [row["method.temperature"] for row in rows] == ["", "1", "4", "16"]
    assert [(row["n"], row["missing"]) for row in rows] == [("2", "0")] * 3 + [("1", "1")]
    for row, group in zip(rows[1:], group_by_seed(sweep), strict=True):
        results = [run.result() for run in group.runs]
        for name, path in [
            ("test.last.top1", ("test", "last", "top1")),
            ("test.best.top1", ("test", "best", "top1")),
            ("test.last.nll", ("test", "last", "nll")),
            ("student.params", ("student", "params")),
            ("train.seconds", ("train", "seconds")),
        ]:
            values = []
            for result in results:
                for key in path:
                    result = result[key]
                values.append(result)
            statistic = Statistic.of(values)
            assert float(row[f"{name}.mean"]) == statistic.mean
            assert row[f"{name}.std"] == ("" if statistic.deviation is None else repr(statistic.deviation))
        assert row["val.selected.test.top1.mean"] == ""


def test_markdown_rounds_aligns_and_leaves_empty_columns_out(sweep):
    lines = markdown_table(group_by_seed(sweep)).splitlines()
    assert len({len(line) for line in lines}) == 1
    cells = [[cell.strip() for cell in line.strip("|").split("|")] for line in lines]
    assert cells[0] == ["run", "top-1 %", "best on test %", "nll", "ece", "params M", "MACs M", "train s", "n"]
    assert cells[2] == [
        *("method.temperature=1", "62.00 ± 2.83", "63.00 ± 2.83", "0.620 ± 0.028", "0.050 ± 0.000"),
        *("0.270", "40.81", "620.0 ± 28.3", "2"),
    ]
    assert (cells[4][1], cells[4][-1]) == ("66.00", "1 (1 missing)")


def test_accuracy_at_the_selected_epoch_has_its_column_where_a_split_was_held_out(archive):
    run = archive.finish(archive.student(), 70.0, val=68.5)
    assert "top-1 % at best val" in (table := run_table(SweepRun({}, run)))
    assert "68.50" in table
