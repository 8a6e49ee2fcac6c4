"""Fast ways are proved against ordinary steps before they are used: with fakes that are wrong, right, or raise."""

import json
import signal
from dataclasses import replace

import pytest
import torch

from kdrun import stopping
from kdrun.experiment import proof, runner, steps, teachers
from kdrun.experiment.choices import Choices, cache_home, choose, compiling_pays
from kdrun.experiment.proof import Proof, prove, proved
from kdrun.experiment.runtime import Runtime
from kdrun.methods import TeacherOutput
from kdrun.spec.dataset import ImageDatasetSpec
from kdrun.spec.spec import Component, Recipe, Spec
from kdrun.training.step import Step
from kdrun.training.teacher import LiveTeacher

CPU = torch.device("cpu")
CAPTURED = Choices(1, cuda_graphs=True)


class Stale(Step):
    """Computes every step on the first batch, as a graph does whose inputs are not copied."""

    first_batch = None

    def __call__(self, batch, teacher, *, first):
        self.first_batch = self.first_batch or (batch, teacher)
        super().__call__(*self.first_batch, first=first)


class Idle(Step):
    """Leaves the weights as they are."""

    def __call__(self, batch, teacher, *, first):
        before = [parameter.detach().clone() for parameter in self.method.parameters()]
        super().__call__(batch, teacher, first=first)
        with torch.no_grad():
            for parameter, value in zip(self.method.parameters(), before, strict=True):
                parameter.copy_(value)


class WithoutClassifier(Step):
    """Trains all but the last layer."""

    def __call__(self, batch, teacher, *, first):
        last = list(self.method.student.parameters())[-2:]
        before = [parameter.detach().clone() for parameter in last]
        super().__call__(batch, teacher, first=first)
        with torch.no_grad():
            for parameter, value in zip(last, before, strict=True):
                parameter.copy_(value)


class WithoutStatistics(Step):
    """Forgets the running statistics of BatchNorm."""

    def __call__(self, batch, teacher, *, first):
        before = [buffer.clone() for buffer in self.method.buffers()]
        super().__call__(batch, teacher, first=first)
        for buffer, value in zip(self.method.buffers(), before, strict=True):
            buffer.copy_(value)


class NotFinite(Step):
    """Ends with a weight that no later step computes with."""

    def __call__(self, batch, teacher, *, first):
        super().__call__(batch, teacher, first=first)
        if batch.step == proof.STEPS - 1:
            with torch.no_grad():
                next(self.method.parameters()).view(-1)[0] = float("nan")


class Rounded(Step):
    """Differs by rounding: the batch in another order."""

    def __call__(self, batch, teacher, *, first):
        order = torch.arange(len(batch.y)).flip(0)
        turned = replace(batch, x=batch.x[order], y=batch.y[order], index=batch.index[order])
        super().__call__(turned, TeacherOutput(teacher.logits[order]), first=first)


class Raises(Step):
    settled = False

    def __call__(self, batch, teacher, *, first):
        if batch.step == 1:
            raise OSError("cannot be captured")
        super().__call__(batch, teacher, first=first)


@pytest.fixture(autouse=True)
def empty_cache(monkeypatch, tmp_path):
    """Nothing has been proved before."""
    monkeypatch.setattr(proof, "_failures", {})
    monkeypatch.setenv("XDG_CACHE_HOME", str(tmp_path / "cache"))
    monkeypatch.setattr(proof, "_failures", {})


@pytest.fixture
def fake(monkeypatch):
    """Has a class compute the steps that are captured, here on the CPU."""

    def use(kind):
        monkeypatch.setattr(steps, "GraphedStep", kind)
        for module in (proof, teachers):
            monkeypatch.setattr(module, "GraphedTeacher", LiveTeacher)

    return use


@pytest.mark.parametrize("precision", ["fp32", "bf16"])
@pytest.mark.parametrize(
    ("kind", "agrees"),
    [
        (Step, True),
        (Rounded, True),
        (Stale, False),
        (Idle, False),
        (WithoutClassifier, False),
        (WithoutStatistics, False),
        (NotFinite, False),
        (Raises, False),
    ],
)
def test_wrong_steps_do_not_agree(lab, fake, kind, agrees, precision):
    fake(kind)
    found = prove(lab.taught("resnet8").at_precision(precision), CAPTURED, CPU)
    assert (found.agrees, bool(found.reason)) == (agrees, not agrees)
    if kind is Raises:
        assert found == Proof(False, "OSError: cannot be captured")
    else:
        assert (found.difference <= 1) == agrees
    if kind is Step:
        assert found.difference == 0
    proof.keep(found, lab.teacher, CAPTURED, CPU)
    assert proved(lab.teacher, CAPTURED, CPU).cuda_graphs == agrees


@pytest.mark.parametrize("name", ["fsp", "crd", "dml", "born_again", "kd_ensemble", "triplet"])
def test_every_kind_of_method_can_be_proved(lab, fake, name):
    fake(Step)
    found = prove(lab.every(name), CAPTURED, CPU)
    assert (found.reason, found.difference) == ("", 0)


def test_a_second_stage_is_proved_too(lab, fake):
    class OnlyFirst(WithoutClassifier):
        def __call__(self, batch, teacher, *, first):
            steps = Step if self.method.stage == 0 else WithoutClassifier
            steps.__call__(self, batch, teacher, first=first)

    fake(OnlyFirst)
    found = prove(lab.every("fsp"), CAPTURED, CPU)
    assert not found.agrees
    assert found.reason.startswith("stage 2: ")


