"""Read one episode that others recorded in the HDF5 layout of ACT and its relatives. Nothing in it is trusted.

| dataset | what is taken |
|---|---|
| `action`, `observations/qpos` | float (T, A) and (T, S) of the robot of the task; needed |
| `observations/images/<camera>` | uint8 (T, H, W, 3); or JPEG or PNG, T strings of bytes in any form that HDF5 has |
| `observations/env_state`, `reward` or `rewards`, `noise` | numbers; without them: no channels, zeros, zeros |
| `success`, as an attribute or a dataset | see `imf_jax.data.success` |

What is not needed and has another type or shape is left out with a note; `observations/qvel` and everything else is
left behind. `compress_len`, which tells the padding of compressed pictures, is not needed: neither JPEG nor PNG ends
with a zero byte.
"""

import re
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import h5py
import numpy as np

from imf_jax.config import require
from imf_jax.data.act_pictures import JpegOrder, read_pictures
from imf_jax.data.compressed import LARGEST_SIDE
from imf_jax.data.episodes import READ_ERRORS, Episode
from imf_jax.data.success import read_label
from imf_jax.data.untrusted_hdf5 import Refused, find_dataset, require_size
from imf_jax.errors import one_line
from imf_jax.files import read_failure
from imf_jax.spaces import RobotSpaces

UNKNOWN_SEED = -1

SUCCESS_NAMES = ("success", "is_success", "successful", "succeeded")
FAILURE_NAMES = ("failure", "is_failure", "failed")
"""Names of labels, in lower case."""


@dataclass(frozen=True)
class ImportSettings:
    """What the files themselves do not say.

    Attributes:
        task: what is demonstrated.
        spaces: action and state of the robot that does it.
        control_hz: control steps per second.
        success: whether an episode succeeded that does not say so itself.
        cameras: whose pictures are imported; None for all.
        image_size: height and width of the pictures, after cutting out their middle square; None keeps them.
        jpeg_order: order of the colour channels in compressed pictures. ACT's recorder hands RGB pictures to OpenCV,
            which takes them for BGR, and reads them back the same way: "opencv". "rgb" for files by anyone else.
    """

    task: str
    spaces: RobotSpaces
    control_hz: float = 50.0
    success: bool = True
    cameras: tuple[str, ...] | None = None
    image_size: int | None = None
    jpeg_order: JpegOrder = "opencv"

    def __post_init__(self) -> None:
        require(self.control_hz > 0, f"control_hz is {self.control_hz}; it must be positive")
        size = self.image_size
        require(size is None or 1 <= size <= LARGEST_SIDE, f"image_size {size} must be in [1, {LARGEST_SIDE}]")


def read_act_episode(path: Path, number: int, settings: ImportSettings, notes: list[str]) -> Episode:
    """Read and validate one file.

    Args:
        path: the file.
        number: the index its episode gets.
        settings: what the file does not say.
        notes: receives a line for everything that was absent, is left out or looks odd.

    Raises:
        Refused: says in one line, without the file's name, what is wrong.
    """
    spaces = settings.spaces
    try:
        with h5py.File(path, "r") as file:
            action = _needed(file, "action", None, spaces.action_dim)
            steps = len(action)
            episode = Episode(
                action=action,
                state=_needed(file, "observations/qpos", steps, spaces.state_dim),
                env_state=_optional(file, ("observations/env_state",), steps, None, notes),
                reward=_optional(file, ("reward", "rewards"), steps, 1, notes)[:, 0],
                noise=_optional(file, ("noise",), steps, spaces.action_dim, notes, expected=False),
                seed=UNKNOWN_SEED,
                episode=number,
                task=settings.task,
                control_hz=settings.control_hz,
                success=settings.success if (label := labelled_success(file, steps, notes)) is None else label,
                spaces=spaces,
                images=read_pictures(
                    file,
                    steps,
                    notes,
                    cameras=settings.cameras,
                    image_size=settings.image_size,
                    jpeg_order=settings.jpeg_order,
                ),
            )
    except READ_ERRORS as error:
        failure = read_failure(path, error, f"cannot be read ({one_line(error)})")
        raise Refused(str(failure).removeprefix(f"{path}: ")) from error
    for part, channels in spaces.action_parts:
        if part.kind != "quaternion":
            continue
        off = np.abs(np.linalg.norm(action[:, channels], axis=1) - 1) > 0.01
        if off.any():
            notes.append(
                f"action[{channels.start}:{channels.stop}] is no unit quaternion of the "
                f"{spaces.effector_names[part.effector]} at {off.sum()} of {steps} steps; is this end-effector control?"
            )
    return episode


