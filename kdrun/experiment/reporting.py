"""What a person sees while runs go on: a bar on a terminal, one plain line per epoch elsewhere; and `kdrun.log`."""

from __future__ import annotations

import contextlib
import logging
import sys
import time
from collections.abc import Iterator
from pathlib import Path
from typing import Any

from tqdm import tqdm

from kdrun.console import troubles
from kdrun.escaping import printable_lines
from kdrun.redaction import redacted
from kdrun.training.step import PERCENT

log = logging.getLogger("kdrun")


class _Console(logging.Handler):
    """Plain messages on stdout, errors on stderr, above a progress bar where there is one."""

    def emit(self, record: logging.LogRecord) -> None:
        if getattr(record, "file_only", False):
            return
        stream = sys.stderr if record.levelno >= logging.ERROR else sys.stdout
        tqdm.write(printable_lines(record.getMessage()), file=stream)
        stream.flush()


class _LogFormatter(logging.Formatter):
    """With times; a name in a message controls no terminal on which the log is read."""

    def format(self, record: logging.LogRecord) -> str:
        return printable_lines(redacted(super().format(record)))


class _RunLog(logging.FileHandler):
    """A run's `kdrun.log`; that it cannot be written (the disk is full) is told once, and fails no run."""

    _told = False

    def handleError(self, record: logging.LogRecord) -> None:  # noqa: N802 (logging's name)
        if not self._told:
            self._told = True
            log.warning("%s is not complete: %s", self.baseFilename, sys.exc_info()[1])


def set_up_console() -> None:
    """Sends the log to stdout; called once by the command line."""
    log.setLevel(logging.INFO)
    log.propagate = False
    log.handlers[:] = [_Console()]


@contextlib.contextmanager
def log_file(path: Path, run_id: str) -> Iterator[None]:
    """Also writes the log, with times, to a file, appending; what belongs to another run is left out."""
    handler = _RunLog(path, encoding="utf-8")
    handler.addFilter(lambda record: getattr(record, "run", run_id) == run_id)
    handler.setFormatter(_LogFormatter("%(asctime)s %(levelname)s %(message)s"))
    log.addHandler(handler)
    for trouble in troubles():
        log.warning("%s", trouble, extra={"run": run_id, "file_only": True})
    try:
        yield
    finally:
        log.removeHandler(handler)
        with contextlib.suppress(OSError):  # of what could not be written before, which is told
            handler.close()


class TrainingProgress:
    """Shows how far a group of runs is: a bar on a terminal, and a line for each run and epoch.

    Args:
        title: what is trained, for instance `student cnn kd`.
        epochs: how many are trained in all.
        done: how many were done before.
        steps_per_epoch: batches.
        unit: what is counted to tell the speed, for instance `img`.
    """

    def __init__(self, title: str, *, epochs: int, done: int, steps_per_epoch: int, unit: str = "img") -> None:
        self._title = title
        self._unit = unit
        self._epochs = epochs
        self._bar = tqdm(
            total=epochs * steps_per_epoch,
            initial=done * steps_per_epoch,
            desc=self._description(done),
            bar_format="{desc} {percentage:3.0f}%|{bar:10}| {elapsed}<{remaining}{postfix}",
            disable=None,  # a bar on a terminal only
            leave=False,
            dynamic_ncols=True,
        )
        if not self._bar.disable:  # tqdm reads the wall clock, and stands still where that is set back
            self._bar._time = time.monotonic
            self._bar.start_t = self._bar.last_print_t = time.monotonic()
        self._done_before = done
        self._started = time.monotonic()

    def _description(self, done: int) -> str:
        return f"{self._title} {min(done + 1, self._epochs)}/{self._epochs}"

    def step(self) -> None:
        """Every run has taken a step."""
        self._bar.update()

    def line(self, title: str, row: dict[str, Any], images_per_second: float, epochs: int) -> str:
        """An ended epoch of one run in words: losses and accuracies, speed, and the time left for the whole group.

        Args:
            title: of the run.
            row: of its metrics.
            images_per_second: while it was trained.
            epochs: it trains in all.
        """
        done = row["epoch"]
        left = (time.monotonic() - self._started) / (done - self._done_before) * (self._epochs - done)
        train = dict(row["train"])
        percent = {name: train.pop(name) for name in PERCENT if name in train}
        numbers = {
            **{name: f"{row[name]['top1']:.1f}%" for name in ("test", "val") if name in row},
            "train": f"{percent['top1']:.1f}%",
            **{name: _digits(value) for name, value in train.items()},
            **({"agreement": f"{percent['agreement']:.1f}%"} if "agreement" in percent else {}),
            f"{self._unit}/s": f"{images_per_second:.0f}",
        }
        line = "  ".join(f"{name} {value}" for name, value in numbers.items())
        self._bar.set_description(self._description(done), refresh=False)
        self._bar.set_postfix_str(line, refresh=False)
        stage = f"stage {row['stage']} " if "stage" in row else ""
        return f"{title} {stage}epoch {done:{len(str(epochs))}}/{epochs}  {line}  left {tqdm.format_interval(left)}"

    def __enter__(self) -> TrainingProgress:
        return self

    def __exit__(self, *_: object) -> None:
        self._bar.close()


def _digits(value: float) -> str:
    """A loss with three decimals, a small one with three significant digits."""
    return f"{value:.3f}" if abs(value) >= 0.1 or value == 0 else f"{value:#.3g}"


def counted(number: int, noun: str) -> str:
    """A number with its noun: `1 epoch`, `20 epochs`."""
    return f"{number} {noun}{'' if number == 1 else 's'}"
