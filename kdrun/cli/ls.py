"""`kdrun ls`: every run under an output root, with its state."""

from __future__ import annotations

import argparse
import json
import os
from collections.abc import Sequence
from datetime import UTC, datetime, timedelta
from pathlib import Path
from typing import TYPE_CHECKING, Any

from kdrun.cli.options import refuse

if TYPE_CHECKING:
    from kdrun.spec.spec import Spec
    from kdrun.store.run import Run

DESCRIPTION = """\
Lists the runs under an output root: finished, running (a process holds it), stale (it was running and its process is
gone), interrupted, failed, diverged. The command that made a run resumes it, whatever its state. A run of an older
semantics (a default or a meaning has changed since) is marked; the same command trains another run.
--json prints a list of records instead; "shares" are those of the gradient in percent, as in result.json.
"""


def ls_main(words: Sequence[str]) -> int:
    """Prints a line for each run; returns the exit code."""
    from kdrun.store.run import STATES
    from kdrun.store.store import Store

    parser = argparse.ArgumentParser(prog="kdrun ls", description=DESCRIPTION)
    parser.add_argument("root", nargs="?", type=Path, default=Path("outputs"), help="the output root (default outputs)")
    parser.add_argument("--state", action="append", choices=STATES, help="only runs in this state; may be repeated")
    parser.add_argument("--json", action="store_true", help="a JSON list with a record for each run")
    options = parser.parse_args(words)
    if not os.path.isdir(options.root):
        return refuse([f"{options.root}: no such directory"], "kdrun ls")
    from kdrun.escaping import aligned
    from kdrun.log import log, set_up_console

    set_up_console()
    records, unreadable = [], 0
    for record in Store(options.root).each(_record):
        if isinstance(record, Exception):
            unreadable += 1
            log.error("%s", record)
        elif options.state is None or record["state"] in options.state:
            records.append(record)
    if options.json:
        print(json.dumps(records, indent=2))
        return 1 if unreadable else 0
    if records:
        header = ["state", "seed", "epoch", "top-1 %", "last sign of life", "run"]
        log.info("%s", aligned(header, [_row(record) for record in records]).rstrip())
    log.info("%d run%s", len(records), "" if len(records) == 1 else "s")
    return 1 if unreadable else 0


def _record(run: Run, status: dict[str, Any], result: dict[str, Any] | None) -> dict[str, Any]:
    """A run's state and result as plain values; top-1 in percent."""
    from kdrun.spec.spec import SEMANTICS

    spec, state = run.spec, run.state
    if state == "finished":
        result = result or run.result()  # of its status alone: an error names the missing file
    done = spec.epochs_trained if result else status.get("epoch", 0)
    return {
        "run": str(run.directory),
        "run_id": spec.run_id,
        "state": state,
        "semantics": spec.semantics,
        "older_semantics": spec.semantics < SEMANTICS,
        "dataset": spec.dataset.name,
        "student": spec.student.name,
        "method": run.directory.name.rpartition("-")[0],
        "seed": spec.seed,
        "epoch": done,
        "epochs": spec.epochs_trained,
        "stage": _stage(spec, done, finished=bool(result)),
        "top1": result["test"]["last"]["top1"] if result else None,
        "shares": result.get("shares", []) if result else [],
        "heartbeat": status.get("heartbeat"),
    }


def _row(record: dict[str, Any]) -> list[str]:
    heartbeat, top1, stage = record["heartbeat"], record["top1"], record["stage"]
    return [
        record["state"] + (f", semantics {record['semantics']}" if record["older_semantics"] else ""),
        str(record["seed"]),
        f"{record['epoch']}/{record['epochs']}{f', {stage}' if stage else ''}",
        "" if top1 is None else f"{top1:.2f}",
        _ago(datetime.now(UTC) - datetime.fromisoformat(heartbeat)) if heartbeat else "",
        record["run"],
    ]


def _stage(spec: Spec, done: int, *, finished: bool) -> str:
    """The current or last stage of an unfinished run of two stages; else empty."""
    if spec.stopped_in_stage1:
        return "stops in stage 1"
    if finished or not spec.stage1_epochs:
        return ""
    return f"stage {1 if done < spec.stage1_epochs else 2}"


def _ago(passed: timedelta) -> str:
    """A duration in minutes or hours."""
    minutes = passed.total_seconds() / 60
    if minutes < -2:
        return "later than now: the clock was set back"
    if minutes < 2:
        return "now"
    return f"{minutes:.0f} min ago" if minutes < 120 else f"{minutes / 60:.0f} h ago"
