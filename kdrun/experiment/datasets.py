"""A dataset as a run sees it: loaded, verified, selected, and resident on the device."""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path

import torch

from kdrun.data import Examples, ImageSet, Resident, ResidentImages, ResidentSequences, relabelled, select
from kdrun.experiment.build import load_splits
from kdrun.spec.dataset import DatasetSpec, ImageDatasetSpec


@dataclass(frozen=True)
class ResidentSplits:
    """The splits of one dataset on the device, as `kdrun.data.Selected` has them."""

    train: Resident
    val: Resident | None
    test: Resident
    rest: tuple[int, int] | None = None

    def evaluated(self) -> dict[str, Resident]:
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
        special_seed=dataset.special_seed,
    )

    def resident(part: Examples) -> Resident:
        return make_resident(part, dataset, device)

    val = resident(selected.val) if selected.val is not None else None
    return ResidentSplits(resident(selected.train), val, resident(selected.test), selected.rest)


def load_test(dataset: DatasetSpec, root: Path, device: torch.device) -> Resident:
    """The test examples of a dataset alone, on the device.

    Raises:
        kdrun.data.DataError: absent and unreachable, damaged, or not what the spec says.
    """
    return make_resident(load_splits(dataset, root).test, dataset, device)


def make_resident(part: Examples, dataset: DatasetSpec, device: torch.device) -> Resident:
    """Examples of a dataset on the device, their labels as numbers of a network's outputs."""
    if isinstance(part, ImageSet):
        assert isinstance(dataset, ImageDatasetSpec), "checked by the dataset"
        part = ImageSet(part.images, relabelled(part.labels, dataset.outputs))
        return ResidentImages(part, mean=dataset.mean, std=dataset.std, device=device)
    return ResidentSequences(part, device=device)
