"""Datasets of version 2.1, and files that claim too much."""

import json
from collections.abc import Callable
from pathlib import Path

import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq
import pytest
from lerobot_version2 import to_version2

from imf_jax.data.episodes import write_episodes
from imf_jax.data.lerobot import rows
from imf_jax.data.lerobot.export import export_demonstrations
from imf_jax.data.readers.recognise import open_reader
from imf_jax.errors import UserError


@pytest.fixture
def export(tmp_path: Path, make_episode: Callable) -> Path:
    """Three demonstrations of 6, 7 and 8 steps, whose pictures brighten by 20 per step."""
    for number in range(3):
        bright = (20 * np.arange(6 + number) + number).reshape(-1, 1, 1, 1)
        images = {"front": np.broadcast_to(bright, (6 + number, 32, 48, 3)).astype(np.uint8)}
        task = ("transfer", "insert")[number % 2]
        write_episodes(tmp_path / "demos", [make_episode(number, steps=6 + number, images=images, task=task)])
    export_demonstrations(tmp_path / "demos", tmp_path / "export")
    return tmp_path / "export"


@pytest.mark.parametrize("chunk", [1000, 2])
def test_version_2_gives_what_version_3_gives(export: Path, tmp_path: Path, chunk: int) -> None:
    new, old = open_reader(export), open_reader(to_version2(export, tmp_path / "old", chunk))
    assert len(new) == len(old) == 3
    assert (new.columns, new.cameras, new.tasks) == (old.columns, old.cameras, old.tasks)
    for index in range(3):
        assert new.info(index) == old.info(index)
        for name, values in new.read(index, new.columns).items():
            np.testing.assert_array_equal(old.read(index, [name])[name], values)
        frames = zip(new.pictures(index, "front"), old.pictures(index, "front"), strict=True)
        assert all((first == second).all() for first, second in frames)
    assert old.problems(1) == []


@pytest.mark.parametrize("version", ["v1.6", "v4.0"])
def test_other_versions_are_named(export: Path, version: str) -> None:
    info = export / "meta/info.json"
    info.write_text(json.dumps(json.loads(info.read_text()) | {"codebase_version": version}))
    with pytest.raises(UserError, match=f"of version {version}; let lerobot convert it"):
        open_reader(export)


@pytest.mark.parametrize("part", ["data_path", "video_path"])
@pytest.mark.parametrize(
    "template",
    ["/etc/{chunk_index}", "../{file_index}", "{chunk_index:9999999999d}", "{video_key.__class__}", "{", "{0}"],
)
def test_paths_must_stay_in_the_dataset_and_be_plain(export: Path, part: str, template: str) -> None:
    info = export / "meta/info.json"
    info.write_text(json.dumps(json.loads(info.read_text()) | {part: template}))
    with pytest.raises(UserError) as caught:
        open_reader(export)
    assert "\n" not in str(caught.value)


@pytest.mark.parametrize("line", ["{", '{"episode_index": 0}', '{"episode_index": 5, "length": 3}', "[]", "null"])
def test_damaged_lines_are_named(export: Path, tmp_path: Path, line: str) -> None:
    old = to_version2(export, tmp_path / "old")
    (old / "meta/episodes.jsonl").write_text(line)
    with pytest.raises(UserError, match=r"meta/episodes\.jsonl: "):
        open_reader(old)


def test_rows_that_unpack_to_more_than_any_memory_are_not_read(export: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    path = export / "data/chunk-000/file-001.parquet"
    table = pq.read_table(path)
    claims = pa.table({name: pa.nulls(100_000, table.schema.field(name).type) for name in table.column_names})
    pq.write_table(claims, path)
    monkeypatch.setattr(rows, "LARGEST_TABLE", 2**20)
    reader = open_reader(export)
    with pytest.raises(UserError, match=r"file-001\.parquet: .*it unpacks to more than"):
        reader.read(1, reader.columns)
    assert len(reader.read(0, reader.columns)["action"]) == 6


def test_a_truncated_file_of_rows_and_a_video_that_ends_early_are_named(export: Path, tmp_path: Path) -> None:
    path = export / "data/chunk-000/file-000.parquet"
    path.write_bytes(path.read_bytes()[:-20])
    short, long = (export / f"videos/observation.images.front/chunk-000/file-00{n}.mp4" for n in (0, 2))
    long.write_bytes(short.read_bytes())
    reader = open_reader(export)
    with pytest.raises(UserError, match=r"file-000\.parquet: cannot be read"):
        reader.info(0)
    assert "ends at 0.120 s, but the episode needs a frame at 0.140 s" in reader.problems(2)[0]
    with pytest.raises(UserError, match="no frame at 0"):
        list(reader.pictures(2, "front"))
