"""Checkpoints: whole or not at all, noticed when altered, never a way to run code."""

import argparse
import collections
import hashlib
import io
import os
import pickle
import random
import signal
import time
from pathlib import Path

import numpy as np
import pytest
import torch
from safetensors.torch import save_file
from torch import nn

from kdrun.models import resnet20
from kdrun.store import checkpoint
from kdrun.store.checkpoint import CheckpointError, NumpyObject, export_weights, load, read_file, read_weights, save

CPU = torch.device("cpu")


class Payload:
    """Unpickling it creates a file."""

    def __init__(self, marker: Path) -> None:
        self.marker = marker

    def __reduce__(self):
        return open, (str(self.marker), "w")


@pytest.fixture
def state() -> dict:
    """As a run has one: weights in channels_last, the optimiser's moments, rows of metrics."""
    torch.manual_seed(0)
    model = nn.Sequential(nn.Conv2d(3, 8, 3), nn.BatchNorm2d(8), nn.Flatten(), nn.Linear(8 * 4 * 4, 5))
    model = model.to(memory_format=torch.channels_last)
    optimizer = torch.optim.SGD(model.parameters(), lr=0.1, momentum=0.9)
    model(torch.randn(4, 3, 6, 6)).sum().backward()
    optimizer.step()
    rows = [{"epoch": 1, "lr": 0.1, "train": {"loss": 1.25}}]
    return {"method": model.state_dict(), "optimizer": optimizer.state_dict(), "rows": rows, "seconds": 0.5}


def test_round_trip_keeps_bits_strides_and_values(state, tmp_path):
    save(tmp_path / "last.pt", state)
    found = load(tmp_path / "last.pt", CPU)
    assert found.keys() == state.keys()
    assert (found["rows"], found["seconds"]) == (state["rows"], state["seconds"])
    for name, tensor in state["method"].items():
        assert torch.equal(found["method"][name], tensor)
        assert found["method"][name].stride() == tensor.stride()
    for i, moments in state["optimizer"]["state"].items():
        assert torch.equal(found["optimizer"]["state"][i]["momentum_buffer"], moments["momentum_buffer"])


def test_every_flipped_bit_is_noticed(state, tmp_path):
    path = tmp_path / "last.pt"
    save(path, state)
    content = path.read_bytes()
    generator = random.Random(0)
    positions = [*range(64), *(generator.randrange(len(content)) for _ in range(335)), len(content) - 1]
    for position in positions:
        altered = bytearray(content)
        altered[position] ^= 1 << generator.randrange(8)
        path.write_bytes(altered)
        with pytest.raises(CheckpointError, match=r"last\.pt"):
            load(path, CPU)


