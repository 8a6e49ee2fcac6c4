"""README and docs: every command, file and Python block is run as it stands there.

A fenced block without a language holds commands, one per line; `text` is output or a layout; a `yaml` or `python` block
with a first line `# PATH` is that file, and exists when the commands of its document run. Commands in running text are
in backticks and begin with `kdrun ` or `scripts/`. Capitals are placeholders (`PLACEHOLDERS`).

What costs hours is run smaller, by rule: one epoch of 2 % of the examples (in a slow test where more than `MANY` images
or tokens are tested); a run whose data must be downloaded, and a table, only up to its first step (`--dry-run`), with
the rows its command names, else one of each method. A search, and a sweep by a launcher, are checked only
(`--dry-run`).
"""

import argparse
import inspect
import os
import re
import shlex
import subprocess
import sys
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path

import pytest
import torch
import yaml
from PIL import Image

from benchmarks import __main__ as bench
from kdrun import models
from kdrun.cli import main
from kdrun.cli.options import VERBS, looks, run_parser
from kdrun.config.command_line import read_command
from kdrun.config.compose import compose_job, hydra_session
from kdrun.config.table import load_table
from kdrun.experiment.dry_run import Estimate, Estimator
from kdrun.spec.components import resolve
from kdrun.store.checkpoint import CheckpointError, read_file
from kdrun.tables.definition import Definition

ROOT = Path(__file__).parents[1]
PAPERS = ROOT / "kdrun" / "papers"
DOCUMENTS = [ROOT / "README.md", ROOT / "CONTRIBUTING.md", *sorted((ROOT / "docs").glob("*.md"))]
DOCUMENTS += sorted(PAPERS.glob("*/README.md"))
PLACEHOLDERS = {"table NAME": "table tfkd_t9", "method=NAME": "method=kd", "=OPTION": "=cnn", "=DIR": "=images"}
PLACEHOLDERS["=FILE"] = "=weights.pt"
SMALL = {"recipe.epochs": "1", "dataset.train_fraction": "0.02", "runtime.threads": "1"}
MANY = 1000
CHEAP = Estimate(params=1, macs=1, steps=1, step_seconds=0.0, seconds=0.0)


@dataclass(frozen=True)
class Block:
    document: Path
    language: str
    text: str

    @property
    def file(self) -> str | None:
        """The path in its first line, or behind Hydra's directive, which must come first."""
        found = re.match(r"(?:# @package \S+\n)?# (\S+\.(?:py|yaml))\n", self.text)
        return found and found[1]


def blocks(document: Path) -> list[Block]:
    found = re.findall(r"^```([^\n]*)\n(.*?)^```$", document.read_text(), re.MULTILINE | re.DOTALL)
    return [Block(document, language, text) for language, text in found]


def commands_of(document: Path) -> Iterator[str]:
    """Commands without prompt and comment."""
    for block in blocks(document):
        if block.language == "":
            yield from (re.sub(r"^\$ |\s+#\s.*$", "", line) for line in block.text.splitlines() if line.strip())
    prose = re.sub(r"^```.*?^```$", "", document.read_text(), flags=re.MULTILINE | re.DOTALL)
    yield from re.findall(r"`((?:kdrun |scripts/)[^`]+)`", prose)


def in_headers() -> dict[str, Path]:
    """Commands in the comments of the YAML files and in `--help`, by the file."""
    found = {}
    files = [*sorted((ROOT / "conf").glob("*/*.yaml")), *sorted(PAPERS.glob("*/conf/*/*.yaml"))]
    for path in [ROOT / "conf" / "config.yaml", *files]:
        for line in re.findall(r"^(?:#   |        )(kdrun .+)$", path.read_text(), re.MULTILINE):
            found.setdefault(re.split(r"\s+#\s|\s{3,}", line)[0].strip(), path)
    return found


