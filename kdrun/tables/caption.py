"""The sentences above and below a paper's table: what was run, what stands where, and what it can show."""

from __future__ import annotations

import math
from collections.abc import Iterator, Mapping, Sequence
from pathlib import Path

from kdrun.experiment.evaluations import Evaluation
from kdrun.metrics import ECE_BINS
from kdrun.spec.components import all_options
from kdrun.spec.spec import Spec
from kdrun.tables import Definition, Row
from kdrun.tables.compare import Line, baseline_of
from kdrun.tables.contrasts import Contrast
from kdrun.tables.controls import divided_by_classes, objective
from kdrun.tables.labels import counted, has_published, listed, scale_of
from kdrun.tables.noise import pairing, what_differences_are, what_it_can_show


def caption(
    definition: Definition,
    lines: Sequence[Line],
    contrasts: Sequence[Contrast],
    *,
    published: bool,
    elsewhere: Path | None,
) -> list[str]:
    """The sentences that a reader needs beside the figures, a paragraph each.

    Args:
        definition: the table.
        lines: those that are shown.
        contrasts: their further differences.
        published: whether the paper's figures are shown.
        elsewhere: where published results of runs lie.
    """
    return [
        *_how_it_was_run(definition, lines),
        *_what_is_there(lines, elsewhere),
        *_what_the_losses_are(definition, lines),
        *_what_stands_where(definition, lines, published=published),
        *what_differences_are(contrasts),
        *what_it_can_show(definition, lines, contrasts),
        *_what_is_shown_once(lines),
        *(definition.notes if published or not definition.has_published else ()),
    ]


def _how_it_was_run(definition: Definition, lines: Sequence[Line]) -> Iterator[str]:
    if definition.unavailable:
        yield f"Published figures only: {definition.unavailable}."
    if any(line.entry.asked for line in lines):
        yield f"Runs: {scale_of(lines)}."
    others: dict[str, str] = {}
    for line in lines:
        baseline = baseline_of(line, lines)
        if baseline is None or not (line.entry.specs and baseline.entry.specs):
            continue
        own, its = (entry.specs[0].recipe.batch_size for entry in (line.entry, baseline.entry))
        if own != its:
            others[_without_control(line.entry.row)] = f"{own}, baseline {its}"
    if others:
        rows = listed(f"{name} ({sizes})" for name, sizes in others.items())
        yield f"Rows of another batch size than their baseline: {rows}."


def _what_is_there(lines: Sequence[Line], elsewhere: Path | None) -> Iterator[str]:
    """How many runs are finished, and how many of them come from elsewhere."""
    derived = [line for line in lines if line.entry.derived]
    lines = [line for line in lines if not line.entry.derived]
    asked, missing = sum(line.entry.asked for line in lines), sum(line.missing for line in lines)
    reasons = "(not run, failed or interrupted)"
    if missing and missing == asked:
        yield f"Nothing is finished: {_runs(missing)} {'is' if missing == 1 else 'are'} missing {reasons}."
    elif missing:
        verb = "is" if missing == 1 else "are"
        yield f"{missing} of {_runs(asked)} {verb} missing {reasons}; means are over the others."
    taken = sum(published_runs(line, elsewhere) for line in lines)
    if taken:
        what = "is a published result" if taken == 1 else "are published results"
        yield f"{taken} of {_runs(asked)} {what} from {elsewhere}."
    without = [line.entry.row.name for line in derived if line.missing]
    if without:
        yield f"Not all is computed of {listed(without)}: it takes the weights of its runs."


def published_runs(line: Line, elsewhere: Path | None) -> int:
    """How many of a row's finished runs lie in a directory of published results."""
    return sum(elsewhere is not None and run.directory.is_relative_to(elsewhere) for run in line.runs.values())


def _what_the_losses_are(definition: Definition, lines: Sequence[Line]) -> Iterator[str]:
    specs = [spec for line in lines for spec in line.entry.specs]
    losses = {objective(spec) for spec in specs}
    if any("KL" in loss for loss in losses):
        square = "; T² as in Hinton et al. 2015" if any("T²" in loss for loss in losses) else ""
        yield (
            "Objective: KL is per image (batchmean), its weight as it counts (alpha m / K where the loss averages "
            f"over classes){square}."
        )
    classes = sorted({spec.dataset.num_classes for spec in specs if divided_by_classes(spec.method)})
    if definition.num_classes is not None and classes and _keeps_weights(definition, lines):
        yield (
            f"The loss divides the KL by K: multipliers are m K/{definition.num_classes} "
            f"(K={listed(map(str, classes))}), so that the effective weights are the published ones."
        )


