"""A flipped bit of any file that a run leaves is noticed, told by the file's name, and decides no bit of a result."""

import random
import shutil

import pytest

from kdrun.experiment.attempt import Outcome
from kdrun.files import DamagedError, read_record
from kdrun.methods import CE
from kdrun.store.run import Run
from kdrun.store.store import Store


def flip(path, place: int, rng: random.Random) -> None:
    """Flips one bit of one byte."""
    content = bytearray(path.read_bytes())
    content[place] ^= 1 << rng.randrange(8)
    path.write_bytes(content)


def readers(run: Run, teacher: Run, place):
    """Each small file of a run, and how a later step reads it: what is wrong with it, or None."""
    shutil.copytree(teacher.directory, place / "teacher")
    bare = place / "runs" / run.directory.relative_to(run.directory.parents[2])
    shutil.copytree(run.directory, bare, ignore=shutil.ignore_patterns("checkpoints"))
    spec = place / "spec" / bare.relative_to(place)
    spec.mkdir(parents=True)
    shutil.copy(run.directory / "spec.json", spec)
    here = Run(bare, run.spec)

    def refusal(read) -> str | None:
        try:
            read()
        except DamagedError as error:
            return str(error)
        return None

    def listed() -> str | None:
        (found,) = Store(place / "spec").runs()
        return str(found) if isinstance(found, Exception) else None

    (verified,) = (place / "teacher").glob("verified-*.json")
    return {
        spec / "spec.json": listed,
        bare / "status.json": lambda: here.status().get("damaged"),
        bare / "result.json": lambda: refusal(here.result),
        bare / "metrics.jsonl": lambda: refusal(here.rows),
        verified: lambda: refusal(lambda: read_record(verified)),
    }


@pytest.mark.parametrize("stride", [17, pytest.param(1, marks=pytest.mark.slow)])
def test_every_byte_with_a_flipped_bit_is_noticed(finished, lab, stride):
    """In the quick test one of 17 bytes, the first and the last among them."""
    rng, tried, unnoticed = random.Random(0), 0, []
    teacher = Store(finished.run.directory.parents[3]).run(finished.run.spec.teachers[0])
    for path, problem in readers(finished.run, teacher, lab.root).items():
        assert problem() is None, "as it was written"
        content = path.read_bytes()
        for place in sorted({*range(0, len(content), stride), len(content) - 1}):
            flip(path, place, rng)
            tried += 1
            told = problem()
            if told is None or path.name not in told:
                unnoticed.append((path.name, place, path.read_bytes()[place], told))
            path.write_bytes(content)
    print(f"{tried - len(unnoticed)} of {tried} flipped bits noticed")
    assert unnoticed == []
    assert tried > 3000 / stride


@pytest.mark.parametrize("kind", ["flipped", "deleted", "checkpoint flipped too"])
def test_without_its_status_a_run_computes_as_it_began_and_ends_with_the_same_bits(lab, interrupted, caplog, kind):
    """How many threads, say: the command that resumes it would choose another number."""
    spec = lab.plain("cnn")
    whole = lab.execute(spec, "whole", threads=1)
    run = interrupted(lab.plain("cnn"), threads=1)
    path = run.directory / "status.json"
    if kind == "deleted":
        path.unlink()
    else:
        flip(path, len(path.read_bytes()) // 2, random.Random(0))
    if kind == "checkpoint flipped too":
        flip(run.last_checkpoint, 2000, random.Random(0))
    resumed = lab.execute(spec, threads=2)
    assert resumed.result["environment"]["threads"] == whole.result["environment"]["threads"] == 1
    assert lab.bits(resumed.run) == lab.bits(whole.run)
    assert (f"{path} is not whole" in caplog.text or "is not readable JSON" in caplog.text) is (kind != "deleted")
    assert (run.status()["state"], run.status()["choices"]["threads"]) == ("finished", 1)
    assert "damaged" not in run.status()


def test_a_status_that_is_damaged_while_the_run_goes_on_is_mended_at_the_epochs_end(lab, monkeypatch):
    run, forward = lab.run(lab.plain()), CE.forward
    path = run.directory / "status.json"
    states = []

    def flipping(self, batch, teacher):
        if batch.step == 0 and batch.epoch == 1:
            flip(path, 5, random.Random(0))
            states.append(("damaged" in run.status(), run.state))
        if batch.step == 0 and batch.epoch == 2:
            states.append((run.status()["choices"]["threads"], run.state))
        return forward(self, batch, teacher)

    monkeypatch.setattr(CE, "forward", flipping)
    lab.execute(lab.plain())
    assert states == [(True, "running"), (1, "running")]
    assert "started" not in run.status(), "nobody knows it any more"


def test_a_damaged_result_fails_that_run_alone_and_is_written_again_once_it_is_out_of_the_way(lab):
    specs = [lab.taught(temperature=2.0), lab.taught(temperature=8.0)]
    whole, _ = lab.execute_all(specs)
    run, bits = whole.run, lab.bits(whole.run)
    for path, moved in ((run.result_path, [run.result_path]), (run.directory / "metrics.jsonl", None)):
        content = path.read_bytes()
        flip(path, 70, random.Random(0))
        if moved is None:
            with pytest.raises(DamagedError, match=r"metrics\.jsonl is not whole.*move both away"):
                run.rows()
            moved = [path, run.result_path]
        else:
            refused, other = lab.execute_all(specs)
            assert f"{path} is not" in str(refused)
            assert isinstance(other, Outcome)
        for each in moved:
            each.unlink()
        again, _ = lab.execute_all(specs, sweep="one_by_one")
        assert lab.bits(again.run) == bits
        drop = ("train", "finished")
        assert {k: v for k, v in again.result.items() if k not in drop} == {
            k: v for k, v in whole.result.items() if k not in drop
        }
        assert path != run.directory / "metrics.jsonl" or path.read_bytes() == content


def test_a_damaged_beginning_is_told_and_left_aside(lab, caplog):
    expected = lab.alone(lab.plain("cnn"))
    for number, name in enumerate(("spec.json", "result.json", "checkpoints/last.pt", "checkpoints/best.pt")):
        place = f"outputs {number}"
        short = lab.execute(lab.plain("cnn", stop_epoch=1), place).run
        flip(short.directory / name, 60, random.Random(1))
        caplog.clear()
        whole = lab.execute(lab.plain("cnn"), place)
        assert f"{short.directory / name} is" in caplog.text
        assert lab.bits(whole.run) == expected
        assert lab.images_trained_on(whole) == 3 * 66


def test_a_damaged_record_of_a_teachers_check_is_told_and_made_again(lab, caplog):
    lab.execute(lab.taught(temperature=1.0))
    (path,) = lab.run(lab.teacher).directory.glob("verified-*.json")
    content = path.read_bytes()
    flip(path, 20, random.Random(0))
    lab.execute(lab.taught(temperature=2.0))
    assert f"{path} is not" in caplog.text
    assert path.read_bytes() == content


def test_another_spec_in_a_directory_is_no_run_of_its_name(lab):
    """A file that was copied from elsewhere is whole, and not what stands there."""
    run, other = lab.execute(lab.plain(stop_epoch=0)).run, lab.execute(lab.plain(seed=1, stop_epoch=0)).run
    shutil.copy(other.directory / "spec.json", run.directory)
    found = list(Store(lab.root / "outputs").runs())
    refused = [str(each) for each in found if isinstance(each, Exception)]
    assert len(found) == 2
    assert len(refused) == 1
    assert f"{run.directory / 'spec.json'} is not whole: it is the spec of {other.spec.run_id}" in refused[0]
