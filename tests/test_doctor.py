"""`kdrun doctor`: its facts, its checks, and that a fast way which computes something else is found."""

import errno
import json
import os
import time

import pytest
import torch

from kdrun.config.composition import config_directories
from kdrun.diagnosis import checks, facts, row, ways
from kdrun.diagnosis.cases import EPOCHS, STEPS, shipped_cases, shrunk
from kdrun.diagnosis.file_system import CONSEQUENCES, features
from kdrun.diagnosis.row import Row
from kdrun.diagnosis.runs import RunChecks
from kdrun.diagnosis.table import checks_table, facts_table, summary
from kdrun.experiment import proof, teachers
from kdrun.experiment.choices import Choices
from kdrun.experiment.proof import Proof
from kdrun.experiment.runtime import Runtime
from kdrun.spec.dataset import SequenceDatasetSpec
from kdrun.training.replay import ReplayTeacher
from tests.made_up import spec_of

CPU = torch.device("cpu")
OWN = (
    *("doctor", "--json", "dataset=synthetic", "student=cnn", "teacher=resnet8", "method=kd"),
    *("dataset.image_size=8", "recipe.batch_size=16", "runtime.device=cpu", "runtime.threads=1"),
)
ON_CPU = {row.STEP, row.LOCKSTEP, row.REPLAY, row.RESUME, row.FOLDED, row.BF16, row.OPTIMISER}


@pytest.fixture
def runtime(tmp_path) -> Runtime:
    return Runtime(device=CPU, threads=1, data_root=tmp_path / "data", output_root=tmp_path / "outputs")


def record_of(lines) -> dict:
    return json.loads("\n".join(lines))


def failed(record) -> set[str]:
    return {check["check"] for check in record["checks"] if check["agrees"] is not True}


def test_a_run_of_ones_own_agrees_and_nothing_stays(kdrun, here, tmp_path, monkeypatch):
    monkeypatch.setenv("XDG_CACHE_HOME", str(tmp_path / "cache"))
    monkeypatch.setenv("TMPDIR", str(tmp_path / "tmp"))
    monkeypatch.setenv("KDRUN_TOKEN", "hunter2hunter2")
    monkeypatch.setattr("tempfile.tempdir", None)
    (tmp_path / "tmp").mkdir()
    (here / "outputs").mkdir()
    code, lines, err = kdrun(*OWN)
    record = record_of(lines)
    assert code == 0
    assert {check["check"] for check in record["checks"]} == ON_CPU
    assert failed(record) == set()
    assert record["agrees"] is True
    assert (record["left_out"], record["warnings"]) == ([], [])
    assert len(err.splitlines()) >= len(ON_CPU), "its progress"
    steps = {check["check"]: check["ordinary_seconds"] for check in record["checks"]}
    assert all(steps[check] > 0 for check in ON_CPU - {row.FOLDED})
    found = record["facts"]
    assert found["libraries"]["torch"]
    assert found["device"]["chosen"] == "cpu"
    assert found["environment"]["KDRUN_TOKEN"] == "${oc.env:KDRUN_TOKEN}"
    assert "hunter2" not in "\n".join([*lines, err])
    assert os.environ["XDG_CACHE_HOME"] == str(tmp_path / "cache")
    left = {path.relative_to(tmp_path).as_posix() for path in tmp_path.rglob("*")}
    assert left == {"tmp", "here", "here/outputs"}


def test_a_way_that_computes_something_else_is_found(kdrun, monkeypatch):
    """Replayed logits that are scaled, and BatchNorm that is folded into the wrong weights."""
    replayed, folded = ReplayTeacher.__call__, teachers.LiveTeacher.__init__

    def scaled(self, batch):
        answer = replayed(self, batch)
        answer.logits.mul_(1.01)
        return answer

    def shifted(self, *arguments, **options):
        folded(self, *arguments, **options)
        with torch.no_grad():
            next(self._model.parameters()).mul_(1.1)

    monkeypatch.setattr(ReplayTeacher, "__call__", scaled)
    monkeypatch.setattr(teachers.LiveTeacher, "__init__", shifted)
    code, lines, _ = kdrun(*OWN)
    record = record_of(lines)
    assert code == 1
    assert record["agrees"] is False
    # The group of the lockstep records its logits as it computes: through the same teacher.
    assert failed(record) - {row.LOCKSTEP} == {row.REPLAY, row.FOLDED}
    advice = {check["check"]: check.get("advice") for check in record["checks"]}
    assert advice[row.REPLAY] == "runtime.replay_gb=0"
    assert advice[row.RESUME] is None


def test_a_method_that_raises_is_a_failed_check(kdrun, monkeypatch):
    def broken(self, batch, teacher):
        raise RuntimeError("no kernel image is available")

    monkeypatch.setattr("kdrun.methods.KD.forward", broken)
    code, lines, _ = kdrun(*OWN)
    record = record_of(lines)
    assert code == 1
    assert [check["check"] for check in record["checks"] if not check["agrees"]] == [row.STEP]
    assert "no kernel image is available" in record["checks"][0]["found"]


