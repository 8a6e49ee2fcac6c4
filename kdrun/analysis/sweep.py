"""The results of a sweep: `outputs/sweeps/<id>/` with its tables and pictures."""

from __future__ import annotations

import re
from collections.abc import Iterable, Sequence
from pathlib import Path

from kdrun.analysis.aggregate import SweepRun, group_by_seed, teachers_by_seed
from kdrun.analysis.plots import accuracy_against, learning_curves
from kdrun.analysis.tables import csv_table, markdown_table
from kdrun.escaping import markdown
from kdrun.files import DamagedError, sha256, write_atomically, write_json
from kdrun.spec.spec import Spec
from kdrun.store.run import Run
from kdrun.store.store import Store

NOT_BEGUN = "not begun"
WITHOUT_ERROR = {
    "stale": "its process was killed: by a signal, or out of memory",
    "finished": "its result is missing",
}
"""Explanations of states of unfinished runs in which a status names no error."""


def sweep_directory(output_root: Path, runs: Sequence[SweepRun]) -> Path:
    """The directory of these runs' summary: one directory for one set of runs."""
    identity = sha256("\n".join(sorted({job.run.spec.run_id for job in runs})).encode())
    return output_root / "sweeps" / identity[:10]


def state_of(run: Run) -> str:
    """The state of a run of a sweep: one of `kdrun.store.run.STATES`, or `NOT_BEGUN`."""
    if run.finished or run.status():
        return run.state
    return NOT_BEGUN


def obstacle_to(store: Store, spec: Spec) -> str | None:
    """Why a run is not finished, by its files and those of the runs that it needs; None if it is."""
    run = store.run(spec)
    if run.finished:
        try:
            run.result()
        except DamagedError as error:
            return f"{type(error).__name__}: {error}"
        return None
    if (state := state_of(run)) == NOT_BEGUN:
        reasons = ((each, reason) for each in spec.before if (reason := obstacle_to(store, each)))
        needed = next(reasons, None)
        return f"it needs {store.run(needed[0]).directory}: {needed[1]}" if needed else NOT_BEGUN
    status = run.status()
    return str(status.get("error") or status.get("damaged") or WITHOUT_ERROR.get(state, state))


def begin_summary(directory: Path, runs: Sequence[SweepRun]) -> None:
    """Writes `sweep.json` before the runs are executed elsewhere, for `kdrun summarize`."""
    directory.mkdir(parents=True, exist_ok=True)
    write_json(directory / "sweep.json", [_record(job) for job in runs])


def summarise(directory: Path, runs: Sequence[SweepRun], *, label: str = "") -> str:
    """Writes `summary.csv`, `summary.md`, `sweep.json` and the pictures; returns the Markdown.

    The pictures are `curves.png`, and one for each key but the seed that has several values, named as the key. One that
    is newer than all results stays.
    """
    begin_summary(directory, runs)
    students, teachers = group_by_seed(runs), teachers_by_seed(runs)
    write_atomically(directory / "summary.csv", csv_table([*teachers, *students]))
    text = f"{label}{markdown(_caption(runs))}\n\n{markdown_table([*teachers, *students])}"
    write_atomically(directory / "summary.md", text)
    title = _title(runs)
    if any(group.curve("test", "top1") for group in students) and _is_old(curves := directory / "curves.png", runs):
        learning_curves(curves, teachers, students, title)
    if any(group.runs for group in students):
        for key in (key for key in runs[0].choices if key != "seed" and len({run.choices[key] for run in runs}) > 1):
            if _is_old(picture := directory / f"{_file_name(key)}.png", runs):
                accuracy_against(picture, key, students, teachers, title)
    return text


def _is_old(picture: Path, jobs: Sequence[SweepRun]) -> bool:
    """Whether a picture is absent, or older than a result that it shows."""
    runs = [run for job in jobs for run in (job.run, *job.teachers) if run.finished]
    return not picture.exists() or picture.stat().st_mtime_ns < max(run.result_path.stat().st_mtime_ns for run in runs)


def run_table(job: SweepRun) -> str:
    """A run and its teachers as a Markdown table."""
    return markdown_table([*teachers_by_seed([job]), *group_by_seed([job])])


def draw_run(job: SweepRun) -> list[Path]:
    """Draws a run and its teachers as `curves.png` in its directory; without an epoch there is nothing to draw."""
    curves = job.run.directory / "curves.png"
    if not job.run.rows():
        return []
    if not curves.exists():
        learning_curves(curves, teachers_by_seed([job]), group_by_seed([job]), _title([job]))
    return [curves] if curves.exists() else []


def _record(job: SweepRun) -> dict[str, object]:
    return {"choices": job.choices, "run": str(job.run.directory), "error": job.error}


def _title(runs: Sequence[SweepRun]) -> str:
    return f"{_listed(job.run.spec.dataset.name for job in runs)}, {_listed(job.run.spec.student.name for job in runs)}"


def _caption(runs: Sequence[SweepRun]) -> str:
    """The scale of the figures, as far as the runs share it."""
    specs = [job.run.spec for job in runs]
    epochs = _listed(str(spec.epochs_trained) for spec in specs)
    seeds = len({spec.seed for spec in specs})
    devices = _listed(job.run.result()["environment"]["device"] for job in runs if job.run.finished)
    return (
        f"{_title(runs)}: {epochs} epoch{'' if epochs == '1' else 's'}, {seeds} seed{'s' if seeds > 1 else ''}, "
        f"{_listed(spec.precision for spec in specs)}, {devices or 'nothing finished'}. "
        "Mean ± sample deviation over seeds; top-1 is the last epoch's on the test set."
    )


def _listed(names: Iterable[str]) -> str:
    return ", ".join(dict.fromkeys(names))


def _file_name(key: str) -> str:
    """A swept key as the name of a file: `teacher.recipe.lr`, and `x.y` for `+x/y`."""
    return re.sub(r"[^\w.-]+", ".", key).strip(".")
