"""The words of a paper's table: labels of rows, and the sentences that stand beside the figures."""

import csv
import math
from dataclasses import replace

import pytest

from kdrun.spec.dataset import SequenceDatasetSpec
from kdrun.spec.spec import Component
from kdrun.tables import Entry, Published, Row, read_definition
from kdrun.tables.labels import method_label
from kdrun.tables.measure import ERRORS, TOP1
from kdrun.tables.render.table_files import render

COMMAND = "kdrun table toy --seeds 3"


def sentences(markdown: str, *words: str) -> list[str]:
    """The sentences above the table that have all the words."""
    return [line for line in markdown.splitlines() if line.startswith("- ") and all(word in line for word in words)]


def test_the_caption_has_the_scale_and_the_errors_of_the_runs(rendered):
    markdown = rendered()["md"]
    lines = markdown.splitlines()
    assert lines[0] == "# A toy table on CIFAR-100"
    assert "Someone 2020, table 1" in lines[2]
    assert lines[-1] == f"`{COMMAND}`"
    assert {"[1] a doubt", "[2] not run: kdrun has no big"} <= {line.rstrip() for line in lines}
    (scale,) = sentences(markdown, "synthetic", "2 epochs", "seeds 0 to 2", "fp32", "batch size 128", "cpu (x)")
    assert "%" not in scale
    assert sentences(markdown, "3 of 12 runs")
    assert sentences(markdown, "over 5 runs")
    assert sentences(markdown, "12.71", "(n = 2)", "4.30", "(n = 3)")
    # the finished rows' mean is (63 + 64 + 59 + 66) / 4 = 63 %
    assert sentences(markdown, "40 test images", f"± {100 * math.sqrt(0.63 * 0.37 / 40):.1f} points", "63.0 %")
    assert lines.index("- A note.") == max(i for i, line in enumerate(lines) if line.startswith("- "))


def test_only_columns_that_are_shown_are_explained(rendered):
    assert sentences(rendered()["md"], '"Δ last"')
    assert not sentences(rendered()["md"], '"learned beside"')


def test_rows_of_the_same_runs_are_named(rendered, paper_table):
    first, kd, control, *others = paper_table.entries
    same = ("cnn/kd/a/no_kl", "cnn/kd/b/no_kl", "cnn/kd/resnet20/scaled", "cnn/kd/c/no_kl")
    entries = [
        replace(first, same_as=("cnn/lsr",)),
        replace(kd, same_as=("cnn/kd/c",)),
        replace(control, same_as=same),
        *others,
    ]
    markdown = rendered(entries=entries)["md"]
    assert sentences(markdown, "cnn/lsr", "cnn/ce")
    assert sentences(markdown, "Controls", "cnn/kd/a and cnn/kd/b", "cnn/kd/resnet20")
    assert sentences(markdown, "cnn/kd/resnet20/scaled", "cnn/kd/resnet20/no_kl"), "another control with equal runs"
    assert markdown.count("cnn/kd/c") == 1, "the row's sentence covers its controls"


def test_a_row_shows_what_ran_not_what_its_name_claims(rendered, paper_table, archive, cells):
    _, kd, _, de_kd, _ = paper_table.entries
    renamed = [
        replace(kd, row=Row("vgg/kd/wrn")),
        replace(de_kd, row=Row("vgg/de_kd/wrn@0.5", label="De-KD")),
        Entry(Row("vgg/de_kd/wrn@0.5/untrained"), (replace(archive.student(), teachers=(archive.teacher(0, 0),)),)),
    ]
    texts = rendered(entries=renamed)
    assert [(row["student"], row["method"]) for row in cells(texts["md"])] == [
        ("cnn", "KD ← resnet20"),
        ("cnn", "De-KD ← resnet20 at epoch 1 of 2"),
        ("cnn", "control untrained: resnet20 untrained"),
    ]
    rows = csv.DictReader(texts["csv"].splitlines())
    assert [(row["student"], row["teacher"]) for row in rows] == [("cnn", "resnet20")] * 3


