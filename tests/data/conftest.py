"""What the data tests share."""

import urllib.error
from pathlib import Path

import pytest


@pytest.fixture
def no_network(monkeypatch) -> list[str]:
    """Makes every download fail as without a network; returns the addresses that were tried."""
    from torchvision.datasets import utils

    tried: list[str] = []

    def refuse(url, root, filename=None, md5=None, max_redirect_hops=3):
        tried.append(url)
        raise urllib.error.URLError("Network is unreachable")

    monkeypatch.setattr(utils, "download_url", refuse)
    return tried


@pytest.fixture
def data_home(monkeypatch, tmp_path) -> Path:
    """A $KDRUN_DATA of the test's own."""
    home = tmp_path / "home"
    monkeypatch.setenv("KDRUN_DATA", str(home))
    return home
