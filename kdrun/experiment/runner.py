"""Executes specs: first their teachers, in the same way, then the students, in lockstep where possible."""

from __future__ import annotations

import contextlib
import dataclasses
import itertools
from collections.abc import Generator, Iterable, Iterator, Mapping, Sequence
from concurrent.futures import Executor
from pathlib import Path
from typing import Literal

import torch
from torch import Tensor, nn

from kdrun import torchrun
from kdrun.data import TrainingViews
from kdrun.experiment.attempt import Attempt, Outcome, Request
from kdrun.experiment.build import needs_of
from kdrun.experiment.choices import Choices, choose, recorded_choices, small_maps_in_nchw
from kdrun.experiment.datasets import Prepared, PreparedSplits, prepare_splits
from kdrun.experiment.environment import free_memory, reset_peak_memory
from kdrun.experiment.forecast import Forecast
from kdrun.experiment.lockstep import check_lockstep, lockstep_groups
from kdrun.experiment.notices import weakness
from kdrun.experiment.progress import TrainingProgress
from kdrun.experiment.proof import proved
from kdrun.experiment.runtime import Runtime
from kdrun.experiment.saving import writing_thread
from kdrun.experiment.sizes import available_threads, threads_for
from kdrun.experiment.speeds import keep_speed
from kdrun.experiment.teachers import load_teacher, teacher_source
from kdrun.files import sha256
from kdrun.log import counted, log
from kdrun.place import place
from kdrun.spec.augmentation import Augmentation
from kdrun.spec.dataset import DatasetSpec
from kdrun.spec.spec import Spec
from kdrun.store.run import Run
from kdrun.store.store import Store, begins
from kdrun.training.evaluation import predict
from kdrun.training.precision import autocast, prepare_device
from kdrun.training.teacher import TeacherSource
from kdrun.training.trainer import Member, fit


