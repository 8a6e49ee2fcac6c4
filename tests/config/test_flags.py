"""Flags of Hydra with overrides, good and bad: what they show, or one message; never a traceback, nothing written."""

import itertools
import os

import pytest

LOOKS = [
    *("--help", "--hydra-help", "-c job", "-c hydra", "-c all", "-c job --resolve", "-c hydra --resolve", "-i all"),
    *("-c all --resolve", "-c job -p student", "--help --resolve"),
]
GOOD = "student=mlp teacher=none teacher=cnn seed=3 seed=4"
BAD = [
    *("student=nope", "nope=1", "seed=1,2", "runtime.output_root=a(b)", "hydra.run.dir=x", "hydra.job=null"),
    *('+hydra.sweeper.params.seed="1,2"', "++hydra.sweeper.params={seed:1}", "~hydra.sweeper.params", "~hydra.job"),
    *("hydra.launcher.x.y=1", "hydra.sweeper.params=abc", "hydra.mode=nope", "hydra/sweeper=x", "hydra=null"),
]
MISUSED = [
    *("-c job -i all", "--help --hydra-help", "-m --help", "--resolve", "-i all --resolve", "-p student", "-cn x"),
    *("-cp x", "--config-name=x student=cnn", "-sc", "-sc bash", "-sc install=nope", "-sc install=bash query=bash"),
    *("-sc query=bash", "-c job -p nope", "-c job -p ...", "-c hydra -p student", "-c job --resolve recipe.lr=${x}"),
    *("-c hydra --resolve runtime.output_root=${oc.env:NO_SUCH}", "--help --resolve runtime.output_root=${x}"),
]


@pytest.fixture(autouse=True)
def without_a_completed_line(monkeypatch):
    monkeypatch.delenv("COMP_LINE", raising=False)
    monkeypatch.setattr("sys.argv", ["kdrun"])  # Hydra's main reads it


@pytest.mark.parametrize("look", LOOKS)
def test_every_look_shows_something(kdrun, here, look):
    said = kdrun(*look.split(), *GOOD.split())
    assert (said.code, "Traceback" in said.err) == (0, False)
    assert said.out
    assert os.listdir(here) == []


@pytest.mark.parametrize(("words", "look"), list(zip(BAD, itertools.cycle(LOOKS))))
def test_a_bad_override_of_a_look_is_bad_input(kdrun, here, words, look):
    said = kdrun(*look.split(), words)
    assert (said.code, "Traceback" in said.err) == (2, False)
    assert words in said.err
    assert os.listdir(here) == []


@pytest.mark.parametrize("line", MISUSED)
def test_flags_that_do_not_fit(kdrun, here, line):
    said = kdrun(*line.split())
    assert said.code == 2
    assert said.err
    assert "Traceback" not in said.err
    assert os.listdir(here) == []


@pytest.mark.parametrize("typed", ["hydra.sweeper.params=1", "+hydra.sweeper.params.seed=1", "~hydra.sweeper.params"])
def test_swept_keys_typed_for_the_sweeper_are_one_problem(kdrun, typed):
    said = kdrun("-m", typed, "--dry-run")
    assert said.code == 2
    assert "1 problem" in said.err
    assert "-m seed=0,1" in said.err


def test_the_hydra_config_resolves_with_the_runs_values(kdrun):
    said = kdrun("-c", "hydra", "--resolve", "runtime.output_root=elsewhere")
    assert said.code == 0
    assert "elsewhere/hydra" in said.out


GROUPS = {
    "teacher": ("cnn", "none"),
    "student": ("cnn", "mlp"),
    "method": ("kd", "dkd"),
    "seed": ("1", "2"),
    "teacher.method": ("lsr", "ce"),
    "teacher.also.x": ("cnn", "mlp"),
}


@pytest.mark.parametrize("group", GROUPS)
def test_of_a_group_given_twice_the_last_one_is_used(composed, group):
    first, last = GROUPS[group]
    assert composed(f"{group}={first}", f"{group}={last}") == composed(f"{group}={last}")
    assert composed(f"{group}={last}", f"{group}={first}") == composed(f"{group}={first}")


def test_of_terms_given_twice_the_last_ones_are_used(composed, job):
    of_sum = ("method=sum", "method.terms={a:{_target_:kdrun.methods.KD}}")
    twice = composed("method=sum", "method.terms={b:{_target_:kdrun.methods.AT}}", of_sum[1])
    assert twice == composed(*of_sum)
    again = job("method=ce", "teacher=cnn", "teacher=none")
    assert again.spec.run_id == job("method=ce", "teacher=none").spec.run_id
    assert again.left_aside == {}


FILES = {
    "latin": "_target_: kdrun.models.cnn\n# r\u00e9seau\n".encode("latin-1"),
    "utf16": "_target_: kdrun.models.cnn\n".encode("utf-16"),
    "nul": b"_target_: kdrun.models.cnn\n\0\n",
    "inherits": b"defaults:\n  - latin\n",
}


@pytest.mark.parametrize("name", FILES)
def test_a_config_file_that_is_no_utf8_is_named(kdrun, tmp_path, name):
    (tmp_path / "student").mkdir()
    for each, content in FILES.items():
        (tmp_path / "student" / f"{each}.yaml").write_bytes(content)
    file = tmp_path / "student" / f"{'latin' if name == 'inherits' else name}.yaml"
    said = kdrun("--config-dir", str(tmp_path), f"student={name}", "--help" if name == "latin" else "--dry-run")
    assert said.code == 2
    assert "1 problem" in said.err
    assert str(file) in said.err
    position, byte = {"utf16": ("0", "0xff"), "nul": ("27", "0000")}.get(name, ("30", "0xe9"))
    assert position in said.err.replace(str(tmp_path), "")
    assert byte in said.err


@pytest.mark.parametrize("typed", ["student=own", "teacher=own.yml", "student=other"])
def test_a_file_that_ends_in_yml_is_named(kdrun, tmp_path, typed):
    (tmp_path / "student").mkdir()
    (tmp_path / "student" / "own.yml").write_text("_target_: kdrun.models.cnn\n")
    (tmp_path / "student" / "other.yaml").write_text("defaults:\n  - own\n")
    said = kdrun("--config-dir", str(tmp_path), typed, "--dry-run")
    assert said.code == 2
    assert f"{tmp_path}/student/own.yml: must end in .yaml" in said.err


@pytest.mark.parametrize(("group", "option"), [("sweeper", "ax"), ("launcher", "slurm")])
def test_an_unknown_sweeper_of_a_config_file_is_told_with_those_there_are(kdrun, tmp_path, group, option):
    (tmp_path / "experiment").mkdir()
    text = f"# @package _global_\ndefaults:\n  - override /hydra/{group}: {option}\n"
    (tmp_path / "experiment" / "own.yaml").write_text(text)
    said = kdrun("--config-dir", str(tmp_path), "-m", "experiment=own", "--dry-run")
    assert said.code == 2
    known = "basic, optuna" if group == "sweeper" else "basic, joblib, ray, submitit_local, submitit_slurm"
    assert f"hydra/{group}={option}" in said.err
    assert f"Allowed: {known}" in said.err
