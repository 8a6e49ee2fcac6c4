"""The runs under an output root: their directories, and searches among them."""

from __future__ import annotations

import dataclasses
import os
import re
import tempfile
from collections.abc import Callable, Iterable, Iterator, Mapping
from pathlib import Path
from typing import Any, TypeVar

from kdrun.files import DamagedError, read_json
from kdrun.log import log
from kdrun.spec.spec import Component, Spec
from kdrun.store.run import Run, read_written

Found = TypeVar("Found")


class Store:
    """The runs under one output root.

    Args:
        root: the output root.
        published: a directory with `result.json` and `metrics.jsonl` of published runs, laid out as `runs/` is.
    """

    def __init__(self, root: Path, published: Path | None = None) -> None:
        self.root = root
        self._published = published

    def run(self, spec: Spec) -> Run:
        """A run with its directory, whether or not it exists."""
        return Run(self.root / "runs" / _place(spec), spec)

    def find(self, spec: Spec) -> Run | None:
        """The finished run of a spec: under the root, else the published one, else None.

        Raises:
            RuntimeError: a published result is not readable, or is of another run.
        """
        own = self.run(spec)
        if own.finished or self._published is None:
            return own if own.finished else None
        published = Run(self._published / _place(spec), spec)
        if not published.finished:
            return None
        published.result()
        return published

    def find_older(self, spec: Spec) -> Run | None:
        """The finished run of the same fields under the newest semantics before the spec's own, else None."""
        older = (self.find(spec.at_semantics(number)) for number in range(spec.semantics - 1, 0, -1))
        return next((run for run in older if run is not None), None)

    def check_writable(self, specs: Iterable[Spec]) -> None:
        """Raises `ValueError` where there are runs to train and nothing can be written under the root."""
        if all(self.run(spec).finished for spec in specs):
            return
        there = next(place for place in (self.root, *self.root.absolute().parents) if place.exists())
        try:
            with tempfile.TemporaryFile(dir=there):
                pass
        except OSError as error:
            raise ValueError(f"runtime.output_root={self.root}: {there} cannot be written: {error.strerror}") from error

    def derived(self, key: str) -> Path:
        """The file of figures that are computed from runs, whether or not it exists."""
        return self.root / "derived" / f"{key}.json"

    def find_derived(self, key: str) -> Path | None:
        """The file of figures computed from runs: under the root, else the published one, else None."""
        places = [self.derived(key), *([self._published / "derived" / f"{key}.json"] if self._published else [])]
        return next((path for path in places if path.exists()), None)

    def runs(self) -> Iterator[Run | Exception]:
        """Every run under the root, in the order of directories; for one that cannot be read, the error."""
        return self.each(lambda run, *_: run)

    def each(self, read: Callable[[Run, dict[str, Any], dict[str, Any] | None], Found]) -> Iterator[Found | Exception]:
        """What a function returns for every run under the root, in the order of directories.

        Args:
            read: gets the run, its status and, if it is finished, its result.

        Yields:
            For a run that cannot be read, or where `read` raises one, a RuntimeError or OSError.
        """
        for path in _specs(self.root, "runs/*/*/*"):
            try:
                run = Run(path.parent, read_spec(path))
                found = read(run, *run.records())
            except (RuntimeError, OSError) as error:
                yield error
            else:
                yield found

    def last_by_labels(self, spec: Spec) -> Run | None:
        """The last finished cross-entropy run of a run's student, of any seed.

        Dataset, recipe, epochs and semantics are those of `spec`.
        """
        alone = dataclasses.replace(
            spec, method=Component("kdrun.methods.CE"), teachers=(), start=None, stop_epoch=None
        )
        found = _finished(
            self._beside(alone, "ce-*"),
            lambda run: dataclasses.replace(run.spec, seed=spec.seed) == alone,
            consequence="nothing is compared with it",
        )
        return max(found, key=lambda run: (run.result()["finished"], str(run.directory)), default=None)

    def longest_beginning(self, spec: Spec, choices: Mapping[str, Any]) -> Run | None:
        """The longest finished run that is the first epochs of another one and has its checkpoints.

        Args:
            spec: of the longer run.
            choices: how it computes; the shorter one must have computed in the same way, or on another number of ranks.
        """

        def is_beginning(run: Run) -> bool:
            kept = run.last_checkpoint.exists() and run.best_checkpoint.exists()
            # Older runs record no memory layout: they computed in channels_last, as one process.
            theirs = {"small_maps_nchw": False, "ranks": 1, **(run.choices() or {})}
            return kept and begins(run.spec, spec) and (theirs == choices or theirs["ranks"] != choices["ranks"])

        # The run_id of each possible beginning is computed: the files of other runs are not read.
        beside = {path: _run_id(path) for path in self._beside(spec)}
        there = set(beside.values())
        shorter = {run_id for run_id in spec.run_ids_stopped_at(range(1, spec.epochs_trained)) if run_id in there}
        paths = [path for path, run_id in beside.items() if run_id in shorter]
        found = _finished(paths, is_beginning, consequence="no run continues from it")
        return max(found, key=lambda run: run.spec.epochs_trained, default=None)

    def of_other_source(self, spec: Spec) -> Run | None:
        """A finished run that differs only in the source of code from outside kdrun."""
        if not spec.sources():
            return None
        wanted = spec.without_sources()
        found = _finished(
            self._beside(spec),
            lambda run: run.spec != spec and run.spec.without_sources() == wanted,
            consequence=None,
        )
        return found[0] if found else None

    def _beside(self, spec: Spec, pattern: str = "*") -> list[Path]:
        """The `spec.json` of each run of a run's dataset and student whose directory matches, in order."""
        return _specs(self.run(spec).directory.parent, pattern)


