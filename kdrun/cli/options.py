"""What the verbs share: options, and how bad input is told."""

from __future__ import annotations

import argparse
import itertools
import sys
from collections.abc import Sequence
from pathlib import Path

BAD_INPUT = 2
VERBS = ("table", "ls", "show", "rm", "clean")
"""First words that are no override; without one, kdrun trains."""

SERVED_BY_HYDRA = ("--help", "-h", "--hydra-help", "--cfg", "-c", "--info", "-i", "--shell-completion", "-sc")
FOREIGN = ("hydra/launcher=", "hydra/sweeper=")


def served_by_hydra(words: Sequence[str]) -> bool:
    """Whether Hydra's own main serves this command line: its flags, and other launchers and sweepers."""
    return any(word in SERVED_BY_HYDRA or word.startswith(("--cfg=", *FOREIGN)) for word in words)


def late_verb(words: Sequence[str]) -> str | None:
    """A verb behind the first word; a directory of its name is none."""
    pairs = itertools.pairwise(words)
    return next((word for before, word in pairs if word in VERBS and before not in ("-cd", "--config-dir")), None)


def run_parser() -> argparse.ArgumentParser:
    """The options of a run or sweep; `--help` is Hydra's."""
    parser = argparse.ArgumentParser(prog="kdrun", usage="kdrun [options] [key=value ...]", add_help=False)
    parser.add_argument("overrides", nargs="*")
    parser.add_argument("-m", "--multirun", action="store_true")
    parser.add_argument("--dry-run", action="store_true")
    parser.add_argument("-cd", "--config-dir", type=Path)
    parser.add_argument("--version", action="store_true")
    parser.add_argument("-c", "--cfg")  # Hydra serves it
    return parser


def refuse(problems: Sequence[str], command: str = "kdrun") -> int:
    """Tells every problem in one message on stderr, and returns the exit code of bad input."""
    count = len(problems)
    lines = "\n".join(f"  {problem}" for problem in problems)
    intro = f"kdrun: {count} problem{'s' if count > 1 else ''}; nothing was run or written"
    print(f"{intro}\n{lines}\nSee {command} --help", file=sys.stderr)
    return BAD_INPUT
