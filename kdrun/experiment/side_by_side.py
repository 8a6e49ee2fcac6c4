"""Executes the runs of a command side by side on several devices of one machine, with a process for each device.

The command's own process plans: it divides the runs into groups as for one device, starts a device's process when it
first has work for it, and hands it a group as soon as the runs that this needs have ended. A process executes its
groups by an ordinary `Runner`, whose locks and files protect the runs; the command prints its messages.
"""

from __future__ import annotations

import contextlib
import dataclasses
import io
import logging
import multiprocessing
import os
import signal
import sys
import threading
from collections.abc import Generator, Iterator, Mapping, Sequence
from dataclasses import dataclass
from multiprocessing.connection import Connection, wait
from multiprocessing.process import BaseProcess
from pathlib import Path
from typing import Any

import torch

from kdrun import redaction, stopping
from kdrun.experiment.attempt import Outcome, Request
from kdrun.experiment.forecast import Forecast
from kdrun.experiment.runner import Runner
from kdrun.experiment.runtime import Runtime
from kdrun.log import log, set_up_console
from kdrun.spec.spec import Spec
from kdrun.stopping import DeviceLost, Stopped, stop_behind
from kdrun.store.store import Store, begins

MOST_LOSSES = 2
"""Processes of a device that end unexpectedly, one after the other, before the device is given up."""


class SideBySideRunner(Runner):
    """A `Runner` whose `execute_all` uses every device of `runtime.devices`; all else is done on the first."""

    def __init__(self, store: Store, runtime: Runtime, *, weight_files: Mapping[str, Path] | None = None) -> None:
        super().__init__(store, runtime, weight_files=weight_files)
        self.forecast = Forecast(len(runtime.devices))

    def execute_all(
        self, requests: Sequence[Request], *, before: int = 0, total: int | None = None
    ) -> Generator[tuple[Request, Outcome | Exception], None, None]:
        """As of `Runner`; a single run is executed in this process.

        Raises:
            DeviceLost: the processes of all devices have ended unexpectedly; the other runs can be resumed.
        """
        if len(requests) == 1:
            yield from super().execute_all(requests, before=before, total=total)
            return
        unfinished = []
        for group in self.groups(requests, before=before, total=total, at_least=len(self.runtime.devices)):
            if all(self.store.run(request.spec).finished for request in group):
                yield from zip(group, self.execute_group(group), strict=True)
            else:
                unfinished.append(group)
        waiting = self._planned(unfinished)
        work = _Work(self.store, self.runtime, self._weight_files, self._all_threads, redaction.noted())
        with contextlib.closing(_Pool(work, self.runtime.devices)) as pool:
            while waiting or pool.running:
                left = {unit.run_id for unit in (*waiting, *pool.running) if not unit.is_requested}
                for unit in [unit for unit in waiting if not unit.awaits & left]:
                    if pool.start(unit):
                        waiting.remove(unit)
                for unit, ended, trained in pool.ended():
                    self.forecast.trained += trained
                    yield from self._settled(unit, ended, waiting)
                self._drop_checkpoints()
                waiting = [unit for unit in waiting if unit.requests]

    def _planned(self, groups: Sequence[list[Request]]) -> list[_Unit]:
        """Runs that other runs need and that are not finished, each by itself; behind them the groups."""
        earlier: dict[str, Spec] = {}
        for spec in (spec for group in groups for request in group for spec in request.spec.all_before()):
            if not self.store.run(spec).finished:
                earlier[spec.run_id] = spec
        units = []
        for spec in earlier.values():
            # A longer training continues from a shorter one.
            shorter = [each for each in earlier.values() if each.stop_epoch and begins(each, spec)]
            awaits = {each.run_id for each in (*spec.before, *shorter)}
            units.append(_Unit([Request(spec, role="teacher")], awaits, is_requested=False))
        for group in groups:
            specs = [request.spec for request in group]
            awaits = {each.run_id for spec in specs for each in (spec, *spec.before)}
            units.append(_Unit(group, awaits, is_requested=True))
        return units

    def _settled(
        self, unit: _Unit, ended: Sequence[Outcome | Exception], waiting: Sequence[_Unit]
    ) -> Iterator[tuple[Request, Outcome | Exception]]:
        """The ends of requested runs; those that need a failed run have failed, too, and leave their units."""
        self.forecast.drop(request.spec for request in unit.requests)
        for request, end in zip(unit.requests, ended, strict=True):
            spec = request.spec
            if isinstance(end, Outcome) and not end.reused:
                self._trained.append(end.run)
            if unit.is_requested:
                yield request, end
            elif isinstance(end, Exception):
                for other in waiting:
                    if (lost := other.without(spec)).requests:
                        failures = [self.failed_before(each.spec, spec, end) for each in lost.requests]
                        yield from self._settled(lost, failures, waiting)


