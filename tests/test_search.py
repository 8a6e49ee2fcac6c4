"""`kdrun search`: the objective, pruning, resuming and sharing of a study, and the best settings' runs."""

import csv
import json
from pathlib import Path

import pytest

from kdrun.spec.components import all_options
from kdrun.spec.spec import Spec
from kdrun.stopping import Stopped
from kdrun.store.run import Run

SMALL = (
    *("dataset=synthetic", "dataset.train_size=160", "dataset.test_size=50", "recipe.batch_size=32", "recipe.epochs=4"),
    *("student=mlp", "student.hidden=[16]", "teacher=mlp", "teacher.hidden=[16]", "runtime.device=cpu"),
    "teacher.recipe.lr=0.05",
)
SPACE = ("recipe.lr=tag(log,interval(0.001,0.3))", "method.temperature=choice(1,4)")
SIZE = ("--trials", "9", "--seeds", "2")


def trials(root: Path) -> list[dict[str, str]]:
    (path,) = root.glob("searches/*/trials.csv")
    rows = list(csv.DictReader(path.open()))
    return [{**row, "run": row["run"].rpartition("/")[2]} for row in rows]


def run_of(root: Path, name: str) -> Run:
    (directory,) = root.glob(f"runs/synthetic/mlp/{name}")
    return Run(directory, Spec.from_canonical(json.loads((directory / "spec.json").read_text())))


@pytest.fixture
def optuna():
    return pytest.importorskip("optuna")


def test_a_search_maximizes_held_out_accuracy_and_tests_the_best_without_the_split(kdrun, here, optuna):
    code, out, err = kdrun("search", *SPACE, *SMALL, *SIZE)
    assert (code, err) == (0, "")
    root = here / "outputs"
    rows = trials(root)
    assert [row["trial"] for row in rows] == [str(number) for number in range(9)]
    assert {row["state"] for row in rows} == {"finished", "pruned"}
    value = "val top-1, last epoch (%)"
    for row in rows:
        run = run_of(root, row["run"])
        last = run.rows()[-1]
        assert float(row[value]) == last["val"]["top1"]
        assert int(row["epoch"]) == last["epoch"]
        assert (run.spec.recipe.lr, all_options(run.spec.method)["temperature"]) == (
            float(row["recipe.lr"]),
            float(row["method.temperature"]),
        )
        assert (run.spec.dataset.val_fraction, run.spec.seed) == (0.1, 0)
        assert run.state == ("finished" if row["state"] == "finished" else "interrupted")
        assert run.last_checkpoint.exists() == (row["state"] == "pruned")
        assert row["state"] == "finished" or 1 < last["epoch"] < 4
    assert len({run_of(root, row["run"]).spec.teachers[0].run_id for row in rows}) == 1
    finished = [row for row in rows if row["state"] == "finished"]
    best = max(finished, key=lambda row: float(row[value]))
    runs = [run_of(root, path.name) for path in root.glob("runs/synthetic/mlp/kd-*")]
    final = [run.spec for run in runs if run.spec.dataset.val_fraction == 0]
    assert sorted(spec.seed for spec in final) == [0, 1]
    assert {spec.recipe.lr for spec in final} == {float(best["recipe.lr"])}
    assert {teacher.dataset.val_fraction for spec in final for teacher in spec.teachers} == {0}
    (directory,) = root.glob("searches/*")
    names = {path.name for path in directory.iterdir()}
    assert names >= {"summary.csv", "summary.md", "trials.md", "importances.png", "surface.png", "curves.png"}
    (summary,) = [row for row in csv.DictReader((directory / "summary.csv").open()) if row["recipe.lr"]]
    assert (summary["n"], summary["recipe.lr"]) == ("2", best["recipe.lr"])
    assert out[-1] == f"result: {directory.relative_to(here) / 'summary.csv'}"

    results = {path: path.stat().st_mtime_ns for path in root.glob("runs/*/*/*/*")}
    assert kdrun("search", *SMALL, *reversed(SPACE), *SIZE)[0] == 0  # the same search in another order of the words
    assert list(root.glob("searches/*")) == [directory]
    assert {path: path.stat().st_mtime_ns for path in root.glob("runs/*/*/*/*")} == results