def test_bad_input_is_refused_before_anything_is_tried(kdrun, here):
    code, lines, err = kdrun("doctor", "student=resnet999", "recipe.lr=-1")
    assert code == 2
    assert lines == []
    assert "resnet999" in err
    assert "recipe.lr" in err
    assert list(here.iterdir()) == []


def test_without_time_every_check_is_left_out(runtime, monkeypatch):
    monkeypatch.setattr(checks, "SECONDS", 0.0)
    cases = shipped_cases(CPU, "fp32")
    diagnosis = checks.Diagnosis(cases, runtime, compiled=True)
    diagnosis.run(lambda title: pytest.fail(title))
    assert diagnosis.rows == []
    assert len(diagnosis.left_out) >= len(cases)


def test_a_stopped_doctor_does_not_claim_that_all_agree(runtime):
    diagnosis = checks.Diagnosis(shipped_cases(CPU, "fp32")[:2], runtime, compiled=False)
    titles = []

    def progress(title):
        titles.append(title)
        if len(titles) == 2:
            raise KeyboardInterrupt

    with pytest.raises(KeyboardInterrupt):
        diagnosis.run(progress)
    assert diagnosis.left_out == [f"{titles[1]}, and all later checks"]
    seconds = {"wall": 3.0, "cpu": 2.0}
    text = summary(diagnosis.rows, diagnosis.left_out, seconds)
    assert text == "2 checks, 2 agree, others left out; 3 s, 2 s of CPU time"
    assert summary(diagnosis.rows, [], seconds).startswith("2 checks, all agree; ")


def test_the_shipped_cases_are_small_and_of_each_kind():
    cases = {case.name: case.spec for case in shipped_cases(CPU, "fp32")}
    networks = {spec.student.name for spec in cases.values()}
    assert networks >= {"resnet8", "mobilenetv2", "shufflenetv2", "cnn", "mlp", "lstm", "transformer"}
    methods = {spec.method.name for spec in cases.values()}
    assert methods >= {"KD", "FitNet", "AT", "RKD", "FSP", "DML"}
    assert any(spec.stage1_epochs for spec in cases.values())
    assert any(isinstance(spec.dataset, SequenceDatasetSpec) for spec in cases.values())
    assert all(spec.student.options["dropout"] > 0 for spec in cases.values() if spec.student.name == "mlp")
    assert {name: spec for name, spec in cases.items() if spec.dataset.train_size > 64} == {}


def test_a_run_made_small_keeps_its_shape():
    words = ("dataset=cifar100", "teacher=resnet56", "student=resnet20", "method=fsp", "dataset.classes=[1,2]")
    spec = spec_of(*words)
    small = shrunk(spec, torch.device("cuda"))
    assert (small.student, small.recipe.batch_size) == (spec.student, spec.recipe.batch_size)
    assert [run.recipe.batch_size for run in (shrunk(spec, CPU), *shrunk(spec, CPU).teachers)] == [16, 16]
    assert (small.recipe.epochs, small.stage1_epochs) == (EPOCHS, 1)
    for one in (small, *small.teachers):
        data = one.dataset
        assert (data.name, data.shape, data.num_classes) == ("synthetic", spec.dataset.shape, 100)
        assert data.train_size == STEPS * spec.recipe.batch_size
        assert data.classes is None


@pytest.mark.parametrize(
    ("check", "proof", "agrees"),
    [
        (row.CAPTURED, Proof(True, "", 0.3, 0.02, 0.01), True),
        (row.CAPTURED, Proof(False, "changes of parameters differ", 7.0, 0.02, 0.01), False),
        (row.COMPILED, Proof(False, "RuntimeError: no C compiler"), False),
        (row.CAPTURED, Proof(False, "NotCapturableError: the method reads batch.progress"), None),
        (row.AUTOTUNED, Proof(False, "changes of parameters differ", 7.0, 0.02, 0.01), None),
    ],
)
def test_steps_that_differ_fail_and_those_that_cannot_be_captured_do_not(monkeypatch, check, proof, agrees):
    monkeypatch.setattr(ways, "prove", lambda spec, choices, device, mode: proof)
    (case, *_) = shipped_cases(CPU, "fp32")
    (line,) = ways.fast_steps(check, case, CPU)
    assert (line.check, line.case, line.agrees) == (check, case.name, agrees)
    assert (line.ordinary_seconds, line.fast_seconds) == (proof.ordinary_seconds, proof.fast_seconds)


def test_runs_whose_steps_are_not_captured_are_no_check_of_captured_ones(runtime):
    """As on a CPU: a run falls back to ordinary steps by itself."""
    units = RunChecks(shipped_cases(CPU, "fp32")[:1], runtime, runtime.output_root, captured=True).units()
    lines = [line for unit in units for line in unit.run()]
    assert [(line.check, line.case, line.agrees) for line in lines] == [(row.STEP, "captured resnet8 kd", False)]


