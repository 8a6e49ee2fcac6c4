"""What makes each network the one that was released: layouts, layer order, initialisation, recomputed outputs."""

import math

import pytest
import torch
import torch.nn.functional as F
from torch import nn
from torch.testing import assert_close

from kdrun import models
from kdrun.models.shufflenet import concat_shuffled

# Side of the square feature maps after stem, layer1, layer2, ... at 32x32, and the channels there.
FEATURE_MAPS = {
    "cnn": [(32, 16), (64, 8), (128, 4)],
    "resnet18": [(64, 32), (64, 32), (128, 16), (256, 8), (512, 4)],
    "resnet50": [(64, 32), (256, 32), (512, 16), (1024, 8), (2048, 4)],
    "resnet20": [(16, 32), (16, 32), (32, 16), (64, 8)],
    "resnext29_8x64d": [(64, 32), (256, 32), (512, 16), (1024, 8)],
    "mobilenetv2": [(32, 34), (16, 34), (24, 17), (32, 9), (64, 5), (96, 5), (160, 5), (320, 5), (1280, 5)],
    "shufflenetv2": [(24, 32), (116, 16), (232, 8), (464, 4), (1024, 4)],
    "densenet121": [(64, 32), (256, 32), (512, 16), (1024, 8), (1024, 4), (1024, 4)],
    "googlenet": [(192, 32), (480, 32), (832, 16), (1024, 8)],
}


@pytest.fixture(autouse=True)
def _seed():
    torch.manual_seed(0)


def children(module):
    return [type(child).__name__ for child in module.children()]


@pytest.mark.parametrize("name", FEATURE_MAPS)
def test_feature_maps(name):
    with torch.device("meta"):
        network = getattr(models, name)(10).eval()
        x, maps = torch.empty(1, 3, 32, 32), []
        for child_name, child in network.named_children():
            x = child(x)
            if child_name.startswith(("stem", "layer", "head")):
                maps.append((x.shape[1], x.shape[2]))
    assert maps == FEATURE_MAPS[name]


def test_cnn_pools_before_relu():
    network = models.cnn(10)
    for layer in (network.layer1, network.layer2, network.layer3):
        assert children(layer) == ["Conv2d", "BatchNorm2d", "MaxPool2d", "ReLU"]
    assert children(network.hidden) == ["Linear", "BatchNorm1d", "ReLU", "Dropout"]
    assert network.hidden.fc.in_features == 2048
    assert network.hidden.dropout.p == 0.5


def test_mobilenet_stem_sees_a_border_of_zeros():
    stem = models.mobilenetv2(10).stem
    assert (stem.conv.kernel_size, stem.conv.padding) == ((1, 1), (1, 1))
    border = stem.conv(torch.randn(1, 3, 8, 8))[0, :, 0, :]
    assert_close(border, stem.conv.bias[:, None].expand_as(border))


def test_mobilenet_adds_its_input_only_where_shapes_agree():
    network = models.mobilenetv2(10)
    skips = [[block.skip for block in network.get_submodule(f"layer{i}")] for i in range(1, 8)]
    num_blocks = [1, 2, 3, 4, 3, 3, 1]
    assert skips == [[False] + (blocks - 1) * [True] for blocks in num_blocks]


def test_shufflenets_stem_and_densenets_transitions_have_no_relu():
    assert children(models.shufflenetv2(10).stem) == ["Conv2d", "BatchNorm2d"]
    network = models.densenet121(10)
    for layer in (network.layer2, network.layer3, network.layer4):
        assert children(layer.transition) == ["BatchNorm2d", "Conv2d", "AvgPool2d"]
    dense = [[type(child).__name__ for child in layer].count("DenseLayer") for layer in network[1:5]]
    assert dense == [6, 12, 24, 16]


def test_googlenet_keeps_the_released_eps():
    network = models.googlenet(10)
    unusual = {name: m.eps for name, m in network.named_modules() if isinstance(m, nn.BatchNorm2d) and m.eps != 1e-5}
    assert len(unusual) == 9
    assert all(name.endswith("branch5x5.1.bn") for name in unusual)
    assert sorted(unusual.values()) == [32, 48, 64, 64, 64, 96, 128, 128, 128]
    assert network.dropout.p == 0.4


def test_bottlenecks_stride_on_the_3x3():
    with torch.device("meta"):
        networks = (models.resnet50(10), models.resnext29_8x64d(10))
    for network in networks:
        reduce, middle, expand = network.layer2[0].branch
        assert [block.conv.stride for block in (reduce, middle, expand)] == [(1, 1), (2, 2), (1, 1)]
        assert middle.conv.kernel_size == (3, 3)
    assert middle.conv.groups == 8
    assert [layer[0].branch[1].conv.in_channels for layer in network[1:4]] == [512, 1024, 2048]


