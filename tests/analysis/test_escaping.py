"""Hostile names in every format, read back by parsers that are not kdrun's."""

import csv
import io
import logging
import re
import string
from dataclasses import replace

import pytest

from kdrun import escaping
from kdrun.analysis.sweep import summarise
from kdrun.analysis.tables import aligned
from kdrun.cli.options import refuse
from kdrun.log import log, log_file, set_up_console
from kdrun.tables.content import Cells, Content
from kdrun.tables.render.latex import latex_table

NAMES = [
    "resnet18",
    "a|b",
    "a\\|b",
    "ends\\",
    "|",
    "\\\\|\\|",
    "=cmd|' /C calc'!A0",
    "+1+1",
    "-2+3",
    "@SUM(A1)",
    "\t=1",
    "\r=1",
    " =1",
    "\uff1d1+1",
    "-0.5",
    "1e-3",
    "$x^2$",
    "$\\frac{1}$",
    "$",
    "_net",
    "_ & % # $ { } ~ ^ \\",
    "\\input{/etc/passwd}",
    "[5pt]",
    " [5pt]",
    " *",
    "*",
    '"quoted" and "',
    "line\nbreak\r\nx\u2028y\u0085z",
    "\x1b[2J\x1b]0;title\x07",
    "\x9b31m",
    "nul\x00",
    "\u202egnp.exe",
    "half\udcff",
    "<script>alert(1)</script>",
    "\\<script>",
    "[click](javascript:alert(1))",
    "`code`",
    "café ± 中文",
    "می\u200cخواهم",
    "a,b;c",
    "'",
    "",
    "x" * 300,
]
CONTROL = re.compile("[\x00-\x1f\x7f-\x9f\u2028\u2029\u202a-\u202e\u2066-\u2069\ud800-\udfff]")


def markdown_cells(line: str) -> list[str]:
    """The cells of a row, as GitHub's parser scans them: a backslash escapes the punctuation behind it."""
    cells, at = [""], 0
    while at < len(line):
        if line[at] == "\\" and at + 1 < len(line) and line[at + 1] in string.punctuation:
            cells[-1] += line[at + 1]
            at += 1
        elif line[at] == "|":
            cells.append("")
        else:
            cells[-1] += line[at]
        at += 1
    assert cells[0] == cells[-1] == "", "a row begins and ends with its delimiter"
    return [cell.strip(" ") for cell in cells[1:-1]]


def test_a_markdown_table_has_the_cells_it_was_given():
    table = aligned(["run", "n|m"], [[name, "-1.5"] for name in NAMES])
    header, rule, *rows = table.removesuffix("\n").split("\n")
    assert markdown_cells(header) == ["run", "n|m"]
    assert re.fullmatch(r"\|-+\|-+:\|", rule)
    for name, row in zip(NAMES, rows, strict=True):
        assert not CONTROL.search(row)
        assert not re.search(r"(?<!\\)<|\]\(", row), "no HTML, no link"
        assert markdown_cells(row) == [escaping.printable(name).strip(" "), "-1.5"]


@pytest.mark.parametrize("name", NAMES)
def test_names_without_control_characters_stay_as_they_are(name):
    shown = escaping.printable(name)
    assert not CONTROL.search(shown)
    assert (shown == name) == (not CONTROL.search(name))
    shown.encode()


def test_csv_gives_back_what_was_written_and_no_formula():
    text = escaping.csv_text([[name, -1.5, None, -2] for name in NAMES])
    rows = list(csv.reader(io.StringIO(text, newline="")))
    assert len(rows) == len(NAMES)
    for name, (cell, *numbers) in zip(NAMES, rows, strict=True):
        assert numbers == ["-1.5", "", "-2"], "negative numbers stay numbers"
        guarded = cell.startswith("'") and name != "'"
        assert cell.removeprefix("'" * guarded) == escaping.printable(name)
        computes = cell.lstrip().startswith(tuple("=+-@\uff1d"))
        assert not computes or float(cell) == float(name), "a number that is typed as text stays one, too"
        assert guarded == (cell[1:].lstrip()[:1] in set("=+-@\uff1d") and name != "")


