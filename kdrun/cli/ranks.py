"""One run on several ranks: the processes that torchrun has started check that they agree, then rank 0 leads."""

from __future__ import annotations

import argparse
import logging
import sys
import time
from collections.abc import Iterator, Mapping, Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Any

import kdrun
from kdrun import __version__, torchrun
from kdrun.cli.execution import ready_runner, runner_for
from kdrun.cli.options import refuse
from kdrun.cli.runs import checked_jobs, report_notices, run_one
from kdrun.files import sha256
from kdrun.log import log, set_up_console
from kdrun.place import place
from kdrun.redaction import redacted
from kdrun.stopping import Stopped

if TYPE_CHECKING:
    from kdrun.config.preflight import Job

LATER_SECONDS = 1.0
"""By which other ranks fail later than rank 0: torchrun ends all at the first failure, and reports its exit code."""

MOST_SHOWN = 10
"""Differences that a message names."""

DEFAULT = "its default"

LONGEST_VALUE = 80
"""Characters of a value that a message shows."""


def ranks_main(options: argparse.Namespace) -> int:
    """Checks the run on every rank, runs it on all of them, and returns the exit code, which is that of rank 0.

    A rank other than 0 prints only its own failure, if it is the first one.
    """
    torchrun.join()
    try:
        code = _checked_and_run(options)
    except Exception as error:
        cause = torchrun.cause(error)
        if isinstance(cause, Stopped):
            raise cause from None
        if cause is error and place().rank == 0:
            raise
        if place().rank == 0 or torchrun.ended_first():
            whose = f"rank {place().rank}: {type(error).__name__}: " if cause is error else ""
            print(f"kdrun: {whose}{redacted(str(cause))}", file=sys.stderr)
        else:
            time.sleep(LATER_SECONDS)
        return 1
    except BaseException as error:
        torchrun.cause(error)  # the other ranks read it
        raise
    if place().rank == 0:
        torchrun.post_task({"code": code})
    elif code:
        time.sleep(LATER_SECONDS)
    return code


def _checked_and_run(options: argparse.Namespace) -> int:
    with torchrun.node_first("checks"):  # which read data
        checked = checked_jobs(options)
    problems = agreed(checked if isinstance(checked, list) else facts_of(checked[1][0]))
    if problems or isinstance(checked, list):
        return refuse(problems)
    set_up_console()
    (job,) = checked[1]
    if place().rank == 0:
        return _lead(job)
    from kdrun.experiment.followers import follow

    log.setLevel(logging.ERROR)
    return follow(runner_for([job]), job.spec, job.weight_files)


def _lead(job: Job) -> int:
    report_notices([job])
    try:
        runner = ready_runner([job])
    except ValueError as error:
        return refuse([str(error)])
    return run_one(runner, job)


def facts_of(job: Job) -> dict[str, Any]:
    """What all ranks must have in common, by name; directories of data are each node's own."""
    import torch

    sources = sorted(Path(kdrun.__file__).parent.rglob("*.py"))
    runtime = {f"runtime.{name}": value for name, value in vars(job.runtime).items() if name != "data_root"}
    return {
        **dict(_flat(job.spec.canonical())),
        **{name: str(value) for name, value in runtime.items()},
        "runtime.device": job.runtime.device.type,
        "runtime.output_root": str(job.runtime.output_root.absolute()),
        "kdrun": __version__,
        "kdrun's source (SHA-256)": sha256("".join(sha256(path.read_bytes()) for path in sources).encode()),
        "torch": str(torch.__version__),
    }


def _flat(values: Any, path: str = "") -> Iterator[tuple[str, Any]]:
    """The plain values in nested JSON, each with its dotted path."""
    pairs = values.items() if isinstance(values, Mapping) else enumerate(values) if isinstance(values, list) else None
    if pairs is None:
        yield path, values
        return
    for key, value in pairs:
        yield from _flat(value, f"{path}.{key}" if path else str(key))


def agreed(own: list[str] | dict[str, Any]) -> list[str]:
    """The problems of the ranks, the same on all of them: those that each has found, or in what they differ.

    Args:
        own: the problems that this rank has found, or its `facts_of` the run.
    """
    here = place()
    torchrun.post(f"facts/{here.rank}", own)
    if here.rank == 0:
        found = [torchrun.fetch(f"facts/{rank}") for rank in range(here.ranks)]
        torchrun.post("problems", _problems(found))
    problems: list[str] = torchrun.fetch("problems")
    return problems


def _problems(found: Sequence[list[str] | dict[str, Any]]) -> list[str]:
    """The problems of all ranks, each once with the ranks that have it; if there are none, the differences."""
    everyone = range(len(found))
    faulty = {rank: problems for rank, problems in enumerate(found) if isinstance(problems, list)}
    by_problem: dict[str, list[int]] = {}
    for rank, problems in faulty.items():
        for problem in problems:
            by_problem.setdefault(problem, []).append(rank)
    if faulty:
        return [
            problem if len(ranks) == len(everyone) else f"{_ranks(ranks)}: {problem}"
            for problem, ranks in by_problem.items()
        ]
    facts = [each for each in found if isinstance(each, dict)]
    names = dict.fromkeys(name for each in facts for name in each)
    differences = [text for name in names if (text := _difference(name, [each.get(name, DEFAULT) for each in facts]))]
    more = [f"and {len(differences) - MOST_SHOWN} more"] if len(differences) > MOST_SHOWN else []
    return [*differences[:MOST_SHOWN], *more]


def _difference(name: str, values: Sequence[Any]) -> str | None:
    """A line on a value that is not the same on all ranks, else None."""
    by_value: dict[str, list[int]] = {}
    for rank, value in enumerate(values):
        by_value.setdefault(str(value), []).append(rank)
    if len(by_value) == 1:
        return None
    shown = (f"{value[:LONGEST_VALUE]} on {_ranks(ranks)}" for value, ranks in by_value.items())
    return f"the ranks of a run must agree: {name} is {', '.join(shown)}"


def _ranks(ranks: Sequence[int]) -> str:
    return f"rank{'s' if len(ranks) > 1 else ''} {', '.join(map(str, ranks))}"
