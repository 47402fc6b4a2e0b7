"""Standard streams that never stop the work."""

import os
import subprocess
import sys
from pathlib import Path

import pytest

PROGRAM = """
import contextlib, os, sys
from rich.console import Console
from rich.progress import Progress
console = Console()
from imf_jax.streams import lasting_streams
with lasting_streams() as lost:
    console.print("5 \u00b1 1 \u2713", sys.argv[1] if len(sys.argv) > 1 else "")
    print("said", file=sys.stderr)
    with Progress(console=console) as bar:
        bar.update(bar.add_task("\u00fc", total=1), completed=1)
    with open("file", "w") as file:  # must not get the number of a closed stream
        for descriptor in (1, 2):
            with contextlib.suppress(OSError):
                os.write(descriptor, b"from a library\\n")
        file.write("x" * 10)
with open("lost", "w") as file:
    file.write(" ".join(error.strerror for error in lost))
"""


def run(folder: Path, redirection: str = "", said: str = "", **environment: str) -> subprocess.CompletedProcess[bytes]:
    (folder / "program.py").write_text(PROGRAM, encoding="utf-8")
    done = subprocess.run(
        ["/bin/sh", "-c", f'"{sys.executable}" -W error program.py "$0" {redirection}', said],
        cwd=folder,
        env=os.environ | {"PYTHONPATH": os.pathsep.join(filter(None, sys.path))} | environment,
        capture_output=True,
        check=False,
    )
    assert done.returncode == 0, done.stderr.decode()
    assert (folder / "file").read_text() == "x" * 10
    return done


@pytest.mark.parametrize("closed", [">&-", "2>&-", ">&- 2>&-", "<&- >&- 2>&-"])
def test_closed_streams(tmp_path: Path, closed: str) -> None:
    run(tmp_path, closed)
    assert (tmp_path / "lost").read_text() == ""


def test_a_full_disk_is_told_at_the_end(tmp_path: Path) -> None:
    run(tmp_path, ">/dev/full")
    assert (tmp_path / "lost").read_text() == "No space left on device"


def test_a_reader_that_has_left_is_nothing_to_tell(tmp_path: Path) -> None:
    run(tmp_path, "| true")
    run(tmp_path, "2>&1 | head -c 1 >&2")
    assert (tmp_path / "lost").read_text() == ""


@pytest.mark.parametrize(
    "environment",
    [
        {"PYTHONIOENCODING": "ascii"},
        {"PYTHONIOENCODING": "latin-1:strict"},
        {"LC_ALL": "C", "PYTHONCOERCECLOCALE": "0", "PYTHONUTF8": "0"},
        {"LC_ALL": "C.UTF-8"},
    ],
)
def test_letters_that_a_stream_lacks(tmp_path: Path, environment: dict[str, str]) -> None:
    out = run(tmp_path, said=os.fsdecode(b"\xff"), **environment).stdout
    assert out.startswith(b"5 ")
    assert b"\\udcff" in out
    assert (tmp_path / "lost").read_text() == ""
