"""One run on several ranks: the same run as that of one process, agreed on, and resumed whoever is killed."""

import collections
import contextlib
import functools
import json
import os
import random
import signal
import subprocess
import sys
import time
from collections.abc import Iterator
from pathlib import Path

import pytest
import torch
from safetensors.torch import load_file

from kdrun import torchrun
from kdrun.config.ranks import resolve_rank_device
from kdrun.spec.spec import Recipe
from kdrun.training.trainer import Member
from tests.forked_ranks import Ranks

DATA = ("dataset=synthetic", "dataset.train_size=110", "dataset.test_size=40", "dataset.image_size=8")
CE = (*DATA, "dataset.num_classes=4", "runtime.device=cpu", "recipe.batch_size=16", "student=mlp", "method=ce")
KD = (*CE, "method=kd", "teacher=cnn", "recipe.epochs=3")


def files(root: Path) -> set[str]:
    return {str(path.relative_to(root)) for path in root.rglob("*") if path.is_file()}


def only(root: Path, name: str) -> Path:
    """The only file of this name under a directory."""
    (path,) = root.rglob(name)
    return path


def status(root: Path) -> dict:
    return json.loads(only(root, "status.json").read_text())


def bits(root: Path) -> dict[str, bytes]:
    """The trained weights and the rows of every run, by their place."""
    paths = [*root.rglob("student.safetensors"), *root.rglob("metrics.jsonl")]
    return {str(path.relative_to(root)): path.read_bytes() for path in paths}


def assert_close(left: Path, right: Path, bound: float) -> None:
    """The same runs have the same weights, except for rounding."""
    paths = [path.relative_to(left) for path in left.rglob("student.safetensors")]
    assert paths
    for path in paths:
        ours, theirs = load_file(left / path), load_file(right / path)
        torch.testing.assert_close(ours, theirs, rtol=0, atol=bound)


@pytest.fixture
def ranks(here):
    """Starts two ranks with these words; `others` are rank 1's own."""

    def start(*words: str, others: tuple[str, ...] | None = None, before=None, number: int = 2) -> Ranks:
        return Ranks([words, *[words if others is None else others] * (number - 1)], here / "printed", before)

    return start


def test_a_run_on_two_ranks_is_that_of_one_process(ranks, kdrun, here):
    assert ranks(*KD, "runtime.output_root=two").wait() == [0, 0]
    assert_run_of_one_process(kdrun, here, (here / "printed" / "0.out").read_text())
    assert [(here / "printed" / f"1.{name}").read_text() for name in ("out", "err")] == ["", ""]


@pytest.mark.slow
def test_a_run_under_torchrun_is_that_of_one_process(kdrun, here):
    command = [sys.executable, "-m", "torch.distributed.run", "--nproc_per_node=2", "-m", "kdrun"]
    env = {**os.environ, "PYTHONPATH": str(Path(torchrun.__file__).parents[1])}
    done = subprocess.run([*command, *KD, "runtime.output_root=two"], capture_output=True, text=True, env=env)
    assert done.returncode == 0, done.stderr
    assert_run_of_one_process(kdrun, here, done.stdout)


def assert_run_of_one_process(kdrun, here: Path, printed: str) -> None:
    """What two ranks have left in `two`, and printed, is a run of one process, except for rounding."""
    assert kdrun(*KD, "runtime.output_root=one", "runtime.replay_gb=0")[0] == 0
    assert files(here / "two") == files(here / "one")
    assert_close(here / "one", here / "two", 1e-5)
    for result in (here / "two").rglob("result.json"):
        assert json.loads(result.read_text())["environment"]["ranks"] == 2
        assert json.loads((result.parent / "status.json").read_text())["choices"]["ranks"] == 2
    assert printed.count("result: ") == 1


@pytest.mark.parametrize("who", [0, 1])
def test_a_stopped_run_is_resumed_bit_for_bit(ranks, here, who):
    words = (*CE, "recipe.epochs=15")
    assert ranks(*words, "runtime.output_root=whole").wait() == [0, 0]
    started = ranks(*words)
    trained(here / "outputs", 2)
    started.kill(who, signal.SIGUSR1)
    assert 128 + signal.SIGUSR1 in started.wait()
    assert status(here / "outputs")["state"] == "interrupted"
    assert ranks(*words).wait() == [0, 0]
    assert bits(here / "outputs") == bits(here / "whole")


def trained(root: Path, epochs: int) -> None:
    """Waits until the run under an output root has this number of epochs."""
    deadline = time.monotonic() + 60
    while time.monotonic() < deadline:
        with contextlib.suppress(ValueError, FileNotFoundError):
            if status(root).get("epoch", 0) >= epochs:
                return
        time.sleep(0.005)
    raise AssertionError("no epoch in a minute")


