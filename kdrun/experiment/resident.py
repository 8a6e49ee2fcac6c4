"""A dataset as a run sees it: loaded, verified, selected, and resident on the device."""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path

import torch

from kdrun.data import ImageSet, ResidentImages, relabelled, select
from kdrun.experiment.build import load_splits
from kdrun.experiment.dataset_spec import DatasetSpec


@dataclass(frozen=True)
class ResidentSplits:
    """The splits of one dataset on the device; `val` is None where none is held out."""

    train: ResidentImages
    val: ResidentImages | None
    test: ResidentImages

    def evaluated(self) -> dict[str, ResidentImages]:
        """What is evaluated after each epoch, by name."""
        return {"test": self.test} if self.val is None else {"val": self.val, "test": self.test}


def load_resident(dataset: DatasetSpec, root: Path, device: torch.device) -> ResidentSplits:
    """Loads, verifies and selects a dataset, and puts it on the device.

    Raises:
        kdrun.data.DataError: absent and unreachable, damaged, or not what the spec says.
    """
    selected = select(
        load_splits(dataset, root),
        train_fraction=dataset.train_fraction,
        val_fraction=dataset.val_fraction,
        classes=dataset.classes,
        special=dataset.special,
    )

    def resident(part: ImageSet) -> ResidentImages:
        return _resident(part, dataset, device)

    val = resident(selected.val) if selected.val is not None else None
    return ResidentSplits(resident(selected.train), val, resident(selected.test))


def load_test(dataset: DatasetSpec, root: Path, device: torch.device) -> ResidentImages:
    """The test images of a dataset alone, on the device.

    Raises:
        kdrun.data.DataError: absent and unreachable, damaged, or not what the spec says.
    """
    return _resident(load_splits(dataset, root).test, dataset, device)


def _resident(part: ImageSet, dataset: DatasetSpec, device: torch.device) -> ResidentImages:
    part = ImageSet(part.images, relabelled(part.labels, dataset.outputs))
    return ResidentImages(part, mean=dataset.mean, std=dataset.std, device=device)
