"""`kdrun summarize`: the summary of a sweep whose jobs run, or ran, elsewhere."""

from __future__ import annotations

import argparse
import os
from collections import Counter
from collections.abc import Sequence
from pathlib import Path
from typing import TYPE_CHECKING

from kdrun.cli.execution import reporting_damage
from kdrun.cli.options import refuse
from kdrun.files import DamagedError, read_json

if TYPE_CHECKING:
    from kdrun.analysis.aggregate import SweepRun

COMMAND = "kdrun summarize"
DESCRIPTION = """\
Writes the summary, table and pictures of a sweep that a launcher (hydra/launcher=submitit_slurm, ...) began, also after
the command that began it has ended, or while its jobs still run: the summary is then labelled as partial. Nothing is
trained; the sweep's own command executes what is missing.

  kdrun summarize outputs/sweeps/3d89e7f91f

Exit code: 1 if a run failed or its process was killed, else 0.
"""
BAD_STATES = ("failed", "diverged", "stale")


def summarize_main(words: Sequence[str]) -> int:
    """Writes the summary of a sweep's finished runs; returns the exit code."""
    parser = argparse.ArgumentParser(
        prog=COMMAND, description=DESCRIPTION, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("sweep", type=Path, metavar="SWEEP", help="its directory, outputs/sweeps/ID")
    directory: Path = parser.parse_args(words).sweep
    if not os.path.isfile(directory / "sweep.json"):
        return refuse([f"{directory}: is no directory of a sweep: it has no sweep.json"], COMMAND)
    from kdrun.analysis.sweep import state_of, summarise
    from kdrun.log import log, set_up_console

    set_up_console()
    states: Counter[str] = Counter()
    with reporting_damage() as damaged:
        runs = read_sweep(directory)
        states.update(state_of(job.run) for job in runs)
        counts = ", ".join(f"{count} {state}" for state, count in states.items())
        is_partial = states.keys() - {"finished", "failed", "diverged"}
        label = f"Partial, of {len(runs)} runs: {counts}.\n\n" if is_partial else ""
        log.info("%d runs: %s", len(runs), counts)
        log.info("\n%s", summarise(directory, runs, label=label))
        for picture in sorted(directory.glob("*.png")):
            log.info("picture: %s", picture)
        log.info("result: %s", directory / "summary.csv")
    return 1 if damaged or any(states[state] for state in BAD_STATES) else 0


def read_sweep(directory: Path) -> list[SweepRun]:
    """The runs of a sweep, by its `sweep.json` and the requests or specs of the runs.

    Raises:
        DamagedError: one of these files is damaged.
        RuntimeError: a spec is of another kdrun.
        OSError: one of them cannot be read.
    """
    from kdrun.analysis.aggregate import SweepRun
    from kdrun.analysis.sweep import obstacle_to
    from kdrun.cli.job import read_request, request_path
    from kdrun.cli.launch import JOBS
    from kdrun.store.store import Store, read_spec

    store, path = Store(directory.parent.parent), directory / "sweep.json"
    runs, records = [], read_json(path)
    try:
        places = [Path(record["run"]).parts[-3:] for record in records]
    except (KeyError, TypeError) as error:
        raise DamagedError(f"{path} has no list of runs ({type(error).__name__}: {error})") from error
    for record, parts in zip(records, places, strict=True):
        place = store.root.joinpath("runs", *parts)
        jobs, run_id = directory / JOBS, place.name.rpartition("-")[2]
        has_request = request_path(jobs, run_id).exists()
        spec = read_request(jobs, run_id).spec if has_request else read_spec(place / "spec.json")
        teachers = tuple(map(store.run, spec.teachers))
        runs.append(SweepRun(record["choices"], store.run(spec), teachers, obstacle_to(store, spec)))
    return runs
