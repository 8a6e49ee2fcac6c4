"""Taps of compiled students, and what is left behind: torch uses a graph again for every network of the same code."""

import copy
import gc
import weakref

import pytest
import torch
from torch import nn
from torch.testing import assert_close

from kdrun.models import cnn
from kdrun.taps import tapped
from kdrun.training import step
from kdrun.training.step import compile_network

TAPS = ((), ("layer1", "hidden"), ("layer1", "hidden"), ("layer2", "layer3"), ())
"""Of networks of one architecture, in the order in which they are compiled: of a teacher none."""


pytestmark = pytest.mark.usefixtures("fresh_compiler")


def answer(network: nn.Module, taps: tuple[str, ...], x: torch.Tensor) -> dict[str, torch.Tensor]:
    """Logits, features, and the gradients of a loss of all of them."""
    network.zero_grad()
    with tapped(network, taps) as features:
        logits = network(x)
    assert tuple(features) == taps
    sum(tensor.square().mean() for tensor in (logits, *features.values())).backward()
    gradients = {name: parameter.grad.clone() for name, parameter in network.named_parameters()}
    return {"logits": logits.detach(), **{tap: found.detach() for tap, found in features.items()}, **gradients}


def check_against_uncompiled(*, rtol: float, atol: float) -> None:
    torch.manual_seed(0)
    x = torch.randn(2, 6, 1, 8, 8)
    networks = [cnn(num_classes=4, in_channels=1, image_size=8, dropout=0.0) for _ in TAPS]
    plain = copy.deepcopy(networks)
    for network in networks:
        compile_network(network)
    for part in (*x, x[0, :3]):
        stance = "default" if len(part) == 6 else "force_eager"  # a smaller batch, in the midst of compiled ones
        for network, other, taps in zip(networks, plain, TAPS, strict=True):
            with torch.compiler.set_stance(stance):
                found = answer(network, taps, part)
            expected = answer(other, taps, part)
            for name, tensor in expected.items():
                assert_close(found[name], tensor, rtol=rtol, atol=atol, msg=lambda text, name=name: f"{name}: {text}")
    assert torch._dynamo.utils.counters["stats"]["unique_graphs"] == len(set(TAPS)), "one for all with the same taps"


def test_compiled_networks_of_one_architecture_have_their_own_taps(monkeypatch):
    monkeypatch.setattr(step, "COMPILER", {"backend": "aot_eager"})
    check_against_uncompiled(rtol=0, atol=0)


@pytest.mark.slow
def test_features_and_gradients_of_inductor_are_those_of_uncompiled_networks():
    check_against_uncompiled(rtol=1e-4, atol=2e-5)  # other orders of summation in float32


def test_more_networks_are_compiled_than_torch_does_by_itself(monkeypatch):
    """Beyond 8 graphs of the same code it would compute uncompiled, with other bits."""
    monkeypatch.setattr(step, "COMPILER", {"backend": "eager"})
    for width in range(1, 11):
        network = nn.Sequential(nn.Linear(3, width))
        compile_network(network)
        network(torch.zeros(2, 3))
    assert torch._dynamo.utils.counters["frames"]["ok"] == 10


def test_a_compiled_step_leaves_neither_hooks_nor_features(monkeypatch):
    monkeypatch.setattr(step, "COMPILER", {"backend": "aot_eager"})
    network = cnn(num_classes=4, in_channels=1, image_size=8)
    keys = list(network.state_dict())
    compile_network(network)
    with tapped(network, ["layer1"]) as features:
        network(torch.randn(2, 1, 8, 8)).sum().backward()
    feature = weakref.ref(features["layer1"])
    assert feature() is not None
    del features
    gc.collect()
    assert feature() is None
    assert list(network.state_dict()) == keys
    for each in (network, copy.deepcopy(network)):
        assert not any(module._forward_hooks for module in each.modules())
