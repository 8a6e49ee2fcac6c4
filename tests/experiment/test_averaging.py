"""The moving average of weights: against its closed form, torch's AveragedModel, and in whole runs."""

import copy
import dataclasses

import pytest
import torch
from safetensors.torch import load_file
from torch import nn
from torch.optim.swa_utils import AveragedModel, get_ema_multi_avg_fn

from kdrun.methods import CE, DML, Pair
from kdrun.store import checkpoint
from kdrun.taps import Outline
from kdrun.training.averaging import average_weights, averaged

DECAY = 0.9


def network() -> nn.Sequential:
    return nn.Sequential(nn.Linear(4, 3), nn.BatchNorm1d(3))


def trained(method, steps: int):
    """Steps of SGD on random batches, with the average begun before the first; yields after each."""
    optimizer = torch.optim.SGD(method.parameters(), lr=0.1)
    average_weights(method, optimizer, DECAY)
    for step in range(steps):
        x = torch.randn(8, 4, generator=torch.Generator().manual_seed(step))
        optimizer.zero_grad()
        method.student(x).square().sum().backward()
        optimizer.step()
        yield step


def test_the_average_is_the_closed_form_with_its_buffers():
    torch.manual_seed(0)
    method = CE(network())
    history = [copy.deepcopy(method.student.state_dict())]
    reference = AveragedModel(method.student, multi_avg_fn=get_ema_multi_avg_fn(DECAY), use_buffers=True)
    reference.n_averaged += 1  # its average begins at the first update, ours before the first step
    for _ in trained(method, 5):
        history.append(copy.deepcopy(method.student.state_dict()))
        reference.update_parameters(method.student)
    weights = [DECAY**5, *((1 - DECAY) * DECAY ** (5 - step) for step in range(1, 6))]
    with averaged(method):
        found = copy.deepcopy(method.student.state_dict())
    for name, tensor in found.items():
        if tensor.is_floating_point():
            expected = sum(weight * state[name].double() for weight, state in zip(weights, history, strict=True))
            torch.testing.assert_close(tensor.double(), expected, rtol=1e-5, atol=1e-6)
            torch.testing.assert_close(tensor, reference.module.state_dict()[name], rtol=1e-5, atol=1e-6)
            assert not torch.equal(tensor, history[-1][name])
        else:
            assert tensor == 5, "a counter is no average"
    for name, tensor in method.student.state_dict().items():
        assert torch.equal(tensor, history[-1][name]), "the weights themselves are back, bit for bit"


def test_peers_have_averages_too():
    method = DML(network(), Pair(Outline(), Outline(), network), num_networks=2)
    before = copy.deepcopy(method.others.state_dict())
    for _ in trained(method, 1):
        with torch.no_grad():
            method.others[0][0].weight.add_(1.0)
    method.weight_average.update()
    with averaged(method):
        moved = method.others.state_dict()["0.0.weight"] - before["0.0.weight"]
    torch.testing.assert_close(moved, torch.full_like(moved, 0.1))
    assert not any(name.startswith("weight_average") for name, _ in method.named_parameters())


@pytest.fixture
def averaging(lab):
    return dataclasses.replace(lab, recipe=dataclasses.replace(lab.recipe, ema_decay=DECAY))


def test_the_average_is_what_is_evaluated_and_delivered(averaging, lab):
    outcome, plain = averaging.execute(averaging.plain("cnn")), lab.execute(lab.plain("cnn"), "plain")
    state = checkpoint.load(outcome.run.last_checkpoint, "cpu")["method"]
    delivered = load_file(outcome.run.weights)
    for name, tensor in load_file(plain.run.weights).items():
        raw = state[f"student.{name}"]
        assert torch.equal(raw, tensor), "the training itself is the same"
        if raw.is_floating_point():
            assert torch.equal(delivered[name], state[f"weight_average.student/{name.replace('.', '/')}"])
            assert not torch.equal(delivered[name], raw)
    assert outcome.result["test"]["last"]["nll"] != plain.result["test"]["last"]["nll"]
    assert outcome.result["student"]["params"] == plain.result["student"]["params"]
    outcome.run.weights.unlink()
    content = averaging.execute(averaging.plain("cnn")).run.weights.read_bytes()
    assert load_file(outcome.run.weights).keys() == delivered.keys()
    assert all(torch.equal(tensor, delivered[name]) for name, tensor in load_file(outcome.run.weights).items())
    assert content == outcome.run.weights.read_bytes()
