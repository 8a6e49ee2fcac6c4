"""Random sweeps, killed, stopped and damaged at random until they are done; then all must be as if undisturbed.

    scripts/soak --minutes 30

Each trial draws a sweep over synthetic images, runs it undisturbed in one output root and disturbed in another: killed
with -9, stopped by SIGTERM, SIGINT or SIGUSR1, once or twice, and between the starts a bit of a checkpoint, of a
status, of the record of a teacher's check or of kept logits is flipped, a file of kept logits truncated or deleted, a
status deleted, a checkpoint, status or weights replaced by those of another run, a neighbour that cannot be read put
beside the runs, rubbish left. Then the bytes of all weights and metrics, the results but for their times, and the
statuses are compared, and temporary files searched for. The first difference ends it with exit code 1 and keeps the
files.
"""

import argparse
import collections
import contextlib
import json
import os
import random
import signal
import subprocess
import sys
import tempfile
import time
from collections.abc import Iterable
from pathlib import Path

from kdrun.store.cleaning import needed_by
from kdrun.store.store import Store

SIGNALS = (signal.SIGTERM, signal.SIGINT, signal.SIGUSR1)
MOST_STARTS = 40
Counts = collections.Counter[str]
DAMAGES = (
    *("bit of last.pt", "bit of status.json", "status.json deleted", "bit of a teacher's check"),
    *("bit of kept logits", "kept logits cut", "kept logits deleted", "rubbish", "none", "none"),
    *("last.pt of another run", "status.json of another run", "weights of another run", "unreadable neighbour"),
)
NEIGHBOUR = "ce-0123456789"
"""Directory of a run that cannot be read."""
METHODS = (
    *("ce", "lsr", "kd", "kd_uniform", "tfkd_self", "tfkd_reg"),
    *("fitnet", "rkd", "dkd", "dml", "kd_ensemble", "born_again"),
)


class DifferenceError(AssertionError):
    """Something is not as it is undisturbed."""


def draw_sweep(rng: random.Random) -> list[str]:
    """A command line of a few short runs."""
    methods = ",".join(rng.sample(METHODS, rng.randint(1, 3)))
    return [
        *("-m", "dataset=synthetic", "dataset.train_size=1500", "dataset.test_size=60", "dataset.image_size=8"),
        *("dataset.num_classes=4", "recipe.batch_size=32", "runtime.device=cpu", "runtime.threads=1"),
        f"student={rng.choice(['mlp', 'cnn', 'mlp,cnn'])}",
        f"teacher={rng.choice(['cnn', 'mlp'])}",
        f"method={methods}",
        f"seed={rng.choice(['0', '1', '0,1'])}",
        f"recipe.epochs={rng.randint(2, 6)}",
        f"runtime.sweep={rng.choice(['lockstep', 'lockstep', 'one_by_one'])}",
        f"runtime.replay_gb={rng.choice(['10', '10', '0', '0.00002'])}",
    ]


def start(words: list[str], root: Path) -> subprocess.Popen[bytes]:
    log = root.with_suffix(".log").open("ab")
    command = [sys.executable, "-m", "kdrun", *words, f"runtime.output_root={root}"]
    return subprocess.Popen(command, stdout=log, stderr=subprocess.STDOUT)


def disturb(process: subprocess.Popen[bytes], seconds: float, rng: random.Random, counts: Counts) -> None:
    """Stops a process after so long, if it has not ended, in one of several ways; its exit code must fit."""
    with contextlib.suppress(subprocess.TimeoutExpired):
        process.wait(seconds)
    if process.poll() is None:
        sent = rng.choice([(signal.SIGKILL,), *((number,) for number in SIGNALS), (signal.SIGTERM, signal.SIGINT)])
        for number in sent:
            process.send_signal(number)
            time.sleep(rng.uniform(0, 0.1))
        process.wait(60)
        counts[" then ".join(signal.Signals(number).name for number in sent)] += 1
        # Negative: before kdrun listens, while Python starts.
        allowed = {0, *(code for number in sent for code in (-number, 128 + number))}
    else:
        allowed = {0}
    if process.returncode not in allowed:
        raise DifferenceError(f"exit code {process.returncode}, not one of {sorted(allowed)}")


