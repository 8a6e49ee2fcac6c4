"""All checks of a device, one after the other, within a time limit."""

from __future__ import annotations

import contextlib
import logging
import os
import tempfile
import time
from collections.abc import Callable, Iterator, Sequence
from functools import partial
from pathlib import Path
from typing import Any

import torch

from kdrun.diagnosis.cases import Case
from kdrun.diagnosis.row import CAPTURED, OPTIMISER, Row, Unit
from kdrun.diagnosis.runs import RunChecks
from kdrun.diagnosis.ways import compiled_units, fast_steps, optimiser
from kdrun.experiment.runtime import Runtime
from kdrun.log import log
from kdrun.spec.spec import OPTIMIZERS
from kdrun.stopping import DeviceLost

SECONDS = 120.0
"""After which no further check is begun."""

CAPTURED_RUNS = 3
"""The number of cases whose whole runs are checked with captured steps, too."""


class Diagnosis:
    """Checks of some cases.

    Attributes:
        rows: of the checks so far.
        left_out: titles of the checks for which no time was left, or of the one in which the command was stopped.
        warnings: of kdrun's log during the checks.
    """

    def __init__(self, cases: Sequence[Case], runtime: Runtime, *, compiled: bool) -> None:
        self.rows: list[Row] = []
        self.left_out: list[str] = []
        self.warnings: list[str] = []
        self._cases = cases
        self._runtime = runtime
        self._compiled = compiled

    @property
    def agrees(self) -> bool:
        """Whether no check has failed."""
        return all(row.agrees is not False for row in self.rows)

    def record(self) -> dict[str, Any]:
        """Plain values."""
        rows = [row.record() for row in self.rows]
        return {"agrees": self.agrees, "checks": rows, "left_out": self.left_out, "warnings": self.warnings}

    def run(self, progress: Callable[[str], None]) -> None:
        """Runs the checks in a temporary directory, which is removed; `progress` is called before each."""
        deadline = time.monotonic() + SECONDS
        with (
            tempfile.TemporaryDirectory(prefix="kdrun-doctor-", ignore_cleanup_errors=True) as name,
            _caches_in(Path(name)),
            _quiet(self.warnings),
        ):
            threads = torch.get_num_threads()
            try:
                for unit in self._units(Path(name)):
                    if time.monotonic() >= deadline:
                        self.left_out.append(unit.title)
                        continue
                    self.left_out.append(f"{unit.title}, and all later checks")  # true if a signal ends this one
                    progress(unit.title)
                    try:
                        self.rows += unit.run()
                    except (Exception, DeviceLost) as error:  # whatever a device, or the user's own code, raises
                        found = f"{type(error).__name__}: {error}"
                        self.rows.append(Row(unit.check, unit.case, "no error", found, False))
                        deadline = 0.0 if isinstance(error, DeviceLost) else deadline
                    self.left_out.pop()
            finally:
                torch.set_num_threads(threads)

    def _units(self, directory: Path) -> Iterator[Unit]:
        device = self._runtime.device
        yield from RunChecks(self._cases, self._runtime, directory / "outputs").units()
        for name in OPTIMIZERS:
            yield Unit(OPTIMISER, name, partial(optimiser, self._cases[0], name, device))
        if device.type == "cuda":
            for case in self._cases:
                yield Unit(CAPTURED, case.name, partial(fast_steps, CAPTURED, case, device))
            agreeing = {row.case for row in self.rows if row.check == CAPTURED and row.agrees}
            captured = [case for case in self._cases if case.name in agreeing][:CAPTURED_RUNS]
            yield from RunChecks(captured, self._runtime, directory / "captured", captured=True).units()
        if device.type == "cuda" or self._compiled:
            yield from compiled_units(self._cases, device)


@contextlib.contextmanager
def _caches_in(directory: Path) -> Iterator[None]:
    """A context in which kdrun's and torch's caches are below a directory."""
    moved = {name: str(directory / name.lower()) for name in ("XDG_CACHE_HOME", "TORCHINDUCTOR_CACHE_DIR")}
    before = {name: os.environ.get(name) for name in moved}
    os.environ.update(moved)
    try:
        yield
    finally:
        for name, value in before.items():
            os.environ.pop(name, None)
            if value is not None:
                os.environ[name] = value


class _Warnings(logging.Handler):
    """Collects warnings, each once."""

    def __init__(self, found: list[str]) -> None:
        super().__init__(logging.WARNING)
        self._found = found

    def emit(self, record: logging.LogRecord) -> None:
        message = record.getMessage()
        if message not in self._found and not getattr(record, "file_only", False):
            self._found.append(message)


@contextlib.contextmanager
def _quiet(warnings: list[str]) -> Iterator[None]:
    """A context in which kdrun logs nothing; its warnings are added to a list."""
    before = (log.handlers[:], log.propagate)
    log.handlers[:], log.propagate = [_Warnings(warnings)], False
    try:
        yield
    finally:
        log.handlers[:], log.propagate = before
