"""The dataset in a spec: images, or sequences of tokens."""

from __future__ import annotations

import dataclasses
from abc import ABC, abstractmethod
from collections.abc import Mapping
from dataclasses import dataclass
from operator import attrgetter
from typing import TYPE_CHECKING, Any, ClassVar

from kdrun.spec.augmentation import Augmentation
from kdrun.spec.signature import enforce

if TYPE_CHECKING:
    import torch

Source = Mapping[str, str] | str
"""What a part from outside kdrun is made of, so that another version of it makes another run: for each own module
and each file that an option names its SHA-256, for each installed distribution its version (see `own_code.sources`).
Specs of `SEMANTICS` 1 have the SHA-256 of one file. kdrun's own parts have none: `SEMANTICS` covers them."""


MOST_CLASSES = 1_000_000
"""Classes, or words of a vocabulary."""

MOST_EXAMPLES = 1_000_000_000
LARGEST_IMAGE = 16_384
"""Pixels of a side."""

LONGEST_SEQUENCE = 1_000_000
"""Tokens."""


class DatasetSpec(ABC):
    """A dataset and the selection of its training examples, without its place on disk.

    Attributes:
        target: dotted path of the loader.
        identity: official checksum, or hash of what was found (`folder`).
        num_classes: K.
        train_size: examples before any selection.
        test_size: examples.
        train_fraction: share of the training set that is trained on, in (0, 1], stratified.
        val_fraction: share of the training set that is held out, in [0, 1), stratified.
        classes: the classes that stay in the training set; None is all.
        special: the classes of a specialist, see `ImageDatasetSpec`.
        source: what a loader from outside kdrun is made of, see `Source`.
        special_seed: likewise.
        example: the word for one example.
        task: names of the fields that make a dataset itself, and not a choice of its examples.
        views: names of the fields that determine a network's input.
    """

    target: str
    identity: str
    num_classes: int
    train_size: int
    test_size: int
    train_fraction: float
    val_fraction: float
    classes: tuple[int, ...] | None = None
    special: tuple[int, ...] | None = None
    source: Source | None = None
    special_seed: int = 0

    example: ClassVar[str]
    task: ClassVar[tuple[str, ...]]
    views: ClassVar[tuple[str, ...]]

    @property
    @abstractmethod
    def dtype(self) -> torch.dtype:
        """Of a network's input."""

    @property
    @abstractmethod
    def shape(self) -> tuple[int, ...]:
        """Of a network's input for one example."""

    @property
    @abstractmethod
    def network_options(self) -> dict[str, int | bool]:
        """The parameters of a network that the data determines, by name."""

    @abstractmethod
    def check_augmentation(self, augmentation: Augmentation) -> None:
        """Raises `ValueError` for an augmentation that these examples cannot have."""

    @abstractmethod
    def selected(self, train_fraction: float, val_fraction: float, classes: tuple[int, ...] | None) -> DatasetSpec:
        """The dataset with another selection of its training examples.

        Raises:
            ValueError: a fraction or class out of range, or classes where nothing is chosen by them.
        """

    @abstractmethod
    def without_source(self) -> DatasetSpec:
        """The dataset as if its loader were kdrun's."""

    @property
    def labels_each(self) -> int:
        """Labels of an example, each with a row of logits."""
        return 1

    @property
    def num_test_labels(self) -> int:
        """Labels of the test set."""
        return self.test_size * self.labels_each

    @property
    def labelled(self) -> str:
        """What has a label: an image, a sequence, or a token."""
        return "token" if self.labels_each > 1 else self.example

    @property
    def unit(self) -> str:
        """The same in three letters."""
        return {"image": "img", "sequence": "seq", "token": "tok"}[self.labelled]

    @property
    def outputs(self) -> tuple[tuple[int, ...], ...]:
        """The classes that each output of a network stands for: one."""
        return tuple((label,) for label in range(self.num_classes))

    @property
    def num_train_examples(self) -> int:
        """Examples that are trained on, to a rounding per class; every class of examples gives one at least."""
        classes = self.num_classes if self.classes is None else len(self.classes)
        share = classes / self.num_classes
        if self.special is not None:
            chosen = set(self.special) & set(self.special if self.classes is None else self.classes)
            share = min(share, 2 * len(chosen) / self.num_classes)
        least = classes if self.labels_each == 1 else 1
        return max(least, round(self.train_size * (1 - self.val_fraction) * self.train_fraction * share))

    @property
    def name(self) -> str:
        return self.target.rpartition(".")[2]

    def same_task(self, other: DatasetSpec) -> bool:
        """Whether it is the other dataset with the same answers, however examples are chosen from it and presented."""
        return self.outputs == other.outputs and self._agree(other, self.task)

    def same_views(self, other: DatasetSpec) -> bool:
        """Whether a network trained on the other dataset takes the views of this one as they are."""
        return self._agree(other, self.views)

    def _agree(self, other: DatasetSpec, names: tuple[str, ...]) -> bool:
        return type(self) is type(other) and all(getattr(self, name) == getattr(other, name) for name in names)

    def _common_rules(self) -> tuple[tuple[str, bool, str], ...]:
        return (
            ("num_classes", 2 <= self.num_classes <= MOST_CLASSES, f"at least 2 and at most {MOST_CLASSES}"),
            ("train_size", 2 <= self.train_size <= MOST_EXAMPLES, f"at least 2 and at most {MOST_EXAMPLES}"),
            ("test_size", 1 <= self.test_size <= MOST_EXAMPLES, f"at least 1 and at most {MOST_EXAMPLES}"),
            ("train_fraction", 0 < self.train_fraction <= 1, "more than 0 and at most 1"),
            ("val_fraction", 0 <= self.val_fraction < 1, "from 0 to less than 1"),
        )


