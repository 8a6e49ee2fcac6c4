"""From specs to their results: the teachers first, by the same road, then the students, together where they can."""

from __future__ import annotations

import contextlib
from collections.abc import Iterable, Iterator, Mapping, Sequence
from pathlib import Path
from typing import Literal

import torch
from torch import Tensor, nn

from kdrun.data import Resident, TrainingViews
from kdrun.experiment.attempt import Attempt, Outcome, Request
from kdrun.experiment.build import check_tasks, conversion, needs_of
from kdrun.experiment.choices import Choices, choose, recorded_choices
from kdrun.experiment.cost import threads_for
from kdrun.experiment.environment import free_memory, reset_peak_memory
from kdrun.experiment.lockstep import check_lockstep, lockstep_groups
from kdrun.experiment.progress import TrainingProgress
from kdrun.experiment.logit_cache import ReplayStore, replay_key
from kdrun.experiment.datasets import ResidentSplits, load_resident, load_test
from kdrun.experiment.runtime import Runtime
from kdrun.experiment.speeds import keep_speed
from kdrun.experiment.teachers import load_teacher, weakness
from kdrun.log import counted, log
from kdrun.methods import Needs
from kdrun.methods.base import together
from kdrun.spec.dataset import DatasetSpec
from kdrun.spec.spec import Spec
from kdrun.store.run import Run
from kdrun.store.store import Store, begins
from kdrun.training.cuda_graphs import GraphedTeacher
from kdrun.training.evaluation import predict
from kdrun.training.precision import autocast, forbid_tf32
from kdrun.training.replay import ReplayTeacher, replays
from kdrun.training.teacher import LiveTeacher, SeveralTeachers, TeacherSource
from kdrun.training.trainer import Training, fit