@dataclass
class _Unit:
    """Runs that one process executes together.

    Attributes:
        requests: the runs.
        awaits: the run_ids of runs that must have ended before.
        is_requested: whether the command is for these runs; otherwise one run that others need.
    """

    requests: list[Request]
    awaits: set[str]
    is_requested: bool

    @property
    def run_id(self) -> str:
        return self.requests[0].spec.run_id

    def without(self, spec: Spec) -> _Unit:
        """Removes the runs that need `spec` directly, and returns them."""
        lost = [request for request in self.requests if spec in request.spec.before]
        self.requests = [request for request in self.requests if request not in lost]
        return dataclasses.replace(self, requests=lost)


@dataclass(frozen=True)
class _Work:
    """What all processes have in common.

    Attributes:
        store: of the runs.
        runtime: of the command.
        weight_files: the user's own weights, by SHA-256.
        threads: all that a run can have on the CPU: as in the command's process, since they decide last bits.
        variables: read from the environment, as `redaction.noted` returns them.
    """

    store: Store
    runtime: Runtime
    weight_files: Mapping[str, Path]
    threads: int
    variables: Mapping[str, str]


class _Device:
    """A device with its process.

    Attributes:
        name: for messages.
        process: None before the first unit, and after an unexpected end.
        connection: to the process.
        unit: under way; None if the process is idle.
        losses: processes that have ended unexpectedly since a unit has ended.
    """

    def __init__(self, name: str, device: torch.device) -> None:
        self.name, self.device = name, device
        self.process: BaseProcess | None = None
        self.connection: Connection
        self.unit: _Unit | None = None
        self.losses = 0


_Ended = tuple[_Unit, list[Outcome | Exception], list[Any]]


class _Pool:
    """The processes of several devices.

    A process stops, as by SIGTERM, when the other end of its `command` pipe is closed: by `close`, or by the kernel
    when the process of the command has been killed.
    """

    def __init__(self, work: _Work, devices: Sequence[torch.device]) -> None:
        self._work = work
        self._context = multiprocessing.get_context("spawn")
        self._command, self._open = self._context.Pipe(duplex=False)
        names = [
            f"{device} {devices[: i + 1].count(device)}" if devices.count(device) > 1 else str(device)
            for i, device in enumerate(devices)
        ]
        self._devices = [_Device(name, device) for name, device in zip(names, devices, strict=True)]

    @property
    def running(self) -> list[_Unit]:
        """The units under way."""
        return [device.unit for device in self._devices if device.unit is not None]

    def start(self, unit: _Unit) -> bool:
        """Gives a unit to an idle device, rather one with a process; False where there is none.

        Raises:
            DeviceLost: all devices have been given up.
        """
        usable = [device for device in self._devices if device.losses < MOST_LOSSES]
        if not usable:
            raise DeviceLost("the processes of all devices have ended: the rest is pending")
        idle = sorted((each for each in usable if each.unit is None), key=lambda device: device.process is None)
        if not idle:
            return False
        device = idle[0]
        if device.process is None:
            self._begin(device)
        device.unit = unit
        with contextlib.suppress(OSError):  # it has ended, which `ended` finds
            device.connection.send(unit.requests)
        return True

    def _begin(self, device: _Device) -> None:
        runtime = dataclasses.replace(self._work.runtime, device=device.device, devices=(), keep="all")
        device.connection, theirs = self._context.Pipe()
        work = dataclasses.replace(self._work, runtime=runtime)
        device.process = self._context.Process(target=_execute, args=(work, theirs, self._command), name=device.name)
        device.process.start()
        theirs.close()

    def ended(self) -> Iterator[_Ended]:
        """Waits for messages and prints them; the units that have ended, each with its part of `Forecast.trained`."""
        by_connection = {device.connection: device for device in self._devices if device.process is not None}
        for connection in wait(list(by_connection)):
            device = by_connection[connection]  # type: ignore[index]  # these are connections
            try:
                message = device.connection.recv()
            except (EOFError, OSError):
                yield from self._lost(device)
                continue
            if isinstance(message, _Line):
                log.log(message.level, "%s | %s", device.name, message.text)
                continue
            ends, trained = message
            unit, device.unit, device.losses = device.unit, None, 0
            assert unit is not None
            runs = [self._work.store.run(request.spec) for request in unit.requests]
            outcomes: list[Outcome | Exception] = [
                type(end[0], (RuntimeError,), {})(end[1]) if isinstance(end, tuple) else Outcome(run, **end)
                for run, end in zip(runs, ends, strict=True)
            ]
            yield unit, outcomes, trained

    def _lost(self, device: _Device) -> Iterator[_Ended]:
        """The end of a process: its unfinished runs have failed."""
        assert device.process is not None
        device.process.join()
        code = device.process.exitcode or 0
        how = f"was ended by {signal.Signals(-code).name}" if code < 0 else f"ended with exit code {code}"
        device.connection.close()
        device.process = None
        device.losses += 1
        unit, device.unit = device.unit, None
        given_up = ", the device is given up" if device.losses == MOST_LOSSES else ""
        log.error("%s: its process %s%s", device.name, how, given_up)
        if unit is not None:
            runs = [self._work.store.run(request.spec) for request in unit.requests]
            error = RuntimeError(f"the process of {device.name} {how}")
            yield unit, [Outcome(run, run.result(), reused=False) if run.finished else error for run in runs], []

    def close(self) -> None:
        """Stops all processes, and waits for them; a signal meanwhile is passed on to them."""
        self._open.close()
        again: Stopped | None = None
        for device in self._devices:
            while device.process is not None:
                try:
                    if isinstance(message := device.connection.recv(), _Line):
                        log.log(message.level, "%s | %s", device.name, message.text)
                except (EOFError, OSError):
                    device.process.join()
                    device.process = None
                except Stopped as stop:
                    again = stop
                    for each in self._devices:
                        if each.process is not None:
                            each.process.terminate()
        self._command.close()
        if again is not None:
            raise again


