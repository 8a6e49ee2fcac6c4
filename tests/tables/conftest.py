"""Runs made up: see `tests/made_up.py`."""

from tests.made_up import archive, cells, draw, drawn, paper_table, rendered, sweep

__all__ = ["archive", "cells", "draw", "drawn", "paper_table", "rendered", "sweep"]
