"""`python -m benchmarks`: measures, prints a table, writes JSON and a chart."""

from __future__ import annotations

import argparse
import os
import sys
import time
from collections.abc import Sequence
from pathlib import Path
from typing import Any

from benchmarks import worker
from benchmarks.machine import in_words, machine
from benchmarks.report import chart, heading, lines, record
from benchmarks.rows import ROWS
from benchmarks.timing import Progress, UnavailableError
from kdrun.files import write_json
from kdrun.training.precision import resolve_device

BUSY = 0.5
"""Load average above which figures are unreliable."""

INTERRUPTED = 130
SECONDS_BETWEEN_LINES = 5.0
STARTED = time.monotonic()


def main(words: Sequence[str] | None = None) -> int:
    """Runs the benchmark; returns the exit code. A missed gate is reported and is not a failure.

    Each row is printed and written when it ends; after an interrupt the finished rows are kept.
    """
    options = _parser().parse_args(words)
    os.environ["KDRUN_TRUST"] = "benchmarks"  # the runs load its images
    facts = {**machine(options.device), "torchdistill": _torchdistill()}
    print(in_words(facts))
    if facts["load"] > BUSY:
        print(f"this machine is busy (load {facts['load']:.1f}): threads wait for each other, figures are unreliable")
    print(heading(facts["torchdistill"]), flush=True)
    records: list[dict[str, Any]] = []
    code = 0
    try:
        _write(options.json, facts, records)
        for number, name in enumerate(options.rows, 1):
            progress = _progress(f"[{number}/{len(options.rows)}] {name}")
            records.append(record(name, ROWS[name].measure(options.device, progress), options.device))
            print(lines(records[-1]), flush=True)
            _write(options.json, facts, records)
    except KeyboardInterrupt:
        print(f"interrupted: {len(records)} of {len(options.rows)} rows are finished", file=sys.stderr)
        code = INTERRUPTED
    picture = options.chart or (options.json and options.json.with_suffix(".png"))
    if picture and records:
        chart(picture, records, facts)
    return code


def _write(path: Path | None, facts: dict[str, Any], records: list[dict[str, Any]]) -> None:
    if path is not None:
        write_json(path, {"machine": facts, "rows": records})


def _torchdistill() -> str | None:
    try:
        return worker.version()
    except UnavailableError:  # with its reason in the rows
        return None


def _progress(row: str) -> Progress:
    """Lines on the error output, which leave the table on the output whole; on a terminal one replaces the other."""
    replaces = sys.stderr.isatty()
    last = -SECONDS_BETWEEN_LINES

    def progress(what: str) -> None:
        nonlocal last
        now = time.monotonic() - STARTED
        if replaces:
            print(f"\r\033[K{now:5.0f} s  {row}: {what}", end="\r", file=sys.stderr, flush=True)
        elif now - last >= SECONDS_BETWEEN_LINES:
            print(f"{now:5.0f} s  {row}: {what}", file=sys.stderr, flush=True)
            last = now

    return progress


def _parser() -> argparse.ArgumentParser:
    rows = "\n".join(f"  {name:20} {row.title}" for name, row in ROWS.items())
    parser = argparse.ArgumentParser(
        prog="scripts/bench",
        description="Times kdrun in fp32 and bf16 against the training loops of other code, in 10 minutes.",
        epilog=f"rows:\n{rows}\n\nMeaning of the figures: docs/performance.md.",
        formatter_class=argparse.RawDescriptionHelpFormatter,
    )
    parser.add_argument("--rows", type=_rows, default=list(ROWS), metavar="ROW,ROW", help="these rows only")
    parser.add_argument("--json", type=_file, metavar="FILE", help="write the figures to this file, row by row")
    parser.add_argument("--chart", type=_file, metavar="FILE", help="bar chart (PNG); default: beside the JSON")
    parser.add_argument("--device", type=_device, default="auto", help="auto (a GPU if available), cpu, cuda")
    return parser


def _rows(text: str) -> list[str]:
    names = text.split(",")
    unknown = [name for name in names if name not in ROWS]
    if unknown:
        raise argparse.ArgumentTypeError(f"unknown rows: {', '.join(unknown)}; must be of {', '.join(ROWS)}")
    return names


def _file(text: str) -> Path:
    path = Path(text)
    if not path.parent.is_dir():  # reported before the measurements
        raise argparse.ArgumentTypeError(f"no directory {path.parent}")
    return path


def _device(text: str) -> object:
    try:
        device = resolve_device(text)
    except ValueError as error:
        raise argparse.ArgumentTypeError(str(error)) from error
    if device.type == "mps":
        raise argparse.ArgumentTypeError("mps is not supported; must be cpu or cuda")
    return device


if __name__ == "__main__":
    sys.exit(main())
