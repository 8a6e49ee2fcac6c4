"""The networks for ImageNet are torchvision's: sizes, products, and outputs from the same weights."""

import pytest
import torch
import torchvision
from torch.utils.flop_counter import FlopCounterMode

from kdrun import models
from kdrun.experiment.build import build_student
from kdrun.experiment.weights import load_weights, own_weights
from kdrun.models.cost import num_macs, num_parameters
from kdrun.spec.dataset import ImageDatasetSpec
from kdrun.spec.spec import Component

# Parameters at 1000 classes as torchvision publishes them.
PUBLISHED = {
    "resnet18": ("resnet18", 11_689_512),
    "resnet34": ("resnet34", 21_797_672),
    "resnet50": ("resnet50", 25_557_032),
    "resnext101_32x8d": ("resnext101_32x8d", 88_791_336),
    "densenet121": ("densenet121", 7_978_856),
    "mobilenetv2": ("mobilenet_v2", 3_504_872),
    "shufflenetv2": ("shufflenet_v2_x1_0", 2_278_604),
}


@pytest.mark.parametrize("name", PUBLISHED)
def test_sizes_are_those_of_torchvision(name):
    theirs, parameters = PUBLISHED[name]
    with torch.device("meta"):
        ours = getattr(models, f"imagenet_{name}")(1000)
        twin = getattr(torchvision.models, theirs)()
    assert num_parameters(ours) == num_parameters(twin) == parameters
    counter = FlopCounterMode(display=False)
    with counter, torch.no_grad():
        twin.eval()(torch.zeros(1, 3, 224, 224, device="meta"))
    assert num_macs(ours, (3, 224, 224)) == counter.get_total_flops() // 2


@pytest.mark.parametrize("name", [name for name in PUBLISHED if name != "resnext101_32x8d"])
def test_weights_of_torchvision_give_the_same_logits(name, tmp_path):
    """Also where the statistics of BatchNorm are not those of its initialisation; read under torchvision's names."""
    torch.manual_seed(0)
    twin = getattr(torchvision.models, PUBLISHED[name][0])(num_classes=7)
    x = torch.randn(2, 3, 64, 64)
    with torch.no_grad():
        twin.train()(torch.randn(8, 3, 64, 64))
        expected = twin.eval()(x)
    path = tmp_path / "theirs.pth"
    torch.save(twin.state_dict(), path)
    student = Component(f"kdrun.models.imagenet_{name}")
    data = ImageDatasetSpec("kdrun.data.synthetic", "none", 7, 3, 64, 70, 70, (0.5,) * 3, (0.25,) * 3)
    found = own_weights(path, student, data)
    network = build_student(student, data)
    load_weights(network, {**network.state_dict(), **found.state}, path)
    with torch.no_grad():
        torch.testing.assert_close(network.eval()(x), expected, rtol=1e-4, atol=1e-5)
