"""All that is wrong is one message; what is small or shared is told."""

import functools
from pathlib import Path

import pytest
from PIL import Image
from torch import nn

import kdrun.models
from kdrun.config.compose import ConfigError


def test_maps_of_different_sizes_are_a_notice_of_every_job_that_compares_them(job):
    """Also where the same pair was checked before; in a sum with the name of the term."""
    for _ in range(2):
        notices = job("method=at", "student=mobilenetv2", "teacher=resnet20").notices
        assert [line for line in notices if line.startswith("method=at: maps of different sizes")]
    summed = job("method=sum", "student=mobilenetv2", "teacher=resnet20").notices
    assert [line for line in summed if line.startswith("method=sum: at: maps of different sizes")]
    equal = job("method=at", "student=resnet8", "teacher=resnet20").notices
    assert not [line for line in equal if "sizes" in line]


def test_a_deleted_node_is_a_problem_and_a_deleted_seed_is_the_default(kdrun, job):
    for words in ("~student", "~method", "~dataset"):
        said = kdrun(words)
        assert said.code == 2, words
        assert words[1:] in said.err
    assert job("~seed").spec == job().spec


def test_a_sweep_is_checked_whole_before_its_first_job(kdrun):
    said = kdrun("-m", "method=ce,kd,kdd", "student.dropout=0,1.5", "recipe.lr=0.1,-1", "dataset=synthetic")
    assert said.code == 2
    assert "3 problems" in said.err
    for text in ("method=kdd: no such option", "student.dropout=1.5: must", "recipe.lr=-1.0: must"):
        assert said.err.count(text) == 1
    assert list(Path().iterdir()) == []


@pytest.mark.parametrize("swept", ["runtime.output_root=a,b", "dataset.root=a,b"])
def test_the_jobs_of_a_sweep_share_where_they_run(kdrun, swept):
    said = kdrun("-m", swept, "method=ce", "dataset=synthetic")
    assert said.code == 2
    assert "the jobs of a sweep must share one" in said.err


def test_what_was_found_to_fit_is_tried_again_where_its_name_stands_for_another_network(job, monkeypatch):
    @functools.wraps(kdrun.models.mlp)
    def mlp(**options):
        return nn.Flatten()

    job("student=mlp", "method=ce")
    monkeypatch.setattr(kdrun.models, "mlp", mlp)
    with pytest.raises(ConfigError, match=r"returns \[2, 64\] for 2 images"):
        job("student=mlp", "method=ce")


def test_classes_by_name_are_the_classes_by_index(job):
    for option in ("dataset", "teacher.dataset"):
        for choice in ("classes", "drop_classes"):
            named = job("method=kd", f"{option}.{choice}=['7',8]").spec
            assert named == job("method=kd", f"{option}.{choice}=[7,8]").spec, option
            assert named.run_id != job("method=kd").spec.run_id
    with pytest.raises(ConfigError, match=r"teacher.dataset.classes=\['seven'\]: seven: no such class"):
        job("method=kd", "teacher.dataset.classes=[seven]")


def test_classes_of_a_folder_are_chosen_by_their_names(kdrun, job, tmp_path):
    """In either of Unicode's forms; of names that are numbers, an index is no name."""
    for split in ("train", "test"):
        for place, labels in (("words", ("ant", "cafe\u0301", "cafz")), ("numbers", ("1", "2", "10"))):
            for label in labels:
                (tmp_path / place / split / label).mkdir(parents=True)
                for number in range(2):
                    Image.new("RGB", (8, 8), 40 * number).save(tmp_path / place / split / label / f"{number}.png")

    def chosen(place: str, classes: str) -> list[str]:
        return ["dataset=folder", f"dataset.root={tmp_path / place}", "dataset.image_size=8", "method=ce", classes]

    assert job(*chosen("words", "dataset.classes=['caf\u00e9',ant]")).spec.dataset.classes == (2, 0)
    assert job(*chosen("words", "dataset.drop_classes=['cafe\u0301']")).spec.dataset.classes == (0, 1)
    assert job(*chosen("numbers", "dataset.classes=['10','1']")).spec.dataset.classes == (2, 0)
    assert job(*chosen("numbers", "dataset.classes=[2,1]")).spec.dataset.classes == (2, 1)
    said = kdrun(*chosen("words", "dataset.classes=[ent,cafz]"))
    assert said.code == 2
    assert "dataset.classes=['ent', 'cafz']: ent: no such class; did you mean ant?" in said.err


