"""From a composed config to a checked job: every problem is found before the first byte is written."""

from __future__ import annotations

import os
import re
import shutil
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import TYPE_CHECKING, Any

import torch
from omegaconf import MISSING, DictConfig, OmegaConf
from omegaconf.errors import OmegaConfBaseException

from kdrun.config.compose import ConfigError, last_choices
from kdrun.config.data_facts import check_dataset, check_readable, few_images, long_average
from kdrun.config.evaluations import read_evaluations, unfit
from kdrun.config.findings import Findings
from kdrun.config.parts import check_methods, check_networks, check_parts
from kdrun.config.quoting import with_hints
from kdrun.config.ranks import resolve_rank_device, unfit_for_ranks
from kdrun.config.schema import RootOptions, RuntimeOptions, check_seeds
from kdrun.config.secrets import masked_yaml, watch_environment
from kdrun.config.teaching import check_teaching, taught_spec
from kdrun.config.yaml_files import restart_resolving
from kdrun.experiment.datasets import data_root, places
from kdrun.experiment.runtime import Runtime
from kdrun.files import expanded, is_dry_run
from kdrun.place import place
from kdrun.spec.dataset import DatasetSpec
from kdrun.spec.signature import bind, construct
from kdrun.spec.spec import Spec
from kdrun.store.store import Store
from kdrun.training.precision import resolve_devices, resolve_precision

if TYPE_CHECKING:
    from kdrun.experiment.evaluations import NamedEvaluation

EMBEDDED = "digits"
ROOM = 512
"""Bytes reserved for paths below an output root."""

EMBEDDED_NOTICE = (
    "dataset=digits: the 1,797 small digits that come with kdrun; for the real thing: dataset=cifar100 (or mnist, ...)"
)


@dataclass(frozen=True)
class Job:
    """One checked run.

    Attributes:
        spec: what to run.
        config: the composed config as YAML, secrets masked; None for a run that follows from another's spec, or that
            is finished.
        runtime: where and how to compute.
        weight_files: files with the user's own weights, by SHA-256.
        notices: one line each.
        left_aside: the overrides that this run does not use, by their notice.
        evaluation: evaluations of the finished run.
    """

    spec: Spec
    config: str | None
    runtime: Runtime
    weight_files: Mapping[str, Path] = field(default_factory=dict)
    notices: tuple[str, ...] = ()
    left_aside: Mapping[str, tuple[str, ...]] = field(default_factory=dict)
    evaluation: tuple[NamedEvaluation, ...] = ()


def check_job(config: DictConfig, overrides: Sequence[str] = (), *, complete: bool = True) -> Job:
    """Checks a composed config whole and returns the job it describes.

    Args:
        config: as Hydra composed it.
        overrides: as typed, to distinguish a typed teacher from the default one.
        complete: whether all of them are in the config. If not, data missing in its default place is no problem: an
            override that was left out may name the place.

    Raises:
        ConfigError: with one line for every problem.
    """
    watch_environment()
    findings = Findings(last_choices(overrides), complete=complete)
    job = _job(findings, config)
    if findings.problems or job is None:
        raw: Any = OmegaConf.to_container(config, resolve=False)
        raise ConfigError(with_hints(_without_followers(findings.problems), findings.overrides, raw))
    return job


def _without_followers(problems: Sequence[str]) -> list[str]:
    """Leaves out problems of a teacher's recipe that follow from the run's."""
    known = set(problems)
    return [
        text for text in problems if not (text.startswith("teacher.recipe") and text.removeprefix("teacher.") in known)
    ]


