"""Planned gradients of convolutions are the gradients, inside torch.compile too; plans are found and remembered."""

import copy
import json
import logging

import pytest
import torch
from torch import nn
from torch._dynamo.backends.common import aot_autograd
from torch._functorch.aot_autograd import make_boxed_func

import kdrun.training.convolution
from kdrun.training import convolution_tuning
from kdrun.training.convolution import ALGORITHMS, Layer, apply_plan, plan_key
from kdrun.training.convolution_tuning import load_known, save_known, tune

SIZE = (4, 8, 9, 10)


def bf16(enabled: bool = True) -> torch.autocast:
    return torch.autocast("cpu", dtype=torch.bfloat16, enabled=enabled)


def images(*size: int) -> torch.Tensor:
    x = torch.randn(size, generator=torch.Generator().manual_seed(1))
    return x.to(memory_format=torch.channels_last).requires_grad_()


def convolution(channels: int = 8, filters: int = 16, **options) -> nn.Conv2d:
    torch.manual_seed(0)
    return nn.Conv2d(channels, filters, **options).to(memory_format=torch.channels_last)


def planned(module: nn.Conv2d, size: tuple[int, ...] = SIZE, **algorithms: str) -> nn.Conv2d:
    apply_plan(module, {plan_key(gradient, size, Layer.of(module)): name for gradient, name in algorithms.items()})
    return module


def gradients(module: nn.Module, x: torch.Tensor) -> list[torch.Tensor]:
    """Output; gradients of the input and of the parameters, of a sum with weights that differ from place to place."""
    with bf16():
        y = module(x)
    wanted = [x, *module.parameters()]
    return [y, *torch.autograd.grad((y.float() * torch.linspace(-1, 1, y.numel()).view_as(y)).sum(), wanted)]


def is_planned(y: torch.Tensor) -> bool:
    return y.grad_fn.name() == "_ConvolutionBackward"


LAYERS = [
    {"kernel_size": 3, "padding": 1},
    {"kernel_size": 3, "stride": 2, "padding": 1},
    {"kernel_size": 3, "stride": 2, "padding": 1, "groups": 8, "bias": False},
    {"kernel_size": 1, "stride": 2},
    {"kernel_size": 1, "padding": 1, "bias": False},
    {"kernel_size": (4, 3), "stride": (3, 2), "padding": (0, 2)},
    {"kernel_size": 5, "stride": (1, 2), "groups": 4},
]
CASES = [
    (options, {gradient: name})
    for options in LAYERS
    for gradient in ALGORITHMS
    for name in Layer.of(nn.Conv2d(8, 16, **options)).candidates(gradient)
    if name != "native"
]


@pytest.mark.parametrize(("options", "algorithm"), CASES, ids=str)
def test_a_planned_gradient_is_that_of_the_formula(options, algorithm):
    module, x = planned(convolution(**options), **algorithm), images(*SIZE)
    results = gradients(module, x)
    assert is_planned(results[0])

    exact = nn.Conv2d(8, 16, **options).double()
    exact.load_state_dict({name: value.bfloat16().double() for name, value in module.state_dict().items()})
    x = x.detach().bfloat16().double().requires_grad_()
    dy = torch.linspace(-1, 1, results[0].numel()).view_as(results[0]).bfloat16().double()
    expected = torch.autograd.grad((exact(x) * dy).sum(), [x, *exact.parameters()])
    for got, want in zip(results[1:], expected, strict=True):
        assert got.dtype == torch.float32
        assert (got - want).norm() / want.norm() < 2**-8  # half a unit in the last place of bf16, at most


def test_every_algorithm_is_tried_here():
    tried = {(gradient, name) for _, algorithm in CASES for gradient, name in algorithm.items()}
    assert tried == {(gradient, name) for gradient, names in ALGORITHMS.items() for name in names[1:]}


def small_net() -> nn.Sequential:
    torch.manual_seed(0)
    net = nn.Sequential(
        nn.Conv2d(3, 8, 1, padding=1),
        nn.BatchNorm2d(8),
        nn.ReLU(),
        nn.Conv2d(8, 8, 3, stride=2, padding=1, groups=8),
        nn.BatchNorm2d(8),
        nn.Conv2d(8, 16, 3),
    )
    return net.to(memory_format=torch.channels_last)


NET_SIZE = (4, 3, 12, 12)
NET_PLAN = {
    "weight gradient, input 4x3x12x12, 8 filters 1x1, stride 1x1, padding 1x1, groups 1, bias": "bias_apart",
    "data gradient, input 4x8x14x14, 8 filters 3x3, stride 2x2, padding 1x1, groups 8, bias": "zero_stuffed",
    "weight gradient, input 4x8x7x7, 16 filters 3x3, stride 1x1, padding 0x0, groups 1, bias": "im2col",
}


