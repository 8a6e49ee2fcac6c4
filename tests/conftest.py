"""What holds for every test."""

import pytest
import torch


@pytest.fixture(autouse=True)
def one_thread():
    """Small tensors are slower when shared, and results are equal bit for bit."""
    torch.set_num_threads(1)


@pytest.fixture(autouse=True)
def nobody_is_trusted(monkeypatch):
    """Whatever the shell that runs the tests says."""
    monkeypatch.delenv("KDRUN_TRUST", raising=False)
