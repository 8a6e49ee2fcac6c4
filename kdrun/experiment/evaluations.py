"""Evaluations of finished runs beside their result: the base class, and the test set as it is.

An evaluation is chosen by its name in the config group `evaluation`, whose `_target_` is loaded when it is used.
"""

from __future__ import annotations

import math
from abc import ABC, abstractmethod
from collections.abc import Mapping
from dataclasses import dataclass, field
from pathlib import Path
from typing import TYPE_CHECKING, Any, ClassVar

from kdrun.data import DataError, Examples
from kdrun.experiment.datasets import prepare, settled_splits
from kdrun.metrics import classification_metrics, expected_calibration_error
from kdrun.spec.dataset import DatasetSpec
from kdrun.spec.spec import Component, Spec

if TYPE_CHECKING:
    from kdrun.experiment.runner import Runner

FINE_BINS = 1_000_000
"""Of the ECE in the released code of Abnar et al. (2020): near the mean of |correct - confidence|."""


class Evaluation(ABC):
    """One evaluation. Its constructor's parameters are the options of its config.

    Attributes:
        what: the data that runs are evaluated on, in words.
        of: the datasets whose runs it is for, in words.
        meanings: its figures whose names need an explanation, by name.
    """

    of: str = "any dataset"
    meanings: ClassVar[Mapping[str, str]] = {}

    @property
    @abstractmethod
    def what(self) -> str:
        """The data that runs are evaluated on, in words."""

    def fits(self, dataset: DatasetSpec) -> bool:
        """Whether it is for runs on a dataset."""
        return True

    def check_files(self, root: Path) -> None:
        """Checks that its files are under the data root, where it reads more than the dataset.

        Raises:
            DataError: a file is absent or damaged.
        """
        return

    @abstractmethod
    def evaluate(self, runner: Runner, spec: Spec) -> dict[str, Any]:
        """Evaluates a finished run.

        Args:
            runner: has the run: `network(spec)`, `answers(spec, examples)`, `runtime`, `device`,
                `data_root`.
            spec: of the run.

        Returns:
            `figures`, numbers by name; `buckets` (optional), for each kind of bucket percentages by bucket.
        """


@dataclass(frozen=True)
class NamedEvaluation:
    """An evaluation with its name in the config group. Of one command, those of equal names are equal.

    Attributes:
        name: of the group's option.
        evaluation: the object.
        component: its target, its options that are not at their default, and its source where it is not kdrun's.
    """

    name: str
    evaluation: Evaluation = field(compare=False)
    component: Component = field(compare=False)

    @property
    def identity(self) -> dict[str, Any]:
        """The part of its figures' identity beside the run; plain values."""
        own = {"options": dict(self.component.options), "source": self.component.source}
        return {"on": self.name, **{key: value for key, value in own.items() if value}}

    def missing_files(self, root: Path) -> str | None:
        """The missing files under the data root, in words; None without."""
        try:
            self.evaluation.check_files(root)
        except DataError as error:
            return str(error)
        return None


class OnTestSet(Evaluation):
    """Top-1 and ECE on the test set; of a language model its perplexity, too."""

    what = "the test set as it is"

    def examples(self, test: Examples) -> Examples:
        """The examples: the test set, or a transformation of it."""
        return test

    def evaluate(self, runner: Runner, spec: Spec) -> dict[str, Any]:
        test = self.examples(settled_splits(spec.dataset, runner.runtime).test)
        examples = prepare(test, spec.dataset, runner.runtime)
        logits, labels = runner.answers(spec, examples), examples.labels
        metrics = classification_metrics(logits, labels)
        figures = {"top-1": metrics["top1"], "ECE": metrics["ece"]}
        if spec.dataset.labels_each > 1:
            return {"figures": {"perplexity": math.exp(metrics["nll"]), **figures}}
        fine = expected_calibration_error(logits, labels, bins=FINE_BINS).item()
        return {"figures": {**figures, "ECE of 10⁶ bins": fine}}
