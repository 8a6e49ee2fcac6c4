"""Hydra's composition and its options of groups, remembered; for use within a session (`kdrun.config.compose`).

Hydra takes a tenth of a second to compose a config, and all but some milliseconds of it hang on the choices of groups
alone. The jobs of a sweep, the rows of a table and the search for overrides that do not fit make few choices and set
many values: what a set of choices yields is kept, and the values are laid over a copy.
"""

from __future__ import annotations

import functools
import pickle
from collections.abc import Sequence

from hydra import compose
from hydra._internal.config_loader_impl import ConfigLoaderImpl
from hydra.core.config_loader import ConfigLoader
from hydra.core.global_hydra import GlobalHydra
from hydra.core.object_type import ObjectType
from hydra.core.override_parser.overrides_parser import OverridesParser
from hydra.core.override_parser.types import Override
from omegaconf import DictConfig

CONFIG_NAME = "config"
SEARCH_PATH = "hydra.searchpath="


def compose_config(words: Sequence[str]) -> DictConfig:
    """What `hydra.compose` makes of the shipped config and overrides, or the error it raises.

    Args:
        words: overrides as Hydra wants them, a search path among them.
    """
    overrides = OverridesParser.create().parse_overrides(list(words))
    values = [override for override in overrides if _sets_a_value(override, words)]
    choices = [word for word, override in zip(words, overrides, strict=True) if override not in values]
    config: DictConfig = pickle.loads(_composed(tuple(choices), _source(words)))
    ConfigLoaderImpl._apply_overrides_to_config(values, config)  # Hydra's own last step
    return config


def group_options(group: str, words: Sequence[str]) -> tuple[str, ...]:
    """The options of a group, those in a search path among `words` included."""
    return _options(group, tuple(word for word in words if word.startswith(SEARCH_PATH)), _source(words))


def _sets_a_value(override: Override, words: Sequence[str]) -> bool:
    """Whether Hydra applies an override to the config it has composed; the others decide what it composes."""
    if override.is_hydra_override() or override.is_sweep_override():
        return False
    return isinstance(override.value(), dict) or not group_options(override.key_or_group, words)


def _source(words: Sequence[str]) -> ConfigLoader | None:
    """How long what was read holds: the installed tree stays as it is, one of the user's for a session (its loader)."""
    return GlobalHydra.instance().config_loader() if any(word.startswith(SEARCH_PATH) for word in words) else None


@functools.lru_cache(maxsize=1024)  # of about 5 kB
def _composed(choices: tuple[str, ...], source: ConfigLoader | None) -> bytes:
    """A config without any value of the user's, pickled: so everyone has a copy of his own."""
    return pickle.dumps(compose(CONFIG_NAME, overrides=list(choices)))


@functools.lru_cache(maxsize=1024)
def _options(group: str, search_path: tuple[str, ...], source: ConfigLoader | None) -> tuple[str, ...]:
    loader = GlobalHydra.instance().config_loader()
    return tuple(loader.get_group_options(group, ObjectType.CONFIG, CONFIG_NAME, list(search_path)))
