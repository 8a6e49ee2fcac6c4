"""Hydra's composition and its groups' options, cached; for use within a session (`kdrun.config.compose`).

Every composition, Hydra's own included, refuses what a config file may not set (`kdrun.config.search`).

A composition takes a tenth of a second, of which all but some milliseconds depend on the choices of groups alone. The
jobs of a sweep, the rows of a table and the search for overrides that do not fit make few choices and set many values:
the config of each set of choices is cached, and values are set in a copy.
"""

from __future__ import annotations

import functools
import os
import pickle
from collections.abc import Sequence
from importlib.util import find_spec
from pathlib import Path
from typing import Any, cast

import hydra._internal.config_loader_impl
import hydra._internal.hydra
import yaml
from hydra import compose
from hydra._internal.config_loader_impl import ConfigLoaderImpl
from hydra._internal.config_repository import CachingConfigRepository, IConfigRepository
from hydra._internal.sources_registry import SourcesRegistry
from hydra.core.config_loader import ConfigLoader
from hydra.core.config_search_path import ConfigSearchPath
from hydra.core.default_element import ResultDefault
from hydra.core.global_hydra import GlobalHydra
from hydra.core.object_type import ObjectType
from hydra.core.override_parser.types import Override
from hydra.core.plugins import Plugins
from hydra.errors import ConfigCompositionException, HydraException
from hydra.plugins.config_source import ConfigLoadError, ConfigResult, ConfigSource
from hydra.plugins.search_path_plugin import SearchPathPlugin
from omegaconf import DictConfig, OmegaConf, open_dict
from omegaconf.errors import ConfigAttributeError, ConfigKeyError, OmegaConfBaseException

from kdrun.config.quoting import parse_override, parsed
from kdrun.config.search import CHOICES, LAUNCHER, PLUGINS, Search, refusals
from kdrun.config.yaml_files import parse_yaml, read_yaml_text, restart_resolving
from kdrun.spec.signature import unknown

CONFIG_NAME = "config"
SEARCH_PATH = "hydra.searchpath="
MOST_FILES = 200
"""Config files of a composition, one that is named several times counting each time."""

COMPOSE_ERRORS = (HydraException, OmegaConfBaseException, yaml.YAMLError, ValueError, RecursionError)


def config_directory() -> Path:
    """The directory of the shipped config: in a checkout, what `kdrun/conf` links to."""
    return (Path(__file__).parents[1] / "conf").resolve()


def papers_directory() -> Path:
    """The directory of the papers' folders, each with its tables and its `conf/`."""
    return Path(__file__).parents[1].resolve() / "papers"


def config_directories() -> list[Path]:
    """The directories of the shipped config: kdrun's own, then those of the papers' folders."""
    return [config_directory(), *sorted(papers_directory().glob("*/conf"))]


class PapersSearchPath(SearchPathPlugin):
    """Adds the config of every paper's folder to Hydra's search path, behind kdrun's own."""

    def manipulate_search_path(self, search_path: ConfigSearchPath) -> None:
        for directory in config_directories()[1:]:
            search_path.append("kdrun", f"file://{directory}")


class RefusedFileError(ConfigCompositionException):
    """Config files set what only kdrun's own may set: one line for each key."""

    def __init__(self, problems: Sequence[str]) -> None:
        super().__init__("\n".join(problems))
        self.problems = list(problems)


class CheckedLoader(ConfigLoaderImpl):
    """Hydra's loader, which refuses config files that set more than a launcher and a sweeper under `hydra.`.

    Attributes:
        files: of the last composition, the config files from outside kdrun that set one of these.
    """

    files: tuple[str, ...] = ()

    def _compose_config_from_defaults_list(self, defaults: list[ResultDefault], repo: IConfigRepository) -> DictConfig:
        problems, files = [], []
        for default in defaults:
            file, refused, sets_any = _on_hydra(self, default, repo)
            problems += [f"{file}: {text}" for text in refused]
            files += [file] if sets_any else []
        if problems:
            raise RefusedFileError(problems)
        self.files = tuple(files)
        return super()._compose_config_from_defaults_list(defaults, repo)


class _NoSchemas:
    """A source without the structured configs by which Hydra would complete config files of their name.

    The launchers' options in `conf/hydra/launcher` are whole; their plugins register others under the same names.
    """

    def load_config(self, config_path: str) -> ConfigResult:
        raise ConfigLoadError(config_path)


