"""Device, precision and threads are chosen by rules; and on a GPU: same numbers, no waiting."""

import contextlib
import copy
import os
from collections.abc import Iterator

import pytest
import torch
from torch import nn
from torch.testing import assert_close

from kdrun.data import Augmentation, ImageSet, ResidentImages, TrainingViews
from kdrun.experiment.runner import Runner
from kdrun.experiment.runtime import Runtime
from kdrun.losses import POOLINGS, fsp_matrix
from kdrun.methods import CE, KD, Batch
from kdrun.models import cnn
from kdrun.store.store import Store
from kdrun.training.cuda_graphs import GraphedStep, GraphedTeacher
from kdrun.training.guarded import GuardedStep
from kdrun.training.optimisation import build_optimizer
from kdrun.training.precision import (
    SMALL_STEP_MACS,
    autocast,
    on_device,
    prepare_device,
    resolve_device,
    resolve_precision,
    resolve_threads,
    use_nchw_on_small_maps,
)
from kdrun.training.step import Step
from kdrun.training.teacher import LiveTeacher
from kdrun.training.trainer import Member, Stage, Training, fit
from tests.training.owners import Raising

CPU, CUDA = torch.device("cpu"), torch.device("cuda")
on_gpu = [pytest.mark.gpu, pytest.mark.skipif(not torch.cuda.is_available(), reason="needs a CUDA device")]


@pytest.fixture
def machine(monkeypatch):
    """Pretends to have so many CUDA devices and an MPS one or none."""

    def pretend(*, cuda: int = 0, mps: bool = False) -> None:
        monkeypatch.setattr(torch.cuda, "is_available", lambda: cuda > 0)
        monkeypatch.setattr(torch.cuda, "device_count", lambda: cuda)
        monkeypatch.setattr(torch.backends.mps, "is_available", lambda: mps)

    return pretend


@pytest.mark.parametrize(
    ("has", "auto"),
    [({}, "cpu"), ({"mps": True}, "mps"), ({"cuda": 1}, "cuda"), ({"cuda": 2, "mps": True}, "cuda")],
)
def test_auto_prefers_cuda_then_mps(machine, has, auto):
    machine(**has)
    assert resolve_device("auto") == torch.device(auto)
    assert resolve_device("cpu") == CPU


def test_named_devices_must_exist(machine):
    machine(cuda=2)
    assert resolve_device("cuda:1") == torch.device("cuda:1")
    for name, message in [
        ("cuda:2", r"'cuda:2' is not available on this machine \(2 cuda devices\)"),
        ("mps", r"'mps' is not available on this machine \(0 mps devices\)"),
        ("cpu:1", "'cpu:1' is not available"),
        ("gpu", "'gpu' is no device: must be auto, cpu, cuda, cuda:N or mps"),
        ("meta", "'meta' is no device"),
        ("xpu", "'xpu' is no device"),
        ("", "'' is no device"),
    ]:
        with pytest.raises(ValueError, match=message):
            resolve_device(name)


@pytest.mark.parametrize(
    ("device", "capability", "auto"),
    [
        ("cpu", None, "fp32"),
        ("mps", None, "fp32"),
        ("cuda", (7, 5), "fp32"),  # emulates bf16
        ("cuda", (8, 0), "bf16"),
        ("cuda:1", (12, 0), "bf16"),
    ],
)
def test_auto_precision_is_bf16_on_cuda_devices_that_compute_in_it(monkeypatch, device, capability, auto):
    device = torch.device(device)
    monkeypatch.setattr(torch.cuda, "get_device_capability", {device: capability}.__getitem__)
    assert resolve_precision("auto", device) == auto
    assert [resolve_precision(name, device) for name in ("fp32", "bf16")] == ["fp32", "bf16"]
    with pytest.raises(ValueError, match="'fp16' is no precision: must be one of auto, fp32, bf16"):
        resolve_precision("fp16", device)


def test_small_steps_on_the_cpu_get_one_thread():
    assert resolve_threads(SMALL_STEP_MACS - 1, CPU, 6) == 1
    assert resolve_threads(SMALL_STEP_MACS, CPU, 6) == 6
    assert resolve_threads(1, CUDA, 6) == 6


