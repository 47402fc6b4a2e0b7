"""Frames per second that a LeRobot dataset is read with, beside LeRobot's own loader in an environment of its own.

Both read the same files: in their order, each frame once, and shuffled, as training draws them. Shuffled frames come
from the cache of resized pictures here, which is made in the first pass, not counted; LeRobot decodes each.
"""

import statistics
import subprocess
import tempfile
import time
from dataclasses import dataclass
from pathlib import Path

import numpy as np

from imf_jax.data.lerobot.features import Feature, picture_feature
from imf_jax.data.lerobot.writer import LeRobotWriter
from imf_jax.data.picture_cache import cached_pictures
from imf_jax.data.pictures import find_pictures
from imf_jax.data.readers.recognise import open_reader
from imf_jax.errors import UserError

FPS, DIM, CAMERA = 30, 14, "front"

PEER = """
import sys, time, numpy as np
from lerobot.datasets.lerobot_dataset import LeRobotDataset
dataset = LeRobotDataset("local/reading", root=sys.argv[1], video_backend="pyav")
print("ready", flush=True)
for line in sys.stdin:
    count = len(dataset)
    order = range(count) if line.strip() == "in order" else np.random.default_rng(0).integers(0, count, count).tolist()
    begun = time.perf_counter()
    for index in order:
        dataset[index]
    print(time.perf_counter() - begun, flush=True)
"""
"""Program of the other side: answers each line of its input with the seconds that a pass took."""


@dataclass(frozen=True)
class ReadingSpeed:
    """Speed of a kind of pass over a dataset.

    Attributes:
        order: in which frames are read.
        frames: of a pass, each a picture, a state and an action.
        imf_jax: frames per second, median of the rounds.
        lerobot: likewise; None where it was not measured.
        ratio: median of imf_jax / lerobot within a round.
    """

    order: str
    frames: int
    imf_jax: float
    lerobot: float | None
    ratio: float | None


def measure(
    *, episodes: int, steps: int, height: int, width: int, rounds: int, peer: Path | None = None
) -> list[ReadingSpeed]:
    """Write a dataset of videos and read it in turns.

    Args:
        episodes: of the dataset.
        steps: of each.
        height: of its pictures [pixels].
        width: likewise.
        rounds: passes of each kind and side; one more is made before and not counted.
        peer: Python of an environment with lerobot, such as that of `make lerobot-check`.

    Raises:
        UserError: LeRobot cannot be started there.
    """
    with tempfile.TemporaryDirectory() as scratch:
        folder = Path(scratch) / "reading"
        write_dataset(folder, episodes, steps, height, width)
        process = None if peer is None else _start(peer, folder)
        try:
            return [_measure(folder, order, rounds, min(height, width), process) for order in ("in order", "shuffled")]
        finally:
            if process is not None:
                process.kill()
                process.communicate()


def write_dataset(folder: Path, episodes: int, steps: int, height: int, width: int) -> None:
    """Write episodes of a moving gradient with one camera."""
    names = tuple(f"joint{n}" for n in range(DIM))
    vector = Feature("float32", (DIM,), names)
    features = {
        "observation.state": vector, "action": vector, f"observation.images.{CAMERA}": picture_feature(height, width),
    }  # fmt: skip
    rows, columns = np.mgrid[:height, :width]
    with LeRobotWriter.create(folder, features, FPS, robot_type="benchmark") as writer:
        for number in range(episodes):
            frames = []
            for step in range(steps):
                picture = np.stack([rows + step, columns + number, rows], axis=-1).astype(np.uint8)
                values = np.full(DIM, step)
                images = {f"observation.images.{CAMERA}": picture}
                frames.append({"observation.state": values, "action": values, **images})
            writer.add_episode("read", frames)


def _measure(folder: Path, order: str, rounds: int, size: int, process: subprocess.Popen[str] | None) -> ReadingSpeed:
    pairs = []
    frames = 0
    for _ in range(rounds + 1):
        begun = time.perf_counter()
        frames = _in_order(folder) if order == "in order" else _shuffled(folder, size)
        seconds = time.perf_counter() - begun
        pairs.append((seconds, None if process is None else _pass(process, order)))
    ours = frames / statistics.median(seconds for seconds, _ in pairs[1:])
    others = [other for _, other in pairs[1:] if other is not None]
    if not others:
        return ReadingSpeed(order, frames, ours, None, None)
    ratio = statistics.median(other / seconds for seconds, other in pairs[1:] if other is not None)
    return ReadingSpeed(order, frames, ours, frames / statistics.median(others), ratio)


def _in_order(folder: Path) -> int:
    reader, frames = open_reader(folder), 0
    for index in range(len(reader)):
        reader.read(index, ("observation.state", "action"))
        frames += sum(1 for _ in reader.pictures(index, CAMERA))
    return frames


def _shuffled(folder: Path, size: int) -> int:
    reader = open_reader(folder)
    columns = [reader.read(index, ("observation.state", "action")) for index in range(len(reader))]
    state = np.concatenate([values["observation.state"] for values in columns])
    stored, _ = cached_pictures(find_pictures(folder, (CAMERA,), size))
    rows = np.random.default_rng(0).integers(0, len(state), len(state))
    for row in rows:
        stored[row]
        state[row]
    return len(rows)


def _start(peer: Path, folder: Path) -> subprocess.Popen[str]:
    try:
        process = subprocess.Popen(
            [str(peer), "-c", PEER, str(folder)], stdin=subprocess.PIPE, stdout=subprocess.PIPE, text=True
        )
    except OSError as error:
        raise UserError(f"--peer {peer} cannot be started ({error.strerror}); make lerobot-check makes one") from None
    assert process.stdout is not None
    if process.stdout.readline().strip() != "ready":
        process.communicate()
        raise UserError(f"--peer {peer} cannot open a dataset with lerobot; make lerobot-check makes one that can")
    return process


def _pass(process: subprocess.Popen[str], order: str) -> float:
    assert process.stdin is not None
    assert process.stdout is not None
    process.stdin.write(f"{order}\n")
    process.stdin.flush()
    answer = process.stdout.readline()
    if not answer:
        raise UserError("LeRobot's loader ended before its pass; its message is above")
    return float(answer)
