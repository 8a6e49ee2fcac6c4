"""Taps: what the modules of a network return, by the path of the module. Any network has them, unmodified."""

from __future__ import annotations

import contextlib
import difflib
import functools
import itertools
import re
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass, field

import torch
from torch import Tensor, nn

Shape = tuple[int, ...]
STAGE = re.compile(r"(layer|block|stage)s?_?\d+")
"""Names of modules that are a network's stages, beside any stem and head."""


@contextlib.contextmanager
def tapped(network: nn.Module, names: Sequence[str]) -> Iterator[dict[str, Tensor]]:
    """In this context each forward pass of the network writes the named modules' outputs into the mapping it yields.

    Nothing stays on the network: copies, compilations and its state dict never see a hook.
    """
    seen: dict[str, Tensor] = {}

    def keep(name: str, module: nn.Module, inputs: object, output: Tensor) -> None:
        seen[name] = output

    with contextlib.ExitStack() as hooks:
        for name in names:
            handle = network.get_submodule(name).register_forward_hook(functools.partial(keep, name))
            hooks.callback(handle.remove)
        yield seen


@dataclass(frozen=True)
class Outline:
    """A network without its numbers.

    Attributes:
        name: of the network, for messages.
        taps: shape of what each module returns for one image, in the order of the forward pass: `(C, H, W)` for a
            feature map, `(C,)` for a vector.
        output: the taps whose output is the network's own: its logits.
        num_classes: K, of its logits `[N, K]`.
        parameters: shape of each parameter.
    """

    name: str = ""
    taps: Mapping[str, Shape] = field(default_factory=dict)
    output: frozenset[str] = frozenset()
    num_classes: int = 0
    parameters: Mapping[str, Shape] = field(default_factory=dict)

    def shape(self, tap: str) -> Shape:
        """The shape at a tap.

        Raises:
            ValueError: there is none of this name, with the nearest names and those of the network's top.
        """
        if tap not in self.taps:
            close = difflib.get_close_matches(tap, self.taps, n=1)
            near = f"did you mean {close[0]}? It has" if close else "it has"
            top = ", ".join(name for name in self.taps if "." not in name)
            raise ValueError(
                f"{tap!r}: {self.name} has no such tap; {near} {top}, and those of the modules within: "
                "kdrun show taps student=NAME --all"
            )
        return self.taps[tap]

    @property
    def maps(self) -> list[str]:
        """The feature maps where the network's stages end, in order.

        Where two or more modules are numbered (`layer1`, `layer2`, ...), they are the stages: neither the stem nor
        the head is one. A numbered module that the next one widens at the same size (layers 4 to 6 of MobileNetV2) is
        only part of a stage. Elsewhere the last tap of each size.
        """
        maps = {name: shape for name, shape in self._top().items() if len(shape) == 3}
        stages = {name: shape for name, shape in maps.items() if STAGE.fullmatch(name.rpartition(".")[2])}
        if len(stages) < 2:
            return list({shape[1:]: name for name, shape in maps.items()}.values())
        following = itertools.pairwise([*stages.items(), ("", ())])
        return [name for (name, here), (_, after) in following if here == after or here[1:] != after[1:]]

    @property
    def first_map(self) -> str | None:
        """The first feature map at the level of the stages: of the stem, or of the first stage."""
        return next((name for name, shape in self._top().items() if len(shape) == 3), None)

    @property
    def vector(self) -> str:
        """The tap of the vector that the last layer takes: the penultimate layer.

        Raises:
            ValueError: no module returns one vector per image before the last one does.
        """
        if not self.vectors:
            raise ValueError(f"{self.name} has no tap of one vector per image before its logits")
        return self.vectors[-1]

    @property
    def vectors(self) -> list[str]:
        """The taps of one vector per image, in order, without the logits."""
        return [name for name, shape in self._top().items() if len(shape) == 1 and name not in self.output]

    def _top(self) -> dict[str, Shape]:
        """The taps of the network's own children, or of the outermost modules of which there are two (a wrapper)."""
        for depth in sorted({name.count(".") for name in self.taps}):
            level = {name: shape for name, shape in self.taps.items() if name.count(".") == depth}
            if len(level) > 1:
                return level
        return dict(self.taps)


def outline(
    network: nn.Module, example: Shape, name: str = "network", *, dtype: torch.dtype = torch.float32
) -> Outline:
    """The outline of a network for images `[C, H, W]` or sequences `[L]` (of int64).

    Two examples pass through it, without data where the network is on the meta device.
    """
    seen: dict[str, Tensor] = {}

    def note(path: str, module: nn.Module, inputs: object, output: object) -> None:
        if isinstance(output, Tensor) and output.ndim >= 2:
            seen[path] = output

    with contextlib.ExitStack() as hooks:
        for path, module in network.named_modules():
            if path:
                hooks.callback(module.register_forward_hook(functools.partial(note, path)).remove)
        was_training = network.training
        device = next((each.device for each in network.parameters()), torch.device("meta"))
        with torch.no_grad():
            logits = network.eval()(torch.zeros(2, *example, dtype=dtype, device=device))
        network.train(was_training)
    return Outline(
        name,
        taps={path: tuple(tensor.shape[1:]) for path, tensor in seen.items() if len(tensor) == 2},
        output=frozenset(path for path, tensor in seen.items() if tensor is logits),
        num_classes=logits.shape[-1],
        parameters={path: tuple(tensor.shape) for path, tensor in network.named_parameters()},
    )
