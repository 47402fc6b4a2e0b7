"""Paths of the files of a dataset, and atomic writers of them."""

import json
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq

from imf_jax.data.lerobot.features import Feature
from imf_jax.data.lerobot.statistics import Statistics
from imf_jax.files import atomic_write, write_json

VERSION = "v3.0"
FILES_PER_CHUNK = 1000
DATA_FILE_MB = 100
VIDEO_FILE_MB = 200

INFO = Path("meta/info.json")
STATS = Path("meta/stats.json")
TASKS = Path("meta/tasks.parquet")
EPISODES = "meta/episodes/chunk-{chunk_index:03d}/file-{file_index:03d}.parquet"
DATA = "data/chunk-{chunk_index:03d}/file-{file_index:03d}.parquet"
VIDEO = "videos/{video_key}/chunk-{chunk_index:03d}/file-{file_index:03d}.mp4"

CUT = "cut"
"""Column of `meta/episodes/`, which is ours: the episode ends before what it holds was over. LeRobot ignores it."""

ARROW_TYPES = {"float32": pa.float32(), "int64": pa.int64(), "bool": pa.bool_()}


def file_path(template: str, number: int, video_key: str = "", files_per_chunk: int = FILES_PER_CHUNK) -> Path:
    """Path of the file with that number, counted over all chunks, in the dataset."""
    chunk, file = divmod(number, files_per_chunk)
    return Path(template.format(chunk_index=chunk, file_index=file, video_key=video_key))


def info_json(
    features: Mapping[str, Feature], fps: int, robot_type: str, episodes: int, frames: int, tasks: int
) -> dict[str, Any]:
    """Content of `info.json`."""
    entries = {name: feature.to_json() for name, feature in features.items()}
    for name, feature in features.items():
        if feature.dtype == "video":
            height, width, channels = feature.shape
            entries[name]["info"] = {
                "video.height": height,
                "video.width": width,
                "video.codec": "h264",
                "video.pix_fmt": "yuv420p",
                "video.is_depth_map": False,
                "video.fps": fps,
                "video.channels": channels,
                "has_audio": False,
            }
    return {
        "codebase_version": VERSION,
        "robot_type": robot_type,
        "total_episodes": episodes,
        "total_frames": frames,
        "total_tasks": tasks,
        "chunks_size": FILES_PER_CHUNK,
        "data_files_size_in_mb": DATA_FILE_MB,
        "video_files_size_in_mb": VIDEO_FILE_MB,
        "fps": fps,
        "splits": {"train": f"0:{episodes}"},
        "data_path": DATA,
        "video_path": VIDEO if any(feature.dtype == "video" for feature in features.values()) else None,
        "features": entries,
    }


def frames_table(features: Mapping[str, Feature], columns: Mapping[str, np.ndarray]) -> pa.Table:
    """Rows of `data/`: scalars as they are, vectors as lists of fixed length; columns (T, D)."""
    arrays, fields = [], []
    for name, feature in features.items():
        if feature.dtype == "video":
            continue
        kind = ARROW_TYPES[feature.dtype]
        flat = pa.array(np.ascontiguousarray(columns[name]).reshape(-1), kind)
        if feature.shape != (1,):
            kind = pa.list_(kind, feature.shape[0])
            flat = pa.FixedSizeListArray.from_arrays(flat, feature.shape[0])
        arrays.append(flat)
        fields.append(pa.field(name, kind))
    return pa.Table.from_arrays(arrays, schema=pa.schema(fields))


def tasks_table(tasks: list[str]) -> pa.Table:
    """Rows of `tasks.parquet`. Readers use pandas and expect the task as the index, which this metadata says."""
    text = {"pandas_type": "unicode", "numpy_type": "object", "metadata": None}
    number = {"pandas_type": "int64", "numpy_type": "int64", "metadata": None}
    pandas = {
        "index_columns": ["task"],
        "column_indexes": [{"name": None, "field_name": None, **text, "metadata": {"encoding": "UTF-8"}}],
        "columns": [
            {"name": "task_index", "field_name": "task_index", **number},
            {"name": "task", "field_name": "task", **text},
        ],
        "pandas_version": "2.3.3",
    }
    table = pa.table({"task_index": pa.array(range(len(tasks)), pa.int64()), "task": pa.array(tasks, pa.string())})
    return table.replace_schema_metadata({"pandas": json.dumps(pandas)})


def episode_table(row: Mapping[str, Any], statistics: Mapping[str, Statistics], *, cut: bool) -> pa.Table:
    """The row of an episode in `meta/episodes/`; `cut`: see `CUT`."""
    columns: dict[str, pa.Array] = {}
    for name, value in row.items():
        kind = pa.list_(pa.string()) if name == "tasks" else pa.float64() if isinstance(value, float) else pa.int64()
        columns[name] = pa.array([value], kind)
    for name, values in statistics.items():
        for statistic, value in values.items():
            kind = pa.int64() if statistic == "count" else pa.float64()
            for _ in range(value.ndim):
                kind = pa.list_(kind)
            columns[f"stats/{name}/{statistic}"] = pa.array([value.tolist()], kind)
    return pa.table({**columns, CUT: pa.array([cut], pa.bool_())})


def add_cut_column(path: Path) -> bool:
    """Add the column `cut`, without values, to a file of `meta/episodes/` that lacks it; tells whether it did.

    LeRobot reads these files as one table, so that all need the same columns.
    """
    if CUT in pq.read_schema(path).names:
        return False
    table = pq.read_table(path)
    write_table(path, table.append_column(CUT, pa.nulls(len(table), pa.bool_())))
    return True


def write_table(path: Path, table: pa.Table) -> None:
    """Write a parquet file atomically; makes its folder."""
    path.parent.mkdir(parents=True, exist_ok=True)
    with atomic_write(path) as partial:
        pq.write_table(table, partial, compression="snappy")


def write_statistics(folder: Path, statistics: Mapping[str, Statistics]) -> None:
    """Write `stats.json` atomically."""
    plain = {name: {key: value.tolist() for key, value in values.items()} for name, values in statistics.items()}
    write_json(folder / STATS, plain)
