"""Demonstration files: one HDF5 per episode, in the layout that ACT-family tools read.

`<folder>/episode_000007.hdf5`, T control steps:

| dataset | type | what |
|---|---|---|
| `action` | float32 (T, A) | the command to imitate, see `RobotSpaces.action` |
| `observations/qpos` | float32 (T, S) | robot state before it, see `RobotSpaces.state` |
| `observations/env_state` | float32 (T, E) | object poses before the command; E = 0 where nobody recorded them |
| `observations/images/<camera>` | uint8 (T, H, W, 3) | optional pictures before the command |
| `noise` | float32 (T, A) | what was added to `action` when it was executed; the state drifts, the label corrects |
| `reward` | float32 (T,) | reward after the command |

Attributes: seed, episode, task, robot (JSON of its `RobotSpaces`), control_hz, success, units (JSON), sim,
imf_jax_version.
"""

import json
import re
import zlib
from collections.abc import Sequence
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import h5py
import numpy as np

from imf_jax import __version__
from imf_jax.cores import usable_cores
from imf_jax.data.success import read_label
from imf_jax.errors import UnavailableError, UserError, one_line
from imf_jax.files import atomic_write, read_failure, remove_partials
from imf_jax.spaces import RobotSpaces

ENV_STATE_UNIT = "per object: position xyz [m], quaternion wxyz; world frame"

IMAGES = "observations/images"

ROBOT = "robot"
"""Attribute that describes the robot."""

GZIP = 4
"""Level of the compression of pictures, the usual one of HDF5."""

READ_ERRORS = (OSError, KeyError, RuntimeError, ValueError, TypeError, AttributeError, MemoryError, OverflowError)
"""Errors that h5py raises over a damaged file, or one that holds something else than expected."""

MEND = "remove the file and collect that episode again"

WIDTHS: dict[str, tuple[int | None, ...]] = {
    "action": (None,),
    "observations/qpos": (None,),
    "observations/env_state": (None,),
    "noise": (None,),
    "reward": (),
}
"""Dataset -> its shape after the time axis; None allows any size, and 0 where there is no scene state."""

HDF5_SUFFIXES = (".hdf5", ".h5")

_NAME = re.compile(r"episode_(\d{6,})\.hdf5")


@dataclass
class Episode:
    """One demonstration of T control steps; arrays as in the module's table.

    Attributes:
        spaces: action and state of the robot; None in files of older versions.
    """

    action: np.ndarray
    state: np.ndarray
    env_state: np.ndarray
    reward: np.ndarray
    noise: np.ndarray
    seed: int
    episode: int
    task: str
    control_hz: float
    success: bool
    spaces: RobotSpaces | None = None
    images: dict[str, np.ndarray] = field(default_factory=dict)

    def __len__(self) -> int:
        return len(self.action)


def episode_path(folder: Path, episode: int) -> Path:
    """Path of the demonstration of that index."""
    return folder / f"episode_{episode:06d}.hdf5"


def episode_number(path: Path) -> int:
    """The index in the name of a demonstration file."""
    match = _NAME.fullmatch(path.name)
    if match is None:
        raise UserError(f"{path} is not named like a demonstration (episode_000007.hdf5)")
    return int(match[1])


def holds_hdf5(path: Path) -> bool:
    """Whether a file is named like HDF5. Hidden ones are not: macOS writes `._NAME` beside NAME on foreign disks."""
    return path.suffix.lower() in HDF5_SUFFIXES and not path.name.startswith(".") and path.is_file()


def list_episodes(folder: Path) -> list[Path]:
    """The demonstration files of a folder in order of their index.

    Raises:
        UserError: if the folder is missing or holds none.
    """
    if not folder.is_dir():
        raise UserError(f"{folder} is not a folder; collect demonstrations into it with scripts/collect.py")
    paths = _episode_files(folder)
    if not paths:
        mend = "collect demonstrations with scripts/collect.py"
        if any(map(holds_hdf5, folder.iterdir())):
            mend = "bring the HDF5 files of others in with: python scripts/data.py import"
        raise UserError(f"{folder} holds no episode_000000.hdf5; {mend}")
    return paths


def _episode_files(folder: Path) -> list[Path]:
    return sorted((path for path in folder.iterdir() if _NAME.fullmatch(path.name)), key=episode_number)