def test_features_of_a_file_system_are_tried_and_leave_nothing(tmp_path, monkeypatch):
    found = features(tmp_path)
    assert {name: found[name] for name in CONSEQUENCES} == dict.fromkeys(CONSEQUENCES, True)
    assert found["free_bytes"] > 0

    def refused(*arguments):
        raise OSError(errno.ENOTSUP, "not supported")

    monkeypatch.setattr("os.link", refused)
    monkeypatch.setattr("fcntl.flock", refused)
    found = features(tmp_path)
    assert {name for name in CONSEQUENCES if not found[name]} == {"locks", "hard_links"}
    absent = features(tmp_path / "a" / "b")
    assert (absent["exists"], absent["writable"]) == (False, True)
    assert {absent[name] for name in CONSEQUENCES} == {None}
    assert list(tmp_path.iterdir()) == []


def test_facts_count_the_proofs_of_earlier_runs(runtime, tmp_path, monkeypatch):
    monkeypatch.setenv("XDG_CACHE_HOME", str(tmp_path))
    assert facts.facts(runtime, (), {})["proofs"] == {"agree": 0, "refused": []}
    (spec, other) = (case.spec for case in shipped_cases(CPU, "fp32")[:2])
    proof.keep(Proof(True, "", 0.3, 0.02, 0.01), spec, Choices(1, cuda_graphs=True), CPU)
    proof.keep(Proof(False, "changes of loss differ", 2.0), other, Choices(1, cuda_graphs=True), CPU)
    (tmp_path / "kdrun" / "proofs" / "damaged.json").write_text("{")
    found = facts.facts(runtime, (), {})
    assert found["proofs"] == {"agree": 1, "refused": ["changes of loss differ"]}
    assert "steps of 1 run agreed; not used: changes of loss differ" in " ".join(facts_table(found).split())


@pytest.mark.parametrize(("number", "version"), [(92400, "9.24.0"), (91002, "9.10.2"), (8907, "8.9.7"), (None, None)])
def test_the_version_of_cudnn_is_written_as_in_its_releases(runtime, monkeypatch, number, version):
    monkeypatch.setattr("torch.backends.cudnn.is_available", lambda: True)
    monkeypatch.setattr("torch.backends.cudnn.version", lambda: number)
    assert facts.facts(runtime, (), {})["cuda"]["cudnn"] == version


def test_facts_name_the_datasets_in_the_data_root(runtime):
    shipped = {path.stem for root in config_directories()[:1] for path in (root / "dataset").glob("*.yaml")}
    assert set(facts.DIRECTORIES) == shipped - {"digits", "synthetic", "folder", "hf", "imagenet", "wds"}
    before = facts.facts(runtime, (), {})["data"]
    assert before == {"root": str(runtime.data_root), "exists": False, "readable": False, "datasets": []}
    (runtime.data_root / "cifar-100-python").mkdir(parents=True)
    after = facts.facts(runtime, (), {})["data"]
    assert (after["exists"], after["readable"], after["datasets"]) == (True, True, ["cifar100"])


def test_the_table_fits_80_columns_and_names_what_to_do(runtime):
    found = facts.facts(runtime, ("student=cnn",), {"KDRUN_DATA": "/a/long/path" * 30})
    found["cuda"]["devices"] = [
        {
            "name": "NVIDIA GeForce GTX 1080 Ti",
            "compute_capability": "6.1",
            "multiprocessors": 28,
            "total_bytes": 11e9,
            "free_bytes": 10e9,
            "bf16": "emulated",
        }
    ]
    rows = [
        Row(row.LOCKSTEP, "shufflenetv2 rkd", "equal bits", "equal bits", True, 0.123, 12.3),
        Row(
            row.CAPTURED,
            "captured shufflenetv2 rkd",
            "within the bounds",
            "NotCapturableError: the method reads batch.progress",
            None,
        ),
        Row(row.BF16, "resnet8 kd", "at most 10% apart", f"RuntimeError: {'no kernel ' * 30}", False),
    ]
    text = f"{facts_table(found)}\n{checks_table(rows, ['a check'], ['a warning ' * 30])}"
    assert max(map(len, text.splitlines())) <= 80
    assert "runtime.precision=fp32" in text
    assert "bf16 emulated" in text
    assert "kdrun doctor student=cnn" in text
    assert "captured shufflenetv2 rkd: NotCapturableError: the method reads" in " ".join(text.split())
    results = [line.split()[0] for line in text.splitlines() if line.startswith(("ok ", "FAIL ", "- "))]
    assert results == ["ok", "FAIL", "-"]


@pytest.mark.slow
def test_everything_agrees_on_a_cpu_within_a_minute_of_cpu_time(kdrun):
    started = time.process_time()
    code, lines, _ = kdrun("doctor", "--json", "runtime.device=cpu")
    record = record_of(lines)
    assert code == 0
    assert {check["check"] for check in record["checks"]} == ON_CPU
    assert len({check["case"] for check in record["checks"] if check["check"] == row.LOCKSTEP}) == 9
    assert time.process_time() - started < 60
