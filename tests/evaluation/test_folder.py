"""Files of an evaluation folder: nothing half written, nothing overwritten."""

import json
import os
from pathlib import Path
from typing import Any

import pytest

from imf_jax import files
from imf_jax.errors import UserError
from imf_jax.evaluation.folder import EvaluationFolder, read_records
from imf_jax.files import read_json, write_bytes
from imf_jax.rollout.episode import EpisodeRecord


def record(episode: int) -> EpisodeRecord:
    return EpisodeRecord(
        episode=episode, seed=0, env_slot=0, status="timeout", steps=4, start_step=0, end_step=3, return_=0.5,
        max_reward=1.0, success_step=None, replans=1,
    )  # fmt: skip


def test_records_are_on_disk_as_soon_as_they_are_added(tmp_path: Path) -> None:
    with EvaluationFolder(tmp_path / "run", {"schema": 1}) as folder:
        assert json.loads((tmp_path / "run/manifest.json").read_text()) == {"schema": 1}
        for episode in (2, 0):
            folder.add(record(episode))
            assert f'"episode": {episode}' in (tmp_path / "run/episodes.jsonl").read_text()
        folder.finish({"n_episodes": 2})
    records, problems = read_records(tmp_path / "run")
    assert [r.episode for r in records] == [0, 2]
    assert not problems
    assert read_json(tmp_path / "run/metrics.json") == {"n_episodes": 2}
    assert sorted(os.listdir(tmp_path / "run")) == ["episodes.jsonl", "manifest.json", "metrics.json"]


def test_the_final_records_reach_the_disk(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    flushed: list[Path] = []
    monkeypatch.setattr(files, "flush_to_disk", flushed.append)
    with EvaluationFolder(tmp_path / "run", {}) as folder:
        folder.finish({}, [record(0)])
    assert files.partial_path(tmp_path / "run/episodes.jsonl") in flushed


def test_a_folder_that_holds_something_is_refused_untouched(tmp_path: Path) -> None:
    with EvaluationFolder(tmp_path / "run", {"name": "first"}) as folder:
        folder.add(record(0))
    with pytest.raises(UserError, match="already holds a run; choose another --out"):
        EvaluationFolder(tmp_path / "run", {"name": "second"})
    assert read_json(tmp_path / "run/manifest.json") == {"name": "first"}
    assert len(read_records(tmp_path / "run")[0]) == 1
    (tmp_path / "notes").mkdir()
    (tmp_path / "notes/a.txt").touch()
    with pytest.raises(UserError, match="is not empty"):
        EvaluationFolder(tmp_path / "notes", {})
    with pytest.raises(UserError, match="is a file"):
        EvaluationFolder(tmp_path / "notes/a.txt", {})


def test_a_folder_that_cannot_be_made_is_one_line(tmp_path: Path) -> None:
    (tmp_path / "file").touch()
    with pytest.raises(UserError, match=r"cannot write the evaluation to .*Not a directory"):
        EvaluationFolder(tmp_path / "file/run", {})


def test_replace_leaves_nothing_of_the_old_run(tmp_path: Path) -> None:
    with EvaluationFolder(tmp_path, {"name": "first"}) as folder:
        folder.add(record(0))
        folder.finish({})
    write_bytes(tmp_path / "episodes/ep_000000/trajectory.png", b"old")
    with EvaluationFolder(tmp_path, {"name": "second"}, replace=True):
        assert sorted(os.listdir(tmp_path)) == ["episodes.jsonl", "manifest.json"]
    assert read_records(tmp_path)[0] == []


def test_a_failed_write_leaves_no_remains(tmp_path: Path) -> None:
    with EvaluationFolder(tmp_path / "run", {}) as folder, pytest.raises(ValueError, match="not JSON compliant"):
        folder.finish({"x": float("nan")})
    assert sorted(os.listdir(tmp_path / "run")) == ["episodes.jsonl", "manifest.json"]
    (tmp_path / "taken").mkdir()
    with pytest.raises(IsADirectoryError):
        write_bytes(tmp_path / "taken", b"x")
    assert sorted(os.listdir(tmp_path)) == ["run", "taken"]


def test_corrupt_lines_are_reported_not_raised(tmp_path: Path) -> None:
    lines = [record(0).to_json(), '{"schema": 1, "epis', record(1).to_json()]
    (tmp_path / "episodes.jsonl").write_text("\n".join(lines))
    records, problems = read_records(tmp_path)
    assert [r.episode for r in records] == [0, 1]
    assert len(problems) == 1
    assert "episodes.jsonl:2" in problems[0]


def test_missing_files_are_named(tmp_path: Path) -> None:
    with pytest.raises(UserError, match=r"holds no episodes\.jsonl"):
        read_records(tmp_path)
    with pytest.raises(UserError, match=r"metrics\.json is not there"):
        read_json(tmp_path / "metrics.json")


class Half:
    """A file on a disk that takes half of what is written."""

    def __init__(self, file: Any) -> None:
        self._file = file

    def write(self, content: bytes) -> int:
        return self._file.write(content[: len(content) // 2])

    def __getattr__(self, name: str) -> Any:
        return getattr(self._file, name)


def test_a_full_disk_is_one_line_and_leaves_no_part_of_a_record(tmp_path: Path) -> None:
    with EvaluationFolder(tmp_path / "run", {}) as folder:
        folder.add(record(0))
        folder._records = Half(folder._records)
        with pytest.raises(UserError, match=r"cannot write the evaluation to .* \(No space left on device\)"):
            folder.add(record(1))
    records, problems = read_records(tmp_path / "run")
    assert ([one.episode for one in records], problems) == ([0], [])
