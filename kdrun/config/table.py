"""From the name of a table to its checked runs: rows times seeds, and the controls that follow from them."""

from __future__ import annotations

import dataclasses
import itertools
import math
import re
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path

import yaml
from omegaconf import DictConfig, OmegaConf
from omegaconf.errors import OmegaConfBaseException
from tqdm import tqdm

from kdrun.config.compose import ConfigError, compose_job, expand, hydra_session
from kdrun.config.preflight import Job, check_job
from kdrun.experiment.components import all_options
from kdrun.experiment.signature import unknown
from kdrun.experiment.spec import Spec
from kdrun.tables import Definition, Entry, Published, Row, TableError, read_definition, select
from kdrun.tables.controls import CONTROLS, divided_by_classes
from kdrun.tables.definition import without_repetition

CHOSEN_BY_ROWS = ("student", "teacher", "method", "experiment", "seed", "teacher.stop_epoch")
"""What a user cannot override in a table: it is what the rows, or --seeds, are for."""

OF_ROWS = ("student", "teacher", "method")
"""Nodes that differ from row to row."""

METHOD = "method."

HARMLESS = ("runtime.", "dataset.root")
"""Overrides that leave a run what the paper describes: beside any other, published figures are not shown."""


@dataclass(frozen=True)
class ComposedTable:
    """A table whose runs have been checked.

    Attributes:
        definition: what it says.
        entries: what is shown, controls and seeds included.
        jobs: the runs, by run_id.
        shared: where they compute and write, which is the same for all; its own run is none of the table's.
        published: whether the runs are the paper's, so that published figures stand beside them.
    """

    definition: Definition
    entries: list[Entry]
    jobs: Mapping[str, Job]
    shared: Job
    published: bool


def table_directory() -> Path:
    """Where the shipped definitions lie."""
    return Path(__file__).resolve().parents[1] / "tables"


def table_names() -> list[str]:
    """The shipped tables, in the order of their numbers."""
    return sorted((path.stem for path in table_directory().glob("*.yaml")), key=_by_number)


def load_table(name: str) -> Definition:
    """A shipped table by its name, or one's own by the path of its YAML file.

    Raises:
        ConfigError: no such table, or with every problem of its definition.
    """
    own = name.endswith((".yaml", ".yml"))
    path = Path(name) if own else table_directory() / f"{name}.yaml"
    if own and not path.is_file():
        raise ConfigError([f"{name}: no such file"])
    if not path.is_file():
        raise ConfigError([f"table {name}: {unknown(name, table_names(), 'table')} (or the path of a .yaml file)"])
    try:
        values = OmegaConf.to_container(OmegaConf.load(path), resolve=True)
        definition = read_definition(path.stem, values)
    except (OmegaConfBaseException, yaml.YAMLError, OSError) as error:
        raise ConfigError([f"{path}: {' '.join(str(error).split())}"]) from error
    except TableError as error:
        raise ConfigError([f"{path}: {problem}" for problem in error.problems]) from error
    return _with_included(definition) if definition.include else definition


def compose_table(
    definition: Definition,
    overrides: Sequence[str],
    *,
    num_seeds: int,
    patterns: Sequence[str] = (),
    extra: Path | None = None,
) -> ComposedTable:
    """Composes and checks every run of a table.

    Args:
        definition: the table.
        overrides: the user's, on every row.
        num_seeds: the seeds are 0, 1, ..., at least one.
        patterns: which rows, see `kdrun.tables.select`.
        extra: a config tree of the user's own.

    Raises:
        ConfigError: with every problem of every row.
    """
    problems: list[str] = []
    if num_seeds < 1:
        problems.append(f"--seeds {num_seeds}: must be at least 1")
    if definition.unavailable and _harmless(overrides) != list(overrides):
        problems.append(f"table {definition.name} is of published figures only: {definition.unavailable}")
    with hydra_session():
        (typed,) = expand(overrides, multirun=False, problems=problems, one_value="a table takes one value")
        taken = [text for text in typed if _key(text) in CHOSEN_BY_ROWS]
        problems += [f"{text}: cannot be given, it is for the rows to say" for text in taken if _key(text) != "seed"]
        problems += [f"{text}: the seeds of a table are --seeds N, from 0 on" for text in taken if _key(text) == "seed"]
        user = _User([text for text in typed if text not in taken], extra)
        shared = user.check_general(definition.overrides, problems)
        try:
            names, rows = _asked(definition, patterns)
            narrowed = dataclasses.replace(definition, rows=rows)
            entries, jobs = _checked(narrowed, user, max(1, num_seeds), problems)
        except TableError as error:
            raise ConfigError([*dict.fromkeys((*problems, *error.problems))]) from error
    assert shared is not None, "its problems have been raised"
    chosen = without_repetition([entry for entry in entries if entry.row.name in names])
    if not chosen:  # a control's name that its row does not have
        raise ConfigError([f"--rows {','.join(patterns)}: this control does not apply to its row"])
    return ComposedTable(
        definition=definition,
        entries=chosen,
        jobs={spec.run_id: jobs[spec.run_id] for entry in chosen for spec in entry.specs},
        shared=shared,
        published=len(_harmless(overrides)) == len(overrides),
    )


