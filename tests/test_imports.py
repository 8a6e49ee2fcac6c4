"""Imports run one way: the arrows of the layout, for relative and deferred imports too."""

import ast
import re
import subprocess
import sys
from pathlib import Path

import pytest

ROOT = Path(__file__).parents[1] / "kdrun"

# No other part of kdrun; anybody may use them.
LEAVES = {
    "console",
    "distributed",
    "escaping",
    "files",
    "lazy",
    "limits",
    "log",
    "memory",
    "place",
    "mixed",
    "redaction",
    "seeds",
    "start",
    "stopping",
    "taps",
    "torchrun",
}
RUNS = {"spec", "store"}
ALLOWED = {
    "cli": {"config", "tables", "experiment", "analysis", "diagnosis", *RUNS},
    "config": {"tables", "experiment", "training", *RUNS},
    "tables": {"analysis", "experiment", "metrics", *RUNS},
    "analysis": {"experiment", *RUNS},
    "diagnosis": {"experiment", "training", "methods", "data", *RUNS},
    "experiment": {"training", "methods", "models", "data", "metrics", *RUNS},
    "store": {"spec"},
    "spec": {"methods"},
    "training": {"methods", "metrics"},
    "methods": {"losses"},
    "losses": set(),
    "metrics": set(),
    "models": set(),
    "data": {"spec"},
    "console": set(),
    "distributed": set(),
    "escaping": set(),
    "files": set(),
    "lazy": set(),
    "limits": set(),
    "log": set(),
    "memory": set(),
    "place": set(),
    "mixed": set(),
    "redaction": set(),
    "seeds": set(),
    "start": set(),
    "stopping": set(),
    "taps": set(),
    "torchrun": set(),
    "papers": {
        "config",
        "tables",
        "analysis",
        "experiment",
        "training",
        "methods",
        "losses",
        "models",
        "data",
        "metrics",
        *RUNS,
    },
    "__init__": set(),
    "__main__": {"cli"},
}
ONLY_WITH_HYDRA = {"cli", "config"}
NOT_AT_IMPORT = {"torchvision", "PIL", "matplotlib", "safetensors", "numpy", "scipy", "pandas", "jinja2", "sklearn"}


def part_of(path: Path) -> str:
    return path.relative_to(ROOT).parts[0].removesuffix(".py")


def imports(path: Path, *, deferred: bool = True) -> set[str]:
    """Absolute dotted names of what a file imports; without `deferred`, only what importing the file imports."""
    package = ["kdrun", *path.relative_to(ROOT).parent.parts]
    tree = ast.parse(path.read_text())
    nodes = ast.walk(tree) if deferred else iter(tree.body)
    names = set()
    for node in nodes:
        if isinstance(node, ast.Import):
            names |= {alias.name for alias in node.names}
        elif isinstance(node, ast.ImportFrom):
            base = package[: len(package) - node.level + 1] if node.level else []
            module = ".".join([*base, *([node.module] if node.module else [])])
            names |= {f"{module}.{alias.name}" for alias in node.names} if module == "kdrun" else {module}
    return names


FILES = sorted(ROOT.rglob("*.py"))


@pytest.mark.parametrize("path", FILES, ids=lambda path: str(path.relative_to(ROOT)))
def test_a_file_imports_only_what_its_part_may(path):
    part = part_of(path)
    used = {name.split(".")[1] for name in imports(path) if name.startswith("kdrun.")} - {"__version__"}
    allowed = ALLOWED[part] | LEAVES | {part}
    assert used <= allowed, f"{part} imports {sorted(used - allowed)}"
    foreign = {name.split(".")[0] for name in imports(path)}
    if part not in ONLY_WITH_HYDRA:
        assert not foreign & {"hydra", "omegaconf"}, "Hydra and OmegaConf stay in cli and config"
    assert not {name.split(".")[0] for name in imports(path, deferred=False)} & NOT_AT_IMPORT


def test_the_core_never_names_the_code_of_a_paper():
    """Not in an import, deferred or not, and not in a string that could be imported."""
    naming = r"kdrun\.papers(\.\w| import)|from kdrun import .*\bpapers\b"
    core = [path for path in FILES if part_of(path) != "papers"]
    assert [str(path) for path in core if re.search(naming, path.read_text())] == []
    config = (ROOT.parent / "conf").rglob("*.yaml")
    assert [str(path) for path in config if "kdrun.papers" in path.read_text()] == []


def test_every_part_has_its_arrows():
    assert {part_of(path) for path in FILES} == set(ALLOWED)


def test_config_uses_of_experiment_only_building():
    used = {name for path in (ROOT / "config").glob("*.py") for name in imports(path) if "experiment" in name}
    assert used <= {f"kdrun.experiment.{name}" for name in ("build", "datasets", "runtime", "evaluations", "weights")}


def test_a_run_id_needs_no_torch():
    """Neither do the specs that `spec.json` holds."""
    code = "import kdrun.spec.spec, sys; assert not {'torch', 'numpy'} & sys.modules.keys()"
    subprocess.run([sys.executable, "-c", code], check=True)