class BoundedRepository(CachingConfigRepository):
    """Hydra's files of one composition; refuses defaults lists that name each other without end."""

    def __init__(self, delegate: IConfigRepository) -> None:
        super().__init__(delegate)
        self._left = MOST_FILES
        restart_resolving()

    def load_config(self, config_path: str) -> ConfigResult | None:
        self._left -= 1
        if self._left < 0:
            raise ConfigCompositionException(
                f"{config_path}: the defaults lists name more than {MOST_FILES} config files, one several times "
                "counting each time"
            )
        return super().load_config(config_path)

    def get_schema_source(self) -> ConfigSource:
        return cast(ConfigSource, _NoSchemas())


def _load_config(source: Any, config_path: str) -> ConfigResult:
    """`load_config` of Hydra's `FileConfigSource`, of regular files of bounded content."""
    path = os.path.realpath(os.path.join(source.path, source._normalize_file_name(config_path)))
    if not os.path.exists(path):
        raise ConfigLoadError(f"Config not found : {path}")
    text = read_yaml_text(path)
    return ConfigResult(
        config=parse_yaml(text, path),
        path=f"{source.scheme()}://{source.path}",
        provider=source.provider,
        header=ConfigSource._get_header_dict(text[:512]),
    )


# Hydra's main and its compose API create their loader and its repository by these names.
hydra._internal.hydra.ConfigLoaderImpl = CheckedLoader  # type: ignore[attr-defined]
hydra._internal.config_loader_impl.CachingConfigRepository = BoundedRepository  # type: ignore[attr-defined]


def prepare_hydra() -> None:
    """Registers the papers' search path and the bounded reading of files.

    Hydra's launchers forget both where they execute a job: they make its registers, and the classes in them, anew.
    """
    if PapersSearchPath not in Plugins.instance().discover(SearchPathPlugin):
        Plugins.instance().register(PapersSearchPath)
    SourcesRegistry.instance().resolve("file").load_config = _load_config  # type: ignore[method-assign,assignment]


def _on_hydra(loader: ConfigLoaderImpl, default: ResultDefault, repo: IConfigRepository) -> tuple[str, list[str], bool]:
    """A config of a defaults list: its file, what it must not set under `hydra.`, and whether it sets any of it."""
    path = default.config_path or ""
    loaded: Any = repo.load_config(path)
    scheme, _, root = loaded.path.partition("://")
    file = os.path.realpath(os.path.join(root, path)) if scheme == "file" else f"{loaded.path}/{path}"
    file = file if file.endswith(".yaml") else f"{file}.yaml"
    if _is_installed(scheme, root, file):
        package = (default.package if default.package is not None else loaded.header["package"]) or ""
        misplaced = package.split(".")[0] == "hydra" and not path.startswith("hydra/")
        return file, [f"must not be placed at {package}"] if misplaced else [], misplaced
    embedded = loader._embed_result_config(loaded, default.package).config
    config: Any = OmegaConf.to_container(embedded) if OmegaConf.is_config(embedded) else embedded
    return file, *refusals(config, loaded.defaults_list)


def _is_installed(scheme: str, root: str, file: str) -> bool:
    """Whether a config is kdrun's own, Hydra's or an installed plugin's."""
    if scheme == "file":
        return any(Path(file).is_relative_to(own) for own in (config_directory(), papers_directory()))
    return scheme == "structured" or root.split(".")[0] in ("hydra", "hydra_plugins")


def compose_config(words: Sequence[str]) -> DictConfig:
    """The result of `hydra.compose` for the shipped config and overrides in Hydra's form, or the error it raises."""
    restart_resolving()
    choices, values = _choices_and_values(words)
    config: DictConfig = pickle.loads(_composed(choices, _source(words))[0])
    for override in values:
        try:
            _apply(override, config)
        except OmegaConfBaseException as error:
            raise ConfigCompositionException(f"Error merging override {override.input_line}") from error
    return config


def _apply(override: Override, config: DictConfig) -> None:
    """Changes (`key=`), adds (`+key=`, `++key=`) or deletes (`~key`) a value, by the grammar of Hydra's overrides.

    Raises:
        ConfigCompositionException: a group that does not exist, a key to change or delete that does not exist, a key to
            add that exists, or a value to delete that is another.
    """
    key, value = override.key_or_group, override.value()
    if override.package is not None:
        raise ConfigCompositionException(f"config group '{key}' does not exist")
    found = OmegaConf.select(config, key) if override.is_delete() or override.is_add() else None
    if override.is_delete():
        if found is None:
            raise ConfigCompositionException(f"'{key}' does not exist and cannot be deleted")
        if value is not None and value != found:
            raise ConfigCompositionException(f"'{key}' is {found} and not {value}: it is not deleted")
        parent, _, name = key.rpartition(".")
        with open_dict(config):
            del (OmegaConf.select(config, parent) if parent else config)[name]
    elif override.is_add() and found is not None and not isinstance(value, dict | list):
        raise ConfigCompositionException(f"'{key}' exists and cannot be added; without + it is changed")
    else:
        adds = override.is_add() or override.is_force_add()
        try:
            OmegaConf.update(config, key, value, force_add=adds)
        except (ConfigAttributeError, ConfigKeyError) as error:
            if adds:
                raise
            raise ConfigCompositionException(f"'{key}' does not exist") from error


