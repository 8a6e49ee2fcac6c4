"""Options of the command line, and the message for bad input."""

from __future__ import annotations

import argparse
import itertools
import sys
from collections.abc import Sequence
from pathlib import Path

from kdrun.escaping import printable_lines
from kdrun.place import obstacle, place
from kdrun.redaction import redacted

BAD_INPUT = 2
VERBS = ("table", "search", "summarize", "ls", "show", "rm", "clean", "doctor")
"""First words that are no overrides; without one, kdrun trains."""

LOOKS = ("help", "hydra_help", "cfg", "info", "shell_completion")
"""Flags that Hydra's own main handles; nothing is run."""


def looks(options: argparse.Namespace) -> bool:
    """Whether Hydra's own main handles a command line."""
    return any(getattr(options, flag) for flag in LOOKS)


def shows(options: argparse.Namespace) -> bool:
    """Whether a command line only shows something; nothing is trained."""
    return looks(options) or options.version or options.dry_run


def misused(options: argparse.Namespace) -> list[str]:
    """Problems of a command line's flags."""
    names = [f"--{flag.replace('_', '-')}" for flag in LOOKS if getattr(options, flag)]
    problems = []
    if len(names) > 1:
        problems.append(f"{', '.join(names)}: only one of them at a time")
    if names and options.multirun:
        problems.append(f"--multirun: has no effect with {names[0]}")
    if options.resolve and not (options.cfg or options.help):
        problems.append("--resolve: has an effect with --cfg and --help only")
    if options.package is not None and not options.cfg:
        problems.append("--package: has an effect with --cfg only")
    for name in ("config_name", "config_path"):
        if getattr(options, name) is not None:
            flag = f"--{name.replace('_', '-')}"
            problems.append(f"{flag}: kdrun has one config; options of one's own are files in --config-dir DIR")
    return problems


def not_on_ranks(verb: str | None, options: argparse.Namespace | None) -> str | None:
    """Why a command cannot be that of several processes, where it is; None otherwise."""
    if place().ranks == 1:
        return None
    if reason := obstacle():
        return reason
    what = verb or ("--multirun" if options is not None and options.multirun else None)
    return what and f"{what}: torchrun starts the processes of one run; start this without torchrun"


def late_verb(words: Sequence[str]) -> str | None:
    """A verb behind the first word; a directory of its name is none."""
    pairs = itertools.pairwise(words)
    return next((word for before, word in pairs if word in VERBS and before not in ("-cd", "--config-dir")), None)


def run_parser() -> argparse.ArgumentParser:
    """The options of a run or sweep, in any order, Hydra's own flags included."""
    parser = argparse.ArgumentParser(prog="kdrun", usage="kdrun [options] [key=value ...]", add_help=False)
    parser.add_argument("overrides", nargs="*")
    parser.add_argument("-m", "--multirun", action="store_true")
    parser.add_argument("--dry-run", action="store_true")
    parser.add_argument("-cd", "--config-dir", type=Path)
    parser.add_argument("-cn", "--config-name")
    parser.add_argument("-cp", "--config-path")
    parser.add_argument("--version", action="store_true")
    parser.add_argument("-h", "--help", action="store_true")
    parser.add_argument("--hydra-help", action="store_true")
    parser.add_argument("-c", "--cfg", choices=("job", "hydra", "all"))
    parser.add_argument("--resolve", action="store_true")
    parser.add_argument("-p", "--package")
    info = ("all", "config", "defaults", "defaults-tree", "plugins", "searchpath")
    parser.add_argument("-i", "--info", nargs="?", const="all", choices=info)
    parser.add_argument("-sc", "--shell-completion", action="store_true")
    return parser


def refuse(problems: Sequence[str], command: str = "kdrun") -> int:
    """Prints every problem in one message on stderr, once for all ranks, and returns the exit code of bad input."""
    if place().rank > 0:
        return BAD_INPUT
    count = len(problems)
    lines = "\n".join(f"  {printable_lines(redacted(problem, all_values=True))}" for problem in problems)
    intro = f"kdrun: {count} problem{'s' if count > 1 else ''}; nothing was run or written"
    print(f"{intro}\n{lines}\nSee {command} --help", file=sys.stderr)
    return BAD_INPUT