def _finished(paths: Iterable[Path], is_wanted: Callable[[Run], bool], *, consequence: str | None) -> list[Run]:
    """The finished runs that are wanted, in the order of `paths`, each of a `spec.json`.

    Runs that cannot be read are left out, with a warning that ends in `consequence`.
    """
    found = []
    for path in paths:
        try:
            run = Run(path.parent, read_spec(path))
            if run.finished and is_wanted(run):
                run.result()
                found.append(run)
        except (RuntimeError, OSError) as error:
            if consequence is not None:
                log.warning("%s; %s", error, consequence)
    return found


def begins(shorter: Spec, spec: Spec) -> bool:
    """Whether a run is the first epochs of another, which can continue from its checkpoint."""
    stop = shorter.stop_epoch or 0  # it was evaluated there
    if not (0 < stop < spec.epochs_trained and spec.recipe.evaluates(stop)):
        return False
    return dataclasses.replace(shorter, stop_epoch=spec.stop_epoch) == spec


def _place(spec: Spec) -> Path:
    from kdrun.spec.components import method_class  # which needs torch; listing runs does not

    method = "weights" if spec.weights else _safe(method_class(spec.method).name)
    return Path(_safe(spec.dataset.name)) / _safe(spec.student.name) / f"{method}-{spec.run_id}"


def _specs(directory: Path, pattern: str) -> list[Path]:
    """The `spec.json` of each run that matches, in order; also one that is a dangling link, which `glob` leaves out."""
    paths = (run / "spec.json" for run in sorted(directory.glob(pattern)))
    return [path for path in paths if os.path.lexists(path)]


def _safe(name: str) -> str:
    """A name as one path component: nothing that could leave the output root."""
    return re.sub(r"[^A-Za-z0-9_-]", "_", name)


def _run_id(path: Path) -> str:
    """The run_id in the name of the directory of a `spec.json`."""
    return path.parent.name.rpartition("-")[2]


def read_spec(path: Path) -> Spec:
    """The spec in a run's directory, whose name has its run_id.

    Raises:
        RuntimeError: it is damaged, of another kdrun, or of another run.
    """
    values = read_written(path, read_json)
    try:
        spec = Spec.from_canonical(values)
        run_id = spec.run_id
    except (KeyError, TypeError, ValueError, AttributeError, RecursionError) as error:
        raise RuntimeError(f"{path} is no spec of this kdrun ({type(error).__name__}: {error})") from error
    if _run_id(path) != run_id:
        raise DamagedError(f"{path} is not whole: it is the spec of {run_id}, not of the run in its directory")
    return spec