def compose_search(words: Sequence[str]) -> Search:
    """The launcher and sweeper that overrides and the config files they name choose, or the error Hydra raises."""
    return _composed(_choices_and_values(words)[0], _source(words))[1]


def group_options(group: str, words: Sequence[str]) -> tuple[str, ...]:
    """The options of a group, those in a search path among `words` included."""
    return _options(group, tuple(word for word in words if word.startswith(SEARCH_PATH)), _source(words))


def option_problem(group: str, option: str, words: Sequence[str]) -> str | None:
    """Why an option cannot be chosen: there is none, its file ends in `.yml`, or its plugin is missing."""
    allowed = group_options(group, words)
    if option in allowed and not (group == LAUNCHER and _lacks_plugin(option)):
        return None
    if package := CHOICES.get(group, {}).get(option):
        return f"is not installed: pip install {package}"
    searched = (parsed(word) for word in words if word.startswith(SEARCH_PATH))
    roots = [str(path) for override in searched if override for path in cast(list[Any], override.value())]
    stem = option.removesuffix(".yaml").removesuffix(".yml")
    files = (Path(root.removeprefix("file://"), group, f"{stem}.yml") for root in roots)
    misnamed = next((f"{file}: must end in .yaml" for file in files if os.path.isfile(file)), None)
    return misnamed or unknown(option, CHOICES.get(group, allowed), "option")


def _lacks_plugin(launcher: str) -> bool:
    """Whether a launcher whose options are in kdrun's config needs a package that is not installed."""
    try:
        return launcher in PLUGINS and find_spec(f"hydra_plugins.{PLUGINS[launcher]}") is None
    except ModuleNotFoundError:  # no plugin at all
        return True


def _choices_and_values(words: Sequence[str]) -> tuple[tuple[str, ...], list[Override]]:
    """Overrides that decide what Hydra composes, and those it applies to the composed config."""
    overrides = list(map(parse_override, words))
    values = [override for override in overrides if _sets_a_value(override, words)]
    return tuple(word for word, override in zip(words, overrides, strict=True) if override not in values), values


def _sets_a_value(override: Override, words: Sequence[str]) -> bool:
    """Whether Hydra applies an override to the config it has composed; the others decide what it composes."""
    if override.is_hydra_override() or override.is_sweep_override():
        return False
    return isinstance(override.value(), dict) or not group_options(override.key_or_group, words)


def _source(words: Sequence[str]) -> ConfigLoader | None:
    """How long the cache holds: for the process without a tree of the user's, else for one session (its loader)."""
    return GlobalHydra.instance().config_loader() if any(word.startswith(SEARCH_PATH) for word in words) else None


def _composed(choices: tuple[str, ...], source: ConfigLoader | None) -> tuple[bytes, Search]:
    """A config without the user's values, pickled, so that each caller has a copy; and its search."""
    found = _tried(choices, source)
    if isinstance(found, Exception):
        raise found.with_traceback(None)  # else it grows each time
    return found


@functools.lru_cache(maxsize=1024)  # of about 5 kB
def _tried(choices: tuple[str, ...], source: ConfigLoader | None) -> tuple[bytes, Search] | Exception:
    """As `_composed`; errors are cached too: the search for bad overrides meets them again."""
    try:
        config = compose(CONFIG_NAME, overrides=list(choices), return_hydra_config=True)
    except COMPOSE_ERRORS as error:
        return error
    except (AssertionError, AttributeError) as error:  # OmegaConf's, of a key in a value that is null
        return ConfigCompositionException(f"cannot be composed ({error})")
    loader: Any = GlobalHydra.instance().config_loader()
    chosen = config.hydra.runtime.choices
    sweeper: Any = OmegaConf.to_container(config.hydra.sweeper)
    options: Any = OmegaConf.to_container(config.hydra.launcher)
    search = Search(
        launcher=str(chosen["hydra/launcher"]),
        sweeper=str(chosen["hydra/sweeper"]),
        options=options,
        params={str(key): str(value) for key, value in (sweeper.get("params") or {}).items()},
        files=loader.files,
    )
    with open_dict(config):
        del config["hydra"]
    return pickle.dumps(config), search


@functools.lru_cache(maxsize=1024)
def _options(group: str, search_path: tuple[str, ...], source: ConfigLoader | None) -> tuple[str, ...]:
    loader = GlobalHydra.instance().config_loader()
    return tuple(loader.get_group_options(group, ObjectType.CONFIG, None, list(search_path)))
