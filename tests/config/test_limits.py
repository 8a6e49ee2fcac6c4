"""Configs that stand for more than they have, and numbers beyond any use, are refused within seconds."""

import os
from pathlib import Path

import pytest
from omegaconf import OmegaConf

from kdrun.config.yaml_files import FILE_LIMIT, LONGEST_VALUE, MOST_RESOLVED, MOST_VALUES, parse_yaml

TEN = range(1, 30)
AT_THE_TOP = "# @package _global_\n"


def repeated(line: str, first: str) -> str:
    """Thirty lines of which each names the one before."""
    return "\n".join([AT_THE_TOP + first, *(line.format(this=f"a{i}", last=f"a{i - 1}") for i in TEN)])


FILES = {
    "aliases": repeated("{this}: &{this} [" + ",".join(["*{last}"] * 10) + "]", "a0: &a0 [x]"),
    "merges": repeated("{this}: &{this} {{<<: [" + ",".join(["*{last}"] * 10) + "]}}", "a0: &a0 {x: 1}"),
    "itself": AT_THE_TOP + "a: &a [*a]",
    "texts": repeated("{this}: ${{{last}}}${{{last}}}", "a0: x"),
    "mappings": repeated("{this}:\n  x: ${{{last}}}\n  y: ${{{last}}}", "a0: {x: 1}"),
    "selected": repeated("{this}: ${{oc.select:{last}}}${{oc.select:{last}}}", "a0: x"),
    "circle": AT_THE_TOP + "seed: ${b}\nb: ${seed}",
    "chosen": "defaults: [chosen@x]",
    "deep": AT_THE_TOP + "a: " + 5000 * "[",
    "base60": AT_THE_TOP + "seed: 1" + 50_000 * ":59",
    "many": AT_THE_TOP + "a: [" + 12_000 * "1," + "]",
    "number": "5",
}
SPARSE, BYTES = "sparse", "latin"

CONFIGS = [
    ("aliases", f"aliases.yaml has more than {MOST_VALUES} values"),
    ("merges", f"merges.yaml has more than {MOST_VALUES} values"),
    ("itself", f"itself.yaml has more than {MOST_VALUES} values"),
    ("many", f"many.yaml has more than {MOST_VALUES} values"),
    ("texts", f"repeat more than {MOST_RESOLVED} values"),
    ("mappings", f"repeat more than {MOST_RESOLVED} values"),
    ("selected", f"repeat more than {MOST_RESOLVED} values"),
    ("circle", "ecursive interpolation"),
    ("chosen", "the defaults lists name more than 200 config files"),
    ("deep", "deep.yaml is nested too deeply"),
    ("base60", f"base60.yaml has a value of 150001 characters; at most {LONGEST_VALUE}"),
    ("number", "number.yaml has a single value, 5"),
    (SPARSE, f"{SPARSE}.yaml cannot be read: has {2**40} bytes; at most {FILE_LIMIT}"),
    (BYTES, f"{BYTES}.yaml, line 1: byte 0xe9 at position 3 is not UTF-8"),
    ("fifo", "no such option"),
    ("device", "no such option"),
]


@pytest.fixture
def tree(tmp_path) -> Path:
    directory = tmp_path / "tree" / "experiment"
    directory.mkdir(parents=True)
    for name, text in FILES.items():
        (directory / f"{name}.yaml").write_text(text)
    (directory / f"{BYTES}.yaml").write_bytes("a: é".encode("latin-1"))
    (directory / f"{SPARSE}.yaml").touch()
    os.truncate(directory / f"{SPARSE}.yaml", 2**40)
    os.mkfifo(directory / "fifo.yaml")
    (directory / "device.yaml").symlink_to("/dev/zero")
    return tmp_path / "tree"


pytestmark = pytest.mark.usefixtures("in_seconds")


@pytest.mark.parametrize(("name", "text"), CONFIGS)
def test_a_config_that_stands_for_more_than_it_has_is_refused(kdrun, tree, here, name, text):
    said = kdrun("--config-dir", str(tree), f"experiment={name}", "--dry-run")
    assert (said.code, said.out) == (2, "")
    assert text in said.err
    assert list(here.glob("outputs")) == []


@pytest.mark.parametrize("name", ["aliases", "mappings", SPARSE])
def test_to_look_at_such_a_config_is_refused_too(kdrun, tree, name):
    said = kdrun("--config-dir", str(tree), f"experiment={name}", "--cfg", "job", "--resolve")
    assert said.code == 2
    assert "1 problem; nothing was run or written" in said.err


@pytest.mark.parametrize("name", ["aliases", SPARSE, BYTES, "fifo"])
def test_such_a_table_is_refused(kdrun, tree, name):
    said = kdrun("table", str(tree / "experiment" / f"{name}.yaml"), "--dry-run")
    assert said.code == 2
    assert f"{name}.yaml" in said.err


def test_tables_that_include_each_other_are_refused(kdrun, here):
    for name, other in (("first", "second"), ("second", "first")):
        Path(f"{name}.yaml").write_text(f"title: a table\nnum_classes: 10\ninclude: [{other}.yaml, {other}.yaml]\n")
    said = kdrun("table", "first.yaml", "--dry-run")
    assert said.code == 2
    assert "first.yaml: include: the table includes itself" in said.err