class Runner:
    """Executes specs on one device; runs share data, views and teachers where these are equal.

    `weight_files` are the user's own weights, by SHA-256; `forecast` is of the announced runs.
    """

    def __init__(self, store: Store, runtime: Runtime, *, weight_files: Mapping[str, Path] | None = None) -> None:
        self.store = store
        self.runtime = runtime
        self._weight_files = weight_files or {}
        self._all_threads = available_threads()
        self._known_choices: dict[str, Choices] = {}
        self._data: tuple[DatasetSpec, Augmentation, PreparedSplits] | None = None
        self._assessed: set[str] = set()
        self._announced: dict[str, Spec] = {}
        self._trained: list[Run] = []
        self.forecast = Forecast()
        prepare_device(runtime.device)

    def execute(self, spec: Spec, *, role: str = "student", config: str | None = None) -> Outcome:
        """Executes one run, see `Request`; its failure is raised."""
        (ended,) = self.execute_together([Request(spec, config, role=role)])
        if isinstance(ended, Exception):
            raise ended
        return ended

    def execute_all(
        self, requests: Sequence[Request], *, before: int = 0, total: int | None = None
    ) -> Generator[tuple[Request, Outcome | Exception], None, None]:
        """Executes runs in groups that share views and teacher (`runtime.sweep`).

        Args:
            requests: the runs.
            before: the number of the command's runs before these.
            total: the number of the command's runs; None is these.

        Yields:
            Each request, numbered, with its outcome or its failure, as its group ends.
        """
        for group in self.groups(requests, before=before, total=total):
            yield from zip(group, self.execute_group(group), strict=True)

    def groups(
        self, requests: Sequence[Request], *, before: int = 0, total: int | None = None, at_least: int = 1
    ) -> list[list[Request]]:
        """Announces and numbers runs, and divides them into groups, in lockstep finished runs first.

        Args:
            requests: the runs.
            before: as of `execute_all`.
            total: as of `execute_all`.
            at_least: number of unfinished groups, as far as there are as many runs: larger ones are halved.
        """
        self.announce(request.spec for request in requests)
        by_id = {request.spec.run_id: request for request in requests}
        specs = [request.spec for request in by_id.values()]
        groups = [[spec] for spec in specs]
        if self.runtime.sweep == "lockstep":
            missing = [spec for spec in specs if not self.store.run(spec).finished]
            together = lockstep_groups(missing, self._ordinary, self.runtime.device)
            while len(together) < min(at_least, len(missing)):
                largest = max(together, key=len)
                half, place = (len(largest) + 1) // 2, together.index(largest)
                together[place : place + 1] = [largest[:half], largest[half:]]
            groups = [[spec] for spec in specs if spec not in missing] + together
        number, total = itertools.count(before + 1), total or len(specs)
        return [
            [dataclasses.replace(by_id[spec.run_id], number=next(number), total=total) for spec in group]
            for group in groups
        ]

    def execute_group(self, requests: Sequence[Request]) -> list[Outcome | Exception]:
        """As `execute_together`; frees the memory of failed runs."""
        ended = self.execute_together(requests)
        if any(isinstance(end, Exception) for end in ended):
            free_memory(self.runtime.device)
        return ended

    def execute_together(self, requests: Sequence[Request]) -> list[Outcome | Exception]:
        """Executes runs of the same views, and of the same teacher if they have one, in lockstep.

        Returns:
            For each its outcome or its failure, which does not affect the others.

        Raises:
            ValueError: the runs cannot be trained together, see `check_lockstep`.
            DeviceLost: the device is lost; the other runs can be resumed.
        """
        check_lockstep([(request.spec, self._ordinary(request.spec)) for request in requests])
        self.announce(request.spec for request in requests)
        device = self.runtime.device
        attempts = [Attempt(request, self.store.run(request.spec), device) for request in requests]
        for attempt in attempts:
            with attempt.isolated_failure():  # a damaged result
                attempt.take_finished()
        teachers = self._teachers_first([attempt for attempt in _pending(attempts) if attempt.run.spec.teachers])
        self._starts_first(_pending(attempts))
        with contextlib.ExitStack() as opened:
            # In one order for all processes, so that none waits for another that waits for it.
            for attempt in sorted(_pending(attempts), key=lambda attempt: attempt.run.directory):
                with attempt.isolated_failure():
                    opened.enter_context(attempt.opened(self.store, self._choices(attempt.run.spec)))
            if missing := _pending(attempts):
                self._train(missing, teachers)
        self.forecast.drop(request.spec for request in requests)
        return [attempt.outcome() for attempt in attempts]

    def teachers(self, spec: Spec) -> tuple[Run, ...]:
        """A run's teachers, finished or not."""
        return tuple(self.store.run(teacher) for teacher in spec.teachers)

    def logits(self, spec: Spec, split: Literal["train", "val", "test"] = "test") -> tuple[Tensor, Tensor]:
        """The logits of a finished run's network on a split of its dataset, and the labels.

        Returns:
            Logits `[N, K]`, float32, of the examples as they are (no augmentation); labels `[N]`.
        """
        data = self.data(spec.dataset)
        examples = {"train": data.train, "val": data.val, "test": data.test}[split]
        assert examples is not None, "preflight requires a held-out split"
        return self.answers(spec, examples), examples.labels

    def answers(self, spec: Spec, examples: Prepared) -> Tensor:
        """The logits `[N, K]`, float32, of a finished run's network on any examples."""
        return predict(self.network(spec), examples, autocast(self.device, spec.precision))

    def network(self, spec: Spec) -> nn.Module:
        """The network that a finished run trained, verified, on the device.

        Raises:
            CheckpointError: the weights are not those of the result.
        """
        torch.set_num_threads(self._ordinary(spec).threads)
        run = self.store.run(spec)
        return load_teacher(
            run,
            lambda: self.data(spec.dataset).test,
            self.device,
            spec.precision,
            small_maps_nchw=self._ordinary(spec).small_maps_nchw,
        )

    def data(self, dataset: DatasetSpec, augmentation: Augmentation | None = None) -> PreparedSplits:
        """A dataset for training with an augmentation, or for evaluation; the last one is kept for the next run."""
        if self._data is not None and self._data[0] == dataset and augmentation in (None, self._data[1]):
            return self._data[2]
        if self._data is not None:
            self._data[2].close()
            self._data = None  # free the old one first
        augmentation = augmentation or Augmentation()
        with torchrun.node_first(f"data {sha256(repr(dataset).encode())}"):
            prepared = prepare_splits(dataset, self.runtime, augmentation)
        self._data = (dataset, augmentation, prepared)
        return prepared

    @property
    def device(self) -> torch.device:
        return self.runtime.device

    @property
    def data_root(self) -> Path:
        return self.runtime.data_root

    def plan(self, specs: Sequence[Spec]) -> str:
        """The numbers of runs and of their teachers, and how many of them are finished."""
        runs = {spec.run_id: spec for spec in specs}
        teachers = {teacher.run_id: teacher for spec in specs for teacher in spec.all_before()}
        finished = [sum(self.store.run(spec).finished for spec in group.values()) for group in (runs, teachers)]
        return (
            f"{len(runs)} runs ({finished[0]} finished), "
            f"taught by {len(teachers)} teacher{'s' if len(teachers) != 1 else ''} ({finished[1]} finished)"
        )

    def _teachers_first(self, taught: Sequence[Attempt]) -> dict[str, Outcome]:
        """Executes the teachers that these attempts share; the failure of one ends the attempts."""
        teachers = {}
        for spec in taught[0].run.spec.teachers if taught else ():
            try:
                teacher = teachers[spec.run_id] = self.execute(spec, role="teacher")
                if teacher.reused:
                    log.info("taught by %s", teacher.run.origin())
                self._report_weakness(teacher, [attempt.run.spec for attempt in taught])
            except Exception as error:  # recorded in the teacher's log and status
                for attempt in taught:
                    attempt.ended = self.failed_before(attempt.run.spec, spec, error)
                break
        return teachers

    def _report_weakness(self, teacher: Outcome, students: Sequence[Spec]) -> None:
        """Prints a notice, once a command, for a teacher that is too weak for these students."""
        if teacher.run.spec.run_id not in self._assessed:
            self._assessed.add(teacher.run.spec.run_id)
            weak = weakness(teacher.run, students, self.store)
            if weak is not None:
                log.info("teacher %s: %s", teacher.run.directory, weak)

    def _starts_first(self, attempts: Sequence[Attempt]) -> None:
        """Executes the runs that these attempts start from."""
        for attempt in attempts:
            start = attempt.run.spec.start
            if start is None:
                continue
            try:
                self.execute(start)
            except Exception as error:
                attempt.ended = self.failed_before(attempt.run.spec, start, error)

    def failed_before(self, spec: Spec, earlier: Spec, error: Exception) -> RuntimeError:
        """The failure of a run whose teacher, or the run that it starts from, has failed."""
        place = self.store.run(earlier).directory
        what = f"its teacher {place}" if earlier in spec.teachers else f"{place}, where it starts,"
        return RuntimeError(f"{what} failed: {type(error).__name__}: {error}")

    def _train(self, attempts: Sequence[Attempt], teachers: Mapping[str, Outcome]) -> None:
        """Trains opened attempts; a failure of what they share ends them all."""
        spec, device = attempts[0].run.spec, self.runtime.device
        for attempt in attempts:
            attempt.lockstep = len(attempts)
        with _shared_failure(attempts), writing_thread() as thread, contextlib.ExitStack() as stack:
            torchrun.post_task({"run": spec.run_id, "choices": dataclasses.asdict(attempts[0].choices)})
            data = self.data(spec.dataset, spec.recipe.augmentation)
            stack.callback(data.close)
            torch.set_num_threads(self._ordinary(spec).threads)
            with torchrun.group(device):
                members = self._fit(attempts, data, teachers, thread)
            for attempt in _pending(members):
                with attempt.isolated_failure():
                    results = [teachers[teacher.run_id].result for teacher in attempt.run.spec.teachers]
                    attempt.finish(members[attempt].training, data, results)
                    self._trained.append(attempt.run)
                    if attempt.choices.ranks == 1:
                        keep_speed(attempt.run.spec, members[attempt].training, device)
            self._drop_checkpoints()

    def _fit(
        self,
        attempts: Sequence[Attempt],
        data: PreparedSplits,
        teachers: Mapping[str, Outcome],
        thread: Executor,
    ) -> dict[Attempt, Member]:
        """Trains attempts to their end; returns the members of those that were built."""
        spec = attempts[0].run.spec
        views = training_views(data, spec)
        progress = TrainingProgress(
            _title(attempts),
            epochs=max(attempt.run.spec.epochs_trained for attempt in attempts),
            steps_per_epoch=len(views),
            unit=spec.dataset.unit,
            others=self.forecast.left({attempt.run.spec.run_id for attempt in attempts}),
        )
        members = self._build(attempts, data, len(views), progress, thread)
        source = self._teacher_source(members, teachers, data)
        reset_peak_memory(self.runtime.device)
        members = {attempt: members[attempt] for attempt in _pending(members)}
        with progress.begun(min((len(member.training.rows) for member in members.values()), default=0)):
            for attempt, member in members.items():
                attempt.report(f"{attempt.title}: {_plan(attempt.run, len(member.training.rows))}")
            runs = [(attempt.run.spec, member.training.rows) for attempt, member in members.items()]
            with self.forecast.measured(runs):
                fit(list(members.values()), views, source, seed=spec.seed, on_step=progress.step)
        return members

    def _build(
        self,
        attempts: Sequence[Attempt],
        data: PreparedSplits,
        steps_per_epoch: int,
        progress: TrainingProgress,
        thread: Executor,
    ) -> dict[Attempt, Member]:
        """The members of a group; an attempt that fails is left out."""
        members: dict[Attempt, Member] = {}
        for attempt in attempts:
            with attempt.isolated_failure():
                start = attempt.run.spec.start
                members[attempt] = attempt.build(
                    data,
                    steps_per_epoch,
                    progress,
                    thread,
                    weight_files=self._weight_files,
                    start=None if start is None else self.store.run(start),
                )
        return members

    def _teacher_source(
        self, members: Mapping[Attempt, Member], teachers: Mapping[str, Outcome], data: PreparedSplits
    ) -> TeacherSource | None:
        """The teacher, or the teachers, of a group; None without. Their failure ends the attempts that they teach."""
        taught = {attempt: member for attempt, member in members.items() if attempt.run.spec.teachers}
        if len(members) > 1:
            log.info("%d students in lockstep on the same views, %d of them taught", len(members), len(taught))
        with _shared_failure(list(taught)):
            if taught:
                specs = [attempt.run.spec for attempt in taught]
                needs = [member.training.method.needs for member in taught.values()]
                runs = [teachers[teacher.run_id].run for teacher in specs[0].teachers]
                choices = next(iter(taught)).choices
                return teacher_source(runs, specs, needs, data, self.runtime, choices)
        return None

    def announce(self, specs: Iterable[Spec]) -> None:
        """Registers future runs, so that checkpoints from which they can continue are kept until then."""
        for spec in specs:
            for each in (spec, *spec.all_before()):
                self._announced[each.run_id] = each
                if not self.store.run(each).finished:
                    self.forecast.expect(each)

    def _drop_checkpoints(self) -> None:
        """Drops the checkpoints of runs trained here, except those from which an announced run will continue."""
        if self.runtime.keep == "all":
            return
        for run in self._trained:
            longer = (spec for spec in self._announced.values() if begins(run.spec, spec))
            if all(self.store.run(spec).finished for spec in longer):
                run.drop_checkpoints()

    def _ordinary(self, spec: Spec) -> Choices:
        """A run's recorded choices, else new ones, without fast ways; cached, since counting MACs is slow."""
        if spec.run_id not in self._known_choices:
            recorded, device = self._recorded(spec), self.runtime.device
            self._known_choices[spec.run_id] = (
                recorded.ordinary
                if recorded
                else Choices(
                    self.runtime.threads or threads_for(spec, device, self._all_threads),
                    small_maps_nchw=small_maps_in_nchw(spec, device),
                )
            )
        return self._known_choices[spec.run_id]

    def _choices(self, spec: Spec) -> Choices:
        """A run's recorded choices, else new ones."""
        torch.set_num_threads(self._ordinary(spec).threads)
        recorded = self._recorded(spec, to_train=True)
        return recorded or proved(spec, choose(spec, self.runtime), self.runtime.device)

    def _recorded(self, spec: Spec, *, to_train: bool = False) -> Choices | None:
        """A run's recorded choices; None where it was never begun, or on another number of ranks."""
        recorded = recorded_choices(self.store.run(spec), to_train=to_train)
        ranks = place().ranks
        if recorded is None or recorded.ranks == ranks:
            return recorded
        if to_train:
            directory, began = self.store.run(spec).directory, counted(recorded.ranks, "rank")
            log.info("%s: began on %s, continues on %d: equal up to rounding", directory, began, ranks)
        return None


