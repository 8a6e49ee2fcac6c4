"""What things are called in a paper's table: rows, the whole table, what was run, and differences."""

from __future__ import annotations

from collections.abc import Iterable, Sequence

from kdrun.spec.components import method_class, shipped_methods
from kdrun.spec.spec import Spec
from kdrun.tables import Definition, Entry
from kdrun.tables.compare import Line
from kdrun.tables.controls import LABELS


def method_label(entry: Entry) -> str:
    """What a row is called beside its student, for instance `De-KD ← resnet18 at epoch 1 of 200`."""
    row = entry.row
    if row.control is not None:
        method = method_class(entry.specs[0].method).label if entry.specs else ""
        words = LABELS[row.control].format(method=method, teacher=entry.teacher or entry.student)
        return f"control {row.control}: {words}"
    if row.kind == "ce" and row.baseline is None:
        return "baseline"
    taught = f" ← {entry.teacher}{_assisted(entry)}" if entry.teacher else ""
    stopped = f" at {entry.stop}" if entry.stop else ""
    return f"{row.label or _own_label(entry)}{taught}{stopped}"


def _own_label(entry: Entry) -> str:
    """The label of the method that a row is named after, else the kind of the row."""
    kind = entry.row.kind
    method = method_class(entry.specs[0].method) if entry.specs else shipped_methods().get(kind)
    return method.label if method is not None and method.name == kind else kind


def _assisted(entry: Entry) -> str:
    """The teacher of a row's teacher, if that is an assistant."""
    assisted = any(method_class(spec.method).needs.assistant for spec in entry.specs)
    return f" ← {entry.specs[0].teachers[0].teachers[0].student.name}" if assisted else ""


def heading(definition: Definition, lines: Sequence[Line], *, published: bool) -> str:
    """The table's title, with the paper's data or with the data that was used, never mixed."""
    specs = specs_of(lines)
    if published or not specs:
        return definition.full_title if published else definition.title
    datasets = listed(spec.dataset.name for spec in specs)
    epochs = counted([spec.epochs_trained for spec in specs], "epoch")
    scale = " (not the paper's scale)" if definition.has_published else ""
    return f"{definition.title} on {datasets}, {epochs}{scale}"


def scale_of(lines: Sequence[Line]) -> str:
    """What was run, in a line: `digits, 50 % of the training images, 10 epochs, seeds 0 to 2, fp32, batch size 64`."""
    specs = specs_of(lines)
    if not specs:
        return ""
    fractions = {f"{100 * spec.dataset.train_fraction:g} %" for spec in specs}
    devices = {device: None for line in lines for device in line.devices}
    sizes = sorted({spec.recipe.batch_size for spec in specs})
    generated = sorted({spec.dataset.num_train_examples for spec in specs if spec.dataset.example == "sequence"})
    parts = [
        listed(spec.dataset.name for spec in specs),
        f"{listed(f'{size:,}' for size in generated)} training sequences" if generated else "",
        "" if fractions == {"100 %"} else f"{listed(sorted(fractions))} of the training images",
        counted([spec.epochs_trained for spec in specs], "epoch"),
        _seeds(specs),
        listed(spec.precision for spec in specs),
        f"batch size{'s' if len(sizes) > 1 else ''} {listed(map(str, sizes))}",
        f"on {listed(devices)}" if devices else "",
    ]
    return ", ".join(part for part in parts if part)


def specs_of(lines: Sequence[Line]) -> list[Spec]:
    """Of the runs that are shown; if all rows are derived, the runs they are computed from."""
    runs = [spec for line in lines for spec in line.entry.specs]
    return runs or [spec for line in lines for each in line.entry.derived for spec in each.specs]


def has_published(line: Line) -> bool:
    """Whether the paper prints a figure for the row."""
    return line.published.figure is not None or line.published.gain is not None


def counted(numbers: Sequence[int], noun: str) -> str:
    """Each number once, with the noun: `1 epoch`, `5 and 10 epochs`."""
    different = sorted(set(numbers))
    return f"{listed(map(str, different))} {noun}{'' if different == [1] else 's'}"


def listed(words: Iterable[str], last: str = "and") -> str:
    """Each word once: `a, b and c`."""
    *others, final = dict.fromkeys(words)
    return f"{', '.join(others)} {last} {final}" if others else final


def _seeds(specs: Sequence[Spec]) -> str:
    seeds = sorted({spec.seed for spec in specs})
    if len(seeds) > 2 and seeds[-1] - seeds[0] == len(seeds) - 1:
        return f"seeds {seeds[0]} to {seeds[-1]}"
    return f"seed{'s' * (len(seeds) > 1)} {listed(map(str, seeds))}"
