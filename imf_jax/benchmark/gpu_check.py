"""`make gpu-check`: the benchmark and the device tests on a CUDA GPU, in one JSON file under docs/benchmarks.

Nothing is installed: tests and benchmark run under the Python, and with the packages, that run this module; their
patch releases may differ from ours. What says most comes first, and the file is written whenever something is known:
a machine that is taken away after three minutes leaves the figures of three minutes.
"""

import importlib.util
import json
import os
import platform
import re
import subprocess
import sys
import tempfile
import time
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from importlib.metadata import version
from pathlib import Path
from typing import Any
from xml.etree import ElementTree

import tyro

from imf_jax.cli import run_main
from imf_jax.errors import EXIT_FAILED, EXIT_OK, ArgumentError, UserError
from imf_jax.files import write_json

ROOT = Path(__file__).resolve().parents[2]

TESTS = {
    "tests/sim/test_backend_agreement.py": "loads_in_mjx",
    "tests/rollout/test_compiled.py": "little_runs_past or devices_must_divide",
    "tests/sim/test_rendering.py": "depth_must_be_asked_for",
    "tests/sim/test_scene_pictures.py": "wrist_camera",
}
"""File of device tests -> those of it that a rehearsal runs, as pytest's -k takes them."""

TEST_SETTINGS = ("-p", "no:cacheprovider", "-o", "addopts=-q", "-o", "filterwarnings=default")
"""Other releases of Python, JAX and numpy warn of other things, and other pytests know other flags."""

NEEDED = (
    "jax", "flax", "optax", "orbax", "mujoco", "mujoco.mjx", "warp", "robopal", "numpy", "scipy", "h5py", "imageio",
    "PIL", "yaml", "cattrs", "jinja2", "rich", "safetensors", "tyro", "jaxtyping",
)  # fmt: skip
NEEDED_BY_TESTS = ("pytest", "beartype")

DRY_RUN_FLAGS = (
    "--dry-run", "--sizes", "16/1", "--camera-size", "16/1", "--fusion", "grid", "--image-size", "32",
    "--backend", "warp", "--max-batch", "2", "--repeats", "1",
)  # fmt: skip
"""A rehearsal takes the backend of a GPU too: MuJoCo Warp runs on CPUs as well."""

OUTCOMES = {"failure": "failed", "error": "errors", "skipped": "skipped"}
"""Outcomes in pytest's report of tests that did not pass -> the count that each belongs to."""

POLL_S = 1.0
"""Time between two looks at the figures of the running benchmark [s]."""


@dataclass(frozen=True)
class GpuCheck:
    """Measure the closed loop on a CUDA GPU, run the device tests, and write docs/benchmarks/<device>.json.

    Exit codes: 0 all passed, 1 a test or the benchmark failed (the file tells which), 2 there is no CUDA GPU.
    """

    # Folder that receives the file.
    out: Path = ROOT / "docs" / "benchmarks"
    # Longest time for the benchmark [s].
    benchmark_seconds: float = 290.0
    # Longest time for all tests [s].
    test_seconds: float = 180.0
    # Rehearse on the CPU: all steps, as small as possible.
    dry_run: bool = False


def main(arguments: Sequence[str] | None = None) -> int:
    """Run the check. `arguments`: of the command line."""
    check = tyro.cli(GpuCheck, args=arguments)
    require_packages(NEEDED)
    device = "dry run" if check.dry_run else cuda_device()
    from imf_jax.benchmark.device_state import driver_version, nvidia_smi
    from imf_jax.evaluation.manifest import build_manifest

    check.out.mkdir(parents=True, exist_ok=True)
    path = check.out / f"{file_name(device)}.json"
    report = build_manifest(
        machine=device,
        python=sys.executable,
        host=f"{platform.platform()}, {os.cpu_count()} CPU cores",
        warp=version("warp-lang"),
        driver=driver_version(),
        nvidia_smi=nvidia_smi(),
        shipped_kernels=os.environ.get("WARP_CACHE_PATH"),
        benchmark={},
        tests=[],
        complete=False,
    )

    def keep(**parts: Any) -> None:
        report.update(parts)
        write_json(path, report)

    keep()
    say(f"{device}; results in {path}, from now on")
    flags = DRY_RUN_FLAGS if check.dry_run else ()
    figures = run_benchmark(check.benchmark_seconds, flags, on_figures=lambda figures: keep(benchmark=figures))
    keep(benchmark=figures)
    if "error" in figures:
        say(f"benchmark: {figures['error']}")
    tests: list[dict[str, Any]] = []
    for result in run_tests(check.test_seconds, TESTS, quick=check.dry_run):
        tests.append(result)
        keep(tests=tests)
        say(tests_line(result))
    keep(complete=True)
    bad = any(test["error"] or test["failed"] or test["errors"] for test in tests)
    return EXIT_FAILED if bad or "error" in figures else EXIT_OK


def say(line: str) -> None:
    """Print a line at once, also into a pipe."""
    print(line, flush=True)


