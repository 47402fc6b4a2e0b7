"""Reader of episodes in the HDF5 layout of ACT and ALOHA, a file per episode.

`action` and `observations/qpos` are needed; `observations/qvel` and `observations/effort` may be absent. Pictures under
`observations/images/` are raw or compressed (attribute `compress`); `compress_len`, the length of padded JPEGs, is
not needed, because neither JPEG nor PNG ends with a zero byte.
"""

from pathlib import Path

import h5py

from imf_jax.data.act_pictures import JpegOrder, NoColourCamera, find_camera
from imf_jax.data.act_reader import numbered
from imf_jax.data.episodes import IMAGES, holds_hdf5
from imf_jax.data.readers.foreign_hdf5 import ForeignHdf5Reader, Place
from imf_jax.data.untrusted_hdf5 import find_node

STATE = "observations/qpos"

JOINTS = ("waist", "shoulder", "elbow", "forearm_roll", "wrist_angle", "wrist_rotate", "gripper")
"""Entries of each of the two arms of ALOHA."""

ALOHA = tuple(f"{side}_{joint}" for side in ("left", "right") for joint in JOINTS)

OURS = ("task", "seed", "imf_jax_version")
"""Attributes of demonstrations of this project; a file without any of them is by others."""


def is_act(file: h5py.File) -> bool:
    """Whether a file is an episode of ACT by others."""
    return "action" in file and STATE in file and not any(name in file.attrs for name in OURS)


class ActReader(ForeignHdf5Reader):
    """A folder of ACT episodes; see `ForeignHdf5Reader`.

    Args:
        folder: with the files.
        jpeg_order: of the channels of compressed pictures.
    """

    kind = "ACT episodes"
    action = "action"
    hz = 50.0  # of ALOHA; the files do not say

    def __init__(self, folder: Path, jpeg_order: JpegOrder = "opencv") -> None:
        paths = [path for path in folder.iterdir() if holds_hdf5(path)]
        places = [Place(path.name, number, path, "") for number, path in numbered(paths)]
        super().__init__(folder, places, jpeg_order)

    @property
    def roles(self) -> dict[str, tuple[str, ...]]:
        """As ACT names them."""
        names = {"action": self.action, "state": STATE, "env_state": "observations/env_state"}
        return {role: (name,) if name in self.columns else () for role, name in names.items()}

    def entry_names(self, name: str, width: int) -> tuple[str, ...]:
        """Fourteen entries are the joints of ALOHA."""
        return ALOHA if width == len(ALOHA) else super().entry_names(name, width)

    def camera_keys(self, group: h5py.Group, steps: int) -> dict[str, str]:
        """Datasets under `observations/images` that may hold colours; others, such as depth, are left out."""
        images = find_node(group, IMAGES)
        keys = {name: f"{IMAGES}/{name}" for name in images} if isinstance(images, h5py.Group) else {}
        return {name: key for name, key in keys.items() if _holds_colours(group, key, steps)}


def _holds_colours(group: h5py.Group, key: str, steps: int) -> bool:
    try:
        find_camera(group, key, steps)
    except NoColourCamera:
        return False
    return True
