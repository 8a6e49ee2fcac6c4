"""The directory of a sweep: where it is, and what it holds."""

import json
import os
import warnings
from dataclasses import replace

from kdrun.analysis.aggregate import SweepRun, group_by_seed, teachers_by_seed
from kdrun.analysis.sweep import draw_run, summarise, sweep_directory
from kdrun.analysis.tables import csv_table, markdown_table


def test_directory_is_that_of_the_set_of_runs(sweep, archive):
    directory = sweep_directory(archive.root, sweep)
    assert directory.parent == archive.root / "sweeps"
    assert directory == sweep_directory(archive.root, [*reversed(sweep), sweep[0]])
    assert directory != sweep_directory(archive.root, sweep[:-1])


def test_summary_has_tables_pictures_and_what_failed(sweep, archive):
    directory = sweep_directory(archive.root, sweep)
    text = summarise(directory, sweep)
    assert {path.name for path in directory.iterdir()} == {
        *("summary.csv", "summary.md", "sweep.json", "curves.png", "method.temperature.png"),
    }
    assert (directory / "summary.md").read_text() == text
    assert text.startswith("synthetic, cnn: 2 epochs, 2 seeds, fp32, cpu (x). ")
    groups = [*teachers_by_seed(sweep), *group_by_seed(sweep)]
    assert text.endswith(markdown_table(groups))
    assert (directory / "summary.csv").read_text() == csv_table(groups)
    record = json.loads((directory / "sweep.json").read_text())
    assert [(entry["choices"], entry["run"], entry["error"]) for entry in record] == [
        (job.choices, str(job.run.directory), job.error) for job in sweep
    ]
    drawn = (curves := directory / "curves.png").stat().st_mtime_ns
    assert summarise(directory, sweep) == text, "again is the same"
    assert curves.stat().st_mtime_ns == drawn
    os.utime(sweep[0].run.result_path, ns=(drawn + 1, drawn + 1))
    summarise(directory, sweep)
    assert curves.stat().st_mtime_ns > drawn, "for a new result"


def test_a_sweep_of_one_epoch_says_so(archive):
    spec = replace(archive.student(), stop_epoch=1)
    text = summarise(archive.root / "sweep", [SweepRun({"seed": "0"}, archive.finish(spec, 50.0))])
    assert text.startswith("synthetic, cnn: 1 epoch, 1 seed, ")


def test_summary_of_nothing_finished_has_no_pictures(archive):
    jobs = [archive.job(None, seed, temperature=1.0) for seed in (0, 1)]
    text = summarise(archive.root / "sweep", jobs)
    assert "nothing finished" in text
    assert "0 (2 missing)" in text
    assert {path.name for path in (archive.root / "sweep").iterdir()} == {"summary.csv", "summary.md", "sweep.json"}


def test_every_swept_key_has_a_picture_of_its_name(archive):
    jobs = []
    for own, teachers in (("1", "2"), ("4", "2"), ("1", "8"), ("4", "8")):
        spec = archive.student(temperature=float(own), multiplier=float(teachers))
        choices = {"method.temperature": own, "teacher.method.temperature": teachers, "teacher@x": own}
        jobs.append(SweepRun(choices, archive.finish(spec, 60.0 + float(own))))
    summarise(archive.root / "sweep", jobs)
    assert {path.name for path in (archive.root / "sweep").glob("*.png")} == {
        *("curves.png", "method.temperature.png", "teacher.method.temperature.png", "teacher.x.png"),
    }


def test_runs_without_an_epoch_are_drawn_without_complaint(archive):
    jobs = []
    for seed in (0, 1):
        spec = replace(archive.student(seed), stop_epoch=0)
        jobs.append(SweepRun({"seed": str(seed)}, archive.finish(spec, 25.0)))
    with warnings.catch_warnings():
        warnings.simplefilter("error")
        summarise(archive.root / "sweep", jobs)
        assert draw_run(jobs[0]) == []


def test_picture_of_one_run_lies_beside_it(sweep):
    (picture,) = draw_run(sweep[0])
    assert picture == sweep[0].run.directory / "curves.png"
    assert picture.read_bytes().startswith(b"\x89PNG")
