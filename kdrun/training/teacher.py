"""Where a method's teacher output comes from. Each source says what it is exact for, and refuses the rest."""

from __future__ import annotations

import copy
import itertools
from contextlib import AbstractContextManager
from typing import Protocol

import torch
from torch import nn
from torch.nn.utils.fusion import fuse_conv_bn_eval

from kdrun.methods.base import Batch, TeacherOutput


class TeacherSource(Protocol):
    """Answers a batch with what the teacher says about its very views, in lockstep: once for all who ask."""

    def __call__(self, batch: Batch) -> TeacherOutput: ...

    def end_epoch(self) -> None:
        """Called when an epoch's last batch has been answered."""
        ...


class LiveTeacher:
    """Runs the frozen teacher on every batch: exact for every augmentation law.

    It computes with a copy of the network that takes no gradient, its BatchNorm folded into the convolutions, in
    bf16 throughout where the run is in bf16; the network itself is not touched.

    Args:
        model: the trained teacher, on the device of the batches.
        autocast: the context it computes in, that of the run.
        precision: `fp32` or `bf16`, that of the run.
    """

    def __init__(self, model: nn.Module, autocast: AbstractContextManager[None], precision: str = "fp32") -> None:
        self._model = folded(model)
        self._dtype = torch.bfloat16 if precision == "bf16" else torch.float32
        self._model.to(self._dtype)  # once, not in autocast at every step
        self._autocast = autocast

    # Not inference_mode: its tensors cannot take part in the student's backward.
    @torch.no_grad()
    def __call__(self, batch: Batch) -> TeacherOutput:
        with self._autocast:
            return TeacherOutput(logits=self._model(batch.x.to(self._dtype)))

    def end_epoch(self) -> None:
        """Nothing is kept from batch to batch."""


def folded(model: nn.Module) -> nn.Module:
    """A copy of a network for inference: in eval mode, without gradients, BatchNorm folded into convolutions.

    Folded is what stands directly one after the other in an `nn.Sequential`, which nothing can come between (so do
    all of kdrun's networks); another BatchNorm stays, exact and slower.

    Its logits differ from those of the network by rounding.
    """
    bare = copy.deepcopy(model).eval().requires_grad_(False)
    for sequence in [module for module in bare.modules() if isinstance(module, nn.Sequential)]:
        names = list(sequence._modules)
        for first, second in itertools.pairwise(names):
            conv, bn = getattr(sequence, first), getattr(sequence, second)
            if type(conv) is nn.Conv2d and type(bn) is nn.BatchNorm2d and bn.track_running_stats:
                setattr(sequence, first, fuse_conv_bn_eval(conv, bn))
                setattr(sequence, second, nn.Identity())
    return bare
