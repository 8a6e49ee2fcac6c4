"""What a method's class states about itself: facts that follow from its options, without an instance or a tensor.

Tables, controls and reports have a run's spec only. They use the class's facts, and know no option of any method.
"""

from __future__ import annotations

import inspect
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any, ClassVar, Literal

Knowledge = Literal["labels", "response", "feature", "relation"]
Scheme = Literal["offline", "online", "self"]
LabelKind = Literal["hard", "smoothed", "mixed"]
INJECTED = ("student", "pair", "training")
"""Parameters of a constructor that are no options: the program supplies them."""
Options = Mapping[str, Any]
"""All options of a method by name, those at their default included."""


@dataclass(frozen=True)
class Weights:
    """An objective of the form `hard * CE + soft * KL`, with the KL per image and T^2 apart.

    Attributes:
        hard: weight of the cross-entropy.
        soft: weight of the KL, divided by K where the KL is averaged over the classes too.
        epsilon: of the label smoothing that comes closest to the objective, at any scale; None where none does.
        is_smoothing: whether `scale * LSR(epsilon)` has the objective's gradient.
    """

    hard: float
    soft: float
    epsilon: float | None = None
    is_smoothing: bool = False

    @property
    def scale(self) -> float:
        """c: the whole weight of the objective."""
        return self.hard + self.soft

    @property
    def share(self) -> float:
        """Of the KL in the whole weight."""
        return self.soft / self.scale if self.scale else 0.0


class Facts:
    """The facts of a method; the defaults hold for any method, and carry little information.

    Attributes:
        name: used in directories and configs.
        label: used in tables; by default the name.
        knowledge: source of the targets: labels, or the teacher's responses (logits), features or relations of images.
        scheme: `offline` from a trained teacher, `online` together with it, `self` from the own architecture.
        of_one_stage: options that have an effect only without a first stage, of a method that has both forms.
        of_two_stages: options that have an effect only with one.
        of_teachers: options that decide which teachers there are and have no effect on a step.
    """

    name: ClassVar[str]
    label: ClassVar[str]
    knowledge: ClassVar[Knowledge] = "labels"
    scheme: ClassVar[Scheme] = "offline"
    of_one_stage: ClassVar[tuple[str, ...]] = ()
    of_two_stages: ClassVar[tuple[str, ...]] = ()
    of_teachers: ClassVar[tuple[str, ...]] = ()

    @classmethod
    def defaults(cls) -> dict[str, Any]:
        """The default of each option that has one."""
        parameters = [each for name, each in inspect.signature(cls).parameters.items() if name not in INJECTED]
        return {option.name: option.default for option in parameters if option.default is not option.empty}

    @classmethod
    def objective_text(cls, options: Options, num_classes: int) -> str:
        """The loss in one line, for instance `0.05 CE + 0.0095 T²KL, T=20`."""
        epochs = options.get("stage1_epochs")
        return f"{cls.name}, {epochs} epoch{'' if epochs == 1 else 's'} of stage 1 first" if epochs else cls.name

    @classmethod
    def effective_weights(cls, options: Options, num_classes: int) -> Weights | None:
        """The weights of an objective that is cross-entropy and one KL; None for others, which have fewer controls."""
        return None

    @classmethod
    def rescaled(cls, options: Options, num_classes: int, other: int) -> dict[str, Any]:
        """The options to change so that `other` classes have the effective weights that `num_classes` have."""
        return {}

    @classmethod
    def about_sweep(cls, option: str, settings: Sequence[Options], num_classes: int) -> str | None:
        """A notice before an option is swept; by default none.

        Args:
            option: that is swept.
            settings: all options of each of the sweep's runs.
            num_classes: K.
        """
        return None

    @classmethod
    def why_no_term(cls) -> str | None:
        """Why the method cannot be a term of a sum; None where it can."""
        return "it is not cross-entropy and one term more (kdrun.methods.Distillation)"


def added(*weighed: tuple[float, str]) -> str:
    """Terms with their weights; those of weight 0 are left out."""
    return " + ".join(what if weight == 1 else f"{weight:.4g} {what}" for weight, what in weighed if weight)