def write_episode(folder: Path, episode: Episode) -> Path:
    """Write one demonstration; the file appears under its name only when it is whole.

    Raises:
        UserError: if an array does not fit the module's table or is not finite, or the folder cannot be written.
    """
    path = episode_path(folder, episode.episode)
    datasets = _datasets(episode)
    for name, array in datasets.items():
        _check(path, name, array, len(episode))
    _check_widths(path, episode)
    try:
        with atomic_write(path) as partial, h5py.File(partial, "w") as file:
            for name, array in datasets.items():
                if array.dtype == np.uint8:
                    _write_pictures(file, name, array)
                else:  # small arrays of floats gain nothing by compression
                    file.create_dataset(name, data=array)
            file.attrs.update(
                seed=episode.seed,
                episode=episode.episode,
                task=episode.task,
                control_hz=episode.control_hz,
                success=episode.success,
                **({ROBOT: json.dumps(episode.spaces.to_json())} if episode.spaces else {}),
                units=json.dumps(_units(episode.spaces)),
                sim=True,
                imf_jax_version=__version__,
            )
    except OSError as error:
        what = error.strerror or error
        raise UserError(f"cannot write {path}: {what}; check the disk and its permissions") from error
    return path


def _write_pictures(file: h5py.File, name: str, pictures: np.ndarray) -> None:
    """Write pictures, uint8 (T, ...), each a chunk of its own, compressed by gzip on all cores: HDF5 would take one."""
    dataset = file.create_dataset(
        name, pictures.shape, np.uint8, compression="gzip", compression_opts=GZIP, chunks=(1, *pictures.shape[1:])
    )

    def compress(picture: np.ndarray) -> bytes:
        return zlib.compress(picture.tobytes(), GZIP)

    with ThreadPoolExecutor(usable_cores()) as pool:
        for step, content in enumerate(pool.map(compress, pictures)):
            dataset.id.write_direct_chunk((step, *([0] * (pictures.ndim - 1))), content)


def write_episodes(folder: Path, episodes: Sequence[Episode], threads: int = 4) -> list[Path]:
    """Write several demonstrations at once, see `write_episode`; makes the folder.

    HDF5 itself takes turns; what runs in parallel is waiting for the disk to confirm a file.
    """
    folder.mkdir(parents=True, exist_ok=True)
    with ThreadPoolExecutor(threads) as pool:
        return list(pool.map(lambda episode: write_episode(folder, episode), episodes))


def collected_episodes(folder: Path, *, task: str, seed: int) -> tuple[set[int], list[str]]:
    """Find what an interrupted collection has already recorded, so that it can go on. Leftovers of writers are removed.

    Args:
        folder: folder of demonstrations; may be absent.
        task: task of the collection.
        seed: seed of the collection.

    Returns:
        Indices of the valid episodes, and one line for each file that is damaged and must be recorded again.

    Raises:
        UserError: the folder holds demonstrations of another task or seed, or a file cannot be opened now.
    """
    valid: set[int] = set()
    damaged: list[str] = []
    if not folder.exists():
        return valid, damaged
    remove_partials(folder, "episode_*")
    for path in _episode_files(folder):
        try:
            episode = read_episode(path)
        except UnavailableError:
            raise  # it may be sound: recording its episode again would replace it
        except UserError as error:
            damaged.append(str(error))
            continue
        if (episode.task, episode.seed) != (task, seed) or path != episode_path(folder, episode.episode):
            raise UserError(
                f"{path} holds episode {episode.episode} of task {episode.task!r} with seed {episode.seed}, "
                f"not of task {task!r} with seed {seed}; choose another folder"
            )
        valid.add(episode.episode)
    return valid, damaged


def read_episode(path: Path, *, images: bool = False) -> Episode:
    """Read and validate one demonstration.

    Args:
        path: the HDF5 file.
        images: also read the pictures, if there are any.

    Raises:
        UnavailableError: if the file cannot be opened now.
        UserError: if the file is damaged, a dataset or attribute is missing, a shape or type does not fit or a value is
            not finite; the message names the file and the key.
    """
    try:
        with h5py.File(path, "r") as file:
            steps = _steps(path, file)
            episode = Episode(
                action=_floats(path, file, "action", steps),
                state=_floats(path, file, "observations/qpos", steps),
                env_state=_floats(path, file, "observations/env_state", steps),
                reward=_floats(path, file, "reward", steps),
                noise=_floats(path, file, "noise", steps),
                seed=int(_attribute(path, file, "seed")),
                episode=int(_attribute(path, file, "episode")),
                task=str(_attribute(path, file, "task")),
                control_hz=float(_attribute(path, file, "control_hz")),
                success=_success(path, file),
                spaces=_spaces(path, file),
            )
            _check_widths(path, episode)
            for camera in file[IMAGES] if images and IMAGES in file else ():
                episode.images[camera] = _pictures(path, file, f"{IMAGES}/{camera}", steps)
            return episode
    except READ_ERRORS as error:
        raise read_failure(path, error, f"cannot be read as a demonstration ({one_line(error)}); {MEND}") from error


