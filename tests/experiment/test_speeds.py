"""Speeds: what runs keep of them, what dry runs make of them, and what becomes of files that no run wrote."""

import dataclasses
import json
import os
from pathlib import Path

import pytest
import torch

import kdrun.experiment.dry_run as estimates
from kdrun.config.compose import compose_job, hydra_session
from kdrun.config.preflight import check_job
from kdrun.experiment import bf16_notice as notice_of_bf16
from kdrun.experiment import timing
from kdrun.experiment.bf16_notice import _speeds, bf16_notice
from kdrun.experiment.build import build_method, build_student
from kdrun.experiment.dry_run import Estimator
from kdrun.experiment.sizes import size_of
from kdrun.experiment.speeds import Network, keep_speed, known_speeds
from kdrun.training.trainer import Timings, Training

CPU = torch.device("cpu")
WORDS = ("dataset=synthetic", "dataset.train_size=96", "dataset.test_size=50", "runtime.device=cpu", "method=ce")


@pytest.fixture(autouse=True)
def cache(tmp_path, monkeypatch) -> Path:
    monkeypatch.setenv("XDG_CACHE_HOME", str(tmp_path / "cache"))
    return tmp_path / "cache"


@pytest.fixture
def job():
    """The checked job of overrides."""

    def checked(*overrides):
        with hydra_session():
            return check_job(compose_job(overrides, []), overrides)

    return checked


def keep(spec, steps, evaluations):
    """What a run of this spec would keep, had it measured these seconds and images."""
    training = Training(build_method(spec.method, build_student(spec.student, spec.dataset)), None)
    training.timings = Timings(steps, evaluations)
    keep_speed(spec, training, CPU)


def refused(*trials, **options):
    raise AssertionError("nothing is to be timed")


def test_a_dry_run_predicts_from_what_a_run_kept(job, monkeypatch):
    """200 images a second in training and 500 in evaluation, the first epoch aside."""
    spec = job(*WORDS, "student=cnn", "recipe.epochs=7", "recipe.evaluate_every=3", "recipe.batch_size=32").spec
    keep(spec, [(9.0, 96), (1.0, 200), (2.0, 400)], [(5.0, 50), (0.1, 50)])
    monkeypatch.setattr(estimates, "time_networks", refused)
    estimator = Estimator([spec], CPU)
    cost = estimator.estimate(spec)
    assert cost.seconds == pytest.approx(7 * 96 / 200 + 3 * 50 / 500)  # evaluated after epochs 3, 6 and 7
    assert cost.step_seconds == pytest.approx(32 / 200)
    assert "1 by the speeds that earlier runs kept" in estimator.basis()


def test_a_related_network_is_predicted_by_its_macs_and_a_stranger_is_timed(job, monkeypatch):
    monkeypatch.setattr(timing, "_time_network", lambda trial, size, device: trial.network.speed(8.0, 9.0))
    first, alike = (job(*WORDS, f"student={name}", "recipe.batch_size=200").spec for name in ("resnet20", "resnet32"))
    keep(first, [(2.0, 400)], [(0.1, 50)])
    others = [job(*WORDS, "student=mlp").spec, job(*WORDS, "student=resnet18").spec]
    estimator = Estimator([alike, *others], CPU)
    ratio = size_of(alike.student, alike.dataset).macs / size_of(first.student, first.dataset).macs
    assert estimator.estimate(alike).step_seconds == pytest.approx(96 * ratio / 200), "fewer images than a batch"
    assert "1 by those of related networks, 2 timed now" in estimator.basis(), "resnet18 has 50 times the MACs"


def test_a_teacher_costs_its_evaluation_for_each_view(job):
    spec = job(*WORDS[:-1], "student=cnn", "teacher=mlp", "method=kd", "recipe.batch_size=64").spec
    keep(spec, [(2.0, 400)], [(0.1, 50)])
    keep(spec.teachers[0], [(2.0, 4000)], [(0.1, 100)])
    assert Estimator([spec], CPU).estimate(spec).step_seconds == pytest.approx(64 * (1 / 200 + 1 / 1000))


def test_of_a_fraction_of_a_second_nothing_is_kept(job):
    spec = job(*WORDS, "student=cnn").spec
    keep(spec, [(0.9, 400)], [(0.1, 50)])
    keep(spec, [], [(0.1, 50)])
    assert known_speeds(CPU, 1) == []


def test_what_was_kept_holds_for_its_threads_and_precision(job):
    spec = job(*WORDS, "student=cnn").spec
    keep(spec, [(2.0, 400)], [(0.1, 50)])
    (speed,) = known_speeds(CPU, 1)
    assert known_speeds(CPU, 2) == []
    network = Network.of(spec, spec.student, spec.dataset)
    assert network.is_of(speed)
    assert not dataclasses.replace(network, precision="bf16").is_related(speed, 2.0)


