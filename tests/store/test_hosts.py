"""Processes that pretend to be hosts of one output root, on file systems whose locks reach them or not."""

import errno
import os
import socket
import subprocess
import sys
import time
from collections.abc import Callable

import pytest

from kdrun import files
from kdrun.spec.dataset import ImageDatasetSpec
from kdrun.spec.spec import Component, Spec
from kdrun.store import heartbeat
from kdrun.store import run as run_module
from kdrun.store.run import Run
from kdrun.store.store import Store

SPEC = Spec(
    ImageDatasetSpec("kdrun.data.synthetic", "none", 4, 1, 8, 64, 40, (0.5,), (0.25,)),
    Component("kdrun.models.cnn"),
    Component("kdrun.methods.CE"),
)
DEAD = 2.0
HOST = """
import datetime, json, os, socket, sys, time
from pathlib import Path
from kdrun.spec.spec import Spec
from kdrun.store import heartbeat, run as run_module

directory, name, locks, hours = sys.argv[1:]
socket.gethostname = lambda: name
heartbeat.BEAT_SECONDS, heartbeat.DEAD_SECONDS = 0.1, 2.0
run_module.CLAIM_SECONDS, run_module.POLL_SECONDS = 1.0, 0.1
if locks != "shared":
    run_module.try_lock = lambda *_, **__: True if locks == "local" else None
now, clock = datetime.datetime.now, time.time
time.time = lambda: clock() + 3600 * float(hours)
class Shifted(datetime.datetime):
    @classmethod
    def now(cls, tz=None):
        return now(tz) + datetime.timedelta(hours=float(hours))
run_module.datetime = Shifted

def say(word):
    print(word, flush=True)

run = run_module.Run(Path(directory), Spec.from_canonical(json.loads((Path(directory) / "spec.json").read_text())))
say("ready")
sys.stdin.readline()
with run.lock(lambda status: say(f"waits for {status.get('host')}")):
    run.write_status("running")
    with open(Path(directory) / "order", "a") as order:
        order.write(f"+{name}\\n")
    say("holds")
    sys.stdin.readline()
    with open(Path(directory) / "order", "a") as order:
        order.write(f"-{name}\\n")
    run.write_status("interrupted")
"""


class Host:
    """A process that waits for a line before it takes the run, and for another before it leaves it."""

    def __init__(self, run: Run, name: str, locks: str, hours: float = 0.0) -> None:
        command = [sys.executable, "-c", HOST, str(run.directory), name, locks, str(hours)]
        self.process = subprocess.Popen(command, stdin=subprocess.PIPE, stdout=subprocess.PIPE, text=True)
        assert self.heard() == "ready"

    def heard(self) -> str:
        return self.process.stdout.readline().strip()

    def go_on(self) -> None:
        self.process.stdin.write("\n")
        self.process.stdin.flush()


@pytest.fixture
def run(tmp_path, monkeypatch) -> Run:
    run = Store(tmp_path).run(SPEC)
    run.open(config=None)
    monkeypatch.setattr(heartbeat, "DEAD_SECONDS", DEAD)
    return run


@pytest.fixture
def host(run):
    """Starts hosts, and ends them."""
    hosts = []

    def start(name: str, locks: str, hours: float = 0.0) -> Host:
        hosts.append(Host(run, name, locks, hours))
        return hosts[-1]

    yield start
    for each in hosts:
        each.process.kill()
        each.process.wait()
        each.process.stdin.close()
        each.process.stdout.close()


@pytest.fixture
def seen_with(monkeypatch) -> Callable[[str], None]:
    """What this process, another host, sees of locks."""

    def see(locks: str) -> None:
        if locks != "shared":
            monkeypatch.setattr(run_module, "try_lock", lambda *_, **__: True if locks == "local" else None)

    return see


@pytest.mark.parametrize("locks", ["shared", "local", "none"])
def test_a_run_belongs_to_one_host_at_a_time_whatever_locks_and_clocks_are(run, host, seen_with, locks):
    """Locks that hosts share, that are each host's own, or that do not exist; clocks that differ by hours."""
    one, other = host("one", locks, -7.0), host("other", locks, 5.0)
    one.go_on()
    assert one.heard() == "holds"
    other.go_on()
    assert other.heard() == "waits for one"
    seen_with(locks)
    assert run.state == "running"
    assert run.remove() is False
    if locks != "shared":
        time.sleep(DEAD + 0.5)
    assert run.state == "running", "it goes on as long as it beats"
    one.go_on()
    assert other.heard() == "holds"
    other.go_on()
    assert other.process.wait(timeout=30) == one.process.wait(timeout=30) == 0
    assert (run.directory / "order").read_text().split() == ["+one", "-one", "+other", "-other"]
    assert run.state == "interrupted"
    assert run.remove() is True


@pytest.mark.parametrize("locks", ["local", pytest.param("none", marks=pytest.mark.slow)])
def test_the_run_of_a_dead_host_is_free_when_it_has_not_beaten_for_long(run, host, seen_with, locks):
    one = host("one", locks, 9.0)
    one.go_on()
    assert one.heard() == "holds"
    one.process.kill()
    seen_with(locks)
    assert run.state == "running"
    other = host("other", locks)
    other.go_on()
    assert other.heard() == "waits for one"
    assert other.heard() == "holds"
    age = time.time() - os.stat(run.directory / "order").st_mtime
    assert age < 30
    other.process.kill()
    time.sleep(DEAD + 0.5)
    assert run.state == "stale"


def test_hosts_that_begin_at_the_same_time_without_locks_take_turns(run, host):
    hosts = [host(f"host{number}", "none") for number in range(3)]
    for each in hosts:
        each.go_on()
        each.go_on()  # leaves as soon as it has it
    for each in hosts:
        assert each.process.wait(timeout=60) == 0
    order = (run.directory / "order").read_text().split()
    assert sorted(order[::2]) == ["+host0", "+host1", "+host2"]
    assert [f"-{name[1:]}" for name in order[::2]] == order[1::2], "one after the other"


def test_a_process_of_this_host_is_as_dead_as_its_lock_says(run, monkeypatch):
    """No sign of life of a killed process is waited for where its lock, or its number, tells."""
    with run.lock(lambda _: None):
        run.write_status("running")
    assert run.state == "stale"
    monkeypatch.setattr(socket, "gethostname", lambda: "another")
    assert run.state == "running", "its lock may not reach this host"


def test_a_file_that_another_host_replaces_while_it_is_read_is_read_again(run, monkeypatch):
    run.write_status("running")
    calls, read_rest = [], files.read_rest

    def stale(file, size):
        calls.append(size)
        if len(calls) < 3:
            raise OSError(errno.ESTALE, "Stale file handle")
        return read_rest(file, size)

    monkeypatch.setattr(files, "read_rest", stale)
    assert run.status()["state"] == "running"
    assert len(calls) == 3
    monkeypatch.setattr(files, "read_rest", lambda *_: (_ for _ in ()).throw(OSError(errno.ESTALE, "Stale")))
    assert "Stale" in run.status()["damaged"]
