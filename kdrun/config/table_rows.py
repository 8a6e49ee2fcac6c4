"""The rows of a table, composed with the user's overrides and checked: their runs, controls and derived rows."""

from __future__ import annotations

import dataclasses
from collections.abc import Iterator, Sequence, Set
from pathlib import Path
from typing import TYPE_CHECKING

from omegaconf import DictConfig
from tqdm import tqdm

from kdrun.config.compose import ConfigError, compose_job
from kdrun.config.evaluations import unfit
from kdrun.config.preflight import Job, check_job
from kdrun.spec.signature import unknown
from kdrun.spec.spec import Spec
from kdrun.tables import Definition, Entry, Row
from kdrun.tables.controls import CONTROLS, rescaled

if TYPE_CHECKING:
    from kdrun.experiment.evaluations import NamedEvaluation

OF_ROWS = ("student", "teacher", "method")
"""Nodes that differ from row to row."""

METHOD = "method."


class UserOverrides:
    """The user's overrides, applied to each row.

    Options of methods (`method.X=...`) go to the rows whose method has them; everything else goes to every row.
    """

    def __init__(self, overrides: Sequence[str], extra: Path | None) -> None:
        self._typed = tuple(overrides)
        self._general = [text for text in overrides if not text.startswith(METHOD)]
        self._options = [text for text in overrides if text.startswith(METHOD)]
        self._extra = extra
        self._taken: set[str] = set()
        self._known_options: set[str] = set()

    def check_general(self, definition: Definition, problems: list[str]) -> Job | None:
        """Composes and checks the overrides that apply to every row; faulty ones are problems and are left out.

        They are checked with the first row's student, which takes the table's kind of data, and without a teacher.
        """
        general = [text for text in self._general if not text.lstrip("+~").startswith(OF_ROWS)]
        first = next((row.overrides for row in definition.rows if row.overrides), ())
        alone = [text for text in (*definition.overrides, *first) if not text.startswith(("teacher", "method"))]
        config = compose_job(_merged("method=ce", *alone, *general), problems, extra=self._extra)
        self._general = [text for text in self._general if not any(said.startswith(f"{text}:") for said in problems)]
        try:
            return self.check(config)
        except ConfigError as error:
            problems += error.problems
            return None

    def compose(self, definition: Definition, row: Row, problems: list[str]) -> DictConfig:
        """A row's config; of several overrides of one key the last is used, and the user's come last.

        The row's own recipe is ignored with another dataset, and for keys that the user sets. A recipe key that the
        user sets applies to teachers too, even if a row sets it for its teacher: so a row that is the teacher of
        others stays their teacher.
        """
        keys = {key_of(text) for text in self._general}
        recipe = [text for text in row.recipe if not {"dataset", key_of(text).removeprefix("teacher.")} & keys]
        fixed = [
            text
            for text in (*definition.overrides, *row.overrides)
            if not (text.startswith("teacher.recipe.") and key_of(text).removeprefix("teacher.") in keys)
        ]
        overrides = _merged(*fixed, *recipe, *self._general)
        faults: list[str] = []
        config = compose_job(overrides, faults, extra=self._extra)
        options = {str(name) for name in config.method if name != "_target_"}
        taken = [text for text in self._options if key_of(text).split(".")[1] in options]
        self._known_options |= options
        self._taken.update(taken)
        if taken:
            return compose_job(_merged(*overrides, *taken), problems, extra=self._extra)
        problems += faults
        return config

    def check(self, config: DictConfig) -> Job:
        """A config's checked job."""
        return check_job(config, self._typed)

    def sets(self, key: str) -> bool:
        """Whether the user gives a value for a key."""
        return any(key_of(text) == key for text in self._typed)

    def untaken(self) -> list[str]:
        """A problem for each option that no row's method has."""
        return [
            f"{text}: {unknown(key_of(text).split('.')[1], self._known_options, 'option of any row')}"
            for text in self._options
            if text not in self._taken
        ]


