"""Every option of every group composes and passes preflight, and agrees with the library it configures."""

import dataclasses
import inspect
from pathlib import Path

import pytest
import yaml
from omegaconf import OmegaConf
from PIL import Image

from kdrun.config.composition import config_directory, papers_directory
from kdrun.data import Augmentation
from kdrun.files import dry_run
from kdrun.methods import shipped_methods
from kdrun.spec.components import METHOD_INJECTED, all_options, resolve, set_by_dataset
from kdrun.spec.spec import Component, Recipe, as_tuples

ROOTS = [config_directory(), *sorted(papers_directory().glob("*/conf"))]
NEED_DATA = ("folder", "hf", "wds")


def files(group: str) -> dict[str, Path]:
    """Of kdrun's own config and of the papers'."""
    return {path.stem: path for root in ROOTS for path in sorted((root / group).glob("*.yaml"))}


def options(group: str) -> list[str]:
    return sorted(files(group))


def read(group: str, option: str) -> dict:
    return yaml.safe_load(files(group)[option].read_text())


def leaves(node: dict, path: str = "") -> dict:
    """The values of a tree by their dotted keys."""
    found = {}
    for key, value in node.items():
        found |= leaves(value, f"{path}{key}.") if isinstance(value, dict) else {f"{path}{key}": value}
    return found


RECIPE_LEAVES = leaves({**dataclasses.asdict(Recipe()), "augmentation": dataclasses.asdict(Augmentation())})


def takes_sequences(student: str) -> bool:
    return "num_tokens" in inspect.signature(resolve(read("student", student)["_target_"])).parameters


@pytest.mark.parametrize("option", [name for name in options("student") if not takes_sequences(name)])
def test_every_network_can_be_student_and_teacher(job, option):
    """On MNIST: 8x8 pixels are too few for convolutions without padding; and networks for ImageNet on ImageNet."""
    dataset = "imagenet" if option.startswith("imagenet_") else "mnist"
    with dry_run():  # without its data
        checked = job(f"student={option}", f"teacher={option}", f"dataset={dataset}")
    assert checked.spec.student.target == read("student", option)["_target_"]
    assert checked.spec.teachers[0].student == checked.spec.student


@pytest.mark.parametrize("option", options("method"))
def test_every_method_passes(job, option):
    spec = job(f"method={option}", "teacher=resnet32", "student=resnet20").spec
    node = read("method", option)
    kind = resolve(node["_target_"])
    stages = {"stage1_epochs": round(node["stage1_epochs"] * spec.recipe.epochs)} if "stage1_epochs" in node else {}
    weights = {name: term["weight"] for name, term in node.get("terms", {}).items()}
    alone = {name: shipped_methods()[name].default_weight() for name in weights}
    terms = {name: {} if weight == alone[name] else {"weight": weight} for name, weight in weights.items()}
    options = {**stages, **({"terms": terms} if terms else {})}
    assert spec.method == Component(node["_target_"], options), "its YAML must hold the defaults"
    assert len(spec.teachers) == (all_options(spec.method).get("num_teachers", 1) if kind.needs.teacher else 0)


@pytest.mark.parametrize("option", [name for name in options("dataset") if name not in NEED_DATA])
def test_every_dataset_passes_without_its_data_and_brings_its_recipe(job, composed, option):
    of_sequences = "num_tokens" in read("dataset", option)
    networks = ("lstm", "transformer_seq") if of_sequences else ("mobilenetv2", "resnet18")
    words = (f"dataset={option}", f"student={networks[0]}", f"teacher={networks[1]}")
    with dry_run():
        dataset = job(*words).spec.dataset
    assert (dataset.name, dataset.identity) == (option, read("dataset", option)["identity"])
    assert composed(*words).recipe == composed(*words, f"recipe={option}").recipe


def test_folder_is_described_by_what_it_holds(job, tmp_path):
    for split in ("train", "test"):
        for shade, name in ((40, "dark"), (200, "light")):
            (tmp_path / split / name).mkdir(parents=True)
            for i in range(2):
                Image.new("RGB", (10, 12), (shade, shade, i)).save(tmp_path / split / name / f"{i}.png")
    words = ("dataset=folder", f"dataset.root={tmp_path}", "dataset.image_size=8", "method=ce")
    found = job(*words).spec.dataset
    assert found.identity.startswith("files-sha256:")
    assert (found.num_classes, found.train_size, found.test_size, found.image_size) == (2, 4, 4, 8)
    Image.new("RGB", (10, 12), (0, 0, 0)).save(tmp_path / "train" / "dark" / "1.png")
    assert job(*words).spec.dataset.identity != found.identity


@pytest.mark.parametrize("option", options("recipe"))
def test_every_recipe_has_the_keys_of_the_library(composed, job, option):
    words = ("dataset=cifar100", "teacher=resnet18", f"recipe={option}")
    recipe = OmegaConf.to_container(composed(*words).recipe)
    assert sorted(leaves(recipe)) == sorted(RECIPE_LEAVES)
    recipe = as_tuples(recipe)
    augmentation = Augmentation.from_plain(recipe.pop("augmentation"))
    assert job(*words).spec.recipe == Recipe(**recipe, augmentation=augmentation)


