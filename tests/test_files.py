"""Files written whole or not at all."""

import errno
import hashlib
import json
import os
import re
import socket
import stat
from pathlib import Path

import pytest

from kdrun.files import (
    JSON_LIMIT,
    DamagedError,
    UnfitFileError,
    keep_under,
    open_regular,
    read_json,
    read_record,
    read_regular,
    read_rest,
    sha256,
    sha256_of,
    sweep,
    write_atomically,
    write_json,
    write_record,
)


@pytest.fixture
def path(tmp_path) -> Path:
    path = tmp_path / "result.json"
    path.write_text("old")
    return path


def refuse(*_args, **_options):
    raise OSError(errno.ENOSPC, "No space left on device")


def test_a_failing_write_names_the_file(path, monkeypatch):
    """Whichever call fails: a full disk is met by descriptors and by temporary names."""
    for module, name in ((os, "fsync"), (os, "replace"), (os, "open")):
        with monkeypatch.context() as patch:
            patch.setattr(module, name, refuse)
            with pytest.raises(OSError, match="No space left") as caught:
                write_atomically(path, "new")
        assert (caught.value.errno, caught.value.filename) == (errno.ENOSPC, str(path))
        assert path.read_text() == "old"
        assert list(path.parent.iterdir()) == [path]


def test_content_replaces_the_old(path):
    write_atomically(path, b"\x00\xff")
    assert path.read_bytes() == b"\x00\xff"
    write_atomically(path, "Zürich ± 1\n")
    assert path.read_bytes() == "Zürich ± 1\n".encode()
    assert list(path.parent.iterdir()) == [path]


def test_others_may_read_what_was_written(path):
    old = os.umask(0o022)
    try:
        write_atomically(path, "new")
    finally:
        os.umask(old)
    assert stat.S_IMODE(path.stat().st_mode) == 0o644


def test_content_is_on_disk_before_it_has_the_name_and_the_name_after(path, monkeypatch):
    """Otherwise a power cut could leave the new name with nothing behind it."""
    calls = []
    fsync, replace = os.fsync, os.replace

    def record_fsync(descriptor):
        kind = "directory" if stat.S_ISDIR(os.fstat(descriptor).st_mode) else "file"
        calls.append((f"fsync {kind}", os.fstat(descriptor).st_size if kind == "file" else None))
        fsync(descriptor)

    def record_replace(source, target):
        assert Path(target).read_text() == "old", "until then the old content is there"
        # In the same directory, so that it is a rename, under a name that a run sweeps away after a crash.
        assert Path(source).parent == path.parent
        assert Path(source).match(".*.tmp")
        calls.append(("replace", None))
        replace(source, target)

    monkeypatch.setattr(os, "fsync", record_fsync)
    monkeypatch.setattr(os, "replace", record_replace)
    write_atomically(path, "x" * 100_000)
    assert calls == [("fsync file", 100_000), ("replace", None), ("fsync directory", None)]


def test_interrupted_write_leaves_the_old_file_and_nothing_else(path, monkeypatch):
    def interrupt(*_):
        raise KeyboardInterrupt

    with monkeypatch.context() as patch:
        patch.setattr(os, "fsync", interrupt)
        with pytest.raises(KeyboardInterrupt):
            write_atomically(path, "new")
    assert path.read_text() == "old"
    assert list(path.parent.iterdir()) == [path]


RECORD = {"top1": 71.25, "rate": 1e-05, "third": 1 / 3, "teachers": [], "val": None, "name": "ü", "on": True}


def test_a_record_holds_the_sha256_of_its_canonical_form(path):
    write_record(path, RECORD)
    assert read_record(path) == RECORD
    canonical = json.dumps(RECORD, sort_keys=True, separators=(",", ":"))
    assert json.loads(path.read_text()) == {**RECORD, "sha256": hashlib.sha256(canonical.encode()).hexdigest()}


