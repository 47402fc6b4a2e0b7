"""Import demonstrations that others recorded in the HDF5 layout of ACT and its relatives. Nothing in them is trusted.

| dataset | what is taken |
|---|---|
| `action`, `observations/qpos` | float (T, 16), see `imf_jax.data.episodes`; needed |
| `observations/images/<camera>` | uint8 (T, H, W, 3); or JPEG or PNG, (T, L) padded with zeros or of varying length |
| `observations/env_state`, `reward` or `rewards`, `noise` | if there; without them: no channels, zeros, zeros |

`observations/qvel` and everything else is left behind. `compress_len`, which tells the padding of compressed pictures,
is not needed: neither JPEG nor PNG ends with a zero byte.
"""

import io
import re
from collections.abc import Callable
from dataclasses import asdict, dataclass, field
from pathlib import Path
from typing import Any, Literal

import h5py
import numpy as np
from PIL import Image

from imf_jax.config import ACTION_DIM, STATE_DIM, require
from imf_jax.data.episodes import IMAGES, READ_ERRORS, Episode, write_episode
from imf_jax.data.statistics import write_statistics
from imf_jax.errors import EXIT_FAILED, EXIT_OK, EXIT_SOME_ERRORED, ArgumentError, UserError
from imf_jax.files import write_json

REPORT = "import.json"
UNKNOWN_SEED = -1

LARGEST_EPISODE = 8 * 2**30
"""An episode that unpacks to more than this is refused [bytes]."""

LARGEST_SIDE = 4096
"""Likewise a compressed picture that is wider or higher than this [pixels]."""

BLOCK = 32
"""Steps whose pictures are read at once: chunks of a compressed dataset may reach over many steps."""

QUATERNIONS = {"left": slice(3, 7), "right": slice(11, 15)}


class Refused(UserError):
    """An episode that cannot be imported."""


@dataclass(frozen=True)
class ImportSettings:
    """What the files themselves do not say.

    Attributes:
        task: what is demonstrated.
        control_hz: control steps per second.
        success: whether an episode succeeded that does not say so itself.
        cameras: whose pictures are imported; None for all.
        image_size: height and width of the pictures, after cutting out their middle square; None keeps them.
        jpeg_order: order of the colour channels in compressed pictures. ACT's recorder hands RGB pictures to OpenCV,
            which takes them for BGR, and reads them back the same way: "opencv". "rgb" for files by anyone else.
    """

    task: str
    control_hz: float = 50.0
    success: bool = True
    cameras: tuple[str, ...] | None = None
    image_size: int | None = None
    jpeg_order: Literal["opencv", "rgb"] = "opencv"

    def __post_init__(self) -> None:
        require(self.control_hz > 0, f"control_hz is {self.control_hz}; it must be positive")
        size = self.image_size
        require(size is None or 1 <= size <= LARGEST_SIDE, f"image_size {size} must lie in 1..{LARGEST_SIDE}")


@dataclass
class ImportedFile:
    """What became of one file: its episode, or the reason why there is none."""

    file: str
    episode: int | None = None
    steps: int | None = None
    cameras: dict[str, tuple[int, int]] = field(default_factory=dict)
    notes: list[str] = field(default_factory=list)
    refused: str | None = None


@dataclass(frozen=True)
class ImportReport:
    """What became of all files."""

    files: list[ImportedFile]

    @property
    def imported(self) -> list[ImportedFile]:
        """The files that are episodes now."""
        return [file for file in self.files if file.refused is None]

    @property
    def exit_code(self) -> int:
        """0 if all were imported, 3 if some were refused, 1 if all were."""
        if not self.imported:
            return EXIT_FAILED
        return EXIT_OK if len(self.imported) == len(self.files) else EXIT_SOME_ERRORED


def import_episodes(
    source: Path,
    target: Path,
    settings: ImportSettings,
    on_file: Callable[[int, int], None] = lambda done, total: None,
) -> ImportReport:
    """Bring a folder of HDF5 episodes into the layout of this project, with `stats.json` and a report, `import.json`.

    Args:
        source: folder with the files.
        target: receives the demonstrations; must not exist or be empty.
        settings: what the files do not say.
        on_file: called with the number of files that were read, and of all.

    Raises:
        ArgumentError: the source holds no HDF5 file, or the target is taken.
        UserError: the target cannot be written.
    """
    require(source.is_dir(), f"{source} is not a folder; give the folder with the HDF5 episodes")
    paths = [path for path in source.iterdir() if path.suffix in (".hdf5", ".h5") and path.is_file()]
    require(bool(paths), f"{source} holds no .hdf5 or .h5 file; give the folder with the HDF5 episodes")
    taken = target.exists() and (not target.is_dir() or any(target.iterdir()))
    require(not taken, f"{target} is not empty; choose another --out")
    try:
        target.mkdir(parents=True, exist_ok=True)
    except OSError as error:
        raise ArgumentError(f"cannot create {target} ({error.strerror}); choose another --out") from error
    report, env_state_dim = ImportReport([]), None
    numbered = _numbers(paths)
    for done, (number, path) in enumerate(numbered):
        on_file(done, len(numbered))
        entry = ImportedFile(path.name)
        report.files.append(entry)
        try:
            episode = read_act_episode(path, number, settings, entry.notes)
            width = episode.env_state.shape[1]
            if env_state_dim not in (None, width):
                raise Refused(f"env_state has {width} channels, but {env_state_dim} in the episodes before")
        except Refused as error:
            entry.refused = str(error)
            continue
        write_episode(target, episode)
        env_state_dim = width
        entry.episode, entry.steps = number, len(episode)
        entry.cameras = {name: images.shape[1:3] for name, images in episode.images.items()}
    on_file(len(numbered), len(numbered))
    if report.imported:
        write_statistics(target)
    settings_json = {**asdict(settings), "source": str(source)}
    write_json(target / REPORT, {"settings": settings_json, "files": [asdict(file) for file in report.files]})
    return report