def missing_packages(names: Sequence[str]) -> list[str]:
    """Those of these modules that this Python does not have."""

    def found(name: str) -> bool:
        try:
            return importlib.util.find_spec(name) is not None
        except ModuleNotFoundError:  # what it is in
            return False

    return [name for name in names if not found(name)]


def require_packages(names: Sequence[str]) -> None:
    """Refuse a Python that lacks something.

    Raises:
        ArgumentError: names what is missing.
    """
    missing = missing_packages(names)
    if missing:
        raise ArgumentError(
            f"{sys.executable} lacks {', '.join(missing)}; install them, or name another one: "
            "make gpu-check GPU_PYTHON=/path/to/python"
        )


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
            "GPU, a driver R580 or newer, and the extra `cuda`, or rehearse it with --dry-run"
        )
    return str(device.device_kind)


def file_name(device: str) -> str:
    """A device's name as a file name: "NVIDIA H100 80GB HBM3" -> "nvidia-h100-80gb-hbm3"."""
    return re.sub(r"[^a-z0-9]+", "-", device.lower()).strip("-")


def run_tests(seconds: float, files: dict[str, str], *, quick: bool = False) -> Any:
    """Run files of tests one by one, each in a process of its own, and yield the result of each.

    Args:
        seconds: longest time for all [s]; a file gets what those before it have left.
        files: file below the project's folder -> tests of it that a rehearsal runs.
        quick: run only those.

    Yields:
        `file`; counts `passed`, `failed`, `errors`, `skipped`; names of `failures`; `wall_s` [s]; `error`, one line if
        pytest did not come to a good end, else None.
    """
    missing = missing_packages(NEEDED_BY_TESTS)
    end = time.monotonic() + seconds
    for file, selection in files.items():
        start = time.monotonic()
        with tempfile.TemporaryDirectory() as folder:
            report = Path(folder) / "report.xml"
            arguments = ["-m", "pytest", *TEST_SETTINGS, f"--junitxml={report}", str(ROOT / file)]
            if quick:
                arguments += ["-k", selection]
            if missing:
                error: str | None = f"not run: {', '.join(missing)} not installed"
            elif end - start < 1:
                error = "not run: no time was left"
            else:
                error = run_python(arguments, end - start)
            counts = read_counts(report.read_text() if report.is_file() else "<none/>")
        yield {"file": file, **counts, "wall_s": time.monotonic() - start, "error": error}


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
    """The result of a file of tests in one line."""
    counts = ", ".join(f"{tests[name]} {name}" for name in ("passed", "failed", "errors", "skipped"))
    problems = [*tests["failures"], *([tests["error"]] if tests["error"] else [])]
    return f"{tests['file']}: {counts} in {tests['wall_s']:.0f} s" + (f": {', '.join(problems)}" if problems else "")


def run_benchmark(
    seconds: float,
    flags: Sequence[str] = (),
    on_figures: Callable[[dict[str, Any]], None] = lambda figures: None,
) -> dict[str, Any]:
    """Run `scripts/benchmark.py rollouts` for at most `seconds`; its JSON so far, with an `error` if it failed.

    Args:
        seconds: longest time [s].
        flags: more flags.
        on_figures: receives the JSON whenever the benchmark has written it anew.
    """
    with tempfile.TemporaryDirectory() as folder:
        out = Path(folder) / "figures.json"
        script = str(ROOT / "scripts" / "benchmark.py")
        figures: dict[str, Any] = {}
        seen = 0

        def look() -> None:
            nonlocal figures, seen
            written = out.stat().st_mtime_ns if out.is_file() else 0
            if written != seen:
                seen, figures = written, json.loads(out.read_text())
                on_figures(figures)

        # A third for the batch sizes and at most as much for the evaluation leave the rest for compilation.
        arguments = [script, "rollouts", "--json", str(out), "--max-seconds", f"{seconds / 3:.0f}", *flags]
        error = run_python(arguments, seconds, meanwhile=look)
        look()
    return {**figures, "error": error} if error else figures


def run_python(arguments: Sequence[str], seconds: float, meanwhile: Callable[[], None] = lambda: None) -> str | None:
    """Run this Python in the project's folder, output on the terminal; what went wrong in one line, or None.

    Args:
        arguments: of Python.
        seconds: longest time [s]; what runs longer is killed.
        meanwhile: called about once a second.
    """
    path = os.pathsep.join([str(ROOT), *filter(None, [os.environ.get("PYTHONPATH")])])
    end = time.monotonic() + seconds
    process = subprocess.Popen([sys.executable, *arguments], cwd=ROOT, env={**os.environ, "PYTHONPATH": path})
    try:
        while True:
            try:
                code = process.wait(min(POLL_S, max(end - time.monotonic(), 0)))
            except subprocess.TimeoutExpired:
                if time.monotonic() >= end:
                    return f"not done after {seconds:.0f} s"
                meanwhile()
                continue
            return f"exit code {code}" if code else None
    finally:
        if process.poll() is None:
            process.kill()
            process.wait()


if __name__ == "__main__":
    run_main(main)
