"""torchrun's part in tests: starts ranks, by forks of a process that has imported torch, and stops all if one fails."""

import multiprocessing
import os
import signal
import socket
import sys
import time
from collections.abc import Callable, Sequence
from pathlib import Path

from torch.distributed import TCPStore

from kdrun.cli import main

FORKS = multiprocessing.get_context("forkserver")  # forks of this process itself, which has computed, would hang
FORKS.set_forkserver_preload(["kdrun.cli.ranks", "kdrun.config.preflight", "kdrun.experiment.followers"])


class Ranks:
    """Processes that execute a kdrun command together, each with its own words.

    Args:
        words: of each rank.
        output: a directory for what each prints, `0.out` and `0.err` for rank 0.
        before: called in each rank first, with its number.
    """

    def __init__(
        self, words: Sequence[Sequence[str]], output: Path, before: Callable[[int], None] | None = None
    ) -> None:
        with socket.socket() as free:
            free.bind(("localhost", 0))
            port = free.getsockname()[1]
        self._store = TCPStore("localhost", port, is_master=True, wait_for_workers=False)
        output.mkdir(exist_ok=True)
        variables = {
            **os.environ,
            **{"MASTER_ADDR": "localhost", "MASTER_PORT": str(port), "TORCHELASTIC_USE_AGENT_STORE": "True"},
            **{"WORLD_SIZE": str(len(words)), "LOCAL_WORLD_SIZE": str(len(words)), "GROUP_RANK": "0"},
        }
        self._processes = []
        for rank, own in enumerate(words):
            place = {**variables, "RANK": str(rank), "LOCAL_RANK": str(rank)}
            arguments = (list(own), place, os.getcwd(), str(output / str(rank)), before)
            self._processes.append(FORKS.Process(target=_execute, args=arguments))
        for process in self._processes:
            process.start()

    def kill(self, rank: int, number: int) -> None:
        """Sends a signal to a rank."""
        if self._processes[rank].is_alive():
            os.kill(self._processes[rank].pid, number)

    def wait(self, seconds: float = 100.0) -> list[int]:
        """The exit codes of all, as `subprocess` has them: when the first one fails, the others get SIGTERM."""
        deadline = time.monotonic() + seconds
        is_told = False
        while any(process.is_alive() for process in self._processes):
            codes = [process.exitcode for process in self._processes]
            if time.monotonic() > deadline:
                for process in self._processes:
                    process.kill()
                raise AssertionError(f"exit codes after {seconds:g} s: {codes}")
            if any(codes) and not is_told:
                is_told = True
                for rank in range(len(codes)):
                    self.kill(rank, signal.SIGTERM)
            time.sleep(0.01)
        return [process.exitcode for process in self._processes]


def _execute(
    words: list[str], variables: dict[str, str], directory: str, output: str, before: Callable[[int], None] | None
) -> None:
    os.environ.clear()
    os.environ.update(variables)
    os.chdir(directory)
    for number, name in ((1, "out"), (2, "err")):
        os.dup2(os.open(f"{output}.{name}", os.O_WRONLY | os.O_CREAT | os.O_APPEND), number)
    sys.stdout, sys.stderr = open(1, "w", closefd=False), open(2, "w", closefd=False)  # noqa: SIM115
    if before is not None:
        before(int(variables["RANK"]))
    code = main(words)
    sys.stdout.flush()
    sys.stderr.flush()
    os._exit(code)
