"""What can be removed under an output root, and which runs other runs need."""

from __future__ import annotations

import contextlib
from collections.abc import Iterator, Mapping
from dataclasses import dataclass
from pathlib import Path

from kdrun.files import DamagedError, read_json, read_record, remove_tree
from kdrun.log import log
from kdrun.store.run import REMOVED, Run
from kdrun.store.store import Store

KINDS = {
    "unfinished": "runs without a result that no process holds: the command that made one would resume it",
    "unreferenced": "teachers' logits and derived figures of runs that no longer exist; runs whose removal was cut off",
    "checkpoints": "of finished runs: what a longer run could continue from",
    "caches": "teachers' logits: computed again where they are needed",
}


@dataclass(frozen=True)
class Item:
    """Something that can be removed.

    Attributes:
        kind: one of `KINDS`.
        path: a file or directory, no link.
        size: bytes.
        run: whose directory it is, of the kind `unfinished`.
    """

    kind: str
    path: Path
    size: int
    run: Run | None = None

    def remove(self) -> bool:
        """Removes it from the disk, unless it is gone; False for a run that a process holds by now.

        Raises:
            OSError: something of it cannot be removed.
        """
        if self.run is not None:
            return self.run.remove()
        if self.path.is_dir():
            remove_tree(self.path)
        else:
            self.path.unlink(missing_ok=True)
        return True


def removable(store: Store) -> Iterator[Item]:
    """All removable items, each once; without links and without files of runs that cannot be read."""
    return (item for item in _found(store) if not item.path.is_symlink())


def _found(store: Store) -> Iterator[Item]:
    for run in store.runs():
        try:
            if isinstance(run, Exception):
                raise run
            if not run.finished and run.state != "running":
                yield _item("unfinished", run.directory, run)
            elif run.finished and (checkpoints := run.last_checkpoint.parent).is_dir() and any(checkpoints.iterdir()):
                yield _item("checkpoints", checkpoints)
        except (RuntimeError, OSError) as error:
            log.warning("not removed: %s", error)
    for directory in sorted(store.root.glob(f"runs/{REMOVED}*")):  # of a command that was killed
        yield _item("unreferenced", directory)
    known = {directory.name.rpartition("-")[2] for directory in store.root.glob("runs/*/*/*")}
    for key in sorted(store.root.glob("replay/*/key.json")):
        gone = not known.issuperset(_runs_of(key))
        yield _item("unreferenced" if gone else "caches", key.parent)
    for path in sorted(store.root.glob("derived/*.json")):
        if not known.issuperset(_runs_of(path)):
            yield _item("unreferenced", path)


def needed_by(store: Store) -> Mapping[str, list[Run]]:
    """By run_id, the runs that have it as a teacher or start from it."""
    found: dict[str, list[Run]] = {}
    for run in store.runs():
        if isinstance(run, Run):
            for spec in run.spec.before:
                found.setdefault(spec.run_id, []).append(run)
    return found


def size_of(path: Path) -> int:
    """Bytes of a file, or of all files in a directory; links are not followed, what vanishes meanwhile has none."""
    size = 0
    for file in path.rglob("*") if path.is_dir() else [path]:
        with contextlib.suppress(FileNotFoundError):
            size += file.lstat().st_size * (not file.is_dir())
    return size


def _item(kind: str, path: Path, run: Run | None = None) -> Item:
    return Item(kind, path, size_of(path), run)


def _runs_of(path: Path) -> list[str]:
    """The run_ids in `key.json` of kept logits or in a derived figure; none of a file that cannot be read."""
    try:
        if path.name == "key.json":
            return [str(read_json(path)["teacher"])]
        return [str(run_id) for run_id in read_record(path)["run_ids"]]
    except (DamagedError, OSError, KeyError, TypeError):
        return []
