"""Code and files from outside kdrun that a component depends on, as part of a run's identity.

Sources are found by parsing: nothing is imported or executed here. Code that a program writes or finds at run time
(`exec`, entry points) and files that code opens by a name of its own are not found.
"""

from __future__ import annotations

import ast
import functools
import importlib.machinery
import importlib.metadata
import os
import pkgutil
import re
import sys
from collections.abc import Callable, Iterable, Iterator, Mapping
from pathlib import Path
from typing import Any

from kdrun.files import sha256, sha256_of

PACKAGES = ("kdrun", "torch", "torchvision", "hydra-core", "omegaconf", "numpy", "safetensors")
"""Distributions that every run uses; their versions are in every result."""

INSTALLED = {"site-packages", "dist-packages"}
"""Names of the directories into which packages are installed."""

ANY = ("*", "**")
"""As the last part of a dotted name: every module of a package, without and with its subpackages."""

FILE = "file "
"""Prefix of the entries of files that options name."""


OPTION_FILE_LIMIT = 8 * 2**30
"""Bytes of a file that an option names, at most: it is read for its SHA-256, in some seconds."""


def sources(target: Callable[..., Any], path: str, options: Mapping[str, Any]) -> dict[str, str] | None:
    """The code and files that a component from outside kdrun depends on.

    - A module of the user's own, that is one from no package index: SHA-256 of its file. Own modules are followed
      through their imports, including imports within functions and those of packages' `__init__`.
    - A distribution from a package index: its version. Those in `PACKAGES`, which every run uses and every result
      records, are left out.
    - A file that an option names: `file NAME`, SHA-256 of its content.

    Args:
        target: class or function.
        path: the dotted path by which it was found.
        options: all of its options.

    Returns:
        Digest or version by name, sorted; None for a component of kdrun.

    Raises:
        ValueError: a module's source or an option's file cannot be read.
    """
    if target.__module__.partition(".")[0] == "kdrun":
        return None
    found = _followed([path.rpartition(".")[0], target.__module__])
    found |= {f"{FILE}{name}": _digest(Path(os.path.expanduser(name))) for name in _files(options)}
    return dict(sorted(found.items()))


def changes(before: Mapping[str, str], now: Mapping[str, str]) -> list[str]:
    """The differences between two results of `sources`, one phrase each."""
    said = []
    for name in sorted(before.keys() | now.keys()):
        old, new = before.get(name), now.get(name)
        if old is None or new is None:
            said.append(f"{name} {'added' if old is None else 'removed'}")
        elif old != new:
            said.append(f"{name} changed" if _is_digest(new) else f"{name} {new} instead of {old}")
    return said


def outdated(source: Mapping[str, str]) -> list[str]:
    """The own modules not yet imported and the files, of a result of `sources`, with another content now."""
    found = []
    for name, digest in source.items():
        if name.startswith(FILE):
            path = Path(os.path.expanduser(name.removeprefix(FILE)))
            same = path.is_file() and _digest(path) == digest
        elif _is_digest(digest) and name not in sys.modules:
            module = _find(name)
            same = module is not None and sha256(_content(module)) == digest
        else:
            continue
        found += [] if same else [name]
    return found


def _is_digest(value: str) -> bool:
    return re.fullmatch("[0-9a-f]{64}", value) is not None


def _followed(names: Iterable[str]) -> dict[str, str]:
    """Digests of own modules and versions of distributions, from these modules on through their imports."""
    found: dict[str, str] = {}
    open_, seen = list(names), set[str]()
    while open_:
        name = open_.pop()
        if name in seen:
            continue
        seen.add(name)
        package, _, last = name.rpartition(".")
        top = name.partition(".")[0]
        if top in sys.stdlib_module_names or top in ("kdrun", "__main__"):
            continue
        if last in ANY:
            open_ += _modules_of(package, deep=last == "**")
            continue
        open_ += [package] if package else []
        module = _find(name)
        if module is None:  # an attribute of a module, or an optional import that is not installed
            continue
        versions = _versions(top, module)
        if versions is not None:
            found |= versions
            continue
        if module.origin is None:  # a namespace package has no code
            continue
        content = _content(module)
        found[name] = sha256(content)
        if module.origin.endswith(tuple(importlib.machinery.SOURCE_SUFFIXES)):
            open_ += _imports(content, name if module.submodule_search_locations is not None else package)
    return found


