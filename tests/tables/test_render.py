"""A paper's table as Markdown, CSV and LaTeX: the figures of `paper_table`, worked out by hand."""

import csv
import dataclasses
import math

import pytest

from kdrun import escaping
from kdrun.tables import Published
from kdrun.tables.render.latex import LONG


def test_markdown_has_the_figures_and_blanks_where_there_are_none(rendered, cells):
    assert cells(rendered()["md"]) == [
        {
            **{"student": "cnn", "method": "baseline", "objective": "CE", "published": "68.00"},
            **{"ours, last epoch": "63.00 ± 2.65", "best on test": "63.67 ± 2.52", "runs": "3"},
        },
        {
            **{"student": "cnn", "method": "KD ← resnet20 [1]", "objective": "0.5 CE + 0.01 T²KL, T=20"},
            **{"published": "70.50 ± 0.25", "ours, last epoch": "64.00 ± 3.54", "best on test": "65.00 ± 2.83"},
            **{"Δ published": "+2.50", "Δ last": "+2.00 ± 0.50", "Δ best on test": "+2.50 ± 0.50"},
            **{"teacher": "81.00 ± 1.41", "runs": "2 of 3"},
        },
        {
            **{"student": "cnn", "method": "control no_kl: KL removed", "objective": "0.5 CE"},
            **{"ours, last epoch": "59.00", "best on test": "59.50", "runs": "1 of 3"},
            **{"Δ last": "-1.00", "Δ best on test": "-1.50"},
        },
        {
            **{"student": "cnn", "method": "De-KD ← resnet20 at epoch 1 of 2"},
            **{"objective": "0.5 CE + 0.01 T²KL, T=20", "published": "(+1.25)", "Δ published": "+1.25"},
            **{"ours, last epoch": "66.00 ± 0.00", "best on test": "66.00 ± 0.00", "runs": "3"},
            **{"Δ last": "+3.00 ± 1.53", "Δ best on test": "+2.33 ± 1.45", "teacher": "16.00 ± 1.00 (15.48)"},
        },
        {"student": "cnn", "method": "KD ← big [2]", "published": "67.00", "Δ published": "-1.00"},
    ]


def test_at_another_scale_nothing_published_is_left(rendered, cells):
    texts = rendered(published=False)
    markdown = texts["md"]
    assert markdown.startswith("# A toy table on synthetic, 2 epochs (not the paper's scale)\n")
    assert [row["method"] for row in cells(markdown)] == [
        *("baseline", "KD ← resnet20", "control no_kl: KL removed", "De-KD ← resnet20 at epoch 1 of 2"),
    ]
    for figure in ("CIFAR-100", "68.00", "70.50", "1.25", "15.48", "67.00", "a doubt", "A note", "Δ published", "[1]"):
        assert figure not in markdown
        assert figure not in texts["tex"]
    assert "published," not in texts["csv"]
    assert "published_std" not in texts["csv"]


def test_csv_has_every_number_unrounded(rendered, paper_table):
    rows = {row["row"]: row for row in csv.DictReader(rendered()["csv"].splitlines())}
    kd = rows["cnn/kd/resnet20"]
    ids = {entry.row.name: [spec.run_id for spec in entry.specs] for entry in paper_table.entries}["cnn/kd/resnet20"]
    assert {name: kd[name] for name in ("student", "kind", "teacher", "control", "objective", "run_ids")} == {
        **{"student": "cnn", "kind": "kd", "teacher": "resnet20", "control": ""},
        **{"objective": "0.5 CE + 0.01 T²KL, T=20", "run_ids": f"{ids[0]} {ids[2]}"},
    }
    numbers = {
        **{"seeds": 3, "n": 2, "missing": 1, "published": 70.5, "published_std": 0.25},
        **{"last_mean": 64.0, "last_std": math.sqrt(12.5), "best_mean": 65.0, "best_std": math.sqrt(8)},
        **{"difference_of_means_last": 1.0, "difference_last_mean": 2.0, "difference_last_se": 0.5},
        **{"difference_last_n": 2, "difference_best_mean": 2.5, "difference_best_se": 0.5, "difference_best_n": 2},
        **{"teacher_mean": 81.0, "teacher_std": math.sqrt(2)},
    }
    assert {name: float(kd[name]) for name in numbers} == pytest.approx(numbers, rel=1e-14)
    assert (kd["published_gain"], rows["cnn/de_kd/resnet20@1"]["published_gain"]) == ("", "1.25")
    assert rows["cnn/de_kd/resnet20@1"]["published_teacher_top1"] == "15.48"
    assert rows["cnn/kd/resnet20/no_kl"]["control"] == "no_kl"
    unavailable = rows["cnn/kd/big"]
    assert (unavailable["published"], unavailable["seeds"], unavailable["last_mean"]) == ("67.0", "0", "")


