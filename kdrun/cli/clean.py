"""`kdrun clean` and `kdrun rm`: free the space of leftovers and of chosen runs under an output root."""

from __future__ import annotations

import argparse
import os
import re
import sys
from collections.abc import Sequence
from pathlib import Path
from typing import TYPE_CHECKING

from kdrun.cli.options import refuse

if TYPE_CHECKING:
    from kdrun.store.run import Run
    from kdrun.store.store import Store

CLEAN = """\
Lists what can be removed under an output root, by kind, with its size; removes it with --apply.
"""

RM = """\
Removes runs, by directory or by run_id (the ten hexadecimal digits at the end of its name). A run that other runs have
as a teacher, or start from, is removed only with them or with --force; one that a process holds never is.
"""


def clean_main(words: Sequence[str]) -> int:
    """Lists or removes what can be removed; returns the exit code."""
    from kdrun.log import set_up_console
    from kdrun.store.cleaning import KINDS, removable
    from kdrun.store.store import Store

    kinds = "\n".join(f"  {name:13} {what}" for name, what in KINDS.items())
    parser = argparse.ArgumentParser(
        prog="kdrun clean",
        description=f"{CLEAN}\n{kinds}",
        formatter_class=argparse.RawDescriptionHelpFormatter,
    )
    parser.add_argument("root", nargs="?", type=Path, default=Path("outputs"), help="the output root (default outputs)")
    parser.add_argument("--only", action="append", choices=list(KINDS), help="only this kind; may be repeated")
    parser.add_argument("--apply", action="store_true", help="remove it")
    options = parser.parse_args(words)
    if not os.path.isdir(options.root):
        return refuse([f"{options.root}: no such directory"], "kdrun clean")
    set_up_console()
    items = [item for item in removable(Store(options.root)) if options.only is None or item.kind in options.only]
    failed = False
    if options.apply:
        removed = []
        for item in items:
            try:
                if item.remove():
                    removed.append(item)
            except OSError as error:  # read-only, or somebody else's
                failed = True
                print(f"{item.path}: cannot be removed: {error}", file=sys.stderr)
        items = removed
    for item in items:
        print(f"{item.kind:13} {_megabytes(item.size):>12}  {item.path}")
    total = _megabytes(sum(item.size for item in items))
    print(f"{len(items)} removed, {total}" if options.apply else f"{len(items)} to remove with --apply, {total}")
    return int(failed)


def rm_main(words: Sequence[str]) -> int:
    """Removes runs; returns the exit code."""
    from kdrun.store.cleaning import needed_by, size_of
    from kdrun.store.store import Store

    parser = argparse.ArgumentParser(prog="kdrun rm", description=RM)
    parser.add_argument("runs", nargs="+", metavar="RUN", help="a run's directory or run_id")
    parser.add_argument("--root", type=Path, default=Path("outputs"), help="the output root (default outputs)")
    parser.add_argument("--force", action="store_true", help="also runs that other runs need")
    options = parser.parse_args(words)
    store = Store(options.root)
    problems: list[str] = []
    chosen = {run.spec.run_id: run for name in options.runs if (run := _found(store, name, problems)) is not None}
    needed = needed_by(store)
    for run_id, run in chosen.items():
        others = [other for other in needed.get(run_id, ()) if other.spec.run_id not in chosen]
        try:
            running = run.state == "running"
        except OSError as error:  # its lock is somebody else's
            problems.append(f"{run.directory}: {error}")
            continue
        if run.directory.is_symlink():
            problems.append(f"{run.directory}: is a link to {run.directory.resolve()}; remove both by hand")
        elif running:
            problems.append(f"{run.directory}: a process holds it")
        elif others and not options.force:
            more = f" and {len(others) - 1} more" if len(others) > 1 else ""
            problems.append(f"{run.directory}: is needed by {others[0].directory}{more}; remove these too, or --force")
    if problems:
        return refuse(problems, "kdrun rm")
    failed = False
    for run in chosen.values():
        size = size_of(run.directory)
        try:
            reason = None if run.remove() else "a process holds it"
        except OSError as error:  # read-only, or somebody else's
            reason = f"cannot be removed: {error}"
        if reason is None:
            print(f"removed {run.directory}, {_megabytes(size)}")
        else:
            failed = True
            print(f"{run.directory}: {reason}", file=sys.stderr)
    return int(failed)


def _found(store: Store, name: str, problems: list[str]) -> Run | None:
    """The run of a directory or run_id; None and a line in `problems` if there is none."""
    from kdrun.store.run import Run

    runs = (run for run in store.runs() if isinstance(run, Run))
    by_id = re.fullmatch(r"[0-9a-f]{10}", name) is not None
    path = Path(name).resolve()
    found = next((run for run in runs if (run.spec.run_id == name if by_id else run.directory.resolve() == path)), None)
    if found is None:
        problems.append(f"{name}: no run under {store.root}; kdrun ls {store.root} lists them")
    return found


def _megabytes(size: int) -> str:
    return f"{size / 1e6:,.1f} MB"
