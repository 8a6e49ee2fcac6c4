"""The words of a paper's table: labels of rows, and the sentences that stand beside the figures."""

import csv
import math
from dataclasses import replace

import pytest

from kdrun.spec.dataset import SequenceDatasetSpec
from kdrun.spec.spec import Component, Recipe
from kdrun.tables import Entry, Published, Row
from kdrun.tables.labels import method_label
from kdrun.tables.measure import ERRORS, TOP1
from kdrun.tables.render.table import render

COMMAND = "kdrun table toy --seeds 3"


def test_the_caption_says_what_a_reader_needs(rendered):
    markdown = rendered()["md"]
    for sentence in (
        "- Runs: synthetic, 2 epochs, seeds 0 to 2, fp32, batch size 128, on cpu (x).",
        "- 3 of 12 runs are missing (not run, failed or interrupted); means are over the others.",
        "- Objective: KL is per image (batchmean), its weight as it counts (alpha m / K where the loss averages over "
        "classes); T² as in Hinton et al. 2015.",
        "multipliers are m K/100 (K=4)",
        "the paper's figures, over 5 runs",
        # the finished rows' mean is (63 + 64 + 59 + 66) / 4 = 63 %
        f"- 40 test images: for one run a sampling error of ± {100 * math.sqrt(0.63 * 0.37 / 40):.1f} points at the "
        "mean of these rows, 63.0 %, common to all seeds; a Δ is on the same test images.",
        "only beyond 12.71 standard errors (n = 2) or 4.30 standard errors (n = 3)",
        "- A note.",
        "[1] a doubt",
        "[2] not run: kdrun has no big",
    ):
        assert sentence in markdown
    assert markdown.startswith("# A toy table on CIFAR-100\n\nSomeone 2020, table 1.\n")
    assert markdown.splitlines()[-1] == f"`{COMMAND}`"


def test_weights_that_the_user_has_set_are_not_called_the_published_ones(rendered, paper_table):
    entries = [replace(entry, row=replace(entry.row, overrides=())) for entry in paper_table.entries]
    assert "multipliers are" not in rendered(entries=entries)["md"]


def test_one_seed_says_that_it_shows_nothing(rendered, paper_table):
    entries = [replace(entry, specs=entry.specs[:1]) for entry in paper_table.entries]
    markdown = rendered(entries=entries)["md"]
    assert "With one seed nothing can be said about whether a Δ is clear of zero." in markdown
    assert "standard error" not in markdown
    assert "deviation" not in markdown


def test_rows_that_are_the_same_runs_are_named_but_not_controls(rendered, paper_table):
    first, *others = paper_table.entries
    entries = [replace(first, same_as=("cnn/lsr", "cnn/ce/scaled")), *others]
    markdown = rendered(entries=entries)["md"]
    assert "- cnn/lsr and cnn/ce/scaled are the same runs as cnn/ce.\n" in markdown
    assert "do not follow" not in markdown


def test_controls_that_stand_elsewhere_are_found(rendered, paper_table):
    first, kd, control, *others = paper_table.entries
    same = (
        "cnn/kd/a/no_kl",
        "cnn/kd/b/no_kl",
        "cnn/de_kd/resnet20@1/no_kl",
        "cnn/kd/resnet20/scaled",
        "cnn/kd/c/no_kl",
    )
    entries = [first, replace(kd, same_as=("cnn/kd/c",)), replace(control, same_as=same), *others]
    markdown = rendered(entries=entries)["md"]
    assert (
        "- Controls of cnn/kd/a, cnn/kd/b and cnn/de_kd/resnet20@1 that do not follow them (no_kl) are those of "
        "cnn/kd/resnet20.\n"
    ) in markdown
    assert "- cnn/kd/resnet20/scaled is the same runs as cnn/kd/resnet20/no_kl.\n" in markdown
    assert markdown.count("cnn/kd/c") == 1, "whose row is another's has its controls there too"
    entries[2] = replace(control, same_as=same[:2])
    entries[3] = replace(control, row=Row("cnn/kd/resnet20/scaled"), same_as=("cnn/kd/a/scaled",))
    assert (
        "- Controls of cnn/kd/a (no_kl, scaled) and of cnn/kd/b (no_kl) that do not follow them are those of "
        "cnn/kd/resnet20.\n"
    ) in rendered(entries=entries)["md"]


