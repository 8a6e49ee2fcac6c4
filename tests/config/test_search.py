"""Launchers and sweepers: what a config file may set under `hydra.`, searches, and flags in any order."""

import json
import logging
import sys
from collections.abc import Callable
from pathlib import Path
from types import ModuleType

import pytest
from hydra import compose
from hydra.core.config_store import ConfigStore
from hydra.core.plugins import Plugins
from hydra.plugins.sweeper import Sweeper

from kdrun.cli import hydra_main, main
from kdrun.config import composition
from kdrun.config.command_line import expand, first_jobs, read_command
from kdrun.config.compose import hydra_session, search_path
from kdrun.config.composition import RefusedFileError

TOUCH = "{_target_: pathlib.Path.touch, self: {_target_: pathlib.Path, _args_: [MARKER]}}"
BLOCK = {
    "callbacks: {a: TOUCH, b: {_target_: torch.hub.load, repo_or_dir: a/b, model: c}}": ["hydra.callbacks"],
    "job_logging: {handlers: {x: {class: logging.FileHandler, filename: MARKER}}}": ["hydra.job_logging"],
    "hydra_logging: {handlers: {x: {(): os.system, command: touch MARKER}}}": ["hydra.hydra_logging"],
    "run: {dir: MARKER}": ["hydra.run"],
    "sweep: {dir: MARKER, subdir: x}": ["hydra.sweep"],
    "output_subdir: MARKER": ["hydra.output_subdir"],
    "job: {chdir: true, env_set: {KDRUN_TRUST: os}}": ["hydra.job"],
    "help: {template: '${oc.env:HOME}'}": ["hydra.help"],
    "searchpath: ['file:///tmp']": ["hydra.searchpath"],
    "mode: MULTIRUN": ["hydra.mode"],
    """launcher: {_target_: os.system, setup: [touch MARKER], additional_parameters: {wrap: x},
      account: '${oc.env:HOME}', comment: "x\\ntouch MARKER", pre_dispatch: __import__('os'), n_jobs: 0,
      submitit_folder: MARKER, ray: {init: {address: 'ray://x:1'}, remote: {runtime_env: {}}}}""": [
        *(f"hydra.launcher.{key}" for key in ("_target_", "setup", "additional_parameters", "pre_dispatch")),
        *(f"hydra.launcher.{key}=" for key in ("account", "comment", "n_jobs")),
        *(f"hydra.launcher.{key}" for key in ("submitit_folder", "ray.init.address", "ray.remote.runtime_env")),
    ],
    """sweeper: {_target_: os.system, storage: 'sqlite:///MARKER', custom_search_space: os.system, direction: minimize,
      sampler: {_target_: os.system}, n_trials: 0, params: {hydra.run.dir: x, +student@hydra.x: cnn, method: {a: 1},
      seed: '${oc.env:HOME}'}}""": [
        *(f"hydra.sweeper.{key}" for key in ("_target_", "storage", "custom_search_space", "sampler._target_")),
        *(
            "hydra.sweeper.direction='minimize'",
            "hydra.sweeper.n_trials=0: must be an integer of at least 1 and at most 1000000",
        ),
        *(f"hydra.sweeper.params: {key}" for key in ("'hydra.run.dir'", "'+student@hydra.x'", "method=", "seed=")),
    ],
}
FILES = {
    "block": ("hydra:\n" + "".join(f"  {text}\n" for text in BLOCK), [key for keys in BLOCK.values() for key in keys]),
    "package": ("# @package hydra.callbacks.x\n" + TOUCH, ["hydra.callbacks"]),
    "nothing": ("hydra: null", ["hydra: must be a mapping"]),
    "option": ("defaults: [override /hydra/job_logging: disabled]", ["defaults: hydra/job_logging"]),
    "elsewhere": ("defaults: [/hydra/job_logging@hydra.x: disabled]", ["defaults: hydra/job_logging@hydra.x"]),
    "network": ("defaults: [/student@hydra.callbacks.y: cnn]", ["defaults: student@hydra.callbacks.y"]),
    "above": ("defaults: [../../outside/evil]", []),
}
OUTSIDE = ("# @package hydra.callbacks.z\n" + TOUCH, ["hydra.callbacks"])
"""Payloads: files with what the message must name."""

TABLE = """
title: Mine
overrides: [dataset=synthetic, student=mlp]
rows: [{name: mlp/ce, overrides: [method=ce, experiment=all, hydra.run.dir=x]}]
"""


