"""Tables of the episodes and tasks of a dataset, of versions 3.0 (Parquet) and 2.x (lines of JSON).

Version 2.x has one file of rows and one video per episode and camera, whose names follow from its number.
"""

import json
import string
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
import pyarrow.parquet as pq

from imf_jax.data.lerobot import layout
from imf_jax.data.lerobot.rows import READ_ERRORS, damaged, inside, require_table_size
from imf_jax.data.lerobot.statistics import NAMES, Statistics
from imf_jax.errors import UserError, one_line

WIDEST_NUMBER = 20
"""Digits that a template of a path may ask for, at most."""


@dataclass(frozen=True)
class EpisodeRow:
    """Location of an episode.

    Attributes:
        index: its number.
        length: its frames.
        tasks: what was done in it.
        first_frame: number of its first frame in the dataset.
        data: file with its rows, relative to the folder.
        videos: feature -> file with its pictures, relative to the folder, and their first time in it [s].
        statistics: feature -> its statistics; empty if the dataset has none.
        numbers: of the files that it is in, as `layout.file_path` counts: "data", "episodes", each video feature.
        cut: it ends before what it holds was over, as far as the dataset says so.
    """

    index: int
    length: int
    tasks: tuple[str, ...]
    first_frame: int
    data: Path
    videos: dict[str, tuple[Path, float]]
    statistics: dict[str, Statistics]
    numbers: dict[str, int]
    cut: bool = False


def read_episodes(folder: Path, info: dict[str, Any], cameras: list[str]) -> tuple[list[EpisodeRow], tuple[str, ...]]:
    """All episodes of a dataset, and the tasks by number.

    Args:
        folder: the dataset.
        info: its `info.json`.
        cameras: features that are videos.

    Raises:
        UserError: a table is damaged, or the version is not known.
        ValueError: a template of paths is not one.
        KeyError: `info` lacks an entry.
    """
    templates = str(info["data_path"]), str(info.get("video_path") or "")
    for template in templates:
        _require_template(template)
    if str(info["codebase_version"]).startswith("v3."):
        episodes, where = _read_parquet(folder, cameras, *templates), folder / "meta/episodes"
        tasks = _tasks(folder / layout.TASKS) if episodes else ()
    elif str(info["codebase_version"]).startswith("v2."):
        chunk = int(info.get("chunks_size") or layout.FILES_PER_CHUNK)
        episodes, where = _read_lines(folder, cameras, *templates, chunk), folder / EPISODE_LINES
        tasks = tuple(str(row["task"]) for row in _lines(folder / TASK_LINES, "task_index")) if episodes else ()
    else:
        raise UserError(
            f"{folder}: LeRobot dataset of version {info['codebase_version']}; let lerobot convert it to "
            f"{layout.VERSION}"
        )
    if [episode.index for episode in episodes] != list(range(len(episodes))):
        raise damaged(where, "does not count its episodes from 0 without gaps")
    return episodes, tasks


def _require_template(template: str) -> None:
    """Refuse a template of paths that holds more than names in braces with a width, such as {chunk_index:03d}."""
    for _, name, spec, conversion in string.Formatter().parse(template):
        width = (spec or "").removesuffix("d")
        plain = name is None or (name.isidentifier() and not conversion and (not width or width.isdecimal()))
        if not plain or (width and int(width[:4]) > WIDEST_NUMBER):
            raise ValueError(f"{template[:80]!r} is no template of paths")


def _read_parquet(folder: Path, cameras: list[str], data_path: str, video_path: str) -> list[EpisodeRow]:
    episodes = []
    for file in sorted(folder.glob("meta/episodes/[!.]*/[!.]*.parquet")):
        try:
            require_table_size(file)
            for row in pq.read_table(file).to_pylist():
                episodes.append(_episode(row, cameras, data_path, video_path))
        except READ_ERRORS as error:
            raise damaged(file, f"is damaged ({one_line(error)})", error) from None
    return episodes


EPISODE_LINES, TASK_LINES = Path("meta/episodes.jsonl"), Path("meta/tasks.jsonl")
"""Tables of version 2.x."""


def _read_lines(folder: Path, cameras: list[str], data_path: str, video_path: str, chunk: int) -> list[EpisodeRow]:
    episodes: list[EpisodeRow] = []
    first = 0
    for row in _lines(folder / EPISODE_LINES, "episode_index"):
        try:
            index, length = int(row["episode_index"]), int(row["length"])
            if length < 1:
                raise ValueError(f"an episode has length {length}")
            place = {"episode_chunk": index // chunk, "episode_index": index}
            videos = {camera: inside(video_path.format(video_key=camera, **place)) for camera in cameras}
            episodes.append(
                EpisodeRow(
                    index=index,
                    length=length,
                    tasks=tuple(map(str, row.get("tasks") or ())),
                    first_frame=first,
                    data=inside(data_path.format(**place)),
                    videos={camera: (path, 0.0) for camera, path in videos.items()},
                    statistics={},
                    numbers={},
                )
            )
            first += length
        except (KeyError, TypeError, ValueError, IndexError) as error:
            raise damaged(folder / EPISODE_LINES, f"is damaged ({one_line(error)})") from None
    return episodes


def _lines(path: Path, order: str) -> Iterator[dict[str, Any]]:
    """The objects of a file with one per line, in the order of a number that each has."""
    try:
        lines = path.read_text(encoding="utf-8-sig").splitlines()
        yield from sorted((json.loads(line) for line in lines if line.strip()), key=lambda row: int(row[order]))
    except (OSError, ValueError, KeyError, TypeError, RecursionError) as error:
        raise damaged(path, f"is damaged ({one_line(error)})", error) from None


def _episode(row: dict[str, Any], cameras: list[str], data_path: str, video_path: str) -> EpisodeRow:
    def place(prefix: str) -> dict[str, int]:
        return {name: int(row[f"{prefix}/{name}"]) for name in ("chunk_index", "file_index")}

    places = {"data": place("data"), "episodes": place("meta/episodes")}
    places |= {camera: place(f"videos/{camera}") for camera in cameras}
    statistics: dict[str, Statistics] = {}
    for key, value in row.items():
        if key.startswith("stats/"):
            name, statistic = key.removeprefix("stats/").rsplit("/", 1)
            statistics.setdefault(name, {})[statistic] = np.asarray(value)
    length = int(row["length"])
    if length < 1:
        raise ValueError(f"an episode has length {length}")
    return EpisodeRow(
        index=int(row["episode_index"]),
        length=length,
        tasks=tuple(row["tasks"]),
        first_frame=int(row["dataset_from_index"]),
        data=inside(data_path.format(**places["data"])),
        videos={
            camera: (
                inside(video_path.format(video_key=camera, **places[camera])),
                float(row[f"videos/{camera}/from_timestamp"]),
            )
            for camera in cameras
        },
        statistics={name: values for name, values in statistics.items() if set(NAMES) <= set(values)},
        numbers={
            name: where["chunk_index"] * layout.FILES_PER_CHUNK + where["file_index"] for name, where in places.items()
        },
        cut=row.get(layout.CUT) is True,
    )


def _tasks(path: Path) -> tuple[str, ...]:
    try:
        require_table_size(path)
        rows = pq.read_table(path).to_pylist()
        name = "task" if rows and "task" in rows[0] else "__index_level_0__"
        return tuple(str(row[name]) for row in sorted(rows, key=lambda row: int(row["task_index"])))
    except READ_ERRORS as error:
        raise damaged(path, f"is damaged ({one_line(error)})", error) from None
