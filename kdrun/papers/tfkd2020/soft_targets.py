"""What a trained network's soft targets look like as the temperature grows, as numbers and as a figure."""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

import torch
import torch.nn.functional as F
from torch import Tensor

from kdrun.experiment.derived import Derived
from kdrun.log import counted
from kdrun.papers.tfkd2020.soft_targets_plot import draw_soft_targets
from kdrun.tables import Entry
from kdrun.tables.figures import Figure, Rendering
from kdrun.training.evaluation import predict
from kdrun.training.precision import autocast

if TYPE_CHECKING:
    from kdrun.experiment.runner import Runner

TEMPERATURES = (1.0, 2.0, 4.0, 8.0, 20.0, 40.0, 80.0)
NUM_IMAGES = 1000
"""The first test images; all where there are fewer."""


@dataclass(frozen=True)
class SoftTargets(Derived):
    """A finished run's outputs on test images, see `describe`."""

    def words(self) -> str:
        return "soft targets by temperature"

    def compute(self, runner: Runner) -> dict[str, Any]:
        (spec,) = self.specs
        test = runner.data(spec.dataset).test
        logits = predict(runner.network(spec), test, autocast(runner.device, spec.precision), limit=NUM_IMAGES).double()
        return describe(logits, test.labels[: len(logits)])


class SoftTargetsFigure(Figure):
    """The outputs of the first seed's networks on test images, against a smoothed label."""

    files = ("soft_targets.png",)

    def needs(self, entries: Sequence[Entry]) -> list[SoftTargets]:
        return list(_of_students(entries).values())

    def draw(self, table: Rendering) -> None:
        asked = _of_students([line.entry for line in table.lines])
        found = {name: record for name, each in asked.items() if (record := table.kept(each)) is not None}
        if found:
            (spec,) = asked[next(iter(found))].specs
            title = f"{spec.dataset.name}, {counted(spec.epochs_trained, 'epoch')}, seed {spec.seed}"
            draw_soft_targets(table.directory / "soft_targets.png", found, title=title)


def _of_students(entries: Sequence[Entry]) -> dict[str, SoftTargets]:
    """By student, of its last row."""
    return {entry.student: SoftTargets(entry.specs[:1]) for entry in entries if entry.specs}


def describe(logits: Tensor, labels: Tensor) -> dict[str, Any]:
    """Logits `[N, K]` with labels `[N]` in numbers.

    Returns:
        `num_classes`; `temperatures`; `kl_to_uniform`, the mean KL(p_T || u) in nats at each; and of the image with
        the median confidence among those it gets right: `index`, `label`, `classes` (the ten likeliest at T=1, or all
        where there are fewer) and `probs`, their probabilities at each temperature.
    """
    confidence = F.softmax(logits, dim=1).gather(1, labels[:, None]).squeeze(1)
    right = (logits.argmax(dim=1) == labels).nonzero().squeeze(1)
    order = right[confidence[right].argsort()] if len(right) else confidence.argsort()
    index = int(order[len(order) // 2])
    classes = logits[index].topk(min(10, logits.shape[1])).indices
    softened = {temperature: F.softmax(logits / temperature, dim=1) for temperature in TEMPERATURES}
    return {
        "num_classes": logits.shape[1],
        "temperatures": list(TEMPERATURES),
        "kl_to_uniform": [kl_to_uniform(probs).mean().item() for probs in softened.values()],
        "index": index,
        "label": int(labels[index]),
        "classes": classes.tolist(),
        "probs": [probs[index, classes].tolist() for probs in softened.values()],
    }


def kl_to_uniform(probs: Tensor) -> Tensor:
    """KL(p || u) = log K - H(p), in nats, of distributions `[..., K]`."""
    distance: Tensor = math.log(probs.shape[-1]) - torch.special.entr(probs).sum(dim=-1)
    return distance
