"""`kdrun doctor`: the machine's facts, and whether every fast way computes what ordinary steps do."""

from __future__ import annotations

import argparse
import json
import sys
import time
from collections.abc import Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Any

from kdrun.cli.options import refuse
from kdrun.escaping import printable_lines
from kdrun.files import dry_run
from kdrun.redaction import redacted

if TYPE_CHECKING:
    from kdrun.config.preflight import Job
    from kdrun.diagnosis.cases import Case

DESCRIPTION = """\
Shows the machine (device, drivers, libraries, memory, directories), then trains small runs in every way in which this
device can compute, and compares each with ordinary steps. Half a minute on a CPU, at most three minutes on a GPU;
writes nothing that stays.
Exit code 0: all agree; 1: a check failed, and its line says what to do; 2: bad input.

  kdrun doctor                                    networks of each family, methods of each kind
  kdrun doctor --json > doctor.json               for a bug report
  kdrun doctor --compile                          compiled steps too on a CPU; on a GPU always
  kdrun doctor runtime.device=cuda:1              another device
  kdrun doctor student=resnet18 teacher=resnet50 method=kd dataset=cifar100
                                                  a run of your own instead, on a few made-up examples
"""


def doctor_main(words: Sequence[str]) -> int:
    """Prints the facts and the checks; returns the exit code."""
    parser = argparse.ArgumentParser(
        prog="kdrun doctor", description=DESCRIPTION, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("overrides", nargs="*", metavar="key=value", help="as of a run")
    parser.add_argument("--compile", action="store_true", help="check compiled steps on a CPU, too (a minute or two)")
    parser.add_argument("--json", action="store_true", help="one JSON document instead of tables")
    parser.add_argument("-cd", "--config-dir", type=Path, metavar="DIR", help="a config tree of your own")
    options = parser.parse_intermixed_args(words)
    started, cpu = time.monotonic(), time.process_time()
    from kdrun.diagnosis.facts import environment_variables, facts

    variables = environment_variables()  # before torch sets some
    problems: list[str] = []
    job = _job(options, problems)
    if job is None or problems:
        return refuse(problems, "kdrun doctor")
    from kdrun.diagnosis.checks import Diagnosis
    from kdrun.diagnosis.table import checks_table, facts_table, summary
    from kdrun.stopping import stop_behind

    def progress(text: str) -> None:
        print(f"{time.monotonic() - started:4.0f} s  {text}", file=sys.stderr, flush=True)

    found = facts(job.runtime, words, variables)
    if not options.json:
        _show(f"{facts_table(found)}\n")
    diagnosis = Diagnosis(_cases(job, options.overrides), job.runtime, compiled=options.compile)
    code = 0
    try:
        diagnosis.run(progress)
    except BaseException as error:
        stop = stop_behind(error)
        if stop is None:
            raise
        print(f"kdrun doctor: {stop}", file=sys.stderr)
        code = 128 + stop.number
    seconds = {"wall": round(time.monotonic() - started, 1), "cpu": round(time.process_time() - cpu, 1)}
    if options.json:
        print(json.dumps(_redacted({"facts": found, **diagnosis.record(), "seconds": seconds}), indent=2))
    else:
        _show(f"{checks_table(diagnosis.rows, diagnosis.left_out, diagnosis.warnings)}\n")
        _show(summary(diagnosis.rows, diagnosis.left_out, seconds))
    return code or int(not diagnosis.agrees)


def _show(text: str) -> None:
    print(printable_lines(redacted(text)), flush=True)


def _redacted(value: Any) -> Any:
    """A JSON value, its texts without secrets."""
    if isinstance(value, dict):
        return {name: _redacted(item) for name, item in value.items()}
    if isinstance(value, list):
        return [_redacted(item) for item in value]
    return redacted(value) if isinstance(value, str) else value


def _job(options: argparse.Namespace, problems: list[str]) -> Job | None:
    """The run that the words describe; None with problems."""
    from kdrun.config.command_line import expand
    from kdrun.config.compose import ConfigError, compose_job, hydra_session
    from kdrun.config.preflight import check_job

    try:
        with dry_run(), hydra_session():  # no data is needed, and torch's compiler makes no directory
            (overrides,) = expand(options.overrides, multirun=False, problems=problems) or [[]]
            config = compose_job(overrides, problems, extra=options.config_dir)
            return check_job(config, overrides, complete=not problems)
    except ConfigError as error:
        problems += error.problems
    return None


def _cases(job: Job, overrides: Sequence[str]) -> list[Case]:
    """The run that the words describe, made small; the shipped ones where they name only where to compute."""
    from kdrun.diagnosis.cases import Case, shipped_cases, shrunk
    from kdrun.spec.components import method_class

    if all(word.startswith(("runtime.", "dataset.root=")) for word in overrides):
        return shipped_cases(job.runtime.device, job.spec.precision)
    spec = job.spec
    return [Case(f"{spec.student.name} {method_class(spec.method).name}", shrunk(spec, job.runtime.device))]