COMMANDS = {command: document for document in reversed(DOCUMENTS) for command in commands_of(document)}
HEADERS = {command: path for command, path in in_headers().items() if command not in COMMANDS}
BLOCKS = [block for document in DOCUMENTS for block in blocks(document)]


def words_of(command: str) -> list[str]:
    """The words of a kdrun command, its placeholders filled in."""
    for placeholder, filled in PLACEHOLDERS.items():
        command = command.replace(placeholder, filled)
    words = shlex.split(command)
    assert not [word for word in words if re.search(r"(^|=)[A-Z]{3,}$", word)], "a placeholder that no rule fills in"
    return words


@pytest.fixture
def place(here, monkeypatch) -> Iterator[Path]:
    """An empty directory, in which the files of a document can be written and its modules imported."""
    monkeypatch.setattr(Estimator, "line", lambda self, spec, **_: spec.run_id)
    monkeypatch.setattr(Estimator, "estimate", lambda self, spec: CHEAP)
    monkeypatch.setattr(Estimator, "basis", lambda self: "")
    monkeypatch.setenv("PATH", f"{ROOT / 'tests' / 'fake_slurm'}:{os.environ['PATH']}")
    monkeypatch.setenv("FAKE_SLURM", str(here))
    (here / "outputs").mkdir()  # of commands before
    yield here
    for name in [name for name, module in sys.modules.items() if str(here) in repr(module)]:
        del sys.modules[name]


def write_files(document: Path, place: Path) -> None:
    for block in blocks(document):
        if block.file:
            (place / block.file).parent.mkdir(parents=True, exist_ok=True)
            (place / block.file).write_text(block.text)


def write_images(place: Path) -> None:
    """What stands for DIR."""
    for number, name in enumerate(f"{split}/{label}" for split in ("train", "test") for label in "ab"):
        (place / "images" / name).mkdir(parents=True)
        for each in range(2):
            Image.new("RGB", (70, 64), (40 * number, 90 * each, 0)).save(place / "images" / name / f"{each}.png")


def write_weights(network: str, place: Path) -> None:
    """What stands for FILE: weights for CIFAR-100."""
    torch.save({"model": getattr(models, network)(num_classes=100).state_dict()}, place / "weights.pt")


def set_environment(words: list[str], place: Path, monkeypatch) -> list[str]:
    """Applies leading assignments, as a shell does, and returns the rest."""
    while re.match(r"[A-Z_]+=", words[0]):
        name, _, value = words.pop(0).partition("=")
        if name == "PYTHONPATH":
            monkeypatch.syspath_prepend(str(place / value))
        else:
            monkeypatch.setenv(name, value)
    return words


def smaller(words: list[str]) -> list[str]:
    kept = [word for word in words if word.partition("=")[0] not in SMALL]
    return [*kept, *(f"{key}={value}" for key, value in SMALL.items())]


def is_downloaded(words: list[str]) -> bool:
    """Whether a run reads data that does not come with kdrun: its loaders take a `root`."""
    problems: list[str] = []
    extra = Path(words[words.index("--config-dir") + 1]) if "--config-dir" in words else None
    said = [word.split(",")[0] if "-m" in words and "[" not in word else word for word in words if "=" in word]
    with hydra_session():
        search = read_command(said, problems, multirun="-m" in words, extra=extra).search
        config = compose_job(said, problems, extra=extra, search=search)
    assert problems == []
    datasets = [config.dataset, config.teacher.get("trained_on") if config.get("teacher") else None]
    loaders = [resolve(each["_target_"]) for each in datasets if each]
    return any("root" in inspect.signature(loader).parameters for loader in loaders) and not (
        config.dataset.root and Path(config.dataset.root).is_dir()
    )