@dataclass(frozen=True)
class ImageDatasetSpec(DatasetSpec):
    """Images, each of one class.

    Attributes:
        in_channels: 1 or 3.
        image_size: height and width in pixels.
        mean: per channel, of pixel values in [0, 1].
        std: per channel.
        special: the classes of a specialist: it is trained on their images and as many others, drawn evenly from the
            rest; None is no specialist.
        dustbin: whether a specialist has outputs for its classes and one for all the others; else it has all K.
        test_split: the directory of the test images, where a loader has several and the user names one.
        special_seed: of the draw of these others.
        resize_size: of the shorter side of an image before its centre is cut out, where a loader reads files; None is
            `image_size`.
        skip_corrupt: whether images that cannot be read are left out, where a loader reads files.
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
    test_split: str | None = None
    source: Source | None = None
    special_seed: int = 0
    resize_size: int | None = None
    skip_corrupt: bool = False

    example: ClassVar[str] = "image"
    task: ClassVar[tuple[str, ...]] = (
        *("target", "identity", "num_classes", "in_channels", "image_size", "train_size", "test_size"),
    )
    views: ClassVar[tuple[str, ...]] = ("in_channels", "image_size", "resize_size", "mean", "std")

    def __post_init__(self) -> None:
        special = self.special is None or (self._are_classes(self.special) and len(self.special) < self.num_classes)
        enforce(
            self,
            *self._common_rules(),
            ("in_channels", self.in_channels in (1, 3), "1 or 3"),
            ("image_size", 8 <= self.image_size <= LARGEST_IMAGE, f"at least 8 and at most {LARGEST_IMAGE}"),
            (
                "resize_size",
                self.resize_size is None or self.image_size <= self.resize_size <= LARGEST_IMAGE,
                f"null, or at least image_size={self.image_size} and at most {LARGEST_IMAGE}",
            ),
            ("mean", len(self.mean) == self.in_channels, "one number per channel"),
            ("std", len(self.std) == self.in_channels and min(self.std) > 0, "one number above 0 per channel"),
            (
                "classes",
                self.classes is None or self._are_classes(self.classes),
                f"null, or class indices from 0 to {self.num_classes - 1} or class names, each once",
            ),
            ("special", special, f"null, or class indices from 0 to {self.num_classes - 1}, each once, not all"),
        )

    def _are_classes(self, labels: tuple[int, ...]) -> bool:
        return bool(labels) and len(set(labels)) == len(labels) and set(labels) <= set(range(self.num_classes))

    @property
    def dtype(self) -> torch.dtype:
        import torch

        return torch.float32

    @property
    def shape(self) -> tuple[int, ...]:
        return (self.in_channels, self.image_size, self.image_size)

    @property
    def network_options(self) -> dict[str, int | bool]:
        return {"num_classes": len(self.outputs), "in_channels": self.in_channels, "image_size": self.image_size}

    @property
    def outputs(self) -> tuple[tuple[int, ...], ...]:
        """The classes that each output of a network stands for: one, but of a specialist's dustbin all the rest."""
        if self.special is None or not self.dustbin:
            return super().outputs
        rest = tuple(label for label in range(self.num_classes) if label not in self.special)
        return (*((label,) for label in self.special), rest)

    def selected(self, train_fraction: float, val_fraction: float, classes: tuple[int, ...] | None) -> DatasetSpec:
        return dataclasses.replace(self, train_fraction=train_fraction, val_fraction=val_fraction, classes=classes)

    def without_source(self) -> DatasetSpec:
        return dataclasses.replace(self, source=None)

    def check_augmentation(self, augmentation: Augmentation) -> None:
        if augmentation.crop_padding >= self.image_size:
            raise ValueError(
                f"crop_padding={augmentation.crop_padding}: must be smaller than the images, which are "
                f"{self.image_size} x {self.image_size} pixels"
            )
        if self.in_channels == 1:
            no_effect = [
                f"color_jitter.{name}={value:g}: has no effect on images of one channel: must be 0"
                for name, value in vars(augmentation.color_jitter).items()
                if name in ("saturation", "hue") and value
            ]
            if no_effect:
                raise ValueError("\n".join(no_effect))