@pytest.fixture
def tree(tmp_path) -> Path:
    """A config tree with all payloads, an option that brings them all, and a table that takes it."""
    texts = {f"tree/experiment/{name}": text for name, (text, _) in FILES.items()} | {"outside/evil": OUTSIDE[0]}
    texts["tree/experiment/all"] = f"defaults: [{', '.join(FILES)}]"
    for name, text in texts.items():
        path = tmp_path / f"{name}.yaml"
        path.parent.mkdir(parents=True, exist_ok=True)
        header = "" if text.startswith("#") else "# @package _global_\n"
        path.write_text(header + text.replace("TOUCH", TOUCH).replace("MARKER", str(tmp_path / "marker")))
    (tmp_path / "table.yaml").write_text(TABLE)
    return tmp_path / "tree"


@pytest.fixture
def payloads(tree) -> list[str]:
    """What a message about all payloads names: each file with each of its keys."""
    files = {tree / "experiment" / f"{name}.yaml": keys for name, (_, keys) in FILES.items()}
    files[tree.parent / "outside" / "evil.yaml"] = OUTSIDE[1]
    named = [f"{file}: {key}" for file, keys in files.items() for key in keys]
    assert len(named) > 30
    return named


def files_in(directory: Path) -> dict[str, bytes]:
    return {str(path): path.read_bytes() for path in directory.rglob("*") if path.is_file()}


ROADS = [
    "experiment=all",
    "-m experiment=all,ls_teacher",
    "--dry-run experiment=all",
    "-m hydra/sweeper=basic experiment=all",
    "--help experiment=all",
    "--hydra-help experiment=all",
    "--cfg job experiment=all",
    "--cfg=hydra --resolve experiment=all",
    "--info config experiment=all",
    "show taps experiment=all",
    "table TABLE --seeds 1",
    "search method.alpha=interval(0,1) experiment=all",
]


@pytest.mark.parametrize("road", ROADS)
def test_a_strangers_config_is_data_on_every_road(kdrun, tree, payloads, tmp_path, road):
    before = files_in(tmp_path)
    said = kdrun(*road.replace("TABLE", str(tmp_path / "table.yaml")).split(), "--config-dir", str(tree))
    assert (said.code, said.out) == (2, "")
    assert [text for text in payloads if text not in said.err] == []
    assert files_in(tmp_path) == before


def test_hydra_itself_composes_by_the_same_law(tree, payloads):
    """Completion and the processes of launchers compose without kdrun's command line."""
    with hydra_session(), pytest.raises(RefusedFileError) as raised:
        compose("config", overrides=[*search_path(tree), "experiment=all"])
    assert [text for text in payloads if text not in str(raised.value)] == []


@pytest.mark.parametrize("name", ["a\\", "a\\'b,]", "${oc.env:HOME}"])
def test_a_config_directory_may_have_any_name(kdrun, tree, name):
    renamed = tree.rename(tree.with_name(name))
    said = kdrun("--cfg", "job", "experiment=nothing", "--config-dir", str(renamed))
    assert said.code == 2
    assert f"{renamed}/experiment/nothing.yaml: hydra: must be a mapping" in said.err


def test_a_file_in_the_place_of_hydras_own_launcher_is_refused(kdrun, tree):
    path = tree / "hydra" / "launcher" / "basic.yaml"
    path.parent.mkdir(parents=True)
    path.write_text("_target_: os.system\n")
    said = kdrun("--help", "--config-dir", str(tree))
    assert (said.code, said.out) == (2, "")
    assert f"{path}: hydra.launcher._target_: must not be set in a config file" in said.err


OWN = """# @package _global_
hydra:
  sweeper:
    params: {method.temperature: '1,4', seed: '0,1', teacher: cnn}
"""
SYNTHETIC = (
    *("dataset=synthetic", "dataset.train_size=96", "dataset.test_size=50", "recipe.batch_size=32", "recipe.epochs=1"),
    *("student=mlp", "student.hidden=[16]", "runtime.device=cpu"),
)


@pytest.fixture
def own(tree) -> Path:
    (tree / "experiment" / "own.yaml").write_text(OWN)
    (tree / "experiment" / "drawn.yaml").write_text(
        "# @package _global_\ndefaults: [override /hydra/sweeper: optuna]\n"
        "hydra: {sweeper: {params: {method.temperature: 'interval(1,8)', teacher: cnn}}}\n"
    )
    (tree / "student" / "resnet8_own.yaml").parent.mkdir(exist_ok=True)
    (tree / "student" / "resnet8_own.yaml").write_text("_target_: kdrun.models.cnn\ndropout: 0.5\n")
    return tree


