"""What the clock says becomes the right ratios; the first block never counts."""

import pytest
import torch

from benchmarks import timing, worker
from benchmarks.timing import Ratio, Side, Times, UnavailableError, alternate, num_threads

CPU = torch.device("cpu")


class Clock:
    """A clock that only work moves, and a record of what worked."""

    def __init__(self, monkeypatch) -> None:
        self.now = 0.0
        self.worked: list[str] = []
        monkeypatch.setattr(timing.time, "perf_counter", lambda: self.now)
        monkeypatch.setattr(timing.time, "monotonic", lambda: self.now)

    def side(self, name: str, seconds: list[float], units: int = 1) -> Side:
        """Work whose blocks take these seconds; None cannot be computed."""
        left = iter(seconds)

        def work() -> None:
            self.worked.append(name)
            taken = next(left)
            if taken is None:
                raise UnavailableError(f"{name} has ended")
            self.now += taken

        return Side(work, units=units)


@pytest.fixture
def clock(monkeypatch) -> Clock:
    return Clock(monkeypatch)


def silent(what: str) -> None:
    pass


def test_rounds_are_interleaved_and_the_first_blocks_stand_apart(clock):
    sides = {"a": clock.side("a", [90, 8, 12, 40], units=2), "b": clock.side("b", [70, 2, 2, 4])}
    times = alternate(sides, CPU, rounds=3, progress=silent)
    assert clock.worked == ["a", "b"] * 4
    assert times.seconds == {"a": [4, 6, 20], "b": [2, 2, 4]}
    assert times.first == {"a": 90, "b": 70}


def test_a_figure_is_the_median_of_the_ratios():
    times = Times({"a": [4.0, 6.0, 20.0], "b": [2.0, 2.0, 4.0], "c": [1.0, 10.0, 4.0], "d": [1.0, 8.0, 1.0]})
    assert times.ratio("a", "b") == Ratio(3, 2, 5)
    assert times.of("a") == 6
    assert times.ratio("c", "d").median == 1.25, "not that of the medians, which need not be of one round"


@pytest.mark.parametrize("blocks", [[None], [5, 1, None]])
def test_a_side_that_fails_is_left_out_with_its_reason(clock, blocks):
    times = alternate({"a": clock.side("a", blocks), "b": clock.side("b", [1] * 5)}, CPU, rounds=4, progress=silent)
    assert times.seconds == {"b": [1] * 4}
    assert times.first == {"b": 1}
    assert times.skipped == {"a": "a has ended"}
    assert clock.worked.count("a") == len(blocks), "not tried again"


def test_a_slow_machine_gets_fewer_rounds(clock):
    sides = {"a": clock.side("a", [1] + [50] * 9), "b": clock.side("b", [1] + [20] * 9)}
    assert len(alternate(sides, CPU, rounds=9, progress=silent).seconds["a"]) == timing.MIN_ROUNDS


def test_threads_are_as_before_even_after_a_failure():
    torch.set_num_threads(2)
    seen = []

    def fail() -> None:
        seen.append(torch.get_num_threads())
        raise RuntimeError("stop")

    with pytest.raises(RuntimeError, match="stop"), num_threads(1):
        fail()
    assert seen == [1]
    assert torch.get_num_threads() == 2


@pytest.fixture
def program(tmp_path, monkeypatch):
    """Replaces the Python of torchdistill's environment by a shell script."""

    def place(script: str) -> None:
        path = tmp_path / "python"
        path.write_text(f"#!/bin/sh\n{script}\n")
        path.chmod(0o755)
        monkeypatch.setattr(worker, "PYTHON", path)
        monkeypatch.setattr(worker, "ENVIRONMENT", tmp_path)

    return place


VERSION = 'if [ "$1" = -c ]; then echo 9.9; exit; fi'


def test_a_worker_answers_until_it_ends_and_the_reason_is_its_last_error(program):
    program(f"{VERSION}\nread request; echo done; read request; echo first >&2; echo $request >&2; echo last >&2")
    with worker.torchdistill("resnet20", CPU, steps=1) as request:
        request("prepare")
        with pytest.raises(UnavailableError, match=r"^last$"):
            request("run")
    program(f"{VERSION}\nexit 3")
    with (
        worker.torchdistill("resnet20", CPU, steps=1) as request,
        pytest.raises(UnavailableError, match=r"^exit code 3$"),
    ):
        request("prepare")


def test_a_worker_ends_with_its_context(program):
    program(f"{VERSION}\necho done; echo $$; exec sleep 600")
    with worker.torchdistill("resnet20", CPU, steps=1) as request:
        request("prepare")
        process = request.__self__._process
        assert process.poll() is None
    assert process.poll() == -9


def test_without_torchdistill_pips_last_line_is_the_reason(program, tmp_path):
    program("exit 1")
    (tmp_path / "pip.log").write_text("Collecting torchdistill\nERROR: No matching distribution\n")
    with (
        worker.torchdistill("resnet20", CPU, steps=1) as request,
        pytest.raises(UnavailableError, match=r": ERROR: No matching distribution$"),
    ):
        request("steps")
