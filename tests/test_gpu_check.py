"""`scripts/gpu-check`: one JSON with three parts, whatever becomes of each."""

import importlib.util
import json
import subprocess
import sys
from importlib.machinery import SourceFileLoader
from pathlib import Path

import pytest

from benchmarks.rows import ROWS

SCRIPT = Path(__file__).parents[1] / "scripts" / "gpu-check"
FAKE = """\
#!/bin/sh
case "$*" in
  -c*) echo "${FAKE_GPU}";;
  *doctor*) echo '{"agrees": true}';;
  *pytest*) for word in "$@"; do case $word in --junitxml=*) cp "$FAKE_REPORT" "${word#--junitxml=}";; esac; done;;
  *benchmarks*) echo "no rows" >&2; exit 3;;
esac
"""
REPORT = """<testsuites><testsuite tests="3" failures="1" errors="0" skipped="1">
<testcase classname="a" name="one"/><testcase classname="a" name="two"><failure message="off by one"/></testcase>
</testsuite></testsuites>"""


@pytest.fixture(scope="module")
def gpu_check():
    loader = SourceFileLoader("gpu_check", str(SCRIPT))
    module = importlib.util.module_from_spec(importlib.util.spec_from_loader("gpu_check", loader))
    before, sys.dont_write_bytecode = sys.dont_write_bytecode, True
    loader.exec_module(module)
    sys.dont_write_bytecode = before
    return module


@pytest.fixture
def fake(tmp_path, monkeypatch) -> Path:
    """An interpreter whose doctor agrees, whose tests report a failure, and whose benchmark fails."""
    path = tmp_path / "python"
    path.write_text(FAKE)
    path.chmod(0o755)
    (tmp_path / "report.xml").write_text(REPORT)
    monkeypatch.setenv("FAKE_REPORT", str(tmp_path / "report.xml"))
    monkeypatch.setenv("FAKE_GPU", "NVIDIA Tesla X")
    return path


def check(*words: str) -> subprocess.CompletedProcess:
    return subprocess.run([str(SCRIPT), *words], capture_output=True, text=True, timeout=120)


def test_a_part_that_fails_is_recorded_and_the_others_run(fake, tmp_path):
    done = check("--json", str(tmp_path / "new" / "out.json"), f"PYTHON={fake}")
    assert done.returncode == 1
    record = json.loads((tmp_path / "new" / "out.json").read_text())
    assert (record["device"], record["passed"]) == ("NVIDIA Tesla X", False)
    doctor, tests, benchmark = (record["parts"][name] for name in ("doctor", "tests", "benchmark"))
    assert (doctor["passed"], doctor["result"]) == (True, {"agrees": True})
    assert tests["result"]["failed"] == [{"test": "a::two", "message": "off by one"}]
    assert (benchmark["passed"], benchmark["exit_code"], benchmark["result"]) == (False, 3, None)
    assert "no rows" in benchmark["stderr"]
    assert [path.name for path in (tmp_path / "new").iterdir()] == ["out.json"]


def test_a_part_is_stopped_at_its_limit(gpu_check, monkeypatch):
    monkeypatch.setattr(gpu_check, "GRACE_SECONDS", 0.2)
    endless = (
        "import signal, time; signal.signal(signal.SIGINT, signal.SIG_IGN); print('begun', flush=True); time.sleep(60)"
    )
    record, printed = gpu_check.run([sys.executable, "-c", endless], 2.0)
    assert (record["timed_out"], record["exit_code"] != 0, printed) == (True, True, "begun\n")
    assert record["seconds"] < 30
    quick, _ = gpu_check.run([sys.executable, "-c", ""], 60)
    assert (quick["timed_out"], quick["exit_code"]) == (False, 0)


def test_tests_that_were_all_skipped_are_no_result(gpu_check, tmp_path):
    path = tmp_path / "tests.xml"
    path.write_text('<testsuites><testsuite tests="2" failures="0" errors="0" skipped="2"/></testsuites>')
    assert gpu_check.result_of("", path) is None
    assert gpu_check.result_of("", tmp_path / "absent.json") is None
    assert gpu_check.result_of("no json", None) is None


def test_its_limits_are_within_eight_minutes(gpu_check, tmp_path):
    for device in ("cuda", "cpu"):
        limits = [limit for _, _, limit in gpu_check.parts(device, tmp_path).values()]
        assert sum(limits) + gpu_check.GRACE_SECONDS * len(limits) <= 8 * 60 - 10


def test_the_rows_on_a_gpu_are_rows_of_the_benchmark(gpu_check):
    assert set(gpu_check.ROWS.split(",")) <= set(ROWS)


def test_without_a_gpu_or_torch_nothing_is_run(fake, tmp_path, monkeypatch):
    monkeypatch.setenv("FAKE_GPU", "")
    out = tmp_path / "out.json"
    assert check("--json", str(out), f"PYTHON={fake}").returncode == 2
    assert check("--json", str(out), "PYTHON=/no/such/python").returncode == 2
    assert check("--json", str(out), "--device", "tpu", f"PYTHON={fake}").returncode == 2
    assert not out.exists()


@pytest.mark.slow
def test_the_rehearsal_on_a_cpu_passes(tmp_path):
    done = check("--device", "cpu", "--json", str(tmp_path / "out.json"), f"PYTHON={sys.executable}")
    record = json.loads((tmp_path / "out.json").read_text())
    assert done.returncode == 0, record
    assert record["parts"]["doctor"]["result"]["agrees"] is True
    assert record["parts"]["tests"]["result"]["tests"] > 5
    assert record["parts"]["benchmark"]["result"]["rows"]
