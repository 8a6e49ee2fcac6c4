"""Commands on generated sentences and with the evaluations of the paper, as a user types them."""

import csv
import json
from pathlib import Path

import pytest


def table_of(directory: Path) -> bytes:
    return (directory / "outputs" / "tables" / "mine" / "table.csv").read_bytes()


def test_a_language_model_as_a_user_runs_it(kdrun, here):
    words = ("dataset=agreement_lm", "dataset.train_size=40", "dataset.test_size=20", "dataset.length=16")
    small = ("recipe.epochs=1", "recipe.batch_size=16", "runtime.device=cpu", "evaluation=[test,agreement]")
    networks = (
        "student=lstm",
        "student.width=8",
        "student.embedding=8",
        "teacher=transformer_seq",
        "teacher.width=8",
        "teacher.depth=1",
    )
    code, out, err = kdrun(*words, *small, *networks, "teacher.heads=2", "method=kd")
    assert (code, err) == (0, "")
    (path,) = here.glob("outputs/runs/agreement_lm/lstm/kd-*/result.json")
    assert json.loads(path.read_text())["teachers"][0]["name"] == "transformer"
    (header,) = ([cell.strip() for cell in line.split("|")[1:-1]] for line in out if "D-accuracy" in line)
    assert header == [
        *(
            "run",
            "evaluation",
            "perplexity",
            "top-1",
            "ECE",
            "accuracy",
            "D-accuracy",
            "A-accuracy",
            "2+ attractors",
            "n",
        )
    ]
    code, out, _ = kdrun("--dry-run", *words, *small, *networks, "teacher.heads=2", "method=kd")
    assert code == 0
    macs = 16 * (2 * 4 * (8 * 8 + 8 * 8) + 8 * 547)
    assert f"{macs / 1e6:.2f} M MACs per sequence, 1 epoch of 3 steps" in out[-2], "of 16 pieces of text, and the rest"


ASKED = """
title: Asked
source: nobody
evaluations: [test, translate]
overrides: [dataset=digits, recipe.epochs=1, runtime.device=cpu, student=mlp, "student.hidden=[16]"]
rows:
  - {name: mlp/ce, overrides: [method=ce], published: {top1: 50.0, figures: {translate top-1: 50, translate ECE: 0.25}}}
  - {name: mlp/lsr, overrides: [method=lsr], baseline: mlp/ce}
"""


def test_what_runs_are_asked_stands_beside_what_is_published(here, kdrun, monkeypatch):
    (here / "mine.yaml").write_text(ASKED)
    words = ("table", "mine.yaml", "--seeds", "2")
    code, out, err = kdrun(*words)
    assert (code, err) == (0, "")
    records = [json.loads(path.read_text()) for path in here.glob("outputs/derived/*.json")]
    assert len(records) == 8
    computed = table_of(here)
    rows = {row["row"]: row for row in csv.DictReader(computed.decode().splitlines())}
    for row in rows.values():
        for on in ("test", "translate"):
            found = [
                record["figures"]
                for record in records
                if record["options"] == {"on": on} and record["run_ids"][0] in row["run_ids"].split()
            ]
            for name in ("top-1", "ECE", "ECE of 10⁶ bins"):
                first, second = (figures[name] for figures in found)
                assert float(row[f"{on} {name}_mean"]) == pytest.approx((first + second) / 2)
                assert float(row[f"{on} {name}_std"]) == pytest.approx(abs(first - second) / 2**0.5)
    published = {name: row["published_translate top-1"] for name, row in rows.items()}
    assert published == {"mlp/ce": "50.0", "mlp/lsr": ""}
    assert (rows["mlp/ce"]["published_translate ECE"], rows["mlp/ce"]["published_test ECE"]) == ("0.25", "")
    lines = [[cell.strip() for cell in line.split("|")[1:-1]] for line in out if line.startswith("| ")]
    *_, rows_from, _ = (place for place, line in enumerate(lines) if "translate ECE" in line)  # differences come last
    header, ce, lsr = lines[rows_from : rows_from + 3]
    shown = dict(zip(header, ce, strict=True))
    mean, std = (float(rows["mlp/ce"][f"translate top-1_{what}"]) for what in ("mean", "std"))
    assert shown["translate top-1"] == f"{mean:.2f} ± {std:.2f} (50.00)"
    assert shown["translate ECE"].endswith(" (0.250)")
    assert "(" not in shown["test top-1"] + dict(zip(header, lsr, strict=True))["translate top-1"]
    assert any('"translate ..."' in line and "translate of MNIST-C" in line for line in out)
    for path in here.glob("outputs/runs/**/student.safetensors"):
        path.unlink()
    code, _, err = kdrun(*words, "--render-only")
    assert (code, err, table_of(here)) == (0, "", computed)


@pytest.mark.parametrize(
    ("change", "text"),
    [
        (("[test, translate]", "[test, tranlate]"), "evaluations: tranlate: no such option; did you mean translate?"),
        (("[test, translate]", "[test, linzen]"), "evaluations: linzen: is of the generated language"),
        (("dataset=digits", "dataset=agreement"), "student=mlp: is a network for images, and agreement has sequences"),
    ],
    ids=["name", "kind", "network"],
)
def test_what_cannot_be_asked_is_told_and_nothing_is_run(here, kdrun, change, text):
    (here / "mine.yaml").write_text(ASKED.replace(*change))
    code, out, err = kdrun("table", "mine.yaml", "--seeds", "1")
    assert (code, out) == (2, [])
    assert text in err
    assert sorted(path.name for path in here.iterdir()) == ["mine.yaml"]


def test_what_lacks_its_files_is_left_out_of_a_table(here, kdrun):
    (here / "mine.yaml").write_text(
        ASKED.replace("[test, translate]", "[test, linzen]")
        .replace("dataset=digits,", "dataset=agreement, dataset.train_size=40, dataset.test_size=20,")
        .replace('student=mlp, "student.hidden=[16]"', "student=lstm, student.width=8")
    )
    code, out, err = kdrun("table", "mine.yaml", "--seeds", "1")
    assert (code, err) == (0, "")
    assert any(line.startswith("evaluation linzen: left out: ") for line in out)
    header = table_of(here).decode().splitlines()[0]
    assert "test top-1_mean" in header
    assert "linzen" not in header
