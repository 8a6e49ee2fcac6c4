"""Files of published datasets: where they are stored, whether they are the official ones, and their download.

Downloading is torchvision's part (imported only then). A download is made in a private directory and moved into
place when it is complete and verified, so an interrupted one leaves nothing.
"""

from __future__ import annotations

import contextlib
import hashlib
import http.client
import os
import shutil
import socket
import tempfile
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from pathlib import Path

from kdrun.files import MIB, checked_size, expanded, is_dry_run, naming, open_regular, read_regular

from .errors import DataError

_NETWORK_TIMEOUT_SECONDS = 30
_VERIFIED_LIMIT = 256 * MIB
"""Bytes of a file with an official checksum, at most; the largest, of CIFAR-100, has 155 MB."""


@dataclass(frozen=True)
class Archive:
    """A published archive that unpacks into one directory.

    Attributes:
        title: the dataset's name, for messages.
        url: where it is published; the last part is the file name.
        md5: of the archive, in hex.
        directory: what it unpacks into.
        limit: bytes that it has at most.
    """

    title: str
    url: str
    md5: str
    directory: str
    limit: int

    @property
    def name(self) -> str:
        """The file name."""
        return self.url.rsplit("/", 1)[1]


@dataclass(frozen=True)
class _Request:
    """A dataset that is needed, for the message that it is neither on disk nor available for download.

    Attributes:
        title: the dataset's name.
        places: the missing files with their places, one line each.
    """

    title: str
    places: tuple[str, ...]

    def failed(self, reason: str) -> DataError:
        lines = [
            f"{self.title} is not here, and {reason}",
            "Put this in place:",
            *(f"  {place}" for place in self.places),
            "or name the directory that has it: dataset.root=DIR, or the environment variable KDRUN_DATA.",
            "dataset=digits comes with kdrun and needs nothing.",
        ]
        return DataError("\n".join(lines))


def data_home() -> Path:
    """Where datasets and decoded images are stored unless the user names another place.

    Raises:
        DataError: it is in the user's home, and none is known.
    """
    place = os.environ.get("KDRUN_DATA") or "~/.cache/kdrun/data"
    try:
        return expanded(place)
    except FileNotFoundError as error:
        raise DataError(f"{place}: {error.strerror}, or KDRUN_DATA to another place") from error


def find(root: Path, directory: str, names: Sequence[str], *, title: str, archive: str | None = None) -> Path | None:
    """`root/directory` if it has all the files `names`, None if it has none.

    Args:
        root: of the data, as configured.
        directory: the dataset's own, below it.
        names: of the files, relative to it.
        title: the dataset's name, for messages.
        archive: a file in `root` that they can be unpacked from.

    Raises:
        DataError: some of them are missing, or they are not here but in a directory nearby.
    """
    place = root / directory
    missing = [name for name in names if not os.path.exists(place / name)]
    if not missing:
        return place
    if len(missing) < len(names):
        raise DataError(
            f"{title}: {place} is incomplete, missing: {', '.join(missing)}\n"
            f"Add what is missing, or remove {place} to have it downloaded again."
        )
    if archive is None or not os.path.exists(root / archive):
        _refuse_wrong_level(root, directory, names, title=title, archive=archive)
    return None


def _refuse_wrong_level(root: Path, directory: str, names: Sequence[str], *, title: str, archive: str | None) -> None:
    """Raises `DataError` where a directory near `root` has the data: it is not to be downloaded a second time."""

    def is_root(place: Path) -> bool:
        if archive is not None and os.path.isfile(place / archive):
            return True
        # Compressed or not: whether the loader can read it is found once the root is right.
        return all(any(map(os.path.exists, (found, found.removesuffix(".gz")))) for found in paths(place))

    def paths(place: Path) -> list[str]:
        return [str(place / directory / name) for name in names]

    above = Path(os.path.abspath(root)).parents[: len(Path(directory).parts)]
    for place in (*above, *visible_directories(root)):
        if is_root(place):
            raise DataError(f"{title}: dataset.root={root} is not the directory that has it; use dataset.root={place}")


def visible_directories(root: Path) -> list[Path]:
    """The directories in `root` whose names begin with no dot (as those of a download under way do), sorted.

    Empty where `root` is no directory or cannot be listed.
    """
    try:
        names = sorted(os.listdir(root))
    except OSError:  # the caller that needs it reports the reason
        return []
    return [root / name for name in names if not name.startswith(".") and os.path.isdir(root / name)]


