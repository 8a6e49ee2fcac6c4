"""`kdrun show`: the taps of a network, or the options of a config group with their descriptions."""

from __future__ import annotations

import argparse
import re
import textwrap
from collections.abc import Sequence
from pathlib import Path
from typing import TYPE_CHECKING

from kdrun.cli.options import refuse
from kdrun.escaping import printable

if TYPE_CHECKING:
    from kdrun.taps import Outline

DESCRIPTION = """\
kdrun show GROUP describes the options of a group: method, student, dataset, recipe, evaluation, experiment.
kdrun show taps lists the taps of a network: the outputs of its modules, which methods on features and relations take
by name (method.student_taps=[layer2,layer3], method.teacher_tap=pool). Shapes are those of one example of the dataset.

  kdrun show method
  kdrun show taps student=resnet18
  kdrun show taps student=mobilenetv2 teacher=resnet50 dataset=cifar100
"""
GROUPS = ("method", "student", "dataset", "recipe", "evaluation", "experiment")


def show_main(words: Sequence[str]) -> int:
    """Prints what is requested; returns the exit code."""
    parser = argparse.ArgumentParser(
        prog="kdrun show", description=DESCRIPTION, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("what", choices=["taps", *GROUPS])
    parser.add_argument("overrides", nargs="*", help="as of a run: student=OPTION, teacher=OPTION, dataset=OPTION, ...")
    parser.add_argument("--all", action="store_true", help="taps: the modules within the network's children, too")
    parser.add_argument("-cd", "--config-dir", type=Path, help="a config tree of one's own")
    options = parser.parse_intermixed_args(words)
    if options.what == "taps":
        return _show_taps(options)
    if options.overrides or options.all:
        return refuse([f"show {options.what}: takes no further words"], "kdrun show")
    return _show_group(options.what, options.config_dir)


def _show_group(group: str, extra: Path | None) -> int:
    """Prints each option of a group with the first comment of its file, up to the first command in it."""
    from kdrun.config.composition import config_directories
    from kdrun.config.yaml_files import read_yaml_text

    if extra is not None and not extra.is_dir():
        return refuse([f"--config-dir {extra}: no such directory"], "kdrun show")
    directories = [*config_directories(), *([extra] if extra else [])]
    files = {path.stem: path for root in reversed(directories) for path in (root / group).glob("*.yaml")}
    try:
        texts = {name: read_yaml_text(files[name]) for name in sorted(files)}
    except ValueError as error:
        return refuse([str(error)], "kdrun show")
    for name, text in texts.items():
        comment = re.match(r"(?:#(?!   ).*\n)*", text)
        described = " ".join(line.lstrip("# ") for line in comment[0].splitlines()) if comment else ""
        print(printable(name))
        if described:
            print(textwrap.indent(textwrap.fill(printable(described), 100), "    "))
    return 0


def _show_taps(options: argparse.Namespace) -> int:
    """Prints the taps of the student, and of the teacher where one is named; returns the exit code."""
    from kdrun.config.command_line import expand
    from kdrun.config.compose import ConfigError, compose_job, hydra_session
    from kdrun.config.preflight import check_job
    from kdrun.experiment.build import outline_of

    problems: list[str] = []
    try:
        with hydra_session():
            (overrides,) = expand(options.overrides, multirun=False, problems=problems) or [[]]
            named = any(word.startswith("teacher") for word in overrides)
            if not named:  # the one by default need not fit the dataset
                overrides = ["method=ce", *(word for word in overrides if not word.startswith("method"))]
            config = compose_job(overrides, problems, extra=options.config_dir)
            job = check_job(config, overrides, complete=not problems)
    except ConfigError as error:
        problems += error.problems
    if problems:
        return refuse(problems, "kdrun show")
    shown = [job.spec, *(job.spec.teachers if named else ())]
    print("\n".join(_listed(outline_of(spec.student, spec.dataset), inner=options.all) for spec in shown), end="")
    return 0


def _listed(network: Outline, *, inner: bool) -> str:
    """A network's taps as a table."""
    from kdrun.escaping import aligned

    names = [name for name in network.taps if inner or "." not in name]
    uses = dict.fromkeys(network.maps, "end of a stage") | dict.fromkeys(network.vectors[-1:], "penultimate")
    rows = [[name, " x ".join(map(str, network.taps[name])), uses.get(name, "")] for name in names]
    return f"{network.name}\n{aligned(['tap', 'shape', 'by default'], rows)}"
