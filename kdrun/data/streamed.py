"""Splits whose images are read, decoded and augmented by worker processes when a batch needs them.

A batch is the same whatever the number of workers: an image is a function of its position, its view one of (seed,
epoch, position, number of the view), and batches arrive in the order in which they were requested.
"""

from __future__ import annotations

import atexit
import functools
import itertools
import os
import signal
import warnings
import weakref
from collections.abc import Iterable, Iterator, Sequence
from dataclasses import dataclass
from multiprocessing import connection
from typing import Any, NamedTuple

import torch
from torch import Tensor
from torch.utils.data import DataLoader
from torch.utils.data._utils import signal_handling

from kdrun import stopping
from kdrun.spec.augmentation import Augmentation

from .augmentation import augment_each
from .decoding import reason
from .encoded import EncodedSet
from .errors import ChangedError, DataError
from .image_views import view
from .normalisation import Normalisation
from .pixels import pixel_limit
from .splits import Examples, ImageSet

PIECE_BYTES = 2**24
"""Pixels that a worker makes at once, unless one image has more."""

PREFETCH = 2
"""Pieces that a worker prepares ahead."""


@dataclass(frozen=True)
class Views:
    """What views of images are requested.

    Attributes:
        augmentation: the law of the views.
        seed: of the views.
        epoch: from 0.
        count: views of each image.
    """

    augmentation: Augmentation
    seed: int
    epoch: int
    count: int


class Request(NamedTuple):
    """Images that one worker makes.

    Attributes:
        number: of their set.
        positions: in the set.
        views: None is the images as they are evaluated.
    """

    number: int
    positions: list[int]
    views: Views | None


class _Decoder:
    """What the workers compute, by request."""

    def __init__(self, sets: Sequence[Examples]) -> None:
        self.sets = sets

    def __getitem__(self, request: Request) -> list[Tensor] | str:
        """Of each view (of the image itself without) uint8 `[N, H, W, C]`; or which image cannot be read, and why."""
        images = self.sets[request.number]
        assert isinstance(images, EncodedSet | ImageSet)
        try:
            with pixel_limit():
                return _made(images, request.positions, request.views)
        except DataError as error:  # as text: an exception from another process would come with its traceback
            return str(error)


def _made(images: EncodedSet | ImageSet, positions: Sequence[int], views: Views | None) -> list[Tensor]:
    if views is None:
        return [torch.stack([_pixels(images, position) for position in positions])]
    law, named = views.augmentation, {"seed": views.seed, "epoch": views.epoch}
    if not law.per_image:
        squares, index = torch.stack([_pixels(images, position) for position in positions]), torch.tensor(positions)
        return [augment_each(squares, index, law, number=number, **named) for number in range(views.count)]
    made: list[list[Tensor]] = [[] for _ in range(views.count)]
    for position in positions:
        image = _pixels(images, position, whole=law.crop_scale is not None)
        for number, batch in enumerate(made):
            batch.append(view(image, law, position, number=number, size=images.image_size, **named))
    return [torch.stack(batch) for batch in made]


def _pixels(images: EncodedSet | ImageSet, position: int, *, whole: bool = False) -> Tensor:
    try:
        return images.pixels(position, whole=whole)
    except ChangedError:
        raise
    except Exception as error:  # a damaged file makes Pillow's plug-ins raise nearly anything
        place = images.name(position)
        raise DataError(
            f"{place}: cannot be read: {reason(error)}; dataset.skip_corrupt=true leaves out such images"
        ) from error


class _Queue:
    """The requests of the stream that is read, as DataLoader takes them."""

    def __init__(self) -> None:
        self.requests: Iterable[Request] = ()

    def __iter__(self) -> Iterator[Request]:
        return iter(self.requests)


class Workers:
    """A pool of processes that make the images of some sets, for one stream of requests at a time.

    The processes start with the first stream and end with `close`. They share what the sets hold with this process.

    Args:
        sets: of images, encoded or in memory.
        processes: 0 is this process.
        pinned: whether images are for a CUDA device.
    """

    def __init__(self, sets: Sequence[Examples], processes: int, *, pinned: bool) -> None:
        self.sets = sets
        self._processes = processes
        self._pinned = pinned
        self._queue = _Queue()
        self._loader: DataLoader[Any] | None = None
        self._stream = 0
        self._at_exit = functools.partial(_close, weakref.ref(self))

    def number(self, images: Examples) -> int:
        """That of a set, for requests."""
        return next(number for number, each in enumerate(self.sets) if each is images)

    def stream(self, requests: Iterable[Request]) -> Iterator[list[Tensor]]:
        """Yields the images of each request, in order.

        Raises:
            DataError: an image cannot be read, or a process was killed.
        """
        self._stream += 1
        number = self._stream
        if self._loader is None:
            self._loader = self._started()
            atexit.register(self._at_exit)  # before multiprocessing's own, which sends a signal that they ignore
        self._queue.requests = requests
        # The processes inherit the mask: a signal to the whole group is this process's, which ends them.
        before = signal.pthread_sigmask(signal.SIG_BLOCK, stopping.SIGNALS)
        try:
            results = iter(self._loader)
        finally:
            signal.pthread_sigmask(signal.SIG_SETMASK, before)
        _notice_deaths_in_next(results)
        while (made := self._next(results)) is not None:
            if isinstance(made, str):
                raise DataError(made)
            yield made
            assert number == self._stream, "another stream has begun"

    def _next(self, results: Iterator[list[Tensor] | str]) -> list[Tensor] | str | None:
        """The next result; None after the last one."""
        try:
            return next(results, None)
        except Exception as error:  # what it is depends on where the process was
            sentinels = [process.sentinel for process in getattr(results, "_workers", ())]
            if not connection.wait(sentinels, timeout=1.0):
                raise
            self.close()
            raise DataError(
                f"a process that reads images ended ({error or type(error).__name__}); where memory is short, fewer "
                "runtime.workers need less"
            ) from error

    def close(self) -> None:
        """Ends the processes; a later stream starts others."""
        iterator: Any = None if self._loader is None else self._loader._iterator
        if iterator is not None and self._processes:
            iterator._shutdown_workers()  # otherwise they end with the last reference to it, which a traceback may have
            for process in iterator._workers:
                process.kill()  # one that does not answer
                process.join()
            atexit.unregister(self._at_exit)  # not before: one that is left would never end
        self._loader = None

    def _started(self) -> DataLoader[Any]:
        warnings.filterwarnings("ignore", "This DataLoader will create", UserWarning)  # the user's number
        more: dict[str, Any] = {"persistent_workers": True, "prefetch_factor": PREFETCH} if self._processes else {}
        return DataLoader(
            _Decoder(self.sets),  # type: ignore[arg-type]
            batch_size=None,
            sampler=self._queue,
            num_workers=self._processes,
            collate_fn=_unchanged,
            pin_memory=self._pinned,
            generator=torch.Generator(),  # else it would draw from the global one
            **more,
        )


