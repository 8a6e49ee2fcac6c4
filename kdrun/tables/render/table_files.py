"""A paper's table beside our runs: `table.md`, `table.csv`, `table.tex` and the pictures."""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from pathlib import Path
from typing import Any

from kdrun.escaping import aligned, markdown, markdown_code
from kdrun.experiment.derived import Derived
from kdrun.files import write_atomically
from kdrun.spec.spec import Spec
from kdrun.store.run import Run
from kdrun.tables import Definition, Entry
from kdrun.tables.compare import Archive, compare
from kdrun.tables.content import Cells, Content, content
from kdrun.tables.contrasts import contrasts
from kdrun.tables.figures import Rendering
from kdrun.tables.labels import has_published
from kdrun.tables.measure import MEASURES
from kdrun.tables.render.csv_files import differences_csv, paper_csv
from kdrun.tables.render.differences_figure import draw_differences
from kdrun.tables.render.dots import dots
from kdrun.tables.render.latex import latex_table


def render(
    directory: Path,
    definition: Definition,
    entries: Sequence[Entry],
    find: Callable[[Spec], Run | None],
    *,
    published: bool,
    command: str,
    elsewhere: Path | None = None,
    kept: Callable[[Derived], Mapping[str, Any] | None] = lambda _: None,
) -> str:
    """Writes `table.md`, `table.csv`, `table.tex`, `table.png` and the table's figures; returns the Markdown.

    Where rows have controls, or rows to be compared `against`, or evaluations: `differences.csv` and `.png`, too.

    A figure with nothing to show is deleted.

    Args:
        directory: where they are written.
        definition: the table.
        entries: its rows in order, each followed by its controls.
        find: the finished run of a spec, or None.
        published: whether the runs are of the paper's scale, so that its figures stand beside them; else they are
            left out everywhere, and so are rows that have nothing else.
        command: that made the table, as typed.
        elsewhere: directory of published results; the table gives the number of its runs from there.
        kept: what was computed of finished runs, or None.
    """
    directory.mkdir(parents=True, exist_ok=True)
    measure = MEASURES[definition.measure]
    if definition.has_published and not published:
        entries = [entry.without_published() for entry in entries]
    compared = compare(entries, Archive(find, kept, definition.columns, measure, definition.evaluations))
    lines = [line for line in compared if line.entry.asked or has_published(line)]
    differences = contrasts(lines)
    table = content(definition, lines, differences, published=published, elsewhere=elsewhere)
    text = _page(table, command=command)
    write_atomically(directory / "table.md", text)
    write_atomically(directory / "table.csv", paper_csv(definition, lines, published=published, elsewhere=elsewhere))
    write_atomically(directory / "table.tex", latex_table(table))
    if differences:
        write_atomically(directory / "differences.csv", differences_csv(differences))
    else:
        (directory / "differences.csv").unlink(missing_ok=True)
    draw_differences(directory / "differences.png", differences, measure, title=table.heading)
    dots(directory / "table.png", lines, measure, published_runs=definition.runs, title=table.heading)
    rendering = Rendering(directory, definition, lines, kept, published=published, title=table.heading)
    for figure in definition.figures:
        figure.write(rendering)
    return text


def _page(table: Content, *, command: str) -> str:
    """The table with its caption, its notes and the command."""
    sentences = [f"- {markdown(sentence)}" for sentence in table.sentences]
    parts = [
        f"# {markdown(table.heading)}",
        *([f"{markdown(table.source)}."] * bool(table.source)),
        "\n".join(sentences),
        _grid(table.main),
        *(["\n".join(f"{markdown(note)}  " for note in table.notes)] * bool(table.notes)),
        *(["## Differences", _grid(table.differences)] if table.differences else []),
        markdown_code(command),
    ]
    return "\n\n".join(parts) + "\n"


def _grid(cells: Cells) -> str:
    return aligned(cells.header, cells.rows, left=cells.words).rstrip("\n")