@pytest.mark.parametrize("who", [0, 1])
def test_a_killed_rank_ends_all(ranks, here, kdrun, who):
    words = (*CE, "recipe.epochs=300")
    started = ranks(*words)
    trained(here / "outputs", 2)
    started.kill(who, signal.SIGKILL)
    codes = started.wait()
    assert codes[who] == -signal.SIGKILL
    assert codes[1 - who] not in (0, -signal.SIGKILL)
    state = status(here / "outputs")["state"]
    assert state == "running" if who == 0 else state in ("failed", "interrupted")
    (line,) = json.loads("\n".join(kdrun("ls", "--json")[1]))
    assert line["state"] == ("stale" if who == 0 else state)


def fail_in_epoch_2(failing: int, rank: int) -> None:
    """Makes one rank run out of memory."""
    if rank == failing:
        begun = Member.begin_epoch

        def begin_epoch(self, epoch: int) -> None:
            if epoch == 1:
                raise MemoryError("made up")
            begun(self, epoch)

        Member.begin_epoch = begin_epoch


@pytest.mark.parametrize("who", [0, 1])
def test_the_failure_of_a_rank_is_that_of_the_run(ranks, here, who):
    assert 1 in ranks(*CE, "recipe.epochs=3", before=functools.partial(fail_in_epoch_2, who)).wait()
    found = status(here / "outputs")
    assert (found["state"], found["epoch"]) == ("failed", 1)
    assert "made up" in found["error"]
    assert ("rank 1" in found["error"]) == (who == 1)


def test_a_run_continues_on_another_number_of_ranks(ranks, kdrun, here):
    assert ranks(
        *CE, "recipe.epochs=4", "recipe.batch_size=18", "stop_epoch=2", "runtime.keep=all", number=3
    ).wait() == [0, 0, 0]
    assert ranks(*CE, "recipe.epochs=4", "recipe.batch_size=18", "runtime.output_root=two").wait() == [0, 0]
    code, lines, _ = kdrun(*CE, "recipe.epochs=4", "recipe.batch_size=18")
    assert code == 0
    assert any("3 ranks" in line for line in lines)
    (path,) = (path for path in (here / "outputs").rglob("spec.json") if "stop_epoch" not in path.read_text())
    whole = json.loads((path.parent / "metrics.jsonl").read_text().splitlines()[-1])
    other = json.loads(only(here / "two", "metrics.jsonl").read_text().splitlines()[-1])
    assert whole["train"] == pytest.approx(other["train"], rel=1e-4)
    assert json.loads((path.parent / "status.json").read_text())["choices"]["ranks"] == 1


def test_ranks_that_disagree_run_nothing(ranks, here):
    started = ranks(*CE, others=(*CE, "recipe.lr=0.2", "dataset.train_size=90"))
    assert 2 in started.wait()
    printed = (here / "printed" / "0.err").read_text()
    assert "recipe.lr is its default on rank 0, 0.2 on rank 1" in printed
    assert "dataset.train_size is 110 on rank 0, 90 on rank 1" in printed
    assert "2 problems" in printed
    assert not (here / "outputs").exists()
    assert (here / "printed" / "1.err").read_text() == ""


def test_the_problem_of_one_rank_is_reported_with_its_number(ranks, here):
    assert 2 in ranks(*CE, others=(*CE, "recipe.batch_size=1")).wait()
    assert "rank 1: recipe.batch_size=1" in (here / "printed" / "0.err").read_text()


def test_statistics_of_each_rank_are_another_run(ranks, here):
    words = (*CE, "student=cnn", "recipe.epochs=1")
    assert ranks(*words, "recipe.batch_norm=per_rank").wait() == [0, 0]
    assert ranks(*words).wait() == [0, 0]
    specs = [json.loads(path.read_text())["recipe"] for path in (here / "outputs").rglob("spec.json")]
    assert sorted(spec.get("ranks", 0) for spec in specs) == [0, 2]
    (left, right) = (load_file(path) for path in (here / "outputs").rglob("student.safetensors"))
    assert any(not torch.equal(left[name], right[name]) for name in left if name.endswith("running_var"))


@pytest.fixture
def as_rank(monkeypatch):
    """Makes this process look like one of several ranks, without any others."""

    def set_up(**changes: int) -> None:
        variables = {"RANK": 0, "WORLD_SIZE": 2, "LOCAL_RANK": 0, "LOCAL_WORLD_SIZE": 2, "GROUP_RANK": 0, **changes}
        for name, value in {**variables, "TORCHELASTIC_USE_AGENT_STORE": True}.items():
            monkeypatch.setenv(name, str(value))

    return set_up