def _notice_deaths_in_next(results: Any) -> None:
    """Removes the processes from the list of torch's handler of SIGCHLD, which raises between any two instructions.

    The loader notices a dead process itself, in `next`, after at most 5 s.
    """
    if getattr(results, "_worker_pids_set", False):
        signal_handling._remove_worker_pids(id(results))  # type: ignore[attr-defined]
        results._worker_pids_set = False


def _close(workers: weakref.ref[Workers]) -> None:
    if (found := workers()) is not None:
        found.close()


def _unchanged(made: list[Tensor] | str) -> list[Tensor] | str:
    return made


def default_processes() -> int:
    """A process for each core that this one may use, none where it is one core; shared by the ranks of a machine."""
    cores = len(os.sched_getaffinity(0)) if hasattr(os, "sched_getaffinity") else os.cpu_count() or 1
    each = cores // int(os.environ.get("LOCAL_WORLD_SIZE", "1"))
    return each if each > 1 else 0


class StreamedImages:
    """A split whose batches workers make; to its users as `ResidentImages`.

    Attributes:
        labels: int64 `[M]` on the device.

    Args:
        images: the split.
        workers: make its images; the split is one of their sets.
        labels: int64 `[M]`, the numbers of a network's outputs.
        mean: per channel, of pixels scaled to [0, 1].
        std: likewise; positive.
        device: of the batches.
    """

    def __init__(
        self,
        images: Examples,
        workers: Workers,
        labels: Tensor,
        *,
        mean: Sequence[float],
        std: Sequence[float],
        device: torch.device | str,
    ) -> None:
        assert isinstance(images, EncodedSet | ImageSet)
        self.labels = labels.to(device)
        self._workers, self._number = workers, workers.number(images)
        self._normalise = Normalisation(mean, std, (images.image_size, images.image_size), device)
        self._image_bytes = images.image_size**2 * len(mean)

    def __len__(self) -> int:
        return len(self.labels)

    def batches(self, parts: Iterable[Tensor]) -> Iterator[Tensor]:
        """For each of these groups of positions the images as they are, float32 `[N, C, H, W]`, normalised."""
        for (pixels,) in self._read(parts, None):
            yield self.inputs(pixels)

    def views(
        self, parts: Sequence[Tensor], augmentation: Augmentation, *, seed: int, epoch: int, count: int = 1
    ) -> Iterator[tuple[list[Tensor], Tensor, Tensor]]:
        """Random views of each group of positions, uint8 `[N, H, W, C]`, as `ResidentImages.views`."""
        index = torch.cat(list(parts)).to(self.labels.device).split([len(part) for part in parts])
        read = self._read(parts, Views(augmentation, seed, epoch, count))
        for positions, gathered in zip(index, read, strict=True):
            yield gathered, self.labels[positions], positions

    def inputs(self, gathered: Tensor) -> Tensor:
        """float32 `[N, C, H, W]` in channels_last memory, normalised."""
        return self._normalise(gathered)

    def _read(self, parts: Iterable[Tensor], views: Views | None) -> Iterator[list[Tensor]]:
        """The images of each group on the device; of large ones several workers make a piece each."""
        limit = max(1, PIECE_BYTES // (self._image_bytes * (views.count if views else 1)))
        pieces = [part.cpu().split(-(-len(part) // -(-len(part) // limit))) for part in parts]
        requests = (Request(self._number, piece.tolist(), views) for part in pieces for piece in part)
        made = self._workers.stream(requests)
        for part in pieces:
            moved = [
                [pixels.to(self.labels.device, non_blocking=True) for pixels in piece]
                for piece in itertools.islice(made, len(part))
            ]
            yield [torch.cat(same) if len(same) > 1 else same[0] for same in zip(*moved, strict=True)]
        next(made, None)  # to its end