def run(command: str, place: Path, monkeypatch, *, really: bool = True) -> None:
    """Runs one command of a document, smaller where that takes long; it must end well."""
    if "=DIR" in command:
        write_images(place)
    if "=FILE" in command:
        write_weights(re.search(r"teacher=(\w+)", command)[1], place)
    script = re.match(r"scripts/([\w-]+)(.*)$", command)
    inner = re.fullmatch(r'eval "\$\((kdrun .+)\)"', command)
    if script:
        run_script(script[1], shlex.split(script[2]), place, monkeypatch)
        return
    words = set_environment(words_of(inner[1] if inner else command), place, monkeypatch)
    assert words.pop(0) == "kdrun", f"no known command: {command}"
    if (words[0] not in VERBS and looks(run_parser().parse_intermixed_args(words))) or "--version" in words:
        done = subprocess.run([sys.executable, "-m", "kdrun", *words], capture_output=True, text=True, check=True)
        assert done.stdout
        if inner:
            subprocess.run(["bash", "-n"], input=done.stdout, text=True, check=True)
        return
    if "--help" in words:
        with pytest.raises(SystemExit, match=r"^0$"):
            main(words)
        return
    if words[0] == "doctor":
        monkeypatch.setattr("kdrun.diagnosis.checks.SECONDS", 0.0)  # the facts alone
    if words[0] == "table" and len(words) > 1:
        words = planned(words)
    elif words[0] == "search":
        pytest.importorskip("optuna")
        words += ["--dry-run"]
    elif any(word.startswith("hydra/launcher=") for word in words):
        words += ["--dry-run"]
    elif words[0] not in VERBS:
        words = smaller(words) if really and "--dry-run" not in words and not is_downloaded(words) else words
        words += [] if words[-1].startswith("runtime.threads=") or "--dry-run" in words else ["--dry-run"]
    assert main(words) == 0


def one_of_each_method(definition: Definition) -> list[str]:
    """Names of rows: the first of each method, computed rows apart."""
    rows = {}
    for row in definition.rows:
        if row.overrides:
            rows.setdefault(tuple(word for word in row.overrides if word.startswith("method=")), row.name)
    return list(rows.values())


def planned(words: list[str]) -> list[str]:
    """A table's command with the plan of one seed in the place of the runs."""
    definition = load_table(words[1])
    if definition.unavailable:
        return [*words, *([] if "--render-only" in words else ["--render-only"])]
    words = [word for word in words if word not in ("--render-only", "--dry-run")]
    if "--rows" not in words:
        words += ["--rows", ",".join(one_of_each_method(definition))]
    return [*words, *([] if "--seeds" in words else ["--seeds", "1"]), "--dry-run"]


def run_script(name: str, words: list[str], place: Path, monkeypatch) -> None:
    path = ROOT / "scripts" / name
    assert path.stat().st_mode & 0o100
    if name != "gpu-check":
        subprocess.run(["bash", "-n", str(path)], check=True)
    runs = re.search(r'^exec "\$venv/bin/kdrun" (.+) "\$@"$', path.read_text(), re.MULTILINE)
    if runs:
        run(f"kdrun {runs[1]} {shlex.join(words)}", place, monkeypatch)
    elif name == "bench":
        bench._parser().parse_args(words)
    else:
        known = {"test": {"-m", "-k", "-n"}, "soak": {"--minutes"}, "gpu-check": {"--json", "--device"}}[name]
        assert {word for word in words if word.startswith("-")} <= known


def test_every_block_says_what_it_holds():
    assert {block.language for block in BLOCKS} <= {"", "text", "python", "yaml"}
    assert all(block.file for block in BLOCKS if block.language == "yaml"), "a YAML block that is no whole file"


def is_large(command: str) -> bool:
    """Whether a run is tested on many images or tokens."""
    name = re.search(r" dataset=(\w+)", command)
    file = f"dataset/{name[1] if name else 'digits'}.yaml"
    path = next((path for path in (ROOT / "conf" / file, *PAPERS.glob(f"*/conf/{file}")) if path.exists()), None)
    facts = yaml.safe_load(path.read_text()) if path else {}
    return (facts.get("test_size") or 0) * facts.get("length", 1) > MANY


