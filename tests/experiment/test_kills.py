"""Killed with -9 at random moments and started again until it is done, a run ends with the bytes it has undisturbed."""

import collections
import mmap
import os
import random
import signal
import time
from collections.abc import Callable, Iterator

import pytest

from kdrun import methods
from kdrun.spec.spec import Spec
from kdrun.store import checkpoint
from kdrun.training import trainer
from kdrun.training.step import Step

PHASES = ("start", "teacher", "student", "evaluation", "saving")
BEYOND = 1.3  # a kill comes at a moment up to so many times the undisturbed duration


class Child:
    """A process that executes runs and says in shared memory what it is doing."""

    def __init__(self, execute: Callable[[], None]) -> None:
        self._phase = mmap.mmap(-1, 1)
        self._process = os.fork()
        if self._process == 0:
            code = 1
            try:
                self._watch()
                execute()
                code = 0
            finally:
                os._exit(code)

    def _watch(self) -> None:
        def told(function, phase_of):
            def wrapped(*arguments, **options):
                before = self._phase[0]
                self._phase[0] = PHASES.index(phase_of(*arguments))
                try:
                    return function(*arguments, **options)
                finally:
                    self._phase[0] = before

            return wrapped

        def whose(step, *_):
            return "student" if step.method.needs.teacher else "teacher"

        # In a process of its own, which is not handed back.
        Step.__call__ = told(Step.__call__, whose)
        trainer.evaluate = told(trainer.evaluate, lambda *_: "evaluation")
        checkpoint.save = told(checkpoint.save, lambda *_: "saving")

    def kill_after(self, seconds: float) -> str | None:
        """What it was doing when it was killed; None if it had come to its end."""
        deadline = time.monotonic() + seconds
        while time.monotonic() < deadline:
            process, status = os.waitpid(self._process, os.WNOHANG)
            if process:
                assert status == 0, "it failed"
                return None
            time.sleep(0.001)
        os.kill(self._process, signal.SIGKILL)
        if os.waitpid(self._process, 0)[1] == 0:
            return None
        return PHASES[self._phase[0]]


def killed_again_and_again(execute: Callable[[], None], duration: float, rng: random.Random) -> Iterator[str]:
    """Starts it until it comes to its end; yields the phase of each kill."""
    while (phase := Child(execute).kill_after(rng.uniform(0, BEYOND * duration))) is not None:
        yield phase


def specs_of(lab) -> dict[str, list[Spec]]:
    """Every method, and groups in lockstep: of one stage, and of one and two."""
    alone = {name: [lab.every(name)] for name in methods.shipped_methods()}
    group = [lab.taught(temperature=2.0), lab.taught("cnn", temperature=8.0), lab.plain()]
    return {**alone, "lockstep": group, "stages": [lab.every(name) for name in ("fsp", "at", "weight_distillation")]}


def told_of(run) -> dict:
    """Its result but for times, and for the commit of the checkout, which may move during a long test."""
    result = run.result()
    del result["train"], result["finished"], result["environment"]["git"]
    return result


def survive(lab, name: str, rng: random.Random, place: str, durations: dict[str, float]) -> tuple[list[str], list[str]]:
    """One row of kills; returns their phases, and in what the runs differ from undisturbed ones.

    `durations` keeps how long these take.
    """
    specs = specs_of(lab)[name]

    def execute(where: str) -> None:
        for ended in lab.execute_all(specs, where):
            if isinstance(ended, Exception):
                raise ended

    whole = f"whole {name}"
    if name not in durations:
        started = time.monotonic()
        execute(whole)
        durations[name] = time.monotonic() - started
    phases = list(killed_again_and_again(lambda: execute(place), durations[name], rng))
    teachers = [teacher for spec in specs for teacher in spec.teachers]
    differences = []
    for each in [*specs, *teachers]:
        run, undisturbed = lab.run(each, place), lab.run(each, whole)
        equal = {
            "bytes": lab.bits(run) == lab.bits(undisturbed),
            "result": told_of(run) == told_of(undisturbed),
            "status": run.status()["state"] == "finished",
            "leftovers": not list(run.directory.rglob(".*.tmp")),
        }
        differences += [f"{what} of {run.directory}" for what, holds in equal.items() if not holds]
    return phases, differences


@pytest.mark.parametrize("name", ["fitnet", "lockstep"])
def test_a_run_survives_kills(lab, name):
    rng, durations = random.Random(0), {}
    phases: list[str] = []
    while len(phases) < 2:
        kills, differences = survive(lab, name, rng, f"killed after {len(phases)}", durations)
        assert differences == []
        phases += kills


@pytest.mark.slow
def test_a_hundred_kills_in_every_phase(lab, capsys):
    rng, durations = random.Random(1), {}
    phases: collections.Counter[str] = collections.Counter()
    names = list(specs_of(lab))
    trial = 0
    while phases.total() < 100 or min(phases[phase] for phase in PHASES[1:]) < 10:
        kills, differences = survive(lab, names[trial % len(names)], rng, f"trial {trial}", durations)
        assert differences == []
        phases.update(kills)
        trial += 1
    with capsys.disabled():
        print(f"\n{phases.total()} kills in {trial} trials, all survived: {dict(phases)}")
