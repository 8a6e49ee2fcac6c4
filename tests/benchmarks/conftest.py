import pytest


@pytest.fixture(autouse=True)
def trusted(monkeypatch):
    """The benchmark's images are a dataset of its own package."""
    monkeypatch.setenv("KDRUN_TRUST", "benchmarks")
