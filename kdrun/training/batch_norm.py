"""BatchNorm of a run on several ranks: the statistics of the whole batch."""

from __future__ import annotations

import torch
from torch import Tensor, nn
from torch.autograd.function import FunctionCtx
from torch.nn.modules.batchnorm import _BatchNorm

from kdrun.distributed import current_part, summed

TORCHS = (nn.BatchNorm1d, nn.BatchNorm2d, nn.BatchNorm3d)


class SyncedBatchNorm(nn.SyncBatchNorm):
    """On CUDA: torch's SyncBatchNorm, where a batch is divided over ranks."""

    process_group = None

    def forward(self, x: Tensor) -> Tensor:
        if not self.training or current_part() is None:
            return _BatchNorm.forward(self, x)
        return super().forward(x)


class SummedBatchNorm(_BatchNorm):
    """The same on the CPU, which SyncBatchNorm refuses: sums over the rows are summed over the ranks."""

    def forward(self, x: Tensor) -> Tensor:
        return self._normalized(x) if self.training and current_part() is not None else super().forward(x)

    def _check_input_dim(self, input: Tensor) -> None:
        """Nothing: the class that this was has its number of dimensions."""

    def _normalized(self, x: Tensor) -> Tensor:
        """`[N, C, ...]` less the mean, divided by the deviation, both of the rows of all ranks; in float32 at least."""
        wide = x if x.dtype == torch.float64 else x.float()
        dims = [dim for dim in range(x.ndim) if dim != 1]
        shape = [-1, *[1] * (x.ndim - 2)]
        total = _Summed.apply(torch.cat([wide.sum(dims), wide.new_tensor([wide.numel() // wide.shape[1]])]))
        count = total[-1].detach()
        mean = total[:-1] / count
        centred = wide - mean.view(shape)
        variance = _Summed.apply(centred.square().sum(dims)) / count
        if self.track_running_stats:
            self._track(mean.detach(), variance.detach() * (count / (count - 1)))
        normalized: Tensor = centred * (variance + self.eps).rsqrt().view(shape)
        if self.weight is not None:
            normalized = normalized * self.weight.view(shape)
        if self.bias is not None:
            normalized = normalized + self.bias.view(shape)
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


OF_THE_WHOLE_BATCH = (SyncedBatchNorm, SummedBatchNorm)


def globalize(module: nn.Module, path: str, device: torch.device) -> None:
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
    module.__class__ = SyncedBatchNorm if device.type == "cuda" else SummedBatchNorm
