"""The files of a run, and its lock.

runs/<dataset>/<student>/<method>-<run_id>/
    spec.json        what was hashed                 config.yaml   the composed config
    status.json      state, pid, host, heartbeat     metrics.jsonl one line per epoch
    checkpoints/     last.pt (resumable), best.pt    student.safetensors, the deliverable
    result.json      written last; its presence means finished
    kdrun.log        everything logged: times, tracebacks

torch is imported where a checkpoint is read or written: the state of a run needs none.
"""

from __future__ import annotations

import contextlib
import functools
import json
import os
import socket
import tempfile
import time
from collections.abc import Callable, Iterator, Mapping, Sequence
from datetime import UTC, datetime
from pathlib import Path
from typing import TYPE_CHECKING, Any

from kdrun.files import (
    DamagedError,
    naming,
    open_regular,
    parse_json,
    read_record,
    read_regular,
    remove_tree,
    sha256,
    sha256_of,
    sweep,
    try_lock,
    write_atomically,
    write_json,
    write_record,
)
from kdrun.log import log
from kdrun.memory import free_bytes
from kdrun.spec.spec import Spec
from kdrun.store.heartbeat import DEAD_SECONDS, beating, is_beating, renew, touch
from kdrun.store.result import RESULT_SCHEMA

if TYPE_CHECKING:
    import torch

REMOVED = ".removed-"
"""Begins the names of directories under `runs/` whose run is being removed."""

ROW_LIMIT = 2**16
"""Bytes of a row of `metrics.jsonl`, at most; most have some hundred."""

CLAIM_SECONDS = 2.0
"""Longer than it takes to find a run free and to write a status."""

