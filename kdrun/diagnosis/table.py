"""The facts and checks as text of at most 80 columns."""

from __future__ import annotations

import shlex
import textwrap
from collections.abc import Iterable, Mapping, Sequence
from typing import Any

from kdrun.diagnosis.file_system import CONSEQUENCES
from kdrun.diagnosis.row import ADVICE, QUESTIONS, Row
from kdrun.log import counted

WIDTH = 80
"""Columns, at most."""

LABEL = 13
"""Columns of a fact's name."""

RESULT, CASE, FOUND, TIME = 7, 27, 27, 9
"""Columns of a check's line: 79."""

RESULTS = {True: "ok", False: "FAIL", None: "-"}
HEADING = f"{'result':{RESULT}}{'case':{CASE}}{'found':{FOUND}}{'ordinary':>{TIME}}{'fast':>{TIME}}"


def facts_table(facts: Mapping[str, Any]) -> str:
    """A line for each fact, wrapped."""
    return "\n".join(line for name, text in _fact_lines(facts) for line in _wrapped(name, text))


def _fact_lines(facts: Mapping[str, Any]) -> Iterable[tuple[str, str]]:
    own, device, cpu, cuda = facts["kdrun"], facts["device"], facts["cpu"], facts["cuda"]
    commit, _, changes = (own["commit"] or "").partition("+")
    checkout = [f"commit {commit[:10]}"] * bool(commit) + [f"with {changes}"] * bool(changes)
    yield "command", shlex.join(facts["command"])
    yield "kdrun", ", ".join([own["version"], own["path"], *checkout])
    is_named = device["name"].startswith(device["chosen"])
    yield "device", device["name"] if is_named else f"{device['chosen']}: {device['name']}"
    yield "bf16", device["bf16"] + (f" ({device['by']})" if device["by"] else "")
    counts = f"{counted(cpu['cores'], 'core')}, {counted(cpu['threads'], 'thread')}"
    yield "CPU", f"{cpu['name']}; {counts}; torch uses {cpu['capability']}"
    driver = f"driver {cuda['driver']}" if cuda["driver"] else "no NVIDIA driver"
    build = (
        f"torch is built for CUDA {cuda['toolkit']}, cuDNN {cuda['cudnn']}" if cuda["toolkit"] else "torch without it"
    )
    yield "CUDA", f"{build}; {driver}"
    for index, gpu in enumerate(cuda["devices"]):
        memory = f"{_gigabytes(gpu['total_bytes'])} GB"
        if gpu["free_bytes"] is not None:
            memory = f"{_gigabytes(gpu['free_bytes'])} of {memory} free"
        capability = f"compute capability {gpu['compute_capability']}, bf16 {gpu['bf16']}"
        yield f"cuda:{index}", f"{gpu['name']}; {capability}; {gpu['multiprocessors']} multiprocessors; {memory}"
    ram = facts["memory"]
    yield "memory", f"{_gigabytes(ram['free_bytes'])} of {_gigabytes(ram['total_bytes'])} GB free"
    compilers = facts["compiler"]
    yield "C compiler", compilers["c"] or "none: compiled steps on CUDA need one (CC, gcc or clang)"
    yield "C++ compiler", compilers["c++"] or "none: compiled steps on a CPU need one (CXX, g++ or clang++)"
    yield "Triton", compilers["triton"] or "none: compiled steps on CUDA need it"
    data = facts["data"]
    state = "" if data["readable"] else " (cannot be read)" if data["exists"] else " (does not exist)"
    yield "data root", f"{data['root']}{state}: {', '.join(data['datasets']) or 'no datasets'}"
    yield "output root", _output(facts["output"])
    yield "proofs", _proofs(facts["proofs"])
    yield "libraries", ", ".join(f"{name} {version}" for name, version in facts["libraries"].items())
    yield "system", f"{facts['system']['platform']}; {facts['system']['executable']}"
    yield "environment", ", ".join(f"{name}={value}" for name, value in facts["environment"].items()) or "nothing set"


def _proofs(proofs: Mapping[str, Any]) -> str:
    """Whether captured and compiled steps have agreed with ordinary ones before the runs of this machine."""
    if not proofs["agree"] and not proofs["refused"]:
        return "none: no run here has tried captured or compiled steps"
    agreed = f"captured or compiled steps of {counted(proofs['agree'], 'run')} agreed"
    return "; ".join([agreed, *(f"not used: {reason}" for reason in proofs["refused"])])


def _output(output: Mapping[str, Any]) -> str:
    """The output root and its file system's features."""
    state = "" if output["exists"] else " (does not exist yet)"
    if not output["writable"]:
        state += " cannot be written"
    tried = [name for name in CONSEQUENCES if output[name] is not None]
    present = [name.replace("_", " ") for name in tried if output[name]]
    absent = [f"no {name.replace('_', ' ')}: {CONSEQUENCES[name]}" for name in tried if not output[name]]
    features = "; ".join([", ".join(present) or "features not tried", *absent])
    return f"{output['root']}{state}: {features}; {_gigabytes(output['free_bytes'])} GB free"


def checks_table(rows: Sequence[Row], left_out: Sequence[str], warnings: Sequence[str]) -> str:
    """The checks, each with its comparison and a line for each case; then reasons, and what to do about failures."""
    lines = [f"{'':{RESULT + CASE + FOUND}}{'ms a step:':>{TIME}}", HEADING]
    for check, question in QUESTIONS.items():
        members = [row for row in rows if row.check == check]
        if members:
            conditions = " or ".join(sorted({row.expected for row in members}))
            lines += ["", *_wrapped(f"{check}:", f"{question}: {conditions}", label=len(check) + 2)]
            lines += [_row(row) for row in members]
    if left_out:
        lines += [
            "",
            "left out (no time, or stopped):",
            *(f"  {title}" for title in left_out),
        ]
    lines += [line for text in warnings for line in ["", *_wrapped("warning", text)]]
    for row in rows:
        if row.agrees is None:
            lines += ["", *_wrapped("not usable", f"{row.check}, {row.case}: {row.found}")]
        if row.agrees is False:
            lines += ["", *_wrapped("FAILED", f"{row.check}, {row.case}: expected {row.expected}; found {row.found}")]
            lines += _wrapped("to do", ADVICE[row.check])
    return "\n".join(lines)


def summary(rows: Sequence[Row], left_out: Sequence[str], seconds: Mapping[str, float]) -> str:
    """The last line."""
    failed = sum(row.agrees is False for row in rows)
    agree = "all agree" if rows and not left_out else f"{len(rows) - failed} agree"
    counts = [counted(len(rows), "check"), f"{failed} failed" if failed else agree]
    if left_out:
        counts.append("others left out")
    return f"{', '.join(counts)}; {seconds['wall']:.0f} s, {seconds['cpu']:.0f} s of CPU time"


def _row(row: Row) -> str:
    times = "".join(
        f"{'' if value is None else f'{1000 * value:.1f}':>{TIME}}"
        for value in (row.ordinary_seconds, row.fast_seconds)
    )
    found = row.found if len(row.found) < FOUND else row.found[: FOUND - 4] + "..."
    return f"{RESULTS[row.agrees]:{RESULT}}{row.case[: CASE - 1]:{CASE}}{found:{FOUND}}{times}".rstrip()


def _wrapped(name: str, text: str, *, label: int = LABEL) -> list[str]:
    """A name and a text in lines of at most `WIDTH` columns."""
    return textwrap.wrap(text, WIDTH, initial_indent=f"{name:{label}}", subsequent_indent=" " * label) or [name]


def _gigabytes(size: int) -> str:
    return f"{size / 1e9:.1f}"
