"""No secret is written to a file, and no stranger's package is imported."""

import sys
from pathlib import Path

import pytest
from omegaconf import OmegaConf

from kdrun import redaction
from kdrun.config.secrets import SECRET, masked_yaml

OWN = """
from torch import nn
from kdrun.methods import CE

def linear(num_classes: int, in_channels: int, image_size: int) -> nn.Module:
    return nn.Sequential(nn.Flatten(), nn.Linear(in_channels * image_size**2, num_classes))

def keyed(
    num_classes: int, in_channels: int, image_size: int, api_key: str = "", hub: dict | None = None, num_tokens: int = 4
) -> nn.Module:
    return linear(num_classes, in_channels, image_size)

class Keyed(CE):
    name = "keyed"

    def __init__(self, student: nn.Module, password: str = "") -> None:
        super().__init__(student)
"""
KEY = "s3cret-1"
TREE = {
    "student/linear": "_target_: my_secrets.linear\n",
    "student/keyed": "_target_: my_secrets.keyed\napi_key: ${oc.env:KDRUN_TEST_KEY}\n",
    "student/open": "_target_: my_secrets.keyed\napi_key: ''\n",
    "student/sized": "_target_: my_secrets.keyed\napi_key: null\nnum_tokens: 16\n",
    "method/keyed": "_target_: my_secrets.Keyed\npassword: ${oc.env:KDRUN_TEST_KEY}\n",
}


@pytest.fixture
def own_package(tmp_path, monkeypatch) -> Path:
    """A config tree for a package that marks its import, not trusted yet, with components that take a secret."""
    package = tmp_path / "src" / "my_secrets"
    package.mkdir(parents=True)
    mark = f"from pathlib import Path\nPath({str(tmp_path / 'imported')!r}).touch()\n"
    (package / "__init__.py").write_text(mark + OWN)
    for option, text in TREE.items():
        path = tmp_path / "tree" / f"{option}.yaml"
        path.parent.mkdir(parents=True, exist_ok=True)
        path.write_text(text)
    monkeypatch.syspath_prepend(str(package.parent))
    monkeypatch.delitem(sys.modules, "my_secrets", raising=False)
    monkeypatch.setenv("KDRUN_TEST_KEY", KEY)
    return tmp_path / "tree"


def test_what_is_not_trusted_is_not_even_imported(kdrun, tmp_path, own_package, monkeypatch):
    words = ("--dry-run", "--config-dir", str(own_package), "student=linear", "method=ce")
    said = kdrun(*words)
    assert said.code == 2
    assert "is outside the trusted packages (kdrun)" in said.err
    assert not (tmp_path / "imported").exists()
    monkeypatch.setenv("KDRUN_TRUST", "my_secrets")
    assert kdrun(*words).code == 0
    assert (tmp_path / "imported").exists(), "the package must be able to mark its import"


def files_with(text: str) -> set[str]:
    return {path.name for path in Path().rglob("*") if path.is_file() and text.encode() in path.read_bytes()}


TINY = ("method=ce", "dataset=synthetic", "dataset.train_size=32", "dataset.test_size=10", "recipe.epochs=1")


def test_no_file_of_a_run_has_what_the_environment_and_the_data_path_say(kdrun, monkeypatch):
    monkeypatch.setenv("KDRUN_TEST_KEY", "s3cret-1")
    root = "dataset.root=${oc.env:KDRUN_TEST_KEY}"
    assert kdrun(*TINY, "student=mlp", "student.hidden=[4]", root).code == 0
    assert files_with("KDRUN_TEST_KEY") == {"config.yaml"}, "as it was typed"
    assert files_with("s3cret") == set()


SECRET_OPTIONS = {
    "student=keyed": "student.api_key",
    "student=open student.api_key=s3cret-1": "student.api_key",
    "student=open student.api_key=76124578": "student.api_key",  # a number where text is asked for: not quoted either
    "student=open ++student.hub={user:ann,token:s3cret-1}": "student.hub.token",
    "student=open ++student.hub={credentials:{user:s3cret-1}}": "student.hub.credentials.user",
    "student=open ++student.hub={sites:[{token:s3cret-1}]}": "student.hub.sites.token",
    "student=mlp teacher=keyed method=kd": "teacher.api_key",
    "student=mlp method=keyed": "method.password",
    "student=mlp method=kd teacher=mlp teacher.method=keyed": "teacher.method.password",
}