@pytest.mark.parametrize("command", COMMANDS)
def test_a_command_of_the_documents_runs(place, monkeypatch, command):
    write_files(COMMANDS[command], place)
    run(command, place, monkeypatch, really=not is_large(command))


@pytest.mark.slow
@pytest.mark.parametrize("command", [command for command in COMMANDS if is_large(command)])
def test_a_command_with_a_large_test_set_runs(place, monkeypatch, command):
    write_files(COMMANDS[command], place)
    run(command, place, monkeypatch)


@pytest.mark.parametrize("command", HEADERS)
def test_a_command_of_help_and_yaml_comments_is_accepted(place, monkeypatch, command):
    run(command, place, monkeypatch, really=False)


PYTHON = [block for block in BLOCKS if block.language == "python" and not block.file]


@pytest.mark.parametrize("block", PYTHON, ids=lambda block: block.document.name)
def test_a_python_block_runs(block):
    exec(compile(block.text, str(block.document), "exec"), {})


def test_the_documented_conversion_makes_weights_that_can_be_read(place):
    (block,) = [block for block in BLOCKS if block.file == "convert.py"]
    network = models.resnet8(num_classes=2)
    torch.save({"opt": argparse.Namespace(lr=0.1), "model": network.state_dict()}, "theirs.pth")
    with pytest.raises(CheckpointError, match=r"argparse\.Namespace"):
        read_file(Path("theirs.pth"))
    exec(compile(block.text, "convert.py", "exec"), {})
    assert read_file(Path("weights.pt"))[0].keys() == network.state_dict().keys()


TABLES = [block for block in BLOCKS if block.language == "yaml" and "\nrows:\n" in block.text]


@pytest.fixture
def trusting(place, monkeypatch):
    """The documents' own rows and figures can be imported."""
    monkeypatch.syspath_prepend(str(place))
    monkeypatch.setenv("KDRUN_TRUST", "my_rows")


@pytest.mark.parametrize("block", TABLES, ids=lambda block: block.file)
def test_a_table_of_the_documents_is_accepted_whole(place, trusting, block):
    write_files(block.document, place)
    assert main(["table", block.file, "--dry-run", "--seeds", "2"]) == 0


@pytest.mark.slow
@pytest.mark.parametrize("block", [block for block in TABLES if "dataset=digits" in block.text], ids=lambda b: b.file)
def test_a_table_of_the_documents_runs(place, trusting, block):
    write_files(block.document, place)
    assert main(["table", block.file, "--seeds", "1", *smaller([])]) == 0


def test_the_documents_have_what_is_looked_for():
    """So that a changed form of the documents cannot empty the tests above."""
    assert len([command for command, document in COMMANDS.items() if document.name == "README.md"]) > 15
    assert {"kdrun ls", "kdrun table", "scripts/demo", "kdrun method=tfkd_reg student=mobilenetv2"} <= set(COMMANDS)
    assert {document.name for document in COMMANDS.values()} == {
        document.name
        for document in DOCUMENTS
        if "`kdrun " in document.read_text() or "`scripts/" in document.read_text()
    }
    assert len(HEADERS) > 40
    assert PYTHON
    assert len(TABLES) == 5
    assert {block.file for block in BLOCKS if block.file} >= {"my_package/parts.py", "my_conf/method/my_method.yaml"}


@pytest.mark.parametrize("document", DOCUMENTS, ids=lambda path: str(path.relative_to(ROOT)))
def test_a_link_leads_to_a_file(document):
    links = re.findall(r"\]\(([^)#:]+)(?:#[^)]*)?\)", document.read_text())
    assert not [link for link in links if not (document.parent / link).exists()]


def test_every_method_is_in_its_document():
    text = (ROOT / "docs" / "methods.md").read_text()
    assert not [path.stem for path in (ROOT / "conf" / "method").glob("*.yaml") if f"`{path.stem}`" not in text]