def test_fewer_images_than_a_batch_are_told_and_trained_on(kdrun, job):
    """Every class gives at least one image; the teacher has its own choice of classes and its own batches."""
    tiny = ("dataset.train_fraction=0.001", "recipe.batch_size=16", "student=mlp", "student.hidden=[4]")
    told = "batch_size=16: there are about 10 images to train on, fewer than one batch"
    assert [text for text in job(*tiny, "method=ce").notices if "batch" in text] == [
        f"recipe.{told}; an epoch is one step on all of them, and recipe.lr is scaled by their number"
    ]
    few = job(*tiny, "method=kd", "dataset.classes=[1,2,3]").notices
    assert [text.partition(" images")[0] for text in few if "batch" in text] == [
        "recipe.batch_size=16: there are about 3",
        "teacher.recipe.batch_size=16: there are about 10",
    ]
    assert not [text for text in job("recipe.batch_size=1437", "method=ce").notices if "batch" in text]
    said = kdrun(*tiny, "method=ce", "recipe.epochs=1")
    assert said.code == 0
    assert told in said.out + said.err


def test_an_average_longer_than_the_run_is_told(job):
    """Of 23 steps an epoch: 1 / (1 - decay) steps are 20, 25 and 100."""
    notices = [job("method=ce", "recipe.epochs=1", f"recipe.ema_decay={decay}").notices for decay in (0.95, 0.96, 0.99)]
    assert [sum("recipe.ema_decay" in text for text in each) for each in notices] == [0, 1, 1]


def test_a_single_image_ends_before_training_and_says_why(kdrun):
    said = kdrun(
        "dataset=synthetic", "dataset.train_size=8", "dataset.num_classes=8", "dataset.classes=[3]", "method=ce"
    )
    assert said.code == 1
    assert "1 training image(s) are left" in said.out + said.err
    assert list(Path().rglob("*.pt")) == []


@pytest.fixture
def homeless(monkeypatch, here):
    """As in a container whose user id has no name: neither $HOME nor an entry in the system's list of users."""
    for variable in ("HOME", "KDRUN_DATA", "XDG_CACHE_HOME"):
        monkeypatch.delenv(variable, raising=False)

    def unknown(*_):
        raise KeyError("no such user")

    monkeypatch.setattr("pwd.getpwuid", unknown)
    monkeypatch.setattr("pwd.getpwnam", unknown)


def test_without_a_home_data_that_comes_with_kdrun_is_trained_on(homeless, kdrun, here):
    said = kdrun("student=mlp", "teacher=none", "method=ce", "recipe.epochs=1", "runtime.device=cpu")
    assert said.code == 0
    assert [path.name for path in here.iterdir()] == ["outputs"]


@pytest.mark.parametrize(
    ("word", "names"),
    [
        ("dataset=mnist", ("HOME", "KDRUN_DATA")),
        ("dataset=mnist dataset.root='~/x'", ("HOME", "KDRUN_DATA", "root=~/x")),
        ("teacher.trained_on=mnist method=fsp", ("teacher.trained_on", "HOME", "KDRUN_DATA")),
        ("runtime.output_root='~/x'", ("HOME", "runtime.output_root=~/x")),
        ("runtime.output_root='~nobody-here/x'", ("~nobody-here", "runtime.output_root=~nobody-here/x")),
        ("teacher.checkpoint='~/x'", ("HOME", "teacher.checkpoint=~/x")),
    ],
)
def test_without_a_home_what_needs_one_names_the_variables(homeless, kdrun, here, word, names):
    said = kdrun(*word.split())
    assert said.code == 2
    assert "1 problem" in said.err
    for name in names:
        assert name in said.err
    assert not any(here.iterdir())


@pytest.mark.parametrize("root", [f"new/{'é' * 150}", "a/" * 2500, f"/{'b' * 256}/c"])
def test_an_output_root_with_a_name_that_is_too_long_is_one_problem(kdrun, here, root):
    quoted = f'runtime.output_root="{root}"'
    said = kdrun(quoted, "student=mlp", "teacher=none", "method=ce")
    assert said.code == 2
    assert "1 problem" in said.err
    assert "must be at most" in said.err or "too long" in said.err
    assert not any(here.iterdir())


@pytest.mark.parametrize(
    "line",
    ["ls NAME", "rm NAME", "table NAME.yaml", "--config-dir NAME", "dataset=folder"],
)
def test_a_name_that_is_too_long_is_no_file(kdrun, here, line):
    name = "a" * 300
    words = [word.replace("NAME", name) for word in line.split()]
    said = kdrun(*words, *(["dataset.root=" + name, "--dry-run"] if line == "dataset=folder" else []))
    assert said.code == 2
    assert name in said.err
    assert "OSError" not in said.err
    assert not any(here.iterdir())
