"""One thread for the whole suite: small tensors are slower when shared, and results are equal bit for bit."""

import pytest
import torch


@pytest.fixture(autouse=True)
def one_thread():
    torch.set_num_threads(1)