def test_batch_sizes_are_shown_where_they_differ(rendered, paper_table, cells):
    assert "batch" not in cells(rendered()["md"])[0]

    def smaller(entry):
        return replace(entry, specs=tuple(replace(s, recipe=replace(s.recipe, batch_size=64)) for s in entry.specs))

    first, kd, control, *others = paper_table.entries
    markdown = rendered(entries=[first, smaller(kd), smaller(control), *others])["md"]
    assert [row.get("batch") for row in cells(markdown)] == ["128", "64", "64", "128", None]


@pytest.mark.parametrize(("finished", "count"), [(0, "3 of 3"), (2, "1 of 3"), (3, None)])
def test_missing_runs_are_counted(paper_table, tmp_path, finished, count):
    entry = paper_table.entries[0]
    done = entry.specs[:finished]
    find = {"find": lambda spec: paper_table.find(spec) if spec in done else None}
    markdown = render(tmp_path, paper_table.definition, [entry], published=True, command=COMMAND, **find)
    found = sentences(markdown, "Missing")
    assert count in found[0] if count else not found


def test_published_results_are_counted(rendered, paper_table, tmp_path):
    own = paper_table.entries[0].specs[0]
    shelf = paper_table.find(own).directory
    texts = rendered(elsewhere=shelf)
    assert sentences(texts["md"], str(shelf), "1 of 12 runs")
    rows = list(csv.DictReader(texts["csv"].splitlines()))
    assert list(rows[0])[-1] == "published_runs"
    assert [row["published_runs"] for row in rows] == ["1", "0", "0", "0", "0"]
    assert sentences(rendered(elsewhere=tmp_path)["md"], "9 of 12 runs")
    assert not sentences(rendered(elsewhere=tmp_path / "none")["md"], "none")


@pytest.mark.parametrize(
    ("name", "baseline", "label"),
    [
        ("cnn/ce", None, "baseline"),
        ("cnn/ce", "cnn/lsr", "CE"),
        ("cnn/kd/resnet18@1", "cnn/ce", "KD ← resnet18 at epoch 1"),
        ("cnn/kd/resnet18@0.25", "cnn/ce", "KD ← resnet18 at 0.25 of the epochs"),
        ("cnn/tfkd_self", "cnn/ce", "Tf-KD_self"),
        ("cnn/tfkd_reg", "cnn/ce", "Tf-KD_reg"),
        ("cnn/mine/resnet18", "cnn/ce", "mine ← resnet18"),
        ("cnn/kd/resnet18/matched_lsr", "cnn/ce", "control matched_lsr: LSR, matched ε"),
        ("cnn/kd/resnet18/uniform", "cnn/ce", "control uniform: uniform soft targets"),
        ("cnn/de_kd/resnet18@1/untrained", "cnn/ce", "control untrained: resnet18 untrained"),
        ("cnn/tfkd_self/untrained", "cnn/ce", "control untrained: cnn untrained"),
    ],
)
def test_method_labels(name, baseline, label):
    assert method_label(Entry(Row(name, baseline=baseline))) == label


@pytest.mark.parametrize(("method", "label"), [("CE", "CE"), ("LSR", "LSR")])
def test_the_scaled_control_has_the_label_of_its_method(archive, method, label):
    spec = replace(archive.student(), method=Component(f"kdrun.methods.{method}", {"scale": 0.5}))
    assert method_label(Entry(Row("cnn/kd/scaled"), (spec,))) == f"control scaled: {label} at the whole weight"


def test_a_label_of_the_table_stands_for_the_kind_of_its_rows():
    rows = [{"name": "cnn/kd_T1/x"}, {"name": "cnn/kd_T1/y", "label": "its own"}, {"name": "cnn/kd/z"}]
    found = read_definition("mine", {"title": "x", "labels": {"kd_T1": "KD at T=1"}, "rows": rows}).rows
    assert [method_label(Entry(row)) for row in found] == ["KD at T=1 ← x", "its own ← y", "KD ← z"]