POLL_SECONDS = 2.0
"""Between two looks at the signs of life of another process."""

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
        """The content of `result.json`.

        Raises:
            RuntimeError: it is damaged, of another run, or was written by another schema.
        """
        result: dict[str, Any] = read_written(self.result_path, self._read_result)
        return result

    def _read_result(self, path: Path) -> dict[str, Any]:
        fields = read_record(path)
        if fields.get("schema") != RESULT_SCHEMA:
            raise RuntimeError(f"{path} has schema {fields.get('schema')}, this kdrun reads {RESULT_SCHEMA}")
        self._check_owner(path, fields)
        return fields

    def origin(self) -> str:
        """The directory of a finished run and the time of its result, for messages on its reuse."""
        return f"{self.directory}, finished {self.result()['finished']}"

    def rows(self) -> list[dict[str, Any]]:
        """The rows of `metrics.jsonl`, one per epoch.

        Raises:
            RuntimeError: the run is finished, and they are not those of its result; or they are no rows of this run.
            OSError: the file cannot be read, or is larger than a row for each epoch can make it.
        """
        content = read_regular(self._metrics, ROW_LIMIT * (1 + self.spec.epochs_trained))
        if self.finished and sha256(content) != self.result().get("metrics_sha256"):
            raise DamagedError(
                f"{self._metrics} is not whole: it does not have the SHA-256 that {self.result_path.name} records; "
                "move both away, and the same command writes them again"
            )
        try:
            rows = [dict(parse_json(line)) for line in content.splitlines()]
        except (TypeError, ValueError) as error:
            raise DamagedError(f"{self._metrics} is not readable JSON lines ({error})") from error
        for row in rows:
            self._check_owner(self._metrics, {"run_id": row.pop("run_id", None)}, names=("run_id",))
        return rows

    def _check_owner(
        self, path: Path, fields: Mapping[str, Any], names: Sequence[str] = ("run_id", "spec_sha256")
    ) -> None:
        """Raises `DamagedError` unless a file's content carries the identity of this run.

        Files of runs of `SEMANTICS` 1 may lack it.
        """
        own = self.spec.identity
        for name in names:
            found = fields.get(name)
            if found != own[name] and (found is not None or self.spec.semantics > 1):
                raise DamagedError(f"{path} is of another run: its {name} is {found}, not {own[name]}")

    def load_checkpoint(self, path: Path, device: torch.device | str) -> dict[str, Any]:
        """Reads one of the run's checkpoints onto a device.

        Raises:
            CheckpointError: it cannot be read, is damaged, or is of another run.
            FileNotFoundError: there is none.
        """
        from kdrun.store import checkpoint

        try:
            state = checkpoint.load(path, device)
            self._check_owner(path, state)
        except FileNotFoundError:
            raise
        except (DamagedError, OSError) as error:
            raise checkpoint.CheckpointError(f"{error}; remove it to train from the start") from error
        return state

    def save_checkpoint(self, path: Path, state: Mapping[str, Any]) -> None:
        """Writes a checkpoint of the run, with its identity."""
        from kdrun.store import checkpoint

        checkpoint.save(path, {**state, **self.spec.identity})

    def drop_checkpoints(self) -> None:
        """Removes the checkpoints of a finished run: the optimiser's state, and the epoch that was best on test."""
        assert self.finished, "an unfinished run resumes from them"
        for path in (self.last_checkpoint, self.previous_checkpoint, self.best_checkpoint):
            path.unlink(missing_ok=True)

    def weights_problem(self) -> str | None:
        """What is wrong with the weights of a finished run; None if they equal its result's.

        Raises:
            RuntimeError: the result is damaged, or of another run.
        """
        recorded = self.result()["student"]["weights_sha256"]
        try:
            found = sha256_of(self.weights, free_bytes())
        except FileNotFoundError:
            return f"{self.weights} is missing"
        return None if found == recorded else f"{self.weights} does not have the SHA-256 that its result records"

    @property
    def _status_path(self) -> Path:
        return self.directory / "status.json"

    @property
    def _metrics(self) -> Path:
        return self.directory / "metrics.jsonl"

    def records(self) -> tuple[dict[str, Any], dict[str, Any] | None]:
        """The content of `status.json` and, of a finished run, of `result.json`.

        Raises:
            RuntimeError: one of them is damaged, of another run, or was written by another schema.
        """
        status = self.status()
        if damaged := status.get("damaged"):
            raise DamagedError(f"{damaged}; the command that made the run resumes it")
        return status, self.result() if self.finished else None

    def status(self) -> dict[str, Any]:
        """The content of `status.json`; empty before the first start; for a damaged file `damaged`, the error."""
        try:
            status = read_record(self._status_path)
            self._check_owner(self._status_path, status)
            return status
        except (FileNotFoundError, NotADirectoryError):
            return {}
        except (DamagedError, OSError) as error:
            return {"damaged": str(error)}

    def choices(self) -> dict[str, Any] | None:
        """How the run computes; None before the first start.

        The choices decide the last bits of a result, so they are in the checkpoints, too: the newest undamaged one is
        read where `status.json` is absent or damaged.
        """
        recorded: dict[str, Any] | None = self.status().get("choices")
        for path in (self.last_checkpoint, self.previous_checkpoint):
            if recorded is None and path.exists():
                from kdrun.store.checkpoint import CheckpointError

                # A damaged one is reported when it is to be resumed from.
                with contextlib.suppress(OSError, CheckpointError):
                    recorded = self.load_checkpoint(path, "cpu")["choices"]
        if recorded is not None and not recorded.get("conv_plan", True):
            del recorded["conv_plan"]  # of older runs: empty, it changed nothing
        return recorded

    @property
    def state(self) -> str:
        """One of `STATES`: by the files and, for a running one, by whether a process holds the lock."""
        if self.finished:
            return "finished"
        state: str = self.status().get("state", "running")
        return "stale" if state == "running" and not self._held() else state

    @property
    def _lock_path(self) -> Path:
        return self.directory / ".lock"

    def _held(self) -> bool:
        """Whether a process has the run."""
        path = self._lock_path
        if not path.exists():
            return False
        with open_regular(path) as file, naming(path):
            locked = try_lock(file.fileno(), shared=True)
        return self._is_taken(locked)

    def _is_taken(self, locked: bool | None) -> bool:
        """Whether another process has the run, after `try_lock` on its lock file has returned `locked`.

        A lock is exact among the processes of one host. Whether it reaches other hosts depends on the file system, so
        a process of another host that should be running has the run as long as it beats; without locks any process.
        """
        if locked is False:
            return True
        status = self.status()
        if status.get("state") != "running":
            return False
        if status.get("host") == socket.gethostname() and (locked or not _is_alive(status["pid"])):
            return False
        return is_beating(self._lock_path)

    def remove(self) -> bool:
        """Removes the run with all its files, unless it is gone; False where a process holds it.

        Raises:
            OSError: something of it cannot be removed.
        """
        lock = self._lock_path
        try:
            descriptor = os.open(lock, os.O_RDWR | os.O_CREAT | os.O_CLOEXEC, 0o666)
        except FileNotFoundError:
            if self.directory.is_dir():
                raise
            return True
        try:
            if self._is_taken(self._try_lock(descriptor)):
                return False
            # Renamed first, so that a command which starts the same run meanwhile makes a new directory.
            removed = Path(tempfile.mkdtemp(prefix=REMOVED, dir=self.directory.parents[2]))
            try:
                if not os.path.samestat(os.fstat(descriptor), os.stat(lock)):
                    return False  # another process removed it before this one had the lock, and a third began it anew
                os.replace(self.directory, removed / self.directory.name)
            except FileNotFoundError:
                return not self.directory.is_dir()
            finally:
                remove_tree(removed)
        finally:
            os.close(descriptor)
        return True

    def open(self, config: str | None) -> None:
        """Creates the directory, sweeps what a crash left over, and writes the spec (and the composed config)."""
        self.last_checkpoint.parent.mkdir(parents=True, exist_ok=True)
        for directory in (self.directory, self.last_checkpoint.parent):
            sweep(directory)
        write_json(self.directory / "spec.json", self.spec.canonical())
        if config is not None:
            write_atomically(self.directory / "config.yaml", config)

    def write_rows(self, rows: list[dict[str, Any]]) -> str:
        """Rewrites `metrics.jsonl` whole, so it always agrees with the checkpoint; returns its SHA-256."""
        owned = ({"run_id": self.spec.run_id, **row} for row in rows)
        content = "".join(json.dumps(row, allow_nan=False) + "\n" for row in owned).encode()
        write_atomically(self._metrics, content)
        return sha256(content)

    def write_result(self, result: dict[str, Any], rows: list[dict[str, Any]]) -> dict[str, Any]:
        """Writes `metrics.jsonl`, then `result.json` with time and SHA-256 of the metrics; returns the result."""
        whole = {**self.spec.identity, **result, "finished": _now(), "metrics_sha256": self.write_rows(rows)}
        write_record(self.result_path, whole)
        return whole

    def write_status(self, state: str, **details: Any) -> None:
        """Records the state: running, interrupted, failed, diverged or finished. Keeps `choices` and `started`."""
        before, now = self.status(), _now()
        kept: dict[str, Any] = {name: before[name] for name in ("started", "epoch") if name in before}
        if not self._status_path.exists():  # with a damaged one it is lost when the run was started
            kept["started"] = now
        if "choices" not in details and (choices := self.choices()):
            kept["choices"] = choices
        record = {**self.spec.identity, **kept, "state": state, "pid": os.getpid(), "host": socket.gethostname()}
        write_record(self._status_path, {**record, "heartbeat": now, **details})

    def begin_with(self, beginning: Run) -> None:
        """Copies the checkpoints of a run that is the beginning of this one, to resume from them.

        Raises:
            CheckpointError: one of them is damaged; nothing is copied.
        """
        pairs = (
            (self.best_checkpoint, beginning.best_checkpoint),
            (self.last_checkpoint, beginning.last_checkpoint),
        )
        states = [beginning.load_checkpoint(theirs, "cpu") for _, theirs in pairs]
        for (mine, _), state in zip(pairs, states, strict=True):
            self.save_checkpoint(mine, state)

    @contextlib.contextmanager
    def lock(self, waiting: Any) -> Iterator[None]:
        """Holds the run for this process; a dead holder's lock is free at once on its host, and for other hosts at the
        latest after `DEAD_SECONDS`.

        Args:
            waiting: called with the holder's status every 30 seconds while another process has it.
        """
        descriptor = self._locked(waiting)
        try:
            with beating(descriptor):
                yield
        finally:
            os.close(descriptor)

    def _try_lock(self, descriptor: int) -> bool | None:
        with naming(self._lock_path):
            return try_lock(descriptor)

    def _is_claimed(self, descriptor: int) -> bool:
        """Claims a free run where there are no locks; False if another process has done so in the same seconds.

        Of several processes that find it free at the same time, the last one to write its status has it.
        """
        _warn_of_no_locks(self.directory.parents[2])
        touch(descriptor)
        self.write_status("running")
        time.sleep(CLAIM_SECONDS)
        status = self.status()
        return (status.get("host"), status.get("pid")) == (socket.gethostname(), os.getpid())

    def _locked(self, waiting: Any) -> int:
        """Waits for the lock; returns its open file. A directory that `kdrun rm` removed meanwhile is made again."""
        reported = 0.0
        while True:
            self.directory.mkdir(parents=True, exist_ok=True)
            try:
                descriptor = os.open(self._lock_path, os.O_RDWR | os.O_CREAT | os.O_CLOEXEC, 0o666)
            except FileNotFoundError:
                if self.directory.is_dir():
                    raise
                continue  # it was removed again
            try:
                while self._is_taken(locked := self._try_lock(descriptor)) or not (
                    locked or self._is_claimed(descriptor)
                ):
                    if time.monotonic() - reported > 30 or not reported:
                        waiting(self.status())
                        reported = time.monotonic()
                    time.sleep(0.2 if locked is False else POLL_SECONDS)
                renew(self.directory)  # the run may have been finished by another host
                with contextlib.suppress(FileNotFoundError):
                    if os.path.samestat(os.fstat(descriptor), os.stat(self._lock_path)):
                        return descriptor
            except BaseException:
                os.close(descriptor)
                raise
            os.close(descriptor)


@functools.cache
def _warn_of_no_locks(directory: Path) -> None:
    log.warning(
        "%s: this file system has no locks (flock): a run is guarded by signs of life of its process, which counts as "
        "dead after %.0f s without one (also if it is suspended, or a server does not answer)",
        directory,
        DEAD_SECONDS,
    )


def _is_alive(pid: int) -> bool:
    """Whether a process of this machine exists."""
    try:
        os.kill(pid, 0)
    except ProcessLookupError:
        return False
    except PermissionError:  # another user's
        return True
    return True


def read_written(path: Path, read: Callable[[Path], Any]) -> Any:
    """Reads a file that a command can write again."""
    try:
        return read(path)
    except DamagedError as error:
        raise DamagedError(f"{error}; move it away, and the command that made the run writes it again") from error


def _now() -> str:
    """The wall clock, for display only."""
    return datetime.now(UTC).isoformat(timespec="seconds")
