"""Rows of a dataset's Parquet files as arrays and pictures."""

from collections.abc import Sequence
from pathlib import Path
from typing import Any

import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq

from imf_jax.data.compressed import NotColourError, decode_picture
from imf_jax.data.lerobot.features import Feature
from imf_jax.errors import UserError, one_line
from imf_jax.files import read_failure

READ_ERRORS = (OSError, pa.ArrowException, KeyError, TypeError, ValueError, IndexError)
"""What Arrow raises over a damaged file, and Python over one that holds something else than expected."""


def read_rows(path: Path, episode: int, length: int, columns: Sequence[str]) -> pa.Table:
    """The rows of an episode.

    Args:
        path: file with rows.
        episode: its number.
        length: its frames.
        columns: which; those that are absent are left out.

    Raises:
        UserError: they cannot be read, or are not as many as they should be.
    """
    try:
        there = pq.read_schema(path).names
        wanted = [name for name in dict.fromkeys(["episode_index", *columns]) if name in there]
        table = pq.read_table(path, columns=wanted, filters=[("episode_index", "=", episode)])
    except READ_ERRORS as error:
        raise damaged(path, f"cannot be read ({one_line(error)})", error) from None
    if len(table) != length:
        raise damaged(path, f"has {len(table)} rows of episode {episode}, expected {length}")
    return table


def values_of(path: Path, name: str, feature: Feature, table: pa.Table) -> np.ndarray:
    """A column as an array (T, D), or (T, ...) where the feature has several axes.

    Raises:
        UserError: it is absent, or does not hold the feature.
    """
    if name not in table.column_names:
        raise damaged(path, f"has no column {name!r}")
    try:
        values = np.array(table.column(name).to_pylist(), np.dtype(feature.dtype)).reshape(len(table), -1)
    except (TypeError, ValueError) as error:
        raise damaged(path, f"column {name!r} does not hold {feature} ({one_line(error)})") from None
    if values.shape[1] != np.prod(feature.shape, dtype=int):
        raise damaged(path, f"column {name!r} has {values.shape[1]} entries per frame, expected {feature}")
    return values.reshape(len(table), *(feature.shape or (1,)))


def picture_of(folder: Path, where: str, cell: Any) -> np.ndarray:
    """A picture that is stored in a row, or beside the rows under a path that the row names.

    Args:
        folder: of the dataset.
        where: begins the message.
        cell: `{"bytes": ..., "path": ...}`, as Hugging Face stores images, or the bytes alone.

    Returns:
        uint8 (H, W, 3).

    Raises:
        UserError: there is none that can be decoded.
    """
    data, path = (cell.get("bytes"), cell.get("path")) if isinstance(cell, dict) else (cell, None)
    try:
        if data is None and path:
            data = (folder / inside(path)).read_bytes()
        if not isinstance(data, bytes):
            raise UserError(f"{where}: pictures that are stored as {type(data).__name__} are not supported")
        return decode_picture(data)
    except NotColourError as error:
        raise UserError(f"{where}: {error}; this is not supported") from None
    except (OSError, ValueError) as error:
        raise UserError(f"{where}: {one_line(error)}; restore that file or record the episode again") from None


def inside(path: str) -> Path:
    """A path of a dataset, which must not lead out of its folder.

    Raises:
        ValueError: it does.
    """
    relative = Path(path)
    if relative.is_absolute() or ".." in relative.parts:
        raise ValueError(f"path {path!r} leads out of the dataset")
    return relative


def damaged(path: Path, what: str, error: Exception | None = None) -> UserError:
    """The error for a file of a dataset; `error` is what a library raised when it read it."""
    mend = "the dataset is damaged, restore that file or record again"
    return read_failure(path, error or ValueError(), f"{what}; {mend}")
