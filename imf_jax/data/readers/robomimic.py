"""Reader of robomimic datasets: one HDF5 file with the episodes `data/demo_0`, `data/demo_1`, ...

`actions` and `obs/<name>` have a row per step; `obs/<camera>_image` are pictures. `mask/valid` names the episodes that
are kept for validation, and the attribute `env_args` of `data` is a JSON text that names environment and control rate.
"""

import json
from functools import cached_property
from pathlib import Path
from typing import Any

import h5py

from imf_jax.data.episodes import READ_ERRORS
from imf_jax.data.readers.base import EpisodeInfo
from imf_jax.data.readers.foreign_hdf5 import ForeignHdf5Reader, Place
from imf_jax.data.untrusted_hdf5 import find_dataset, find_node
from imf_jax.errors import one_line
from imf_jax.files import read_failure

DATA, DEMO, IMAGE = "data", "demo_", "_image"

PROPRIOCEPTION = ("eef_pos", "eef_quat", "gripper_qpos")
"""Observations of each robot that make its state in robomimic's own configurations."""

MOST_ROBOTS = 4
LARGEST_TEXT = 2**20
"""An attribute that is longer is not parsed [bytes]."""


def is_robomimic(file: h5py.File) -> bool:
    """Whether a file is a robomimic dataset."""
    group = find_node(file, DATA)
    return isinstance(group, h5py.Group) and any(name.startswith(DEMO) for name in group)


class RobomimicReader(ForeignHdf5Reader):
    """A robomimic file; see `ForeignHdf5Reader`.

    Args:
        path: the file.

    Raises:
        UserError: it cannot be read.
    """

    kind = "robomimic dataset"
    action = "actions"

    def __init__(self, path: Path) -> None:
        try:
            with h5py.File(path, "r") as file:
                group = find_node(file, DATA)
                numbers = sorted(int(name.removeprefix(DEMO)) for name in group if name[len(DEMO) :].isdecimal())
                valid = find_dataset(file, "mask/valid")
                self._held_out = {_text(name) for name in valid[()].ravel()} if valid is not None else set()
                about = _environment(group.attrs.get("env_args"))
        except READ_ERRORS as error:
            raise read_failure(path, error, f"cannot be read ({one_line(error)}); restore it") from error
        super().__init__(path, [Place(f"{DEMO}{n}", n, path, f"{DATA}/{DEMO}{n}") for n in numbers])
        settings = about.get("env_kwargs")
        settings = settings if isinstance(settings, dict) else {}
        robots, rate = settings.get("robots"), settings.get("control_freq")
        self.robot = " ".join(map(str, robots)) if isinstance(robots, list) else str(robots or "")
        self.hz = float(rate) if isinstance(rate, int | float) and rate > 0 else None
        self.tasks = (str(about["env_name"]),) if "env_name" in about else ()

    @cached_property
    def roles(self) -> dict[str, tuple[str, ...]]:
        """As robomimic's own configurations choose them."""
        state = [f"obs/robot{n}_{name}" for n in range(MOST_ROBOTS) for name in PROPRIOCEPTION]
        known = self.columns
        return {
            "action": (self.action,) if self.action in known else (),
            "state": tuple(name for name in state if name in known),
            "env_state": ("obs/object",) if "obs/object" in known else (),
        }

    def info(self, index: int) -> EpisodeInfo:
        """Description of an episode."""
        found = super().info(index)
        return EpisodeInfo(
            found.name, found.number, found.steps, self.tasks or (), found.success, found.hz, found.cameras,
            held_out=found.name in self._held_out,
        )  # fmt: skip

    def camera_keys(self, group: h5py.Group, steps: int) -> dict[str, str]:
        """Observations whose name ends in `_image`, without that ending."""
        observations = find_node(group, "obs")
        if not isinstance(observations, h5py.Group):
            return {}
        return {name.removesuffix(IMAGE): f"obs/{name}" for name in observations if name.endswith(IMAGE)}


def _environment(text: Any) -> dict[str, Any]:
    """What `env_args` says, as far as it can be understood."""
    try:
        about = json.loads(_text(text)[:LARGEST_TEXT])
    except (ValueError, TypeError, RecursionError):
        return {}
    return about if isinstance(about, dict) else {}


def _text(value: Any) -> str:
    return value.decode("utf-8", "replace") if isinstance(value, bytes) else str(value)
