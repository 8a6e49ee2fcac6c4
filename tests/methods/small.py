"""Small residual networks for the tests of methods, their outlines, and a teacher's output for one batch."""

import copy
import functools

import torch
from torch import nn

from kdrun.methods import TeacherOutput
from kdrun.models.resnet import basic_block, residual_network
from kdrun.taps import Outline, outline, tapped

N, K, IMAGE = 6, 5, (3, 8, 8)
LABELS = torch.arange(N) % K
X = torch.randn(N, *IMAGE, generator=torch.Generator().manual_seed(0))


def network(seed: int, *widths: int, depth: int = 1) -> nn.Sequential:
    with torch.random.fork_rng():
        torch.manual_seed(seed)
        return residual_network(K, 3, stem=4, widths=widths, blocks=(depth,) * len(widths), block=basic_block)


@functools.cache
def outline_of(net: nn.Module, name: str = "net") -> Outline:
    return outline(copy.deepcopy(net).to("meta"), IMAGE, name)


@functools.cache
def answer(teacher: nn.Module) -> TeacherOutput:
    """Logits, the outputs of all modules, the weights, and the logits of three members."""
    with torch.no_grad(), tapped(teacher, [name for name, _ in teacher.named_modules() if name]) as features:
        logits = teacher(X)
    members = torch.stack([logits, 2 * logits.flip(1), logits.roll(1, 1)])
    return TeacherOutput(logits, dict(features), dict(teacher.state_dict()), members)
