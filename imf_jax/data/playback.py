"""Playback of the pictures of an episode, as a contact sheet or a video."""

from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path

import numpy as np
from PIL import Image, ImageDraw, ImageFont

from imf_jax.config import require
from imf_jax.data.readers.base import DatasetReader
from imf_jax.data.readers.recognise import open_reader
from imf_jax.errors import ArgumentError, UserError
from imf_jax.files import atomic_write
from imf_jax.images import encode_image

CELL_HEIGHT = 160
"""Height of a picture on a contact sheet [pixels]."""

DEFAULT_HZ = 50.0
"""Speed at which episodes are played that do not state theirs [Hz]."""

MARGIN, LINE = 6, 18
BACKGROUND, INK = (250, 250, 250), (20, 20, 20)


@dataclass(frozen=True)
class PlayableEpisode:
    """An episode of a dataset.

    Attributes:
        title: a line that says what it is.
        steps: its control steps, one picture of each camera per step.
        hz: control steps per second.
        cameras: names.
        reader: its dataset.
        place: in the dataset.
    """

    title: str
    steps: int
    hz: float
    cameras: tuple[str, ...]
    reader: DatasetReader
    place: int

    def pictures(self, camera: str, start: int = 0, stop: int | None = None) -> Iterator[np.ndarray]:
        """Pictures of the steps start .. stop - 1, uint8 (H, W, 3) each."""
        return self.reader.pictures(self.place, camera, start, stop)


def open_episode(folder: Path, place: int) -> PlayableEpisode:
    """Open an episode of a dataset.

    Args:
        folder: where.
        place: counted from 0 in the order of the dataset.

    Raises:
        ArgumentError: there is no such episode.
        UserError: it has no pictures, or cannot be read.
    """
    episode = find_episode(open_reader(folder), place)
    if not episode.cameras:
        raise UserError(f"{folder}: {episode.title} has no pictures; collect with --cameras to have some")
    return episode


def find_episode(reader: DatasetReader, place: int) -> PlayableEpisode:
    """Find an episode of an opened dataset, which need not have pictures; see `open_episode`."""
    if len(reader) == 0:
        raise ArgumentError(f"{reader.path} has no episode")
    require(
        0 <= place < len(reader), f"--episode {place} must be in [0, {len(reader) - 1}], the episodes of {reader.path}"
    )
    info = reader.info(place)
    outcome = () if info.success is None else ("success" if info.success else "failure",)
    title = ", ".join((info.name, *info.tasks, *outcome))
    return PlayableEpisode(title, info.steps, info.hz or DEFAULT_HZ, info.cameras, reader, place)


def contact_sheet(episode: PlayableEpisode, columns: int) -> bytes:
    """A PNG: one row per camera, pictures evenly spread over the episode, the first and the last among them.

    Args:
        episode: what to show.
        columns: pictures of each camera, at most; at least 2.
    """
    steps = np.unique(np.linspace(0, episode.steps - 1, columns).round().astype(int)).tolist()
    rows = [[_fit(next(episode.pictures(c, n, n + 1)), CELL_HEIGHT) for n in steps] for c in episode.cameras]
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

    streams = [episode.pictures(camera) for camera in episode.cameras]
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
