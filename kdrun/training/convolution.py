"""Gradients of convolutions by other roads than oneDNN's own, for the shapes where those are slow.

On a CPU in bf16 the kernels that oneDNN picks for the backward pass of a convolution have slow spots, which differ from
CPU to CPU. There are remedies, equal up to the rounding of bf16:

- `zero_stuffed`, for the data gradient of a strided convolution: the incoming gradient is spread over a map of zeros,
  one value every `stride` pixels, and goes through the data gradient of the same convolution with stride 1. oneDNN 3
  takes 20 to 50 times as long for strided depthwise convolutions.
- `im2col`, for the weight gradient of an ungrouped convolution: the patches of the input as rows of a matrix, and one
  matrix product. It pays for many channels on small maps, most of all on CPUs with AMX.
- `bias_apart`, for the gradient of weight and bias: the bias is summed on its own. It pays for 1x1 convolutions with
  padding.

A plan says which shape takes which. It is plain data, a mapping such as

    {"data gradient, input 64x96x34x34, 96 filters 3x3, stride 2x2, padding 1x1, groups 96, bias": "zero_stuffed"}

`kdrun.training.convolution_tuning` makes plans by timing.
"""

from __future__ import annotations

import re
from collections.abc import Mapping
from typing import Any, NamedTuple

import torch
import torch.nn.functional as F
from torch import Tensor, nn
from torch.autograd.function import once_differentiable

NATIVE = "native"
ALGORITHMS = {"data": (NATIVE, "zero_stuffed"), "weight": (NATIVE, "bias_apart", "im2col")}
"""What may be chosen for the gradient of the input, and for that of weight and bias together."""

Size = tuple[int, int, int, int]


class Layer(NamedTuple):
    """A convolution without its input: what a plan and the algorithms need to know of it."""

    filters: int
    kernel: tuple[int, int]
    stride: tuple[int, int]
    padding: tuple[int, int]
    groups: int
    bias: bool

    @staticmethod
    def of(module: nn.Module) -> Layer | None:
        """The layer that a module is; None if it is none that can be planned.

        Those are plain `nn.Conv2d` with zero padding of a given width and no dilation. A subclass of `nn.Conv2d` has a
        meaning of its own and is left alone.
        """
        if type(module) not in (nn.Conv2d, PlannedConv2d):
            return None
        assert isinstance(module, nn.Conv2d)
        if module.padding_mode != "zeros" or isinstance(module.padding, str) or module.dilation != (1, 1):
            return None
        return Layer(
            filters=module.out_channels,
            kernel=(module.kernel_size[0], module.kernel_size[1]),
            stride=(module.stride[0], module.stride[1]),
            padding=(module.padding[0], module.padding[1]),
            groups=module.groups,
            bias=module.bias is not None,
        )

    def candidates(self, gradient: str) -> tuple[str, ...]:
        """The algorithms that can compute a gradient (`data` or `weight`) of this layer, the native one first."""
        possible = {
            NATIVE: True,
            "zero_stuffed": self.stride != (1, 1),
            "bias_apart": self.bias,
            "im2col": self.groups == 1,
        }
        return tuple(name for name in ALGORITHMS[gradient] if possible[name])

    def __str__(self) -> str:
        text = (
            f"{self.filters} filters {_by(self.kernel)}, stride {_by(self.stride)}, padding {_by(self.padding)}, "
            f"groups {self.groups}"
        )
        return f"{text}, bias" if self.bias else text


def plan_key(gradient: str, input_size: Size, layer: Layer) -> str:
    """What a plan calls a gradient (`data` or `weight`) of a layer on an input `[N, C, H, W]`."""
    return f"{gradient} gradient, input {_by(input_size)}, {layer}"


_KEY = re.compile(r"(data|weight) gradient, input (\d+)x(\d+)x(\d+)x(\d+), (\d+ filters .+)")


def _by(numbers: tuple[int, ...]) -> str:
    return "x".join(map(str, numbers))