def test_a_search_stopped_anywhere_ends_as_one_that_was_not(kdrun, here, optuna, monkeypatch):
    from kdrun.experiment.study import SharedStudy

    assert kdrun("search", *SPACE, *SMALL, *SIZE, "runtime.output_root=whole")[0] == 0
    calls = 0
    own = {name: getattr(SharedStudy, name) for name in ("claim", "report", "tell")}

    def stopping(name):
        def call(*arguments, **options):
            nonlocal calls
            calls += 1
            if calls % 11 == 0:
                raise Stopped(15)
            done = own[name](*arguments, **options)
            if calls % 7 == 0:
                raise Stopped(15)
            return done

        return call

    for name in own:
        monkeypatch.setattr(SharedStudy, name, stopping(name))
    codes = []
    while not codes or codes[-1]:
        codes.append(kdrun("search", *SPACE, *SMALL, *SIZE, "runtime.output_root=parts")[0])
    assert codes[:-1] == [143] * (len(codes) - 1)
    assert len(codes) > 5
    assert trials(here / "parts") == trials(here / "whole")
    summaries = [next(here.glob(f"{root}/searches/*/summary.csv")) for root in ("whole", "parts")]
    shown = [[row["test.last.top1.mean"] for row in csv.DictReader(path.open())] for path in summaries]
    assert shown[0] == shown[1]


def test_processes_share_trials_and_take_over_those_of_a_dead_one(tmp_path, optuna):
    from kdrun.experiment.study import SharedStudy

    with SharedStudy.opened(tmp_path) as first:
        with SharedStudy.opened(tmp_path) as second:
            zero, one = first.claim(3), second.claim(3)
            drawn = one.suggest_float("x", 0, 1)
            assert (zero.number, one.number) == (0, 1)
            assert zero.suggest_float("x", 0, 1) != drawn
            first.tell(zero, 1.0)
            assert first.running() == [1]
        again = first.claim(3)
        assert (again.number, again.suggest_float("x", 0, 1)) == (1, drawn)
        first.tell(again)  # failed: it counts in this command only
        two = first.claim(3)
        first.tell(two, pruned=True)
        assert first.claim(3) is None
        assert first.best().number == 0
    with SharedStudy.opened(tmp_path) as later:
        assert later.claim(3).number == 3
        assert later.claim(3) is None


def test_a_diverged_trial_is_no_failure_and_is_tried_once(kdrun, here, optuna):
    words = ("recipe.lr=choice(0.01,1e7)", *SMALL, "--trials", "4", "--seeds", "1")
    code, _, err = kdrun("search", *words)
    assert (code, err) == (0, "")
    found = trials(here / "outputs")
    assert {(row["recipe.lr"], row["state"]) for row in found} == {("0.01", "finished"), ("10000000.0", "diverged")}
    assert kdrun("search", *words)[0] == 0
    assert trials(here / "outputs") == found


def test_accuracy_in_a_first_stage_is_not_reported(kdrun, optuna, monkeypatch):
    from kdrun.experiment.study import SharedStudy

    epochs = []
    report = SharedStudy.report
    monkeypatch.setattr(SharedStudy, "report", lambda *words: epochs.append(words[-1]) or report(*words))
    words = [*SMALL[:3], "method=fitnet", "method.stage1_epochs=2", "student=resnet8", "teacher=resnet8"]
    words += ["dataset.image_size=8", "recipe.batch_size=64", "recipe.epochs=2"]
    assert kdrun("search", "method.temperature=1,2", *words, "--trials", "1", "--seeds", "1")[0] == 0
    assert epochs == [3, 4]


def test_everything_wrong_with_a_search_is_one_message(kdrun, here):
    words = ["method.alpha=interval(0.5,3)", "recipe.lr=interval(1,0)", "method.nope=1,2", "dataset=digits,synthetic"]
    code, out, err = kdrun("search", *words, "hydra/launcher=joblib", "--trials", "0", "--seeds", "0")
    assert (code, out) == (2, [])
    named = ["--trials 0", "--seeds 0", "hydra/launcher=joblib", "recipe.lr=interval(1,0)", "method.alpha=3.0"]
    assert [text for text in (*named, "method.nope=1", "method.nope=2", "dataset:") if f"\n  {text}" not in err] == []
    assert list(here.iterdir()) == []


def test_a_search_without_optuna_is_bad_input(kdrun, here, monkeypatch):
    monkeypatch.setattr("kdrun.cli.search.find_spec", lambda name: None)
    code, out, err = kdrun("search", *SPACE, *SMALL)
    assert (code, out) == (2, [])
    assert "pip install 'kdrun[optuna]'" in err
    assert list(here.iterdir()) == []


def test_a_lock_that_a_killed_process_left_in_the_journal_expires(tmp_path, optuna, monkeypatch):
    """Also under a relative output root."""
    from optuna.storages.journal import JournalFileSymlinkLock

    from kdrun.experiment.study import SharedStudy

    monkeypatch.chdir(tmp_path)
    monkeypatch.setattr(JournalFileSymlinkLock.__init__, "__defaults__", (3,))  # seconds, instead of 30
    with SharedStudy.opened(Path("study")) as killed:
        killed.study._storage._backend._lock.acquire()
        with SharedStudy.opened(Path("study")) as other:
            assert other.claim(1).number == 0