@pytest.mark.parametrize(("precision", "dtype"), [("fp32", torch.float32), ("bf16", torch.bfloat16)])
def test_bf16_computes_narrow_over_wide_weights(precision, dtype):
    model = nn.Linear(4, 3)
    context = autocast(CPU, precision)
    for _ in range(2):  # one context serves a whole run
        with context:
            assert model(torch.zeros(2, 4)).dtype == dtype
    assert model.weight.dtype == torch.float32


def test_convolutions_are_channels_last():
    model = on_device(nn.Sequential(nn.Conv2d(3, 8, 3), nn.Linear(8, 2)), CPU)
    assert model[0].weight.is_contiguous(memory_format=torch.channels_last)


def test_fp32_means_fp32_and_algorithms_are_deterministic():
    backends = torch.backends
    backends.cudnn.allow_tf32 = backends.cuda.matmul.allow_tf32 = backends.cudnn.benchmark = True
    backends.cudnn.deterministic = False
    prepare_device(CPU)
    flags = (backends.cudnn.allow_tf32, backends.cuda.matmul.allow_tf32, backends.cudnn.benchmark)
    assert (flags, backends.cudnn.deterministic) == ((False, False, False), True)


def test_the_device_of_a_run_is_the_current_one(monkeypatch, tmp_path):
    """Graphs are captured, and libraries choose their algorithms, on the current device, whatever tensors are on."""
    current: list[int] = []
    monkeypatch.setattr(torch.cuda, "set_device", current.append)
    monkeypatch.delenv("CUBLAS_WORKSPACE_CONFIG", raising=False)
    second = torch.device("cuda:1")
    Runner(Store(tmp_path), Runtime(device=second, data_root=tmp_path, output_root=tmp_path))
    assert (current, os.environ["CUBLAS_WORKSPACE_CONFIG"]) == ([1], ":4096:8")


@pytest.mark.parametrize(
    ("channels", "size", "options", "is_nchw"),
    [
        (256, 4, {}, True),
        (256, 8, {"stride": 2}, True),
        (256, 8, {}, False),
        (128, 4, {}, False),
        (256, 4, {"groups": 256}, False),
    ],
)
def test_wide_convolutions_are_in_nchw_on_small_maps_alone(channels, size, options, is_nchw):
    """On other maps output and gradients are the same bits; on small ones they differ by rounding."""
    torch.manual_seed(0)
    plain = on_device(nn.Conv2d(channels, channels, 3, padding=1, bias=False, **options), CPU)
    changed = use_nchw_on_small_maps(copy.deepcopy(plain))
    x = torch.randn(2, channels, size, size).to(memory_format=torch.channels_last).requires_grad_()
    found = []
    for conv in (plain, changed):
        y = conv(x)
        found.append((y, *torch.autograd.grad(y.square().sum(), (x, conv.weight))))
    assert found[1][0].is_contiguous() == is_nchw
    for expected, got in zip(*found, strict=True):
        assert_close(got, expected, rtol=1e-4 if is_nchw else 0, atol=1e-3 if is_nchw else 0)


def test_a_convolution_may_get_its_input_by_name():
    conv = nn.Conv2d(256, 256, 3)
    x = torch.randn(1, 256, 4, 4)
    assert_close(use_nchw_on_small_maps(copy.deepcopy(conv))(input=x), conv(x))


class WithoutWaiting:
    """The views of an epoch; from its second batch on, whatever makes the host wait for the device is an error.

    The first batch may: the order of the epoch goes to the device, libraries wake up.
    """

    def __init__(self, views: TrainingViews) -> None:
        self.views = views

    def __len__(self) -> int:
        return len(self.views)

    def epoch(self, epoch: int) -> Iterator[tuple[torch.Tensor, torch.Tensor, torch.Tensor, None]]:
        batches = self.views.epoch(epoch)
        yield next(batches)
        torch.cuda.set_sync_debug_mode("error")
        try:
            yield from batches
        finally:
            torch.cuda.set_sync_debug_mode("default")