class _User:
    """What the user typed, laid over each row.

    Options of methods (`method.X=...`) go to the rows whose method has them; everything else goes to every row.
    """

    def __init__(self, overrides: Sequence[str], extra: Path | None) -> None:
        self._typed = tuple(overrides)
        self._general = [text for text in overrides if not text.startswith(METHOD)]
        self._options = [text for text in overrides if text.startswith(METHOD)]
        self._extra = extra
        self._fitting: set[str] = set()
        self._taken: set[str] = set()
        self._known_options: set[str] = set()

    def check_general(self, table: Sequence[str], problems: list[str]) -> Job | None:
        """Composes and checks once what does not hang on a row; what cannot be composed is told and left out."""
        general = [text for text in self._general if not text.lstrip("+~").startswith(OF_ROWS)]
        config = self._compose(_merged(*table, *general), problems)
        self._general = [text for text in self._general if not any(said.startswith(f"{text}:") for said in problems)]
        try:
            return self.check(config)
        except ConfigError as error:
            problems += error.problems
            return None

    def compose(self, definition: Definition, row: Row, problems: list[str]) -> DictConfig:
        """A row's config; of several overrides for one key the last holds, and the user's come last.

        What the published run has other than its dataset's recipe is left out with another dataset, and where the
        user sets the same thing (for a teacher, too: it follows).
        """
        keys = {_key(text) for text in self._general}
        recipe = [text for text in row.recipe if not {"dataset", _key(text).removeprefix("teacher.")} & keys]
        overrides = _merged(*definition.overrides, *row.overrides, *recipe, *self._general)
        faults: list[str] = []
        config = self._compose(overrides, faults)
        options = {str(name) for name in config.method if name != "_target_"}
        taken = [text for text in self._options if _key(text).split(".")[1] in options]
        self._known_options |= options
        self._taken.update(taken)
        if taken:
            return self._compose(_merged(*overrides, *taken), problems)
        problems += faults
        return config

    def check(self, config: DictConfig) -> Job:
        """A config's checked job."""
        return check_job(config, self._typed, self._fitting)

    def sets(self, key: str) -> bool:
        """Whether the user gives a value for a key."""
        return any(_key(text) == key for text in self._typed)

    def untaken(self) -> list[str]:
        """A problem for each option that no row's method has."""
        return [
            f"{text}: {unknown(_key(text).split('.')[1], self._known_options, 'option of any row')}"
            for text in self._options
            if text not in self._taken
        ]

    def _compose(self, overrides: Sequence[str], problems: list[str]) -> DictConfig:
        return compose_job(overrides, problems, extra=self._extra)