def _job(findings: Findings, config: DictConfig) -> Job | None:
    node = _resolved(findings, config)
    if node is None:
        return None
    root = bind(RootOptions, node, "", findings.problems)
    seed = root.get("seed", RootOptions.seed)
    findings.attempt("seed=", check_seeds, [seed])
    runtime = construct(RuntimeOptions, node.get("runtime"), "runtime", findings.problems)
    device = runtime and _device(findings, runtime)
    precision = device and findings.attempt("runtime.precision=", resolve_precision, runtime.precision, device)
    if runtime and device and runtime.precision == "auto" and device.type == "cuda" and precision == "fp32":
        findings.notices.append(f"precision fp32: {torch.cuda.get_device_name(device)} has no arithmetic in bf16")
    dataset = check_dataset(findings, node.get("dataset"))
    parts = check_parts(findings, "", node, node.get("student"), dataset)
    evaluation = read_evaluations(findings, root.get("evaluation", {}))
    if dataset:
        _check_evaluation(findings, evaluation, dataset, data_root(node["dataset"]))
    starts = root.get("start") is not None
    teaching = check_teaching(findings, node, dataset, starts=starts)
    if findings.problems or not (runtime and device and precision and dataset and parts):
        check_networks(findings)
        return None
    if dataset.name == EMBEDDED:
        findings.notices.insert(0, EMBEDDED_NOTICE)
    own = Spec(dataset, parts.student, parts.method, parts.recipe, seed, precision, parts.stop_epoch)
    spec = own if teaching is None else taught_spec(findings, own, teaching, starts=starts)
    settled = _runtime(runtime, device, node["dataset"])
    was_trained = not findings.problems and _was_trained(spec, settled.output_root)
    if not (was_trained or check_networks(findings)):
        return None
    check_methods(findings, spec)
    findings.problems += unfit_for_ranks(spec, Store(settled.output_root))
    if not (was_trained or findings.problems or is_dry_run()):
        check_readable(findings, spec, settled)
    for path, each in (("", spec), *(("teacher.", teacher) for teacher in spec.teachers)):
        findings.notices += few_images(path, each) + long_average(path, each)
    return Job(
        spec=spec,
        config=None if was_trained else masked_yaml(config),
        runtime=settled,
        weight_files=findings.weight_files,
        notices=tuple(dict.fromkeys(findings.notices)),
        left_aside=findings.left_aside,
        evaluation=evaluation,
    )


def _was_trained(spec: Spec, output_root: Path) -> bool:
    """Whether a run has its result and its weights: its networks fitted their data."""
    run = Store(output_root).run(spec)
    return run.finished and run.weights.exists()


def _check_evaluation(
    findings: Findings, evaluation: Sequence[NamedEvaluation], dataset: DatasetSpec, root: Path
) -> None:
    """The evaluations must be for runs on the dataset, and have their files."""
    fitting = [each for each in evaluation if each.evaluation.fits(dataset)]
    missing = [f"{each.name}: {text}" for each in fitting if (text := each.missing_files(root))]
    findings.problems += [f"evaluation: {text}" for text in (*unfit(evaluation, dataset), *missing)]


def _resolved(findings: Findings, config: DictConfig) -> dict[str, Any] | None:
    """The config as plain values."""
    restart_resolving()
    try:
        node: Any = OmegaConf.to_container(config, resolve=True)
    except RecursionError:
        findings.problems.append("interpolations (${...}) of this config lead to each other without end")
        return None
    except OmegaConfBaseException as error:  # an interpolation that leads nowhere, or to a missing value
        findings.problems.append(_unresolved(error))
        return None
    missing = sorted(_missing_keys(node))
    findings.problems.extend(f"{key}: must be given: {key}=VALUE" for key in missing)
    return None if missing else node


def _missing_keys(node: Any, path: str = "") -> Iterator[str]:
    """As `OmegaConf.missing_keys`, which resolves each value again."""
    if isinstance(node, dict):
        for key, value in node.items():
            yield from _missing_keys(value, f"{path}.{key}" if path else str(key))
    elif isinstance(node, list):
        for index, value in enumerate(node):
            yield from _missing_keys(value, f"{path}[{index}]")
    elif node == MISSING:
        yield path


_NOT_PARSED = re.compile(
    r"(\w*(?:Parse|Parser|Scanner|Composer|Constructor)Error) raised while resolving interpolation"
)
_NO_GROUP = re.compile(r"node `([\w.]+)` is not a container and thus cannot contain `(\w+)`")


def _unresolved(error: OmegaConfBaseException) -> str:
    """The problem of an interpolation, without any part of text that cannot be parsed, such as a variable's value."""
    if found := _NOT_PARSED.match(str(error)):
        return f"{error.full_key}: the text of its interpolation cannot be parsed ({found[1]})"
    if found := _NO_GROUP.search(str(error)):
        return f"{found[1]}: must be a group of options, each set by itself: {found[1]}.{found[2]}=VALUE"
    return "; ".join(str(error).split("\n")[:2])