def trained(
    device: torch.device,
    precision: str,
    *,
    wrap=lambda views: views,
    teach: bool = False,
    step=Step,
    num: int = 1,
    dropout=0.0,
) -> Training:
    """Two epochs of the plain CNN; masks of dropout would differ from device to device.

    With `num` students in lockstep, of which the last is returned.
    """
    generator = torch.Generator().manual_seed(0)
    patterns = torch.randint(0, 256, (4, 8, 8, 3), generator=generator)
    noise = torch.randint(-64, 65, (130, 8, 8, 3), generator=generator)
    labels = torch.arange(130) % 4
    split = ImageSet((patterns[labels] + noise).clamp(0, 255).to(torch.uint8), labels)
    images = ResidentImages(split, mean=[0.5] * 3, std=[0.25] * 3, device=device)
    context = autocast(device, precision)
    members = []
    for _ in range(num):
        torch.manual_seed(0)
        student, teacher = (on_device(cnn(num_classes=4, image_size=8, dropout=dropout), device) for _ in range(2))
        method = KD(student, temperature=4.0, alpha=0.9) if teach else CE(student)
        options = {"momentum": 0.9, "nesterov": False, "weight_decay": 5e-4}
        training = Training(method, build_optimizer("sgd", method.parameters(), lr=0.05, **options))
        members.append(
            Member(
                training,
                step(method, training.optimizer, context),
                stages=[Stage(0, 2, lambda step: 0.05)],
                begin_stage2=lambda: None,
                autocast=context,
                splits={"test": images},
                stop_epoch=2,
                on_epoch=lambda images_per_second: None,
                owner=Raising(),
            )
        )
    law = Augmentation(crop_padding=1, flip=True, rotation=15.0)
    views = wrap(TrainingViews(images, law, batch_size=32, seed=0))
    fit(members, views, LiveTeacher(teacher, context, precision) if teach else None, seed=0)
    return training


