"""A file of another run in the place of a run's own is noticed, and a finished run's weights are kept whole."""

import json
import shutil

import pytest

from kdrun.cli.ls import ls_main
from kdrun.experiment.derived import EvaluatedRun, compute, kept
from kdrun.files import DamagedError, read_record, write_record
from kdrun.store.checkpoint import CheckpointError
from kdrun.store.run import Run
from tests.made_up import EVALUATIONS


@pytest.fixture
def seeds(lab):
    return lab.plain(), lab.plain(seed=1)


def test_every_file_carries_the_identity_of_its_run(lab):
    spec = lab.plain()
    run = lab.execute(spec).run
    for path in (run.result_path, run.directory / "status.json"):
        assert json.loads(path.read_text()).items() >= spec.identity.items()
    for path in (run.last_checkpoint, run.best_checkpoint):
        assert run.load_checkpoint(path, "cpu").items() >= spec.identity.items()
    rows = [json.loads(line) for line in (run.directory / "metrics.jsonl").read_text().splitlines()]
    assert {row["run_id"] for row in rows} == {spec.run_id}


def test_another_runs_checkpoint_is_never_continued(lab, seeds, interrupted):
    whole = lab.execute(seeds[0], "whole").run
    runs = [interrupted(spec) for spec in seeds]
    shutil.copy(runs[1].last_checkpoint, runs[0].last_checkpoint)
    assert lab.bits(lab.execute(seeds[0]).run) == lab.bits(whole), "it continues from its own of the epoch before"
    runs = [interrupted(lab.plain(seed=seed)) for seed in (2, 3)]
    for name in ("last.pt", "previous.pt"):
        shutil.copy(runs[1].directory / "checkpoints" / name, runs[0].directory / "checkpoints" / name)
    with pytest.raises(CheckpointError, match=rf"last\.pt is of another run.*{runs[1].spec.run_id}"):
        lab.execute(runs[0].spec)


@pytest.mark.parametrize("name", ["result.json", "metrics.jsonl"])
def test_another_runs_figures_are_never_shown_as_ones_own(lab, seeds, name):
    first, second = (lab.execute(spec).run for spec in seeds)
    shutil.copy(second.directory / name, first.directory / name)
    with pytest.raises(DamagedError, match=rf"{name}"):
        first.rows()
    if name == "result.json":
        with pytest.raises(DamagedError, match="of another run"):
            lab.execute(seeds[0])


def test_another_runs_metrics_are_noticed_before_the_end_too(seeds, interrupted):
    first, second = (interrupted(spec) for spec in seeds)
    assert [row["epoch"] for row in first.rows()] == [1, 2]
    shutil.copy(second.directory / "metrics.jsonl", first.directory / "metrics.jsonl")
    with pytest.raises(DamagedError, match=r"metrics\.jsonl is of another run"):
        first.rows()


def test_another_runs_status_is_not_believed(lab, seeds, interrupted):
    """The choices of how to compute are then those of the checkpoint."""
    whole = lab.execute(seeds[0], "whole").run
    first, second = (interrupted(spec) for spec in seeds)
    shutil.copy(second.directory / "status.json", first.directory / "status.json")
    assert "of another run" in first.status()["damaged"]
    assert lab.bits(lab.execute(seeds[0]).run) == lab.bits(whole)


def damages(run: Run, other: Run) -> dict[str, object]:
    content = run.weights.read_bytes()
    return {
        "missing": run.weights.unlink,
        "cut": lambda: run.weights.write_bytes(content[:-1]),
        "swapped": lambda: run.weights.write_bytes(other.weights.read_bytes()),
    }


@pytest.mark.parametrize(
    ("damage", "asked"),
    [("missing", "alone"), ("cut", "alone"), ("swapped", "alone"), ("swapped", "as a teacher")],
)
def test_weights_of_a_finished_run_are_restored(lab, damage, asked, caplog, trained):
    run, other = (lab.execute(spec).run for spec in (lab.teacher, lab.plain("cnn", seed=1)))
    content, result = run.weights.read_bytes(), run.result_path.read_bytes()
    damages(run, other)[damage]()
    trained.clear()
    lab.execute(lab.teacher if asked == "alone" else lab.taught())
    assert trained == ([] if asked == "alone" else ["kd"])
    assert run.weights.read_bytes() == content
    assert run.result_path.read_bytes() == result
    assert f"restored from {run.last_checkpoint}" in caplog.text


def test_without_a_checkpoint_the_run_is_trained_again(lab, caplog, trained):
    run = lab.execute(lab.plain()).run
    content, result = run.weights.read_bytes(), run.result()
    run.weights.unlink()
    run.drop_checkpoints()
    again = lab.execute(lab.plain())
    assert trained == ["ce", "ce"]
    assert not again.reused
    assert run.weights.read_bytes() == content
    assert again.result["test"] == result["test"]
    assert "trained again" in caplog.text


@pytest.mark.parametrize("obstacle", ["directory", "dangling link"])
def test_unreadable_files_of_neighbours_cost_nobody_else_anything(lab, obstacle):
    """Nor do they end the list of runs."""
    places = []
    for seed, name in enumerate(("spec.json", "status.json", "result.json", "checkpoints/last.pt", ".lock"), start=1):
        path = lab.execute(lab.plain(seed=seed, stop_epoch=1)).run.directory / name
        path.unlink()
        if obstacle == "directory":
            path.mkdir()
        else:
            path.symlink_to("nowhere")
        places.append(path)
    told = [str(each) for each in lab.runner().store.runs() if isinstance(each, Exception)]
    assert any(str(places[0]) in each for each in told)
    whole = lab.execute(lab.plain(), "whole").run
    assert lab.bits(lab.execute(lab.plain()).run) == lab.bits(whole)
    assert ls_main([str(lab.root / "outputs")]) in (0, 1)


def asked(lab, spec):
    """A figure computed from a run, and where it lies."""
    figure = EvaluatedRun((spec,), EVALUATIONS[0])
    return figure, lab.runner().store.derived(figure.key)


def test_figures_of_weights_that_are_no_longer_there_are_computed_again(lab):
    """Another machine's last bits, or a run that was removed and trained anew, are other weights."""
    spec = lab.plain()
    figure, _ = asked(lab, spec)
    run = lab.execute(spec).run
    first = compute(figure, lab.runner())
    assert compute(figure, lab.runner()) == first
    shutil.rmtree(run.directory)
    assert kept(lab.runner().store, figure) == first, "it stays where the run is gone"
    other = lab.execute(lab.plain(seed=1)).run
    shutil.copytree(other.directory, run.directory)
    record = read_record(other.result_path) | spec.identity
    write_record(run.result_path, record)
    assert kept(lab.runner().store, figure) is None
    assert compute(figure, lab.runner())["weights_sha256"] == [record["student"]["weights_sha256"]]


def test_another_figure_is_never_shown(lab, seeds):
    places = []
    for spec in seeds:
        lab.execute(spec)
        figure, path = asked(lab, spec)
        compute(figure, lab.runner())
        places.append(path)
    shutil.copy(places[1], places[0])
    with pytest.raises(DamagedError, match="is another figure"):
        compute(asked(lab, seeds[0])[0], lab.runner())
