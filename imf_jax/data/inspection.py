"""Inspection of a folder of demonstrations or a LeRobot dataset: its content and its problems."""

from collections.abc import Iterator
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any, Literal

import h5py
import numpy as np

from imf_jax.data.episodes import IMAGES, READ_ERRORS, list_episodes, read_episode
from imf_jax.data.statistics import COLUMNS, Accumulator, check_statistics, compute_statistics, require_alike
from imf_jax.data.success import read_label
from imf_jax.errors import EXIT_FAILED, EXIT_OK, EXIT_SOME_ERRORED, UserError, one_line
from imf_jax.files import read_failure

Kind = Literal["HDF5 demonstrations", "LeRobot dataset"]


@dataclass
class EpisodeSummary:
    """Summary of one episode.

    Attributes:
        name: of its file, or its number.
        task: what is done in it.
        steps: control steps; 0 if it cannot be read.
        success: whether it succeeded; None if it does not say.
        cameras: height and width of its pictures [pixels].
        problems: what is wrong with it, one line each.
    """

    name: str
    task: str = ""
    steps: int = 0
    success: bool | None = None
    cameras: dict[str, tuple[int, int]] = field(default_factory=dict)
    problems: list[str] = field(default_factory=list)


@dataclass
class Inspection:
    """Content and problems of a folder.

    Attributes:
        kind: what it holds.
        folder: where it is.
        hz: control steps per second; None if no episode can be read.
        num_bytes: size of all its files [bytes].
        episodes: in their order.
        ranges: array -> `min`, `max`, `mean`, `std`, one number per channel in its own unit, and `count`; over the
            episodes without problems.
        problems: of the folder as a whole, one line each.
        notes: what is not read or contradicts itself without harm, one line each.
    """

    kind: Kind
    folder: Path
    hz: float | None
    num_bytes: int
    episodes: list[EpisodeSummary]
    ranges: dict[str, dict[str, Any]]
    problems: list[str]
    notes: list[str] = field(default_factory=list)

    @property
    def sound(self) -> list[EpisodeSummary]:
        """Episodes without problems."""
        return [episode for episode in self.episodes if not episode.problems]

    @property
    def exit_code(self) -> int:
        """0 if nothing is wrong, 1 if no episode can be used, otherwise 3."""
        if not self.sound:
            return EXIT_FAILED
        return EXIT_OK if len(self.sound) == len(self.episodes) and not self.problems else EXIT_SOME_ERRORED


def holds_lerobot(folder: Path) -> bool:
    """Whether a folder is a LeRobot dataset; needs no library to tell."""
    return (folder / "meta" / "info.json").is_file()


def inspect_folder(folder: Path) -> Inspection:
    """Read everything but the pictures of a folder, and check it.

    Raises:
        UserError: it holds neither demonstrations nor a LeRobot dataset, or its form is damaged.
    """
    return _inspect_lerobot(folder) if holds_lerobot(folder) else _inspect_hdf5(folder)


def _inspect_hdf5(folder: Path) -> Inspection:
    hz, alike, ranges = None, None, {key: Accumulator() for key in COLUMNS}
    summaries = []
    for path in list_episodes(folder):
        summary = EpisodeSummary(path.name)
        summaries.append(summary)
        try:
            episode = read_episode(path)
            summary.task, summary.steps, summary.success = episode.task, len(episode), episode.success
            alike = alike or (episode.task, episode.env_state.shape[1])
            require_alike(episode, *alike)
        except UserError as error:
            summary.problems.append(str(error))
            continue
        hz = hz or episode.control_hz
        if episode.control_hz != hz:
            summary.problems.append(f"{path}: control_hz is {episode.control_hz}, but {hz} in the first episode")
        summary.problems += _check_pictures(path, summary)
        if not summary.problems:
            for key, accumulator in ranges.items():
                accumulator.add(getattr(episode, COLUMNS[key]))
    _check_cameras(summaries)
    problems = []
    try:
        if summaries and not any(summary.problems for summary in summaries):
            check_statistics(folder, compute_statistics(read_episode(path) for path in list_episodes(folder)))
    except UserError as error:
        problems.append(str(error))
    found = {key: accumulator.result() for key, accumulator in ranges.items() if accumulator.count}
    return Inspection("HDF5 demonstrations", folder, hz, _size(folder), summaries, found, problems)


