"""`kdrun ls`: every run under an output root, and how it is."""

from __future__ import annotations

import argparse
from collections.abc import Sequence
from datetime import datetime, timedelta, timezone
from pathlib import Path
from typing import TYPE_CHECKING

from kdrun.cli.options import refuse

if TYPE_CHECKING:
    from kdrun.experiment.run import Run
    from kdrun.experiment.spec import Spec

DESCRIPTION = """\
Lists the runs under an output root: finished, running (a process holds it), stale (it was running and its process is
gone), interrupted, failed, diverged. The command that made a run resumes it, whatever its state.
"""


def ls_main(words: Sequence[str]) -> int:
    """Prints a line for each run; returns the exit code."""
    from kdrun.experiment.run import STATES
    from kdrun.experiment.store import Store

    parser = argparse.ArgumentParser(prog="kdrun ls", description=DESCRIPTION)
    parser.add_argument("root", nargs="?", type=Path, default=Path("outputs"), help="the output root (default outputs)")
    parser.add_argument("--state", action="append", choices=STATES, help="only runs that are so; may be repeated")
    options = parser.parse_args(words)
    if not options.root.is_dir():
        return refuse([f"{options.root}: no such directory"], "kdrun ls")
    from kdrun.analysis.tables import aligned
    from kdrun.experiment.reporting import log, set_up_console

    set_up_console()
    rows, unreadable = [], 0
    for run in Store(options.root).runs():
        try:
            if isinstance(run, Exception):
                raise run
            if options.state is None or run.state in options.state:
                rows.append(_row(run))
        except (RuntimeError, OSError) as error:
            unreadable += 1
            log.error("%s", error)
    if rows:
        header = ["state", "seed", "epoch", "top-1 %", "last sign of life", "run"]
        log.info("%s", aligned(header, rows).rstrip())
    log.info("%d run%s", len(rows), "" if len(rows) == 1 else "s")
    return 1 if unreadable else 0


def _row(run: Run) -> list[str]:
    status, state = run.status(), run.state
    done = run.spec.epochs_trained if state == "finished" else status.get("epoch", 0)
    top1 = f"{run.result()['test']['last']['top1']:.2f}" if state == "finished" else ""
    heartbeat = status.get("heartbeat")
    return [
        state,
        str(run.spec.seed),
        f"{done}/{run.spec.epochs_trained}{_stage(run.spec, done, finished=state == 'finished')}",
        top1,
        _ago(datetime.now(timezone.utc) - datetime.fromisoformat(heartbeat)) if heartbeat else "",
        str(run.directory),
    ]


def _stage(spec: Spec, done: int, *, finished: bool) -> str:
    """Which of two stages a run is in, or ends in: nothing for one that is through both, or has one."""
    if spec.stopped_in_stage1:
        return ", stops in stage 1"
    if finished or not spec.stage1_epochs:
        return ""
    return f", stage {1 if done < spec.stage1_epochs else 2}"


def _ago(passed: timedelta) -> str:
    """A time that has passed as a person says it."""
    minutes = passed.total_seconds() / 60
    if minutes < -2:
        return "later than now: the clock was set back"
    if minutes < 2:
        return "now"
    return f"{minutes:.0f} min ago" if minutes < 120 else f"{minutes / 60:.0f} h ago"
