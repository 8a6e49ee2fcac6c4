"""Derived seeds are the same for ever, and put torch's generators where `torch.manual_seed` would."""

import pytest
import torch
from torch import nn

from kdrun.seeds import mix, seed_global_generators

CPU = torch.device("cpu")


@pytest.mark.parametrize(
    ("parts", "seed"),
    [
        ((0, "init"), 3953688860265627247),
        ((0, "step", 1, 2), 2406093774211022931),
        (("order", 0, 1), 6948624756589500242),
        (("augmentation", 0, 1), 7503951843357545161),
    ],
)
def test_seeds_that_every_published_number_rests_on(parts, seed):
    """Another value here makes every run another run: it needs a new SEMANTICS."""
    assert mix(*parts) == seed


def test_seeding_is_torchs_own():
    for seed in (0, 5, mix("any")):
        torch.manual_seed(seed)
        expected = torch.rand(3), nn.functional.dropout(torch.ones(50)), torch.randperm(9)
        torch.manual_seed(123)
        seed_global_generators(seed, CPU)
        found = torch.rand(3), nn.functional.dropout(torch.ones(50)), torch.randperm(9)
        assert all(torch.equal(a, b) for a, b in zip(found, expected, strict=True))


@pytest.mark.gpu
@pytest.mark.skipif(not torch.cuda.is_available(), reason="needs a CUDA device")
@pytest.mark.parametrize("device", ["cuda", "cuda:0"])
def test_seeding_reaches_the_device_and_the_cpu(device):
    device = torch.device(device)
    torch.manual_seed(5)
    expected = torch.rand(3), torch.rand(3, device=device)
    torch.manual_seed(6)
    seed_global_generators(5, device)
    assert torch.equal(torch.rand(3), expected[0])
    assert torch.equal(torch.rand(3, device=device), expected[1])