def _find(name: str) -> importlib.machinery.ModuleSpec | None:
    """The spec of a module; unlike `importlib.util.find_spec`, without importing the packages above it."""
    above, _, _ = name.rpartition(".")
    if not above:
        found = (finder.find_spec(name, None) for finder in sys.meta_path if hasattr(finder, "find_spec"))
        return next((module for module in found if module is not None), None)
    package = _find(above)
    portions: list[str] = []
    for location in (package and package.submodule_search_locations) or ():
        finder = pkgutil.get_importer(location)
        module = finder.find_spec(name) if finder is not None else None
        if module is not None and module.loader is not None:
            return module
        portions += (module and module.submodule_search_locations) or []
    if not portions:
        return None
    namespace = importlib.machinery.ModuleSpec(name, None, is_package=True)
    namespace.submodule_search_locations = portions
    return namespace


def _versions(top: str, module: importlib.machinery.ModuleSpec) -> dict[str, str] | None:
    """Versions of the distributions that installed a module; None for a module of the user's own.

    A version names the content only where a package index served it: what was installed from a directory, an archive
    or a repository (`direct_url.json`, PEP 610), editable or not, is the user's own.
    """
    places = [module.origin] if module.origin is not None else list(module.submodule_search_locations or ())
    if not any(INSTALLED & set(Path(place).parts) for place in places):
        return None
    found = {name: importlib.metadata.distribution(name) for name in _distributions().get(top, ())}
    if not found.keys() <= set(PACKAGES):
        if any(each.read_text("direct_url.json") is not None for each in found.values()):
            return None
        return {name: each.version for name, each in found.items() if name not in PACKAGES}
    return {} if found else None


@functools.cache
def _distributions() -> Mapping[str, list[str]]:
    """Names of the installed distributions by the top-level modules that they have."""
    return {top: sorted(set(names)) for top, names in importlib.metadata.packages_distributions().items()}


def _content(module: importlib.machinery.ModuleSpec) -> bytes:
    """The bytes of a module's file: source, or machine code, whose own imports are not followed.

    Raises:
        ValueError: the module has no file that its importer can read.
    """
    try:
        content: bytes = module.loader.get_data(module.origin)  # type: ignore[union-attr]
    except (AttributeError, OSError) as error:
        raise ValueError(
            f"the source of {module.name} cannot be read ({type(error).__name__}: {error}); a run's identity includes "
            "the source of code from outside kdrun"
        ) from error
    return content


@functools.lru_cache(maxsize=4096)
def _imports(content: bytes, package: str) -> tuple[str, ...]:
    """Dotted names that a module's source may import, attributes of modules and patterns (`ANY`) among them."""
    try:
        tree = ast.parse(content)
    except (SyntaxError, ValueError):  # cannot be imported, hence imports nothing
        return ()
    return tuple(name for node in ast.walk(tree) for name in _imported_by(node, package) if name)


def _imported_by(node: ast.AST, package: str) -> Iterator[str]:
    if isinstance(node, ast.Import):
        yield from (alias.name for alias in node.names)
    elif isinstance(node, ast.ImportFrom):
        base = _absolute("." * node.level + (node.module or ""), package)
        yield base
        yield from (f"{base}.{alias.name}" for alias in node.names)
    elif isinstance(node, ast.Call) and _called(node) in ("import_module", "__import__"):
        named = node.args[0] if node.args else None
        if isinstance(named, ast.Constant) and isinstance(named.value, str):
            yield _absolute(named.value, package)
        elif package:  # computed at run time: any module of the package
            yield f"{package.partition('.')[0]}.**"


def _called(call: ast.Call) -> str:
    return call.func.attr if isinstance(call.func, ast.Attribute) else getattr(call.func, "id", "")


def _absolute(name: str, package: str) -> str:
    """A module's name as an import in `package` gives it, with its leading dots resolved."""
    relative = name.lstrip(".")
    level = len(name) - len(relative)
    if level == 0:
        return relative
    parents = package.split(".")
    base = parents[: len(parents) - level + 1]
    return ".".join([*base, *([relative] if relative else [])])


def _modules_of(package: str, *, deep: bool = False) -> Iterator[str]:
    """The names of a package's modules, with `deep` those of its subpackages too."""
    found = _find(package)
    for _, name, is_package in pkgutil.iter_modules((found and found.submodule_search_locations) or ()):
        yield f"{package}.{name}"
        if deep and is_package:
            yield from _modules_of(f"{package}.{name}", deep=True)


def _files(value: Any) -> Iterator[str]:
    """The texts among an option's values that name existing regular files."""
    if isinstance(value, str) and os.path.isfile(os.path.expanduser(value)):
        yield value
    elif isinstance(value, Mapping):
        yield from (name for item in value.values() for name in _files(item))
    elif isinstance(value, (list, tuple)):
        yield from (name for item in value for name in _files(item))


def _digest(path: Path) -> str:
    try:
        return sha256_of(path, OPTION_FILE_LIMIT)
    except OSError as error:
        raise ValueError(f"the file {path} that an option names cannot be read: {error.strerror}") from error
