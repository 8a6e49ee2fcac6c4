"""Weights of the user's own: networks written here as other projects name them must compute what ours compute."""

import dataclasses
from collections import OrderedDict

import pytest
import torch
import torch.nn.functional as F
from torch import nn
from torch._utils import _rebuild_parameter_with_state

from kdrun.experiment import weights
from kdrun.experiment.build import build_student
from kdrun.experiment.weights import load_weights, own_weights
from kdrun.spec.dataset import ImageDatasetSpec
from kdrun.spec.spec import Component
from kdrun.store.checkpoint import CheckpointError

DIGITS = ImageDatasetSpec("kdrun.data.synthetic", "synthetic-v1", 5, 1, 8, 40, 20, mean=(0.5,), std=(0.25,))
CIFAR = dataclasses.replace(DIGITS, num_classes=7, in_channels=3, image_size=32, mean=(0.5,) * 3, std=(0.25,) * 3)
MLP = Component("kdrun.models.mlp", {"hidden": (6,)})


def network(name: str) -> Component:
    return Component(f"kdrun.models.{name}")


class Block(nn.Module):
    """A residual block: names, and whether BatchNorm and ReLU come first."""

    def __init__(self, channels, planes, stride, *, shortcut="downsample", kernels=(3, 3), expansion=1):
        super().__init__()
        widths = [channels, *[planes] * (len(kernels) - 1), planes * expansion]
        strided = len(kernels) - 2  # the first of two, the second of three
        for i, kernel in enumerate(kernels):
            step = stride if i == strided else 1
            conv = nn.Conv2d(widths[i], widths[i + 1], kernel, step, kernel // 2, bias=False)
            self.add_module(f"conv{i + 1}", conv)
            self.add_module(f"bn{i + 1}", nn.BatchNorm2d(widths[i + 1]))
        self.count = len(kernels)
        skip = nn.Sequential()
        if stride > 1 or channels != widths[-1]:
            skip = nn.Sequential(nn.Conv2d(channels, widths[-1], 1, stride, bias=False), nn.BatchNorm2d(widths[-1]))
        self.add_module(shortcut, skip)
        self.skip = shortcut

    def forward(self, x):
        out = x
        for i in range(1, self.count + 1):
            out = getattr(self, f"bn{i}")(getattr(self, f"conv{i}")(out))
            out = F.relu(out) if i < self.count else out
        return F.relu(out + getattr(self, self.skip)(x))


class ResNet(nn.Module):
    def __init__(self, stem, widths, depths, classifier="fc", expansion=1, **block):
        super().__init__()
        self.conv1, self.bn1 = nn.Conv2d(3, stem, 3, padding=1, bias=False), nn.BatchNorm2d(stem)
        self.stages, channels = len(widths), stem
        for i, (width, depth) in enumerate(zip(widths, depths, strict=True)):
            blocks = []
            for j in range(depth):
                stride = 2 if i > 0 and j == 0 else 1
                blocks.append(Block(channels, width, stride, expansion=expansion, **block))
                channels = width * expansion
            self.add_module(f"layer{i + 1}", nn.Sequential(*blocks))
        self.last = classifier
        self.add_module(classifier, nn.Linear(channels, 7))

    def forward(self, x):
        x = F.relu(self.bn1(self.conv1(x)))
        for i in range(self.stages):
            x = getattr(self, f"layer{i + 1}")(x)
        return getattr(self, self.last)(F.adaptive_avg_pool2d(x, 1).flatten(1))


def cifar(depth, stem=16, width=16):
    return ResNet(stem, (width, 2 * width, 4 * width), ((depth - 2) // 6,) * 3)


class WideBlock(nn.Module):
    def __init__(self, channels, planes, stride):
        super().__init__()
        self.bn1, self.conv1 = nn.BatchNorm2d(channels), nn.Conv2d(channels, planes, 3, stride, 1, bias=False)
        self.bn2, self.conv2 = nn.BatchNorm2d(planes), nn.Conv2d(planes, planes, 3, 1, 1, bias=False)
        self.convShortcut = None if channels == planes else nn.Conv2d(channels, planes, 1, stride, bias=False)

    def forward(self, x):
        active = F.relu(self.bn1(x))
        out = self.conv2(F.relu(self.bn2(self.conv1(active))))
        return out + (x if self.convShortcut is None else self.convShortcut(active))


class WideResNet(nn.Module):
    def __init__(self, depth, width):
        super().__init__()
        self.conv1, channels = nn.Conv2d(3, 16, 3, padding=1, bias=False), 16
        for i in range(3):
            planes, stage = 16 * width * 2**i, nn.Module()
            strides = [2 if i > 0 else 1, *[1] * ((depth - 4) // 6 - 1)]
            inputs = [channels, *[planes] * (len(strides) - 1)]
            stage.layer = nn.Sequential(*(WideBlock(c, planes, s) for c, s in zip(inputs, strides, strict=True)))
            self.add_module(f"block{i + 1}", stage)
            channels = planes
        self.bn1, self.fc = nn.BatchNorm2d(channels), nn.Linear(channels, 7)

    def forward(self, x):
        x = self.conv1(x)
        for block in (self.block1, self.block2, self.block3):
            x = block.layer(x)
        return self.fc(F.avg_pool2d(F.relu(self.bn1(x)), 8).flatten(1))


class VGG(nn.Module):
    def __init__(self, depth):
        super().__init__()
        channels = 3
        for i, width in enumerate((64, 128, 256, 512, 512)):
            layers = []
            for _ in range(depth):
                layers += [nn.Conv2d(channels, width, 3, padding=1), nn.BatchNorm2d(width), nn.ReLU()]
                channels = width
            self.add_module(f"block{i}", nn.Sequential(*layers[:-1]))
        self.classifier = nn.Linear(512, 7)

    def forward(self, x):
        x = F.relu(self.block0(x))
        for block in (self.block1, self.block2, self.block3):
            x = F.relu(block(F.max_pool2d(x, 2)))
        return self.classifier(F.relu(self.block4(x)).mean((2, 3)))


class Inverted(nn.Module):
    def __init__(self, channels, planes, stride, expansion):
        super().__init__()
        inner = channels * expansion
        self.residual = nn.Sequential(
            *(nn.Conv2d(channels, inner, 1), nn.BatchNorm2d(inner), nn.ReLU6()),
            *(nn.Conv2d(inner, inner, 3, stride, 1, groups=inner), nn.BatchNorm2d(inner), nn.ReLU6()),
            *(nn.Conv2d(inner, planes, 1), nn.BatchNorm2d(planes)),
        )
        self.adds = stride == 1 and channels == planes

    def forward(self, x):
        return self.residual(x) + x if self.adds else self.residual(x)


class MobileNetV2(nn.Module):
    def __init__(self):
        super().__init__()
        self.pre = nn.Sequential(nn.Conv2d(3, 32, 1, padding=1), nn.BatchNorm2d(32), nn.ReLU6())
        self.stage1 = Inverted(32, 16, 1, 1)
        stages = ((16, 24, 2, 2), (24, 32, 3, 2), (32, 64, 4, 2), (64, 96, 3, 1), (96, 160, 3, 1))
        for i, (channels, planes, count, stride) in enumerate(stages):
            others = (Inverted(planes, planes, 1, 6) for _ in range(count - 1))
            self.add_module(f"stage{i + 2}", nn.Sequential(Inverted(channels, planes, stride, 6), *others))
        self.stage7 = Inverted(160, 320, 1, 6)
        self.conv1 = nn.Sequential(nn.Conv2d(320, 1280, 1), nn.BatchNorm2d(1280), nn.ReLU6())
        self.conv2 = nn.Conv2d(1280, 7, 1)

    def forward(self, x):
        x = self.pre(x)
        for i in range(7):
            x = getattr(self, f"stage{i + 1}")(x)
        return self.conv2(F.adaptive_avg_pool2d(self.conv1(x), 1)).flatten(1)


FULL = {"widths": (64, 128, 256, 512), "shortcut": "shortcut", "classifier": "linear"}
PEERS = {
    **{f"resnet{depth}": lambda depth=depth: cifar(depth) for depth in (8, 14, 20, 26, 32, 56, 110)},
    **{f"resnet{depth}x4": lambda depth=depth: cifar(depth, 32, 64) for depth in (8, 32)},
    "resnet18": lambda: ResNet(64, depths=(2, 2, 2, 2), **FULL),
    "resnet50": lambda: ResNet(64, depths=(3, 4, 6, 3), kernels=(1, 3, 1), expansion=4, **FULL),
    **{f"wrn_{depth}_{width}": lambda d=depth, w=width: WideResNet(d, w) for depth in (16, 40) for width in (1, 2)},
    "vgg8": lambda: VGG(1),
    "vgg13": lambda: VGG(2),
    "mobilenetv2": MobileNetV2,
}


def trained(peer: nn.Module) -> nn.Module:
    """With statistics and weights of BatchNorm that differ from where they begin."""
    torch.manual_seed(0)
    for module in peer.modules():
        if isinstance(module, nn.BatchNorm2d):
            for tensor in (module.weight, module.bias, module.running_mean, module.running_var):
                tensor.data.uniform_(0.5, 1)
    return peer.eval()


QUICK = ("resnet8", "resnet8x4", "resnet18", "resnet50", "wrn_16_2", "vgg8", "mobilenetv2")


@pytest.mark.parametrize("name", [pytest.param(n, marks=[] if n in QUICK else pytest.mark.slow) for n in PEERS])
def test_a_network_of_other_names_computes_the_same_here(tmp_path, name):
    peer, path = trained(PEERS[name]()), tmp_path / "ckpt_epoch_240.pth"
    torch.save({"epoch": 240, "model": peer.state_dict(), "accuracy": torch.tensor(70.0)}, path)
    own = own_weights(path, network(name), CIFAR)
    ours = build_student(network(name), CIFAR).eval()
    load_weights(ours, own.state, path)
    images = torch.randn(2, 3, 32, 32)
    with torch.no_grad():
        torch.testing.assert_close(ours(images), peer(images), rtol=1e-4, atol=1e-5)
    assert len(own.notices) == 1, "whose names these are"


def test_a_network_that_computes_something_else_is_refused(tmp_path):
    """RepDistiller's VGG halves images of 64 pixels four times."""
    torch.save(VGG(1).state_dict(), tmp_path / "vgg.pth")
    assert own_weights(tmp_path / "vgg.pth", network("vgg8"), CIFAR).state
    with pytest.raises(CheckpointError, match="something else than vgg8 for images of 64 pixels"):
        own_weights(tmp_path / "vgg.pth", network("vgg8"), dataclasses.replace(CIFAR, image_size=64))
    for other in ("resnet50", "vgg13", "mobilenetv2"):
        with pytest.raises(CheckpointError, match=r"it fits vgg8$"):
            own_weights(tmp_path / "vgg.pth", network(other), CIFAR)


@pytest.fixture(autouse=True)
def few_networks(monkeypatch):
    """Those that a file is compared with when it does not fit."""
    monkeypatch.setattr(weights, "image_networks", lambda: ("resnet32x4", "vgg8"))


@pytest.fixture
def state() -> dict[str, torch.Tensor]:
    return build_student(MLP, DIGITS).state_dict()


def read(tmp_path, content, student=MLP):
    torch.save(content, tmp_path / "w.pt")
    return own_weights(tmp_path / "w.pt", student, DIGITS)


@pytest.mark.parametrize("part", [(), ("model_state_dict",), ("ema",), ("run", "their name")])
@pytest.mark.parametrize("prefix", ["", "module.", "model.net.", "module._orig_mod."])
def test_weights_are_found_in_what_others_save(tmp_path, state, part, prefix):
    saved = {prefix + name: tensor for name, tensor in state.items()}
    for key in reversed(part):
        saved = {"epoch": 3, "optimizer": {"state": {0: {"step": torch.ones(1)}}}, key: saved}
    own = read(tmp_path, saved)
    assert own.state.keys() == state.keys()
    assert all(torch.equal(own.state[name], state[name]) for name in state)
    assert own.notices == ()


def test_of_two_networks_the_one_that_is_meant_is_loaded_and_the_other_reported(tmp_path, state):
    other = {name: tensor + 1 for name, tensor in state.items()}
    both = {f"module.teacher.{name}": tensor for name, tensor in other.items()}
    both |= {f"module.student.{name}": tensor for name, tensor in state.items()}
    for content in (both, {"ema": other, "model": state}, {"model": both}, {"state_dict": state, "ema": other}):
        own = read(tmp_path, content)
        assert all(torch.equal(own.state[name], state[name]) for name in state)
        assert any("student" in notice or "model" in notice or "state_dict" in notice for notice in own.notices)
    extra = {f"module.{name}": tensor for name, tensor in state.items()}
    (notice,) = read(tmp_path, extra | {"n_averaged": torch.tensor(3)}).notices
    assert "1 other tensors are not: n_averaged" in notice
    with pytest.raises(CheckpointError, match="fits mlp twice: under first and under second"):
        read(tmp_path, {"first": state, "second": other})


def test_a_teacher_beside_a_student_of_another_network_is_found(tmp_path, state):
    content = {f"module.teacher.{name}": tensor for name, tensor in state.items()}
    content |= {f"module.student.{name}": torch.ones(1) for name in ("a", "b")}
    own = read(tmp_path, content)
    assert own.state.keys() == state.keys()
    assert "2 other tensors are not: module.student" in own.notices[0]


def test_names_that_are_wrappers_elsewhere_are_the_networks_own(tmp_path):
    """A prefix is dropped only where the rest fits then."""
    with pytest.raises(CheckpointError, match=r"unknown \(2\): net.weight \[2, 2\]; net.bias \[2\]"):
        read(tmp_path, {"net.weight": torch.ones(2, 2), "net.bias": torch.ones(2)})


KINDS = {
    "is int8": lambda t: (100 * t).to(torch.int8),
    "is bool": lambda t: t > 0,
    "is complex64": lambda t: t.to(torch.complex64),
    "is float8_e4m3fn": lambda t: t.to(torch.float8_e4m3fn),
    "is not dense (sparse_coo)": lambda t: t.to_sparse(),
    "is not dense (sparse_csr)": lambda t: t.to_sparse_csr(),
    "is quantised (qint8)": lambda t: torch.quantize_per_tensor(t, 0.1, 0, torch.qint8),
    "is on the meta device": lambda t: t.to("meta"),
}


@pytest.mark.filterwarnings("ignore:.*sparse.*|.*quantiz.*", "ignore:Sparse CSR", "ignore::DeprecationWarning")
@pytest.mark.parametrize("what", KINDS)
def test_tensors_that_are_no_weights_are_refused_by_name(tmp_path, state, what):
    state["classifier.weight"] = KINDS[what](state["classifier.weight"])
    with pytest.raises(CheckpointError) as refused:
        read(tmp_path, {"model": {f"module.{name}": tensor for name, tensor in state.items()}})
    assert f"module.classifier.weight {what}" in str(refused.value)
    assert "layer1" not in str(refused.value)


@pytest.mark.parametrize("dtype", [torch.float16, torch.bfloat16, torch.float64])
def test_other_floating_types_are_converted_and_that_is_reported(tmp_path, state, dtype):
    own = read(tmp_path, {name: tensor.to(dtype) for name, tensor in state.items()})
    assert own.notices == (f"{str(dtype).removeprefix('torch.')} is converted to float32",)
    ours = build_student(MLP, DIGITS)
    load_weights(ours, own.state, tmp_path)
    for name, tensor in ours.state_dict().items():
        assert torch.equal(tensor, state[name].to(dtype).float())


def test_what_is_not_loaded_may_be_anything(tmp_path, state):
    ours = {f"module.student.{name}": tensor for name, tensor in state.items()}
    others = {"module.teacher.a": torch.tensor([float("nan")]), "module.teacher.b": torch.ones(3, dtype=torch.int8)}
    assert len(read(tmp_path, ours | others).notices) == 1


def test_counters_of_batches_may_be_missing(tmp_path):
    state = trained(cifar(8)).state_dict()
    torch.save({name: tensor for name, tensor in state.items() if "num_batches" not in name}, tmp_path / "old.pth")
    assert len(own_weights(tmp_path / "old.pth", network("resnet8"), CIFAR).state) < len(state)


def test_differences_are_named_in_five_lines(tmp_path):
    torch.save({f"module.{name}": tensor for name, tensor in cifar(32, 32, 64).state_dict().items()}, tmp_path / "w.pt")
    with pytest.raises(CheckpointError) as refused:
        own_weights(tmp_path / "w.pt", network("resnet8x4"), dataclasses.replace(CIFAR, num_classes=9))
    first, *lines = str(refused.value).splitlines()
    assert "does not fit resnet8x4" in first
    assert [line.strip().split(" (")[0] for line in lines] == [
        "unknown",
        "of another shape",
        "it fits resnet32x4 of 7 classes",
    ]
    assert "module.fc.weight [7, 256], must be [9, 256]" in lines[1]
    with pytest.raises(CheckpointError) as refused:
        own_weights(tmp_path / "w.pt", network("wrn_16_2"), CIFAR)
    assert len(str(refused.value).splitlines()) <= 5
    assert "missing" in str(refused.value)


def test_a_runs_own_weights_must_fit_too(tmp_path, state):
    with pytest.raises(CheckpointError, match=r"missing \(2\): 0.weight \[2, 2\]; 0.bias \[2\]"):
        load_weights(nn.Sequential(nn.Linear(2, 2)), state, tmp_path / "w.pt")


def test_what_is_no_state_dict_is_refused(tmp_path):
    with pytest.raises(CheckpointError, match=r"w\.pt holds no state dict"):
        read(tmp_path, {"model": {}})


def test_hostile_content_is_refused_in_time(tmp_path, state):
    aliased = {}
    aliased.update({f"k{i}": aliased for i in range(2000)})
    huge = {name: torch.zeros(1).expand(10**6, 10**6) for name in state}
    prefixes = {".".join(["module"] * (i % 40)) + f".{i}": torch.ones(1) for i in range(5_000)}
    control = {"a\x1b[2J\n": torch.ones(1), "\ud800": torch.ones(1), "x" * 10**6: torch.ones(1)}
    for content in (aliased, huge, prefixes, control):
        with pytest.raises(CheckpointError) as refused:
            read(tmp_path, content)
        assert len(str(refused.value)) < 1500
        assert all(line.isprintable() for line in str(refused.value).splitlines())
        assert len(str(refused.value).splitlines()) <= 5


class WithState:
    """Pickles as what makes a dict or a tensor with attributes that shadow its methods."""

    def __init__(self, *reduced):
        self.reduced = reduced

    def __reduce__(self):
        return self.reduced


@pytest.mark.filterwarnings("error")
def test_attributes_that_a_file_sets_shadow_no_method(tmp_path, state):
    shadow = dict.fromkeys(("items", "keys", "values", "detach", "reshape", "to", "numel", "isfinite"), "text")
    named = [(name, WithState(_rebuild_parameter_with_state, (t, True, {}, shadow))) for name, t in state.items()]
    content = WithState(OrderedDict, (), shadow, None, iter(named))
    for whole in (content, WithState(OrderedDict, (), shadow, None, iter([("model", content)]))):
        own = read(tmp_path, whole)
        content.reduced = (*content.reduced[:-1], iter(named))
        assert all(torch.equal(own.state[name], state[name]) for name in state)
        load_weights(build_student(MLP, DIGITS), own.state, tmp_path)
    assert vars(torch.load(tmp_path / "w.pt")["model"])["items"] == "text", "the attack is a live one"
