"""Inspection of a dataset: its content and its problems."""

from collections.abc import Iterator
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from imf_jax.data.readers.base import DatasetReader, EpisodeInfo
from imf_jax.data.readers.recognise import open_reader
from imf_jax.data.selection import Selection, Steps, select
from imf_jax.data.statistics import Accumulator, compute_statistics, require_alike
from imf_jax.errors import EXIT_FAILED, EXIT_OK, EXIT_SOME_ERRORED, UserError


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

    kind: str
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


def inspect_folder(folder: Path) -> Inspection:
    """Read everything but the pictures of a dataset, and check it.

    Raises:
        UserError: there is no dataset, or its form is damaged.
    """
    reader = open_reader(folder)
    selection = select(reader)
    ranges: dict[str, Accumulator] = {}
    summaries: list[EpisodeSummary] = []
    first: tuple[EpisodeInfo, Steps] | None = None
    for index in range(len(reader)):
        summary = EpisodeSummary(f"episode {index}")
        summaries.append(summary)
        try:
            info = reader.info(index)
            summary.name, summary.task, summary.steps = info.name, ", ".join(info.tasks), info.steps
            summary.success = info.success
            summary.problems += reader.problems(index)
            if summary.problems:
                continue
            steps = selection.read(index, info)
            first = first or (info, steps)
            require_alike(steps, first[1].task, first[1].env_state.shape[1])
        except UserError as error:
            summary.problems.append(str(error))
            continue
        if info.hz != first[0].hz:
            where = reader.path / info.name
            summary.problems.append(f"{where}: control_hz is {info.hz}, but {first[0].hz} in the first episode")
        summary.problems += _check_pictures(reader, index, info, summary)
        if not summary.problems:
            for name, values in reader.read(index, reader.columns).items():
                if values.dtype.kind == "f":
                    ranges.setdefault(name, Accumulator()).add(values)
    _check_cameras(summaries)
    problems = reader.dataset_problems()
    if summaries and not any(summary.problems for summary in summaries):
        problems += _check_statistics(selection)
    found = {name: accumulator.result() for name, accumulator in ranges.items()}
    hz = first[0].hz if first else None
    return Inspection(reader.kind, folder, hz, _size(folder), summaries, found, problems, reader.notes())


def _check_statistics(selection: Selection) -> list[str]:
    try:
        statistics = compute_statistics(selection.read(index) for index in range(len(selection.reader)))
        selection.reader.check_statistics(statistics)
    except UserError as error:
        return [str(error)]
    return []


def _check_pictures(reader: DatasetReader, index: int, info: EpisodeInfo, summary: EpisodeSummary) -> list[str]:
    """Sizes of the pictures of an episode."""
    problems = []
    for camera in info.cameras:
        try:
            summary.cameras[camera] = reader.picture_size(index, camera)
        except UserError as error:
            problems.append(str(error))
    return problems


def _check_cameras(summaries: list[EpisodeSummary]) -> None:
    sound = [summary for summary in summaries if not summary.problems]
    for summary in sound[1:]:
        if summary.cameras != sound[0].cameras:
            summary.problems.append(f"{summary.name}: has other cameras or sizes of pictures than {sound[0].name}")


def _size(folder: Path) -> int:
    return sum(path.stat().st_size for path in _files(folder))


def _files(folder: Path) -> Iterator[Path]:
    return (path for path in folder.rglob("*") if path.is_file() and not path.is_symlink())
