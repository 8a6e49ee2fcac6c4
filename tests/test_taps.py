"""Taps: what modules return, under their names, and nothing left on the network."""

import copy

import pytest
import torch
import torchvision
from torch import nn

from kdrun import models
from kdrun.taps import outline, tapped

MAPS = {  # RepDistiller's `feat[1:-1]`, where it has the network
    "resnet18": ["layer1", "layer2", "layer3", "layer4"],
    "resnet20": ["layer1", "layer2", "layer3"],
    "cnn": ["layer1", "layer2", "layer3"],
    "mobilenetv2": ["layer1", "layer2", "layer3", "layer7"],
    "shufflenetv2": ["layer1", "layer2", "layer3"],
    "densenet121": ["layer1", "layer2", "layer3", "layer4"],
    "vgg8": ["layer1", "layer2", "layer3", "layer4"],
    "wrn_16_2": ["layer1", "layer2", "layer3"],
    "mlp": [],
}


def outline_of(name: str, size: int = 32):
    with torch.device("meta"):
        return outline(getattr(models, name)(10), (3, size, size), name)


@pytest.mark.parametrize("name", MAPS)
def test_taps_are_those_of_a_real_pass(name):
    """The stages are the numbered layers, and the vector is what the last layer takes."""
    network = getattr(models, name)(10).eval()
    described = outline_of(name)
    with torch.no_grad(), tapped(network, list(described.taps)) as seen:
        logits = network(torch.randn(3, 3, 32, 32))
        assert torch.equal(network.classifier(seen[described.vector]), logits)
    assert list(seen) == list(described.taps), "in the order of the forward pass"
    assert {tap: tuple(tensor.shape[1:]) for tap, tensor in seen.items()} == dict(described.taps)
    assert described.output == {"classifier"}
    assert described.parameters == {path: tuple(tensor.shape) for path, tensor in network.named_parameters()}
    assert described.maps == MAPS[name]


def test_a_network_within_a_network_has_the_taps_of_its_modules():
    class Wrapped(nn.Module):
        def __init__(self) -> None:
            super().__init__()
            self.inner = models.resnet20(10)

        def forward(self, x):
            return self.inner(x)

    with torch.device("meta"):
        described = outline(Wrapped(), (3, 32, 32))
    assert described.maps == ["inner.layer1", "inner.layer2", "inner.layer3"]
    assert (described.first_map, described.vector) == ("inner.stem", "inner.pool")


def test_stages_of_other_networks():
    """Those of torchvision end in a pooled map of 1 x 1, which is no stage; unnumbered, each size of map is one."""
    with torch.device("meta"):
        residual = outline(torchvision.models.resnet18(), (3, 64, 64))
        plain = nn.Sequential(nn.Conv2d(3, 4, 3), nn.ReLU(), nn.Conv2d(4, 6, 3, 2), nn.Flatten(), nn.Linear(1176, 5))
        unnumbered = outline(plain, (3, 32, 32))
    assert residual.taps["avgpool"] == (512, 1, 1)
    assert residual.maps == ["layer1", "layer2", "layer3", "layer4"]
    assert residual.first_map == "conv1"
    assert unnumbered.maps == ["1", "2"]


def test_an_unknown_tap_is_told_with_the_nearest_and_the_others():
    with pytest.raises(
        ValueError, match=r"'layer9': resnet20 has no such tap; did you mean layer3\? It has stem, layer1, "
    ):
        outline_of("resnet20").shape("layer9")
    with pytest.raises(
        ValueError, match=r"'q': cnn has no such tap; it has layer1, .* kdrun show taps student=NAME --all$"
    ):
        outline_of("cnn").shape("q")
    with torch.device("meta"):
        without = outline(nn.Sequential(nn.Flatten(1, 2), nn.Conv1d(96, 4, 3)), (3, 32, 32), "bare")
    with pytest.raises(ValueError, match="bare has no tap of one vector per image"):
        _ = without.vector


def test_taps_leave_nothing_on_the_network_even_after_a_failure():
    network = models.cnn(10, image_size=8)
    with pytest.raises(RuntimeError), tapped(network, ["layer1", "layer2.conv"]) as seen:
        network(torch.randn(2, 3, 5, 5))
    with tapped(network, ["hidden"]) as seen:
        network(torch.randn(2, 3, 8, 8)).sum().backward()
    assert seen["hidden"].requires_grad, "the student's take part in backward"
    assert not any(module._forward_hooks for module in network.modules())
    copy.deepcopy(network)  # as evaluation does: no tensor of a graph is left on it
