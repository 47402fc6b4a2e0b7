"""The check of a GPU machine: refused elsewhere, and its file tells what failed."""

import json
import runpy
import subprocess
import sys
from pathlib import Path
from typing import Any

import pytest

from imf_jax.benchmark import gpu_check
from imf_jax.errors import ArgumentError

REPORT = """<testsuites><testsuite>
<testcase classname="a" name="fine"/>
<testcase classname="a" name="wrong"><failure message="no"/></testcase>
<testcase classname="a" name="broken"><error message="no"/></testcase>
<testcase classname="a" name="left_out"><skipped message="no"/></testcase>
</testsuite></testsuites>"""

PASSED = {"passed": 3, "failed": 0, "errors": 0, "skipped": 0, "failures": [], "wall_s": 1.0, "error": None}


def test_without_a_gpu_one_line_and_nothing_written(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    monkeypatch.setattr(sys, "argv", ["gpu_check", "--out", str(tmp_path / "out")])
    monkeypatch.delitem(sys.modules, "imf_jax.benchmark.gpu_check")
    with pytest.raises(SystemExit) as stopped:
        runpy.run_module("imf_jax.benchmark.gpu_check", run_name="__main__")
    assert stopped.value.code == 2
    said = capsys.readouterr()
    assert said.out == ""
    assert said.err.startswith("error: no CUDA GPU: JAX runs on cpu")
    assert said.err.count("\n") == 1
    assert list(tmp_path.iterdir()) == []


@pytest.mark.parametrize(
    ("tests", "figures", "code"),
    [
        (PASSED, {"tables": []}, 0),
        (PASSED | {"failed": 1, "failures": ["a::wrong"]}, {"tables": []}, 1),
        (PASSED | {"error": "not done after 5 s"}, {"tables": []}, 1),
        (PASSED, {"error": "exit code 1"}, 1),
    ],
)
def test_the_file_tells_what_failed(
    tests: dict[str, Any], figures: dict[str, Any], code: int, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(gpu_check, "cuda_device", lambda: "NVIDIA H100 80GB HBM3")
    monkeypatch.setattr(gpu_check, "run_tests", lambda seconds: tests)
    monkeypatch.setattr(gpu_check, "run_benchmark", lambda seconds: figures)
    assert gpu_check.main(["--out", str(tmp_path)]) == code
    written = json.loads((tmp_path / "nvidia-h100-80gb-hbm3.json").read_text())
    assert (written["tests"], written["benchmark"]) == (tests, figures)
    assert "jax" in written["versions"]


def test_tests_are_counted_and_named() -> None:
    counts = gpu_check.read_counts(REPORT)
    assert counts == {"passed": 1, "failed": 1, "errors": 1, "skipped": 1, "failures": ["a::wrong", "a::broken"]}
    line = gpu_check.tests_line({**counts, "wall_s": 2.0, "error": None})
    assert line == "tests: 1 passed, 1 failed, 1 errors, 1 skipped in 2 s: a::wrong, a::broken"


def test_pytest_runs_and_is_read(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    assert all(list(gpu_check.ROOT.glob(pattern)) for pattern in gpu_check.TESTS)
    monkeypatch.setattr(gpu_check, "ROOT", tmp_path)
    (tmp_path / "test_one.py").write_text("def test_good(): pass\ndef test_bad(): assert False\n")
    real = gpu_check.run_tests(300, ["test_one.py"])
    assert (real["passed"], real["failed"], real["error"]) == (1, 1, "exit code 1")


def test_tests_that_do_not_come_to_an_end_are_an_error(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(gpu_check, "run_python", lambda arguments, seconds: f"not done after {seconds} s")
    lost = gpu_check.run_tests(5)
    assert (lost["passed"], lost["error"]) == (0, "not done after 5 s")


def test_commands_that_fail_or_hang_say_so(monkeypatch: pytest.MonkeyPatch) -> None:
    assert gpu_check.run_python(["-c", "import imf_jax"], 60) is None
    assert gpu_check.run_python(["-c", "raise SystemExit(3)"], 60) == "exit code 3"

    def hang(*_: Any, timeout: float, **__: Any) -> None:
        raise subprocess.TimeoutExpired("python", timeout)

    monkeypatch.setattr(subprocess, "run", hang)
    assert gpu_check.run_python([], 5) == "not done after 5 s"
    assert gpu_check.run_benchmark(5) == {"error": "not done after 5 s"}


def test_a_platform_that_jax_cannot_use_is_one_line(monkeypatch: pytest.MonkeyPatch) -> None:
    def nowhere() -> None:
        raise RuntimeError("Unknown backend cuda")

    monkeypatch.setattr("jax.local_devices", nowhere)
    with pytest.raises(ArgumentError, match="JAX found no usable device"):
        gpu_check.cuda_device()
