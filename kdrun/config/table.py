"""From the name of a table to its checked runs: rows times seeds, and the controls that follow from them."""

from __future__ import annotations

import dataclasses
import itertools
import math
import os
import re
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path

import yaml
from omegaconf import OmegaConf
from omegaconf.errors import OmegaConfBaseException

from kdrun.config.command_line import MOST_JOBS, expand
from kdrun.config.compose import ConfigError, hydra_session
from kdrun.config.composition import papers_directory
from kdrun.config.evaluations import evaluations_of_table
from kdrun.config.preflight import Job
from kdrun.config.table_rows import UserOverrides, checked_rows, control_row, key_of
from kdrun.config.yaml_files import parse_yaml, read_yaml_text, restart_resolving
from kdrun.experiment.evaluations import NamedEvaluation
from kdrun.spec.signature import unknown
from kdrun.tables import Definition, Entry, Row, TableError, read_definition, select
from kdrun.tables.definition import with_baselines
from kdrun.tables.entry import without_repetition
from kdrun.tables.figures import figure_problems

CHOSEN_BY_ROWS = ("student", "teacher", "method", "experiment", "seed", "start", "evaluation", "teacher.stop_epoch")
"""Keys that a user cannot override in a table: they are set by the rows, or by --seeds."""

MOST_SEEDS = 1_000

HARMLESS = ("runtime.", "dataset.root")
"""Overrides with which a run is still the paper's; with any other, published figures are not shown."""


@dataclass(frozen=True)
class ComposedTable:
    """A table whose runs have been checked.

    Attributes:
        definition: of the table.
        entries: the rows shown, with controls and seeds.
        jobs: the runs by run_id, those of derived rows included.
        shared: a job with the runtime of all runs; its own run is not part of the table.
        evaluations: of the finished runs.
        published: whether the runs are the paper's, so that published figures stand beside them.
    """

    definition: Definition
    entries: list[Entry]
    jobs: Mapping[str, Job]
    shared: Job
    evaluations: tuple[NamedEvaluation, ...]
    published: bool


def shipped_tables() -> dict[str, Path]:
    """The tables in the papers' folders by name, in the order of their numbers."""
    files = {path.stem: path for path in papers_directory().glob("*/*.yaml")}
    return {name: files[name] for name in sorted(files, key=_by_number)}


def load_table(name: str, known: dict[Path, Definition | None] | None = None) -> Definition:
    """A shipped table by its name, or the user's by the path of its YAML file.

    Args:
        name: or path.
        known: tables read before, by path; None for those whose `include` is being read.

    Raises:
        ConfigError: no such table, a table that includes itself, or with every problem of its definition.
    """
    known = {} if known is None else known
    own = name.endswith((".yaml", ".yml"))
    shipped = {} if own else shipped_tables()
    path = Path(name) if own else shipped.get(name)
    if path is None:
        raise ConfigError([f"table {name}: {unknown(name, shipped, 'table')} (or the path of a .yaml file)"])
    if not os.path.isfile(path):
        raise ConfigError([f"{name}: no such file"])
    if path.stem in (".", ".."):
        raise ConfigError([f"{name}: its name without .yaml is that of its directory under tables/; rename it"])
    if path in known:
        if (found := known[path]) is None:
            raise ConfigError([f"{path}: include: the table includes itself"])
        return found
    known[path] = None
    try:
        restart_resolving()
        values = OmegaConf.to_container(parse_yaml(read_yaml_text(path), path), resolve=True)
        definition = read_definition(path.stem, values)
    except (OmegaConfBaseException, yaml.YAMLError, OSError) as error:
        raise ConfigError([f"{path}: {' '.join(str(error).split())}"]) from error
    except TableError as error:
        raise ConfigError([f"{path}: {problem}" for problem in error.problems]) from error
    except ValueError as error:
        raise ConfigError([str(error)]) from error
    whole = _with_included(definition, known) if definition.include else definition
    known[path] = whole
    return whole


