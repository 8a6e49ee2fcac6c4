"""Logits of a split: in eval mode, in order, whatever the batches."""

import contextlib

import pytest
import torch
from torch import nn

from kdrun.data import ImageSet, ResidentImages
from kdrun.metrics import classification_metrics
from kdrun.models import cnn
from kdrun.training.evaluation import BATCH_SIZE, evaluate, predict
from kdrun.training.precision import autocast

PLAIN = contextlib.nullcontext()
NUM = 2 * BATCH_SIZE + 3


@pytest.fixture
def split() -> ResidentImages:
    generator = torch.Generator().manual_seed(0)
    images = torch.randint(0, 256, (NUM, 8, 8, 1), dtype=torch.uint8, generator=generator)
    return ResidentImages(ImageSet(images, torch.arange(NUM) % 4), mean=[0.5], std=[0.25], device="cpu")


@pytest.fixture
def network() -> nn.Module:
    torch.manual_seed(0)
    return cnn(num_classes=4, in_channels=1, image_size=8)


@pytest.mark.parametrize("training", [True, False])
def test_logits_are_those_of_one_forward_in_eval_mode(split, network, training):
    logits = predict(network.train(training), split, PLAIN)
    assert network.training is training, "the model is handed back in its mode"
    assert all(module.training is training for module in network.modules())
    assert logits.grad_fn is None
    expected = network.eval()(split.batch(torch.arange(NUM)))
    torch.testing.assert_close(logits, expected, rtol=1e-5, atol=1e-6)
    torch.testing.assert_close(predict(network, split, PLAIN, limit=7), expected[:7], rtol=1e-5, atol=1e-6)


def test_metrics_are_those_of_the_logits(split, network):
    expected = classification_metrics(predict(network, split, PLAIN), split.labels)
    assert evaluate(network, split, PLAIN) == pytest.approx(expected, rel=1e-5)


def test_bf16_logits_come_back_in_float32(split, network):
    seen = []
    network.classifier.register_forward_hook(lambda _, __, output: seen.append(output.dtype))
    logits = predict(network, split, autocast(torch.device("cpu"), "bf16"), limit=4)
    assert seen == [torch.bfloat16]
    assert logits.dtype == torch.float32