@pytest.mark.parametrize(("group", "injected"), [("method", lambda _: METHOD_INJECTED), ("student", set_by_dataset)])
def test_the_yaml_of_a_component_names_all_its_options_at_their_defaults(group, injected):
    for option in options(group):
        node = read(group, option)
        name = node["_target_"].rpartition(".")[2]
        target = resolve(node.pop("_target_"))
        parameters = inspect.signature(target).parameters.values()
        defaults = {p.name: p.default for p in parameters if p.name not in injected(target)}
        node.pop("defaults", None)
        assert list(node) == list(defaults), option
        if name == option or group == "method":  # not a preset
            shown = {key: list(value) if isinstance(value, tuple) else value for key, value in defaults.items()}
            ours = ("stage1_epochs", "terms", "assistant")  # what only a config can say
            assert {**node, **{key: shown[key] for key in ours if key in shown}} == shown, option


def test_teachers_are_chosen_from_the_same_networks_as_students():
    for option in options("student"):
        assert read("teacher", option) == read("student", option)
    assert options("teacher") == options("student")


OTHER_VALUES = {
    "epochs": 7,
    "batch_size": 32,
    "lr": 0.025,
    "lr_batch_size": 256,
    "optimizer": "adam",
    "momentum": 0.8,
    "nesterov": True,
    "weight_decay": 0.01,
    "decay_norm_and_bias": False,
    "label_smoothing": 0.1,
    "accumulate": 2,
    "ema_decay": 0.99,
    "schedule": "cosine",
    "min_lr": 0.001,
    "milestones": [0.5],
    "gamma": 0.5,
    "warmup_epochs": 3,
    "clip_norm": 2.0,
    "max_norm": 15.0,
    "evaluate_every": 2,
    "augmentation.crop_padding": 2,
    "batch_norm": "per_rank",
    "ranks": 4,
    "augmentation.flip": True,
    "augmentation.rotation": 5.0,
    "augmentation.crop_scale": [0.1, 0.9],
    "augmentation.crop_ratio": [0.5, 2.0],
    "augmentation.color_jitter.brightness": 0.1,
    "augmentation.color_jitter.contrast": 0.2,
    "augmentation.color_jitter.saturation": 0.3,
    "augmentation.color_jitter.hue": 0.4,
    "augmentation.rand_augment.num_ops": 2,
    "augmentation.rand_augment.magnitude": 5,
    "augmentation.rand_augment.num_magnitude_bins": 11,
    "augmentation.random_erasing.p": 0.1,
    "augmentation.random_erasing.scale": [0.1, 0.2],
    "augmentation.random_erasing.ratio": [0.5, 2.0],
    "augmentation.mixup_alpha": 0.2,
    "augmentation.cutmix_alpha": 1.0,
}


def test_a_teachers_recipe_follows_the_runs_leaf_by_leaf(composed):
    assert sorted(OTHER_VALUES) == sorted(RECIPE_LEAVES)
    words = [f"recipe.{key}={str(value).replace(' ', '')}" for key, value in OTHER_VALUES.items()]
    config = composed(*words)
    assert leaves(OmegaConf.to_container(config.recipe)) == OTHER_VALUES
    assert leaves(OmegaConf.to_container(config, resolve=True)["teacher"]["recipe"]) == OTHER_VALUES


def test_a_key_of_a_teachers_recipe_can_be_its_own(composed):
    plain = OmegaConf.to_container(composed(), resolve=True)
    for key in ("epochs", "augmentation.flip"):
        changed = OmegaConf.to_container(composed(f"teacher.recipe.{key}={OTHER_VALUES[key]}"), resolve=True)
        assert changed["recipe"] == plain["recipe"]
        before, after = leaves(plain["teacher"]["recipe"]), leaves(changed["teacher"]["recipe"])
        assert after == {**before, key: OTHER_VALUES[key]} != before


def test_cifar100_alone_is_the_recipe_of_the_tfkd_paper(job):
    """Yuan et al. 2020, part 5, and their released code (main.py, data_loader.py, utils.py)."""
    spec = job("dataset=cifar100", "teacher=resnet18", "student=mobilenetv2", "method=kd").spec
    paper = Recipe(
        epochs=200,
        batch_size=128,
        lr=0.1,
        lr_batch_size=128,
        optimizer="sgd",
        momentum=0.9,
        nesterov=False,
        weight_decay=5e-4,
        milestones=(0.3, 0.6, 0.8),
        gamma=0.2,
        warmup_epochs=1,
        augmentation=Augmentation(crop_padding=4, flip=True, rotation=15.0),
    )
    assert spec.recipe == spec.teachers[0].recipe == paper
    assert spec.dataset.mean == (0.5070751592, 0.4865488733, 0.4409178434)
    assert spec.dataset.std == (0.2673342859, 0.2564384629, 0.2761504713)
    assert (spec.stop_epoch, spec.teachers[0].stop_epoch) == (None, None)
    assert (spec.dataset.train_fraction, spec.dataset.val_fraction) == (1, 0)


@pytest.mark.parametrize("option", options("experiment"))
def test_every_experiment_passes_and_can_be_changed(job, option):
    """What is typed goes before what an experiment sets."""
    assert job(f"experiment={option}").spec.run_id != job("dataset=cifar100", "teacher=resnet18").spec.run_id
    known = all_options(job(f"experiment={option}").spec.method)
    weight = "alpha" if "alpha" in known else "hard_weight"
    changed = job(f"experiment={option}", "recipe.epochs=3", f"method.{weight}=0.5").spec
    assert (changed.recipe.epochs, changed.method.options[weight]) == (3, 0.5)
