"""`python -m benchmarks`: measures, prints a table, writes JSON and a chart."""

from __future__ import annotations

import argparse
import os
import sys
import time
from collections.abc import Sequence
from pathlib import Path

from benchmarks.machine import in_words, machine
from benchmarks.report import chart, record, table
from benchmarks.rows import ROWS
from kdrun.files import write_json
from kdrun.training.precision import resolve_device

BUSY = 0.5
"""Load average above which figures are unreliable."""


def main(words: Sequence[str] | None = None) -> int:
    """Runs the benchmark; returns the exit code. A missed gate is reported and is not a failure."""
    options = _parser().parse_args(words)
    os.environ["KDRUN_TRUST"] = "benchmarks"  # the runs load its images
    facts = machine(options.device)
    print(in_words(facts), flush=True)
    if facts["load"] > BUSY:
        print(f"this machine is busy (load {facts['load']:.1f}): threads wait for each other, figures are unreliable")
    records = []
    started = time.monotonic()
    for number, name in enumerate(options.rows, 1):

        def progress(what: str, head: str = f"[{number}/{len(options.rows)}] {name}") -> None:
            print(f"{time.monotonic() - started:5.0f} s  {head}: {what}", flush=True)

        records.append(record(name, ROWS[name].measure(options.device, progress), options.device))
    print(f"\n{table(records)}")
    if options.json:
        write_json(options.json, {"machine": facts, "rows": records})
        print(f"result: {options.json}")
    picture = options.chart or (options.json and options.json.with_suffix(".png"))
    if picture:
        chart(picture, records, facts)
        print(f"picture: {picture}")
    return 0


def _parser() -> argparse.ArgumentParser:
    rows = "\n".join(f"  {name:20} {row.title}" for name, row in ROWS.items())
    parser = argparse.ArgumentParser(
        prog="scripts/bench",
        description="Times kdrun against a loop in the manner of the released Tf-KD code, in 10 minutes at most.",
        epilog=f"rows:\n{rows}\n\nMeaning of the figures: docs/performance.md.",
        formatter_class=argparse.RawDescriptionHelpFormatter,
    )
    parser.add_argument("--rows", type=_rows, default=list(ROWS), metavar="ROW,ROW", help="these rows only")
    parser.add_argument("--json", type=_file, metavar="FILE", help="write the figures to this file")
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
