"""Checks whether kdrun can start, before anything but `os` and `sys` is imported."""

from __future__ import annotations

import os
import sys

IMPORTED = {
    *("torch", "torchvision", "numpy", "PIL", "hydra", "hydra_plugins", "omegaconf", "yaml", "antlr4", "tqdm"),
    *("matplotlib", "safetensors", "scipy"),
}
"""Top-level modules of the packages that kdrun needs."""

UNUSED = {"chunk", "cmd", "code", "sched", "this", "trace", "turtle", "wave"}
"""Modules of the standard library that nothing imports and users' files are often named like."""


def obstacle() -> str | None:
    """Why kdrun cannot start: the system, the working directory, or a module in it. None if it can."""
    if sys.platform == "win32":
        return "kdrun needs a POSIX system (Linux, macOS, WSL2): this Python is of Windows; on Windows install WSL2"
    try:
        here = os.getcwd()
    except OSError as error:
        return f"the working directory is gone ({error.strerror}): start kdrun in another one"
    return _shadow(here) if {"", here} & set(sys.path) else None


def _shadow(here: str) -> str | None:
    """A file or directory of the working directory that Python imports instead of a module that kdrun needs."""
    if getattr(sys.modules["kdrun"], "__file__", None) is None:  # a directory without __init__.py: a checkout
        return _instead(os.path.join(here, "kdrun"), "kdrun")
    try:
        entries = sorted(os.listdir(here))
    except OSError:  # Python cannot import from it either
        return None
    for entry in entries:
        name, path = entry.removesuffix(".py"), os.path.join(here, entry)
        is_module = name != entry or os.path.isfile(os.path.join(path, "__init__.py"))
        if not is_module or name not in (IMPORTED | sys.stdlib_module_names) - UNUSED:
            continue
        module = sys.modules.get(name)
        if module is None or (getattr(module, "__file__", None) or "").startswith(path):
            return _instead(path, name)
    return None


def _instead(path: str, name: str) -> str:
    return (
        f"{path} is imported instead of the module {name}: Python searches the working directory first (python -m, "
        "PYTHONPATH). Rename it, start in another directory, or use the command kdrun"
    )