def read_act_episode(path: Path, number: int, settings: ImportSettings, notes: list[str]) -> Episode:
    """Read and validate one file.

    Args:
        path: the file.
        number: the index its episode gets.
        settings: what the file does not say.
        notes: receives a line for everything that was absent or looks odd.

    Raises:
        Refused: says in one line, without the file's name, what is wrong.
    """
    try:
        with h5py.File(path, "r") as file:
            action = _floats(file, "action", None, ACTION_DIM)
            steps = len(action)
            episode = Episode(
                action=action,
                qpos=_floats(file, "observations/qpos", steps, STATE_DIM),
                env_state=_optional(file, ("observations/env_state",), steps, None, notes),
                reward=_optional(file, ("reward", "rewards"), steps, 1, notes)[:, 0],
                noise=_optional(file, ("noise",), steps, ACTION_DIM, []),
                seed=UNKNOWN_SEED,
                episode=number,
                task=settings.task,
                control_hz=settings.control_hz,
                success=_success(file, settings.success),
                images=_images(file, steps, settings, notes),
            )
    except Refused:
        raise
    except READ_ERRORS as error:
        raise Refused(f"cannot be read ({' '.join(str(error).split())})") from error
    for arm, channels in QUATERNIONS.items():
        off = np.abs(np.linalg.norm(action[:, channels], axis=1) - 1) > 0.01
        if off.any():
            notes.append(
                f"action[{channels.start}:{channels.stop}] is no unit quaternion of the {arm} hand at {off.sum()} of "
                f"{steps} steps; is this end-effector control?"
            )
    return episode


def _numbers(paths: list[Path]) -> list[tuple[int, Path]]:
    """The index of each file: the last number in its name, or its place if names have no numbers of their own."""
    found = [re.findall(r"\d+", path.stem) for path in paths]
    numbers = [int(digits[-1]) for digits in found if digits]
    if len(set(numbers)) == len(paths):
        return sorted(zip(numbers, paths, strict=True))
    return list(enumerate(sorted(paths)))


def _node(file: h5py.File, key: str) -> Any:
    """The group or dataset under a key; None if there is none. Links to elsewhere are refused, not followed."""
    node: Any = file
    for part in key.split("/"):
        link = node.get(part, getlink=True) if isinstance(node, h5py.Group) else None
        if link is None:
            return None
        if not isinstance(link, h5py.HardLink):
            raise Refused(f"'{key}' is a link and not data")
        node = node[part]
    if isinstance(node, h5py.Dataset) and (node.external or node.is_virtual):
        raise Refused(f"'{key}' takes its data from another file")
    return node


def _dataset(file: h5py.File, key: str) -> h5py.Dataset | None:
    node = _node(file, key)
    if node is not None and not isinstance(node, h5py.Dataset):
        raise Refused(f"'{key}' is not a dataset")
    if node is not None and node.dtype.kind != "O" and node.size * node.dtype.itemsize > LARGEST_EPISODE:
        raise Refused(f"'{key}' has shape {node.shape}, which is more than {LARGEST_EPISODE / 2**30:.0f} GiB")
    return node


def _floats(file: h5py.File, key: str, steps: int | None, width: int | None) -> np.ndarray:
    """A dataset as float32 (steps, width); a dataset (T,) counts as (T, 1)."""
    dataset = _dataset(file, key)
    if dataset is None:
        raise Refused(f"'{key}' is missing")
    shape = (*dataset.shape, 1) if dataset.ndim == 1 and width == 1 else dataset.shape
    if len(shape) != 2 or dataset.dtype.kind != "f" or (width is not None and shape[1] != width):
        raise Refused(f"'{key}' is {dataset.dtype} {dataset.shape}, expected float ({steps or 'T'}, {width or 'any'})")
    if shape[0] == 0:
        raise Refused(f"'{key}' has no steps")
    if steps is not None and shape[0] != steps:
        raise Refused(f"'{key}' has {shape[0]} steps, but 'action' has {steps}")
    with np.errstate(over="ignore"):  # a double too large for float32 becomes infinite, and is refused as such
        array = dataset[()].astype(np.float32).reshape(shape)
    if not np.isfinite(array).all():
        raise Refused(f"'{key}' is not finite at step {int(np.argwhere(~np.isfinite(array))[0][0])}")
    return array