def test_a_table_writes_into_its_own_directory_only(kdrun, here):
    """The name of the directory is that of the file."""
    Path("...yaml").write_text("title: a table\nrows: []\n")
    said = kdrun("table", "...yaml", "--dry-run")
    assert said.code == 2
    assert "...yaml: its name without .yaml is that of its directory under tables/; rename it" in said.err


def test_a_value_that_is_nested_too_deeply_is_refused(kdrun, here):
    said = kdrun("--dry-run", "seed=" + "[" * 400 + "]" * 400)
    assert said.code == 2
    assert "seed=[[" in said.err
    assert "is nested too deeply" in said.err


def test_what_yaml_stands_for_is_what_omegaconf_reads(tmp_path):
    for number, text in enumerate(["a: &b {c: [1, 2]}\nd: *b\ne: {<<: *b, f: 1e3}", "", "[1, {a: null}]", "word"]):
        path = tmp_path / f"{number}.yaml"
        path.write_text(text)
        assert parse_yaml(text, path) == OmegaConf.load(path)


HUGE = 10**12
COUNTS = [
    *("recipe.epochs", "recipe.batch_size", "recipe.lr_batch_size", "recipe.evaluate_every", "dataset.num_classes"),
    *("dataset.train_size", "dataset.test_size", "dataset.image_size"),
]
NUMBERS = [
    (f"recipe.warmup_epochs={HUGE}", f"recipe.warmup_epochs={HUGE}: must be"),
    (f"stop_epoch={HUGE}", f"stop_epoch={HUGE}: must be an integer from 0 to 20"),
    (f"student=mlp student.hidden=[{HUGE}]", f"student.hidden[0]={HUGE}: must be"),
    (f"student=mlp student.hidden=[{','.join(1001 * '8')}]", "student.hidden=a list of 1001: must be"),
    ("student=mlp student.hidden=[1000000,1000000]", "parameters; at most 10,000,000,000"),
    (f"method=born_again method.generation={HUGE}", f"method.generation={HUGE}: must be"),
    (f"method=kd_ensemble method.num_teachers={HUGE}", f"method.num_teachers={HUGE}: must be"),
    (f"method=dml method.num_networks={HUGE}", f"method.num_networks={HUGE}: must be"),
    (f"method=crd method.num_negatives={HUGE}", f"method.num_negatives={HUGE}: must be"),
    (f"method=dkd method.warmup_epochs={HUGE}", f"method.warmup_epochs={HUGE}: must be"),
    ("method=fitnet method.stage1_epochs=1e300", "method.stage1_epochs=1e+300: must be"),
    (f"teacher.seeds=[{','.join(map(str, range(101)))}]", "teacher.seeds=a list of 101: must be"),
    (f"recipe.milestones=[{','.join(str(i / 2000) for i in range(1, 1002))}]", "recipe.milestones="),
    (f"seed={5000 * '9'}", "cannot be parsed"),
    (f"method.temperature={3000 * '['}", "cannot be parsed"),
    (f"-m seed=range(0,{HUGE})", f"seed=range(0,{HUGE}): has more than 10,000 values"),
    ("-m seed=shuffle(range(0,1e9))", "has more than 10,000 values"),
    ("-m method.temperature=range(1,2,1e-30)", "has more than 10,000 values"),
    ("-m method.temperature=range(1,inf)", "has more than 10,000 values"),
    ("-m seed=range(1,2,0)", "has more than 10,000 values"),
    ("-m seed=range(0,5000) method.temperature=range(1,5000)", "the sweep has 24,995,000 jobs (seed: 5000, method."),
    (f"table tfkd_t9 dataset=digits --seeds {HUGE}", f"--seeds {HUGE}: must be at least 1 and at most 1000"),
    ("table tfkd_t9 dataset=digits --seeds 1000", "18 rows of 1000 seeds (--seeds): at most 10000 runs"),
]


def test_counts_beyond_any_use_are_named(kdrun, here):
    said = kdrun("dataset=synthetic", *(f"{key}={HUGE}" for key in COUNTS), "--dry-run")
    assert (said.code, said.out) == (2, "")
    assert [key for key in COUNTS if f"{key}={HUGE}: must be" not in said.err] == []
    assert said.err.count(" at most ") == len(COUNTS)
    assert list(here.iterdir()) == []


@pytest.mark.parametrize(("line", "text"), NUMBERS, ids=[line[:60] for line, _ in NUMBERS])
def test_a_number_beyond_any_use_is_named(kdrun, here, line, text):
    said = kdrun(*line.split(), "--dry-run")
    assert (said.code, said.out) == (2, "")
    assert text in said.err
    assert list(here.iterdir()) == []


def test_the_largest_numbers_are_taken(kdrun):
    said = kdrun("method=ce", "teacher=none", "student=mlp", "recipe.epochs=1000000", "--dry-run")
    assert said.code == 0
    assert "1000000 epochs" in said.out + said.err


def test_a_range_to_draw_from_is_no_sweep():
    from kdrun.config.command_line import first_jobs
    from kdrun.config.compose import hydra_session

    problems: list[str] = []
    with hydra_session():
        assert first_jobs(["seed=range(0,1000000000)"], problems) == [["seed=0"]]
    assert problems == []