def _checked(
    definition: Definition, user: _User, num_seeds: int, problems: list[str]
) -> tuple[list[Entry], dict[str, Job]]:
    """Every row with its specs, each followed by its controls; and the jobs.

    Raises:
        ConfigError: the `problems` known so far, and each further one with its row.
    """
    entries: list[Entry] = []
    jobs: dict[str, Job] = {}
    faults: dict[str, list[str]] = {}
    for row in tqdm(definition.rows, desc="checking rows", leave=False, disable=None):
        if definition.unavailable or row.unavailable:
            entries.append(Entry(row))
            continue
        try:
            found = list(_row_jobs(definition, row, user, num_seeds))
        except ConfigError as error:
            for text in error.problems:
                faults.setdefault(text, []).append(row.name)
            continue
        own = Entry(row, tuple(job.spec for job in found))
        for entry, members in [(own, found), *_controls(definition, row, found)]:
            entries.append(entry)
            jobs.update({job.spec.run_id: job for job in members})
    for text, (first, *more) in faults.items():
        if text not in problems:
            problems.append(f"row {first}{f' and {len(more)} more' if more else ''}: {text}")
    problems += user.untaken()
    if problems:
        raise ConfigError(problems)
    return entries, jobs


def _asked(definition: Definition, patterns: Sequence[str]) -> tuple[set[str], tuple[Row, ...]]:
    """The names that patterns ask for, of controls that may not apply too, and the rows to compose for them.

    Raises:
        TableError: a pattern matches nothing.
    """
    controls = {row.name: [_control(row, name) for name in definition.controls] for row in definition.rows}
    names = {row.name for row in select([*definition.rows, *itertools.chain(*controls.values())], patterns)}
    wanted = [row for row in definition.rows if {row.name, *(each.name for each in controls[row.name])} & names]
    return names, tuple(wanted)


def _row_jobs(definition: Definition, row: Row, user: _User, num_seeds: int) -> Iterator[Job]:
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
    multiplier = _multiplier(first.spec, definition)
    if multiplier is not None and not user.sets("method.multiplier"):
        config.method.multiplier = multiplier
        first = user.check(config)
    yield first
    for seed in range(1, num_seeds):
        config.seed = seed
        yield user.check(config)


def _multiplier(spec: Spec, definition: Definition) -> float | None:
    """At another number of classes than the paper's: m K / K_paper, which keeps the weights in the loss."""
    classes = spec.dataset.num_classes
    if definition.num_classes in (None, classes) or not divided_by_classes(spec.method):
        return None
    multiplier: float = all_options(spec.method)["multiplier"]
    return multiplier * classes / definition.num_classes


def _controls(definition: Definition, row: Row, jobs: Sequence[Job]) -> Iterator[tuple[Entry, list[Job]]]:
    """The controls of a row that apply to it."""
    for name in definition.controls:
        specs = [spec for job in jobs if (spec := CONTROLS[name](job.spec)) is not None]
        if specs:
            members = [dataclasses.replace(job, spec=spec, config=None) for job, spec in zip(jobs, specs, strict=True)]
            yield Entry(_control(row, name), tuple(specs)), members


def _control(row: Row, name: str) -> Row:
    return Row(f"{row.name}/{name}", baseline=row.baseline)


def _with_included(definition: Definition) -> Definition:
    """A table that collects others: their rows with controls, and the baselines; published figures stay with them.

    A row that stands in several of them (as in tables 1 and 9 of Tf-KD) is the same run, and is taken once.

    Raises:
        ConfigError: no such table, or tables whose published runs differ in their number of classes.
    """
    parts = [load_table(name) for name in definition.include]
    (num_classes, *others) = dict.fromkeys(part.num_classes for part in parts)
    if others:
        raise ConfigError([f"table {definition.name}: include: the tables must share one num_classes"])
    rows: dict[str, Row] = {}
    for part in parts:
        for row in part.rows:
            if row.kind != "lsr" and not row.unavailable:
                overrides = (*part.overrides, *row.overrides)
                rows.setdefault(row.name, dataclasses.replace(row, overrides=overrides, published=Published(), note=""))
    controls = tuple(dict.fromkeys(name for part in parts for name in part.controls))
    return dataclasses.replace(definition, rows=tuple(rows.values()), controls=controls, num_classes=num_classes)


def _merged(*overrides: str) -> list[str]:
    """Overrides with one for each key, the last."""
    return list({_key(text): text for text in overrides}.values())


def _key(text: str) -> str:
    return text.partition("=")[0]


def _harmless(overrides: Sequence[str]) -> list[str]:
    return [text for text in overrides if text.startswith(HARMLESS)]


def _by_number(name: str) -> tuple[float, str]:
    number = re.search(r"_t(\d+)", name)
    return (float(number[1]) if number else math.inf, name)