def test_a_planned_network_is_the_same_network():
    plain = small_net()
    net = copy.deepcopy(plain)
    seen = []
    net[3].register_forward_hook(lambda module, args, output: seen.append(is_planned(output)))
    apply_plan(net, json.loads(json.dumps(NET_PLAN)))
    twin = copy.deepcopy(net)

    x = images(*NET_SIZE)
    results, of_twin, native = (gradients(model, x) for model in (net, twin, plain))
    assert seen == [True, True]  # the hook of the copy, too
    assert torch.equal(results[0], native[0])
    assert all(map(torch.equal, results, of_twin))  # the same plan, the same bits
    for got, want in zip(results, native, strict=True):
        assert (got - want).norm() <= 0.01 * want.norm()

    assert isinstance(net[0], nn.Conv2d)
    assert repr([name for name, _ in net.named_modules()]) == repr([name for name, _ in plain.named_modules()])
    assert net.state_dict().keys() == plain.state_dict().keys()
    plain.load_state_dict(net.state_dict())

    apply_plan(net, {})
    assert [type(module) for module in net] == [type(module) for module in plain]


def test_all_else_is_native():
    module = planned(convolution(kernel_size=3, stride=2, padding=1), data="zero_stuffed")
    x = images(*SIZE)
    with bf16():
        assert is_planned(module(x))
        assert not is_planned(module(x[:3]))
        assert not is_planned(module.eval()(x))
    assert not is_planned(module.train()(x))
    with torch.autocast("cpu", dtype=torch.float16):
        assert not is_planned(module(x))

    class OfItsOwn(nn.Conv2d):
        pass

    for other in (
        OfItsOwn(8, 16, 3),
        nn.Conv2d(8, 16, 3, dilation=2),
        nn.Conv2d(8, 16, 3, padding="same"),
        nn.Conv2d(8, 16, 3, padding=1, padding_mode="reflect"),
        nn.Conv1d(8, 16, 3),
    ):
        assert Layer.of(other) is None


def test_gradients_that_nobody_asks_for_are_not_computed(monkeypatch):
    module = planned(convolution(kernel_size=1, stride=2), data="zero_stuffed", weight="im2col")
    monkeypatch.setattr(kdrun.training.convolution, "data_gradient", None)
    module.weight.requires_grad_(False)
    x = images(*SIZE).detach()
    with bf16():
        module(x).sum().backward()
    assert x.grad is None
    assert module.weight.grad is None
    torch.testing.assert_close(module.bias.grad, torch.full([16], 4.0 * 5 * 5))


@pytest.mark.parametrize(
    ("key", "algorithm", "message"),
    [
        ("forward, input 4x8x9x10, 16 filters", "native", "'forward.*' does not name a gradient of a convolution"),
        ("data gradient, input 4x8, 16 filters", "native", "does not name a gradient"),
        ("{data}", "im2col", "'im2col' does not compute a data gradient: must be one of native, zero_stuffed"),
        ("{data}", "zero_stuffed", "'zero_stuffed' cannot compute the data gradient of a layer with 16 filters 3x3"),
    ],
)
def test_what_is_no_plan_is_refused(key, algorithm, message):
    module = convolution(kernel_size=3)
    key = key.format(data=plan_key("data", SIZE, Layer.of(module)))
    with pytest.raises(ValueError, match=message):
        apply_plan(module, {key: algorithm})
    assert type(module) is nn.Conv2d


def strides(graph: torch.fx.GraphModule) -> list[tuple[int, ...]]:
    backward = torch.ops.aten.convolution_backward.default
    return [tuple(node.args[4]) for node in graph.graph.nodes if node.target == backward]


def test_torch_compile_keeps_the_plan():
    net = small_net()
    apply_plan(net, NET_PLAN)
    graphs = {"forward": [], "backward": []}

    def note(kind):
        def compiler(graph, _):
            graphs[kind].append(graph)
            return make_boxed_func(graph.forward)

        return compiler

    torch._dynamo.reset()
    backend = aot_autograd(fw_compiler=note("forward"), bw_compiler=note("backward"))
    compiled = torch.compile(net, backend=backend, fullgraph=True)
    x = images(*NET_SIZE).detach()
    for size in (4, 3):  # the last batch of an epoch is smaller
        with bf16():
            compiled(x[:size]).float().square().mean().backward()
    whole, last = graphs["backward"]
    # Of the whole batch: im2col's data gradient, the depthwise data (stuffed) and weight gradients, the stem's weight.
    assert strides(whole) == [(1, 1), (1, 1), (2, 2), (1, 1)]
    assert "aten.mm" in whole.code
    assert strides(last) == [(1, 1), (2, 2), (1, 1)]
    assert "aten.mm" not in last.code


