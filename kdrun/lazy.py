"""Public names of a package, found in the modules that define them when they are first used.

A new file of the package is found without registration, and only modules in use are imported. A package needs

    def __getattr__(name: str) -> Any:
        return lazy.attribute(__name__, name)
"""

import functools
import importlib
import pkgutil
import re
from collections.abc import Mapping
from typing import Any

DEFINITION = r"^(?:class|def) ([^\W_]\w*)"
CONSTANT = r"^([A-Z][A-Z_]+)(?:: .+?)? = "


def definitions(package: str) -> Mapping[str, str]:
    """Public classes and functions at the top level of a package's modules: the module of each, by name."""
    return _found(package, DEFINITION)


@functools.cache
def _found(package: str, pattern: str) -> Mapping[str, str]:
    """The module of each name that a pattern finds. Sources are read; nothing is imported but the package itself."""
    found: dict[str, str] = {}
    for info in pkgutil.iter_modules(importlib.import_module(package).__path__, f"{package}."):
        module = info.module_finder.find_spec(info.name, None)
        source = module and module.loader and module.loader.get_source(info.name)  # type: ignore[attr-defined]
        found |= dict.fromkeys(re.findall(pattern, source or "", re.MULTILINE), info.name)
    return found


def attribute(package: str, name: str) -> Any:
    """A class, function or constant of one of a package's modules.

    Raises:
        AttributeError: no module defines it.
    """
    module = definitions(package).get(name) or _found(package, CONSTANT).get(name)
    if module is None:
        raise AttributeError(f"module {package!r} has no attribute {name!r}")
    return getattr(importlib.import_module(module), name)