def numbered(paths: list[Path]) -> list[tuple[int, Path]]:
    """The index of each file: the last number in its name, or its place if names have no numbers of their own."""
    found = [re.findall(r"\d+", path.stem) for path in paths]
    numbers = [int(digits[-1]) for digits in found if digits]
    if len(set(numbers)) == len(paths):
        return sorted(zip(numbers, paths, strict=True))
    return list(enumerate(sorted(paths)))


def _needed(file: h5py.File, key: str, steps: int | None, width: int | None) -> np.ndarray:
    array = _floats(file, key, steps, width, kinds="f")
    if array is None:
        raise Refused(f"'{key}' is missing")
    return array


def _floats(file: h5py.File, key: str, steps: int | None, width: int | None, kinds: str) -> np.ndarray | None:
    """A dataset as float32 (steps, width), None if it is absent; a dataset (T,) counts as (T, 1)."""
    dataset = find_dataset(file, key)
    if dataset is None:
        return None
    shape = (*dataset.shape, 1) if dataset.ndim == 1 and width == 1 else dataset.shape
    if len(shape) != 2 or dataset.dtype.kind not in kinds or (width is not None and shape[1] != width):
        raise Refused(f"'{key}' is {dataset.dtype} {dataset.shape}, expected float ({steps or 'T'}, {width or 'any'})")
    if shape[0] == 0:
        raise Refused(f"'{key}' has no steps")
    if steps is not None and shape[0] != steps:
        raise Refused(f"'{key}' has {shape[0]} steps, but 'action' has {steps}")
    require_size(dataset)
    with np.errstate(over="ignore"):  # a double too large for float32 becomes infinite, and is refused as such
        array = dataset[()].astype(np.float32).reshape(shape)
    if not np.isfinite(array).all():
        raise Refused(f"'{key}' is not finite at step {int(np.argwhere(~np.isfinite(array))[0][0])}")
    return array


def _optional(
    file: h5py.File, keys: tuple[str, ...], steps: int, width: int | None, notes: list[str], *, expected: bool = True
) -> np.ndarray:
    """The first of the datasets that can be used; otherwise zeros, or no channels where any width would do."""
    found = False
    for key in keys:
        try:
            array = _floats(file, key, steps, width, kinds="fiub")
        except Refused as error:
            notes.append(f"left out: {error}")
            found = True
            continue
        if array is not None:
            return array
    if expected and not found:
        notes.append(f"no '{keys[0]}'")
    return np.zeros((steps, width or 0), np.float32)


def labelled_success(file: h5py.Group, steps: int, notes: list[str]) -> bool | None:
    """Whether an episode succeeded: what its labels say; False if one is not understood or they disagree.

    Args:
        file: a file or group.
        steps: control steps of the episode.
        notes: receives a line for every label that is not understood.

    Returns:
        None without labels.
    """
    labels = []
    for name, value in _labels(file, steps):
        label = read_label(value)
        if label is None:
            notes.append(f"'{name}' is not understood as a label of success; taken as a failure")
        elif name.rsplit("/", 1)[-1].lower() in FAILURE_NAMES:
            label = not label
        labels.append((name, label))
    distinct = {label for _, label in labels}
    if distinct == {True, False}:
        notes.append(f"{', '.join(name for name, _ in labels)} disagree about success; taken as a failure")
    return distinct == {True} if labels else None


def _labels(file: h5py.Group, steps: int) -> Iterator[tuple[str, Any]]:
    """Attributes and datasets, of the file and of its groups, that are named like a label; None if unreadable."""
    links = {name: file.get(name, getlink=True) for name in file}
    inside = [name for name, link in links.items() if isinstance(link, h5py.HardLink)]
    groups = {"": file} | {f"{name}/": file[name] for name in inside if isinstance(file[name], h5py.Group)}
    for prefix, group in groups.items():
        for name in filter(_is_label, group.attrs):
            try:
                value = group.attrs[name]
            except READ_ERRORS:
                value = None
            yield prefix + name, value
        for name in filter(_is_label, group):
            try:
                dataset = find_dataset(group, name)
                value = dataset[()] if dataset is not None and dataset.size <= steps else None
            except (*READ_ERRORS, Refused):
                value = None
            yield prefix + name, value


def _is_label(name: str) -> bool:
    return name.lower() in SUCCESS_NAMES + FAILURE_NAMES