def _pending(attempts: Iterable[Attempt]) -> list[Attempt]:
    """The attempts that have not ended."""
    return [attempt for attempt in attempts if attempt.ended is None]


@contextlib.contextmanager
def _shared_failure(attempts: Sequence[Attempt]) -> Iterator[None]:
    """A context whose exceptions end all of these attempts."""
    try:
        yield
    except Exception as error:
        for attempt in attempts:
            attempt.fail(error)


def training_views(data: PreparedSplits, spec: Spec) -> TrainingViews:
    """The batches that the members of a group share."""
    needs = needs_of(spec)
    return TrainingViews(
        data.train,
        spec.recipe.augmentation,
        batch_size=spec.recipe.batch_size,
        seed=spec.seed,
        views=needs.views,
        per_class=needs.per_class,
    )


def _title(attempts: Sequence[Attempt]) -> str:
    """A group's name in messages."""
    if len(attempts) == 1:
        return attempts[0].title
    first, last = attempts[0].request, attempts[-1].request
    place = f"[{first.number}-{last.number}/{first.total}] " if first.total else ""
    return f"{place}{len(attempts)} students in lockstep"


def _plan(run: Run, done: int) -> str:
    resumed = f", resumed after epoch {done}" if done else ""
    stage = " of stage 1" if run.spec.stopped_in_stage1 else ""
    return f"{counted(run.spec.epochs_trained, 'epoch')}{stage} in {run.directory}{resumed}"
