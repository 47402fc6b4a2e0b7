"""Build a wheel, install it into an empty environment and use its commands there, far from the repository.

python tests/wheel/check.py        # what `make wheel-check` runs; needs the package `build`, and packages from PyPI
"""

import os
import subprocess
import sys
import tempfile
import venv
from pathlib import Path

REPOSITORY = Path(__file__).resolve().parents[2]

COMMANDS = (
    "train", "pretrain", "eval", "collect", "rollout", "latency", "report", "data", "view", "suite", "benchmark",
    "serve", "convert-lewm", "convert-head",
)  # fmt: skip

USE = (
    "imf-collect --episodes 2 --num-envs 2 --out demos/transfer",
    "imf-train debug",
    "imf-eval --expert --episodes 2 --num-envs 2 --out evals/expert",
    "imf-eval --checkpoint runs/debug --episodes 1 --out evals/debug",
    "imf-report evals/expert",
    "imf-data inspect demos/transfer",
)
"""From demonstrations to a report."""


def run(*command: str | Path, where: Path, **options: object) -> str:
    """Run a command without the settings of this process; its output, or the end of this process if it fails."""
    hidden = ("PYTHONPATH", "VIRTUAL_ENV", "PYTHONHOME")
    environment = {name: value for name, value in os.environ.items() if name not in hidden}
    done = subprocess.run([*map(str, command)], cwd=where, env=environment, capture_output=True, text=True, check=False)
    if done.returncode:
        sys.exit(f"failed: {' '.join(map(str, command))}\n{done.stdout}{done.stderr}")
    return done.stdout


def main() -> None:
    """Build, install, use."""
    with tempfile.TemporaryDirectory(prefix="imf_jax_wheel_") as folder:
        there = Path(folder)
        run(sys.executable, "-m", "build", "--outdir", there / "dist", REPOSITORY, where=there)
        (wheel,) = (there / "dist").glob("*.whl")
        print(f"built {wheel.name}")
        venv.create(there / "env", with_pip=True)
        binaries = there / "env" / "bin"
        pip = (binaries / "python", "-m", "pip", "install", "--quiet", "--disable-pip-version-check")
        run(*pip, "-c", REPOSITORY / "constraints.txt", wheel, where=there)
        listed = "*p.preset_paths(), *p.preset_paths(p.PRETRAIN_DIRECTORY)"
        show = f"import imf_jax.presets as p; print(p.__file__); print({listed})"
        package, presets = run(binaries / "python", "-c", show, where=there).splitlines()
        site = Path(package).parents[1]
        assert site.is_relative_to(there / "env"), f"the package came from {site}"
        assert set(presets.split()) == {path.stem.replace("_", "-") for path in (REPOSITORY / "configs").rglob("*.py")}
        for name in ("configs", "converters", "scripts", "tests", "examples", "docs"):
            assert not (site / name).exists(), f"the wheel installs {name} beside the package"
        assert (site / "imf_jax" / "py.typed").is_file(), "the wheel lacks py.typed"
        work = there / "work"
        work.mkdir()
        for name in COMMANDS:
            run(binaries / f"imf-{name}", "--help", where=work)
        for line in USE:
            command, *arguments = line.split()
            run(binaries / command, *arguments, where=work)
            print(line)
        assert (work / "evals" / "expert" / "report.html").is_file()
        left = sorted(path.name for path in work.iterdir())
        assert left == ["demos", "evals", "runs"], f"commands left {left}"
    print(f"{len(USE)} passed, 0 failed")


if __name__ == "__main__":
    main()