def test_every_flipped_bit_of_a_record_is_noticed(path):
    """Also those that leave what is read as it is: 1e-05 and 1E-05, the last digit of a third, digits of the hash."""
    write_record(path, RECORD)
    content = path.read_bytes()
    unnoticed = []
    for bit in range(8 * len(content)):
        changed = bytearray(content)
        changed[bit // 8] ^= 1 << bit % 8
        path.write_bytes(changed)
        try:
            read_record(path)
        except DamagedError:
            continue
        unnoticed.append((bit, bytes(changed)))
    assert unnoticed == []


@pytest.mark.parametrize("content", ["", "{", "[]\n", '{\n  "a": 1\n}\n', '{\n  "a": NaN\n}\n', "\x00\x00"])
def test_what_is_no_record_is_refused(path, content):
    path.write_text(content)
    with pytest.raises(DamagedError, match=r"result\.json is not (readable JSON|whole: it has no SHA-256)"):
        read_record(path)


def test_what_a_killed_process_left_is_swept_and_what_is_being_written_is_not(path, monkeypatch):
    """Whatever the clock says."""
    leftover = path.with_name(".result.json.abc.tmp")
    leftover.write_text("half a res")
    os.utime(leftover, (2**31, 2**31))
    seen = []

    def sweeping(descriptor):
        sweep(path.parent)
        seen.append(sorted(file.name for file in path.parent.iterdir()))

    with monkeypatch.context() as patch:
        patch.setattr(os, "fsync", sweeping)
        write_atomically(path, "new")
    assert path.read_text() == "new"
    assert [len(names) for names in seen] == [2, 1], "the old file and the one that is written, then the new one"
    assert not leftover.exists()


@pytest.mark.parametrize("value", [float("nan"), {1, 2}])
def test_what_is_not_json_is_refused(path, value):
    with pytest.raises((ValueError, TypeError)):
        write_json(path, {"value": value})
    assert path.read_text() == "old"


@pytest.mark.parametrize("links", [True, False])
def test_what_is_kept_under_another_name_stays_when_the_first_is_replaced(tmp_path, monkeypatch, links):
    """Also on a file system without hard links."""

    def refused(*_):
        raise PermissionError("Operation not permitted")

    if not links:
        monkeypatch.setattr(os, "link", refused)
    path, other = tmp_path / "last", tmp_path / "previous"
    write_atomically(path, "one")
    for _ in range(2):  # the second time both names are of one file
        keep_under(path, other)
        assert sorted(file.name for file in tmp_path.iterdir()) == ["last", "previous"]
    write_atomically(path, "two")
    assert (path.read_text(), other.read_text()) == ("two", "one")
    keep_under(path, other)
    assert other.read_text() == "two"


@pytest.fixture
def kinds(tmp_path):
    """Files of every kind, by what a message calls them."""
    (directory := tmp_path / "directory").mkdir()
    os.mkfifo(fifo := tmp_path / "fifo")
    with socket.socket(socket.AF_UNIX) as listening:
        listening.bind(str(place := tmp_path / "socket"))
        (link := tmp_path / "link").symlink_to("/dev/zero")
        yield {"a directory": directory, "a FIFO": fifo, "a socket": place, "a character device": link}


def test_only_regular_files_are_read(kinds):
    for kind, path in kinds.items():
        for read in (open_regular, lambda path: read_regular(path, 9), lambda path: sha256_of(path, 9)):
            with pytest.raises(UnfitFileError, match=f"^{path} is {kind}; must be a regular file$"):
                read(path)


def test_a_file_that_is_swapped_before_it_is_opened_is_noticed(tmp_path, monkeypatch):
    (regular := tmp_path / "regular").touch()
    os.mkfifo(fifo := tmp_path / "fifo")
    found = regular.stat()
    monkeypatch.setattr(os, "stat", lambda path: found)
    with pytest.raises(UnfitFileError, match="a FIFO"):
        open_regular(fifo)


def test_regular_files_are_read_up_to_their_limit(tmp_path):
    content = bytes(range(256)) * 8192
    (path := tmp_path / "file").write_bytes(content)
    (link := tmp_path / "link").symlink_to(path)
    for name in (path, link):
        assert read_regular(name, len(content)) == content
        assert sha256_of(name, len(content)) == sha256(content)
        for read in (read_regular, sha256_of):
            with pytest.raises(UnfitFileError, match=f"has {len(content)} bytes; at most {len(content) - 1} are read"):
                read(name, len(content) - 1)
    with path.open("ab") as growing, open_regular(path) as opened:
        growing.write(b"more")
        growing.flush()
        with pytest.raises(UnfitFileError, match="changed while it was read"):
            read_rest(opened, len(content))


def test_json_that_is_large_or_deep_is_damaged(tmp_path):
    path = tmp_path / "result.json"
    path.write_text("[" * 10**6)
    with pytest.raises(DamagedError, match=r"result.json .*nested too deeply"):
        read_json(path)
    os.truncate(path, 2**40)
    with pytest.raises(UnfitFileError, match=f"has {2**40} bytes; at most {JSON_LIMIT}"):
        read_json(path)


def test_a_directory_that_cannot_be_flushed_is_named(path, monkeypatch):
    fsync = os.fsync

    def failing(descriptor: int) -> None:
        if stat.S_ISDIR(os.fstat(descriptor).st_mode):
            raise OSError(errno.EIO, os.strerror(errno.EIO))
        fsync(descriptor)

    monkeypatch.setattr(os, "fsync", failing)
    with pytest.raises(OSError, match=re.escape(repr(str(path.parent)))):
        write_atomically(path, "x")


def test_a_file_whose_temporary_one_vanishes_is_written_again_unless_its_directory_has(tmp_path, monkeypatch):
    replace, calls = os.replace, []

    def vanishing(source, target):
        calls.append(source)
        if len(calls) == 1:
            os.unlink(source)
        replace(source, target)

    monkeypatch.setattr(os, "replace", vanishing)
    write_atomically(tmp_path / "file", "whole")
    assert ((tmp_path / "file").read_text(), len(calls)) == ("whole", 2)
    with pytest.raises(FileNotFoundError):
        write_atomically(tmp_path / "gone" / "file", "whole")