@pytest.mark.parametrize(
    "damage",
    [
        lambda path: path.write_text("{"),
        lambda path: path.write_bytes(b""),
        lambda path: path.write_text("[1, 2]\n"),
        lambda path: path.write_text(path.read_text().replace("kdrun.models.cnn", "kdrun.models.mlp")),
        lambda path: path.write_text(json.dumps({**json.loads(path.read_text()), "training": float("nan")})),
        lambda path: path.write_bytes(b" " * 10**6),
        lambda path: (path.unlink(), os.mkfifo(path)),
        lambda path: (path.unlink(), path.mkdir()),
        lambda path: (path.unlink(), path.symlink_to("/dev/zero")),
        lambda path: (path.unlink(), path.symlink_to("nowhere")),
        lambda path: path.with_suffix(".tmp").write_text("half") and path.write_text("{"),
    ],
)
def test_a_file_that_no_run_wrote_is_left_aside_with_a_warning_and_replaced(job, cache, caplog, damage):
    spec = job(*WORDS, "student=cnn").spec
    keep(spec, [(2.0, 400)], [(0.1, 50)])
    (path,) = cache.rglob("speeds/*/*.json")
    damage(path)
    assert known_speeds(CPU, 1) == []
    assert [str(path) in record.getMessage() for record in caplog.records] == [True]
    if not path.is_dir():
        keep(spec, [(4.0, 400)], [(0.1, 50)])
        (speed,) = known_speeds(CPU, 1)
        assert speed.training == 100 * speed.macs


def test_a_cache_that_cannot_be_written_is_a_warning(job, cache, caplog):
    cache.write_text("a file")
    keep(job(*WORDS, "student=cnn").spec, [(2.0, 400)], [(0.1, 50)])
    assert "is not kept" in caplog.text


def test_networks_that_do_not_fit_into_the_time_are_not_timed(job, monkeypatch):
    """The time is 5 s for all; here it is nothing, and then so little that it suffices for the smallest network."""
    specs = [job(*WORDS, f"student={name}").spec for name in ("densenet121", "mlp")]
    monkeypatch.setattr(timing, "_time_network", refused)
    convolution = Network("convolution", "", 10**7, "fp32").speed(1e4, 1e4)
    monkeypatch.setattr(timing, "_time_convolution", lambda *_: convolution)
    for seconds in (0.0, 0.1):
        monkeypatch.setattr(estimates, "TIMING_SECONDS", seconds)
        if seconds:
            monkeypatch.setattr(timing, "_time_network", lambda trial, size, device: trial.network.speed(8.0, 9.0))
        estimator = Estimator(specs, CPU)
        assert all(estimator.estimate(spec).seconds > 0 for spec in specs)
        assert ("2 a guess" if not seconds else "1 timed now, 1 a guess") in estimator.basis()


@pytest.fixture
def bf16_cpu(monkeypatch):
    """A CPU with bf16; the speeds of both precisions are given, and the trials recorded."""
    trials = []

    def given(fp32, bf16):
        def timed(asked, device, *, seconds):
            trials.append([trial.network.precision for trial in asked])
            torch.rand(3)  # building a network draws its weights
            rates = {"fp32": fp32, "bf16": bf16}
            return [trial.network.speed(rates[trial.network.precision], 1.0) for trial in asked], None

        monkeypatch.setattr(notice_of_bf16, "time_networks", timed)
        monkeypatch.setattr(notice_of_bf16, "cpu_flags", lambda: {"fpu", "avx512_bf16"})
        return trials

    return given


LONG = (*WORDS[:1], "runtime.device=cpu", "method=ce", "student=cnn", "dataset.train_size=50000", "recipe.epochs=200")


def test_a_long_run_reports_the_gain_of_bf16_once_timed(job, bf16_cpu):
    """10,000,000 images at 100,000 a second in fp32 take 100 s."""
    checked = job(*LONG)
    trials = bf16_cpu(1e5, 1.74e5)
    state = torch.get_rng_state()
    first, again = (bf16_notice([checked.spec], checked.runtime) for _ in range(2))
    assert torch.equal(torch.get_rng_state(), state)
    assert trials == [["fp32", "bf16"]], "the second command has the recorded speeds"
    assert first == again
    assert "1.7 times" in first


@pytest.mark.parametrize(
    ("words", "speeds"),
    [
        (("runtime.precision=fp32",), (1e5, 2e5)),
        (("runtime.precision=bf16",), (1e5, 2e5)),
        ((), (1e5, 1.19e5)),
        ((), (2e5, 4e5)),  # 50 s
    ],
)
def test_no_notice_without_a_choice_a_gain_or_a_long_run(job, bf16_cpu, words, speeds):
    checked = job(*LONG, *words)
    trials = bf16_cpu(*speeds)
    assert bf16_notice([checked.spec], checked.runtime) is None
    assert bool(trials) == (not words)


@pytest.mark.parametrize("error", [RuntimeError("not implemented"), TypeError("unsupported ScalarType BFloat16")])
def test_no_notice_for_a_network_that_fails(job, bf16_cpu, monkeypatch, error):
    bf16_cpu(1e5, 2e5)

    def fails(*_, **options):
        raise error

    monkeypatch.setattr(notice_of_bf16, "time_networks", fails)
    checked = job(*LONG)
    assert bf16_notice([checked.spec], checked.runtime) is None


def test_short_runs_and_cpus_without_bf16_time_nothing(job, bf16_cpu, monkeypatch):
    bf16_cpu(1e5, 2e5)
    monkeypatch.setattr(notice_of_bf16, "time_networks", refused)
    short = job(*WORDS)
    assert bf16_notice([short.spec], short.runtime) is None
    assert bf16_notice([], short.runtime) is None
    monkeypatch.setattr(notice_of_bf16, "cpu_flags", lambda: {"fpu", "avx512f"})
    long = job(*LONG)
    assert bf16_notice([long.spec], long.runtime) is None


def test_real_timings_of_both_precisions_are_recorded(job):
    checked = job(*WORDS, "student=cnn")
    fp32, bf16 = _speeds(checked.spec, CPU, 1)
    assert {(speed.precision, speed.training) for speed in known_speeds(CPU, 1)} == {
        ("fp32", fp32.training),
        ("bf16", bf16.training),
    }
