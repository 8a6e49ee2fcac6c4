"""A message that cannot be shown ends no run."""

import errno
import io
import os
import pty
import subprocess
import sys
from pathlib import Path

import pytest

from kdrun.console import as_encodable, guarded, troubles

RUN = [
    "dataset=synthetic",
    "student=mlp",
    "method=ce",
    "recipe.epochs=1",
    "dataset.train_size=64",
    "dataset.test_size=32",
]
RESULTS = "outputs/runs/synthetic/mlp/*/result.json"


def kdrun(directory: Path, words, shell: str) -> subprocess.CompletedProcess:
    """In a process of its own; `shell` are redirections."""
    line = f'exec "$0" -m kdrun "$@" {shell}'
    return subprocess.run(["bash", "-c", line, sys.executable, *words], cwd=directory, timeout=120, capture_output=True)


def finished(directory: Path) -> str:
    """The log of the one run, which has finished."""
    (result,) = directory.glob(RESULTS)
    return (result.parent / "kdrun.log").read_text()


@pytest.mark.parametrize(
    ("shell", "noted"),
    [(">/dev/full 2>&1", "stdout"), (">&- 2>&- <&-", "")],
    ids=["full disk", "closed"],
)
def test_a_console_that_takes_nothing_ends_no_run(tmp_path, shell, noted):
    ended = kdrun(tmp_path, RUN, shell)
    assert ended.returncode == 0, ended.stderr
    log = finished(tmp_path)
    assert f"{noted} cannot be written" in log if noted else "epoch 1/1" in log
    assert b"Traceback" not in ended.stderr
    assert b"Exception ignored" not in ended.stderr


def test_a_terminal_that_is_gone_ends_no_run(tmp_path):
    """Writing then fails with EIO; the progress bar is drawn there too."""
    ours, theirs = pty.openpty()
    process = subprocess.Popen(
        [sys.executable, "-m", "kdrun", *RUN], cwd=tmp_path, stdin=theirs, stdout=theirs, stderr=theirs
    )
    os.close(theirs)
    os.close(ours)
    assert process.wait(120) == 0
    assert "cannot be written" in finished(tmp_path)


def test_an_ascii_console_gets_ascii(monkeypatch):
    """The rest is kept, as for other encodings."""
    assert as_encodable("98.1 ± 0.2 é ←", "latin-1") == "98.1 ± 0.2 é <-"
    shown = io.BytesIO()
    monkeypatch.setattr(sys, "stdout", io.TextIOWrapper(shown, encoding="ascii", write_through=True))
    with guarded():
        print("98.1 ± 0.2")
        print("résumé ☃ T²")
    assert shown.getvalue() == b"98.1 +- 0.2\nresume ? T^2\n"


def test_a_stream_that_fails_once_is_left_alone_afterwards(monkeypatch, caplog):
    class Full(io.StringIO):
        tried = 0

        def write(self, text: str) -> int:
            self.tried += 1
            raise OSError(errno.ENOSPC, "No space left on device")

    full = Full()
    monkeypatch.setattr(sys, "stderr", full)
    with guarded():
        for _ in range(3):
            print("lost", file=sys.stderr)
        assert len(troubles()) == 1
    assert full.tried == 1
    assert sys.stderr is full