@pytest.mark.parametrize("name", ["resnet56", "resnext29_8x64d"])
def test_kaiming_fan_out(name):
    network = getattr(models, name)(100)
    num_checked = 0
    for module in network.modules():
        if isinstance(module, nn.Conv2d) and module.weight.numel() > 5000:
            expected = math.sqrt(2 / (module.out_channels * module.kernel_size[0] ** 2))
            assert module.weight.std().item() == pytest.approx(expected, rel=0.06)
            num_checked += 1
    assert num_checked > 20
    if name == "resnext29_8x64d":
        assert network.classifier.weight.std().item() == pytest.approx(math.sqrt(2 / 1024), rel=0.02)
        assert not network.classifier.bias.any()


@pytest.mark.parametrize("channels_last", [False, True])
def test_concat_shuffled_is_concatenation_and_channel_shuffle(channels_last):
    memory_format = torch.channels_last if channels_last else torch.contiguous_format
    whole = torch.randn(2, 10, 3, 4).to(memory_format=memory_format)
    left, right = whole[:, :5], torch.randn(2, 5, 3, 4).to(memory_format=memory_format)
    shuffled = concat_shuffled(left, right)
    expected = torch.cat((left, right), 1).reshape(2, 2, 5, 3, 4).transpose(1, 2).reshape(2, 10, 3, 4)
    assert torch.equal(shuffled, expected)
    assert shuffled.is_contiguous(memory_format=memory_format)


def test_resnet18_recomputed_from_its_state():
    network = models.resnet18(10).double()
    x = torch.randn(4, 3, 16, 16, dtype=torch.float64)
    for _ in range(3):
        network(x)  # BatchNorm statistics that are not 0 and 1
    state, y = network.eval().state_dict(), x

    def conv_bn(y, name, stride=1):
        weight = state[f"{name}.conv.weight"]
        y = F.conv2d(y, weight, stride=stride, padding=weight.shape[-1] // 2)
        mean, var, gamma, beta = (
            state[f"{name}.bn.{key}"][:, None, None] for key in ("running_mean", "running_var", "weight", "bias")
        )
        return (y - mean) / (var + 1e-5).sqrt() * gamma + beta

    y = conv_bn(y, "stem").clamp(min=0)
    for stage in (1, 2, 3, 4):
        for block in (0, 1):
            name, stride = f"layer{stage}.{block}", 2 if stage > 1 and block == 0 else 1
            branch = conv_bn(conv_bn(y, f"{name}.branch.0", stride).clamp(min=0), f"{name}.branch.1")
            shortcut = conv_bn(y, f"{name}.shortcut", stride) if stride == 2 else y
            y = (branch + shortcut).clamp(min=0)
    logits = y.flatten(2).mean(2) @ state["classifier.weight"].T + state["classifier.bias"]
    assert_close(network(x), logits, rtol=1e-9, atol=1e-9)


def test_mlp_drops_pixels_and_hidden_units_at_their_rates():
    network = models.mlp(10, in_channels=1, image_size=32, hidden=(500,), dropout=0.5, input_dropout=0.2)
    x = torch.ones(64, 1, 32, 32)
    pixels = network.input_dropout(network.flatten(x))
    assert (pixels == 0).float().mean().item() == pytest.approx(0.2, abs=0.01)
    assert pixels.max().item() == pytest.approx(1 / 0.8)
    nn.init.ones_(network.layer1.fc.weight)
    assert (network.layer1(pixels) == 0).float().mean().item() == pytest.approx(0.5, abs=0.02)


@pytest.mark.parametrize("batch_norm", [False, True])
def test_mlp_recomputed_from_its_state(batch_norm):
    options = {"hidden": [20, 30], "dropout": 0.1, "input_dropout": 0.2, "batch_norm": batch_norm}
    network = models.mlp(10, in_channels=1, image_size=8, **options).double()
    assert children(network.layer1) == ["Linear", "ReLU", *(["BatchNorm1d"] if batch_norm else []), "Dropout"]
    x = torch.randn(5, 1, 8, 8, dtype=torch.float64)
    for _ in range(3):
        network(x)  # BatchNorm statistics that are not 0 and 1
    network.eval()
    y = x.reshape(5, 64)
    for layer in (network.layer1, network.layer2):
        y = (y @ layer.fc.weight.T + layer.fc.bias).relu()
        if batch_norm:
            y = (y - layer.bn.running_mean) / (layer.bn.running_var + 1e-5).sqrt() * layer.bn.weight + layer.bn.bias
    assert_close(network(x), y @ network.classifier.weight.T + network.classifier.bias)
