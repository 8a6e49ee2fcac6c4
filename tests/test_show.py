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
