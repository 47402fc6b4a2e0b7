"""Rows of a dataset's Parquet files as arrays and pictures."""

from collections.abc import Sequence
from pathlib import Path
from typing import Any

import numpy as np
import pyarrow as pa
import pyarrow.compute as pc
import pyarrow.parquet as pq

from imf_jax.data.compressed import NotColourError, decode_picture
from imf_jax.data.lerobot.features import Feature
from imf_jax.errors import UserError, one_line
from imf_jax.files import read_failure

EPISODE = "episode_index"

READ_ERRORS = (OSError, pa.ArrowException, KeyError, TypeError, ValueError, IndexError)
"""What Arrow raises over a damaged file, and Python over one that holds something else than expected."""


LARGEST_TABLE = 8 * 2**30
"""A file of rows that unpacks to more than this is refused [bytes]."""

LARGEST_KEPT = 256 * 2**20
"""Columns of a file with several episodes are kept for the next one if they take no more than this [bytes]."""

TABLES_KEPT = 3

NUMBER_BYTES = 8


def require_table_size(path: Path) -> int:
    """Refuse a Parquet file that would unpack to more than any memory holds, whatever it takes on the disk.

    Returns:
        its rows.

    Raises:
        ValueError: it is larger.
        OSError: it cannot be read; likewise what Arrow raises.
    """
    about = pq.read_metadata(path)
    stored = sum(about.row_group(group).total_byte_size for group in range(about.num_row_groups))
    if max(stored, NUMBER_BYTES * about.num_rows * about.num_columns) > LARGEST_TABLE:
        raise ValueError(f"it unpacks to more than {LARGEST_TABLE / 2**30:.0f} GiB")
    return int(about.num_rows)


class RowReader:
    """Reads the rows of episodes; columns of a file with several episodes are kept for the next one."""

    def __init__(self) -> None:
        self._kept: dict[tuple[Path, tuple[str, ...]], pa.Table] = {}

    def read(self, path: Path, episode: int, length: int, columns: Sequence[str]) -> pa.Table:
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
            table = self._read(path, episode, length, columns)
        except READ_ERRORS as error:
            raise damaged(path, f"cannot be read ({one_line(error)})", error) from None
        if len(table) != length:
            raise damaged(path, f"has {len(table)} rows of episode {episode}, expected {length}")
        return table

    def _read(self, path: Path, episode: int, length: int, columns: Sequence[str]) -> pa.Table:
        wanted = (path, tuple(columns))
        kept = self._kept.get(wanted)
        if kept is None:
            rows = require_table_size(path)
            schema = pq.read_schema(path)
            names = [name for name in dict.fromkeys([EPISODE, *columns]) if name in schema.names]
            binary = any(pa.types.is_struct(schema.field(name).type) for name in names)
            if rows == length or binary or rows * len(names) * NUMBER_BYTES * NUMBER_BYTES > LARGEST_KEPT:
                return pq.read_table(path, columns=names, filters=[(EPISODE, "=", episode)])
            kept = pq.read_table(path, columns=names)
            # Labels, columns and time stamps of an episode are read in turns.
            self._kept = dict([*self._kept.items(), (wanted, kept)][-TABLES_KEPT:])
        return kept.filter(pc.equal(kept.column(EPISODE), episode))


def values_of(path: Path, name: str, feature: Feature, table: pa.Table) -> np.ndarray:
    """A column as an array (T, D), or (T, ...) where the feature has several axes.

    Raises:
        UserError: it is absent, or does not hold the feature.
    """
    if name not in table.column_names:
        raise damaged(path, f"has no column {name!r}")
    try:
        values = _flat(table.column(name), len(table)).astype(np.dtype(feature.dtype)).reshape(len(table), -1)
    except (TypeError, ValueError, pa.ArrowException) as error:
        raise damaged(path, f"column {name!r} does not hold {feature} ({one_line(error)})") from None
    if values.shape[1] != np.prod(feature.shape, dtype=int):
        raise damaged(path, f"column {name!r} has {values.shape[1]} entries per frame, expected {feature}")
    return values.reshape(len(table), *(feature.shape or (1,)))


def _flat(column: pa.ChunkedArray, rows: int) -> np.ndarray:
    """The numbers of a column of numbers, or of lists of equal length, one after the other.

    Raises:
        ValueError: a value is absent, or lists differ in length.
    """
    array = column.combine_chunks() if column.num_chunks != 1 else column.chunk(0)
    while pa.types.is_list(array.type) or pa.types.is_large_list(array.type) or pa.types.is_fixed_size_list(array.type):
        lengths = pc.list_value_length(array)
        if array.null_count or (len(array) and pc.min(lengths).as_py() != pc.max(lengths).as_py()):
            raise ValueError("its rows differ in length")
        array = array.flatten()
    if array.null_count and not pa.types.is_floating(array.type):  # those become NaN
        raise ValueError("values are missing")
    values = array.to_numpy(zero_copy_only=False)
    if values.dtype.kind not in "fiub":
        raise ValueError(f"its values are of type {array.type}")
    return np.array(values)


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