@pytest.mark.slow
def test_compiled_code_computes_the_planned_gradients():
    """Of all parameters together: those of the biases before BatchNorm are zero up to rounding."""
    net = small_net()
    apply_plan(net, NET_PLAN)
    x = images(*NET_SIZE)
    torch._dynamo.reset()
    for got, want in zip(*(_outcome(model, x) for model in (torch.compile(net, fullgraph=True), net)), strict=True):
        assert (got - want).norm() < 0.02 * want.norm()


def _outcome(model: nn.Module, x: torch.Tensor) -> list[torch.Tensor]:
    y, dx, *others = gradients(model, x)
    return [y, dx, torch.cat([gradient.flatten() for gradient in others])]


class Clock:
    """Takes the place of the stopwatch: says how long each algorithm takes, and notes what was timed."""

    def __init__(self, **seconds: float) -> None:
        self.seconds = seconds
        self.timed = 0

    def __call__(self, calls):
        self.timed += 1
        for call in calls.values():
            call()
        return {name: self.seconds[name] for name in calls}


def test_a_plan_takes_what_is_clearly_faster(monkeypatch):
    net = small_net().eval()
    before = copy.deepcopy(net.state_dict())
    state = torch.get_rng_state()
    clock = Clock(native=1.0, zero_stuffed=0.7, bias_apart=0.9, im2col=0.6)
    monkeypatch.setattr(convolution_tuning, "best_seconds", clock)
    plan = tune(net, NET_SIZE, known={})
    stem, depthwise, last = (key.split(", ", 1)[1] for key in NET_PLAN)
    assert plan == {
        f"weight gradient, {stem}": "im2col",
        f"data gradient, {depthwise}": "zero_stuffed",
        f"weight gradient, {depthwise}": "native",  # bias_apart is faster, but not clearly
        f"weight gradient, {last}": "im2col",
    }  # the last layer's data gradient can be computed in one way only
    assert clock.timed == 4

    assert not net.training
    assert torch.equal(torch.get_rng_state(), state)
    assert all(map(torch.equal, net.state_dict().values(), before.values()))
    apply_plan(net, plan)
    assert tune(net, NET_SIZE, known=plan | {"other": "native"}) == plan
    assert clock.timed == 4
    assert len(tune(net, (8, 3, 12, 12), known=plan)) == 4
    assert clock.timed == 8
    (key,) = tune(nn.Conv2d(3, 8, 3, stride=2), NET_SIZE, known={})
    assert key.startswith("weight gradient")

    monkeypatch.setattr(convolution_tuning, "best_seconds", Clock(native=1e-5, zero_stuffed=0, bias_apart=0, im2col=0))
    assert set(tune(net, NET_SIZE, known={}).values()) == {"native"}  # too little to gain


def test_the_fastest_of_several_timings_counts(monkeypatch):
    now = [0.0]
    monkeypatch.setattr(convolution_tuning.time, "perf_counter", lambda: now[0])
    calls = {"steady": iter([9.0, 3.0, 3.0, 3.0, 3.0]), "disturbed": iter([1.0, 8.0, 2.0, 8.0, 8.0])}

    def taking(durations):
        def call():
            now[0] += next(durations)

        return call

    timed = convolution_tuning.best_seconds({name: taking(durations) for name, durations in calls.items()})
    assert timed == {"steady": 3.0, "disturbed": 2.0}  # the warm-up, 9 and 1, does not count


def test_choices_are_remembered_for_this_machine_only(tmp_path, monkeypatch):
    directory = tmp_path / "cache"
    assert load_known(directory) == {}
    save_known(directory, NET_PLAN)
    assert load_known(directory) == NET_PLAN
    monkeypatch.setattr(torch, "get_num_threads", lambda: 7)
    assert load_known(directory) == {}
    save_known(directory, {})
    assert len(list(directory.iterdir())) == 2


@pytest.mark.parametrize(
    "damage",
    [
        lambda text: text[:-20],
        lambda text: text.replace("zero_stuffed", "native"),
        lambda text: text.replace('"threads"', '"thread"'),
        lambda text: "[]",
        lambda text: '{"choices": 3}',
        lambda text: "\xff",
    ],
)
def test_a_damaged_file_is_told_and_not_used(tmp_path, caplog, damage):
    save_known(tmp_path, NET_PLAN)
    (path,) = tmp_path.iterdir()
    path.write_text(damage(path.read_text()), encoding="latin-1")
    with caplog.at_level(logging.WARNING):
        assert load_known(tmp_path) == {}
    assert f"{path} is damaged" in caplog.text
