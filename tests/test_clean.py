"""`kdrun clean` and `kdrun rm`: what they remove, and what they leave."""

import errno
import os
import shutil
from pathlib import Path

import pytest

from kdrun.store import cleaning
from kdrun.store import run as run_module
from kdrun.store.cleaning import removable, size_of
from kdrun.store.store import Store

TINY = ("dataset=synthetic", "student=mlp", "recipe.epochs=1", "dataset.train_size=64", "dataset.test_size=32")
TAUGHT = (*TINY, "method=kd", "teacher=mlp", "runtime.keep=all")


def files(root: Path) -> set[Path]:
    return {path for path in root.rglob("*") if path.is_file()}


@pytest.fixture
def taught(kdrun, here) -> tuple[Path, Path]:
    """A student's and its teacher's directory."""
    assert kdrun(*TAUGHT)[0] == 0
    runs = here / "outputs" / "runs" / "synthetic" / "mlp"
    (student,), (teacher,) = runs.glob("kd-*"), runs.glob("ce-*")
    return student, teacher


def test_clean_removes_nothing_by_itself_and_what_it_lists_on_request(kdrun, here, taught):
    before = files(here)
    code, out, _ = kdrun("clean")
    assert code == 0
    assert files(here) == before
    kinds = [line.split()[0] for line in out[:-1]]
    assert sorted(kinds) == ["caches", "checkpoints", "checkpoints"]
    assert kdrun("clean", "--only", "checkpoints", "--apply")[0] == 0
    gone = before - files(here)
    assert {path.parent.name for path in gone} == {"checkpoints"}
    assert sum(path.suffix == ".pt" for path in gone) == len(gone) == 4
    assert kdrun(*TAUGHT)[1][-1].startswith("result: "), "finished runs are as they were"


def test_what_belongs_to_runs_that_are_gone_is_unreferenced(kdrun, here, taught):
    assert kdrun("rm", *map(str, taught))[0] == 0
    assert not any(path.exists() for path in taught)
    out = kdrun("clean", "--only", "unreferenced", "--apply")[1]
    assert [line.split()[0] for line in out[:-1]] == ["unreferenced"]
    assert not any((here / "outputs" / "replay").iterdir())


def test_an_unfinished_run_is_listed_and_one_that_a_process_holds_is_not(kdrun, here, taught):
    student, _ = taught
    (student / "result.json").unlink()
    (run,) = (run for run in Store(here / "outputs").runs() if run.directory.name == student.name)
    with run.lock(lambda _: None):
        run.write_status("running")
        assert kdrun("clean", "--only", "unfinished")[1] == ["0 to remove with --apply, 0.0 MB"]
        code, _, err = kdrun("rm", str(student))
        assert (code, "a process holds it" in err) == (2, True)
    assert kdrun("clean", "--only", "unfinished")[1][0].endswith(student.name)


def test_a_teacher_is_not_removed_under_its_student(kdrun, here, taught):
    student, teacher = taught
    code, _, err = kdrun("rm", str(teacher))
    assert code == 2
    assert student.name in err
    assert teacher.exists()
    assert kdrun("rm", teacher.name.removeprefix("ce-"), "--force")[0] == 0
    assert student.exists()
    assert not teacher.exists()


@pytest.mark.parametrize("name", ["0123456789", "outputs", "..", "/etc"])
def test_what_is_no_run_is_never_removed(kdrun, here, taught, name):
    before = files(here)
    code, _, err = kdrun("rm", name)
    assert code == 2
    assert f"{name}: no run under outputs" in err
    assert files(here) == before


