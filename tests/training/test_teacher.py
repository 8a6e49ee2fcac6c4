"""A teacher never changes while it teaches."""

import contextlib
from functools import partial

import pytest
import torch
import torch.nn.functional as F
from torch import nn

from kdrun.methods import Batch
from kdrun.models import cnn, mobilenetv2
from kdrun.training.teacher import LiveTeacher

PLAIN = contextlib.nullcontext()


def batches(num: int) -> list[Batch]:
    generator = torch.Generator().manual_seed(0)
    return [
        Batch(
            x=torch.randn(6, 3, 8, 8, generator=generator),
            y=torch.randint(4, (6,), generator=generator),
            index=torch.arange(6),
            epoch=0,
            step=step,
            progress=0.0,
            generator=generator,
        )
        for step in range(num)
    ]


@pytest.fixture(params=[partial(cnn, image_size=8), mobilenetv2], ids=["cnn", "mobilenetv2"])
def network(request) -> nn.Module:
    """Both have BatchNorm, the first dropout too."""
    torch.manual_seed(0)
    return request.param(num_classes=4)


def test_no_weight_and_no_buffer_moves_while_a_student_learns(network):
    network.train()
    before = {name: tensor.clone() for name, tensor in network.state_dict().items()}
    modes = []
    handle = network.register_forward_hook(lambda module, *_: modes.append(module.training))
    teacher = LiveTeacher(network, PLAIN)
    handle.remove()  # it stays with the teacher's copy
    student = cnn(num_classes=4, image_size=8)
    optimizer = torch.optim.SGD(student.parameters(), lr=0.1)
    for batch in batches(4):
        output = teacher(batch)
        optimizer.zero_grad()
        F.mse_loss(student(batch.x), output.logits).backward()
        optimizer.step()
    assert modes == [False] * 4
    assert all(module.training for module in network.modules()), "the network itself is left as it is"
    for name, tensor in network.state_dict().items():
        assert torch.equal(tensor, before[name]), name
    assert all(parameter.grad is None for parameter in network.parameters())


def test_output_is_an_ordinary_tensor_without_a_graph(network):
    (batch,) = batches(1)
    batch.x.requires_grad_()  # as under a method that learns its inputs
    logits = LiveTeacher(network, PLAIN)(batch).logits
    assert logits.grad_fn is None
    assert not logits.requires_grad
    # A product's backward keeps its operands, which an inference-mode tensor would refuse.
    assert not logits.is_inference()
    weight = torch.ones(4, requires_grad=True)
    (weight * logits).sum().backward()
    assert torch.allclose(weight.grad, logits.sum(0))


def test_answer_depends_on_the_image_alone(network):
    """In train mode it would depend on the rest of the batch (BatchNorm) and on chance (dropout)."""
    teacher, batch = LiveTeacher(network.train(), PLAIN), batches(1)[0]
    network.eval()
    together = teacher(batch).logits
    alone = torch.cat([network(image[None]) for image in batch.x])
    torch.testing.assert_close(together, alone, rtol=1e-4, atol=1e-5)
