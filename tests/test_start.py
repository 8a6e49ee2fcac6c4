"""What keeps kdrun from starting is one message, exit code 2: the system, the working directory, a shadowed module."""

import os
import subprocess
import sys
from pathlib import Path

import pytest

CHECKOUT = Path(__file__).parents[1]
WINDOWS = """
import sys, signal
sys.modules["fcntl"] = sys.modules["resource"] = None
del signal.SIGUSR1
sys.platform = "win32"
from kdrun.cli import main
raise SystemExit(main(sys.argv[1:]))
"""


def started(*words: str, cwd: Path, **environment: str) -> subprocess.CompletedProcess[str]:
    return subprocess.run(
        [sys.executable, *words],
        cwd=cwd,
        env={**os.environ, **environment},
        capture_output=True,
        text=True,
        timeout=60,
        check=False,
    )


def test_windows_is_refused_before_anything_that_it_lacks_is_imported(tmp_path):
    ended = started("-c", WINDOWS, "ls", cwd=tmp_path)
    assert ended.returncode == 2
    assert "POSIX" in ended.stderr
    assert "WSL2" in ended.stderr
    assert "Traceback" not in ended.stderr


@pytest.mark.parametrize("shadow", ["torch.py", "hydra/__init__.py", "logging.py"])
def test_a_file_that_shadows_a_module_is_named(shadow, tmp_path):
    path = tmp_path / shadow
    path.parent.mkdir(exist_ok=True)
    path.touch()
    ended = started("-m", "kdrun", "--version", cwd=tmp_path)
    assert ended.returncode == 2
    assert str(tmp_path / shadow.split("/")[0]) in ended.stderr
    assert "Traceback" not in ended.stderr


def test_a_checkout_called_kdrun_is_named(tmp_path):
    (tmp_path / "kdrun").symlink_to(CHECKOUT)
    ended = started("-m", "kdrun", "--version", cwd=tmp_path)
    assert (ended.returncode, "Traceback" in ended.stderr) in ((2, False), (0, False))
    if ended.returncode:  # as an editable installation; an ordinary one comes before a directory without __init__.py
        assert str(tmp_path / "kdrun") in ended.stderr


def test_directories_and_files_that_shadow_nothing_are_no_matter(tmp_path):
    for name in ("hydra", "torch", "conf"):
        (tmp_path / name).mkdir()
    for name in ("code.py", "test.py", "types.py", "models.py", "torch.txt"):
        (tmp_path / name).touch()
    assert started("-m", "kdrun", "--version", cwd=tmp_path).returncode == 0


def test_a_deleted_working_directory_is_told(tmp_path, monkeypatch, capsys):
    from kdrun.cli import main

    gone = tmp_path / "gone"
    gone.mkdir()
    monkeypatch.chdir(gone)
    gone.rmdir()
    assert main(["--help"]) == main(["ls"]) == main([f"runtime.output_root={tmp_path}"]) == 2
    assert "working directory" in capsys.readouterr().err


MODULES = """
import sys
from kdrun.cli import main
code = main(sys.argv[1:])
print(code, *({"torch", "sympy", "torch._dynamo", "torch._inductor"} & sys.modules.keys()))
"""


@pytest.mark.parametrize("words", [("nonsense",), ("methd=kd", "student=["), ("tabel", "tfkd_t1", "--dry-run")])
def test_faulty_words_alone_are_refused_without_torch(words, tmp_path):
    assert started("-c", MODULES, *words, cwd=tmp_path).stdout == "2\n"


def test_a_dry_run_of_own_networks_does_not_import_a_compiler(tmp_path):
    """With a method that asks for features, whose networks are examined, timed and counted."""
    words = ("--dry-run", "dataset=digits", "student=resnet8", "teacher=cnn", "method=at")
    ended = started("-c", MODULES, *words, cwd=tmp_path, XDG_CACHE_HOME=str(tmp_path))
    assert ended.stdout.splitlines()[-1] == "0 torch", ended.stderr