def test_kdruns_own_sweep_takes_the_values_of_a_config_file(own):
    problems: list[str] = []
    with hydra_session():
        command = read_command(["experiment=own", "seed=3"], problems, multirun=True, extra=own)
        jobs = expand(command.overrides, multirun=True, problems=problems, extra=own)
    assert problems == []
    assert command.search.is_own
    assert jobs == [[f"method.temperature={t}", "teacher=cnn", "experiment=own", "seed=3"] for t in (1, 4)], (
        "what is typed takes the place of the file's"
    )


@pytest.mark.parametrize(
    ("words", "text"),
    [
        ("experiment=own", "own.yaml: its launcher, sweeper and hydra.sweeper.params have an effect with -m"),
        ("-m experiment=own,tfkd_kd_mobilenetv2", "where the option that names the file is not swept"),
        ("show taps experiment=own", "have an effect on kdrun -m only"),
        ("-m experiment=own hydra.run.dir=x", "hydra.run.dir=x: has no effect on runs"),
        ("-m hydra/launcher=basic,joblib", "a launcher, a sweeper and their options cannot be swept"),
        ("hydra.searchpath=[file:///tmp]", "a config tree of one's own is --config-dir DIR"),
        ("-m --cfg job", "--multirun: has no effect with --cfg"),
        ("-m 'method.alpha=tag(log,interval(0.1,1))'", "a continuous range needs a sweeper that draws from it"),
    ],
)
def test_what_a_search_cannot_be_is_one_problem(kdrun, own, words, text):
    said = kdrun(*words.replace("'", "").split(), "--config-dir", str(own))
    assert said.code == 2
    assert "1 problem; nothing was run or written" in said.err
    assert text in said.err
    assert list(Path().iterdir()) == []


def test_a_plugin_that_is_missing_is_named(kdrun, own, monkeypatch):
    monkeypatch.delitem(ConfigStore.instance().repo["hydra"]["sweeper"], "optuna.yaml", raising=False)
    said = kdrun("-m", "--config-dir", str(own), "experiment=drawn")
    assert said.code == 2
    assert "experiment=drawn: hydra/sweeper=optuna: is not installed: pip install hydra-optuna-sweeper" in said.err


def test_a_typed_plugin_that_is_missing_is_the_only_problem(kdrun, monkeypatch):
    """Its own options and intervals are right as soon as it is installed."""
    monkeypatch.delitem(ConfigStore.instance().repo["hydra"]["sweeper"], "optuna.yaml", raising=False)
    typed = ("hydra/sweeper=optuna", "hydra.sweeper.n_trials=2", "method.temperature=interval(1,8)")
    said = kdrun("-m", *typed, "teacher=cnn")
    assert said.code == 2
    assert "hydra/sweeper=optuna: is not installed: pip install hydra-optuna-sweeper" in said.err
    assert "1 problem;" in said.err


@pytest.mark.parametrize(
    ("swept", "values"),
    [
        ("seed=range(0,3)", ["seed=0", "seed=1", "seed=2"]),
        ("method=choice(kd,ce)", ["method=kd", "method=ce"]),
        ("seed=sort(3,1,2)", ["seed=1", "seed=2", "seed=3"]),
        ("seed=tag(a,choice(4,5))", ["seed=4", "seed=5"]),
        ("student=glob(resnet8*)", ["student=resnet8", "student=resnet8_own", "student=resnet8x4"]),
        ("teacher=glob(resnet8*)", ["teacher=resnet8", "teacher=resnet8_own", "teacher=resnet8x4"]),
    ],
)
def test_every_discrete_sweep_is_expanded(own, swept, values):
    problems: list[str] = []
    with hydra_session():
        assert expand([swept], multirun=True, problems=problems, extra=own) == [[value] for value in values]
    assert problems == []
    assert sorted(expand(["seed=shuffle(1,2)"], multirun=True, problems=problems)) == [["seed=1"], ["seed=2"]]


def test_a_sweeper_that_draws_is_checked_at_both_ends_of_its_ranges(own):
    problems: list[str] = []
    jobs = first_jobs(["method.alpha=interval(0,3)", "seed=5,6", "method=kd"], problems)
    assert jobs == [["method.alpha=0.0", "seed=5", "method=kd"], ["method.alpha=3.0", "seed=5", "method=kd"]]
    assert problems == []


class Drawn(Sweeper):
    """Draws two temperatures, and keeps what it was given and what the runs returned."""

    objectives: list[float]
    arguments: list[str]
    direction: str

    def __init__(self, direction: str, params: object) -> None:
        Drawn.direction = direction
        assert params is None, "kdrun gives them as overrides"

    def setup(self, *, hydra_context, task_function, config) -> None:
        self.launcher = Plugins.instance().instantiate_launcher(
            hydra_context=hydra_context, task_function=task_function, config=config
        )

    def sweep(self, arguments: list[str]) -> None:
        Drawn.arguments = arguments
        fixed = [text for text in arguments if "interval" not in text]
        drawn = [[*fixed, f"method.temperature={temperature}"] for temperature in (2.5, 3.5)]
        Drawn.objectives = [done.return_value for done in self.launcher.launch(drawn, initial_job_idx=0)]


