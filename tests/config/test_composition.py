"""A config from the cache is the one that Hydra composes, or refuses, as a whole."""

import pytest
from hydra import compose
from hydra.errors import HydraException
from omegaconf import OmegaConf

from kdrun.config.compose import hydra_session
from kdrun.config.composition import CONFIG_NAME, SEARCH_PATH, compose_config, group_options

FITTING = [
    [],
    ["recipe.epochs=7", "dataset=cifar100", "student.hidden=[8]", "student=mlp", "recipe=mnist", "seed=8"],
    ["experiment=tfkd_kd_mobilenetv2", "method.alpha=0.5", "recipe.epochs=3"],
    ["~student@teacher", "~seed", "~recipe.milestones"],
    ["+student@teacher.also.a=mlp", "teacher.also.a.hidden=[8]"],
    ["method=sum", "~method.terms", "+method.terms={at:{weight:1.0}}", "++method.terms.kd={weight:2}"],
    ["recipe.lr=${recipe.gamma}", "student.dropout='0.1'", "runtime.output_root='a=b, c'"],
    ["++recipe={epochs:4}", "++dataset.in_channels=3", "+student.token=abc", "runtime={device:cpu}"],
    ["method@teacher.method=kd", "student@teacher.teacher=mlp", "teacher.method.alpha=0.5"],
]
REFUSED = [
    ["stuent=cnn"],
    ["recipe.epochs=3", "student=resnet21"],
    ["+student.dropout=0.2"],
    ["~recipe.nothing"],
    ["~seed=5"],
    ["seed=1,2"],
    ["+nothing@place=3"],
    ["student=3"],
    ["recipe.lr='${'"],
    ["recipe.epochs.more=1"],
]


@pytest.mark.parametrize("words", FITTING)
def test_a_config_is_the_one_that_hydra_composes(words):
    with hydra_session():
        expected = compose(CONFIG_NAME, overrides=words)
        for _ in range(2):
            config = compose_config(words)
            assert OmegaConf.to_yaml(config) == OmegaConf.to_yaml(expected)
            assert OmegaConf.is_struct(config)
            assert list(config) == list(expected)
            config.runtime.device = "changed"  # by one user: the next has a config of his own


@pytest.mark.parametrize("words", REFUSED)
def test_what_hydra_refuses_is_refused(words):
    with hydra_session():
        with pytest.raises((HydraException, ValueError)) as expected:
            compose(CONFIG_NAME, overrides=words)
        for _ in range(2):
            with pytest.raises(type(expected.value)):
                compose_config(words)


def test_a_tree_of_the_users_own_is_read_anew_in_every_session(tmp_path):
    words = [f"{SEARCH_PATH}['file://{tmp_path}']", "+mine=one"]
    (tmp_path / "mine").mkdir()
    for lr in (0.25, 0.5):
        (tmp_path / "mine" / "one.yaml").write_text(f"# @package _global_\nrecipe: {{lr: {lr}}}\n")
        (tmp_path / "mine" / f"lr{lr}.yaml").touch()
        with hydra_session():
            assert compose_config(words).recipe.lr == lr
            assert f"lr{lr}" in group_options("mine", words)
            assert group_options("mine", []) == ()
