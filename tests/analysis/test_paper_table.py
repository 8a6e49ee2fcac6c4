"""A paper's table as Markdown, CSV and LaTeX: the figures of `paper_table`, worked out by hand."""

import csv
import math
from dataclasses import replace

import pytest

from kdrun.analysis.comparison import compare
from kdrun.analysis.paper_table import escaped, render
from kdrun.analysis.paper_text import CLEAR_OF_ZERO, method_label, signed
from kdrun.experiment.spec import Component
from kdrun.tables import Entry, Row

COMMAND = "kdrun table toy --seeds 3"


@pytest.fixture
def rendered(paper_table, tmp_path):
    """Renders the toy table into a directory; returns its files' texts by suffix."""

    def rendered(name="out", *, published=True, command=COMMAND, entries=None, definition=None):
        entries = paper_table.entries if entries is None else entries
        definition = definition or paper_table.definition
        directory = tmp_path / name
        markdown = render(directory, definition, entries, paper_table.find, published=published, command=command)
        assert (directory / "table.md").read_text() == markdown
        return {path.suffix[1:]: path.read_text() for path in directory.glob("table.[!p]*")}

    return rendered


def cells(markdown: str) -> list[dict[str, str]]:
    lines = [line for line in markdown.splitlines() if line.startswith("|")]
    header, _, *rows = [[cell.strip() for cell in line.strip("|").split("|")] for line in lines]
    return [{name: cell for name, cell in zip(header, row, strict=True) if cell} for row in rows]


def test_markdown_has_the_figures_and_blanks_where_there_are_none(rendered):
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
            **{"student": "cnn", "method": "control: KL removed", "objective": "0.5 CE"},
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


def test_the_caption_says_what_a_reader_needs(rendered):
    markdown = rendered()["md"]
    for sentence in (
        "- Runs: synthetic, 2 epochs, seeds 0 to 2, fp32, batch size 128, on cpu (x).",
        "- 3 of 12 runs are missing; their cells are blank.",
        "multipliers are m K/100 (K=4)",
        "the paper's figures, over 5 runs",
        # the finished rows' mean is (63 + 64 + 59 + 66) / 4 = 63 %
        f"- 40 test images: a sampling error of ± {100 * math.sqrt(0.63 * 0.37 / 40):.1f} points for one run",
        "only beyond 12.71 standard errors (n = 2) or 4.30 standard errors (n = 3)",
        "- A note.",
        "[1] a doubt",
        "[2] not run: kdrun has no big",
    ):
        assert sentence in markdown
    assert markdown.startswith("# A toy table\n\nSomeone 2020, table 1.\n")
    assert markdown.splitlines()[-1] == f"`{COMMAND}`"


def test_at_another_scale_nothing_published_is_left(rendered):
    texts = rendered(published=False)
    markdown = texts["md"]
    assert markdown.startswith("# A toy table: the same rows on synthetic, 2 epochs\n")
    assert [row["method"] for row in cells(markdown)] == [
        *("baseline", "KD ← resnet20", "control: KL removed", "De-KD ← resnet20 at epoch 1 of 2"),
    ]
    assert "- The paper's figures are left out" in markdown
    for figure in ("68.00", "70.50", "1.25", "15.48", "67.00", "a doubt", "A note", "Δ published", "[1]"):
        assert figure not in markdown
        assert figure not in texts["tex"]
    assert "published" not in texts["csv"]


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
    assert "- cnn/lsr is the same runs as cnn/ce.\n" in markdown
    assert "cnn/ce/scaled" not in markdown
    assert "- A control that is the same runs as another row" in markdown


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


def test_csv_depends_on_the_runs_alone(rendered, tmp_path):
    first, second = rendered("a")["csv"], rendered("b", command="kdrun table toy --render-only")["csv"]
    assert first == second
    assert str(tmp_path) not in first


def test_latex_is_a_whole_table_of_escaped_cells(rendered):
    lines = rendered()["tex"].splitlines()
    body = lines[lines.index(r"\midrule") + 1 : lines.index(r"\bottomrule")]
    assert len(body) == 5
    assert body[1] == (
        r"cnn & KD $\leftarrow$ resnet20 & 0.5 CE + 0.01 T$^2$KL, T=20 & 70.50 $\pm$ 0.25 & 64.00 $\pm$ 3.54 & "
        r"65.00 $\pm$ 2.83 & +2.50 & +2.00 $\pm$ 0.50 & +2.50 $\pm$ 0.50 & 81.00 $\pm$ 1.41 & 2 of 3 \\"
    )
    (columns,) = [line for line in lines if line.startswith(r"\begin{tabular}")]
    assert columns == r"\begin{tabular}{lllrrrrrrrr}"
    assert {row.count("&") for row in [*body, lines[lines.index(r"\toprule") + 1]]} == {10}
    text = "\n".join(lines)
    assert text.isascii()
    assert text.count(r"\begin{") == text.count(r"\end{") == 2
    caption = next(line for line in lines if line.startswith(r"\caption"))
    assert caption.startswith(r"\caption{A toy table. Someone 2020, table 1. synthetic, 2 epochs, seeds 0 to 2")


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
    ],
)
def test_latex_escapes(text, latex):
    assert escaped(text) == latex


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
        ("cnn/kd/resnet18/matched_lsr", "cnn/ce", "control: LSR, matched ε"),
        ("cnn/kd/resnet18/uniform", "cnn/ce", "control: uniform soft targets"),
        ("cnn/de_kd/resnet18@1/untrained", "cnn/ce", "control: resnet18 untrained"),
        ("cnn/tfkd_self/untrained", "cnn/ce", "control: cnn untrained"),
        ("cnn/kd/resnet18/scaled", "cnn/ce", "control: CE at the whole weight"),
    ],
)
def test_method_labels(name, baseline, label):
    assert method_label(Entry(Row(name, baseline=baseline))) == label


def test_the_scaled_control_of_tfkd_reg_is_label_smoothing(archive):
    spec = replace(archive.student(), method=Component("kdrun.methods.LSR", {"scale": 0.5}))
    assert method_label(Entry(Row("cnn/tfkd_reg/scaled"), (spec,))) == "control: LSR at the same weight"


def test_signs():
    assert [signed(value) for value in (-0.001, 0.0, 1.235, -2.0)] == ["+0.00", "+0.00", "+1.24", "-2.00"]
    assert signed(-0.5, 0.25) == "-0.50 ± 0.25"


@pytest.mark.parametrize(("n", "quantile"), CLEAR_OF_ZERO.items())
def test_quantiles_of_student_t(n, quantile):
    """Two-sided 95 %: the density integrated by Simpson's rule, with n - 1 degrees of freedom."""
    degrees = n - 1
    log_factor = math.lgamma((degrees + 1) / 2) - math.lgamma(degrees / 2) - 0.5 * math.log(degrees * math.pi)
    steps = 20_000
    heights = [
        math.exp(log_factor) * (1 + (quantile * i / steps) ** 2 / degrees) ** (-(degrees + 1) / 2)
        for i in range(steps + 1)
    ]
    simpson = heights[0] + heights[-1] + 4 * sum(heights[1:-1:2]) + 2 * sum(heights[2:-1:2])
    assert 2 * simpson * quantile / steps / 3 == pytest.approx(0.95, abs=4e-4)


def test_every_line_is_rendered_in_the_order_of_the_entries(rendered, paper_table):
    rows = [row["row"] for row in csv.DictReader(rendered()["csv"].splitlines())]
    assert rows == [line.entry.row.name for line in compare(paper_table.entries, paper_table.find)]