@contextlib.contextmanager
def reading(path: Path) -> Iterator[None]:
    """In this context an `OSError` is a `DataError` about the file."""
    try:
        yield
    except OSError as error:
        raise DataError(f"{path} cannot be read: {error.strerror or error}") from error


def verified_bytes(path: Path, expected: str, *, algorithm: str = "md5") -> bytes:
    """The content of a file whose checksum is the official one.

    Raises:
        DataError: it cannot be read, or the checksum differs; the message names file, expected and found value.
    """
    with reading(path):
        content = read_regular(path, _VERIFIED_LIMIT)
    found = hashlib.new(algorithm, content, usedforsecurity=False).hexdigest()
    _compare(path, expected, found, algorithm)
    return content


def unpack_archive(archive: Archive, root: Path) -> Path:
    """Makes `root/archive.directory` from the archive in `root`, or from the network when it is not there.

    Nothing but the official archive is opened: its checksum is compared first.

    Raises:
        DataError: it cannot be downloaded, or is not the official one.
    """
    place = root / archive.directory
    request = _Request(archive.title, (f"{root / archive.name}  (md5 {archive.md5})", f"or, unpacked: {place}{os.sep}"))
    with _workspace(root, request) as workspace:
        path = root / archive.name
        if path.exists():
            _compare(path, archive.md5, _md5(path, archive.limit), "md5")
        else:
            path = workspace / archive.name
            _download((archive.url,), archive.md5, path, request)
        with naming(place):
            shutil.unpack_archive(path, workspace)
        _move(workspace / archive.directory, place)
    return place


def download_files(files: Sequence[tuple[str, str]], mirrors: Sequence[str], place: Path, *, title: str) -> None:
    """Downloads single files into `place`.

    Args:
        files: their names with the md5 in hex.
        mirrors: addresses to put before a name; tried in turn.
        place: the directory they belong in.
        title: the dataset's name, for messages.

    Raises:
        DataError: a file can be had from no mirror.
    """
    request = _Request(title, tuple(f"{place / name}  (md5 {md5})" for name, md5 in files))
    with _workspace(place, request) as workspace:
        for name, md5 in files:
            _download([mirror + name for mirror in mirrors], md5, workspace / name, request)
        for name, _ in files:
            _move(workspace / name, place / name)


def _md5(path: Path, limit: int) -> str:
    """Hex MD5 of a file."""
    with reading(path), open_regular(path) as opened:
        checked_size(opened, limit)
        digest = hashlib.file_digest(opened, lambda: hashlib.md5(usedforsecurity=False))  # type: ignore[arg-type]
        return digest.hexdigest()


def _compare(path: Path, expected: str, found: str, algorithm: str) -> None:
    if found != expected:
        raise DataError(
            f"{path} is damaged or not the official file: {algorithm} is {found}, expected {expected}\n"
            "Remove it to have it downloaded again, or put the official file in its place."
        )


@contextlib.contextmanager
def _workspace(root: Path, request: _Request) -> Iterator[Path]:
    """A private directory beside the files' final place; removed afterwards in any case."""
    if is_dry_run():
        raise request.failed("a dry run neither downloads nor unpacks it")
    try:
        root.mkdir(parents=True, exist_ok=True)
        directory = tempfile.TemporaryDirectory(dir=root, prefix=".download-")
    except OSError as error:
        raise request.failed(f"{root} cannot be written: {error}") from error
    with directory as name:
        yield Path(name)


def _move(source: Path, target: Path) -> None:
    """Moves a file or directory into place, unless another run was there first."""
    try:
        os.replace(source, target)
    except OSError:
        if not target.exists():
            raise


def _download(urls: Sequence[str], md5: str, path: Path, request: _Request) -> None:
    """Downloads the first of `urls` that answers with the right content to `path`."""
    try:
        from torchvision.datasets import utils
    except (ImportError, RuntimeError) as error:  # RuntimeError: compiled for another torch
        raise request.failed(f"downloading needs torchvision, which cannot be imported: {error}") from error
    failures = []
    timeout = socket.getdefaulttimeout()
    socket.setdefaulttimeout(_NETWORK_TIMEOUT_SECONDS)
    try:
        for url in urls:
            try:
                utils.download_url(url, path.parent, path.name, md5)
                return
            # torchvision raises RuntimeError for a wrong checksum; URLError and time-outs are OSErrors.
            except (OSError, RuntimeError, http.client.HTTPException) as error:
                failures.append(f"downloading {url} failed: {error}")
    finally:
        socket.setdefaulttimeout(timeout)
    raise request.failed("\n".join(failures))
