"""Where runs lie, and the files of a run.

runs/<dataset>/<student>/<method>-<run_id>/
    spec.json        what was hashed                 config.yaml   the composed config
    status.json      state, pid, host, heartbeat     metrics.jsonl one line per epoch
    checkpoints/     last.pt (resumable), best.pt    student.safetensors, the deliverable
    result.json      written last; its presence means finished
    kdrun.log        everything logged: times, tracebacks
"""

from __future__ import annotations

import contextlib
import dataclasses
import fcntl
import json
import os
import re
import socket
import time
from collections.abc import Iterator, Mapping
from datetime import datetime, timezone
from pathlib import Path
from typing import Any

from kdrun.experiment.build import method_class
from kdrun.experiment.result import RESULT_SCHEMA
from kdrun.experiment.spec import Spec
from kdrun.files import write_atomically, write_json

STATES = ("finished", "running", "stale", "interrupted", "failed", "diverged")


class Run:
    """One run's directory."""

    def __init__(self, directory: Path, spec: Spec) -> None:
        self.directory = directory
        self.spec = spec

    @property
    def result_path(self) -> Path:
        return self.directory / "result.json"

    @property
    def last_checkpoint(self) -> Path:
        return self.directory / "checkpoints" / "last.pt"

    @property
    def previous_checkpoint(self) -> Path:
        """Of the epoch before the last, while a run trains: in case `last_checkpoint` is damaged."""
        return self.directory / "checkpoints" / "previous.pt"

    @property
    def best_checkpoint(self) -> Path:
        return self.directory / "checkpoints" / "best.pt"

    @property
    def weights(self) -> Path:
        return self.directory / "student.safetensors"

    @property
    def finished(self) -> bool:
        """Whether the run has a result: nothing is left to train."""
        return self.result_path.exists()

    def result(self) -> dict[str, Any]:
        """What `result.json` holds.

        Raises:
            RuntimeError: it was written by another schema, or cannot be read.
        """
        result = _read_json(self.result_path)
        if result.get("schema") != RESULT_SCHEMA:
            schema = result.get("schema")
            raise RuntimeError(f"{self.result_path} has schema {schema}, this kdrun reads {RESULT_SCHEMA}")
        return result

    def rows(self) -> list[dict[str, Any]]:
        """The rows of `metrics.jsonl`, one per epoch."""
        return [json.loads(line) for line in (self.directory / "metrics.jsonl").read_text().splitlines()]

    def status(self) -> dict[str, Any]:
        """What `status.json` holds; empty before the run was ever started."""
        path = self.directory / "status.json"
        return _read_json(path) if path.exists() else {}

    @property
    def state(self) -> str:
        """One of `STATES`: what the files say, and for a run that says it is running whether a process holds it."""
        if self.finished:
            return "finished"
        state: str = self.status().get("state", "stale")
        return "stale" if state == "running" and not self._held() else state

    def _held(self) -> bool:
        """Whether a process has the lock."""
        path = self.directory / ".lock"
        if not path.exists():
            return False
        with path.open() as file:
            try:
                fcntl.flock(file, fcntl.LOCK_SH | fcntl.LOCK_NB)
            except BlockingIOError:
                return True
        return False

    def open(self, config: str | None) -> None:
        """Creates the directory, sweeps what a crash left over, and writes the spec (and the composed config)."""
        self.last_checkpoint.parent.mkdir(parents=True, exist_ok=True)
        for leftover in [*self.directory.glob(".*.tmp"), *self.last_checkpoint.parent.glob(".*.tmp")]:
            leftover.unlink()
        write_json(self.directory / "spec.json", self.spec.canonical())
        if config is not None:
            write_atomically(self.directory / "config.yaml", config)

    def write_rows(self, rows: list[dict[str, Any]]) -> None:
        """Rewrites `metrics.jsonl` whole, so it always agrees with the checkpoint."""
        lines = [json.dumps(row, allow_nan=False) + "\n" for row in rows]
        write_atomically(self.directory / "metrics.jsonl", "".join(lines))

    def write_status(self, state: str, **details: Any) -> None:
        """Records the state: running, interrupted, failed, diverged or finished. Keeps `choices` and `started`."""
        kept = {name: value for name, value in self.status().items() if name in ("choices", "started")}
        now = datetime.now(timezone.utc).isoformat(timespec="seconds")
        record = {"started": now, **kept, "state": state, "pid": os.getpid(), "host": socket.gethostname()}
        write_json(self.directory / "status.json", {**record, "heartbeat": now, **details})

    def begin_with(self, beginning: Run) -> None:
        """Takes over the checkpoints of a run that is the beginning of this one, to be resumed from."""
        for mine, theirs in (
            (self.best_checkpoint, beginning.best_checkpoint),
            (self.last_checkpoint, beginning.last_checkpoint),
        ):
            write_atomically(mine, theirs.read_bytes())

    @contextlib.contextmanager
    def lock(self, waiting: Any) -> Iterator[None]:
        """Holds the run for this process; a dead holder's lock is free at once.

        Args:
            waiting: called with the holder's status every 30 seconds while another process has it.
        """
        self.directory.mkdir(parents=True, exist_ok=True)
        descriptor = os.open(self.directory / ".lock", os.O_RDWR | os.O_CREAT | os.O_CLOEXEC, 0o600)
        try:
            told = 0.0
            while True:
                try:
                    fcntl.flock(descriptor, fcntl.LOCK_EX | fcntl.LOCK_NB)
                    break
                except BlockingIOError:
                    if time.monotonic() - told > 30 or not told:
                        waiting(self.status())
                        told = time.monotonic()
                    time.sleep(0.2)
            yield
        finally:
            os.close(descriptor)


