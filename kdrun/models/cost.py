"""Cost of a network: parameters, and multiply-accumulates (MACs) of a forward pass."""

from __future__ import annotations

import copy

import torch
from torch import Tensor, nn
from torch.utils.flop_counter import FlopCounterMode


def num_parameters(model: nn.Module) -> int:
    """The number of parameters, frozen or not, without buffers."""
    return sum(parameter.numel() for parameter in model.parameters())


def num_macs(model: nn.Module, input_size: tuple[int, ...], dtype: torch.dtype = torch.float32) -> int:
    """Multiply-accumulates of the forward pass on one image `[C, H, W]` or sequence `[L]`, in eval mode.

    Counted are the products in convolutions and linear layers, as the literature does: not their biases, nor
    BatchNorm, activations and pooling. Nothing is computed: a copy without data goes through, so the model, its mode
    and buffers, and the random numbers stay as they are.

    Args:
        model: maps `[N, *input_size]` to anything.
        input_size: (C, H, W), or (L,).
        dtype: of its input.
    """
    bare = copy.deepcopy(model).to("meta", torch.float32).eval()
    counter = FlopCounterMode(display=False)
    with torch.no_grad(), counter:
        bare(torch.empty(1, *input_size, dtype=dtype, device="meta"))
    return counter.get_total_flops() // 2  # a multiplication and an addition each


def saved_bytes(model: nn.Module, input_size: tuple[int, ...], dtype: torch.dtype = torch.float32) -> int:
    """Bytes kept for backward from the forward pass on one image or sequence in a batch, in float32.

    Parameters are not counted. Nothing is computed, as in `num_macs`.

    Args:
        model: maps `[N, *input_size]` to anything.
        input_size: (C, H, W), or (L,).
        dtype: of its input.
    """
    bare = copy.deepcopy(model).to("meta", torch.float32).train()
    own = {parameter.untyped_storage()._cdata for parameter in bare.parameters()}
    saved: dict[int, Tensor] = {}  # by storage: a tensor that two operations keep counts once

    def keep(tensor: Tensor) -> Tensor:
        storage = tensor.untyped_storage()._cdata
        if storage not in own:
            saved[storage] = tensor
        return tensor

    with torch.autograd.graph.saved_tensors_hooks(keep, lambda tensor: tensor):
        bare(torch.empty(2, *input_size, dtype=dtype, device="meta"))
    return sum(tensor.nbytes for tensor in saved.values()) // 2  # BatchNorm trains on two images at least
