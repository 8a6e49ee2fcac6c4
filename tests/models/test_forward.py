"""Every network for images on every kind of input: shapes, gradients, memory formats, taps, and refused arguments."""

import math

import pytest
import torch
import torch.nn.functional as F
from torch.testing import assert_close

from kdrun import models

NAMES = models.image_networks()
SIZED = ("cnn", "mlp")
LARGE = {"imagenet_densenet121": 32}
"""Sides of images that a network needs at least, where that is more than 8."""
FAMILIES = [
    *("resnet18", "resnet50", "wrn_16_1", "vgg8", "resnext29_8x64d"),
    *("mobilenetv2", "shufflenetv2", "densenet121", "googlenet"),
]
"""One network, without `image_size`, of each kind of block."""


def build(name, num_classes=10, in_channels=3, image_size=32, **options):
    torch.manual_seed(0)
    options |= {"image_size": image_size} if name in SIZED else {}
    return getattr(models, name)(num_classes, in_channels=in_channels, **options)


def images(*shape, dtype=torch.float32):
    return torch.randn(*shape, generator=torch.Generator().manual_seed(1), dtype=dtype)


@pytest.mark.parametrize("name", NAMES)
def test_every_weight_matters(name):
    side = LARGE.get(name, 16)
    network = build(name, image_size=side)
    logits = network(images(8, 3, side, side))
    assert logits.shape == (8, 10)
    F.cross_entropy(logits, torch.arange(8)).backward()
    for parameter_name, parameter in network.named_parameters():
        assert parameter.grad.isfinite().all(), parameter_name
        assert not parameter_name.endswith("weight") or parameter.grad.abs().max() > 0, parameter_name


@pytest.mark.parametrize("name", ["cnn", *(name for name in FAMILIES if name != "resnext29_8x64d")])
def test_channels_last_survives_to_the_end_and_does_not_change_the_result(name):
    results, last_map = [], {}
    for memory_format in (torch.contiguous_format, torch.channels_last):
        network = build(name, image_size=16).double().to(memory_format=memory_format)
        last = network.get_submodule("flatten" if name == "cnn" else "pool")
        last.register_forward_pre_hook(lambda _module, inputs: last_map.update(x=inputs[0]))
        x = images(4, 3, 16, 16, dtype=torch.float64).to(memory_format=memory_format).requires_grad_()
        torch.manual_seed(2)  # of dropout
        logits = network(x)
        F.cross_entropy(logits, torch.arange(4)).backward()
        results.append((logits.detach(), x.grad, network.get_submodule("classifier").weight.grad))
    for usual, channels_last in zip(*results, strict=True):
        assert_close(usual, channels_last, rtol=1e-7, atol=1e-9)
    assert last_map["x"].shape[2] > 1
    assert last_map["x"].is_contiguous(memory_format=torch.channels_last)


@pytest.mark.parametrize("name", NAMES)
def test_nothing_is_computed_in_place(name):
    side = LARGE.get(name, 8)
    network = build(name, 7, 1, image_size=side)
    seen = []

    def keep(_module, inputs, output):
        seen.extend((tensor, tensor.clone()) for tensor in (*inputs, output))

    for module in network.modules():
        module.register_forward_hook(keep)
    with torch.no_grad():
        assert network(images(2, 1, side, side)).shape == (2, 7)
    assert all(torch.equal(tensor, copy) for tensor, copy in seen)


@pytest.mark.parametrize("name", FAMILIES)
def test_common_taps(name):
    network = build(name).eval()
    names = [child_name for child_name, _ in network.named_children()]
    assert names[:2] == ["stem", "layer1"]
    assert names[-1] == "classifier"
    pooled = []
    network.get_submodule("pool").register_forward_hook(lambda _module, _inputs, output: pooled.append(output))
    with torch.no_grad():
        logits = network(images(2, 3, 9, 13))
    assert pooled[0].shape == (2, network.get_submodule("classifier").in_features)
    assert_close(network.get_submodule("classifier")(pooled[0]), logits)


@pytest.mark.parametrize("name", NAMES)
def test_refuses_numbers_of_classes_and_of_channels(name):
    for wrong in (1, True, 10.0, "10"):
        with pytest.raises(ValueError, match=r"num_classes=.*at least 2"):
            getattr(models, name)(wrong)
    with pytest.raises(ValueError, match=r"in_channels=0.*at least 1"):
        getattr(models, name)(10, in_channels=0)


@pytest.mark.parametrize(
    ("name", "options", "message"),
    [
        ("cnn", {"image_size": 7}, "image_size=7.*at least 8"),
        ("mlp", {"image_size": 7}, "image_size=7.*at least 8"),
        ("cnn", {"dropout": 1.0}, "dropout=1.0.*less than 1"),
        ("mlp", {"dropout": -0.1}, "dropout=-0.1.*at least 0"),
        ("mlp", {"input_dropout": math.nan}, "input_dropout=nan"),
        ("mlp", {"hidden": ()}, "hidden=.*at least one"),
        ("mlp", {"hidden": 800}, "hidden=800.*list"),
        ("mlp", {"hidden": "800"}, "hidden='800'.*list"),
        ("mlp", {"hidden": (800, 0)}, r"hidden\[1\]=0.*at least 1"),
        ("mlp", {"hidden": [True]}, r"hidden\[0\]=True"),
        ("mlp", {"hidden": [80.5]}, r"hidden\[0\]=80.5"),
    ],
)
def test_refuses_options(name, options, message):
    with pytest.raises(ValueError, match=message):
        getattr(models, name)(10, **options)