def read_choice(key: str, algorithm: object) -> tuple[str, Size, str]:
    """Takes an entry of a plan apart: gradient, input size `[N, C, H, W]`, and the layer as text.

    Raises:
        ValueError: no key of a plan, or no algorithm for that gradient.
    """
    match = _KEY.fullmatch(key)
    if match is None:
        raise ValueError(f"{key!r} does not name a gradient of a convolution")
    gradient, batch, channels, height, width, layer = match.groups()
    if algorithm not in ALGORITHMS[gradient]:
        allowed = ", ".join(ALGORITHMS[gradient])
        raise ValueError(f"{algorithm!r} does not compute a {gradient} gradient: must be one of {allowed}")
    return gradient, (int(batch), int(channels), int(height), int(width)), layer


def apply_plan(model: nn.Module, plan: Mapping[str, str]) -> None:
    """Lets the convolutions of a model compute their gradients as planned; replaces a plan applied before.

    The modules stay what and where they are (`nn.Conv2d` by `isinstance`, same names, state and hooks), and so does
    what they compute forward, bit for bit. A copy of the model keeps the plan. Whatever the plan does not speak of
    goes the native way: other inputs (a last, smaller batch), eval mode, and all but bf16 autocast on the CPU.

    Args:
        model: its convolutions are changed in place.
        plan: `plan_key` to the name of an algorithm. Entries for layers the model does not have are ignored.

    Raises:
        ValueError: an entry that is no choice, or whose algorithm cannot compute this layer; nothing is changed.
    """
    choices: dict[str, dict[Size, dict[str, str]]] = {}
    for key, algorithm in plan.items():
        gradient, input_size, text = read_choice(key, algorithm)
        if algorithm != NATIVE:
            choices.setdefault(text, {}).setdefault(input_size, {})[gradient] = algorithm
    layers = [(module, layer) for module in model.modules() if (layer := Layer.of(module)) is not None]
    for _, layer in layers:
        for choice in choices.get(str(layer), {}).values():
            for gradient, algorithm in choice.items():
                if algorithm not in layer.candidates(gradient):
                    raise ValueError(f"{algorithm!r} cannot compute the {gradient} gradient of a layer with {layer}")
    for module, layer in layers:
        _plan_module(module, layer, choices.get(str(layer), {}))


def _plan_module(module: nn.Module, layer: Layer, choices: dict[Size, dict[str, str]]) -> None:
    if isinstance(module, PlannedConv2d):
        del module.layer, module.choices
    module.__class__ = PlannedConv2d if choices else nn.Conv2d
    if isinstance(module, PlannedConv2d):
        module.layer = layer
        module.choices = {
            size: (choice.get("data", NATIVE), choice.get("weight", NATIVE)) for size, choice in choices.items()
        }


class PlannedConv2d(nn.Conv2d):
    """An `nn.Conv2d` whose gradients are computed as planned; never constructed, a module becomes one.

    Attributes:
        layer: what it computes.
        choices: by the size of the input: the algorithms of data gradient and weight gradient.
    """

    layer: Layer
    choices: dict[tuple[int, ...], tuple[str, str]]

    def _conv_forward(self, input: Tensor, weight: Tensor, bias: Tensor | None) -> Tensor:
        choice = self.choices.get(tuple(input.shape)) if self.training and _computes_in_bf16(input) else None
        if choice is None:
            unplanned: Tensor = super()._conv_forward(input, weight, bias)
            return unplanned
        # What autocast would do; autograd casts the gradients back.
        narrow = [None if tensor is None else tensor.to(torch.bfloat16) for tensor in (input, weight, bias)]
        result: Tensor = _Convolution.apply(*narrow, self.layer, *choice)
        return result


def _computes_in_bf16(x: Tensor) -> bool:
    narrow = torch.is_autocast_enabled("cpu") and torch.get_autocast_dtype("cpu") == torch.bfloat16
    return narrow and x.device.type == "cpu"


