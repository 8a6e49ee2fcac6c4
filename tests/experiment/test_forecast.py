"""The time that is left for a command's runs, and their numbers in its lines."""

import re
import time
from dataclasses import replace

import pytest

from kdrun.experiment.forecast import Forecast
from kdrun.experiment.sizes import size_of

TINY = ("dataset=synthetic", "student=mlp", "teacher=mlp", "method=kd", "recipe.epochs=2", "runtime.device=cpu")


@pytest.fixture
def clock(monkeypatch) -> list[float]:
    """The time that `time.monotonic` gives."""
    now = [100.0]
    monkeypatch.setattr(time, "monotonic", lambda: now[0])
    return now


def test_pending_runs_take_what_their_network_took_else_what_all_did(lab, clock):
    cnn, mlp, resnet = (lab.plain(name) for name in ("cnn", "mlp", "resnet8"))
    taught = replace(cnn, seed=1, teachers=(cnn,))
    forecast = Forecast()
    for spec in (cnn, mlp, resnet, taught):
        forecast.expect(spec)
    assert forecast.left() is None, "nothing has been trained"

    def train(spec, epochs: int, seconds: float) -> None:
        rows = [{}] * 7  # of an earlier process
        with forecast.measured([(spec, rows)]):
            rows += [{}] * epochs
            clock[0] += seconds
        forecast.drop([spec])

    macs = {spec.run_id: size_of(spec.student, spec.dataset).macs for spec in (cnn, mlp, resnet)}
    c, m, r = macs.values()
    train(cnn, epochs=2, seconds=10.0)  # 5 seconds an epoch
    expected = 5 * 3 * (m / c + r / c + (3 * c + c) / (3 * c))
    assert forecast.left() == pytest.approx(expected)
    assert forecast.left({mlp.run_id}) == pytest.approx(expected - 5 * 3 * m / c)
    train(mlp, epochs=3, seconds=9.0)
    assert forecast.left() == pytest.approx(19 / (2 * c + 3 * m) * 3 * r + 5 * 4)
    forecast.drop([resnet, taught])
    assert forecast.left() is None, "nothing is pending"


def test_runs_trained_together_share_their_time_by_their_work(lab, clock):
    cnn, mlp = lab.plain("cnn"), lab.plain("mlp")
    c, m = (size_of(spec.student, spec.dataset).macs for spec in (cnn, mlp))
    forecast, rows = Forecast(), {"cnn": [], "mlp": []}
    with forecast.measured([(cnn, rows["cnn"]), (mlp, rows["mlp"])]):
        rows["cnn"] += [{}]
        rows["mlp"] += [{}] * 3
        clock[0] += 8.0
    forecast.expect(replace(mlp, seed=1))
    assert forecast.left() == pytest.approx(8.0 * 3 * m / (c + 3 * m))


def test_a_failed_teacher_and_its_student_are_no_longer_pending(lab, clock):
    cnn = lab.plain("cnn")
    taught, other = replace(cnn, seed=1, teachers=(cnn,)), replace(cnn, seed=2)
    forecast, rows = Forecast(), []
    with forecast.measured([(replace(cnn, seed=3), rows)]):
        rows.append({})
        clock[0] += 2.0
    for spec in (cnn, taught, other):
        forecast.expect(spec)
    forecast.drop([taught])
    assert forecast.left() == pytest.approx(2.0 * other.epochs_trained)


@pytest.mark.parametrize("sweep", ["lockstep", "one_by_one"])
def test_every_line_of_a_sweep_has_the_number_of_its_run(kdrun, sweep):
    """An estimate for all comes with the first student: its teacher has been trained. The last run has none."""
    code, out, _ = kdrun("-m", *TINY, "method.temperature=1,2,3", f"runtime.sweep={sweep}")
    assert code == 0
    epochs = [re.match(r"\[(\d)/3\] student mlp kd method.temperature=\1 epoch (\d)/2 ", line) for line in out]
    found = sorted((int(line[1]), int(line[2])) for line in epochs if line)
    assert found == [(number, epoch) for number in (1, 2, 3) for epoch in (1, 2)]
    ended = [line for line in out if re.match(r"\[\d/3\] method.temperature=\d: top-1", line)]
    assert [line[:6] for line in ended] == ["[1/3] ", "[2/3] ", "[3/3] "]
    estimated = [bool(re.search(r", \d\d:\d\d left for all runs$", line)) for line in ended]
    assert estimated == [sweep == "one_by_one"] * 2 + [False]
    of_all = [line for line in out if re.search(r"  left \d\d:\d\d, all runs \d\d:\d\d$", line)]
    assert {line[:6] for line in of_all} == ({"[1/3] ", "[2/3] "} if sweep == "one_by_one" else set())
    assert not any("teacher" in line for line in of_all)