def forget() -> None:
    """What is installed is taken to stay so within a process."""
    composition._options.cache_clear()
    composition._tried.cache_clear()


@pytest.fixture
def optuna(monkeypatch) -> Callable[..., list[float]]:
    """Runs a command whose sweeper is `Drawn`, under the name of a sweeper that minimizes by default."""
    known = Plugins.instance()
    plugins = sys.modules.get("hydra_plugins") or ModuleType("hydra_plugins")  # Hydra takes none from elsewhere
    monkeypatch.setitem(sys.modules, "hydra_plugins", plugins)
    monkeypatch.setattr(plugins, "drawn", ModuleType("hydra_plugins.drawn"), raising=False)
    monkeypatch.setattr(plugins.drawn, "Drawn", Drawn, raising=False)
    monkeypatch.setitem(sys.modules, "hydra_plugins.drawn", plugins.drawn)
    monkeypatch.setattr(Drawn, "__module__", "hydra_plugins.drawn")
    known.register(Drawn)
    node = {"_target_": "hydra_plugins.drawn.Drawn", "direction": "minimize", "params": None}
    store = ConfigStore.instance()
    before = dict(store.repo["hydra"]["sweeper"])
    store.store(group="hydra/sweeper", name="optuna", node=node)
    forget()
    monkeypatch.setattr(sys, "argv", sys.argv)
    handlers, level = list(logging.root.handlers), logging.root.level

    def command(*words: str) -> list[float]:
        assert main(words) == 0
        return Drawn.objectives

    yield command
    store.repo["hydra"]["sweeper"] = before
    forget()
    logging.root.handlers[:] = handlers
    logging.root.setLevel(level)


def top1(here: Path, split: str) -> list[float]:
    """Of the runs by their temperature, the last epoch's top-1 on a split."""
    results = [json.loads(path.read_text()) for path in here.glob("outputs/runs/synthetic/mlp/*/result.json")]
    results.sort(key=lambda result: result["method"]["temperature"])
    return [result[split]["last"]["top1"] for result in results]


def test_a_search_is_on_the_validation_split(optuna, own, here, capsys):
    words = ("-m", "experiment=drawn", "dataset.val_fraction=0.25", "--config-dir", str(own), *SYNTHETIC)
    objectives = optuna(*words)
    out = capsys.readouterr().out
    assert objectives == top1(here, "val") != top1(here, "test")
    assert out.count(f"objective: top-1 {objectives[0]:.2f} % on val\n") >= 1
    assert "the search is on the test set" not in out
    assert Drawn.direction == "maximize"
    assert Drawn.arguments[:3] == ["method.temperature=interval(1,8)", "student@teacher=cnn", "experiment=drawn"]


def test_a_search_without_one_says_that_it_is_on_the_test_set(optuna, own, here, capsys):
    words = ("hydra/sweeper=optuna", "-m", "--config-dir", str(own), "teacher=cnn", "method.temperature=interval(1,8)")
    objectives = optuna(*words, *SYNTHETIC)
    out = capsys.readouterr().out
    assert objectives == top1(here, "test")
    assert out.count("on test: the search is on the test set; dataset.val_fraction=0.1 holds out a split") == 2


def test_a_search_that_minimizes_top1_is_refused(kdrun, optuna):
    said = kdrun("-m", "hydra/sweeper=optuna", "hydra.sweeper.direction=minimize")
    assert said.code == 2
    assert "direction=minimize: the objective is top-1: hydra.sweeper.direction=maximize" in said.err


def test_flags_and_overrides_in_any_order_are_one_command(optuna, own, monkeypatch):
    said = []
    monkeypatch.setattr(hydra_main, "_call_hydra", said.append)
    words = ["hydra/sweeper=optuna", "seed=1", "student=resnet8_own"]
    flags = ["-m", f"--config-dir={own}"]
    for line in ([*flags, *words], [words[0], "-m", words[1], "-cd", str(own), words[2]]):
        assert main(line) == 0
    assert said == [["--multirun", flags[1], words[0], "hydra.sweeper.direction=maximize", *words[1:]]] * 2


def test_a_single_process_of_a_scheduler_is_no_torchrun(kdrun, monkeypatch):
    for name, value in {"WORLD_SIZE": "1", "SLURM_NTASKS": "4"}.items():
        monkeypatch.setenv(name, value)
    assert kdrun("--dry-run", "method=ce", *SYNTHETIC).code == 0
