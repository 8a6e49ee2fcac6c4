"""What holds for every test."""

import signal
from collections.abc import Callable
from pathlib import Path

import pytest
import torch

from kdrun import stopping
from kdrun.cli import main
from kdrun.log import log


@pytest.fixture(autouse=True)
def one_thread():
    """Small tensors are slower when shared, and results are equal bit for bit."""
    torch.set_num_threads(1)


@pytest.fixture(autouse=True)
def nobody_is_trusted(monkeypatch):
    """Whatever the shell that runs the tests says."""
    monkeypatch.delenv("KDRUN_TRUST", raising=False)


@pytest.fixture(autouse=True)
def own_cache(monkeypatch, tmp_path_factory):
    """What kdrun learns about the machine in a test stays there."""
    monkeypatch.setenv("XDG_CACHE_HOME", str(tmp_path_factory.getbasetemp() / "cache"))


@pytest.fixture
def fresh_compiler():
    """No compiled graph is left from other tests, or for them."""
    config = torch._dynamo.config
    before = (config.skip_nnmodule_hook_guards, config.recompile_limit)
    torch._dynamo.reset()
    torch._dynamo.utils.counters.clear()
    yield
    torch._dynamo.reset()
    config.skip_nnmodule_hook_guards, config.recompile_limit = before


@pytest.fixture
def here(monkeypatch, tmp_path) -> Path:
    """An empty directory to run commands in; the console and the signals are as before afterwards."""
    directory = tmp_path / "here"
    directory.mkdir()
    monkeypatch.chdir(directory)
    monkeypatch.setenv("KDRUN_DATA", str(tmp_path / "data"))
    monkeypatch.setattr(log, "handlers", [])
    monkeypatch.setattr(log, "propagate", True)
    monkeypatch.setattr(stopping, "_requested", None)
    before = {number: signal.getsignal(number) for number in (*stopping.SIGNALS, signal.SIGALRM)}
    yield directory
    for number, handler in before.items():
        signal.signal(number, handler)


@pytest.fixture
def kdrun(here, capsys) -> Callable[..., tuple[int, list[str], str]]:
    """Runs a command line in this process, in `here`: exit code, lines on stdout, text on stderr."""

    def command(*words: str) -> tuple[int, list[str], str]:
        code = main(words)
        out, err = capsys.readouterr()
        return code, out.splitlines(), err

    return command


@pytest.fixture
def in_seconds():
    """Whatever a test here reads answers within 30 seconds, also on a busy machine."""

    def stop(number, frame):
        raise AssertionError("no answer in 30 seconds")

    before = signal.signal(signal.SIGALRM, stop)
    signal.alarm(30)
    yield
    signal.alarm(0)
    signal.signal(signal.SIGALRM, before)
