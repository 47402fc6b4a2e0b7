"""Recognise the format of a dataset by its content."""

from pathlib import Path

from imf_jax.data.readers.base import DatasetReader
from imf_jax.data.readers.hdf5 import Hdf5Reader


def holds_lerobot(folder: Path) -> bool:
    """Whether a folder is a LeRobot dataset; needs no library to tell."""
    return (folder / "meta" / "info.json").is_file()


def open_reader(path: Path) -> DatasetReader:
    """Open a dataset of any format that can be read.

    Raises:
        UserError: the format is not known, or its form is damaged.
    """
    if holds_lerobot(path):
        from imf_jax.data.readers.lerobot import LeRobotReader  # needs the extra `datasets`

        return LeRobotReader(path)
    return Hdf5Reader(path)
