"""The toy lab of `tests/experiment`."""

from tests.experiment.conftest import lab

__all__ = ["lab"]
