"""A FIFO, a device, or a file without end instead of a run's file costs that run alone, and is never waited for."""

import io
import zipfile

import pytest
import torch

from kdrun.cli.ls import ls_main
from kdrun.files import UnfitFileError, sha256, write_json
from kdrun.store import checkpoint
from kdrun.store.checkpoint import MAGIC, CheckpointError
from tests.special_files import replace_by

CPU = torch.device("cpu")
FILES = ("spec.json", "status.json", "result.json", "metrics.jsonl", ".lock", "checkpoints/last.pt")


pytestmark = pytest.mark.usefixtures("in_seconds")


@pytest.mark.parametrize(
    ("name", "kind"), [*((name, "fifo") for name in FILES), ("result.json", "device"), ("metrics.jsonl", "endless")]
)
def test_a_special_file_of_a_neighbour_costs_that_run_alone(lab, interrupted, name, kind, capsys):
    neighbour = interrupted(lab.plain()) if name in (".lock", "checkpoints/last.pt") else lab.execute(lab.plain()).run
    other = lab.plain(seed=1)
    replace_by(kind, neighbour.directory / name)
    finished = lab.execute(other).run
    ls_main([str(lab.root / "outputs")])
    assert finished.directory.name in capsys.readouterr().out


@pytest.mark.parametrize("kind", ["fifo", "device", "endless"])
def test_ones_own_special_file_is_named(lab, interrupted, kind):
    run = lab.execute(lab.plain()).run
    replace_by(kind, run.directory / "metrics.jsonl")
    with pytest.raises(UnfitFileError, match=r"metrics\.jsonl (is a|has \d+ bytes)"):
        run.rows()
    replace_by(kind, run.weights)
    with pytest.raises(UnfitFileError, match=r"student\.safetensors (is a|has \d+ bytes)"):
        run.weights_problem()
    stopped = interrupted(lab.plain(seed=2))
    whole = lab.execute(stopped.spec, "whole").run
    replace_by(kind, stopped.last_checkpoint)
    assert lab.bits(lab.execute(stopped.spec).run) == lab.bits(whole), "it continues from the epoch before"


def written(path, payload):
    path.write_bytes(MAGIC + bytes.fromhex(sha256(payload)) + payload)
    return path


def test_a_checkpoint_that_unpacks_to_more_than_its_size_is_refused(tmp_path):
    content = io.BytesIO()
    torch.save({"a": torch.zeros(2**20)}, content)
    packed = io.BytesIO()
    with zipfile.ZipFile(content) as plain, zipfile.ZipFile(packed, "w", zipfile.ZIP_DEFLATED) as archive:
        for entry in plain.infolist():
            archive.writestr(entry.filename, plain.read(entry))
    assert checkpoint.load(written(tmp_path / "whole.pt", content.getvalue()), CPU)["a"].shape == (2**20,)
    with pytest.raises(CheckpointError, match="its parts are larger than the file"):
        checkpoint.load(written(tmp_path / "packed.pt", packed.getvalue()), CPU)
    with pytest.raises(CheckpointError, match="its parts are larger"):
        checkpoint.load(written(tmp_path / "garbage.pt", b"no archive"), CPU)
    torch.save([1], content := io.BytesIO())
    with pytest.raises(CheckpointError, match="holds a list"):
        checkpoint.load(written(tmp_path / "list.pt", content.getvalue()), CPU)


def test_a_spec_of_endless_teachers_costs_that_run_alone(lab, capsys):
    run = lab.execute(lab.plain()).run
    spec = run.spec.canonical()
    for _ in range(300):
        spec = {**run.spec.canonical(), "teachers": [spec]}
    write_json(run.directory / "spec.json", spec)
    assert ls_main([str(lab.root / "outputs")]) == 1
    assert f"{run.directory / 'spec.json'} is " in capsys.readouterr().err, "too deep, or of another run"
    lab.execute(lab.plain(seed=1))
