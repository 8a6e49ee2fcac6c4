"""What the papers' derived figures have in common."""

import importlib
import pkgutil

from kdrun import papers
from kdrun.experiment.derived import Derived


def every(kind: type) -> list[type]:
    return [kind, *(found for below in kind.__subclasses__() for found in every(below))]


def test_kinds_differ():
    """Keys of stored figures hold the kind, and for kdrun's own classes no source."""
    for module in pkgutil.walk_packages(papers.__path__, "kdrun.papers."):
        importlib.import_module(module.name)
    kinds = [kind.kind for kind in every(Derived)[1:] if kind.__module__.startswith("kdrun.")]
    assert {"ensemble", "evaluation"} <= set(kinds)
    assert len(kinds) == len(set(kinds))