def _device(findings: Findings, runtime: RuntimeOptions) -> torch.device | None:
    """The device, and checks of the options that depend on it."""
    findings.attempt(f"runtime.output_root={runtime.output_root}: ", output_root, runtime.output_root)
    device: torch.device | None = findings.attempt("runtime.device=", resolve_rank_device, runtime.device)
    if runtime.devices is not None:
        device = _first_device(findings, runtime, device)
    fast = [name for name in ("compile", "cuda_graphs") if getattr(runtime, name) == "on" and place().ranks > 1]
    findings.problems += [f"runtime.{name}=on: on several ranks all steps are ordinary ones" for name in fast]
    if device and runtime.cuda_graphs == "on" and device.type != "cuda":
        findings.problems.append(
            f"runtime.cuda_graphs=on: graphs are captured on CUDA devices only, not on {device.type}"
        )
    if device and runtime.compile == "on" and device.type == "cpu" and not _has_compiler():
        findings.problems.append("runtime.compile=on: needs a C++ compiler: $CXX, g++ or clang++ on the PATH")
    return device


def _first_device(findings: Findings, runtime: RuntimeOptions, alone: torch.device | None) -> torch.device | None:
    """The first of several devices, after checks of all; `alone` is `runtime.device`."""
    assert runtime.devices is not None
    devices: tuple[torch.device, ...] = findings.attempt("runtime.devices=", resolve_devices, runtime.devices) or ()
    if place().ranks > 1:
        findings.problems.append("runtime.devices: has no effect under torchrun, which divides one run")
    if not devices:
        return None
    if runtime.device != "auto" and alone not in (None, devices[0]):
        findings.problems.append(f"runtime.device={runtime.device}: must be auto, or the first of runtime.devices")
    by_precision = {resolve_precision("auto", device): device for device in devices}
    if runtime.precision == "auto" and len(by_precision) > 1:
        found = ", ".join(f"{precision} on {device}" for precision, device in by_precision.items())
        findings.problems.append(f"runtime.precision=auto: is {found}; choose one for all runtime.devices")
    return devices[0]


def output_root(name: str) -> Path:
    """The directory of this name, `~` being the user's home.

    Raises:
        ValueError: it neither exists nor can be made: it is a file or a dangling link, or no valid name.
    """
    try:
        path = expanded(name)
        there = next(place for place in (path, *path.absolute().parents) if os.path.lexists(place))
    except (OSError, ValueError) as error:  # a name too long, no home, a null character
        raise ValueError(f"cannot be a directory: {getattr(error, 'strerror', None) or error}") from error
    if not name or not there.is_dir():
        raise ValueError(f"must be a directory, or the name of a new one; {str(there) if name else 'nothing'} is none")
    _check_length(path, there)
    return path


def _check_length(path: Path, there: Path) -> None:
    """Raises `ValueError` if a name is too long for the file system of `there`, or leaves no room for files below."""
    longest, limit = max((len(os.fsencode(part)) for part in path.parts), default=0), os.statvfs(there).f_namemax
    if longest > limit:
        raise ValueError(f"has a name of {longest} bytes; must be at most {limit}")
    if (length := len(os.fsencode(path))) > (limit := os.pathconf("/", "PC_PATH_MAX") - ROOM):
        raise ValueError(f"has {length} bytes; must be at most {limit}")


def _has_compiler() -> bool:
    return any(shutil.which(name) for name in (os.environ.get("CXX"), "g++", "clang++") if name)


def _runtime(options: RuntimeOptions, device: torch.device, dataset: Mapping[str, Any]) -> Runtime:
    settled = {**vars(options), "device": device, "output_root": output_root(options.output_root)}
    settled |= {"data_root": data_root(dataset), "places": places(dataset), "resident": dataset.get("resident", "auto")}
    settled["devices"] = () if options.devices is None else resolve_devices(options.devices)
    settled["auto_device"] = options.device == "auto"
    settled["auto_precision"] = settled.pop("precision") == "auto"  # itself it is in the spec
    return Runtime(**settled)
