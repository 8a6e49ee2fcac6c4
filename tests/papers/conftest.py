"""Whole runs, and tables of made-up runs, as in the core's tests."""

from tests.experiment.conftest import finished, lab, trained
from tests.made_up import archive, cells, drawn, paper_table, rendered

__all__ = ["archive", "cells", "drawn", "finished", "lab", "paper_table", "rendered", "trained"]