class Runner:
    """Executes specs on one device, sharing data, views and teachers among those that have them in common.

    Args:
        store: where runs lie.
        runtime: where and how to compute.
        weight_files: files with weights of the user's own, by their SHA-256.
    """

    def __init__(self, store: Store, runtime: Runtime, *, weight_files: Mapping[str, Path] | None = None) -> None:
        self.store = store
        self._runtime = runtime
        self._weight_files = weight_files or {}
        self._all_threads = torch.get_num_threads()
        self._known_threads: dict[str, int] = {}
        self._data: tuple[DatasetSpec, ResidentSplits] | None = None
        self._assessed: set[str] = set()
        self._announced: dict[str, Spec] = {}
        self._trained: list[Run] = []
        forbid_tf32()

    def execute(self, spec: Spec, *, role: str = "student", config: str | None = None) -> Outcome:
        """One run to its end, see `Request`; what goes wrong is raised."""
        (ended,) = self.execute_together([Request(spec, config, role=role)])
        if isinstance(ended, Exception):
            raise ended
        return ended

    def execute_all(self, requests: Sequence[Request]) -> Iterator[tuple[Request, Outcome | Exception]]:
        """Brings every run to its end, in groups that share views and teacher (`runtime.sweep`).

        Yields:
            Each request with its outcome or with what went wrong, as its group ends.
        """
        self.announce(request.spec for request in requests)
        by_id = {request.spec.run_id: request for request in requests}
        specs = [request.spec for request in by_id.values()]
        groups = [[spec] for spec in specs]
        if self._runtime.sweep == "lockstep":
            missing = [spec for spec in specs if not self.store.run(spec).finished]
            groups = [[spec] for spec in specs if spec not in missing]
            groups += lockstep_groups(missing, self._threads, self._runtime.device)
        for group in groups:
            members = [by_id[spec.run_id] for spec in group]
            ended = self.execute_together(members)
            if any(isinstance(end, Exception) for end in ended):
                free_memory(self._runtime.device)
            yield from zip(members, ended, strict=True)

    def execute_together(self, requests: Sequence[Request]) -> list[Outcome | Exception]:
        """Brings runs that share their views, and their teacher if they have one, to their ends in lockstep.

        Returns:
            For each its outcome, or what went wrong; the failure of one leaves the others as they are.

        Raises:
            ValueError: they do not share what they must, see `check_lockstep`.
            DeviceLost: CUDA computes no more; the others are left to be resumed.
        """
        check_lockstep([(request.spec, self._threads(request.spec)) for request in requests])
        self.announce(request.spec for request in requests)
        device = self._runtime.device
        attempts = [Attempt(request, self.store.run(request.spec), device) for request in requests]
        for attempt in attempts:
            with attempt.failing_alone():  # its result is damaged
                attempt.take_finished()
        missing = _still(attempts)
        teachers = self._teachers_first([attempt for attempt in missing if attempt.run.spec.teachers])
        self._starts_first(_still(missing))
        with contextlib.ExitStack() as opened:
            # In one order for all processes, so that none waits for another that waits for it.
            for attempt in sorted(_still(missing), key=lambda attempt: attempt.run.directory):
                with attempt.failing_alone():
                    opened.enter_context(attempt.opened(self.store, self._choices(attempt.run.spec)))
            self._train(_still(missing), teachers)
        return [_ended(attempt) for attempt in attempts]

    def teachers(self, spec: Spec) -> tuple[Run, ...]:
        """The places of a run's teachers."""
        return tuple(self.store.run(teacher) for teacher in spec.teachers)

    def logits(self, spec: Spec, split: Literal["train", "val", "test"] = "test") -> tuple[Tensor, Tensor]:
        """What a finished run's network answers to a split of its dataset, and the labels.

        Returns:
            Logits `[N, K]`, float32, of the examples as they are (no augmentation); labels `[N]`.

        Raises:
            CheckpointError: the weights are not those of the result.
        """
        data = self.data(spec.dataset)
        examples = {"train": data.train, "val": data.val, "test": data.test}[split]
        assert examples is not None, "a split that is held out was asked for in preflight"
        return self.answers(spec, examples), examples.labels

    def answers(self, spec: Spec, examples: Resident) -> Tensor:
        """What a finished run's network answers to any examples: logits `[N, K]`, float32.

        Raises:
            CheckpointError: the weights are not those of the result.
        """
        return predict(self.network(spec), examples, autocast(self.device, spec.precision))

    def network(self, spec: Spec) -> nn.Module:
        """The network that a finished run trained, verified, on the device.

        Raises:
            CheckpointError: the weights are not those of the result.
        """
        torch.set_num_threads(self._threads(spec))
        run = self.store.run(spec)
        return load_teacher(run, lambda: self.data(spec.dataset).test, self.device, spec.precision)

    def data(self, dataset: DatasetSpec) -> ResidentSplits:
        """A dataset on the device; the last one is kept, since the runs of a sweep share it."""
        if self._data is None or self._data[0] != dataset:
            self._data = None  # free the old one first
            self._data = (dataset, load_resident(dataset, self.data_root, self.device))
        return self._data[1]

    @property
    def device(self) -> torch.device:
        return self._runtime.device

    @property
    def data_root(self) -> Path:
        return self._runtime.data_root

    def start(self, spec: Spec) -> Run | None:
        """The place of the run that a run starts from."""
        return None if spec.start is None else self.store.run(spec.start)

    def plan(self, specs: Sequence[Spec]) -> str:
        """What a set of runs costs: how many there are, with their teachers, and how many are finished."""
        runs = {spec.run_id: spec for spec in specs}
        teachers = {teacher.run_id: teacher for spec in specs for teacher in spec.all_before()}
        finished = [sum(self.store.run(spec).finished for spec in group.values()) for group in (runs, teachers)]
        return (
            f"{len(runs)} runs ({finished[0]} finished), "
            f"taught by {len(teachers)} teacher{'s' if len(teachers) != 1 else ''} ({finished[1]} finished)"
        )

    def _teachers_first(self, taught: Sequence[Attempt]) -> dict[str, Outcome]:
        """Brings the teachers that these attempts share to their ends; one that fails ends its students unbegun."""
        teachers = {}
        for spec in taught[0].run.spec.teachers if taught else ():
            try:
                teacher = teachers[spec.run_id] = self.execute(spec, role="teacher")
                if teacher.reused:
                    log.info("taught by %s", teacher.run.origin())
                self._tell_weakness(teacher, [attempt.run.spec for attempt in taught])
            except Exception as error:  # it stands in the teacher's own log and status
                place = self.store.run(spec).directory
                failure = RuntimeError(f"its teacher {place} failed: {type(error).__name__}: {error}")
                for attempt in taught:
                    attempt.ended = failure
                break
        return teachers

    def _tell_weakness(self, teacher: Outcome, students: Sequence[Spec]) -> None:
        """A notice, once a command, for a teacher that can hardly help these students."""
        if teacher.run.spec.run_id not in self._assessed:
            self._assessed.add(teacher.run.spec.run_id)
            weak = weakness(teacher.run, students, self.store)
            if weak is not None:
                log.info("teacher %s: %s", teacher.run.directory, weak)

    def _starts_first(self, attempts: Sequence[Attempt]) -> None:
        """Brings the runs that these attempts start from to their ends."""
        for attempt in attempts:
            start = attempt.run.spec.start
            if start is None:
                continue
            try:
                self.execute(start)
            except Exception as error:
                place = self.store.run(start).directory
                attempt.ended = RuntimeError(f"{place}, where it starts, failed: {type(error).__name__}: {error}")

    def _train(self, attempts: list[Attempt], teachers: Mapping[str, Outcome]) -> None:
        """Brings opened attempts to their ends; what fails for all of them ends them all."""
        if not attempts:
            return
        for attempt in attempts:
            attempt.lockstep = len(attempts)
        try:
            self._train_together(attempts, teachers)
        except Exception as error:
            for attempt in attempts:
                attempt.fail(error)

    def _train_together(self, attempts: list[Attempt], teachers: Mapping[str, Outcome]) -> None:
        spec, device = attempts[0].run.spec, self._runtime.device
        data = self.data(spec.dataset)
        needs = needs_of(spec)
        views = TrainingViews(
            data.train,
            spec.recipe.augmentation,
            batch_size=spec.recipe.batch_size,
            seed=spec.seed,
            views=needs.views,
            per_class=needs.per_class,
        )
        trainings: dict[Attempt, Training] = {}
        torch.set_num_threads(self._threads(spec))
        for attempt in attempts:
            with attempt.failing_alone():
                start = self.start(attempt.run.spec)
                trainings[attempt] = attempt.build(data, len(views), self._weight_files, start)
        taught = [attempt for attempt in trainings if attempt.run.spec.teachers]
        source = None
        try:
            source = self._teacher_source(trainings, teachers, data) if taught else None
        except Exception as error:
            for attempt in taught:
                attempt.fail(error)
        reset_peak_memory(device)
        done = min((len(training.rows) for training in trainings.values()), default=0)
        stop = max((attempt.run.spec.epochs_trained for attempt in trainings), default=0)
        title = attempts[0].title if len(attempts) == 1 else f"{len(attempts)} students in lockstep"
        if len(attempts) > 1:
            log.info("%d students in lockstep on the same views, %d of them taught", len(attempts), len(taught))
        unit = spec.dataset.unit
        with TrainingProgress(title, epochs=stop, done=done, steps_per_epoch=len(views), unit=unit) as progress:
            for attempt, training in trainings.items():
                attempt.tell(f"{attempt.title}: {_plan(attempt.run, len(training.rows))}")
            members = [attempt.member(trainings[attempt], data, progress) for attempt in _still(trainings)]
            fit(members, views, source, seed=spec.seed, on_step=progress.step)
        for attempt in _still(trainings):
            with attempt.failing_alone():
                results = [teachers[teacher.run_id].result for teacher in attempt.run.spec.teachers]
                attempt.finish(trainings[attempt], data, results)
                self._trained.append(attempt.run)
                keep_speed(attempt.run.spec, trainings[attempt], device)
        self._drop_checkpoints()

    def announce(self, specs: Iterable[Spec]) -> None:
        """Names runs that are to come, so that checkpoints from which they can continue are kept until then."""
        for spec in specs:
            for each in (spec, *spec.all_before()):
                self._announced[each.run_id] = each

    def _drop_checkpoints(self) -> None:
        """Drops those of runs that were trained here, but for those from which an announced run is to continue."""
        if self._runtime.keep == "all":
            return
        for run in self._trained:
            longer = (spec for spec in self._announced.values() if begins(run.spec, spec))
            if all(self.store.run(spec).finished for spec in longer):
                run.drop_checkpoints()

    def _teacher_source(
        self, trainings: Mapping[Attempt, Training], teachers: Mapping[str, Outcome], data: ResidentSplits
    ) -> TeacherSource:
        """The teacher, or the teachers, that the taught ones of these attempts share."""
        taught = [attempt for attempt in trainings if attempt.run.spec.teachers]
        for attempt in taught:
            check_tasks(attempt.run.spec, trainings[attempt].method.needs)
        needs = together([trainings[attempt].method.needs for attempt in taught])
        epochs = max(attempt.run.spec.epochs_trained for attempt in taught)
        sources = [
            self._source(taught[0], teachers[spec.run_id].run, data, needs, epochs)
            for spec in taught[0].run.spec.teachers
        ]
        return sources[0] if len(sources) == 1 else SeveralTeachers(sources)

    def _source(self, student: Attempt, teacher: Run, data: ResidentSplits, needs: Needs, epochs: int) -> TeacherSource:
        """One teacher; cached logits are replayed where a method uses nothing else of it."""
        spec, device = student.run.spec, self._runtime.device
        seen, known = spec.dataset, teacher.spec.dataset
        same_task, same_views = seen.same_task(known), seen.same_views(known)

        def test() -> Resident:
            return data.test if same_task and same_views else load_test(known, self._runtime.data_root, device)

        model = load_teacher(teacher, test, device, spec.precision)
        kind = GraphedTeacher if student.choices.cuda_graphs else LiveTeacher
        live = kind(
            model,
            autocast(device, spec.precision),
            spec.precision,
            needs,
            conversion=None if same_views else conversion(seen, known).to(device),
            same_task=same_task,
        )
        if self._runtime.replay_gb == 0 or not same_task:
            return live
        if spec.dataset.labels_each > 1:
            log.info("teacher %s is not cached: its outputs are one row for each token", teacher.directory)
            return live
        if not replays(needs):
            log.info("teacher %s is not cached: the method uses its features or weights", teacher.directory)
            return live
        kept = ReplayStore(self.store.root, 1e9 * self._runtime.replay_gb)
        recording = kept.recording(replay_key(spec, needs, teacher, device, torch.get_num_threads()))
        if kept_epochs := recording.num_kept(epochs):
            log.info("teacher %s: logits of %d/%d epochs found in the cache", teacher.directory, kept_epochs, epochs)
        return ReplayTeacher(live, recording, [needs], num_rows=needs.views * len(data.train))

    def _threads(self, spec: Spec) -> int:
        """The CPU threads of a run; worked out once, since counting MACs takes a moment."""
        if spec.run_id not in self._known_threads:
            recorded = recorded_choices(self.store.run(spec))
            device, available = self._runtime.device, self._all_threads
            self._known_threads[spec.run_id] = (
                recorded.threads if recorded else self._runtime.threads or threads_for(spec, device, available)
            )
        return self._known_threads[spec.run_id]

    def _choices(self, spec: Spec) -> Choices:
        """How a run computes: as it began, else as is chosen now."""
        torch.set_num_threads(self._threads(spec))
        return recorded_choices(self.store.run(spec)) or choose(spec, self._runtime)


def _still(attempts: Iterable[Attempt]) -> list[Attempt]:
    """Those that are on their way."""
    return [attempt for attempt in attempts if attempt.ended is None]


def _ended(attempt: Attempt) -> Outcome | Exception:
    assert attempt.ended is not None, "every attempt ends"
    return attempt.ended


def _plan(run: Run, done: int) -> str:
    resumed = f", resumed after epoch {done}" if done else ""
    stage = " of stage 1" if run.spec.stopped_in_stage1 else ""
    return f"{counted(run.spec.epochs_trained, 'epoch')}{stage} in {run.directory}{resumed}"
