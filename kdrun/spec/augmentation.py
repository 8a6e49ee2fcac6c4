"""How the views of training images differ from the images."""

from __future__ import annotations

from dataclasses import dataclass


@dataclass(frozen=True)
class Augmentation:
    """Random crop, then horizontal flip, then rotation: torchvision's transforms of these names, in this order.

    Attributes:
        crop_padding: black pixels added on each side before an image-sized piece is cut out; 0 for no crop.
        flip: mirror half of the images left to right.
        rotation: turn about the centre by an angle from `[-rotation, rotation]` degrees, 0 to 180; nearest
            neighbour, black outside; 0 for none.

    Raises:
        ValueError: a value out of its range.
    """

    crop_padding: int = 0
    flip: bool = False
    rotation: float = 0.0

    def __post_init__(self) -> None:
        if isinstance(self.crop_padding, bool) or not isinstance(self.crop_padding, int) or self.crop_padding < 0:
            raise ValueError(f"crop_padding={self.crop_padding!r}: must be a whole number of pixels, 0 or more")
        if not isinstance(self.flip, bool):
            raise ValueError(f"flip={self.flip!r}: must be true or false")
        if not 0 <= self.rotation <= 180:
            raise ValueError(f"rotation={self.rotation!r}: must be from 0 to 180 degrees")

    @property
    def changes(self) -> bool:
        """Whether views can differ from their images."""
        return self != Augmentation()
