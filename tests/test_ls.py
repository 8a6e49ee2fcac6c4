"""`kdrun ls` tells how every run is, whatever the files of a dead process say."""

import json
import re
import shutil
import subprocess
import sys

import pytest

from kdrun.files import write_json, write_record
from kdrun.spec.spec import Spec
from kdrun.store.run import Run

TINY = ("dataset=synthetic", "student=mlp", "teacher=none", "method=ce", "recipe.epochs=2", "runtime.device=cpu")


@pytest.fixture
def runs(kdrun, here) -> list[Run]:
    """Three runs, in the order of their seeds."""
    assert kdrun("-m", *TINY, "seed=0,1,2")[0] == 0
    found = [Run(path.parent, Spec.from_canonical(json.loads(path.read_text()))) for path in here.rglob("spec.json")]
    return sorted(found, key=lambda run: run.spec.seed)


def listed(kdrun, *words: str) -> dict[int, list[str]]:
    """Cells by seed."""
    code, lines, err = kdrun("ls", *words)
    assert code == 0, err
    rows = [cells(line) for line in lines if "/ce-" in line]
    assert lines[-1] == f"{len(rows)} run" + ("s" if len(rows) != 1 else "")
    return {int(row[1]): row for row in rows}


def test_finished_runs_with_their_accuracy(kdrun, runs):
    rows = listed(kdrun)
    for run in runs:
        state, _, epoch, top1, when, place = rows[run.spec.seed]
        assert (state, epoch, when) == ("finished", "2/2", "now")
        assert top1 == f"{run.result()['test']['last']['top1']:.2f}"
        assert place == str(run.directory.relative_to(run.directory.parents[4]))


def test_records_as_json_and_runs_of_an_older_semantics(kdrun, runs):
    older = Run(runs[0].directory.parent / f"ce-{runs[0].spec.at_semantics(1).run_id}", runs[0].spec.at_semantics(1))
    older.open(config=None)
    taught = (*TINY[:2], "teacher=mlp", "method=kd", *TINY[4:])
    assert kdrun(*taught)[0] == 0
    code, lines, _ = kdrun("ls", "--json")
    assert code == 0
    records = json.loads("\n".join(lines))
    assert len(records) == 5
    assert [record["run_id"] for record in records if record["older_semantics"]] == [older.spec.run_id]
    assert {record["semantics"] for record in records} == {1, 2}
    by_id = {record["run_id"]: record for record in records}
    for run in runs:
        record = by_id[run.spec.run_id]
        assert record["top1"] == run.result()["test"]["last"]["top1"]
        assert (record["state"], record["epoch"], record["epochs"], record["shares"]) == ("finished", 2, 2, [])
        assert record["run"] == str(run.directory.relative_to(run.directory.parents[4]))
    (kd,) = [record for record in records if record["method"] == "kd"]
    (stage,) = kd["shares"]
    assert (stage["first"]["epoch"], stage["last"]["epoch"], stage["last"]["percent"].keys()) == (1, 2, {"ce", "kd"})
    assert [row[0] for row in map(cells, kdrun("ls")[1]) if row[-1].endswith(older.spec.run_id)] == [
        "stale, semantics 1"
    ]


def cells(line: str) -> list[str]:
    return [cell.strip() for cell in line.strip("|").split("|")]


def test_a_run_is_running_while_a_process_holds_it_and_stale_afterwards(kdrun, runs):
    for run in runs:
        run.result_path.unlink()
    runs[0].write_status("running", epoch=1)
    runs[1].write_status("running", epoch=1)
    runs[2].write_status("interrupted", error="KeyboardInterrupt: ")
    with runs[0].lock(lambda status: None):
        states = {seed: row[0] for seed, row in listed(kdrun).items()}
        assert states == {0: "running", 1: "stale", 2: "interrupted"}
        assert listed(kdrun, "--state", "running", "--state", "stale").keys() == {0, 1}
    assert listed(kdrun)[0][0] == "stale"
    assert listed(kdrun)[0][2] == "1/2"


