"""The processes that torchrun has started for one command, its ranks: their places, and messages between them.

Messages are JSON in the store that torchrun itself hosts. A wait polls the store, so that a signal or the end of
another rank ends it at once, and so that it can take hours (rank 0 decodes data). Collective operations, which do
neither, are used in training alone, within `group`.
"""

from __future__ import annotations

import contextlib
import ctypes
import functools
import itertools
import json
import os
import signal
import sys
import time
import traceback
from collections.abc import Callable, Iterator
from datetime import timedelta
from typing import TYPE_CHECKING, Any

from kdrun import stopping
from kdrun.place import place
from kdrun.redaction import redacted

if TYPE_CHECKING:
    import torch
    from torch.distributed.distributed_c10d import PrefixStore

POLL_SECONDS = 0.05
COLLECTIVE_TIMEOUT = timedelta(minutes=30)
"""The longest that a rank waits for the others within a collective operation of the training."""

SIGNAL_SECONDS = 1.0
"""The longest that a rank that has lost the others and torchrun's store waits for the signal that ended them."""

_ENDED = "ended"
_PR_SET_PDEATHSIG = 1

_tasks = itertools.count()
_groups = itertools.count()


class RankEndedError(RuntimeError):
    """Another rank has ended, so that this one cannot continue; the message is that rank's reason."""


def join() -> None:
    """Connects to the other ranks; from now on the death of torchrun ends this process, like SIGTERM."""
    if sys.platform == "linux":
        ctypes.CDLL(None).prctl(_PR_SET_PDEATHSIG, signal.SIGTERM)
    _store()


@functools.cache
def _store() -> PrefixStore:
    from torch.distributed import PrefixStore, TCPStore  # type: ignore[attr-defined]

    store = TCPStore(os.environ["MASTER_ADDR"], int(os.environ["MASTER_PORT"]), is_master=False, wait_for_workers=False)
    # After a restart by torchrun the messages of the attempt before are still in the store.
    return PrefixStore(f"kdrun/{os.environ.get('TORCHELASTIC_RESTART_COUNT', '0')}", store)


def post(key: str, value: Any) -> None:
    """Sends a JSON value to the other ranks, if there are any."""
    if place().ranks > 1:
        _store().set(key, json.dumps(value))


def fetch(key: str) -> Any:
    """The value that a rank posts under `key`, as soon as it has.

    Raises:
        RankEndedError: a rank has ended instead.
        Stopped: by a signal.
    """
    _wait(lambda: _store().check([key]))
    return json.loads(_store().get(key))


def meet(name: str) -> None:
    """Returns when all ranks have called this; raises as `fetch`."""
    if (ranks := place().ranks) > 1:
        _store().add(name, 1)
        _wait(lambda: _store().add(name, 0) >= ranks)


def _wait(is_over: Callable[[], bool]) -> None:
    while not is_over():
        if _store().check([_ENDED]):
            raise RankEndedError(json.loads(_store().get(_ENDED))["reason"])
        time.sleep(POLL_SECONDS)
        stopping.check()


def post_task(task: dict[str, Any]) -> None:
    """Sends the next task to all other ranks."""
    post(f"task/{next(_tasks)}", task)


def tasks() -> Iterator[dict[str, Any]]:
    """The tasks of `post_task`, in order, without end."""
    for number in itertools.count():
        yield fetch(f"task/{number}")


@contextlib.contextmanager
def node_first(name: str) -> Iterator[None]:
    """In this context the first rank of a node is alone, so that the others find what it has written to caches.

    Args:
        name: of what is done, the same on all ranks.
    """
    here = place()
    key = f"first/{name}/{here.node}"
    if here.local_rank > 0:
        fetch(key)
    try:
        yield
    finally:
        if here.local_rank == 0:
            post(key, None)


@contextlib.contextmanager
def group(device: torch.device) -> Iterator[None]:
    """In this context all ranks are torch.distributed's default group, over NCCL on CUDA, else gloo.

    All ranks enter and leave it together; one that ends within it disconnects from the others, which ends them.
    """
    here = place()
    if here.ranks == 1:
        yield
        return
    from torch import distributed
    from torch.distributed import PrefixStore  # type: ignore[attr-defined]

    number = next(_groups)
    meet(f"join/{number}")
    distributed.init_process_group(
        "cpu:gloo,cuda:nccl" if device.type == "cuda" else "gloo",
        store=PrefixStore(f"group/{number}", _store()),
        rank=here.rank,
        world_size=here.ranks,
        timeout=COLLECTIVE_TIMEOUT,
    )
    yield
    meet(f"leave/{number}")  # not left after a failure of this rank: it has ended then
    distributed.destroy_process_group()


def cause(error: BaseException) -> BaseException:
    """What ends this rank: the error itself, or the end of another rank where the error only follows from that.

    The first end is kept for the other ranks. The end of another rank is `Stopped`, or a `RankEndedError` with its
    reason; one that was killed leaves none.
    """
    if place().ranks == 1:
        return error
    is_broken = _is_broken_collective(error)
    own: dict[str, Any] = {"rank": place().rank}
    own["reason"] = f"rank {place().rank}: {type(error).__name__}: {redacted(str(error))}"
    if is_broken:
        own["reason"] = "a rank has ended without a message: it was killed, or its connection was lost"
    elif isinstance(error, stopping.Stopped):
        own["stopped"] = error.number
    elif isinstance(error, Exception):
        own["traceback"] = redacted("".join(traceback.format_exception(error)))
    first = _first_end(own)
    if first is None and is_broken:
        _wait_for_signal()
    first = first or own
    if not is_broken and (first == own or not isinstance(error, RankEndedError | stopping.Stopped)):
        return error
    if "stopped" in first:
        return stopping.Stopped(first["stopped"])
    ended = RankEndedError(first["reason"])
    ended.add_note(first.get("traceback", ""))
    return ended


def ended_first() -> bool:
    """Whether this rank, which has called `cause`, is the first to end."""
    try:
        return bool(json.loads(_store().get(_ENDED))["rank"] == place().rank)
    except RuntimeError:  # torchrun has ended
        return True


def _first_end(own: dict[str, Any]) -> dict[str, Any] | None:
    """The end of the rank that was the first to end, which may be this one; None where the store is gone."""
    try:
        found: dict[str, Any] = json.loads(_store().compare_set(_ENDED, "", json.dumps(own)))
    except RuntimeError:  # torchrun has ended
        return None
    return found


def _wait_for_signal() -> None:
    """Raises `Stopped` if the signal that has ended torchrun and another rank arrives here, too."""
    deadline = time.monotonic() + SIGNAL_SECONDS
    while time.monotonic() < deadline:
        stopping.check()
        time.sleep(POLL_SECONDS)


def _is_broken_collective(error: BaseException) -> bool:
    """Whether a collective operation has failed: a rank has gone. Gloo's errors have no class of their own."""
    from torch import distributed

    return isinstance(error, distributed.DistError) or (
        isinstance(error, RuntimeError) and "/gloo/" in str(error) and not isinstance(error, RankEndedError)
    )
