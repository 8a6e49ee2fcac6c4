"""The laboratory of `tests/experiment` for runs on generated sentences."""

import pytest

from kdrun.spec.dataset import SequenceDatasetSpec
from kdrun.spec.spec import Recipe
from tests.experiment.conftest import Lab, lab

__all__ = ["lab"]

SENTENCES = SequenceDatasetSpec("kdrun.papers.abnar2020.datasets.agreement", "none", 2, 547, 32, 66, 40)
TEXT = SequenceDatasetSpec("kdrun.papers.abnar2020.datasets.agreement_lm", "none", 547, 547, 16, 66, 20, per_token=True)
FOR_SEQUENCES = Recipe(
    **{"epochs": 3, "batch_size": 16, "lr": 0.02, "optimizer": "adam", "weight_decay": 0.0},
    **{"schedule": "cosine", "clip_norm": 1.0, "lr_batch_size": None},
)


@pytest.fixture
def classes(tmp_path) -> Lab:
    """For sequences with a label each."""
    return Lab(tmp_path, SENTENCES, FOR_SEQUENCES, "transformer", "lstm")


@pytest.fixture
def text(tmp_path) -> Lab:
    """For language models: every token has a label."""
    return Lab(tmp_path, TEXT, FOR_SEQUENCES, "transformer", "lstm")


@pytest.fixture(params=["classes", "text"])
def either(request) -> Lab:
    """For sequences of both kinds, one after the other."""
    return request.getfixturevalue(request.param)