@pytest.mark.parametrize("words", SECRET_OPTIONS)
def test_a_secret_option_of_ones_own_is_refused_and_not_shown(kdrun, own_package, monkeypatch, words):
    """It would stand in spec.json, from which the run is built again."""
    monkeypatch.setenv("KDRUN_TRUST", "my_secrets")
    said = kdrun("--config-dir", str(own_package), *TINY, *words.split())
    assert said.code == 2
    assert "1 problem; nothing was run or written" in said.err
    assert f"{SECRET_OPTIONS[words]}: looks like a secret" in said.err
    assert "read it from the environment" in said.err
    assert KEY not in said.err
    assert "76124578" not in said.err
    assert list(Path().iterdir()) == []


@pytest.mark.parametrize("student", ["open", "sized"])
def test_an_empty_secret_and_a_number_of_tokens_are_none(kdrun, own_package, monkeypatch, student):
    monkeypatch.setenv("KDRUN_TRUST", "my_secrets")
    words = ("student.api_key=''",) if student == "sized" else ()
    assert kdrun("--dry-run", "--config-dir", str(own_package), *TINY, f"student={student}", *words).code == 0


@pytest.mark.parametrize(
    "key", ["token", "HF_TOKEN", "client_secret", "passwd", "password", "passphrase", "api-key", "apikey", "access_key"]
)
def test_what_a_secret_is_called(key):
    assert SECRET.search(key)
    for harmless in ("hidden", "keys", "passes", "seed", "kernel_size"):
        assert not SECRET.search(harmless)


def test_secrets_are_masked_in_the_config_that_is_kept(job):
    config = OmegaConf.create(
        {
            "api_key": "s3cret-1",
            "hub": {"token": "s3cret-2", "user": "ann"},
            "list": [{"Password": "s3cret-3"}],
            "credentials": {"a": "s3cret-4"},
            "lr": "${recipe.lr}",
        }
    )
    text = masked_yaml(config)
    assert "s3cret" not in text
    assert OmegaConf.create(text).hub.user == "ann"
    assert "lr: ${recipe.lr}" in text
    assert OmegaConf.create(job("method.temperature=3").config).method.temperature == 3


VALUE = "s3cret-1x"
READ = "${oc.env:KDRUN_TEST_TOKEN}"
SHOWN_BADLY = [
    f"recipe.lr={READ}",
    f"recipe.lr='${{oc.decode:{READ}}}'",
    f"recipe.milestones=[{READ},0.5]",
    f"++recipe.lrr={READ}",
    f"method.kl_reduction={READ}",
    f"method._target_=kdrun.{READ}",
    f"method=sum ++method.terms.at.student_taps=[{READ}]",
    f"seed='${{{READ}}}'",
    f"seed='${{oc.create:{READ}}}'",
    "seed=${oc.env:KDRUN_TEST_ABSENT,null}",
    f"teacher.checkpoint={READ}",
    f"evaluation=[{READ}]",
    f"runtime.device={READ}",
    f"-m method.temperature={READ},2",
    f"-m hydra/sweeper=optuna recipe.lr={READ}",
    f"student={READ}",
    f"++student.{READ}=3",
]


@pytest.mark.parametrize("words", SHOWN_BADLY)
def test_bad_input_does_not_quote_what_was_read_from_the_environment(kdrun, monkeypatch, words):
    """Of any variable, whatever it is called."""
    monkeypatch.setenv("KDRUN_TEST_PLAIN", VALUE)
    said = kdrun("--dry-run", *words.replace("KDRUN_TEST_TOKEN", "KDRUN_TEST_PLAIN").split())
    assert said.code == 2
    assert VALUE not in said.out + said.err
    assert list(Path().iterdir()) == []


@pytest.mark.parametrize(
    ("resolver", "value"),
    [
        *(("oc.decode", text) for text in ('s3c"ret}tok', "s3cret: [", "[s3cret-a, s3cret-b]")),
        *(("oc.create", text) for text in ("s3cret\n  b: ]", "{s3cret: s3cret-c}", "it's s3cret")),
    ],
)
def test_text_that_cannot_be_parsed_is_not_quoted_either(kdrun, monkeypatch, resolver, value):
    monkeypatch.setenv("KDRUN_TEST_PLAIN", value)
    said = kdrun("--dry-run", f"recipe.lr='${{{resolver}:${{oc.env:KDRUN_TEST_PLAIN}}}}'")
    assert said.code == 2
    assert not any(part in said.err for part in ("s3c", "ret}", "tok"))