NO_RUNS = [(("-m", *CE, "seed=0,1"), "--multirun"), (("table", "tfkd_t1"), "table"), (("search",), "search")]


@pytest.mark.parametrize(("words", "named"), [*NO_RUNS, (("ls",), "ls")])
def test_torchrun_is_for_one_run(kdrun, here, as_rank, words, named):
    as_rank()
    code, _, err = kdrun(*words)
    assert code == 2
    assert f"\n  {named}: " in err
    assert list(here.iterdir()) == []
    as_rank(RANK=1)
    assert kdrun(*words) == (2, [], "")


def test_processes_of_another_launcher_run_nothing(kdrun, here, monkeypatch):
    monkeypatch.setenv("WORLD_SIZE", "2")
    code, _, err = kdrun(*CE)
    assert code == 2
    assert "WORLD_SIZE=2" in err
    assert list(here.iterdir()) == []


@pytest.mark.parametrize(
    ("words", "problem"),
    [
        (("recipe.batch_size=15",), "recipe.batch_size=15: must be a multiple of the number of ranks, 2"),
        (("recipe.accumulate=2",), "recipe.accumulate=2: "),
        (("recipe.batch_norm=per_rank", "recipe.ranks=3"), "recipe.ranks=3: "),
        (("runtime.compile=on",), "runtime.compile=on: "),
        (("runtime.device=mps",), "runtime.device='mps'"),
    ],
)
def test_what_ranks_cannot_compute_is_refused(kdrun, here, as_rank, words, problem):
    as_rank()
    code, _, err = kdrun("--dry-run", *CE, *words)
    assert code == 2
    assert "1 problem;" in err
    assert problem in err


def test_statistics_of_each_rank_need_ranks(kdrun):
    code, _, err = kdrun(*CE, "recipe.batch_norm=per_rank")
    assert code == 2
    assert "recipe.batch_norm=per_rank" in err


def test_each_rank_has_the_gpu_of_its_local_rank(as_rank, monkeypatch):
    monkeypatch.setattr(torch.cuda, "is_available", lambda: True)
    monkeypatch.setattr(torch.cuda, "device_count", lambda: 2)
    as_rank(RANK=3, WORLD_SIZE=4, LOCAL_RANK=1)
    assert [str(resolve_rank_device(name)) for name in ("auto", "cuda", "cpu")] == ["cuda:1", "cuda:1", "cpu"]
    as_rank(RANK=2, WORLD_SIZE=3, LOCAL_RANK=2, LOCAL_WORLD_SIZE=3)
    with pytest.raises(ValueError, match="cuda:2"):
        resolve_rank_device("auto")
    with pytest.raises(ValueError, match="local rank"):
        resolve_rank_device("cuda:0")


def test_the_number_of_ranks_is_in_the_identity_with_their_own_statistics_only():
    with pytest.raises(ValueError, match="ranks=2"):
        Recipe(ranks=2)
    assert Recipe(batch_norm="per_rank", ranks=2) != Recipe(batch_norm="per_rank", ranks=4)


def killed(ranks, words: tuple[str, ...], root: Path, rng: random.Random, span: float) -> Iterator[str]:
    """Starts a run until it is finished, and signals one rank, or all, after a random time; yields what was done."""
    while True:
        started = ranks(*words, f"runtime.output_root={root}")
        time.sleep(rng.uniform(0, span))
        number = rng.choice([signal.SIGKILL, signal.SIGTERM, signal.SIGINT, signal.SIGUSR1])
        who = rng.choice([(0,), (1,), (0, 1)])
        for rank in who:
            started.kill(rank, number)
        codes = started.wait()
        if codes == [0, 0]:
            return
        state = status(root)["state"] if list(root.rglob("status.json")) else None
        is_killed = number == signal.SIGKILL and 0 in who
        assert is_killed or state != "running", f"{number} to {who}: {state}"
        yield f"{signal.Signals(number).name} to {'all' if len(who) > 1 else f'rank {who[0]}'}"


@pytest.mark.slow
def test_fifty_kills_of_ranks(ranks, here, capsys):
    rng, words = random.Random(0), (*CE, "student=cnn", "recipe.epochs=12")
    begun = time.monotonic()
    assert ranks(*words, "runtime.output_root=whole").wait() == [0, 0]
    span, kinds, trial = 1.2 * (time.monotonic() - begun), [], 0
    while len(kinds) < 50:
        kinds += killed(ranks, words, here / f"trial {trial}", rng, span)
        assert bits(here / f"trial {trial}") == bits(here / "whole")
        trial += 1
    with capsys.disabled():
        counts = dict(collections.Counter(kinds))
        print(f"\n{len(kinds)} signals in {trial} runs, all survived: {counts}")
