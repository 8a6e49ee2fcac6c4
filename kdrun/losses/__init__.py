"""The losses of knowledge distillation: pure tensor functions in closed form, without state.

Conventions. Logits are `[N, K]` (N images, K classes), labels are integer class indices `[N]`; every loss is a
scalar, the mean over the N images. `alpha` weighs the distillation term and `1 - alpha` the hard label.
Everything is computed in log space, outside autocast: float64 stays float64, anything narrower is computed in
float32. Gradients reach the student only.

A public function of a module is a name here, imported when it is first used.
"""

from typing import TYPE_CHECKING, Any

from kdrun import lazy

if TYPE_CHECKING:
    from kdrun.losses.base import *
    from kdrun.losses.born_again import *
    from kdrun.losses.contrastive import *
    from kdrun.losses.correlation import *
    from kdrun.losses.decoupled import *
    from kdrun.losses.ensemble import *
    from kdrun.losses.features import *
    from kdrun.losses.label_smoothing import *
    from kdrun.losses.logit_matching import *
    from kdrun.losses.partial_targets import *
    from kdrun.losses.relations import *
    from kdrun.losses.soft_targets import *
    from kdrun.losses.triplet import *


def __getattr__(name: str) -> Any:
    return lazy.attribute(__name__, name)