def test_a_row_shows_what_ran_not_what_its_name_claims(rendered, paper_table, archive, cells):
    _, kd, _, de_kd, _ = paper_table.entries
    renamed = [
        replace(kd, row=Row("vgg/kd/wrn")),
        replace(de_kd, row=Row("vgg/de_kd/wrn@0.5")),
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


def test_another_batch_size_than_the_baselines_is_told(rendered, paper_table, cells):
    assert "batch" not in cells(rendered()["md"])[0]

    def smaller(entry):
        return replace(entry, specs=tuple(replace(s, recipe=replace(s.recipe, batch_size=64)) for s in entry.specs))

    first, kd, control, *others = paper_table.entries
    markdown = rendered(entries=[first, smaller(kd), smaller(control), *others])["md"]
    assert [row.get("batch") for row in cells(markdown)] == ["128", "64", "64", "128", None]
    assert "- Rows of another batch size than their baseline: cnn/kd/resnet20 (64, baseline 128).\n" in markdown


@pytest.mark.parametrize(
    ("finished", "asked", "sentence"),
    [
        (0, 1, "Nothing is finished: 1 run is missing (not run, failed or interrupted)."),
        (0, 3, "Nothing is finished: 3 runs are missing (not run, failed or interrupted)."),
        (2, 3, "1 of 3 runs is missing (not run, failed or interrupted); means are over the others."),
        (3, 3, None),
    ],
)
def test_what_is_missing_is_counted(paper_table, tmp_path, finished, asked, sentence):
    entry = replace(paper_table.entries[0], specs=paper_table.entries[0].specs[:asked])
    done = entry.specs[:finished]
    find = {"find": lambda spec: paper_table.find(spec) if spec in done else None}
    markdown = render(tmp_path, paper_table.definition, [entry], published=True, command=COMMAND, **find)
    found = [line[2:] for line in markdown.splitlines() if "missing" in line]
    assert found == ([] if sentence is None else [sentence])


def test_published_results_are_counted(rendered, paper_table, tmp_path):
    own = paper_table.entries[0].specs[0]
    shelf = paper_table.find(own).directory
    texts = rendered(elsewhere=shelf)
    assert f"- 1 of 12 runs is a published result from {shelf}.\n" in texts["md"]
    rows = list(csv.DictReader(texts["csv"].splitlines()))
    assert list(rows[0])[-1] == "published_runs"
    assert [row["published_runs"] for row in rows] == ["1", "0", "0", "0", "0"]
    everywhere = rendered(elsewhere=tmp_path)
    assert "9 of 12 runs are published results from" in everywhere["md"]
    assert "published result" not in rendered(elsewhere=tmp_path / "none")["md"]


@pytest.mark.parametrize(
    ("name", "baseline", "label"),
    [
        ("cnn/ce", None, "baseline"),
        ("cnn/ce", "cnn/lsr", "CE"),
        ("cnn/re_kd/mobilenetv2", "cnn/ce", "Re-KD ← mobilenetv2"),
        ("cnn/de_kd/resnet18@1", "cnn/ce", "De-KD ← resnet18 at epoch 1"),
        ("cnn/de_kd/resnet18@0.25", "cnn/ce", "De-KD ← resnet18 at 0.25 of the epochs"),
        ("cnn/tfkd_self", "cnn/ce", "Tf-KD_self"),
        ("cnn/tfkd_reg", "cnn/ce", "Tf-KD_reg"),
        ("cnn/mine/resnet18", "cnn/ce", "mine ← resnet18"),
        ("cnn/kd/resnet18/matched_lsr", "cnn/ce", "control matched_lsr: LSR, matched ε"),
        ("cnn/kd/resnet18/uniform", "cnn/ce", "control uniform: uniform soft targets"),
        ("cnn/de_kd/resnet18@1/untrained", "cnn/ce", "control untrained: resnet18 untrained"),
        ("cnn/tfkd_self/untrained", "cnn/ce", "control untrained: cnn untrained"),
        ("cnn/kd/resnet18/scaled", "cnn/ce", "control scaled: CE at the whole weight"),
    ],
)
def test_method_labels(name, baseline, label):
    assert method_label(Entry(Row(name, baseline=baseline))) == label


def test_the_scaled_control_of_tfkd_reg_is_label_smoothing(archive):
    spec = replace(archive.student(), method=Component("kdrun.methods.LSR", {"scale": 0.5}))
    assert method_label(Entry(Row("cnn/tfkd_reg/scaled"), (spec,))) == "control scaled: LSR at the same weight"


def test_a_short_row_is_called_so_at_the_scale_of_the_paper_alone(archive):
    row = Row("cnn/fsp_short/resnet20", ("method=fsp",), ("recipe.epochs=54",), "cnn/ce")
    spec = archive.student()
    assert method_label(Entry(row, (spec,))) == "FSP ← resnet20"
    short = replace(spec, recipe=Recipe(epochs=54))
    assert method_label(Entry(row, (short,))) == "FSP, a third of the epochs ← resnet20"
    assert method_label(Entry(Row("cnn/fitnet3_short/x", baseline="cnn/ce"))) == (
        "FitNet, three hints, a third of the epochs ← x"
    )


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

    def sentence():
        text = render(tmp_path / "out", paper_table.definition, [Entry(row, (spec,))], paper_table.find, **options)
        (found,) = [line for line in text.splitlines() if line.startswith("- 320 test tokens")]
        return found

    assert sentence().endswith("those of one not independent: these results do not say their sampling error.")
    result = run.result()
    result["test"]["last"]["top1_se"] = 1.75
    run.write_result(result, run.rows())
    assert sentence() == (
        "- 320 test tokens in 40 sequences, those of one not independent: for one run a sampling error by sequence of "
        "± 1.8 points at the mean of these rows, 30.0 %, common to all seeds."
    )


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
    sentence = f'- "{other}" (†): the paper\'s figures of cnn/kd/resnet20; the levels do not compare with ours: a slim '
    assert sentence in texts["md"]
    assert f" & {other} & " in texts["tex"]
    assert [row["published_departs"] for row in csv.DictReader(texts["csv"].splitlines())] == [
        *("", "a slim network", "", "", ""),
    ]
    table = next(figure for figure in drawn if "best on test" in str([t.get_text() for t in figure.legends[0].texts]))
    labels = [text.get_text() for text in table.legends[0].get_texts()]
    assert labels[-2:] == ["published", f"{other} (± deviation over 5 runs)"]
    assert f'"{other}"' not in rendered("apart", published=False)["md"]


def test_figures_in_brackets_are_marked_where_they_are_of_another_setting(rendered, paper_table, cells):
    *_, de_kd, _ = paper_table.entries
    departing = replace(de_kd, row=replace(de_kd.row, departs="another teacher"))
    texts = rendered(entries=[paper_table.entries[0], departing])
    assert cells(texts["md"])[1]["teacher"] == "16.00 ± 1.00 (15.48†)"
    assert r"(15.48$\dagger$)" in texts["tex"]
