"""The exponential moving average of the weights of a training."""

from __future__ import annotations

import contextlib
from collections.abc import Iterator

import torch
from torch import Tensor, nn

from kdrun.methods.base import Method


class WeightAverage(nn.Module):
    """`average <- decay * average + (1 - decay) * weights` after each step, from the weights before the first one.

    The definition is timm's ModelEmaV2: one factor at every step. (torchvision's reference scales `1 - decay` by the
    batch size and the number of epochs and updates every 32 steps.) The parameters that the stage trains are averaged,
    and the floating-point buffers of the student and its peers, such as the statistics of BatchNorm, alike; counters
    are not.

    It is a part of the method, so that it is saved and restored with it, and owns no parameters.

    Args:
        method: whose weights are averaged; on its device, in the stage that is to be trained.
        decay: in (0, 1).
    """

    def __init__(self, method: Method, decay: float) -> None:
        super().__init__()
        trained = {id(parameter) for parameter in method.trained()}
        networks = [method.student, *method.peers().values()]
        buffers = {id(buffer) for network in networks for buffer in network.buffers() if buffer.is_floating_point()}
        self._weights: list[Tensor] = []
        self._decay = decay
        for name, tensor in (*method.named_parameters(), *method.named_buffers()):
            if id(tensor) in trained | buffers:
                self._weights.append(tensor)
                self.register_buffer(averaged_name(name), tensor.detach().clone())

    @torch.no_grad()
    def update(self) -> None:
        """Moves the average towards the weights."""
        torch._foreach_lerp_(list(self.buffers()), self._weights, 1 - self._decay)

    @torch.no_grad()
    def swap(self) -> None:
        """Exchanges the weights with their average."""
        for average, weight in zip(self.buffers(), self._weights, strict=True):
            kept = weight.clone()
            weight.copy_(average)
            average.copy_(kept)


ATTRIBUTE = "weight_average"
"""The name of the average in its method."""


def averaged_name(name: str) -> str:
    """The name of the average of the method's tensor `name` (a buffer's name cannot have dots)."""
    return name.replace(".", "/")


def average_weights(method: Method, optimizer: torch.optim.Optimizer, decay: float) -> None:
    """Begins to average a method's weights at each step of the optimiser, and forgets an earlier average."""
    average = WeightAverage(method, decay)
    setattr(method, ATTRIBUTE, average)
    optimizer.register_step_post_hook(lambda *_: average.update())


@contextlib.contextmanager
def averaged(method: Method) -> Iterator[None]:
    """A context in which the weights of a method are their average, where one is kept; not for training."""
    average = getattr(method, ATTRIBUTE, None)
    if average is None:
        yield
        return
    average.swap()
    try:
        yield
    finally:
        average.swap()
