"""The `kdrun` command: its verbs and exit codes.

0 finished, 1 a run failed, 2 bad input (nothing was written), 128+n stopped by signal n. torch is imported only to run
something: `--help`, `--cfg` and completion answer at once.
"""

from __future__ import annotations

import importlib
import sys
from collections.abc import Callable, Sequence
from typing import Any

from kdrun import redaction
from kdrun.cli.options import VERBS, late_verb, looks, not_on_ranks, refuse, run_parser, shows
from kdrun.console import guarded
from kdrun.place import place
from kdrun.start import obstacle


def main(arguments: Sequence[str] | None = None) -> int:
    """Runs the command line and returns the exit code."""
    with guarded():
        if reason := obstacle():
            return refuse([reason])
        from kdrun.stopping import ignore, stop_behind  # which needs POSIX

        redaction.forget()
        try:
            serve, given = _served(list(sys.argv[1:] if arguments is None else arguments))
            return serve(given)
        except BaseException as error:
            stop = stop_behind(error)
            if stop is None:
                raise
            if place().rank == 0:
                print(f"kdrun: {stop}; the same command resumes after the last finished epoch", file=sys.stderr)
            return 128 + stop.number
        finally:
            if place().ranks > 1:  # when the first rank has ended, torchrun stops the others
                ignore()


def _served(words: list[str]) -> tuple[Callable[[Any], int], Any]:
    """The function for a command line, and its argument: the words after the verb, or the parsed flags of a run."""
    verb = words.pop(0) if words and words[0] in VERBS else None
    if verb is None and (late := late_verb(words)):
        return refuse, [f"{late}: a verb must be the first word: kdrun {late} ..."]
    options = run_parser().parse_intermixed_args(words) if verb is None else None
    if options is not None and shows(options) and place().rank > 0:
        return lambda _: 0, None  # rank 0 shows it
    if options is not None and looks(options):
        from kdrun.cli.hydra_main import look

        return look, options
    if reason := not_on_ranks(verb, options):
        return refuse, [reason]
    from kdrun.stopping import listen

    listen()
    if options is not None and place().ranks > 1 and not shows(options):
        from kdrun.cli.ranks import ranks_main

        return ranks_main, options
    if verb is None:
        from kdrun.cli.runs import runs_main

        return runs_main, options
    module = importlib.import_module(f"kdrun.cli.{'clean' if verb == 'rm' else verb}")
    return getattr(module, f"{verb}_main"), words