def test_a_proof_is_kept_for_the_machine(lab, fake, monkeypatch, caplog):
    fake(Stale)
    spec = lab.plain("mlp")
    assert proved(spec, CAPTURED, CPU) == Choices(1)
    (file,) = (cache_home() / "proofs").glob("*.json")
    assert str(file) not in caplog.text
    monkeypatch.setattr(proof, "prove", lambda *_: pytest.fail("proved twice"))
    for same in (spec, lab.plain("mlp", seed=3, recipe=Recipe(batch_size=16, lr=0.1, epochs=9))):
        assert proved(same, CAPTURED, CPU) == Choices(1)
    assert caplog.messages[-1].endswith(f"; to compare them again, remove {file}")
    calls = []
    monkeypatch.setattr(proof, "prove", lambda *given: calls.append(given) or Proof(True))
    assert proved(lab.plain("mlp", recipe=Recipe(batch_size=17)), CAPTURED, CPU) == CAPTURED
    file.write_text(file.read_text().replace("false", "true"))  # damaged: its SHA-256 is another
    assert proved(spec, CAPTURED, CPU) == CAPTURED
    assert len(calls) == 2


@pytest.mark.parametrize(
    ("reason", "again"), [("InductorError: no C compiler", True), ("NotCapturableError: batch.progress", False)]
)
def test_an_error_is_not_kept_beyond_the_command(lab, monkeypatch, reason, again):
    """A compiler can be installed, and memory freed; what a method reads stays the same."""
    calls = []
    monkeypatch.setattr(proof, "prove", lambda *given: calls.append(given) or Proof(False, reason))
    for _ in range(2):
        assert proved(lab.plain("mlp"), CAPTURED, CPU) == Choices(1)
    assert len(calls) == 1
    monkeypatch.setattr(proof, "_failures", {})  # another command
    monkeypatch.setattr(proof, "prove", lambda *given: calls.append(given) or Proof(True, "", 0.1))
    assert proved(lab.plain("mlp"), CAPTURED, CPU) == (CAPTURED if again else Choices(1))
    assert len(calls) == 1 + again


def test_one_of_two_fast_ways_is_used_where_the_other_fails(lab, monkeypatch):
    both = Choices(1, compile=True, cuda_graphs=True)
    monkeypatch.setattr(proof, "prove", lambda spec, choices, device: Proof(not choices.compile, "no"))
    assert proved(lab.plain("mlp"), both, CPU) == Choices(1, cuda_graphs=True)


def test_a_stop_that_a_compiler_turns_into_an_error_is_no_failure_of_the_fast_way(lab, fake, monkeypatch):
    class Stops(Raises):
        def __call__(self, batch, teacher, *, first):
            monkeypatch.setattr(stopping, "_requested", signal.SIGTERM)
            super().__call__(batch, teacher, first=first)

    fake(Stops)
    with pytest.raises(stopping.Stopped):
        proved(lab.plain("mlp"), CAPTURED, CPU)
    assert not (cache_home() / "proofs").exists()


def test_without_fast_ways_nothing_is_proved(lab, monkeypatch):
    monkeypatch.setattr(proof, "prove", lambda *_: pytest.fail("proved"))
    assert proved(lab.plain("mlp"), Choices(1), CPU) == Choices(1)


@pytest.mark.parametrize("kind", [Raises, Stale])
def test_a_run_ends_with_the_bits_of_ordinary_steps(lab, fake, monkeypatch, kind):
    """Where the fast way is refused beforehand, and where it fails in the run although it was proved."""
    spec = lab.taught("resnet8")
    expected = lab.alone(spec)
    fake(kind)
    monkeypatch.setattr(runner, "choose", lambda spec, runtime: CAPTURED)
    if kind is Raises:
        for each in (spec, *spec.teachers):
            proof.keep(Proof(True), each, CAPTURED, CPU)
    run = lab.execute(spec, "fast", replay_gb=0.0).run
    assert lab.bits(run) == expected
    status = json.loads((run.directory / "status.json").read_text())
    assert not status["choices"]["cuda_graphs"]
    assert not run.result()["environment"]["cuda_graphs"]
    assert proved(spec, CAPTURED, CPU) == Choices(1)


def cifar(student: str, **recipe) -> Spec:
    data = ImageDatasetSpec("kdrun.data.cifar100", "", 100, 3, 32, 50_000, 10_000, (0.5,) * 3, (0.25,) * 3)
    recipe = Recipe(batch_size=64, **recipe)
    return Spec(data, Component(f"kdrun.models.{student}"), Component("kdrun.methods.CE"), recipe, precision="bf16")


@pytest.mark.parametrize("student", ["resnet18", "mobilenetv2", "shufflenetv2"])
def test_long_runs_are_compiled_on_a_gpu(monkeypatch, tmp_path, student):
    """What is between the convolutions takes as long as they do: the memory of an H200 gives 4.8 TB/s."""

    class Facts:
        memory_clock_rate, memory_bus_width = 3_125_000, 6144  # kHz, bits

    monkeypatch.setattr(torch.cuda, "get_device_properties", lambda device: Facts)
    gpu = torch.device("cuda")
    steps = 200 * 782
    assert compiling_pays(cifar(student), gpu, steps)
    assert not compiling_pays(cifar(student), gpu, 782)
    assert not compiling_pays(cifar(student), CPU, steps)
    runtime = Runtime(device=gpu, data_root=tmp_path, output_root=tmp_path)
    assert choose(cifar(student), runtime).compile
    assert not choose(cifar(student, epochs=1), runtime).compile