def _optional(file: h5py.File, keys: tuple[str, ...], steps: int, width: int | None, notes: list[str]) -> np.ndarray:
    """The first of the datasets that is there; otherwise zeros, or no channels where any width would do."""
    for key in keys:
        if _node(file, key) is not None:
            return _floats(file, key, steps, width)
    notes.append(f"no '{keys[0]}'")
    return np.zeros((steps, width or 0), np.float32)


def _success(file: h5py.File, otherwise: bool) -> bool:
    value = file.attrs.get("success", otherwise)
    return bool(value) if isinstance(value, bool | np.bool_ | int | np.integer) else otherwise


def _images(file: h5py.File, steps: int, settings: ImportSettings, notes: list[str]) -> dict[str, np.ndarray]:
    group = _node(file, IMAGES)
    if group is not None and not isinstance(group, h5py.Group):
        raise Refused(f"'{IMAGES}' is not a group of cameras")
    found = tuple(group) if group is not None else ()
    wanted = found if settings.cameras is None else settings.cameras
    absent = [camera for camera in wanted if camera not in found]
    if absent:
        raise Refused(f"no pictures of {', '.join(absent)} (cameras: {', '.join(found) or 'none'})")
    if not wanted:
        notes.append("no pictures")
    return {camera: _pictures(file, camera, steps, settings) for camera in wanted}


def _pictures(file: h5py.File, camera: str, steps: int, settings: ImportSettings) -> np.ndarray:
    """Pictures of a camera, uint8 (T, H, W, 3)."""
    key = f"{IMAGES}/{camera}"
    dataset = _dataset(file, key)
    assert dataset is not None
    raw = dataset.ndim == 4 and dataset.dtype == np.uint8 and dataset.shape[3] == 3 and 0 not in dataset.shape
    padded = dataset.ndim == 2 and dataset.dtype == np.uint8
    varying = dataset.ndim == 1 and h5py.check_vlen_dtype(dataset.dtype) == np.uint8
    if not (raw or padded or varying):
        raise Refused(
            f"'{key}' is {dataset.dtype} {dataset.shape}, expected uint8 ({steps}, H, W, 3) or compressed pictures"
        )
    if len(dataset) != steps:
        raise Refused(f"'{key}' has {len(dataset)} steps, but 'action' has {steps}")
    pictures: np.ndarray | None = None
    for step in range(steps):
        if step % BLOCK == 0:
            block = dataset[step : step + BLOCK]
        picture = block[step % BLOCK]
        if not raw:
            picture = _decode(f"'{key}' at step {step}", picture, settings.jpeg_order)
        if settings.image_size is not None:
            picture = _resize(picture, settings.image_size)
        if pictures is None:
            if steps * picture.size > LARGEST_EPISODE:
                raise Refused(f"'{key}' unpacks to more than {LARGEST_EPISODE / 2**30:.0f} GiB")
            pictures = np.empty((steps, *picture.shape), np.uint8)
        if picture.shape != pictures.shape[1:]:
            raise Refused(f"'{key}' at step {step} has shape {picture.shape}, but {pictures.shape[1:]} before")
        pictures[step] = picture
    assert pictures is not None
    return pictures


def _decode(where: str, data: np.ndarray, order: str) -> np.ndarray:
    """A compressed picture as RGB, uint8 (H, W, 3)."""
    try:
        with Image.open(io.BytesIO(data.tobytes().rstrip(b"\0")), formats=("JPEG", "PNG")) as image:
            if max(image.size) > LARGEST_SIDE:
                raise Refused(f"{where} is {image.width}x{image.height} pixels, more than {LARGEST_SIDE} along a side")
            picture = np.asarray(image.convert("RGB"))
    except (OSError, ValueError, SyntaxError) as error:
        raise Refused(f"{where} is no picture in JPEG or PNG ({' '.join(str(error).split())})") from error
    return picture[..., ::-1] if order == "opencv" else picture


def _resize(picture: np.ndarray, size: int) -> np.ndarray:
    """The middle square, brought to `size` pixels along a side."""
    height, width = picture.shape[:2]
    side = min(height, width)
    top, left = (height - side) // 2, (width - side) // 2
    square = Image.fromarray(picture[top : top + side, left : left + side])
    return np.asarray(square if side == size else square.resize((size, size), Image.Resampling.BILINEAR))
