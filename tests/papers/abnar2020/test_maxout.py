"""The CNN with maxout: its layers recomputed, its size in closed form, refused arguments."""

import pytest
import torch
import torch.nn.functional as F
from torch.testing import assert_close

from kdrun.models.cost import num_macs, num_parameters
from kdrun.papers.abnar2020.maxout import Maxout, maxout_cnn


@pytest.fixture(autouse=True)
def _seed():
    torch.manual_seed(0)


@pytest.mark.parametrize("channels_last", [False, True])
@pytest.mark.parametrize("units", [6, 3, 2, 1])
def test_maxout_is_the_maximum_of_consecutive_channels(units, channels_last):
    memory_format = torch.channels_last if channels_last else torch.contiguous_format
    x = torch.randn(2, 6, 3, 4).to(memory_format=memory_format)
    size = 6 // units
    expected = torch.stack([x[:, size * i : size * (i + 1)].max(1).values for i in range(units)], 1)
    assert torch.equal(Maxout(units)(x), expected)
    assert Maxout(units)(x).is_contiguous(memory_format=memory_format)


def test_maxout_cnn_recomputed_from_its_state():
    network = maxout_cnn(10, 1, 14, filters=[6, 8], units=[6, 2], pool=[1, 2], dropout=0.3).double()
    assert [[type(child).__name__ for child in layer] for layer in network[:2]] == [
        ["Conv2d", "BatchNorm2d", "ReLU", "Dropout"],
        ["Conv2d", "Maxout", "BatchNorm2d", "ReLU", "MaxPool2d", "Dropout"],
    ]
    x = torch.randn(4, 1, 14, 14, dtype=torch.float64)
    for _ in range(3):
        network(x)  # BatchNorm statistics that are not 0 and 1
    state, y = network.eval().state_dict(), x
    for name, units, pool in (("layer1", 6, 1), ("layer2", 2, 2)):
        y = F.conv2d(y, state[f"{name}.conv.weight"], state[f"{name}.conv.bias"])
        y = torch.stack([group.max(1).values for group in y.chunk(units, 1)], 1)
        mean, var, gamma, beta = (
            state[f"{name}.bn.{key}"][:, None, None] for key in ("running_mean", "running_var", "weight", "bias")
        )
        y = ((y - mean) / (var + 1e-5).sqrt() * gamma + beta).clamp(min=0)
        y = y.unfold(2, pool, pool).unfold(3, pool, pool).amax((4, 5))
    assert y.shape == (4, 2, 5, 5)
    assert_close(network(x), y.mean((2, 3)) @ state["classifier.weight"].T + state["classifier.bias"])


@pytest.mark.parametrize(("filters", "units"), [((128, 64, 64), (128, 64, 16)), ((16, 32, 64), (16, 32, 32))])
def test_maxout_cnn_sizes(filters, units):
    with torch.device("meta"):
        network = maxout_cnn(10, in_channels=1, image_size=28, filters=filters, units=units, pool=(1, 2, 2))
    products = [9 * a * b for a, b in zip((1, *units[:2]), filters, strict=True)]
    biases_and_norms = sum(filters) + 2 * sum(units)
    assert num_parameters(network) == sum(products) + biases_and_norms + units[2] * 10 + 10
    positions = (26**2, 24**2, 10**2)  # each valid convolution takes 2, the second pooling leaves 12
    macs = sum(a * b for a, b in zip(products, positions, strict=True))
    assert num_macs(network, (1, 28, 28)) == macs + units[2] * 10


@pytest.mark.parametrize(
    ("options", "message"),
    [
        ({"image_size": 7}, "image_size=7.*at least 8"),
        ({"image_size": 11}, r"image_size=11: nothing is left of it after layer3.*at least 12"),
        ({"image_size": 19, "pool": (2, 2, 2)}, r"image_size=19: .* after layer3.*at least 22"),
        ({"image_size": 8, "pool": (9, 1, 1)}, r"image_size=8: .* after layer1.*at least 47"),
        ({"dropout": 1.0}, "dropout=1.0.*less than 1"),
        ({"filters": (), "units": (), "pool": ()}, r"filters=\(\).*at least one"),
        ({"units": 64}, "units=64.*list"),
        ({"pool": (1, 0, 2)}, r"pool\[1\]=0.*at least 1"),
        ({"pool": (1, 2)}, r"filters=\[128, 64, 64\].*pool=\[1, 2\].*every layer"),
        ({"units": (128, 64, 24)}, r"units\[2\]=24.*divide filters\[2\]=64"),
        ({"units": (128, 128, 16)}, r"units\[1\]=128.*divide filters\[1\]=64"),
    ],
)
def test_refuses_options(options, message):
    with pytest.raises(ValueError, match=message):
        maxout_cnn(10, **options)
