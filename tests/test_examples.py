"""The example runs as it is printed, with fewer epochs."""

import importlib.util
from pathlib import Path

EXAMPLE = Path(__file__).parents[1] / "examples" / "distill.py"


def test_a_student_is_distilled_with_the_library_alone(monkeypatch, capsys):
    spec = importlib.util.spec_from_file_location("distill", EXAMPLE)
    assert spec is not None
    assert spec.loader is not None
    example = importlib.util.module_from_spec(spec)
    spec.loader.exec_module(example)
    monkeypatch.setattr(example, "EPOCHS", 6)
    example.main()
    lines = capsys.readouterr().out.splitlines()
    assert [line.rsplit(maxsplit=2)[0] for line in lines] == ["teacher", "student on labels", "distilled student"]
    assert all(90 < float(line.split()[-2]) <= 100 for line in lines), "chance is 10"


def test_it_can_be_read_at_one_sitting():
    assert len(EXAMPLE.read_text().splitlines()) < 80