def _keeps_weights(definition: Definition, lines: Sequence[Line]) -> bool:
    """Whether every row's multiplier is the published one times K / K_paper, at another K than the paper's.

    It is not where the user has set it.
    """
    rows = [line.entry for line in lines if line.entry.specs and line.entry.row.control is None]
    pairs = [(entry, entry.specs[0]) for entry in rows if divided_by_classes(entry.specs[0].method)]
    for entry, spec in pairs:
        typed = dict(text.split("=", 1) for text in (*definition.overrides, *entry.row.overrides))
        kept = float(typed.get("method.multiplier", 1)) * spec.dataset.num_classes / (definition.num_classes or 1)
        if spec.dataset.num_classes == definition.num_classes or not math.isclose(kept, _multiplier(spec)):
            return False
    return bool(pairs)


def _multiplier(spec: Spec) -> float:
    multiplier: float = all_options(spec.method)["multiplier"]
    return multiplier


def _what_stands_where(definition: Definition, lines: Sequence[Line], *, published: bool) -> Iterator[str]:
    several = any(line.last is not None and line.last.n > 1 for line in lines)
    if any(line.last for line in lines):
        spread = ", mean ± sample deviation over the seeds" if several else ""
        fewer = definition.measure == "errors"
        what = "Errors: how many test images are wrong" if fewer else "Top-1 on the test set in percent"
        yield (
            f"{what}{spread}. The last epoch is the headline; "
            '"best on test" is of the epoch that is best on the test set, an optimistic figure.'
        )
    if any(line.difference_last for line in lines):
        sign = "; fewer errors are negative" if definition.measure == "errors" else ""
        yield (
            '"Δ last" and "Δ best on test": a row less the baseline of the same student'
            f"{pairing([line.difference_last for line in lines])}{', mean ± standard error' if several else ''}{sign}."
        )
        apart = [line.entry.row.name for line in lines if line.difference_last and line.difference_last.pairs is None]
        if apart:
            yield (
                f"Not paired by seed, since their runs have other seeds than the baseline's: {listed(apart)}; Δ is the "
                "difference of the means, with Welch's standard error."
            )
    shown = [line for line in lines if has_published(line)]
    if shown and not published:
        yield "The paper's figures are left out: these runs are not of its scale."
    elif shown:
        yield from _what_is_published(definition, shown)
    yield from _what_is_beside(definition, lines, published=published)
    if any(line.teacher for line in lines):
        brackets = "; in brackets as published" if published and any(_published_teacher(line) for line in lines) else ""
        what = "errors" if definition.measure == "errors" else "top-1"
        yield f'"teacher": {what} of the teachers, each at its last epoch{brackets}.'


def _what_is_beside(definition: Definition, lines: Sequence[Line], *, published: bool) -> Iterator[str]:
    """The columns that a definition asks for."""
    if "ensemble" in definition.columns and any(line.ensemble for line in lines):
        printed = published and any(line.entry.row.published.ensemble for line in lines)
        brackets = "; in brackets as published" if printed else ""
        what = "errors" if definition.measure == "errors" else "top-1"
        yield f'"ensemble": {what} of the mean of the probabilities of a row\'s runs{brackets}.'
    if any(line.selected for line in lines):
        yield '"selected on val": on the test set, of the epoch that is best on the validation images (early stopping).'
    if any(line.train_top1 for line in lines):
        yield '"train top-1": of the last epoch on its training views, in training mode, while the weights changed.'
    if any(line.errors_on for line in lines):
        brackets = "; in brackets as published" if published and any(_errors_published(line) for line in lines) else ""
        yield f'"errors on ...": how many test images of these classes are wrong at the last epoch{brackets}.'
    for name, meaning in _figures(lines).items():
        yield f'"{name}": {meaning}.'
    evaluations = _evaluations(lines)
    if evaluations:
        what = "; ".join(f'"{name}": {evaluation.what}' for name, evaluation in evaluations.items())
        brackets = ", in brackets as published" if published and any(_figures_published(line) for line in lines) else ""
        yield f"Evaluations of the finished runs, at their last epoch{brackets}: {what}. ECE has {ECE_BINS} bins."
        shown = {name.partition(" ")[2] for line in lines for name in line.figures}
        meanings = {name: text for evaluation in evaluations.values() for name, text in evaluation.meanings.items()}
        yield from (f'"{name}": {meaning}.' for name, meaning in meanings.items() if name in shown)
    if "teacher_confidence" in definition.columns and any(line.teacher_confidence for line in lines):
        yield '"its confidence": the mean over the test images of the teacher\'s largest probability.'
    if any(line.shares for line in lines):
        yield (
            '"gradient %": the share of each weighted term in the gradient of the student\'s parameters, '
            "|g_i| / Σ |g_j|, on the first batch of the last epoch (of the last stage with several terms), mean over "
            "the seeds."
        )
    if "seconds" in definition.columns and any(line.seconds for line in lines):
        share = "; in lockstep a student's own steps and an even share of the rest"
        yield f'"s / epoch": of training, without evaluation{share}.'
    if "extra_params" in definition.columns:
        yield '"learned beside": parameters that a method learns beside the student, and that are not delivered.'


