"""Parameters and multiply-accumulates against published figures, closed forms and an independent count."""

import inspect
import itertools
import re
from pathlib import Path

import pytest
import torch
import yaml

from kdrun import models
from kdrun.models.cost import num_macs, num_parameters, weightless
from kdrun.spec.components import resolve
from kdrun.taps import outline

SIZED = ("cnn", "mlp")
ROOT = Path(__file__).parents[2]
CONF = ROOT / "conf" / "student"
CONFIGS = sorted([*CONF.glob("*.yaml"), *(ROOT / "kdrun" / "papers").glob("*/conf/student/*.yaml")])

# The networks of the Tf-KD release: parameters at K=100 and K=10, and millions of MACs at K=100, 32x32.
RELEASED = {
    "cnn": (369_124, 357_514, 10.60),
    "mobilenetv2": (2_369_380, 2_254_090, 64.95),
    "shufflenetv2": (1_360_896, 1_268_646, 43.68),
    "resnet18": (11_220_132, 11_173_962, 555.47),
    "resnet50": (23_705_252, 23_520_842, 1298.01),
    "googlenet": (6_258_500, 6_166_250, 1521.85),
    "densenet121": (7_048_548, 6_956_298, 888.44),
    "resnext29_8x64d": (34_518_948, 34_426_698, 5387.36),
}
# Where the release runs unmodified on Tiny-ImageNet: parameters and millions of MACs at K=200, 64x64.
RELEASED_64 = {
    "mobilenetv2": (2_497_480, 215.7),
    "shufflenetv2": (1_463_396, 174.5),
    "densenet121": (7_151_048, 3553.6),
    "googlenet": (6_361_000, 6087.2),
}


# The networks of RepDistiller, parameters at K=100.
REP_DISTILLER = {
    "resnet8x4": 1_233_540,
    "resnet32x4": 7_433_860,
    "wrn_16_2": 703_284,
    "wrn_40_1": 569_780,
    "wrn_40_2": 2_255_156,
    "vgg8": 3_965_028,
    "vgg13": 9_462_180,
}


def build(name, num_classes, **options):
    return on_meta(getattr(models, name), num_classes, **options)


def on_meta(network, num_classes, **options):
    with torch.device("meta"):
        return network(num_classes, **options)


@pytest.mark.parametrize("name", RELEASED)
def test_sizes_of_the_tfkd_release(name):
    parameters_100, parameters_10, millions_of_macs = RELEASED[name]
    network = build(name, 100)
    assert num_parameters(network) == parameters_100
    assert num_parameters(build(name, 10)) == parameters_10
    assert round(num_macs(network, (3, 32, 32)) / 1e6, 2) == millions_of_macs


@pytest.mark.parametrize("name", RELEASED_64)
def test_sizes_of_the_tfkd_release_at_64x64(name):
    parameters, millions_of_macs = RELEASED_64[name]
    network = build(name, 200)
    assert num_parameters(network) == parameters
    assert round(num_macs(network, (3, 64, 64)) / 1e6, 1) == millions_of_macs


@pytest.mark.parametrize("name", REP_DISTILLER)
def test_sizes_of_rep_distiller(name):
    assert num_parameters(build(name, 100)) == REP_DISTILLER[name]


@pytest.mark.parametrize(("depth", "exact"), [(20, 278_324), (32, 472_756), (56, 861_620), (110, 1_736_564)])
def test_cifar_resnets_in_closed_form(depth, exact):
    n, area = (depth - 2) // 6, 9
    blocks_16 = n * 2 * (area * 16 * 16 + 2 * 16)
    blocks_32 = area * 16 * 32 + (2 * n - 1) * area * 32 * 32 + 2 * n * 2 * 32 + 16 * 32 + 2 * 32
    blocks_64 = area * 32 * 64 + (2 * n - 1) * area * 64 * 64 + 2 * n * 2 * 64 + 32 * 64 + 2 * 64
    stem, classifier = area * 3 * 16 + 2 * 16, 64 * 100 + 100
    assert stem + blocks_16 + blocks_32 + blocks_64 + classifier == exact
    assert num_parameters(build(f"resnet{depth}", 100)) == exact


