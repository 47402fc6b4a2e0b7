"""scripts/data.py as a command line: every subcommand, its output and its exit codes."""

import json
import runpy
import sys
from collections.abc import Callable
from pathlib import Path
from typing import NamedTuple

import numpy as np
import pytest
from PIL import Image

from imf_jax.data.episodes import list_episodes, write_episodes
from imf_jax.data.lerobot.reader import open_dataset

SCRIPT = Path(__file__).resolve().parents[2] / "scripts" / "data.py"


class Run(NamedTuple):
    code: int
    out: str
    err: str


@pytest.fixture
def data(capsys: pytest.CaptureFixture, monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> Callable[..., Run]:
    """Run scripts/data.py in a folder of the test."""
    monkeypatch.chdir(tmp_path)

    def run(*arguments: object) -> Run:
        monkeypatch.setattr(sys, "argv", ["data.py", *map(str, arguments)])
        with pytest.raises(SystemExit) as stopped:
            runpy.run_path(str(SCRIPT), run_name="__main__")
        output = capsys.readouterr()
        return Run(stopped.value.code, output.out, output.err)

    return run


@pytest.fixture
def demos(tmp_path, make_episode) -> Path:
    images = {"front": np.full((10, 32, 32, 3), 90, np.uint8), "top": np.full((10, 32, 32, 3), 10, np.uint8)}
    write_episodes(tmp_path / "demos", [make_episode(number, steps=10, images=images) for number in range(2)])
    return Path("demos")


def test_from_demonstrations_to_a_dataset_that_is_looked_into(data, demos):
    assert data("stats", demos).code == 0
    looked = data("inspect", demos, "--json", "found.json")
    assert looked.code == 0
    assert "2 episodes, 20 steps, 0 s at 50 Hz; 2 of 2 succeeded" in looked.out
    assert "2 episodes of transfer; cameras: front 32x32, top 32x32" in looked.out
    assert json.loads(Path("found.json").read_text())["episodes"][0]["steps"] == 10
    exported = data("export", demos, "--out", "export", "--cameras", "top")
    assert exported.code == 0
    assert "2 episodes, 20 frames in export" in exported.out
    assert open_dataset(Path("export")).cameras == ("observation.images.top",)
    assert data("inspect", "export").code == 0
    assert "written to export/meta/stats.json" in data("stats", "export").out
    again = data("export", demos, "--out", "export")
    assert again.code == 2
    assert "already holds a dataset" in again.err


def test_play_writes_a_sheet_or_a_video(data, demos):
    assert data("play", demos, "--columns", 3).code == 0
    with Image.open("demos_0.png") as sheet:
        assert sheet.height > 300
    assert data("play", demos, "--video", "--episode", 1, "--out", "clips/one.mp4").code == 0
    assert Path("clips/one.mp4").stat().st_size > 500
    assert data("play", demos, "--out", "one.mp4").code == 2
    assert data("play", demos, "--columns", 1).code == 2


def test_import_reports_and_exits_by_what_was_refused(data, demos):
    imported = data("import", demos, "--out", "imported", "--image-size", 16, "--cameras", "front")
    assert imported.code == 0
    assert "2 of 2 imported into imported; report in imported/import.json" in imported.out
    list_episodes(demos)[0].write_bytes(b"damaged")
    partly = data("import", demos, "--out", "partly")
    assert partly.code == 3
    assert "refused: episode_000000.hdf5: cannot be read" in partly.out
    list_episodes(demos)[1].write_bytes(b"damaged")
    assert data("import", demos, "--out", "none").code == 1
    assert data("inspect", demos).code == 1
    unknown = data("import", demos, "--out", "other", "--task", "juggling")
    assert unknown.code == 2
    assert "unknown task 'juggling'" in unknown.err


def test_export_leaves_out_what_is_damaged(data, demos):
    list_episodes(demos)[1].write_bytes(b"damaged")
    exported = data("export", demos, "--out", "export")
    assert exported.code == 3
    assert "left out: demos/episode_000001.hdf5: cannot be read" in exported.out