def test_a_constructor_of_ones_own_quotes_no_secret(kdrun, own_package, monkeypatch):
    """Its message reaches the command line, and the options that hold the value are refused."""
    monkeypatch.setenv("KDRUN_TRUST", "my_secrets")
    monkeypatch.setenv("KDRUN_TEST_TOKEN", VALUE)
    (own_package / "student" / "named.yaml").write_text(f"_target_: my_secrets.named\nlabel: {READ}\n")
    package = own_package.parent / "src" / "my_secrets" / "__init__.py"
    package.write_text(
        package.read_text()
        + "def named(num_classes: int, in_channels: int, image_size: int, label: str = '') -> nn.Module:\n"
        "    raise RuntimeError(f'no such label: {label}')\n"
    )
    said = kdrun("--config-dir", str(own_package), *TINY, "student=named")
    assert said.code == 2
    assert VALUE not in said.out + said.err
    assert "student.label: looks like a secret" in said.err


def test_no_output_of_a_run_has_a_secret(kdrun, monkeypatch):
    """A failing run tells why on the console, in its log and its status; its path has the value in it."""
    monkeypatch.setenv("KDRUN_TEST_TOKEN", VALUE)
    root = f"runtime.output_root={READ}/outputs"
    said = kdrun(*TINY, "student=mlp", "student.hidden=[4]", "recipe.batch_size=4", "recipe.lr=1e20", root)
    assert said.code == 1
    assert f"{READ}/outputs" in said.out
    assert VALUE not in said.out + said.err
    assert len(list(Path(VALUE).rglob("kdrun.log"))) == 1
    assert files_with(VALUE) == set()


def test_looking_shows_no_secret_and_other_values_where_they_are_resolved(kdrun, monkeypatch):
    monkeypatch.setenv("KDRUN_TEST_TOKEN", VALUE)
    monkeypatch.setenv("KDRUN_TEST_PLAIN", "/data/here")
    words = (f"dataset.root={READ}", "runtime.output_root=${oc.env:KDRUN_TEST_PLAIN}")
    plain, resolved = (kdrun("--cfg", "job", *flag, *words) for flag in ((), ("--resolve",)))
    assert VALUE not in plain.out + plain.err + resolved.out + resolved.err
    assert "/data/here" not in plain.out
    assert "output_root: /data/here" in resolved.out


RESOLVED = [
    "it's s3cret: 'x' #y",
    " ".join(f"s3cret{number}" for number in range(30)),
    'a "s3cret" é\n\ttab \\ back ' + "s3cret " * 30,
    "-----BEGIN\ns3cret\n-----END\n",
]


@pytest.mark.parametrize("value", RESOLVED)
def test_a_secret_that_yaml_quotes_or_folds_is_not_shown(kdrun, monkeypatch, value):
    monkeypatch.setenv("KDRUN_TEST_TOKEN", value)
    said = kdrun("--cfg", "job", "--resolve", f"dataset.root={READ}")
    assert said.code == 0
    assert "s3cret" not in said.out + said.err


@pytest.mark.parametrize(
    ("value", "shown"),
    [
        ("s3cret//x/./y/", "s3cret/x/y"),
        ("~/s3cret", "/home/ann/s3cret"),
        ("S3cret-TOKEN", "s3cret-token"),
        ("-761_245.70", "-761245.7"),
        ("0x1F2E3D4C", "523124044"),
        ("two  s3crets", "two s3crets"),
    ],
)
def test_what_becomes_of_a_secret_is_not_shown(monkeypatch, value, shown):
    monkeypatch.setattr(redaction, "_names", {})
    redaction.note("MY_TOKEN", value)
    assert shown.removeprefix("/home/ann") not in redaction.redacted(f"problem: {shown}: no such thing")
    assert redaction.redacted("nothing of it 12.5 %") == "nothing of it 12.5 %"


def test_a_value_of_two_variables_is_a_secret_if_one_is_called_so(monkeypatch):
    for names in (("MY_TOKEN", "PLAIN"), ("PLAIN", "MY_TOKEN")):
        monkeypatch.setattr(redaction, "_names", {})
        for name in names:
            redaction.note(name, VALUE)
        assert redaction.redacted(f"at {VALUE}") == "at ${oc.env:MY_TOKEN}"


def test_an_address_with_a_token_is_a_secret(monkeypatch):
    monkeypatch.setattr(redaction, "_names", {})
    redaction.note("REPO", "https://ghp_s3cret@host/x")
    assert "s3cret" not in redaction.redacted("outputs/https:/ghp_s3cret@host/x")
    redaction.note("PLACE", "https://host/data")
    assert redaction.redacted("https://host/data") == "https://host/data"
