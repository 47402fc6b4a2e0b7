"""Tables of the episodes and tasks of a dataset."""

from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
import pyarrow.parquet as pq

from imf_jax.data.lerobot import layout
from imf_jax.data.lerobot.rows import READ_ERRORS, damaged, inside
from imf_jax.data.lerobot.statistics import NAMES, Statistics
from imf_jax.errors import one_line


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


def read_episodes(
    folder: Path, cameras: list[str], data_path: str, video_path: str
) -> tuple[list[EpisodeRow], tuple[str, ...]]:
    """All episodes of a dataset, and the tasks by number.

    Args:
        folder: the dataset.
        cameras: features that are videos.
        data_path: template of the files with rows.
        video_path: template of the videos.

    Raises:
        UserError: a table is damaged.
    """
    episodes = []
    for file in sorted(folder.glob("meta/episodes/[!.]*/[!.]*.parquet")):
        try:
            rows = pq.read_table(file).to_pylist()
            for row in rows:
                episodes.append(_episode(row, cameras, data_path, video_path))
        except READ_ERRORS as error:
            raise damaged(file, f"is damaged ({one_line(error)})", error) from None
    if [episode.index for episode in episodes] != list(range(len(episodes))):
        raise damaged(folder / "meta/episodes", "does not count its episodes from 0 without gaps")
    return episodes, _tasks(folder / layout.TASKS) if episodes else ()


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
        rows = pq.read_table(path).to_pylist()
        name = "task" if rows and "task" in rows[0] else "__index_level_0__"
        return tuple(str(row[name]) for row in sorted(rows, key=lambda row: int(row["task_index"])))
    except READ_ERRORS as error:
        raise damaged(path, f"is damaged ({one_line(error)})", error) from None
