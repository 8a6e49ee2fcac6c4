"""Progress of a training: a bar on a terminal, one plain line per epoch elsewhere."""

from __future__ import annotations

import contextlib
import time
from collections.abc import Iterator
from typing import Any

from tqdm import tqdm

from kdrun.training.step import PERCENT


class TrainingProgress:
    """Shows how far a group of runs is: a bar on a terminal, and a line for each run and epoch.

    Args:
        title: of the group.
        epochs: of its longest run.
        steps_per_epoch: of each run.
        unit: of the examples, in the speed.
        others: seconds that the command's later runs will take; None if that is not known or there are none.
    """

    def __init__(
        self, title: str, *, epochs: int, steps_per_epoch: int, unit: str = "img", others: float | None = None
    ) -> None:
        self._title = title
        self._others = others
        self._unit = unit
        self._epochs = epochs
        self._steps_per_epoch = steps_per_epoch

    @contextlib.contextmanager
    def begun(self, done: int) -> Iterator[None]:
        """Shows the training that happens in this context, after `done` epochs of earlier processes."""
        self._done_before = done
        self._started = time.monotonic()
        self._bar = tqdm(
            total=self._epochs * self._steps_per_epoch,
            initial=done * self._steps_per_epoch,
            desc=self._description(done),
            bar_format="{desc} {percentage:3.0f}%|{bar:10}| {elapsed}<{remaining}{postfix}",
            disable=None,  # a bar on a terminal only
            leave=False,
            dynamic_ncols=True,
        )
        if not self._bar.disable:  # tqdm reads the wall clock, and stands still where that is set back
            self._bar._time = time.monotonic
            self._bar.start_t = self._bar.last_print_t = time.monotonic()
        with contextlib.closing(self._bar):
            yield

    def _description(self, done: int) -> str:
        return f"{self._title} {min(done + 1, self._epochs)}/{self._epochs}"

    def step(self) -> None:
        """Every run has taken a step."""
        self._bar.update()

    def line(self, title: str, row: dict[str, Any], images_per_second: float, epochs: int) -> str:
        """An ended epoch of one run in words: losses and accuracies, speed, the time left for the group and for all."""
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
        stage = f"stage {row['stage']} " if "stage" in row else ""
        whole = [] if self._others is None else [f"all runs {tqdm.format_interval(left + self._others)}"]
        self._bar.set_description_str(self._description(done), refresh=False)
        self._bar.set_postfix_str("  ".join([*whole, line]), refresh=False)  # a terminal cuts off its end
        times = ", ".join([f"left {tqdm.format_interval(left)}", *whole])
        return f"{title} {stage}epoch {done:{len(str(epochs))}}/{epochs}  {line}  {times}"


def _digits(value: float) -> str:
    """A loss with three decimals, a small one with three significant digits."""
    return f"{value:.3f}" if abs(value) >= 0.1 or value == 0 else f"{value:#.3g}"