@dataclass(frozen=True)
class _Line:
    """A line that a process prints, with its level in the log."""

    level: int
    text: str


class _Lines(io.TextIOBase):
    """A stream, no terminal, whose lines are sent to the command."""

    def __init__(self, channel: _Channel, level: int) -> None:
        self._channel, self._level, self._begun = channel, level, ""

    def write(self, text: str) -> int:
        *lines, self._begun = (self._begun + text).split("\n")
        for line in lines:
            with contextlib.suppress(OSError):  # the command is gone, and this process stops
                self._channel.send(_Line(self._level, line))
        return len(text)


class _Channel:
    """A connection for several threads; no signal cuts a message short."""

    def __init__(self, connection: Connection) -> None:
        self._connection = connection
        self._lock = threading.Lock()

    def send(self, message: Any) -> None:
        before = signal.pthread_sigmask(signal.SIG_BLOCK, stopping.SIGNALS)
        try:
            with self._lock:
                self._connection.send(message)
        finally:
            signal.pthread_sigmask(signal.SIG_SETMASK, before)


def _execute(work: _Work, connection: Connection, command: Connection) -> None:
    """Executes the groups that a connection brings, until the command ends this process."""
    try:
        stopping.listen()
        channel = _Channel(connection)
        sys.stdout, sys.stderr = _Lines(channel, logging.INFO), _Lines(channel, logging.ERROR)
        set_up_console()
        for value, name in work.variables.items():
            redaction.note(name, value)
        threading.Thread(target=_stop_after, args=(command,), daemon=True).start()
        torch.set_num_threads(work.threads)
        runner = Runner(work.store, work.runtime, weight_files=work.weight_files)
        while True:
            ended = runner.execute_group(connection.recv())
            ends = [
                (type(end).__name__, str(end))
                if isinstance(end, Exception)
                else {"result": end.result, "reused": end.reused}
                for end in ended
            ]
            channel.send((ends, runner.forecast.trained))
            runner.forecast.trained = []
    except DeviceLost as lost:
        log.error("%s", lost)
        raise SystemExit(1) from None
    except BaseException as error:
        stop = stop_behind(error)
        if stop is None:
            raise
        raise SystemExit(128 + stop.number) from None


def _stop_after(command: Connection) -> None:
    """Stops this process, unless a signal already has, when the command's end of a pipe is closed."""
    with contextlib.suppress(EOFError):
        command.recv()
    if not stopping.is_requested():
        os.kill(os.getpid(), signal.SIGTERM)