@pytest.mark.parametrize(("hidden", "exact"), [((800, 800), 1_276_810), ((1200, 1200), 2_395_210), ((30,), 23_860)])
def test_mlp_sizes(hidden, exact):
    widths = (784, *hidden, 10)
    products = sum(a * b for a, b in itertools.pairwise(widths))
    network = build("mlp", 10, in_channels=1, image_size=28, hidden=hidden)
    assert num_parameters(network) == products + sum(widths[1:]) == exact
    assert num_macs(network, (1, 28, 28)) == products


def test_counting_leaves_everything_as_it_was():
    network = models.cnn(100).to(memory_format=torch.channels_last).double()
    network.hidden.eval()
    parameters = num_parameters(network)
    network.layer1.requires_grad_(False)
    state = {name: value.clone() for name, value in network.state_dict().items()}
    modes = [module.training for module in network.modules()]
    random_state = torch.get_rng_state()

    assert round(num_macs(network, (3, 32, 32)) / 1e6, 2) == 10.60

    assert num_parameters(network) == parameters
    assert torch.equal(torch.get_rng_state(), random_state)
    assert [module.training for module in network.modules()] == modes
    assert all(torch.equal(value, state[name]) for name, value in network.state_dict().items())
    assert network.layer1.conv.weight.device.type == "cpu"


@pytest.mark.parametrize("path", CONFIGS, ids=lambda path: path.stem)
def test_configs_have_all_options_and_state_their_true_size(path):
    text = path.read_text()
    options = yaml.safe_load(text)
    network_of = resolve(options.pop("_target_"))
    comment = " ".join(line.lstrip("# ") for line in text.splitlines() if line.startswith("#"))
    parameters = inspect.signature(network_of).parameters
    if network_of.__name__ in models.sequence_networks():
        assert set(options) == set(parameters) - {"num_classes", "num_tokens", "length", "per_token"}
        of_class = re.search(r"([\d,]+) parameters for 2 classes, 500 tokens, length 32", comment)
        network = on_meta(network_of, 2, num_tokens=500, length=32, **options)
        assert of_class[1].replace(",", "") == str(num_parameters(network))
        as_language_model = re.search(r"([\d,]+) as a language model", comment)
        assert bool(as_language_model) == options.get("causal", True)
        if as_language_model:
            network = on_meta(network_of, 500, num_tokens=500, length=32, per_token=True, **options)
            assert as_language_model[1].replace(",", "") == str(num_parameters(network))
        return
    assert set(options) == set(parameters) - {"num_classes", "in_channels", "image_size"}
    at_100 = re.search(r"([\d,]+)( parameters)? at 100 classes", comment)
    assert at_100[1].replace(",", "") == str(num_parameters(on_meta(network_of, 100, **options)))
    on_mnist = re.search(r"([\d,]+) parameters on MNIST|on MNIST, where it has ([\d,]+) parameters", comment)
    assert bool(on_mnist) == (network_of is models.mlp)
    if on_mnist:
        network = on_meta(network_of, 10, in_channels=1, image_size=28, **options)
        assert (on_mnist[1] or on_mnist[2]).replace(",", "") == str(num_parameters(network))


@pytest.mark.parametrize("name", [*RELEASED, "mlp", "resnet20", "wrn_16_2", "vgg8"])
def test_a_weightless_network_has_the_shapes_and_products_of_one_on_the_meta_device(name):
    """Of every family; it takes no memory and no random numbers."""
    reference, before = build(name, 10), torch.get_rng_state()
    network = weightless(build(name, 10))
    assert num_macs(network, (3, 32, 32)) == num_macs(reference, (3, 32, 32)) > 0
    assert outline(network, (3, 32, 32)) == outline(reference, (3, 32, 32))
    assert max(tensor.untyped_storage().nbytes() for tensor in network.state_dict().values()) <= 8
    assert torch.equal(torch.get_rng_state(), before)
