"""Teachers' logits on disk, for later runs: one directory a teacher and sequence of views, one file an epoch.

replay/<key>/
    key.json      what the logits depend on; its time of change is when they were last used
    0001.pt       logits [N, K] and positions [N] of the first epoch, with their SHA-256

Logits keep the teacher's type. They are used only where the teacher would compute the same bits: same weights, views,
batches and precision, on the same kind of device, with the same threads, memory layout and torch.
"""

from __future__ import annotations

import json
import os
from pathlib import Path
from typing import Any

import torch
from torch import Tensor

from kdrun.experiment.choices import Choices
from kdrun.experiment.environment import device_name
from kdrun.files import remove_tree, sha256, sweep, write_json
from kdrun.log import log
from kdrun.methods import Needs
from kdrun.spec.spec import Spec
from kdrun.store import checkpoint
from kdrun.store.cleaning import size_of
from kdrun.store.run import Run

CPU = torch.device("cpu")
FILE_OVERHEAD = 4096
"""Bytes of a file beside its tensors, at most."""


def replay_key(spec: Spec, needs: Needs, teacher: Run, device: torch.device, choices: Choices) -> dict[str, Any]:
    """All that the logits of a run's teacher on its training views depend on, to the last bit."""
    return {
        "teacher": teacher.spec.run_id,
        "weights": teacher.result()["student"]["weights_sha256"],
        "dataset": vars(spec.dataset),
        "augmentation": spec.recipe.augmentation.changed(),
        "batch_size": spec.recipe.batch_size,
        "views": needs.views,
        "per_class": needs.per_class,
        "seed": spec.seed,
        "precision": spec.precision,
        "semantics": spec.semantics,
        "device": device_name(device),
        "threads": choices.threads if device.type == "cpu" else None,
        "small_maps_nchw": choices.small_maps_nchw,
        "torch": str(torch.__version__),
    }


class LogitCache:
    """Recorded logits under an output root, up to a limit: the recording unused for the longest time is removed first.

    After the clock was set back that may be another one, which costs a teacher's time and nothing else.
    """

    def __init__(self, root: Path, limit_bytes: float) -> None:
        self._directory = root / "replay"
        self.limit_bytes = limit_bytes

    def recording(self, key: dict[str, Any]) -> CachedLogits:
        """The recording of the logits that depend on `key`."""
        name = sha256(_text(key).encode())[:12]
        return CachedLogits(self._directory / name, key, self)

    def make_room(self, size: int, keep: Path) -> bool:
        """Removes recordings, the one unused for the longest time first, until `size` bytes more fit; all but `keep`.

        Returns:
            Whether they fit now.
        """
        paths = sorted(self._directory.glob("*/key.json"), key=_last_use)
        sizes = {path.parent: size_of(path.parent) for path in paths}
        for directory in [directory for directory in sizes if directory != keep]:
            if sum(sizes.values()) + size <= self.limit_bytes:
                break
            log.info("%s, unused for the longest time, makes room for other teachers' logits", directory)
            remove_tree(directory)
            del sizes[directory]
        return sum(sizes.values()) + size <= self.limit_bytes


class CachedLogits:
    """The epochs kept of one teacher on one sequence of views: a `kdrun.training.replay.Recording`."""

    def __init__(self, directory: Path, key: dict[str, Any], store: LogitCache) -> None:
        self._directory = directory
        self._key = key
        self._store = store
        self._stopped = False

    def read(self, epoch: int) -> dict[str, Tensor] | None:
        """An epoch's tensors; None where there are none or, with a warning, where they are damaged."""
        path = self._path(epoch)
        try:
            kept = checkpoint.load(path, CPU)
            if kept.pop("epoch", None) != epoch or kept.pop("key", None) != _text(self._key):
                raise checkpoint.CheckpointError(f"{path} is not what was kept under this name")
            if not _is_epoch(kept):
                raise checkpoint.CheckpointError(f"{path} does not hold the logits of an epoch")
            os.utime(self._directory / "key.json")
        except FileNotFoundError:
            return None
        except (checkpoint.CheckpointError, OSError) as error:
            log.warning("%s; the teacher computes this epoch again", str(error).partition(";")[0])
            return None
        return kept

    def write(self, epoch: int, tensors: dict[str, Tensor]) -> None:
        """Keeps an epoch if it fits within the limit; the first failure is a warning, and the last attempt."""
        if self._stopped:
            return
        size = FILE_OVERHEAD + sum(tensor.nbytes for tensor in tensors.values())
        try:
            self._stopped = not self._store.make_room(size, keep=self._directory)
            if not self._stopped:
                self._directory.mkdir(parents=True, exist_ok=True)
                sweep(self._directory)
                write_json(self._directory / "key.json", self._key)
                kept = {name: tensor.cpu() for name, tensor in tensors.items()}
                checkpoint.save(self._path(epoch), {"epoch": epoch, "key": _text(self._key), **kept})
                return
            reason = f"runtime.replay_gb={self._store.limit_bytes / 1e9:g} is the limit"
        except OSError as error:
            self._stopped = True
            reason = str(error)
        log.warning("no more of the teacher's logits is kept for later runs (these do not need it): %s", reason)

    def num_kept(self, epochs: int) -> int:
        """How many of the first `epochs` epochs are recorded."""
        return sum(self._path(epoch).exists() for epoch in range(epochs))

    def _path(self, epoch: int) -> Path:
        return self._directory / f"{epoch + 1:04}.pt"


def _last_use(key: Path) -> float:
    """When a recording was last used; 0 where another process has removed it."""
    try:
        return key.stat().st_mtime
    except FileNotFoundError:
        return 0.0


def _is_epoch(kept: dict[str, Any]) -> bool:
    """Whether these are logits [N, K], in a type that a teacher gives, with positions [N]."""
    if set(kept) != {"logits", "index"} or not all(isinstance(tensor, Tensor) for tensor in kept.values()):
        return False
    logits, index = kept["logits"], kept["index"]
    if logits.layout != torch.strided or index.layout != torch.strided or logits.ndim != 2 or index.ndim != 1:
        return False
    types_fit = logits.dtype in (torch.float32, torch.bfloat16) and index.dtype == torch.int64
    return types_fit and len(logits) == len(index)


def _text(key: dict[str, Any]) -> str:
    return json.dumps(key, sort_keys=True)