def test_what_cannot_be_read_is_named_and_the_rest_is_listed(kdrun, runs):
    write_json(runs[0].directory / "spec.json", {})
    write_record(runs[1].result_path, {**runs[1].result(), "schema": 99})
    code, lines, err = kdrun("ls")
    assert code == 1
    assert re.search(r"spec\.json is no spec of this kdrun", err)
    assert re.search(r"result\.json has schema 99, this kdrun reads 1", err)
    assert lines[-1] == "1 run"


def test_a_damaged_file_is_named(kdrun, runs):
    for run, name in zip(runs, ("spec.json", "status.json", "result.json"), strict=True):
        path = run.directory / name
        path.write_text(path.read_text().replace('"seed": 1', '"seed": 0').replace("finished", "finishes"))
    (runs[0].directory / "spec.json").write_text((runs[1].directory / "spec.json").read_text())
    code, lines, err = kdrun("ls")
    assert code == 1
    for name in ("spec", "status", "result"):
        assert re.search(rf"/ce-\w+/{name}\.json is not whole", err)
    assert "status.json is not whole: its content does not have the SHA-256 it was written with; the command" in err
    assert lines[-1] == "0 runs"


def test_a_listing_imports_no_torch(runs, here):
    for run in runs[:2]:
        run.result_path.unlink()
    runs[0].write_status("interrupted", epoch=1)
    code = "import sys; sys.modules['torch'] = None; from kdrun.cli import main; sys.exit(main(['ls', '--json']))"
    listed = subprocess.run([sys.executable, "-c", code], cwd=here, capture_output=True)
    states = {record["seed"]: record["state"] for record in json.loads(listed.stdout)}
    assert states == {0: "interrupted", 2: "finished"}
    assert listed.returncode == 1, "the status of one says that it is finished, and it has no result"
    assert str(runs[1].result_path.relative_to(here)) in listed.stderr.decode()


def test_a_root_that_is_not_there_is_refused(kdrun):
    code, _, err = kdrun("ls", "nowhere")
    assert code == 2
    assert "nowhere: no such directory" in err


def test_the_stage_of_a_run_of_two_is_told(kdrun, here):
    words = (*TINY[:1], "student=resnet8", "teacher=resnet8", "method=fsp", "method.stage1_epochs=1", *TINY[4:])
    code, out, _ = kdrun(*words, "stop_epoch=1")
    assert code == 0
    assert "stop_epoch=1: within stage 1 of fsp, which has 1 epoch: the network has not seen stage 2" in out
    assert any("student resnet8 fsp: 1 epoch of stage 1 in" in line for line in out)
    assert any("student resnet8 fsp stage 1 epoch 1/1 " in line for line in out)
    assert any(line.startswith("| resnet8 fsp stopped at 1, in stage 1 |") for line in out)

    def epoch() -> str:
        (line,) = [line for line in kdrun("ls")[1] if "/fsp-" in line]
        return line.strip("|").split("|")[2].strip()

    assert epoch() == "1/1, stops in stage 1"
    shutil.rmtree(next(here.glob("outputs/runs/*/resnet8/fsp-*")))
    code, out, _ = kdrun(*words)
    assert code == 0
    assert [line.split(" epoch")[0] for line in out if re.search(r"fsp stage \d epoch", line)] == [
        *("student resnet8 fsp stage 1", "student resnet8 fsp stage 2", "student resnet8 fsp stage 2"),
    ]
    assert epoch() == "3/3"
    (result,) = here.glob("outputs/runs/*/resnet8/fsp-*/result.json")
    run = Run(result.parent, Spec.from_canonical(json.loads((result.parent / "spec.json").read_text())))
    result.unlink()
    for done, stage in ((0, 1), (1, 2), (2, 2)):
        run.write_status("interrupted", epoch=done)
        assert epoch() == f"{done}/3, stage {stage}"