def test_an_assistant_is_named_with_its_teacher(archive):
    spec = archive.student()
    assistant = replace(spec, student=Component("kdrun.models.resnet14"))
    takd = replace(spec, method=Component("kdrun.methods.TAKD"), teachers=(assistant,))
    assert method_label(Entry(Row("cnn/takd/resnet20", baseline="cnn/ce"), (takd,))) == "TAKD ← resnet14 ← resnet20"


def test_a_table_without_a_paper_has_no_papers_scale(rendered, paper_table):
    rows = tuple(replace(row, published=Published()) for row in paper_table.definition.rows)
    entries = [replace(entry, row=row) for entry, row in zip(paper_table.entries, rows, strict=True)]
    definition = replace(paper_table.definition, rows=rows)
    markdown = rendered(entries=entries, definition=definition, published=False)["md"]
    assert markdown.startswith("# A toy table on synthetic, 2 epochs\n")


def test_signs():
    assert [TOP1.signed(value) for value in (-0.001, 0.0, 1.235, -2.0)] == ["+0.00", "+0.00", "+1.24", "-2.00"]
    assert TOP1.signed(-0.5, 0.25) == "-0.50 ± 0.25"
    assert ERRORS.signed(-12.04, 0.333) == "-12.0 ± 0.3"


def test_the_sampling_error_of_tokens_is_by_sequence(archive, paper_table, tmp_path):
    """A language model's 40 pieces of 8 tokens: the error of the result, never that of 320 independent tokens."""
    data = SequenceDatasetSpec("kdrun.data.sentences", "x", 4, 16, 8, 64, 40, per_token=True)
    spec = replace(archive.student(), dataset=data, method=Component("kdrun.methods.CE"), teachers=())
    run = archive.finish(spec, 30.0)
    (row,) = paper_table.definition.rows[:1]
    options = {"published": False, "command": COMMAND}

    def caption():
        return render(tmp_path / "out", paper_table.definition, [Entry(row, (spec,))], paper_table.find, **options)

    (unknown,) = sentences(caption(), "320 test tokens", "40 sequences")
    assert "±" not in unknown
    result = run.result()
    result["test"]["last"]["top1_se"] = 1.75
    run.write_result(result, run.rows())
    assert sentences(caption(), "320 test tokens", "± 1.8 points", "30.0 %")


def test_what_is_published_for_another_setting_stands_apart(rendered, paper_table, cells, drawn):
    """Of one row here: the KD row's figures leave the columns of those that compare, in every rendering."""
    first, kd, *others = paper_table.entries
    departing = replace(kd, row=replace(kd.row, departs="a slim network"))
    texts = rendered(entries=[first, departing, *others])
    baseline, row, _, de_kd, _ = cells(texts["md"])
    assert (baseline["published"], de_kd["published"]) == ("68.00", "(+1.25)")
    assert not row.keys() & {"published", "Δ published"}
    other = "published for another setting"
    assert (row[other], row[f"Δ {other}"]) == ("70.50 ± 0.25", "+2.50")
    assert other not in baseline
    assert sentences(texts["md"], "†", "cnn/kd/resnet20", "a slim network")
    assert f" & {other} & " in texts["tex"]
    assert [row["published_departs"] for row in csv.DictReader(texts["csv"].splitlines())] == [
        *("", "a slim network", "", "", ""),
    ]
    table = next(figure for figure in drawn if "best on test" in str([t.get_text() for t in figure.legends[0].texts]))
    labels = [text.get_text() for text in table.legends[0].get_texts()]
    assert labels[-2:] == ["published", f"{other} (± deviation over 5 runs)"]
    assert "a slim network" not in rendered("apart", published=False)["md"]


def test_figures_in_brackets_are_marked_where_they_are_of_another_setting(rendered, paper_table, cells):
    *_, de_kd, _ = paper_table.entries
    departing = replace(de_kd, row=replace(de_kd.row, departs="another teacher"))
    texts = rendered(entries=[paper_table.entries[0], departing])
    assert cells(texts["md"])[1]["teacher"] == "16.00 ± 1.00 (15.48†)"
    assert r"(15.48$\dagger$)" in texts["tex"]