class _Convolution(torch.autograd.Function):
    """A convolution with chosen gradients. It consists of torch's own operators, so torch.compile looks into it."""

    @staticmethod
    def forward(
        ctx: Any, x: Tensor, weight: Tensor, bias: Tensor | None, layer: Layer, for_data: str, for_weight: str
    ) -> Tensor:
        ctx.save_for_backward(x, weight)
        ctx.layer, ctx.for_data, ctx.for_weight = layer, for_data, for_weight
        return F.conv2d(x, weight, bias, layer.stride, layer.padding, 1, layer.groups)

    @staticmethod
    @once_differentiable
    def backward(ctx: Any, dy: Tensor) -> tuple[Tensor | None, ...]:
        x, weight = ctx.saved_tensors
        needs_data, *needs_others = ctx.needs_input_grad[:3]
        dx = data_gradient(ctx.for_data, dy, x, weight, ctx.layer) if needs_data else None
        dw, db = weight_gradient(ctx.for_weight, dy, x, weight, ctx.layer) if any(needs_others) else (None, None)
        return dx, dw, db, None, None, None


def data_gradient(algorithm: str, dy: Tensor, x: Tensor, weight: Tensor, layer: Layer) -> Tensor:
    """The gradient of the input, `[N, C, H, W]`.

    Args:
        algorithm: `native` or `zero_stuffed`.
        dy: gradient of the output, `[N, O, h, w]`.
        x: the input, `[N, C, H, W]`, of which only the size matters.
        weight: `[O, C / groups, kh, kw]`.
        layer: the convolution.
    """
    if algorithm == "zero_stuffed":
        dy, layer = _zero_stuffed(dy, x, layer), layer._replace(stride=(1, 1))
    dx: Tensor = _backward(dy, x, weight, layer, (True, False, False))[0]
    return dx


def weight_gradient(
    algorithm: str, dy: Tensor, x: Tensor, weight: Tensor, layer: Layer
) -> tuple[Tensor, Tensor | None]:
    """The gradients of the weight, `[O, C / groups, kh, kw]`, and of the bias, `[O]`, if there is one.

    Args:
        algorithm: `native`, `bias_apart` or `im2col`.
        dy: gradient of the output, `[N, O, h, w]`.
        x: the input, `[N, C, H, W]`.
        weight: of which only the size matters.
        layer: the convolution.
    """
    if algorithm == NATIVE:
        _, dw, db = _backward(dy, x, weight, layer, (False, True, layer.bias))
        return dw, db
    dw = _by_im2col(dy, x, layer) if algorithm == "im2col" else _backward(dy, x, weight, layer, (False, True, False))[1]
    return dw, dy.sum((0, 2, 3)) if layer.bias else None


def _backward(dy: Tensor, x: Tensor, weight: Tensor, layer: Layer, wanted: tuple[bool, bool, bool]) -> Any:
    """What autograd itself calls: the wanted ones of the gradients of input, weight and bias."""
    return torch.ops.aten.convolution_backward(
        dy, x, weight, [layer.filters], layer.stride, layer.padding, (1, 1), False, (0, 0), layer.groups, wanted
    )


def _zero_stuffed(dy: Tensor, x: Tensor, layer: Layer) -> Tensor:
    """The gradient of the output that the same convolution would have with stride 1: zero between the strides."""
    height, width = (
        size + 2 * padding - kernel + 1
        for size, padding, kernel in zip(x.shape[2:], layer.padding, layer.kernel, strict=True)
    )
    size = (*dy.shape[:2], height, width)
    spread = torch.empty(size, dtype=dy.dtype, device=dy.device, memory_format=torch.channels_last).zero_()
    spread[:, :, :: layer.stride[0], :: layer.stride[1]] = dy
    return spread


def _by_im2col(dy: Tensor, x: Tensor, layer: Layer) -> Tensor:
    """`[O, C, kh, kw]` as one product over all positions of `dy` and the patches of `x` they come from."""
    (kernel_h, kernel_w), (stride_h, stride_w), (pad_h, pad_w) = layer.kernel, layer.stride, layer.padding
    channels = x.shape[1]
    padded = F.pad(x, (pad_w, pad_w, pad_h, pad_h)).permute(0, 2, 3, 1)  # N H W C
    patches = padded.unfold(1, kernel_h, stride_h).unfold(2, kernel_w, stride_w)  # N h w C kh kw
    rows = patches.permute(0, 1, 2, 4, 5, 3).reshape(-1, kernel_h * kernel_w * channels)
    by_position = dy.permute(0, 2, 3, 1).reshape(-1, layer.filters)
    dw = (by_position.t() @ rows).view(layer.filters, kernel_h, kernel_w, channels)
    return dw.permute(0, 3, 1, 2)