def _check_pictures(path: Path, summary: EpisodeSummary) -> list[str]:
    """Sizes of the pictures of a file; they are not read but for the first and last of each camera."""
    problems = []
    try:
        with h5py.File(path, "r") as file:
            for camera, data in file.get(IMAGES, {}).items():
                if data.dtype != "uint8" or data.ndim != 4 or len(data) != summary.steps or data.shape[3] != 3:
                    wanted = f"expected uint8 ({summary.steps}, H, W, 3)"
                    problems.append(f"{path}: pictures of {camera!r} are {data.dtype} {data.shape}, {wanted}")
                    continue
                summary.cameras[camera] = data.shape[1:3]
                for step in (0, -1):
                    data[step]
    except READ_ERRORS as error:
        problems.append(str(read_failure(path, error, f"pictures cannot be read ({one_line(error)})")))
    return problems


def _check_cameras(summaries: list[EpisodeSummary]) -> None:
    sound = [summary for summary in summaries if not summary.problems]
    for summary in sound[1:]:
        if summary.cameras != sound[0].cameras:
            summary.problems.append(f"{summary.name}: has other cameras or sizes of pictures than {sound[0].name}")


def _inspect_lerobot(folder: Path) -> Inspection:
    from imf_jax.data.lerobot.features import IMAGES as PREFIX
    from imf_jax.data.lerobot.reader import TIMESTAMP, TOLERANCE, open_dataset

    dataset = open_dataset(folder)
    ranges: dict[str, Accumulator] = {}
    summaries, off_rate = [], []
    for episode in dataset.episodes:
        summary = EpisodeSummary(f"episode {episode.index}", ", ".join(episode.tasks), episode.length)
        summary.cameras = {name.removeprefix(PREFIX): dataset.features[name].shape[:2] for name in dataset.cameras}  # type: ignore[misc]
        summary.problems = dataset.problems(episode)
        summaries.append(summary)
        if summary.problems:
            continue
        columns = dataset.columns(episode)
        if TIMESTAMP in columns:
            late = columns[TIMESTAMP][:, 0] - columns[TIMESTAMP][0, 0] - np.arange(episode.length) / dataset.fps
            if np.abs(late).max() > TOLERANCE / dataset.fps:
                off_rate.append(episode.index)
        for name in ("success", "next.success"):
            if name in columns and summary.success is None:
                summary.success = read_label(columns[name])
        for name, values in columns.items():
            if values.dtype.kind == "f" and name != TIMESTAMP:
                ranges.setdefault(name, Accumulator()).add(values)
    notes = [f"not supported and left out: {name}, {what}" for name, what in dataset.left_out.items()]
    if off_rate:
        notes.append(
            f"info.json says {dataset.fps:g} frames per second, but the time stamps of {len(off_rate)} episodes are "
            f"others (the first: episode {off_rate[0]})"
        )
    if cut := sum(episode.cut for episode in dataset.episodes):
        notes.append(f"{cut} of {len(dataset.episodes)} episodes are cut: they end before what they hold was over")
    problems = []
    if dataset.total_episodes != len(dataset.episodes):
        problems.append(
            f"info.json counts {dataset.total_episodes} episodes, there are {len(dataset.episodes)}; "
            "a recording was cut off, resuming it counts them again"
        )
    if not dataset.episodes:
        problems.append("the dataset has no episode")
    found = {name: accumulator.result() for name, accumulator in ranges.items()}
    return Inspection("LeRobot dataset", folder, float(dataset.fps), _size(folder), summaries, found, problems, notes)


def _size(folder: Path) -> int:
    return sum(path.stat().st_size for path in _files(folder))


def _files(folder: Path) -> Iterator[Path]:
    return (path for path in folder.rglob("*") if path.is_file() and not path.is_symlink())
