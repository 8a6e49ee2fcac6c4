"""Settings of the tests of the networks."""

import pytest
import torch


@pytest.fixture(autouse=True, scope="package")
def _one_thread():
    """On these tiny tensors threads only wait for each other: on a busy machine, forty times as long as one works."""
    num_threads = torch.get_num_threads()
    torch.set_num_threads(1)
    yield
    torch.set_num_threads(num_threads)