def _datasets(episode: Episode) -> dict[str, np.ndarray]:
    arrays = {
        "action": episode.action,
        "observations/qpos": episode.state,
        "observations/env_state": episode.env_state,
        "noise": episode.noise,
        "reward": episode.reward,
    }
    arrays = {name: np.asarray(array, np.float32) for name, array in arrays.items()}
    return arrays | {f"{IMAGES}/{camera}": array for camera, array in episode.images.items()}


def _dataset(path: Path, file: h5py.File, key: str) -> h5py.Dataset:
    found = file.get(key)
    if not isinstance(found, h5py.Dataset):
        raise _bad(path, f"dataset '{key}' is missing")
    return found


def _steps(path: Path, file: h5py.File) -> int:
    shape = _dataset(path, file, "action").shape
    if not shape or shape[0] < 1:
        raise _bad(path, f"dataset 'action' has no steps (shape {shape})")
    return int(shape[0])


def _floats(path: Path, file: h5py.File, key: str, steps: int) -> np.ndarray:
    dataset = _dataset(path, file, key)
    if dataset.dtype.kind != "f":
        raise _bad(path, f"dataset '{key}' has type {dataset.dtype}, expected float32")
    array = np.asarray(dataset[()], np.float32)
    _check(path, key, array, steps)
    return array


def _pictures(path: Path, file: h5py.File, key: str, steps: int) -> np.ndarray:
    dataset = _dataset(path, file, key)
    _check(path, key, dataset, steps)
    return np.asarray(dataset[()])


def _check(path: Path, key: str, array: np.ndarray | h5py.Dataset, steps: int) -> None:
    """Refuse a shape or type that does not fit the module's table, and values that are not finite."""
    expected: tuple[int | None, ...]
    if key.startswith(IMAGES):
        expected, kind = (steps, None, None, 3), "u"
    else:
        expected, kind = (steps, *WIDTHS[key]), "f"
    fits = len(array.shape) == len(expected) and all(
        want is None or size == want for size, want in zip(array.shape, expected, strict=True)
    )
    fits = fits and (kind == "f" or 0 not in array.shape)
    if not fits or array.dtype.kind != kind:
        wanted = ", ".join("any" if size is None else str(size) for size in expected)
        what = "uint8" if kind == "u" else "float32"
        raise _bad(path, f"dataset '{key}' has shape {array.shape} and type {array.dtype}, expected {what} ({wanted})")
    if kind == "f" and not np.isfinite(array).all():
        step = int(np.argwhere(~np.isfinite(array))[0][0])
        raise _bad(path, f"dataset '{key}' is not finite at step {step}")


def _check_widths(path: Path, episode: Episode) -> None:
    """Refuse actions and states that are not those of the robot."""
    spaces, width = episode.spaces, episode.action.shape[1]
    wanted = {"action": spaces.action_dim, "observations/qpos": spaces.state_dim} if spaces else {}
    for name, array in (("action", episode.action), ("observations/qpos", episode.state), ("noise", episode.noise)):
        expected = width if name == "noise" else wanted.get(name, array.shape[1] or 1)
        if array.shape[1] != expected:
            raise _bad(path, f"dataset '{name}' has shape {array.shape}, expected ({len(episode)}, {expected})")


def _spaces(path: Path, file: h5py.File) -> RobotSpaces | None:
    """The robot of a demonstration; None in files of older versions."""
    if ROBOT not in file.attrs:
        return None
    try:
        return RobotSpaces.from_json(json.loads(str(file.attrs[ROBOT])))
    except (ValueError, TypeError, UserError) as error:
        raise _bad(path, f"attribute '{ROBOT}' does not describe a robot ({error})") from None


def _units(spaces: RobotSpaces | None) -> dict[str, str]:
    """What the datasets are, in words."""
    of_robot = {"action": spaces.action_text, "observations/qpos": spaces.state_text} if spaces else {}
    return of_robot | {"observations/env_state": ENV_STATE_UNIT}


def _attribute(path: Path, file: h5py.File, name: str) -> Any:
    if name not in file.attrs:
        raise _bad(path, f"attribute '{name}' is missing")
    return file.attrs[name]


def _success(path: Path, file: h5py.File) -> bool:
    label = read_label(_attribute(path, file, "success"))
    if label is None:
        raise _bad(path, "attribute 'success' is neither true nor false")
    return label


def _bad(path: Path, what: str) -> UserError:
    return UserError(f"{path}: {what}; {MEND}")