@dataclass(frozen=True)
class SequenceDatasetSpec(DatasetSpec):
    """Sequences of tokens, with one label each, or with one for each token: the one that follows.

    Attributes:
        num_tokens: size of the vocabulary.
        length: tokens of a sequence.
        per_token: whether every token has a label (a language model), or the sequence (a classifier).
    """

    target: str
    identity: str
    num_classes: int
    num_tokens: int
    length: int
    train_size: int
    test_size: int
    per_token: bool = False
    train_fraction: float = 1.0
    val_fraction: float = 0.0
    source: Source | None = None

    example: ClassVar[str] = "sequence"
    task: ClassVar[tuple[str, ...]] = (
        *("target", "identity", "num_classes", "num_tokens", "length", "train_size", "test_size", "per_token"),
    )
    views: ClassVar[tuple[str, ...]] = ("num_tokens", "length")

    def __post_init__(self) -> None:
        enforce(
            self,
            *self._common_rules(),
            ("num_tokens", 2 <= self.num_tokens <= MOST_CLASSES, f"at least 2 and at most {MOST_CLASSES}"),
            ("length", 2 <= self.length <= LONGEST_SEQUENCE, f"at least 2 and at most {LONGEST_SEQUENCE}"),
        )

    @property
    def dtype(self) -> torch.dtype:
        import torch

        return torch.int64

    @property
    def shape(self) -> tuple[int, ...]:
        return (self.length,)

    @property
    def network_options(self) -> dict[str, int | bool]:
        return {name: getattr(self, name) for name in ("num_classes", "num_tokens", "length", "per_token")}

    @property
    def labels_each(self) -> int:
        return self.length if self.per_token else 1

    def selected(self, train_fraction: float, val_fraction: float, classes: tuple[int, ...] | None) -> DatasetSpec:
        if classes is not None:
            raise ValueError(f"classes={list(classes)}: is of images, and {self.name} has sequences; must be null")
        return dataclasses.replace(self, train_fraction=train_fraction, val_fraction=val_fraction)

    def without_source(self) -> DatasetSpec:
        return dataclasses.replace(self, source=None)

    def check_augmentation(self, augmentation: Augmentation) -> None:
        changed, none = augmentation.changed(), Augmentation()
        lines = [
            f"{name}={value!r}: is of images, and {self.name} has sequences: must be {attrgetter(name)(none)!r}"
            for name, value in changed.items()
        ]
        if lines:
            raise ValueError("\n".join(lines))


def kind_of(values: Mapping[str, Any]) -> type[ImageDatasetSpec | SequenceDatasetSpec]:
    """The class that a dataset's plain values describe: sequences have a vocabulary."""
    return SequenceDatasetSpec if "num_tokens" in values else ImageDatasetSpec