def compose_table(
    definition: Definition,
    overrides: Sequence[str],
    *,
    num_seeds: int,
    patterns: Sequence[str] = (),
    controls: bool = True,
    extra: Path | None = None,
) -> ComposedTable:
    """Composes and checks every run of a table.

    Args:
        definition: the table.
        overrides: the user's, on every row.
        num_seeds: the seeds are 0, 1, ..., from 1 to `MOST_SEEDS` of them.
        patterns: which rows, see `kdrun.tables.select`.
        controls: whether rows get the controls of the table.
        extra: a config tree of the user's own.

    Raises:
        ConfigError: with every problem of every row.
    """
    problems: list[str] = []
    if not controls:
        definition = dataclasses.replace(definition, controls=())
    if not 1 <= num_seeds <= MOST_SEEDS:
        raise ConfigError([f"--seeds {num_seeds}: must be at least 1 and at most {MOST_SEEDS}"])
    if len(definition.rows) * num_seeds > MOST_JOBS:
        raise ConfigError([f"{len(definition.rows)} rows of {num_seeds} seeds (--seeds): at most {MOST_JOBS} runs"])
    if definition.unavailable and _harmless(overrides) != list(overrides):
        problems.append(f"table {definition.name} is of published figures only: {definition.unavailable}")
    with hydra_session():
        (typed,) = expand(overrides, multirun=False, problems=problems, one_value="a table takes one value")
        taken = [text for text in typed if key_of(text) in CHOSEN_BY_ROWS]
        problems += [f"{text}: cannot be overridden: the rows set it" for text in taken if key_of(text) != "seed"]
        problems += [
            f"{text}: the seeds of a table are --seeds N, from 0 on" for text in taken if key_of(text) == "seed"
        ]
        user = UserOverrides([text for text in typed if text not in taken], extra)
        shared = user.check_general(definition, problems)
        evaluations = evaluations_of_table(definition.evaluations, problems, extra=extra)
        try:
            names, rows = _selected(definition, patterns)
            narrowed = dataclasses.replace(definition, rows=rows)
            entries, jobs = checked_rows(narrowed, user, num_seeds, names, problems, evaluations=evaluations)
        except TableError as error:
            raise ConfigError([*dict.fromkeys((*problems, *error.problems))]) from error
    assert shared is not None, "its problems have been raised"
    chosen = without_repetition([entry for entry in entries if entry.row.name in names])
    if not chosen:  # a control's name that its row does not have
        raise ConfigError([f"--rows {','.join(patterns)}: this control does not apply to its row"])
    specs = [spec for entry in chosen for spec in (*entry.specs, *(s for each in entry.derived for s in each.specs))]
    return ComposedTable(
        definition=definition,
        entries=chosen,
        jobs={spec.run_id: jobs[spec.run_id] for spec in specs},
        shared=shared,
        evaluations=evaluations,
        published=len(_harmless(overrides)) == len(overrides),
    )


def _selected(definition: Definition, patterns: Sequence[str]) -> tuple[set[str], tuple[Row, ...]]:
    """The names that match patterns, of controls that may not apply too, and the rows to compose for them.

    These include the rows that derived ones are computed from.

    Raises:
        TableError: a pattern matches nothing.
    """
    controls = {
        row.name: [control_row(row, name) for name in definition.controls if row.derived is None]
        for row in definition.rows
    }
    names = {row.name for row in select([*definition.rows, *itertools.chain(*controls.values())], patterns)}
    parts = {name for row in definition.rows if row.name in names and row.derived for name in row.derived.rows}
    composed = names | with_baselines(definition.rows, parts)
    wanted = [row for row in definition.rows if {row.name, *(each.name for each in controls[row.name])} & composed]
    return names, tuple(wanted)


def _with_included(definition: Definition, known: dict[Path, Definition | None]) -> Definition:
    """A table that collects others: their rows with controls, and the baselines; published figures stay with them.

    A row that stands in several of them (as in tables 1 and 9 of Tf-KD) is the same run, and is taken once.

    Raises:
        ConfigError: no such table, tables whose published runs differ in their number of classes, or rows that a
            figure needs.
    """
    parts = [load_table(name, known) for name in definition.include]
    (num_classes, *others) = dict.fromkeys(part.num_classes for part in parts)
    if others:
        raise ConfigError([f"table {definition.name}: include: the tables must share one num_classes"])
    rows: dict[str, Row] = {}
    for part in parts:
        for row in part.rows:
            if row.kind != "lsr" and not row.unavailable and row.derived is None:
                overrides = (*part.overrides, *row.overrides)
                rows.setdefault(row.name, dataclasses.replace(row.without_published(), overrides=overrides))
    controls = tuple(dict.fromkeys(name for part in parts for name in part.controls))
    whole = dataclasses.replace(definition, rows=tuple(rows.values()), controls=controls, num_classes=num_classes)
    if problems := figure_problems(whole):
        raise ConfigError([f"table {definition.name}: {problem}" for problem in problems])
    return whole


def _harmless(overrides: Sequence[str]) -> list[str]:
    return [text for text in overrides if text.startswith(HARMLESS)]


def _by_number(name: str) -> tuple[str, float, str]:
    number = re.search(r"_t(\d+)", name)
    return (name.partition("_")[0], float(number[1]) if number else math.inf, name)