LATEX_TOKEN = re.compile(
    r"""\\[a-zA-Z]+\{\}        # a symbol
      | \\[_%&#${}]            # a character
      | \$\\[a-zA-Z]+\$|\$\^2\$|\$-\$   # the table's own mathematics
      | [^\\{}_%&#$~^<>|]      # anything else""",
    re.VERBOSE,
)


def latex_text(text: str) -> list[str]:
    """Tokens of text without an argument, a group or a special character that is not escaped."""
    tokens, at = [], 0
    while at < len(text):
        found = LATEX_TOKEN.match(text, at)
        assert found, (text, text[at:])
        tokens.append(found[0])
        at = found.end()
    return tokens


@pytest.mark.parametrize("name", NAMES)
def test_latex_has_no_special_character_left(name):
    assert not CONTROL.search(escaping.latex(name))
    latex_text(escaping.latex(name))


def test_a_latex_table_of_hostile_names_has_its_rows_and_columns():
    cells = Cells(["run", "$n$"], [[name, "-1.5"] for name in NAMES], words=1)
    table = latex_table(Content("a_b & c", "100 %", ["<sentence>\n"], cells, ["{note}"], None))
    body = table.partition("\\midrule")[2].partition("\\bottomrule")[0]
    rows = [row for row in body.replace("\\endhead", "").split("\n") if row]
    assert len(rows) == len(NAMES)
    for row in rows:
        assert row.endswith(r" \\")
        assert not row.lstrip().startswith(("[", "*")), "an argument of the row before"
        one, other = re.split(r"(?<!\\) & ", row.removesuffix(r" \\"))
        latex_text(one.removeprefix("{}"))
        assert other == "$-$1.5"


@pytest.mark.parametrize("name", NAMES)
def test_a_line_of_markdown_has_no_html(name):
    assert not re.search(r"(?<!\\)(?:\\\\)*<|\]\(", escaping.markdown(name))


@pytest.mark.parametrize("name", ["``a``", "`", "plain", "a```b"])
def test_markdown_code_holds_its_text(name):
    (fence,) = (re.match("`+", escaping.markdown_code(name)).group(),)
    inner = escaping.markdown_code(name).removeprefix(fence).removesuffix(fence)
    assert inner.strip(" ") == name
    assert fence not in re.findall("`+", inner)


def test_a_sweep_over_hostile_values_leaves_its_tables_and_figures(archive, caplog, tmp_path):
    """Values as they are typed; every figure is drawn, and its legend has them all."""
    jobs = []
    names = NAMES[::2]
    for number, name in enumerate(names):
        job = archive.job(50.0 + number, temperature=1.0 + number)
        jobs.append(replace(job, choices={"student.x|$y$": name, "_z": ("_a", "b")[number % 2]}))
    with caplog.at_level(logging.WARNING):
        text = summarise(tmp_path / "sweep", jobs)
    assert [record.message for record in caplog.records] == []
    assert len(list((tmp_path / "sweep").glob("*.png"))) == 3
    assert not CONTROL.search(text.replace("\n", ""))
    rows = list(csv.DictReader((tmp_path / "sweep" / "summary.csv").open(newline="")))
    shown = [row["student.x|$y$"].removeprefix("'") for row in rows if row["_z"]]
    assert shown == [escaping.printable(name).removeprefix("'") for name in names]


def test_names_in_messages_control_no_terminal(capsys, tmp_path):
    set_up_console()
    with log_file(tmp_path / "kdrun.log", "0"):
        for name in NAMES:
            log.info("%s", name)
    refuse(NAMES)
    said = capsys.readouterr()
    for text in (said.out, said.err, (tmp_path / "kdrun.log").read_text()):
        assert not CONTROL.search(text.replace("\n", "").replace("\t", ""))
        assert "\\x1b[2J" in text