def test_columns_that_a_definition_asks_for(rendered, cells, paper_table):
    rows = list(paper_table.definition.rows)
    rows[0] = dataclasses.replace(rows[0], published=Published(68.0, ensemble=70.25))
    for number, run in enumerate(paper_table.find(spec) for spec in paper_table.entries[1].specs):
        if run is not None:
            last = {"stage": 2, "last": {"epoch": 2, "percent": {"ce": 0.25 - number / 10, "kd": 99.75 + number / 10}}}
            run.write_result({**run.result(), "shares": [{"stage": 1}, last]}, run.rows())
    asked = ("seconds", "extra_params", "ensemble", "teacher_confidence", "shares")
    definition = dataclasses.replace(paper_table.definition, rows=tuple(rows), columns=asked)
    entries = [dataclasses.replace(entry, row=row) for entry, row in zip(paper_table.entries, rows, strict=True)]
    whole = entries[0].ensemble
    kept = {"test": {"last": {"top1": 66.5}}}
    texts = rendered(definition=definition, entries=entries, kept=lambda derived: kept if derived == whole else None)
    baseline, kd, *_ = cells(texts["md"])
    assert (baseline["ensemble"], baseline["s / epoch"]) == ("66.50 (70.25)", "315")  # 10 x 63 seconds in two epochs
    assert "learned beside" not in baseline
    assert (kd["its confidence"], kd["learned beside"]) == ("0.810 ± 0.014", "1,234")
    assert "gradient %" not in baseline
    assert kd["gradient %"] == "0.15 ce, 99.8 kd", "the mean of seeds 0 and 2"
    record, of_kd, *_ = csv.DictReader(texts["csv"].splitlines())
    assert (record["shares"], of_kd["shares"].split()[0][:7]) == ("", "ce=0.15")
    numbers = {name: record[name] for name in ("ensemble_top1", "published_ensemble", "epoch_seconds_mean")}
    assert numbers == {"ensemble_top1": "66.5", "published_ensemble": "70.25", "epoch_seconds_mean": "315.0"}
    plain = rendered("plain")
    assert not set(cells(plain["md"])[0]) & {"ensemble", "s / epoch"}
    assert "epoch_seconds_mean" not in plain["csv"]


def test_csv_depends_on_the_runs_alone(rendered, tmp_path):
    first, second = rendered("a")["csv"], rendered("b", command="kdrun table toy --render-only")["csv"]
    assert first == second
    assert str(tmp_path) not in first


def test_latex_is_a_whole_table_of_escaped_cells(rendered, cells):
    lines = rendered()["tex"].splitlines()
    body = lines[lines.index(r"\midrule") + 1 : lines.index(r"\bottomrule")]
    assert len(body) == 5
    assert body[1] == (
        r"cnn & KD $\leftarrow$ resnet20 [1] & 0.5 CE + 0.01 T$^2$KL, T=20 & 70.50 $\pm$ 0.25 & 64.00 $\pm$ 3.54 & "
        r"65.00 $\pm$ 2.83 & +2.50 & +2.00 $\pm$ 0.50 & +2.50 $\pm$ 0.50 & 81.00 $\pm$ 1.41 & 2 of 3 \\"
    )
    columns = [line for line in lines if line.startswith(r"\begin{tabular}")]
    assert columns == [r"\begin{tabular}{lllrrrrrrrr}", r"\begin{tabular}{lllrrr}"]
    assert r"cnn & KD $\leftarrow$ resnet20 & control no\_kl: KL removed & +2.50 & +3.50 & 1 \\" in lines
    assert {row.count("&") for row in [*body, lines[lines.index(r"\toprule") + 1]]} == {10}
    text = "\n".join(lines)
    assert text.isascii()
    assert text.count(r"\begin{") == text.count(r"\end{") == 3
    caption = next(line for line in lines if line.startswith(r"\caption"))
    assert caption.startswith(r"\caption{A toy table on CIFAR-100. Someone 2020, table 1.}")
    below = text[text.rindex(r"\end{tabular}") :]
    for sentence in (
        "A note.",
        "[1] a doubt",
        "[2] not run: kdrun has no big",
    ):
        assert f"\n{sentence}" in below
    assert below.count("{") == below.count("}")


@pytest.mark.parametrize("number", [LONG, LONG + 1])
def test_a_long_latex_table_breaks_pages(rendered, paper_table, number):
    text = rendered(entries=[paper_table.entries[0]] * number)["tex"]
    long = number > LONG
    assert text.startswith(r"% needs \usepackage{booktabs,longtable}" if long else r"% needs \usepackage{booktabs}")
    assert (r"\begin{longtable}{lll" in text, r"\begin{tabular}" in text) == (long, not long)
    assert text.count("cnn & baseline") == number
    assert "Runs: synthetic" in text[text.index(r"\bottomrule") :]


@pytest.mark.parametrize(
    ("text", "latex"),
    [
        ("Tf-KD_self", r"Tf-KD\_self"),
        ("50 %", r"50 \%"),
        ("a&b#c$d", r"a\&b\#c\$d"),
        ("{x}~^\\", r"\{x\}\textasciitilde{}\textasciicircum{}\textbackslash{}"),
        ("LSR, ε=0.1", r"LSR, $\varepsilon$=0.1"),
        ("Δ last", r"$\Delta$ last"),
        ("-1.23 ± 0.40", r"$-$1.23 $\pm$ 0.40"),
        ("(-1.23)", "($-$1.23)"),
        ("CIFAR-100", "CIFAR-100"),
        ('the "best" one', "the ``best'' one"),
    ],
)
def test_latex_escapes(text, latex):
    assert escaping.latex(text) == latex
