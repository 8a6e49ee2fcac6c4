"""`kdrun show GROUP`."""

from pathlib import Path

from kdrun.cli import main

CONF = Path(__file__).parents[1] / "conf"


def test_every_option_of_a_group_is_described(capsys, tmp_path):
    (tmp_path / "method").mkdir()
    (tmp_path / "method" / "mine.yaml").write_text("# Mine: a loss.\n#   kdrun method=mine\n_target_: x.Y\n")
    assert main(["show", "method", "--config-dir", str(tmp_path)]) == 0
    out = capsys.readouterr().out
    assert {path.stem for path in (CONF / "method").glob("*.yaml")} <= set(out.splitlines())
    assert "mine\n    Mine: a loss.\n" in out
    assert "kdrun method=" not in out, "commands are left out"


def test_what_a_group_does_not_take_is_bad_input(capsys):
    assert main(["show", "student", "student=mlp"]) == 2
    assert main(["show", "dataset", "--all"]) == 2


def test_a_strangers_files_are_bad_input_or_plain_text(capsys, tmp_path):
    directory = tmp_path / "method"
    directory.mkdir()
    (directory / "mine.yaml").write_text("# Mine \x1b[31m\n")
    assert main(["show", "method", "--config-dir", str(tmp_path)]) == 0
    assert "\x1b" not in capsys.readouterr().out
    (directory / "other.yaml").write_bytes(b"# \xff\n")
    assert main(["show", "method", "--config-dir", str(tmp_path)]) == 2
    assert "other.yaml" in capsys.readouterr().err
    assert main(["show", "method", "--config-dir", str(tmp_path / "none")]) == 2