def test_every_truncation_is_noticed(state, tmp_path):
    path = tmp_path / "last.pt"
    save(path, state)
    content = path.read_bytes()
    for length in (0, 4, len(checkpoint.MAGIC), 20, 41, 42, 1000, len(content) // 2, len(content) - 1):
        path.write_bytes(content[:length])
        with pytest.raises(CheckpointError, match=r"last\.pt"):
            load(path, CPU)


def test_checkpoint_with_code_in_it_and_the_right_hash_runs_nothing(tmp_path):
    marker, path = tmp_path / "marker", tmp_path / "last.pt"
    buffer = io.BytesIO()
    torch.save({"rows": Payload(marker)}, buffer)
    payload = buffer.getvalue()
    path.write_bytes(checkpoint.MAGIC + hashlib.sha256(payload).digest() + payload)
    with pytest.raises(CheckpointError, match="more than tensors"):
        load(path, CPU)
    assert not marker.exists()


@pytest.mark.parametrize("way", ["zip", "legacy", "pickle"])
def test_weights_with_code_in_them_run_nothing(tmp_path, way):
    marker, path = tmp_path / "marker", tmp_path / "teacher.pt"
    content = {"weight": torch.zeros(2), "extra": Payload(marker)}
    if way == "pickle":
        path.write_bytes(pickle.dumps(content, protocol=2))
    else:
        torch.save(content, path, _use_new_zipfile_serialization=way == "zip")
    with pytest.raises(CheckpointError, match=r"teacher\.pt cannot be read as weights"):
        read_weights(path)
    assert not marker.exists()
    # The payload is a live one.
    if way == "pickle":
        pickle.loads(path.read_bytes())
    else:
        torch.load(path, weights_only=False)
    assert marker.exists()


def test_numpys_values_in_a_checkpoint_are_dropped_unread(tmp_path):
    """Its scalars and arrays are made by code of numpy's, which trusts what the pickle says of memory."""
    array = np.arange(3.0)
    content = {"best_acc": np.float64(71.5), "history": [array, array.astype("f4")], "dtype": array.dtype}
    torch.save({**content, "objects": np.array([None]), "model": {"w": torch.ones(2)}}, tmp_path / "w.pt")
    found, digest = read_file(tmp_path / "w.pt")
    assert torch.equal(found.pop("model")["w"], torch.ones(2))
    assert {type(value) for value in (found["best_acc"], *found["history"], found["dtype"], found["objects"])} == {
        NumpyObject
    }
    assert digest == hashlib.sha256((tmp_path / "w.pt").read_bytes()).hexdigest()
    with pytest.raises(pickle.UnpicklingError):
        torch.load(tmp_path / "w.pt", weights_only=True)  # nothing is allowed from here on


@pytest.mark.parametrize(
    ("foreign", "name"),
    [
        (argparse.Namespace(lr=0.1), "argparse.Namespace"),
        (nn.Linear(2, 2), "torch.nn.modules.linear.Linear"),
        (Path("a"), "pathlib"),
        (collections.defaultdict(list), "collections.defaultdict"),
    ],
    ids=lambda value: value if isinstance(value, str) else "",
)
@pytest.mark.parametrize("way", ["zip", "legacy", "pickle"])
def test_a_foreign_object_is_named_with_how_to_convert_it(tmp_path, foreign, name, way):
    content, path = {"opt": foreign, "model": {"w": torch.ones(2)}}, tmp_path / "w.pt"
    if way == "pickle":
        path.write_bytes(pickle.dumps(content, protocol=2))
    else:
        torch.save(content, path, _use_new_zipfile_serialization=way == "zip")
    with pytest.raises(CheckpointError) as refused:
        read_file(path)
    assert f"an object of {name}" in str(refused.value)
    assert "weights_only=False" in str(refused.value)


@pytest.mark.parametrize(
    "content", [torch.zeros(3), [torch.zeros(3)], {}, {0: torch.zeros(3)}, {"a": torch.zeros(1), "b": 2}], ids=repr
)
def test_what_is_no_state_dict_is_refused(tmp_path, content):
    torch.save(content, tmp_path / "odd.pt")
    with pytest.raises(CheckpointError, match=r"odd\.pt holds no state dict"):
        read_weights(tmp_path / "odd.pt")


def test_broken_weight_files_are_refused_whatever_torch_makes_of_them(tmp_path):
    """A truncated file raises one of five classes, some of them without a message."""
    weights = {"weight": torch.randn(20, 20), "bias": torch.randn(20)}
    torch.save(weights, tmp_path / "zip.pt")
    torch.save(weights, tmp_path / "legacy.pt", _use_new_zipfile_serialization=False)
    save_file(weights, tmp_path / "st.safetensors")
    for path in sorted(tmp_path.iterdir()):
        content = path.read_bytes()
        for length in (0, 1, 2, 3, 7, 9, 50, 200, len(content) // 2, len(content) - 3):
            path.write_bytes(content[:length])
            with pytest.raises(CheckpointError, match=f"{path.name} cannot be read as weights"):
                read_weights(path)


def test_export_is_plain_safetensors_of_the_whole_state(tmp_path):
    torch.manual_seed(0)
    model = resnet20(num_classes=4).to(memory_format=torch.channels_last)
    digest = export_weights(tmp_path / "student.safetensors", model)
    found, found_digest = read_weights(tmp_path / "student.safetensors")
    assert digest == found_digest
    assert found.keys() == model.state_dict().keys()
    assert all(torch.equal(found[name], tensor) for name, tensor in model.state_dict().items())
    assert export_weights(tmp_path / "again.safetensors", model) == digest, "the same bytes every time"


def test_what_cannot_be_saved_leaves_the_old_checkpoint(state, tmp_path):
    class Bomb:
        def __reduce__(self):
            raise RuntimeError("no way to pickle this")

    path = tmp_path / "last.pt"
    save(path, state)
    old = path.read_bytes()
    with pytest.raises(RuntimeError, match="no way"):
        save(path, {"weights": torch.zeros(1000), "bomb": Bomb()})
    assert path.read_bytes() == old
    assert list(tmp_path.iterdir()) == [path]


def test_process_killed_while_saving_leaves_a_whole_checkpoint(tmp_path):
    path = tmp_path / "last.pt"
    weights = torch.zeros(200_000)
    save(path, {"turn": -1, "weights": weights})
    generator = random.Random(0)
    turns = []
    while len(turns) < 12 or max(turns) <= 0:
        child = os.fork()
        if child == 0:
            turn = 0
            while True:
                save(path, {"turn": turn, "weights": weights + turn})
                turn += 1
        time.sleep(generator.uniform(0.005, 0.05))
        os.kill(child, signal.SIGKILL)
        os.waitpid(child, 0)
        found = load(path, CPU)
        assert torch.equal(found["weights"], weights + max(found["turn"], 0))
        turns.append(found["turn"])


@pytest.mark.parametrize(
    ("tensor", "count"),
    [
        (torch.tensor([1.0, float("nan")]), 1),
        (torch.tensor([[float("inf")], [-float("inf")]]), 2),
        (torch.tensor([1e39, 1e38], dtype=torch.float64), 1),  # the largest of fp32 is 3.4e38
        (torch.tensor([1.0, float("nan")], dtype=torch.float16), 1),
        (torch.tensor([3e38], dtype=torch.bfloat16), 0),
        (torch.tensor([65504.0], dtype=torch.float16), 0),
        (torch.tensor([2**62]), 0),
        (torch.tensor([], dtype=torch.float64), 0),
    ],
    ids=lambda value: str(value).replace("torch.", "") if isinstance(value, torch.Tensor) else "",
)
@pytest.mark.parametrize("name", ["w.safetensors", "w.pt"])
def test_weights_that_are_not_finite_in_fp32_are_refused(tmp_path, tensor, count, name):
    path, state = tmp_path / name, {"good": torch.zeros(3), "layer.bad": tensor}
    (save_file if path.suffix == ".safetensors" else torch.save)(state, path)
    if count == 0:
        found, _ = read_weights(path)
        assert torch.equal(found["layer.bad"], tensor)
        return
    with pytest.raises(CheckpointError) as refused:
        read_weights(path)
    assert str(path) in str(refused.value)
    assert f"layer.bad ({count} of {tensor.numel()} values)" in str(refused.value)
    assert "good" not in str(refused.value)