def test_links_and_what_cannot_be_read_are_left_alone(kdrun, here, taught):
    student, teacher = taught
    checkpoints, elsewhere = student / "checkpoints", here / "elsewhere"
    checkpoints.rename(elsewhere)
    checkpoints.symlink_to(elsewhere)
    (teacher / "status.json").write_text("{}")
    before = files(here)
    code, out, _ = kdrun("clean", "--only", "unreferenced", "--only", "checkpoints", "--apply")
    assert (code, out[-1]) == (0, "0 removed, 0.0 MB"), "the teacher's logits are of a run that is there"
    assert f"{teacher.name}/status.json" in out[0]
    assert files(here) == before
    moved = here / "moved"
    student.rename(moved)
    student.symlink_to(moved)
    code, _, err = kdrun("rm", str(student))
    assert code == 2
    assert f"is a link to {moved}" in err
    assert (moved / "spec.json").exists()


def test_a_lock_that_cannot_be_opened_ends_nothing(kdrun, here, taught):
    student, _ = taught
    (run,) = (run for run in Store(here / "outputs").runs() if run.directory.name == student.name)
    run.result_path.unlink()
    run.write_status("running")
    (student / ".lock").unlink()
    (student / ".lock").mkdir()
    code, out, _ = kdrun("clean", "--apply")
    assert code == 0
    assert f"{student.name}/.lock" in out[0]
    assert student.exists()
    code, _, err = kdrun("rm", str(student))
    assert code == 2
    assert f"{student.name}/.lock" in err


def test_a_run_that_a_process_took_meanwhile_is_not_removed(kdrun, here, taught):
    student, _ = taught
    (student / "result.json").unlink()
    store = Store(here / "outputs")
    (item,) = (item for item in removable(store) if item.kind == "unfinished")
    assert item.run is not None
    with item.run.lock(lambda _: None):
        assert not item.remove()
    assert item.remove()
    assert not student.exists()


def test_a_run_that_another_process_removed_or_began_anew_meanwhile(here, taught, monkeypatch):
    """The lock that is waited for may be of a directory that is gone by then."""
    student, _ = taught
    (run,) = (run for run in Store(here / "outputs").runs() if run.directory.name == student.name)
    try_lock, before = run_module.try_lock, here / "before"

    def after(change):
        def locking(descriptor: int) -> bool | None:
            monkeypatch.setattr(run_module, "try_lock", try_lock)
            change()
            return try_lock(descriptor)

        monkeypatch.setattr(run_module, "try_lock", locking)
        return run.remove()

    def begun_anew() -> None:
        student.rename(before)
        student.mkdir()
        (student / ".lock").touch()

    assert not after(begun_anew), "it is another process's by now"
    assert (student / ".lock").exists()
    assert after(run.remove), "it is gone"
    assert run.remove()
    assert not student.exists()
    assert list((here / "outputs" / "runs").glob(".removed-*")) == []


def test_what_vanishes_while_it_is_removed_is_removed(here, taught, monkeypatch):
    items = list(removable(Store(here / "outputs")))
    rmtree = shutil.rmtree

    def both(path):
        monkeypatch.setattr(shutil, "rmtree", rmtree)
        rmtree(path)
        rmtree(path)

    monkeypatch.setattr(shutil, "rmtree", both)
    assert all(item.remove() for item in items)
    assert not any(item.path.exists() for item in items)
    assert [size_of(item.path) for item in items] == [0] * len(items)


def test_what_cannot_be_removed_is_named_and_the_rest_removed(kdrun, here, taught, monkeypatch):
    student, teacher = taught

    def read_only(*_: object) -> None:
        raise OSError(errno.EROFS, os.strerror(errno.EROFS), str(student))

    replace = os.replace
    monkeypatch.setattr(os, "replace", lambda path, to: (read_only if path.name == student.name else replace)(path, to))
    remove_tree = cleaning.remove_tree
    code, out, err = kdrun("rm", student.name[-10:], teacher.name[-10:])
    assert (code, len(out)) == (1, 1)
    assert f"{student.name}: cannot be removed" in err
    assert student.exists()
    assert not teacher.exists()
    monkeypatch.setattr(
        cleaning, "remove_tree", lambda path: (read_only if "replay" in str(path) else remove_tree)(path)
    )
    code, out, err = kdrun("clean", "--apply")
    assert (code, out[-1].partition(",")[0]) == (1, "1 removed")
    assert "replay" in err
