"""Networks for inference: BatchNorm folded into the convolutions."""

from __future__ import annotations

import copy
import itertools

from torch import nn
from torch.nn.utils.fusion import fuse_conv_bn_eval

from kdrun.training.batch_norm import OF_THE_WHOLE_BATCH

FOLDED = (nn.BatchNorm2d, *OF_THE_WHOLE_BATCH)


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
            if type(conv) is nn.Conv2d and type(bn) in FOLDED and bn.track_running_stats:
                setattr(sequence, first, fuse_conv_bn_eval(conv, bn))
                setattr(sequence, second, nn.Identity())
    return bare
