"""Command lines without their command: composed, checked, and run in an empty directory."""

from collections.abc import Callable
from dataclasses import dataclass

import pytest
from omegaconf import DictConfig

from kdrun.cli import main
from kdrun.config.compose import compose_job, hydra_session
from kdrun.config.preflight import Job, check_job


@pytest.fixture(autouse=True)
def data_home(monkeypatch, tmp_path_factory):
    """No test sees data of this machine."""
    monkeypatch.setenv("KDRUN_DATA", str(tmp_path_factory.mktemp("data")))


@pytest.fixture
def composed() -> Callable[..., DictConfig]:
    """Composes overrides that all fit."""

    def compose(*overrides: str) -> DictConfig:
        problems: list[str] = []
        with hydra_session():
            config = compose_job(overrides, problems)
        assert problems == []
        return config

    return compose


@pytest.fixture
def job(composed) -> Callable[..., Job]:
    """The checked job of overrides without a fault."""
    return lambda *overrides: check_job(composed(*overrides), overrides)


@dataclass(frozen=True)
class Said:
    code: int
    out: str
    err: str


@pytest.fixture
def kdrun(here, capsys) -> Callable[..., Said]:
    """Runs a command line in this process, in the empty directory `here`."""

    def command(*words: str) -> Said:
        code = main(words)
        out, err = capsys.readouterr()
        return Said(code, out, err)

    return command
