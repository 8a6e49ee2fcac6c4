"""The side of torchdistill: the process of `benchmarks.torchdistill_worker`."""

from __future__ import annotations

import os
import subprocess
import tempfile
from collections.abc import Callable, Iterator
from contextlib import contextmanager, suppress
from pathlib import Path
from typing import IO

import torch

from benchmarks.timing import UnavailableError

ROOT = Path(__file__).parents[1]
ENVIRONMENT = Path(os.environ.get("KDRUN_BENCH_VENV", ROOT / ".bench-venv"))
PYTHON = ENVIRONMENT / "bin" / "python"


def version() -> str:
    """The installed version of torchdistill.

    Raises:
        UnavailableError: it is not installed; with the last line of pip, if `scripts/bench` tried to.
    """
    what = "from importlib.metadata import version; print(version('torchdistill'))"
    if PYTHON.exists():
        found = subprocess.run([PYTHON, "-c", what], capture_output=True, text=True, check=False)
        if found.returncode == 0:
            return found.stdout.strip()
    log = ENVIRONMENT / "pip.log"
    lines = log.read_text().splitlines() if log.exists() else []
    raise UnavailableError(f"not installed in {ENVIRONMENT}: {lines[-1] if lines else 'scripts/bench installs it'}")


class Worker:
    """The process.

    Args:
        pair: a name of `benchmarks.task.PAIRS`.
        device: where it computes.
        steps: number of training steps of a request.
        blocks: number of requests of `steps`.
        errors: receives its error output.
    """

    def __init__(self, pair: str, device: torch.device, *, steps: int, blocks: int, errors: IO[str]) -> None:
        self._errors = errors
        words = [pair, str(device), str(torch.get_num_threads()), str(steps), str(blocks)]
        # In a session of its own, so that an interrupt from the keyboard does not reach it: `close` ends it.
        self._process = subprocess.Popen(
            [PYTHON, "-m", "benchmarks.torchdistill_worker", *words],
            cwd=ROOT,
            stdin=subprocess.PIPE,
            stdout=subprocess.PIPE,
            stderr=errors,
            text=True,
            start_new_session=True,
        )

    def request(self, what: str) -> None:
        """Computes `steps` or, after `prepare`, a whole `run`.

        Raises:
            UnavailableError: the process ended; with the last line of its errors.
        """
        assert self._process.stdin is not None
        assert self._process.stdout is not None
        with suppress(BrokenPipeError):
            print(what, file=self._process.stdin, flush=True)
        if self._process.stdout.readline() != "done\n":
            self._process.kill()
            self._process.wait()
            self._errors.seek(0)
            lines = self._errors.read().splitlines()
            raise UnavailableError(lines[-1] if lines else f"exit code {self._process.returncode}")

    def close(self) -> None:
        """Ends the process."""
        self._process.kill()
        self._process.wait()


@contextmanager
def torchdistill(pair: str, device: torch.device, *, steps: int, blocks: int = 0) -> Iterator[Callable[[str], None]]:
    """The requests of a worker, arguments as of `Worker`; without torchdistill each raises `UnavailableError`."""
    try:
        version()
    except UnavailableError as error:
        reason = str(error)

        def refuse(what: str) -> None:
            raise UnavailableError(reason)

        yield refuse
        return
    with tempfile.TemporaryFile("w+") as errors:
        worker = Worker(pair, device, steps=steps, blocks=blocks, errors=errors)
        try:
            yield worker.request
        finally:
            worker.close()
