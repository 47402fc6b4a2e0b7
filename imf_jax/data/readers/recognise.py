"""Recognise the format of a dataset by its content."""

from pathlib import Path

import h5py

from imf_jax.data.act_pictures import JpegOrder
from imf_jax.data.episodes import READ_ERRORS, holds_hdf5
from imf_jax.data.readers.act import ActReader, is_act
from imf_jax.data.readers.base import DatasetReader
from imf_jax.data.readers.hdf5 import Hdf5Reader
from imf_jax.data.readers.robomimic import RobomimicReader, is_robomimic
from imf_jax.data.untrusted_hdf5 import Refused
from imf_jax.errors import UserError


def holds_lerobot(folder: Path) -> bool:
    """Whether a folder is a LeRobot dataset; needs no library to tell."""
    return (folder / "meta" / "info.json").is_file()


def open_reader(path: Path, jpeg_order: JpegOrder = "opencv") -> DatasetReader:
    """Open a dataset of any format that can be read.

    Args:
        path: folder of demonstrations, of ACT episodes or of a LeRobot dataset; or a robomimic file, or the folder
            that holds nothing else.
        jpeg_order: order of the colour channels in compressed pictures of ACT episodes.

    Raises:
        UserError: the format is not known, or its form is damaged.
    """
    if holds_lerobot(path):
        from imf_jax.data.readers.lerobot import LeRobotReader  # needs the extra `datasets`

        return LeRobotReader(path)
    if path.is_file():
        if _form(path) != "robomimic":
            raise UserError(
                f"{path} is no robomimic dataset; give the folder of the demonstrations, or a file with data/demo_0"
            )
        return RobomimicReader(path)
    files = sorted(filter(holds_hdf5, path.iterdir())) if path.is_dir() else []
    form = next((form for form in map(_form, files) if form is not None), None)
    if form == "robomimic" and len(files) == 1:
        return RobomimicReader(files[0])
    return ActReader(path, jpeg_order) if form == "act" else Hdf5Reader(path)


def _form(path: Path) -> str | None:
    """Format of an HDF5 file: "act", "robomimic" or "ours"; None if it cannot be read."""
    try:
        with h5py.File(path, "r") as file:
            if is_act(file):
                return "act"
            return "robomimic" if is_robomimic(file) else "ours"
    except (*READ_ERRORS, Refused):
        return None
