"""Names that a package finds in its modules: no module hides one, and nothing is imported that is not used."""

import importlib
import pkgutil
import subprocess
import sys

import pytest
import yaml

from kdrun import methods
from kdrun.config.compose import config_directory

TARGETS = {
    yaml.safe_load(path.read_text())["_target_"]
    for group in ("method", "student", "dataset")
    for path in (config_directory() / group).glob("*.yaml")
}


def test_the_name_of_a_component_is_not_that_of_a_module_beside_it():
    for target in TARGETS:
        package, _, name = target.rpartition(".")
        module = importlib.import_module(package)
        assert name not in {each.name for each in pkgutil.iter_modules(module.__path__)}
        assert callable(getattr(module, name))
    with pytest.raises(AttributeError, match=r"'kdrun.methods' has no attribute 'NoMethod'"):
        methods.NoMethod  # noqa: B018


def test_what_is_not_used_is_not_imported():
    code = "from kdrun.methods import CE; from kdrun.models import cnn; from kdrun.data import digits; import sys; "
    code += "print(*sys.modules)"
    imported = subprocess.run([sys.executable, "-c", code], check=True, capture_output=True, text=True).stdout.split()
    assert {"kdrun.methods.hard_labels", "kdrun.models.plain", "kdrun.data.loaders.digits"} <= set(imported)
    assert not {"kdrun.methods.kd", "kdrun.models.resnet", "kdrun.data.loaders.cifar"} & set(imported)
    assert not {"torchvision", "PIL", "pandas", "scipy"} & set(imported)
