"""Playback of the pictures of an episode, as a contact sheet or a video."""

from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass
from pathlib import Path

import h5py
import numpy as np
from PIL import Image, ImageDraw, ImageFont

from imf_jax.config import require
from imf_jax.data.episodes import IMAGES, READ_ERRORS, list_episodes, read_episode
from imf_jax.data.inspection import holds_lerobot
from imf_jax.errors import ArgumentError, UserError, one_line
from imf_jax.files import atomic_write, read_failure
from imf_jax.images import encode_image

CELL_HEIGHT = 160
"""Height of a picture on a contact sheet [pixels]."""

MARGIN, LINE = 6, 18
BACKGROUND, INK = (250, 250, 250), (20, 20, 20)


@dataclass(frozen=True)
class PlayableEpisode:
    """An episode with pictures.

    Attributes:
        title: a line that says what it is.
        steps: its control steps, one picture of each camera per step.
        hz: control steps per second.
        cameras: names.
        pictures: camera and increasing steps -> pictures, uint8 (H, W, 3) each.
    """

    title: str
    steps: int
    hz: float
    cameras: tuple[str, ...]
    pictures: Callable[[str, Sequence[int]], Iterator[np.ndarray]]


def open_episode(folder: Path, place: int) -> PlayableEpisode:
    """Open an episode of a folder of demonstrations or of a LeRobot dataset.

    Args:
        folder: where.
        place: counted from 0 in the order of the folder.

    Raises:
        ArgumentError: there is no such episode.
        UserError: it has no pictures, or cannot be read.
    """
    episode = _open_lerobot(folder, place) if holds_lerobot(folder) else _open_hdf5(folder, place)
    if not episode.cameras:
        raise UserError(f"{folder}: {episode.title} has no pictures; collect with --cameras to have some")
    return episode


def contact_sheet(episode: PlayableEpisode, columns: int) -> bytes:
    """A PNG: one row per camera, pictures evenly spread over the episode, the first and the last among them.

    Args:
        episode: what to show.
        columns: pictures of each camera, at most; at least 2.
    """
    steps = np.unique(np.linspace(0, episode.steps - 1, columns).round().astype(int)).tolist()
    rows = [[_fit(picture, CELL_HEIGHT) for picture in episode.pictures(c, steps)] for c in episode.cameras]
    widths = [max(picture.width for picture in row) for row in rows]
    width = max(len(steps) * (w + MARGIN) for w in widths) + MARGIN
    height = 2 * LINE + len(rows) * (CELL_HEIGHT + LINE + MARGIN) + MARGIN
    font = ImageFont.load_default(12)
    title = f"{episode.title}, {episode.steps} steps at {episode.hz:g} Hz"
    sheet = Image.new("RGB", (max(width, int(font.getlength(title)) + 2 * MARGIN), height), BACKGROUND)
    draw = ImageDraw.Draw(sheet)
    draw.text((MARGIN, MARGIN), title, INK, font)
    top = 2 * LINE
    for camera, row, cell in zip(episode.cameras, rows, widths, strict=True):
        for column, (step, picture) in enumerate(zip(steps, row, strict=True)):
            left = MARGIN + column * (cell + MARGIN)
            label = f"{camera}  {step / episode.hz:.2f} s" if column == 0 else f"{step / episode.hz:.2f} s"
            draw.text((left, top), label, INK, font)
            sheet.paste(picture, (left, top + LINE))
        top += CELL_HEIGHT + LINE + MARGIN
    return encode_image(np.asarray(sheet))


def write_video(path: Path, episode: PlayableEpisode) -> None:
    """Write an MP4 with the cameras side by side, in real time; the file appears when it is whole.

    Raises:
        UserError: pictures cannot be read, or the file cannot be written.
    """
    from imf_jax.video import VideoEncoder

    all_steps = range(episode.steps)
    streams = [episode.pictures(camera, all_steps) for camera in episode.cameras]
    encoder = None
    with atomic_write(path) as partial:
        for views in zip(*streams, strict=True):
            tallest = max(16, *(view.shape[0] for view in views))
            joined = np.concatenate([np.asarray(_fit(view, tallest + tallest % 2)) for view in views], axis=1)
            joined = np.pad(joined, ((0, 0), (0, joined.shape[1] % 2), (0, 0)))
            height, width = joined.shape[:2]
            encoder = encoder or VideoEncoder(partial, height, width, episode.hz)
            encoder.add(joined)
        assert encoder is not None
        encoder.close()


def _fit(picture: np.ndarray, height: int) -> Image.Image:
    image = Image.fromarray(np.ascontiguousarray(picture))
    if image.height == height:
        return image
    return image.resize((max(1, round(image.width * height / image.height)), height), Image.Resampling.BILINEAR)


def _open_hdf5(folder: Path, place: int) -> PlayableEpisode:
    paths = list_episodes(folder)
    _require_place(folder, place, len(paths))
    path = paths[place]
    episode = read_episode(path)

    def pictures(camera: str, steps: Sequence[int]) -> Iterator[np.ndarray]:
        try:
            with h5py.File(path, "r") as file:
                data = file[f"{IMAGES}/{camera}"]
                for step in steps:
                    yield data[step]
        except READ_ERRORS as error:
            damage = f"pictures of {camera!r} cannot be read ({one_line(error)}); remove the file"
            raise read_failure(path, error, damage) from error

    try:
        with h5py.File(path, "r") as file:
            cameras = tuple(file.get(IMAGES, {}))
    except READ_ERRORS as error:
        raise read_failure(path, error, f"pictures cannot be read ({one_line(error)}); remove the file") from error
    title = f"{path.name}, {episode.task}, {'success' if episode.success else 'failure'}"
    return PlayableEpisode(title, len(episode), episode.control_hz, cameras, pictures)


def _open_lerobot(folder: Path, place: int) -> PlayableEpisode:
    from imf_jax.data.lerobot.features import IMAGES as PREFIX
    from imf_jax.data.lerobot.reader import open_dataset

    dataset = open_dataset(folder)
    _require_place(folder, place, len(dataset.episodes))
    episode = dataset.episodes[place]
    features = {name.removeprefix(PREFIX): name for name in dataset.cameras}

    def pictures(camera: str, steps: Sequence[int]) -> Iterator[np.ndarray]:
        wanted = iter(steps)
        step = next(wanted, None)
        for index, picture in enumerate(dataset.pictures(episode, features[camera])):
            if step is None:
                return
            if index == step:
                yield picture
                step = next(wanted, None)

    title = f"{folder.name}, episode {episode.index}, {', '.join(episode.tasks)}"
    return PlayableEpisode(title, episode.length, float(dataset.fps), tuple(features), pictures)


def _require_place(folder: Path, place: int, count: int) -> None:
    if count == 0:
        raise ArgumentError(f"{folder} has no episode")
    require(0 <= place < count, f"--episode {place} must be in [0, {count - 1}], the episodes of {folder}")
