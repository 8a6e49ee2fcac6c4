"""What a run is trained and tested on, as a part of its spec."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any

TASK = ("target", "identity", "num_classes", "in_channels", "image_size", "train_size", "test_size")
"""What makes a dataset itself, and not a choice of its images."""

VIEWS = ("in_channels", "image_size", "mean", "std")
"""What a network trained on it expects of its input."""


@dataclass(frozen=True)
class DatasetSpec:
    """What is trained and tested on. Its place on disk is not part of it.

    Attributes:
        target: dotted path of the loader.
        identity: official checksum, or hash of what was found (`folder`).
        num_classes: K.
        in_channels: 1 or 3.
        image_size: height and width in pixels.
        train_size: images before any selection.
        test_size: images.
        mean: per channel, of pixel values in [0, 1].
        std: per channel.
        train_fraction: share of the training set that is trained on, in (0, 1], stratified.
        val_fraction: share of the training set that is held out, in [0, 1), stratified.
        classes: the classes that stay in the training set; None is all.
        special: the classes of a specialist: it is trained on their images and as many others, drawn evenly from the
            rest; None is no specialist.
        dustbin: whether a specialist tells its own classes only, and all others as one more; else it has all K.
    """

    target: str
    identity: str
    num_classes: int
    in_channels: int
    image_size: int
    train_size: int
    test_size: int
    mean: tuple[float, ...]
    std: tuple[float, ...]
    train_fraction: float = 1.0
    val_fraction: float = 0.0
    classes: tuple[int, ...] | None = None
    special: tuple[int, ...] | None = None
    dustbin: bool = True

    def __post_init__(self) -> None:
        special = self.special is None or (self._are_classes(self.special) and len(self.special) < self.num_classes)
        enforce(
            self,
            ("num_classes", self.num_classes >= 2, "at least 2"),
            ("in_channels", self.in_channels in (1, 3), "1 or 3"),
            ("image_size", self.image_size >= 8, "at least 8"),
            ("train_size", self.train_size >= 2, "at least 2"),
            ("test_size", self.test_size >= 1, "at least 1"),
            ("mean", len(self.mean) == self.in_channels, "one number per channel"),
            ("std", len(self.std) == self.in_channels and min(self.std) > 0, "one number above 0 per channel"),
            ("train_fraction", 0 < self.train_fraction <= 1, "more than 0 and at most 1"),
            ("val_fraction", 0 <= self.val_fraction < 1, "from 0 to less than 1"),
            (
                "classes",
                self.classes is None or self._are_classes(self.classes),
                f"null, or class indices from 0 to {self.num_classes - 1}, each once",
            ),
            ("special", special, f"null, or class indices from 0 to {self.num_classes - 1}, each once, not all"),
        )

    @property
    def num_train_images(self) -> int:
        """Images that are trained on, to a rounding per class; every class gives one at least."""
        classes = self.num_classes if self.classes is None else len(self.classes)
        share = classes / self.num_classes
        if self.special is not None:
            chosen = set(self.special) & set(self.special if self.classes is None else self.classes)
            share = min(share, 2 * len(chosen) / self.num_classes)
        return max(classes, round(self.train_size * (1 - self.val_fraction) * self.train_fraction * share))

    def _are_classes(self, labels: tuple[int, ...]) -> bool:
        return bool(labels) and len(set(labels)) == len(labels) and set(labels) <= set(range(self.num_classes))

    @property
    def outputs(self) -> tuple[tuple[int, ...], ...]:
        """The classes that each output of a network stands for: one, but of a specialist's dustbin all the rest."""
        if self.special is None or not self.dustbin:
            return tuple((label,) for label in range(self.num_classes))
        rest = tuple(label for label in range(self.num_classes) if label not in self.special)
        return (*((label,) for label in self.special), rest)

    @property
    def name(self) -> str:
        return self.target.rpartition(".")[2]

    def same_task(self, other: DatasetSpec) -> bool:
        """Whether it is the other dataset with the same answers, however images are chosen from it and normalised."""
        return self.outputs == other.outputs and all(getattr(self, name) == getattr(other, name) for name in TASK)

    def same_views(self, other: DatasetSpec) -> bool:
        """Whether a network trained on the other dataset takes the views of this one as they are."""
        return all(getattr(self, name) == getattr(other, name) for name in VIEWS)


def enforce(instance: Any, *rules: tuple[str, bool, str]) -> None:
    """Raises one `ValueError` with a line for each (field, holds, what is allowed) that does not hold."""
    broken = [(name, getattr(instance, name), allowed) for name, holds, allowed in rules if not holds]
    if broken:
        shown = [(name, list(value) if isinstance(value, tuple) else value, allowed) for name, value, allowed in broken]
        raise ValueError("\n".join(f"{name}={value!r}: must be {allowed}" for name, value, allowed in shown))
