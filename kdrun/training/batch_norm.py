"""BatchNorm of a run on several ranks: the statistics of the whole batch."""

from __future__ import annotations

import torch
from torch import Tensor, nn
from torch.autograd.function import FunctionCtx
from torch.nn.modules.batchnorm import _BatchNorm

from kdrun.distributed import Part, current_part, summed

TORCHS = (nn.BatchNorm1d, nn.BatchNorm2d, nn.BatchNorm3d)


class GlobalBatchNorm(nn.SyncBatchNorm):
    """BatchNorm whose statistics in training are those of the whole batch, where it is divided over ranks.

    On CUDA that is torch's SyncBatchNorm, which refuses tensors on the CPU.
    """

    process_group = None

    def forward(self, x: Tensor) -> Tensor:
        part = current_part()
        if not self.training or part is None:
            return _BatchNorm.forward(self, x)
        return super().forward(x) if x.is_cuda else self._normalized(x, part)

    def _normalized(self, x: Tensor, part: Part) -> Tensor:
        """`[N, C, ...]` less the mean, divided by the deviation, both of the rows of all ranks; in float32 at least."""
        wide = x if x.dtype == torch.float64 else x.float()
        dims = [dim for dim in range(x.ndim) if dim != 1]
        shape = [-1, *[1] * (x.ndim - 2)]
        count = part.rows(len(x)) * (x[0].numel() // x.shape[1])
        mean = _Summed.apply(wide.sum(dims)) / count
        centred = wide - mean.view(shape)
        variance = _Summed.apply(centred.square().sum(dims)) / count
        if self.track_running_stats:
            self._track(mean.detach(), variance.detach() * (count / (count - 1)))
        normalized = centred * (variance + self.eps).rsqrt().view(shape)
        if self.affine:
            normalized = normalized * self.weight.view(shape) + self.bias.view(shape)
        return normalized.to(x.dtype)

    def _track(self, mean: Tensor, variance: Tensor) -> None:
        assert self.num_batches_tracked is not None
        self.num_batches_tracked.add_(1)
        momentum = 1 / float(self.num_batches_tracked) if self.momentum is None else self.momentum
        for running, new in ((self.running_mean, mean), (self.running_var, variance)):
            assert running is not None
            running.mul_(1 - momentum).add_(new, alpha=momentum)


class _Summed(torch.autograd.Function):
    """The sum over the ranks, whose losses are summed, too."""

    @staticmethod
    def forward(ctx: FunctionCtx, own: Tensor) -> Tensor:
        return summed(own)

    @staticmethod
    def backward(ctx: FunctionCtx, *gradients: Tensor) -> Tensor:
        return summed(gradients[0])


def globalize(module: nn.Module, path: str) -> None:
    """Makes a BatchNorm one over the whole batch, in place, as torch's parametrize and fully_shard change classes.

    Its parameters, buffers and hooks stay what they are.

    Raises:
        ValueError: it is not torch's own: what another class computes is not known.
    """
    if type(module) not in TORCHS:
        raise ValueError(
            f"{path}: {type(module).__name__} is no BatchNorm of torch.nn: its statistics cannot be those of the whole "
            "batch on several ranks; must be one, or recipe.batch_norm=per_rank"
        )
    module.__class__ = GlobalBatchNorm
