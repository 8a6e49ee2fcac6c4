"""Owners of members that are trained without a run."""

import contextlib
from collections.abc import Iterator


class Raising:
    """Its failure is raised."""

    failed = False

    def isolated_failure(self) -> contextlib.AbstractContextManager[None]:
        return contextlib.nullcontext()


class Collecting:
    """Its failure is added to a list."""

    def __init__(self, failures: list[Exception]) -> None:
        self.failed = False
        self._failures = failures

    @contextlib.contextmanager
    def isolated_failure(self) -> Iterator[None]:
        try:
            yield
        except Exception as error:
            self.failed = True
            self._failures.append(error)