class TestOnTheGPU:
    pytestmark = on_gpu

    @pytest.mark.parametrize("teach", [False, True])
    def test_fp32_training_agrees_with_the_cpu(self, teach):
        prepare_device(CUDA)
        here, there = trained(CPU, "fp32", teach=teach), trained(CUDA, "fp32", teach=teach)
        for name, tensor in here.method.state_dict().items():
            torch.testing.assert_close(there.method.state_dict()[name].cpu(), tensor, rtol=1e-3, atol=1e-4)
        for row, twin in zip(here.rows, there.rows, strict=True):
            assert twin["train"]["loss"] == pytest.approx(row["train"]["loss"], rel=1e-4)
            assert twin["test"]["nll"] == pytest.approx(row["test"]["nll"], rel=1e-3)

    def test_bf16_is_near_fp32(self):
        wide, narrow = trained(CPU, "fp32"), trained(CUDA, "bf16")
        assert narrow.rows[0]["train"]["loss"] == pytest.approx(wide.rows[0]["train"]["loss"], rel=0.01)
        assert all(parameter.dtype == torch.float32 for parameter in narrow.method.parameters())

    @pytest.mark.parametrize("precision", ["fp32", "bf16"])
    def test_no_step_waits_for_the_device(self, precision):
        for step in (Step, GraphedStep):
            training = trained(CUDA, precision, wrap=WithoutWaiting, teach=True, step=step)
            assert len(training.rows) == 2

    @pytest.mark.parametrize("teach", [False, True])
    @pytest.mark.parametrize("precision", ["fp32", "bf16"])
    def test_captured_steps_compute_what_ordinary_ones_do(self, precision, teach):
        """Also the last batch of an epoch, which is smaller, and with three students side by side."""
        ordinary = trained(CUDA, precision, teach=teach)
        for num in (1, 3):
            captured = trained(CUDA, precision, teach=teach, step=GraphedStep, num=num)
            for row, twin in zip(ordinary.rows, captured.rows, strict=True):
                assert twin["train"] == pytest.approx(row["train"], rel=1e-3)
                assert twin.get("shares", {}) == pytest.approx(row.get("shares", {}), rel=1e-2)
                assert ("shares" in row) == teach
                assert twin["test"]["nll"] == pytest.approx(row["test"]["nll"], rel=1e-2)

    @pytest.mark.parametrize("precision", ["fp32", "bf16"])
    @pytest.mark.parametrize("step", [Step, GraphedStep])
    def test_the_same_run_twice_ends_with_the_same_bits(self, precision, step):
        prepare_device(CUDA)
        one, other = (trained(CUDA, precision, teach=True, step=step, dropout=0.5) for _ in range(2))
        assert one.rows == other.rows
        torch.testing.assert_close(one.method.state_dict(), other.method.state_dict(), rtol=0, atol=0)

    @pytest.mark.parametrize("pooling", POOLINGS)
    def test_the_gradient_of_pooled_features_has_the_same_bits_each_time(self, pooling):
        torch.manual_seed(0)
        larger, smaller = torch.randn(64, 16, 32, 32, device=CUDA), torch.randn(64, 16, 8, 8, device=CUDA)
        gradients = []
        for _ in range(5):
            x = larger.clone().requires_grad_()
            fsp_matrix(x, smaller, pooling=pooling).square().sum().backward()
            gradients.append(x.grad)
        assert all(torch.equal(gradient, gradients[0]) for gradient in gradients)

    @pytest.mark.parametrize("precision", ["fp32", "bf16"])
    def test_a_captured_teacher_says_what_it_says_otherwise(self, precision):
        torch.manual_seed(0)
        network = on_device(cnn(num_classes=4, image_size=8), CUDA)
        context = autocast(CUDA, precision)
        ordinary, captured = (kind(network, context, precision) for kind in (LiveTeacher, GraphedTeacher))
        said = []
        for size in (16, 16, 5, 16):  # the third is an epoch's last
            x = torch.randn(size, 3, 8, 8, device=CUDA).to(memory_format=torch.channels_last)
            y = torch.zeros(size, dtype=torch.long, device=CUDA)
            batch = Batch(x, y, y, epoch=0, step=0, progress=0.0, generator=torch.Generator(CUDA))
            said.append((captured(batch).logits, ordinary(batch).logits))
        for mine, expected in said:
            torch.testing.assert_close(mine, expected, rtol=1e-2, atol=1e-3)

    @pytest.mark.parametrize("fault", ["reads what changes", "waits for the device"])
    def test_what_cannot_be_captured_is_computed_by_ordinary_steps(self, monkeypatch, fault):
        """With the dropout of ordinary steps: a failed capture can leave the generator unable to draw."""
        forward = CE.forward
        faults = {
            "reads what changes": lambda batch: batch.progress,
            "waits for the device": lambda batch: batch.y.max().item(),
        }
        monkeypatch.setattr(CE, "forward", lambda self, batch, _: (faults[fault](batch), forward(self, batch, _))[1])
        failures: list[Exception] = []

        def guarded(method, optimizer, context):
            fast = GraphedStep(method, optimizer, context)
            return GuardedStep(fast, lambda: Step(method, optimizer, context), failures.append)

        captured, ordinary = (trained(CUDA, "fp32", step=step, dropout=0.5) for step in (guarded, Step))
        assert captured.rows == ordinary.rows
        assert len(failures) == 1

    @pytest.mark.skipif(torch.cuda.device_count() < 2, reason="needs two CUDA devices")
    def test_the_second_device_captures_its_own_teacher(self):
        second = torch.device("cuda:1")
        prepare_device(second)
        network = on_device(cnn(num_classes=4, image_size=8), second)
        ordinary, captured = (kind(network, autocast(second, "fp32")) for kind in (LiveTeacher, GraphedTeacher))
        for number in range(3):
            x = torch.randn(16, 3, 8, 8, device=second) + number
            batch = Batch(x, x, x, epoch=0, step=number, progress=0.0, generator=torch.Generator(second))
            torch.testing.assert_close(captured(batch).logits, ordinary(batch).logits)

    def test_waiting_would_be_noticed(self):
        with contextlib.ExitStack() as stack:
            stack.callback(torch.cuda.set_sync_debug_mode, "default")
            torch.cuda.set_sync_debug_mode("error")
            with pytest.raises(RuntimeError, match="synchronizing"):
                torch.ones(1, device=CUDA).item()
