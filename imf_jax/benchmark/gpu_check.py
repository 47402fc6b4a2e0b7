"""`make gpu-check`: the device tests and the benchmark on a CUDA GPU, in one JSON file under docs/benchmarks.

Nothing is installed: tests and benchmark run under the Python, and with the packages, that run this module.
"""

import json
import os
import re
import subprocess
import sys
import tempfile
import time
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any
from xml.etree import ElementTree

import tyro

from imf_jax.cli import run_main
from imf_jax.errors import EXIT_FAILED, EXIT_OK, ArgumentError, UserError
from imf_jax.files import write_json

ROOT = Path(__file__).resolve().parents[2]

TESTS = ("tests/sim/test_backend_agreement*.py", "tests/sim/test_rendering.py", "tests/sim/test_scene_pictures.py")
"""Backends against each other, and renderers against each other."""

OUTCOMES = {"failure": "failed", "error": "errors", "skipped": "skipped"}
"""Outcomes in pytest's report of tests that did not pass -> the count that each belongs to."""


@dataclass(frozen=True)
class GpuCheck:
    """Run the device tests and the benchmark of the closed loop on a CUDA GPU, and write docs/benchmarks/<device>.json.

    Exit codes: 0 all passed, 1 a test or the benchmark failed (the file tells which), 2 there is no CUDA GPU.
    """

    # Folder that receives the file.
    out: Path = ROOT / "docs" / "benchmarks"
    # Longest time for the tests [s].
    test_seconds: float = 180.0
    # Longest time for the benchmark [s].
    benchmark_seconds: float = 290.0


def main(arguments: Sequence[str] | None = None) -> int:
    """Run the check. `arguments`: of the command line."""
    check = tyro.cli(GpuCheck, args=arguments)
    device = cuda_device()
    from imf_jax.evaluation.manifest import build_manifest

    tests = run_tests(check.test_seconds)
    print(tests_line(tests), flush=True)
    figures = run_benchmark(check.benchmark_seconds)
    if "error" in figures:
        print(f"benchmark: {figures['error']}", flush=True)
    check.out.mkdir(parents=True, exist_ok=True)
    path = check.out / f"{file_name(device)}.json"
    write_json(path, build_manifest(machine=device, tests=tests, benchmark=figures))
    print(f"results in {path}")
    failed = tests["error"] or tests["failed"] or tests["errors"] or "error" in figures
    return EXIT_FAILED if failed else EXIT_OK


def cuda_device() -> str:
    """Name of the GPU.

    Raises:
        ArgumentError: JAX finds no CUDA GPU.
    """
    from imf_jax.sim.backends.choice import local_devices

    try:
        device = local_devices()[0]
    except UserError as error:
        raise ArgumentError(str(error)) from None
    if device.platform not in ("gpu", "cuda"):
        raise ArgumentError(
            f"no CUDA GPU: JAX runs on {device.device_kind}, and nothing was measured; start this on a machine with a "
            "GPU, a driver R580 or newer, and the extra `cuda`"
        )
    return str(device.device_kind)


def file_name(device: str) -> str:
    """A device's name as a file name: "NVIDIA H100 80GB HBM3" -> "nvidia-h100-80gb-hbm3"."""
    return re.sub(r"[^a-z0-9]+", "-", device.lower()).strip("-")


def run_tests(seconds: float, patterns: Sequence[str] = TESTS) -> dict[str, Any]:
    """Run tests.

    Args:
        seconds: longest time [s].
        patterns: files, as patterns below the project's folder.

    Returns:
        counts `passed`, `failed`, `errors`, `skipped`; names of `failures`; `wall_s` [s]; `error`, one line if pytest
        did not come to a good end, else None.
    """
    files = [str(path) for pattern in patterns for path in sorted(ROOT.glob(pattern))]
    start = time.perf_counter()
    with tempfile.TemporaryDirectory() as folder:
        report = Path(folder) / "report.xml"
        error = run_python(["-m", "pytest", "-p", "no:cacheprovider", f"--junitxml={report}", *files], seconds)
        counts = read_counts(report.read_text() if report.is_file() else "<none/>")
    return {**counts, "wall_s": time.perf_counter() - start, "error": error}


def read_counts(report: str) -> dict[str, Any]:
    """Counts and names of failed tests in pytest's JUnit report (XML)."""
    counts: dict[str, Any] = {"passed": 0, "failed": 0, "errors": 0, "skipped": 0, "failures": []}
    for case in ElementTree.fromstring(report).iter("testcase"):
        outcome = next((OUTCOMES[child.tag] for child in case if child.tag in OUTCOMES), "passed")
        counts[outcome] += 1
        if outcome in ("failed", "errors"):
            counts["failures"].append(f"{case.get('classname')}::{case.get('name')}")
    return counts


def tests_line(tests: dict[str, Any]) -> str:
    """The outcome of the tests in one line."""
    counts = ", ".join(f"{tests[name]} {name}" for name in ("passed", "failed", "errors", "skipped"))
    problems = [*tests["failures"], *([tests["error"]] if tests["error"] else [])]
    return f"tests: {counts} in {tests['wall_s']:.0f} s" + (f": {', '.join(problems)}" if problems else "")


def run_benchmark(seconds: float) -> dict[str, Any]:
    """Run `scripts/benchmark.py rollouts` for at most `seconds`; its JSON so far, with an `error` if it failed."""
    with tempfile.TemporaryDirectory() as folder:
        out = Path(folder) / "figures.json"
        script = str(ROOT / "scripts" / "benchmark.py")
        # A third for the batch sizes and at most as much for the evaluation leave the rest for compilation.
        flags = ["--json", str(out), "--max-seconds", f"{seconds / 3:.0f}"]
        error = run_python([script, "rollouts", *flags], seconds)
        figures = json.loads(out.read_text()) if out.is_file() else {}
    return {**figures, "error": error} if error else dict(figures)


def run_python(arguments: Sequence[str], seconds: float) -> str | None:
    """Run this Python in the project's folder, output on the terminal; what went wrong in one line, or None."""
    path = os.pathsep.join([str(ROOT), *filter(None, [os.environ.get("PYTHONPATH")])])
    try:
        done = subprocess.run(
            [sys.executable, *arguments], cwd=ROOT, timeout=seconds, env={**os.environ, "PYTHONPATH": path}
        )
    except subprocess.TimeoutExpired:
        return f"not done after {seconds:.0f} s"
    return f"exit code {done.returncode}" if done.returncode else None


if __name__ == "__main__":
    run_main(main)
