"""Cost of a network: parameters, and multiply-accumulates (MACs) of a forward pass."""

from __future__ import annotations

import copy
from typing import Any

import torch
from torch import Tensor, nn
from torch.utils._python_dispatch import TorchDispatchMode


def num_parameters(model: nn.Module) -> int:
    """The number of parameters, frozen or not, without buffers."""
    return sum(parameter.numel() for parameter in model.parameters())


def num_macs(model: nn.Module, input_size: tuple[int, ...], dtype: torch.dtype = torch.float32) -> int:
    """Multiply-accumulates of the forward pass on one image `[C, H, W]` or sequence `[L]`, in eval mode.

    Counted are the products in convolutions and linear layers, as the literature does: not their biases, nor
    BatchNorm, activations and pooling. A copy without data goes through, so the model, its mode and buffers, and the
    random numbers stay as they are; of a `weightless` model itself.

    Args:
        model: maps `[N, *input_size]` to anything.
        input_size: (C, H, W), or (L,).
        dtype: of its input.
    """
    from torch.utils.flop_counter import FlopCounterMode  # imports triton where it is installed

    if _is_weightless(model):
        products = _Products()
        with torch.no_grad(), products:
            model(torch.zeros(1, *input_size, dtype=dtype, device="cpu"))
        return products.flops // 2  # a multiplication and an addition each
    bare = copy.deepcopy(model).to("meta", torch.float32).eval()
    counter = FlopCounterMode(display=False)
    with torch.no_grad(), counter:
        bare(torch.empty(1, *input_size, dtype=dtype, device="meta"))
    return counter.get_total_flops() // 2


def weightless(network: nn.Module) -> nn.Module:
    """Moves a network from the meta device to the CPU; each parameter and buffer is one zero, expanded to its shape.

    It takes examples in eval mode. Nothing is allocated but the activations and what an operation copies for itself;
    no random number is drawn.
    """
    zeros: dict[Tensor, Tensor] = {}  # what modules share stays shared

    def zero(like: Tensor) -> Tensor:
        if like not in zeros:
            expanded = torch.zeros((), dtype=like.dtype, device="cpu").expand(like.shape)
            is_parameter = isinstance(like, nn.Parameter)
            zeros[like] = nn.Parameter(expanded, requires_grad=False) if is_parameter else expanded
        return zeros[like]

    for module in network.modules():
        for name, tensor in (*module.named_parameters(recurse=False), *module.named_buffers(recurse=False)):
            setattr(module, name, zero(tensor))
    return network.eval()


def _is_weightless(network: nn.Module) -> bool:
    return any(parameter.untyped_storage().nbytes() < parameter.nbytes for parameter in network.parameters())


class _Products(TorchDispatchMode):
    """Counts as `FlopCounterMode`, which imports Dynamo."""

    def __init__(self) -> None:
        from torch.utils.flop_counter import flop_registry

        super().__init__()
        self.flops = 0
        self._formulas = flop_registry

    @classmethod
    def _should_skip_dynamo(cls) -> bool:
        return False  # what skips it imports it

    def __torch_dispatch__(self, func: Any, types: Any, args: Any = (), kwargs: Any = None) -> Any:
        out = func(*args, **(kwargs or {}))
        if count := self._formulas.get(func.overloadpacket):
            self.flops += count(*args, **(kwargs or {}), out_val=out)
        return out


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
