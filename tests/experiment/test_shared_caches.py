"""Caches that several processes write at the same time: each reads what was written, and nothing is reported."""

import random
import subprocess
import sys

from PIL import Image

PROCESS = """
import logging, os, sys
from pathlib import Path

import torch

from kdrun.data import folder, identity
from kdrun.data.decoding import decode
from kdrun.experiment import proof
from kdrun.experiment.choices import Choices
from kdrun.experiment.logit_cache import LogitCache
from kdrun.spec.dataset import ImageDatasetSpec
from kdrun.spec.spec import Component, Spec

logging.basicConfig(level=logging.WARNING, stream=sys.stderr)
root = Path(sys.argv[1])
data = ImageDatasetSpec("kdrun.data.synthetic", "none", 4, 1, 8, 64, 40, (0.5,), (0.25,))
spec = Spec(data, Component("kdrun.models.cnn"), Component("kdrun.methods.CE"))
print("ready", flush=True)
sys.stdin.readline()
print(identity(decode(folder(root / "images", image_size=8, in_channels=1))))
cpu, done = torch.device("cpu"), proof.Proof(True, "agrees")
for number in range(40):
    choices = Choices(number + 1, compile=True)
    proof.keep(done, spec, choices, cpu)
    assert proof._kept(spec, choices, cpu) == done
recording = LogitCache(root, 10**6).recording({"teacher": "both"})
own = LogitCache(root, 10**6).recording({"teacher": str(os.getpid())})
for epoch in range(40):
    tensors = {"logits": torch.full((7, 4), float(epoch)), "index": torch.arange(7)}
    for each in (recording, own):
        each.write(epoch, tensors)
        kept = each.read(epoch)
        assert kept is not None and all(torch.equal(kept[name], tensors[name]) for name in tensors)
print(recording.num_kept(40), own.num_kept(40))
"""


def test_processes_share_decoded_images_proofs_and_logits(tmp_path, monkeypatch):
    monkeypatch.setenv("KDRUN_DATA", str(tmp_path / "data"))
    monkeypatch.setenv("XDG_CACHE_HOME", str(tmp_path / "cache"))
    rng = random.Random(0)
    for split in ("train", "test"):
        for name in ("dark", "light"):
            (tmp_path / "images" / split / name).mkdir(parents=True)
            for number in range(20):
                picture = Image.frombytes("L", (8, 8), rng.randbytes(64))
                picture.save(tmp_path / "images" / split / name / f"{number}.png")
    pipes = dict.fromkeys(("stdin", "stdout", "stderr"), subprocess.PIPE)
    command = [sys.executable, "-c", PROCESS, str(tmp_path)]
    processes = [subprocess.Popen(command, text=True, **pipes) for _ in range(2)]
    for process in processes:
        assert process.stdout.readline() == "ready\n"
    for process in processes:
        process.stdin.write("\n")
        process.stdin.flush()
    said = [process.communicate(timeout=120) for process in processes]
    reported = [line for _, err in said for line in err.splitlines() if line.startswith(("WARNING", "ERROR"))]
    assert reported == []
    assert [process.returncode for process in processes] == [0, 0]
    assert said[0][0] == said[1][0], "of the same images"
    assert said[0][0].splitlines()[-1] == "40 40"
    assert len(list((tmp_path / "data" / "decoded").iterdir())) == 1
    leftovers = [path for part in ("replay", "cache") for path in (tmp_path / part).rglob(".*.tmp")]
    assert leftovers == []