def damage(root: Path, rng: random.Random, counts: Counts) -> None:
    """Harms a file that a run must be able to do without."""
    unfinished = [
        path for path in root.glob("runs/*/*/*/checkpoints/last.pt") if not (path.parents[1] / "result.json").exists()
    ]
    spare = [path for path in unfinished if path.with_name("previous.pt").exists()]
    kept = list(root.glob("replay/*/0*.pt"))
    statuses = [path for run in unfinished if (path := run.parents[1] / "status.json").exists()]
    checks = list(root.glob("runs/*/*/*/verified-*.json"))
    needed = needed_by(Store(root))  # a teacher of finished runs is not read any more
    weights = [path for path in root.glob("runs/*/*/*/student.safetensors") if path.parent.name[-10:] not in needed]
    kind = rng.choice(DAMAGES)
    flipped = {"last.pt": spare, "kept logits": kept, "status.json": statuses, "a teacher's check": checks}
    deleted = {"status.json": statuses, "kept logits": kept}
    replaced = {
        "last.pt": (spare, root.glob("runs/*/*/*/checkpoints/last.pt")),
        "status.json": (statuses, root.glob("runs/*/*/*/status.json")),
        "weights": (weights, weights),
    }
    if paths := flipped.get(kind.removeprefix("bit of ")):
        flip(rng.choice(paths), rng)
    elif paths := deleted.get(kind.removesuffix(" deleted")):
        rng.choice(paths).unlink()
    elif kind == "kept logits cut" and kept:
        path = rng.choice(kept)
        path.write_bytes(path.read_bytes()[: rng.randrange(path.stat().st_size)])
    elif kind.endswith(" of another run"):
        paths, others = replaced[kind.removesuffix(" of another run")]
        if not paths or not replace_by_another(rng.choice(paths), others, rng):
            return
    elif kind == "unreadable neighbour" and unfinished:
        spoil(rng.choice(unfinished).parents[2] / NEIGHBOUR / rng.choice(["spec.json", "status.json"]), rng)
    elif kind == "rubbish" and unfinished:
        (rng.choice(unfinished).parents[1] / ".result.json.soak.tmp").write_text("half a res")
    else:
        return
    counts[kind] += 1


def replace_by_another(path: Path, candidates: Iterable[Path], rng: random.Random) -> bool:
    """Copies the same file of another run over a file; False where there is none with other bytes."""
    content = path.read_bytes()
    others = [each for other in candidates if other != path and (each := other.read_bytes()) != content]
    if others:
        path.write_bytes(rng.choice(others))
    return bool(others)


def spoil(path: Path, rng: random.Random) -> None:
    """Puts something that is no file in the place of a file, where nothing is yet."""
    path.parent.mkdir(exist_ok=True)
    if not os.path.lexists(path):
        rng.choice([path.mkdir, lambda: path.symlink_to("nowhere"), lambda: os.mkfifo(path)])()


def flip(path: Path, rng: random.Random) -> None:
    content = bytearray(path.read_bytes())
    bit = rng.randrange(8 * len(content))
    content[bit // 8] ^= 1 << bit % 8
    path.write_bytes(content)


def compare(disturbed: Path, whole: Path) -> int:
    """Compares all the runs of two output roots; returns how many there are."""
    places = [
        sorted(path.relative_to(root) for path in root.glob("runs/*/*/*") if path.name != NEIGHBOUR)
        for root in (disturbed, whole)
    ]
    if places[0] != places[1]:
        raise DifferenceError(f"other runs: {set(places[0]) ^ set(places[1])}")
    for place in places[0]:
        for name in ("student.safetensors", "metrics.jsonl", "spec.json"):
            if (disturbed / place / name).read_bytes() != (whole / place / name).read_bytes():
                raise DifferenceError(f"{place / name} has other bytes")
        results = [json.loads((root / place / "result.json").read_text()) for root in (disturbed, whole)]
        for result in results:
            del result["train"], result["finished"], result["sha256"]
        if results[0] != results[1]:
            raise DifferenceError(f"{place / 'result.json'} differs")
        state = json.loads((disturbed / place / "status.json").read_text())["state"]
        if state != "finished":
            raise DifferenceError(f"{place} says that it is {state}")
        if leftovers := list((disturbed / place).rglob(".*.tmp")):
            raise DifferenceError(f"left over: {leftovers}")
    return len(places[0])


def trial(directory: Path, rng: random.Random, counts: Counts) -> None:
    """One sweep, undisturbed and disturbed."""
    words = draw_sweep(rng)
    print(f"  {' '.join(words[8:])}", flush=True)
    whole, disturbed = directory / "whole", directory / "disturbed"
    started = time.monotonic()
    if start(words, whole).wait() != 0:
        raise DifferenceError("the undisturbed sweep failed")
    duration = time.monotonic() - started
    for number in range(MOST_STARTS):
        calm = number > MOST_STARTS // 2
        process = start(words, disturbed)
        disturb(process, 600 if calm else rng.uniform(0.3, 1.2) * duration, rng, counts)
        counts["starts"] += 1
        if process.returncode == 0:
            break
        damage(disturbed, rng, counts)
    else:
        raise DifferenceError(f"not done after {MOST_STARTS} starts")
    counts["runs compared"] += compare(disturbed, whole)


def main() -> int:
    parser = argparse.ArgumentParser(
        prog="scripts/soak", description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("--minutes", type=float, default=30, help="how long (default 30)")
    parser.add_argument("--seed", type=int, default=0, help="of what is drawn")
    options = parser.parse_args()
    directory = Path(tempfile.mkdtemp(prefix="kdrun-soak-"))
    rng, counts = random.Random(options.seed), collections.Counter()
    deadline = time.monotonic() + 60 * options.minutes
    trials = 0
    try:
        while time.monotonic() < deadline:
            trials += 1
            (directory / f"{trials:04}").mkdir()
            trial(directory / f"{trials:04}", rng, counts)
            print(f"{trials} sweeps: {dict(counts)}", flush=True)
    except DifferenceError as difference:
        print(f"DIFFERENCE in {directory / f'{trials:04}'}: {difference}")
        return 1
    print(f"{trials} sweeps in {options.minutes:g} minutes, all as undisturbed: {dict(counts)}")
    return 0


if __name__ == "__main__":
    sys.exit(main())
