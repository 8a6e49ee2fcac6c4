"""SHA-256 digests of stored images, kept beside the other data so that a later command need not read the images."""

from __future__ import annotations

import hashlib
import os
import time
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from typing import TYPE_CHECKING, NamedTuple

import torch
from torch import Tensor

from kdrun.files import is_dry_run, sha256

from .downloads import data_home
from .tensor_files import read_tensors, write_tensors

if TYPE_CHECKING:
    from .encoded import ImageStore

DIGEST_BYTES = 32
_FRESH_NS = 2_000_000_000
"""A file that changed less than this before it was read may change again with the same time: it is not kept."""
_BLOCK = 64
_NUM_KEPT = 4
"""Listings kept in memory, for the data sets of a command."""


class Listing(NamedTuple):
    """What is known of the images of a store.

    Attributes:
        states: of the images when they were read, int64 `[N, 6]`, see `ImageStore.states`.
        digests: uint8 `[N, 32]`, SHA-256 of their content; zeros for an image that cannot be read.
    """

    states: Tensor
    digests: Tensor


_listings: dict[str, Listing] = {}


def digests_of(store: ImageStore) -> Tensor:
    """The SHA-256 of each image's content, uint8 `[N, 32]`; zeros for an image that cannot be read.

    Images whose state is that of an earlier call or command are not read again. The store gets those of its first call:
    content that is read later must have them. Listings are kept in `listings/` under
    the data home (`data_home`); a dry run writes none.
    """
    states, path = store.states(), _path(store)
    known = _listings.pop(store.key, None)
    if known is None and (kept := read_tensors(path)):
        known = Listing(kept["states"], kept["digests"])
    if known is None or not torch.equal(known.states, states):
        started = time.time_ns()
        known = Listing(states, _completed(store, states, known))
        old = (known.states[:, 4] < started - _FRESH_NS) & (known.digests != 0).any(dim=1)
        if old.any() and not is_dry_run():
            write_tensors(path, {"states": known.states[old], "digests": known.digests[old]})
    _listings[store.key] = known
    for key in list(_listings)[:-_NUM_KEPT]:
        del _listings[key]
    if store.digests is None:
        store.digests = known.digests
    return known.digests


def _completed(store: ImageStore, states: Tensor, known: Listing | None) -> Tensor:
    """The digests of a store, of those that are known, and of the others by reading them."""
    from tqdm import tqdm

    digests = torch.zeros(len(states), DIGEST_BYTES, dtype=torch.uint8)
    rows = _rows(states)
    place = {row: number for number, row in enumerate(_rows(known.states))} if known else {}
    found = torch.tensor([place.get(row, -1) for row in rows], dtype=torch.int64)
    if known is not None:
        digests[found >= 0] = known.digests[found[found >= 0]]
    missing = ((found < 0) & states.any(dim=1)).nonzero().flatten().tolist()
    blocks = [missing[start : start + _BLOCK] for start in range(0, len(missing), _BLOCK)]
    pool = ThreadPoolExecutor()
    try:
        done = pool.map(lambda block: b"".join(_digest(store, position) for position in block), blocks)
        shown = tqdm(done, "reading images", total=len(blocks), unit=f" x {_BLOCK}", delay=2, leave=False, disable=None)
        for block, content in zip(blocks, shown, strict=True):
            digests[block] = torch.frombuffer(bytearray(content), dtype=torch.uint8).view(-1, DIGEST_BYTES)
    finally:
        pool.shutdown(cancel_futures=True)
    return digests


def _digest(store: ImageStore, position: int) -> bytes:
    try:
        return hashlib.sha256(store.read(position)).digest()
    except OSError:  # a broken link, a FIFO: decoding reports it among all that cannot be read
        return bytes(DIGEST_BYTES)


def _rows(states: Tensor) -> list[bytes]:
    content, width = states.numpy().tobytes(), 8 * states.shape[1]
    return [content[start : start + width] for start in range(0, len(content), width)]


def _path(store: ImageStore) -> Path:
    """The listing's file: another one for each machine that sees the store on another device."""
    device = os.stat(store.key).st_dev if os.path.exists(store.key) else 0
    return data_home() / "listings" / f"{sha256(f'{device} {store.key}'.encode())[:32]}.safetensors"