def checked_rows(
    definition: Definition,
    user: UserOverrides,
    num_seeds: int,
    shown: Set[str],
    problems: list[str],
    *,
    evaluations: Sequence[NamedEvaluation] = (),
) -> tuple[list[Entry], dict[str, Job]]:
    """Every row with its specs, each followed by its controls; and the jobs.

    Args:
        definition: with the rows to compose.
        user: the user's overrides.
        num_seeds: of each row.
        shown: names of the rows and controls that the table shows.
        problems: found before.
        evaluations: of the table.

    Raises:
        ConfigError: with these problems, and each further one with its row.
    """
    entries: list[Entry] = []
    jobs: dict[str, Job] = {}
    faults: dict[str, list[str]] = {}
    for row in tqdm(definition.rows, desc="checking rows", delay=1, leave=False, disable=None):
        if definition.unavailable or row.unavailable:
            entries.append(Entry(row))
            continue
        if row.derived is not None:
            continue
        try:
            found = list(_row_jobs(definition, row, user, num_seeds))
        except ConfigError as error:
            for text in error.problems:
                faults.setdefault(text, []).append(row.name)
            continue
        misfits = [f"evaluations: {text}" for text in unfit(evaluations, found[0].spec.dataset)]
        for text in (*_unknown_classes(row, found[0].spec), *misfits):
            faults.setdefault(text, []).append(row.name)
        own = Entry(row, tuple(job.spec for job in found))
        for entry, members in [(own, found), *_controls(definition, row, found)]:
            entries.append(entry)
            jobs.update({job.spec.run_id: job for job in members})
    if not (problems or faults):
        entries = _with_derived(definition, entries, jobs, faults)
    problems += _unfit_figures(definition, [entry for entry in entries if entry.row.name in shown])
    for text, (first, *more) in faults.items():
        if text not in problems:
            problems.append(f"row {first}{f' and {len(more)} more' if more else ''}: {text}")
    problems += user.untaken()
    if problems:
        raise ConfigError(problems)
    return [dataclasses.replace(entry, named_evaluations=tuple(evaluations)) for entry in entries], jobs


def _with_derived(
    definition: Definition, entries: Sequence[Entry], jobs: dict[str, Job], faults: dict[str, list[str]]
) -> list[Entry]:
    """The entries with the derived rows in their places.

    Args:
        definition: the table.
        entries: of all other rows.
        jobs: theirs; jobs of teachers that a derived row uses are added.
        faults: problems with the names of their rows; further ones are added.
    """
    by_name = {entry.row.name: entry for entry in entries}
    whole = []
    for row in definition.rows:
        if row.derived is None or definition.unavailable:
            whole += [each for each in entries if row.name == each.row.owner]
            continue
        parts = [by_name[name].specs for name in row.derived.rows]
        try:
            derived = tuple(row.derived.of_a_seed(specs) for specs in zip(*parts, strict=True))
        except ValueError as error:
            for text in str(error).splitlines():
                faults.setdefault(f"derived: {text}", []).append(row.name)
            continue
        own = jobs[parts[0][0].run_id]
        for text in _unknown_classes(row, own.spec):
            faults.setdefault(text, []).append(row.name)
        for spec in (spec for each in derived for spec in each.specs):
            jobs.setdefault(spec.run_id, dataclasses.replace(own, spec=spec, config=None))
        whole.append(Entry(row, derived=derived))
    return whole


def _unfit_figures(definition: Definition, entries: Sequence[Entry]) -> list[str]:
    """A problem for each reason why a figure cannot show the rows' runs."""
    problems = []
    for figure in definition.figures:
        try:
            figure.needs(entries)
        except ValueError as error:
            problems += [f"figures: {figure.name}: {line}" for line in str(error).splitlines()]
    return problems


def _unknown_classes(row: Row, spec: Spec) -> list[str]:
    """A problem if a row's `errors_on` has classes that its dataset does not have."""
    classes = spec.dataset.num_classes
    if all(0 <= name < classes for name in row.errors_on):
        return []
    return [f"errors_on={list(row.errors_on)}: must be class indices from 0 to {classes - 1}"]


def _row_jobs(definition: Definition, row: Row, user: UserOverrides, num_seeds: int) -> Iterator[Job]:
    """The row's run for each seed.

    Raises:
        ConfigError: with every problem of the row.
    """
    problems: list[str] = []
    config = user.compose(definition, row, problems)
    config.seed = 0
    try:
        first = user.check(config)
    except ConfigError as error:
        problems += error.problems
    if problems:
        raise ConfigError(problems)
    published = definition.num_classes or first.spec.dataset.num_classes
    if published != first.spec.dataset.num_classes:  # the options that keep the published weights in the loss
        options = rescaled(first.spec, published, first.spec.dataset.num_classes)
        changes = {name: value for name, value in options.items() if not user.sets(f"{METHOD}{name}")}
        if changes:
            config.method.update(changes)
            first = user.check(config)
    yield first
    for seed in range(1, num_seeds):
        config.seed = seed
        yield user.check(config)


def _controls(definition: Definition, row: Row, jobs: Sequence[Job]) -> Iterator[tuple[Entry, list[Job]]]:
    """The controls of a row that apply to it."""
    for name in definition.controls:
        specs = [spec for job in jobs if (spec := CONTROLS[name](job.spec)) is not None]
        if specs:
            members = [dataclasses.replace(job, spec=spec, config=None) for job, spec in zip(jobs, specs, strict=True)]
            yield Entry(control_row(row, name), tuple(specs)), members


def control_row(row: Row, name: str) -> Row:
    return Row(f"{row.name}/{name}", baseline=row.baseline)


def _merged(*overrides: str) -> list[str]:
    """Overrides with one for each key, the last."""
    return list({key_of(text): text for text in overrides}.values())


def key_of(text: str) -> str:
    return text.partition("=")[0]
