"""How the views of training images differ from the images: torchvision's transforms, by torchvision's names."""

from __future__ import annotations

import dataclasses
from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any

from kdrun.spec.signature import enforce

MOST_OPS = 16
"""Operations of RandAugment on one view."""

MOST_BINS = 1_000
MOST_JITTER = 100.0
"""Of brightness, contrast and saturation."""

LARGEST_ALPHA = 100.0
"""Of a Beta distribution."""

SHARE = "[least, largest], in (0, 1]"
RATIO = "[least, largest], from 0.001 to 1000"


def _is_share(values: tuple[float, ...]) -> bool:
    return len(values) == 2 and 0 < values[0] <= values[1] <= 1


def _is_ratio(values: tuple[float, ...]) -> bool:
    return len(values) == 2 and 1e-3 <= values[0] <= values[1] <= 1e3


@dataclass(frozen=True)
class ColorJitter:
    """Brightness, contrast, saturation and hue, changed in random order: torchvision's ColorJitter. 0 changes nothing.

    Attributes:
        brightness: the factor is from `[max(0, 1 - brightness), 1 + brightness]`; 0 to 100.
        contrast: likewise.
        saturation: likewise; colour images only.
        hue: the shift is from `[-hue, hue]`, in turns of the colour circle, 0 to 0.5; colour images only.

    Raises:
        ValueError: a value out of its range.
    """

    brightness: float = 0.0
    contrast: float = 0.0
    saturation: float = 0.0
    hue: float = 0.0

    def __post_init__(self) -> None:
        strengths = ("brightness", "contrast", "saturation")
        enforce(
            self,
            *((name, 0 <= getattr(self, name) <= MOST_JITTER, f"from 0 to {MOST_JITTER:g}") for name in strengths),
            ("hue", 0 <= self.hue <= 0.5, "from 0 to 0.5"),
        )


@dataclass(frozen=True)
class RandAugment:
    """`num_ops` of 14 operations, drawn for each view: torchvision's RandAugment, interpolating bilinearly.

    Attributes:
        num_ops: 0 for none.
        magnitude: strength, from 0 to `num_magnitude_bins - 1`.
        num_magnitude_bins: strengths that there are, at least 2.

    Raises:
        ValueError: a value out of its range.
    """

    num_ops: int = 0
    magnitude: int = 9
    num_magnitude_bins: int = 31

    def __post_init__(self) -> None:
        enforce(
            self,
            ("num_ops", 0 <= self.num_ops <= MOST_OPS, f"from 0 to {MOST_OPS}"),
            ("num_magnitude_bins", 2 <= self.num_magnitude_bins <= MOST_BINS, f"from 2 to {MOST_BINS}"),
            ("magnitude", 0 <= self.magnitude < self.num_magnitude_bins, "at least 0 and below num_magnitude_bins"),
        )


@dataclass(frozen=True)
class RandomErasing:
    """One rectangle of a normalised view set to 0: torchvision's RandomErasing.

    Attributes:
        p: probability, 0 for none.
        scale: least and largest share of the view's area, in (0, 1].
        ratio: least and largest height / width of the rectangle, 0.001 to 1000.

    Raises:
        ValueError: a value out of its range.
    """

    p: float = 0.0
    scale: tuple[float, ...] = (0.02, 0.33)
    ratio: tuple[float, ...] = (0.3, 3.3)

    def __post_init__(self) -> None:
        enforce(
            self,
            ("p", 0 <= self.p <= 1, "from 0 to 1"),
            ("scale", _is_share(self.scale), SHARE),
            ("ratio", _is_ratio(self.ratio), RATIO),
        )