class Store:
    """The runs under one output root.

    Args:
        root: `runs/` lies under it.
        published: a directory with `result.json` and `metrics.jsonl` of published runs, laid out as `runs/` is.
    """

    def __init__(self, root: Path, published: Path | None = None) -> None:
        self.root = root
        self._published = published

    def run(self, spec: Spec) -> Run:
        """The place of a run, whether or not it exists."""
        return Run(self.root / "runs" / _place(spec), spec)

    def find(self, spec: Spec) -> Run | None:
        """The finished run of a spec: the own one, else the published one, else None.

        Raises:
            RuntimeError: a published result is not readable, or is of another run.
        """
        own = self.run(spec)
        if own.finished or self._published is None:
            return own if own.finished else None
        published = Run(self._published / _place(spec), spec)
        if not published.finished:
            return None
        found = published.result().get("run_id")
        if found != spec.run_id:
            raise RuntimeError(f"{published.result_path} is the result of another run: {found}, not {spec.run_id}")
        return published

    def runs(self) -> Iterator[Run | Exception]:
        """Every run under the root, in the order of their places; what cannot be read as one is the reason why."""
        for path in sorted(self.root.glob("runs/*/*/*/spec.json")):
            try:
                run = Run(path.parent, Spec.from_canonical(_read_json(path)))
                run.status()
                if run.finished:
                    run.result()
            except (RuntimeError, OSError) as error:
                yield error
            except (KeyError, TypeError, ValueError) as error:
                yield RuntimeError(f"{path} is no spec of this kdrun ({type(error).__name__}: {error})")
            else:
                yield run

    def longest_beginning(self, spec: Spec, choices: Mapping[str, Any]) -> Run | None:
        """Of the finished runs that are the first epochs of this one, the longest whose checkpoint is there.

        Args:
            spec: of this run.
            choices: how it computes; a beginning was computed in the same way.
        """
        whole = _without_stop(spec.canonical())
        found: list[Run] = []
        for path in self.run(spec).directory.parent.glob("*/spec.json"):
            values = _read_json(path)
            if _without_stop(values) == whole and 0 < values.get("stop_epoch", 0) < spec.epochs_trained:
                run = Run(path.parent, dataclasses.replace(spec, stop_epoch=values["stop_epoch"]))
                kept = run.last_checkpoint.exists() and run.best_checkpoint.exists()
                if run.finished and kept and run.status().get("choices") == choices:
                    found.append(run)
        return max(found, key=lambda run: run.spec.epochs_trained, default=None)


def _place(spec: Spec) -> Path:
    method = "weights" if spec.weights else _safe(method_class(spec.method).name)
    return Path(_safe(spec.dataset.name)) / _safe(spec.student.name) / f"{method}-{spec.run_id}"


def _without_stop(canonical: dict[str, Any]) -> dict[str, Any]:
    return {name: value for name, value in canonical.items() if name != "stop_epoch"}


def _safe(name: str) -> str:
    """A name as one path component: nothing that could leave the output root."""
    return re.sub(r"[^A-Za-z0-9_-]", "_", name)


def _read_json(path: Path) -> dict[str, Any]:
    try:
        value = json.loads(path.read_text())
    except ValueError as error:
        raise RuntimeError(f"{path} is not readable JSON ({error}); move its directory away") from error
    if not isinstance(value, dict):
        raise RuntimeError(f"{path} holds no JSON object; move its directory away")
    return value