def _what_is_published(definition: Definition, lines: Sequence[Line]) -> Iterator[str]:
    count = f", over {definition.runs} runs" if definition.runs else " (it does not say over how many runs)"
    compare = '; those of its best epoch compare with "best on test"' if any(line.last for line in lines) else ""
    if not all(line.entry.row.departs for line in lines):
        yield f'"published": the paper\'s figures{count}{compare}.'
    yield from _where_it_departs(lines, count)
    if any(line.difference_published is not None for line in lines):
        alone = any(line.entry.row.published.figure is None for line in lines)
        gain = "; where the paper prints only a gain (in brackets), that gain" if alone else ""
        figure = "count" if definition.measure == "errors" else "accuracy"
        yield f'"Δ published": the published {figure} less the published baseline{gain}.'


def _where_it_departs(lines: Sequence[Line], count: str) -> Iterator[str]:
    """In what published figures are of another setting than our runs; rows of one reason together."""
    reasons: dict[str, list[str]] = {}
    for line in lines:
        reasons.setdefault(line.entry.row.departs, []).append(line.entry.row.name)
    for text, names in reasons.items():
        if text:
            which = count if len(reasons) == 1 else f" of {listed(names)}"
            what = '"published for another setting" (†): the paper\'s figures'
            yield f"{what}{which}; the levels do not compare with ours: {text}."


def _what_is_shown_once(lines: Sequence[Line]) -> Iterator[str]:
    """Rows that are the same runs as another one, and where the controls stand that do not follow their row."""
    repeated = {name for line in lines for name in line.entry.same_as}
    same: dict[str, list[str]] = {}
    controls: dict[str, dict[str, list[str]]] = {}
    for line in lines:
        place = line.entry.row
        for row in map(Row, line.entry.same_as):
            owner = _without_control(row)
            if row.control is None:
                same.setdefault(place.name, []).append(row.name)
            elif owner in repeated:
                continue  # its row's own sentence says it for the controls too
            elif place.control == row.control:
                controls.setdefault(_without_control(place), {}).setdefault(owner, []).append(row.control)
            else:
                same.setdefault(place.name, []).append(row.name)
    for name, names in same.items():
        yield f"{listed(names)} {'are' if len(names) > 1 else 'is'} the same runs as {name}."
    for name, members in controls.items():
        yield _where_controls_stand(name, members)


def _where_controls_stand(place: str, controls: Mapping[str, Sequence[str]]) -> str:
    """Of each row the controls that are those of the row `place`; rows that lack the same ones together."""
    rows: dict[tuple[str, ...], list[str]] = {}
    for row, names in controls.items():
        rows.setdefault(tuple(names), []).append(row)
    follow = "it" if len(controls) == 1 else "them"
    if len(rows) == 1:
        ((names, owners),) = rows.items()
        return f"Controls of {listed(owners)} that do not follow {follow} ({', '.join(names)}) are those of {place}."
    parts = " and ".join(f"of {listed(owners)} ({', '.join(names)})" for names, owners in rows.items())
    return f"Controls {parts} that do not follow {follow} are those of {place}."


def _without_control(row: Row) -> str:
    """The name of a row, or of the row that a control belongs to."""
    return row.name if row.control is None else row.name.removesuffix(f"/{row.control}")


def _runs(number: int) -> str:
    return counted([number], "run")


def footnotes(lines: Sequence[Line], *, shown: bool) -> dict[str, int]:
    """Numbers of the notes under the table, by text: doubts about published figures, and why a row has no runs."""
    texts = [text for line in lines for text in notes_of(line, shown=shown)]
    return {text: number for number, text in enumerate(dict.fromkeys(texts), start=1)}


def notes_of(line: Line, *, shown: bool) -> list[str]:
    """The notes of one row; none where published figures are left out, since they are of these."""
    row = line.entry.row
    if not shown:
        return []
    return [text for text in (row.note, f"not run: {row.unavailable}" if row.unavailable else "") if text]


def _errors_published(line: Line) -> bool:
    return line.entry.row.published.errors_on is not None


def _figures(lines: Sequence[Line]) -> dict[str, str]:
    """What derived rows find beside the metrics, by name, and what it is."""
    return {name: each.figures[name] for line in lines for each in line.entry.derived[:1] for name in line.figures}


def _evaluations(lines: Sequence[Line]) -> dict[str, Evaluation]:
    """The evaluations that any row has a figure of, by name."""
    found = (each for line in lines for each in line.entry.named_evaluations)
    named = {each.name: each.evaluation for each in found}
    shown = [name for line in lines for name in line.figures]
    return {name: each for name, each in named.items() if any(column.startswith(f"{name} ") for column in shown)}


def _figures_published(line: Line) -> bool:
    return bool(line.entry.row.published.figures)


def _published_teacher(line: Line) -> bool:
    return line.entry.row.published.teacher_top1 is not None
