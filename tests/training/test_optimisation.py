"""The learning rate of every step, and one and two steps of each optimiser by hand arithmetic."""

import copy
import math

import numpy as np
import pytest
import torch
from torch import nn
from torch.testing import assert_close

from kdrun.experiment.stages import optimizer_for, schedule_for
from kdrun.spec.spec import Recipe
from kdrun.training.optimisation import CosineSchedule, MultiStepSchedule, bound_norms, build_optimizer

STEPS = 391  # an epoch of CIFAR's 50,000 images in batches of 128
EPOCHS = 200


@pytest.fixture
def method() -> nn.Module:
    torch.manual_seed(0)
    return nn.Sequential(nn.Linear(3, 2), nn.BatchNorm1d(2)).double()


def test_default_recipe_is_the_papers_schedule():
    """Yuan et al. 2020: 0.1, divided by 5 at epochs 60, 120 and 160 of 200; the released code warms up for one."""
    schedule = schedule_for(Recipe(), STEPS)
    published = [0.1] * 60 + [0.02] * 60 + [0.004] * 40 + [0.0008] * 40
    assert len(published) == EPOCHS
    ramp = [0.1 * (step + 1) / STEPS for step in range(STEPS)]
    expected = ramp + [published[step // STEPS] for step in range(STEPS, EPOCHS * STEPS)]
    rates = [schedule(step) for step in range(EPOCHS * STEPS)]
    assert_close(torch.tensor(rates), torch.tensor(expected), rtol=1e-6, atol=0)


def test_schedule_is_torchs_multistep_after_the_warm_up(method):
    optimizer = torch.optim.SGD(method.parameters(), lr=0.1)
    reference = torch.optim.lr_scheduler.MultiStepLR(optimizer, milestones=[3, 7, 9], gamma=0.3)
    schedule = MultiStepSchedule(lr=0.1, total_steps=100, warmup_steps=10, milestones=(0.3, 0.7, 0.9), gamma=0.3)
    for epoch in range(10):
        rates = {schedule(step) for step in range(10 * epoch, 10 * (epoch + 1))}
        expected = optimizer.param_groups[0]["lr"]
        assert max(rates) == pytest.approx(expected, rel=1e-12)
        assert len(rates) == (10 if epoch == 0 else 1)
        optimizer.step()
        reference.step()


def test_milestones_and_warm_up_fall_on_whole_epochs_for_any_share():
    """0.55 * 20 epochs * 23 steps is 253.00000000000003 in floating point; the drop still comes at step 253."""
    for epochs in (20, 60, 100, 200, 240):
        for steps in (7, 23, 391, 1407):
            for share in (0.3, 0.55, 0.6, 0.8):
                schedule = MultiStepSchedule(lr=1.0, total_steps=epochs * steps, milestones=(share,), gamma=0.5)
                boundary = round(share * epochs) * steps
                assert (schedule(boundary - 1), schedule(boundary)) == (1.0, 0.5)


def test_cosine_schedule_is_torchs_after_a_linear_warm_up(method):
    optimizer = torch.optim.SGD(method.parameters(), lr=0.3)
    reference = torch.optim.lr_scheduler.CosineAnnealingLR(optimizer, T_max=40)
    recipe = Recipe(epochs=5, lr=0.3, warmup_epochs=1, schedule="cosine", milestones=(0.5,), gamma=0.1)
    schedule = schedule_for(recipe, 10)
    assert [schedule(step) for step in range(10)] == pytest.approx([0.03 * (step + 1) for step in range(10)])
    for step in range(10, 50):
        assert schedule(step) == pytest.approx(optimizer.param_groups[0]["lr"], rel=1e-9)
        optimizer.step()
        reference.step()
    assert [schedule(step) for step in (10, 30, 50)] == pytest.approx([0.3, 0.15, 0.0], abs=1e-12)
    assert CosineSchedule(lr=0.3, total_steps=4)(1) == pytest.approx(0.15 * (1 + math.sqrt(0.5)))
    assert CosineSchedule(lr=1.0, total_steps=2, warmup_steps=2)(1) == 1.0, "nothing but warm-up"


@pytest.mark.parametrize(
    ("change", "lr"),
    [
        ({}, 0.1),
        ({"batch_size": 64}, 0.05),  # the paper's ResNet50, ResNeXt29 and GoogLeNet
        ({"batch_size": 100}, 0.078125),  # and DenseNet121; its params.json says 0.078
        ({"batch_size": 512, "lr": 0.1, "lr_batch_size": 256}, 0.2),  # ImageNet
        ({"batch_size": 64, "lr_batch_size": None}, 0.1),
    ],
)
def test_learning_rate_follows_the_batch_size(change, lr):
    schedule = schedule_for(Recipe(**change), STEPS)
    assert schedule(STEPS) == pytest.approx(lr, rel=1e-12)
    assert schedule(0) == pytest.approx(lr / STEPS, rel=1e-12)


def take_steps(method: nn.Module, optimizer: torch.optim.Optimizer, steps: int) -> list[list[list[float]]]:
    """Steps with the gradients 1, 2, 3, ...; every parameter after each step, as flat lists."""
    history = []
    for step in range(steps):
        for parameter in method.parameters():
            parameter.grad = torch.full_like(parameter, float(step + 1))
        optimizer.step()
        history.append([parameter.flatten().tolist() for parameter in method.parameters()])
    return history


@pytest.mark.parametrize("nesterov", [False, True])
def test_sgd_decays_every_parameter_and_keeps_momentum(method, nesterov):
    lr, momentum, decay = 0.1, 0.9, 0.05
    before = [parameter.flatten().tolist() for parameter in method.parameters()]
    assert len(before) == 4, "weights, biases and BatchNorm's two"
    optimizer = build_optimizer(
        "sgd", method.parameters(), lr=lr, momentum=momentum, nesterov=nesterov, weight_decay=decay
    )
    history = take_steps(method, optimizer, 2)
    for i, start in enumerate(before):
        for j, p in enumerate(start):
            velocity = 0.0
            for step in range(2):
                gradient = step + 1 + decay * p
                velocity = momentum * velocity + gradient
                p -= lr * (gradient + momentum * velocity if nesterov else velocity)
                assert history[step][i][j] == pytest.approx(p, rel=1e-12)


def test_adam_takes_momentum_as_beta1_and_adds_the_decay_to_the_gradient(method):
    lr, beta1, beta2, decay = 0.01, 0.8, 0.999, 0.05
    before = [parameter.flatten().tolist() for parameter in method.parameters()]
    optimizer = build_optimizer("adam", method.parameters(), lr=lr, momentum=beta1, nesterov=False, weight_decay=decay)
    history = take_steps(method, optimizer, 3)
    for i, start in enumerate(before):
        for j, p in enumerate(start):
            first = second = 0.0
            for step in range(3):
                gradient = step + 1 + decay * p
                first = beta1 * first + (1 - beta1) * gradient
                second = beta2 * second + (1 - beta2) * gradient**2
                corrected = first / (1 - beta1 ** (step + 1)), second / (1 - beta2 ** (step + 1))
                p -= lr * corrected[0] / (math.sqrt(corrected[1]) + 1e-8)
                assert history[step][i][j] == pytest.approx(p, rel=1e-9)


@pytest.mark.gpu
@pytest.mark.skipif(not torch.cuda.is_available(), reason="needs a CUDA device")
def test_a_step_on_the_gpu_is_the_same(method):
    twin = nn.Sequential(nn.Linear(3, 2), nn.BatchNorm1d(2)).double()
    twin.load_state_dict(method.state_dict())
    for module in (method, twin.cuda()):
        optimizer = build_optimizer("sgd", module.parameters(), lr=0.1, momentum=0.9, nesterov=False, weight_decay=0.05)
        take_steps(module, optimizer, 2)
    for here, there in zip(method.parameters(), twin.parameters(), strict=True):
        assert_close(there.cpu(), here, rtol=1e-12, atol=1e-12)


@pytest.mark.parametrize("name", ["sgd", "adam"])
def test_no_units_incoming_weights_get_longer_than_the_bound(name):
    torch.manual_seed(0)
    model = nn.Sequential(nn.Conv2d(2, 3, 3), nn.Flatten(), nn.Linear(3, 4))
    free = copy.deepcopy(model)
    optimizers = [
        build_optimizer(name, network.parameters(), lr=0.5, momentum=0.0, nesterov=False, weight_decay=0.0)
        for network in (model, free)
    ]
    bound_norms(optimizers[0], 0.6)
    for network, optimizer in zip((model, free), optimizers, strict=True):
        network(torch.ones(1, 2, 3, 3)).square().sum().backward()
        optimizer.step()
    bounded = 0
    for ours, plain in zip(model.parameters(), free.parameters(), strict=True):
        expected = plain.detach().numpy().copy()
        if ours.ndim >= 2:
            for row in expected:
                norm = np.sqrt((row.astype(np.float64) ** 2).sum())
                bounded += norm > 0.6
                row *= min(1.0, 0.6 / norm)
        np.testing.assert_allclose(ours.detach().numpy(), expected, rtol=1e-6)
    assert bounded >= 2


@pytest.mark.parametrize(("clip_norm", "factor"), [(2.0, 0.2), (10.0, 1.0), (20.0, 1.0), (None, 1.0)])
def test_gradients_are_scaled_together_to_the_norm(clip_norm, factor):
    """Of two parameters with gradients (6, 0) and (0, 8): 10 in all; the decay of the weights comes after it."""
    weights = [nn.Parameter(torch.ones(2)) for _ in range(2)]
    recipe = Recipe(lr=0.5, lr_batch_size=None, momentum=0.0, weight_decay=0.1, warmup_epochs=0, clip_norm=clip_norm)
    optimizer = optimizer_for(recipe, weights)
    for weight, gradient in zip(weights, ([6.0, 0.0], [0.0, 8.0]), strict=True):
        weight.grad = torch.tensor(gradient)
    optimizer.step()
    for weight, gradient in zip(weights, ([6.0, 0.0], [0.0, 8.0]), strict=True):
        clipped = factor * np.array(gradient)
        np.testing.assert_allclose(weight.grad.numpy(), clipped, rtol=1e-6)
        np.testing.assert_allclose(weight.detach().numpy(), 1 - 0.5 * (clipped + 0.1), rtol=1e-6)


@pytest.mark.parametrize("name", ["sgd", "adam", "adamw"])
@pytest.mark.parametrize("everywhere", [True, False])
def test_decay_of_norms_and_biases_is_that_of_torch_on_groups(name, everywhere):
    """The parameters of one dimension in a group of their own, with or without the decay."""
    torch.manual_seed(0)
    model = nn.Sequential(nn.Conv2d(2, 3, 3), nn.BatchNorm2d(3), nn.Flatten(), nn.Linear(3, 4), nn.LayerNorm(4))
    twin = copy.deepcopy(model)
    options = {"lr": 0.1, "momentum": 0.9, "nesterov": False, "weight_decay": 0.05}
    ours = build_optimizer(name, model.parameters(), **options, decay_norm_and_bias=everywhere)
    bare = [module for module in twin.modules() if isinstance(module, nn.BatchNorm2d | nn.LayerNorm)]
    norms = {id(parameter) for module in bare for parameter in module.parameters()}
    biases = {id(parameter) for key, parameter in twin.named_parameters() if key.endswith("bias")}
    free = [parameter for parameter in twin.parameters() if id(parameter) in norms | biases]
    rest = [parameter for parameter in twin.parameters() if id(parameter) not in norms | biases]
    momentum = {"momentum": 0.9} if name == "sgd" else {"betas": (0.9, 0.999)}
    decay = 0.05 if everywhere else 0.0
    groups = [{"params": rest, "weight_decay": 0.05}, {"params": free, "weight_decay": decay}]
    kinds = {"sgd": torch.optim.SGD, "adam": torch.optim.Adam, "adamw": torch.optim.AdamW}
    theirs = kinds[name](groups, lr=0.1, **momentum)
    for step in range(3):
        for network in (model, twin):
            generator = torch.Generator().manual_seed(step)
            for parameter in network.parameters():
                parameter.grad = torch.randn(parameter.shape, generator=generator)
        ours.step()
        theirs.step()
    for here, there in zip(model.parameters(), twin.parameters(), strict=True):
        assert_close(here, there, rtol=1e-6, atol=1e-7)


def test_a_cosine_ends_at_the_lowest_learning_rate():
    recipe = Recipe(epochs=10, schedule="cosine", min_lr=0.02, warmup_epochs=2)
    schedule = schedule_for(recipe, STEPS)
    assert schedule(2 * STEPS) == pytest.approx(0.1)
    assert schedule(6 * STEPS) == pytest.approx(0.06)
    assert schedule(10 * STEPS) == pytest.approx(0.02)
    assert schedule(0) == pytest.approx(0.1 / (2 * STEPS)), "the warm-up begins below it"
