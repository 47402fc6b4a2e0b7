"""The check of a GPU machine: refused elsewhere, and its file tells what failed."""

import json
import runpy
import sys
import time
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

PASSED = {
    "file": "a.py",
    "passed": 3,
    "failed": 0,
    "errors": 0,
    "skipped": 0,
    "failures": [],
    "wall_s": 1.0,
    "error": None,
}


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
    monkeypatch.setattr(gpu_check, "run_tests", lambda *_, **__: [tests])
    monkeypatch.setattr(gpu_check, "run_benchmark", lambda *_, **__: figures)
    assert gpu_check.main(["--out", str(tmp_path)]) == code
    written = json.loads((tmp_path / "nvidia-h100-80gb-hbm3.json").read_text())
    assert (written["tests"], written["benchmark"], written["complete"]) == ([tests], figures, True)
    assert written["versions"].keys() >= {"python", "jax", "numpy"}
    assert written.keys() >= {"python", "warp", "host", "driver", "nvidia_smi", "shipped_kernels"}


def test_a_machine_taken_away_leaves_what_was_measured(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """The file is there before the first figure, and has each figure as soon as the benchmark has."""
    path = tmp_path / "nvidia-h200.json"

    def measure(seconds: float, flags: Any, on_figures: Any) -> Any:
        assert json.loads(path.read_text())["benchmark"] == {}
        on_figures({"tables": ["first"]})
        raise KeyboardInterrupt

    monkeypatch.setattr(gpu_check, "cuda_device", lambda: "NVIDIA H200")
    monkeypatch.setattr(gpu_check, "run_benchmark", measure)
    with pytest.raises(KeyboardInterrupt):
        gpu_check.main(["--out", str(tmp_path)])
    written = json.loads(path.read_text())
    assert (written["benchmark"], written["complete"]) == ({"tables": ["first"]}, False)


def test_tests_are_counted_and_named() -> None:
    counts = gpu_check.read_counts(REPORT)
    assert counts == {"passed": 1, "failed": 1, "errors": 1, "skipped": 1, "failures": ["a::wrong", "a::broken"]}
    line = gpu_check.tests_line({"file": "a.py", **counts, "wall_s": 2.0, "error": None})
    assert line == "a.py: 1 passed, 1 failed, 1 errors, 1 skipped in 2 s: a::wrong, a::broken"


def test_files_of_tests_run_one_by_one_and_warnings_are_no_errors(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    for file, selection in gpu_check.TESTS.items():
        text = (gpu_check.ROOT / file).read_text()
        assert all(f"_{part}" in text for part in selection.split(" or ")), "a rehearsal would run nothing"
    monkeypatch.setattr(gpu_check, "ROOT", tmp_path)
    (tmp_path / "pytest.ini").write_text("[pytest]\nfilterwarnings = error\naddopts = --no-such-flag\n")
    (tmp_path / "test_one.py").write_text(
        "import warnings\ndef test_good(): warnings.warn('of a newer release')\ndef test_bad(): assert False\n"
    )
    (tmp_path / "test_two.py").write_text("def test_fine(): pass\n")
    files = {"test_one.py": "good", "test_two.py": "fine"}
    one, two = gpu_check.run_tests(300, files)
    assert (one["file"], one["passed"], one["failed"], one["error"]) == ("test_one.py", 1, 1, "exit code 1")
    assert (two["file"], two["passed"], two["failed"], two["error"]) == ("test_two.py", 1, 0, None)
    (quick,) = gpu_check.run_tests(300, {"test_one.py": "good"}, quick=True)
    assert (quick["passed"], quick["failed"]) == (1, 0)


def test_tests_that_cannot_run_or_do_not_come_to_an_end_say_so(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(gpu_check, "run_python", lambda arguments, seconds: "not done after 5 s")
    (lost,) = gpu_check.run_tests(5, {"a.py": ""})
    assert (lost["passed"], lost["error"]) == (0, "not done after 5 s")
    (late,) = gpu_check.run_tests(0, {"a.py": ""})
    assert late["error"] == "not run: no time was left"
    monkeypatch.setattr(gpu_check, "NEEDED_BY_TESTS", ("pytest", "no_such_package"))
    (missing,) = gpu_check.run_tests(5, {"a.py": ""})
    assert missing["error"] == "not run: no_such_package not installed"


def test_a_python_without_the_packages_is_one_line(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    assert gpu_check.missing_packages(gpu_check.NEEDED) == []
    monkeypatch.setattr(gpu_check, "NEEDED", ("jax", "no_such.part", "no_such_package"))
    with pytest.raises(ArgumentError, match=r"lacks no_such.part, no_such_package; .*GPU_PYTHON=") as raised:
        gpu_check.main(["--out", str(tmp_path / "out")])
    assert raised.value.exit_code == 2
    assert not (tmp_path / "out").exists()


def test_commands_that_fail_or_hang_say_so(monkeypatch: pytest.MonkeyPatch) -> None:
    assert gpu_check.run_python(["-c", "import imf_jax"], 60) is None
    assert gpu_check.run_python(["-c", "raise SystemExit(3)"], 60) == "exit code 3"

    start = time.monotonic()
    assert gpu_check.run_python(["-c", "import time; time.sleep(60)"], 0.2) == "not done after 0 s"
    assert time.monotonic() - start < 30, "it is killed, not waited for"


def test_figures_are_handed_on_while_the_benchmark_runs(monkeypatch: pytest.MonkeyPatch) -> None:
    known: list[dict[str, Any]] = []

    def run(arguments: list[str], seconds: float, meanwhile: Any) -> str:
        out = Path(arguments[arguments.index("--json") + 1])
        meanwhile()
        out.write_text('{"tables": [1]}')
        meanwhile()
        meanwhile()
        return "exit code 1"

    monkeypatch.setattr(gpu_check, "run_python", run)
    assert gpu_check.run_benchmark(5, on_figures=known.append) == {"tables": [1], "error": "exit code 1"}
    assert known == [{"tables": [1]}]


@pytest.mark.long
def test_a_rehearsal_runs_every_step_on_the_cpu(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """On `native` and without a policy that sees, for speed; by itself `--dry-run` takes `warp` and cameras."""
    flags = (
        "--dry-run",
        "--sizes",
        "16/1",
        "--no-cameras",
        "--backend",
        "native",
        "--max-batch",
        "2",
        "--repeats",
        "1",
    )
    monkeypatch.setattr(gpu_check, "DRY_RUN_FLAGS", flags)
    monkeypatch.setattr(gpu_check, "TESTS", {"tests/test_spaces.py": "test"})
    limits = ("--benchmark-seconds", "3000", "--test-seconds", "3000")  # however loaded the machine is
    assert gpu_check.main(["--dry-run", "--out", str(tmp_path), *limits]) == 0
    written = json.loads((tmp_path / "dry-run.json").read_text())
    tables = {table["title"]: table["rows"] for table in written["benchmark"]["tables"]}
    loops, scaling, device, evaluation = tables.values()
    assert [row["policy"] for row in loops] == ["state, 16/1", "state, 16/1, in contact"]
    assert [row["batch"] for row in scaling] == [2, 1]
    assert all(row["steps_per_s"] and row["warmup_s"] for row in scaling)
    assert [(row["what"], isinstance(row["figure"], float)) for row in device] == [
        ("closed loop; state, 16/1", True),
        ("one camera 32x32 without a policy, 2 scenes", True),
        ("one plan, batch 1; state, 16/1", True),
    ]
    assert [row["task"] for row in evaluation] == ["transfer"]
    assert written["tests"][0]["passed"] > 0


def test_a_platform_that_jax_cannot_use_is_one_line(monkeypatch: pytest.MonkeyPatch) -> None:
    def nowhere() -> None:
        raise RuntimeError("Unknown backend cuda")

    monkeypatch.setattr("jax.local_devices", nowhere)
    with pytest.raises(ArgumentError, match="JAX found no usable device"):
        gpu_check.cuda_device()
