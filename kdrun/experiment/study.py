"""One of Optuna's studies, shared by processes and machines through files under one output root.

A trial belongs to the process whose name it carries as `worker`, as long as that process holds the lock of its file:
the trial of a killed process is continued by the next that looks for one. Optuna is imported where it is used.
"""

from __future__ import annotations

import contextlib
import time
import uuid
from collections.abc import Iterator
from pathlib import Path
from typing import Any

from kdrun import stopping
from kdrun.files import DamagedError, try_lock
from kdrun.seeds import mix

JOURNAL = "journal.log"
WORKER = "worker"


class SharedStudy:
    """A study that maximizes; all values that are drawn follow from the trials before and the trial's number.

    Attributes:
        study: Optuna's.
        failed: trials of this process that failed; another command tries new settings instead.
    """

    def __init__(self, directory: Path, worker: str) -> None:
        import optuna
        from optuna.storages import JournalStorage
        from optuna.storages.journal import JournalFileBackend

        optuna.logging.set_verbosity(optuna.logging.WARNING)
        self._directory, self._worker = directory, worker
        self.failed = 0
        with self._alone():
            try:
                self.study = optuna.create_study(
                    # Optuna's lock is a link to the journal, and expires by its time: it must lead there.
                    storage=JournalStorage(JournalFileBackend(str(directory.absolute() / JOURNAL))),
                    pruner=optuna.pruners.MedianPruner(),
                    study_name=directory.name,
                    direction="maximize",
                    load_if_exists=True,
                )
            except (KeyError, TypeError, ValueError) as error:
                raise DamagedError(f"{directory / JOURNAL} is damaged ({error}); move it away to begin anew") from error

    @classmethod
    @contextlib.contextmanager
    def opened(cls, directory: Path) -> Iterator[SharedStudy]:
        """The study of a directory, which is created; in this context this process has its trials.

        Raises:
            DamagedError: its journal cannot be read.
            OSError: the directory cannot be written, or its file system has no locks.
        """
        directory.mkdir(parents=True, exist_ok=True)
        worker = f"worker-{uuid.uuid4().hex}.lock"
        try:
            with _locked(directory / worker):
                yield cls(directory, worker)
        finally:
            (directory / worker).unlink(missing_ok=True)

    def claim(self, trials: int) -> Any:
        """A trial to execute: one of a process that is gone, else a new one while there are fewer than `trials`.

        Failed trials of other commands do not count. Returns None where there is none.
        """
        from optuna.samplers import TPESampler
        from optuna.trial import Trial, TrialState

        with self._alone():
            known = self.study.get_trials(deepcopy=False)
            left = [trial for trial in self._running() if not self._is_held(trial)]
            count = sum(trial.state != TrialState.FAIL for trial in known) + self.failed
            if left:
                trial = Trial(self.study, left[0]._trial_id)
            elif count < trials:
                trial = self.study.ask()
            else:
                return None
            trial.set_user_attr(WORKER, self._worker)
        self.study.sampler = TPESampler(seed=mix("search", trial.number) % 2**32)
        return trial

    def running(self) -> list[int]:
        """The numbers of the trials under way."""
        return [trial.number for trial in self._running()]

    def report(self, trial: Any, value: float, epoch: int) -> bool:
        """Records the objective after an epoch, once; returns whether the trial should be pruned."""
        if epoch not in self.study.get_trials(deepcopy=False)[trial.number].intermediate_values:
            trial.report(value, epoch)
        return bool(trial.should_prune())

    def best(self) -> Any:
        """The finished trial with the greatest value, the first of equals; None where none has finished."""
        from optuna.trial import TrialState

        finished: list[Any] = self.study.get_trials(deepcopy=False, states=(TrialState.COMPLETE,))
        return max(finished, key=lambda trial: trial.value, default=None)

    def tell(self, trial: Any, value: float | None = None, *, pruned: bool = False) -> None:
        """Ends a trial: with its value, pruned, or failed."""
        from optuna.trial import TrialState

        state = TrialState.PRUNED if pruned else TrialState.FAIL if value is None else None
        self.failed += state == TrialState.FAIL
        with stopping.deferred():
            self.study.tell(trial, value, state=state)

    def _running(self) -> list[Any]:
        from optuna.trial import TrialState

        running: list[Any] = self.study.get_trials(deepcopy=False, states=(TrialState.RUNNING,))
        return running

    def _is_held(self, trial: Any) -> bool:
        """Whether the process of a trial lives."""
        worker = self._directory / trial.user_attrs.get(WORKER, "")
        try:
            with worker.open("rb") as file:
                held = try_lock(file.fileno(), shared=True) is False
        except (FileNotFoundError, IsADirectoryError):
            return False
        if not held:
            worker.unlink(missing_ok=True)
        return held

    @contextlib.contextmanager
    def _alone(self) -> Iterator[None]:
        """In this context no other process claims a trial, and a signal waits."""
        with stopping.deferred(), _locked(self._directory / ".lock"):
            yield


@contextlib.contextmanager
def _locked(path: Path) -> Iterator[None]:
    with path.open("ab") as file:
        while (locked := try_lock(file.fileno())) is False:
            time.sleep(0.02)
        if locked is None:
            raise OSError(f"{path}: this file system has no locks (flock), without which a search cannot be shared")
        yield