@dataclass(frozen=True)
class Augmentation:
    """Resized crop, padded crop, horizontal flip, rotation, colour jitter, RandAugment, erasing and mixing, in this
    order: torchvision's transforms of these names.

    Attributes:
        crop_padding: black pixels added on each side before an image-sized piece is cut out; 0 for no crop.
        flip: mirror half of the images left to right.
        rotation: turn about the centre by an angle from `[-rotation, rotation]` degrees, 0 to 180; nearest
            neighbour, black outside; 0 for none.
        crop_scale: least and largest share of the image's area that RandomResizedCrop cuts out and resizes to the
            size of the views (bilinear, antialiased), in (0, 1]; None for no such crop.
        crop_ratio: least and largest width / height of that piece, 0.001 to 1000.
        color_jitter: see `ColorJitter`.
        rand_augment: see `RandAugment`.
        random_erasing: see `RandomErasing`.
        mixup_alpha: of Beta(alpha, alpha), the distribution of a view's weight in the mean of it and its partner;
            0 for none.
        cutmix_alpha: of Beta(alpha, alpha), the distribution of the share of a view that its partner does not
            replace; 0 for none. With both, each view has one of the two, with probability 1/2.

    Raises:
        ValueError: a value out of its range.
    """

    crop_padding: int = 0
    flip: bool = False
    rotation: float = 0.0
    crop_scale: tuple[float, ...] | None = None
    crop_ratio: tuple[float, ...] = (3 / 4, 4 / 3)
    color_jitter: ColorJitter = ColorJitter()
    rand_augment: RandAugment = RandAugment()
    random_erasing: RandomErasing = RandomErasing()
    mixup_alpha: float = 0.0
    cutmix_alpha: float = 0.0

    def __post_init__(self) -> None:
        padding = self.crop_padding
        whole = isinstance(padding, int) and not isinstance(padding, bool)
        alpha = f"from 0 to {LARGEST_ALPHA:g}"
        enforce(
            self,
            ("crop_padding", whole and padding >= 0, "a whole number of pixels, 0 or more"),
            ("flip", isinstance(self.flip, bool), "true or false"),
            ("rotation", 0 <= self.rotation <= 180, "from 0 to 180 degrees"),
            ("crop_scale", self.crop_scale is None or _is_share(self.crop_scale), f"null or {SHARE}"),
            ("crop_ratio", _is_ratio(self.crop_ratio), RATIO),
            ("mixup_alpha", 0 <= self.mixup_alpha <= LARGEST_ALPHA, alpha),
            ("cutmix_alpha", 0 <= self.cutmix_alpha <= LARGEST_ALPHA, alpha),
        )

    @classmethod
    def from_plain(cls, values: Mapping[str, Any]) -> Augmentation:
        """The augmentation of these values, those of its parts in mappings."""
        parts = {"color_jitter": ColorJitter, "rand_augment": RandAugment, "random_erasing": RandomErasing}
        return cls(**{name: parts[name](**value) if name in parts else value for name, value in values.items()})

    def changed(self) -> dict[str, Any]:
        """The values that are not at their default, those of its parts under dotted names."""
        return _changed(self)

    @property
    def changes(self) -> bool:
        """Whether views can differ from their images."""
        return self.moves_pixels or self.per_image or self.random_erasing.p > 0 or self.mixes

    @property
    def moves_pixels(self) -> bool:
        """Whether views differ by padded crop, flip or rotation, which `kdrun.data.augment` makes for whole batches."""
        return self.crop_padding > 0 or self.flip or self.rotation > 0

    @property
    def per_image(self) -> bool:
        """Whether views are made one by one, from uint8 images in the host's memory (`kdrun.data.image_views`)."""
        return self.crop_scale is not None or self.color_jitter != ColorJitter() or self.rand_augment.num_ops > 0

    @property
    def mixes(self) -> bool:
        """Whether views are mixed in pairs, and their labels with them."""
        return self.mixup_alpha > 0 or self.cutmix_alpha > 0


def _changed(part: Any) -> dict[str, Any]:
    found: dict[str, Any] = {}
    for field in dataclasses.fields(part):
        value = getattr(part, field.name)
        if dataclasses.is_dataclass(value):
            found |= {f"{field.name}.{name}": inner for name, inner in _changed(value).items()}
        elif value != field.default:
            found[field.name] = value
    return found
