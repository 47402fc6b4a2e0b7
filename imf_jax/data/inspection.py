"""Inspection of a dataset: its content and its problems."""

from collections.abc import Iterator
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import numpy as np

from imf_jax.data.doctor import ActionLag, EntryRange, length_finding, rate_finding, timing_problems
from imf_jax.data.readers.base import DatasetReader, EpisodeInfo
from imf_jax.data.readers.recognise import open_reader
from imf_jax.data.selection import Selection, Steps, select
from imf_jax.data.statistics import Accumulator, compute_statistics, require_alike
from imf_jax.errors import EXIT_FAILED, EXIT_OK, UserError


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
        findings: what is legal but looks wrong, see `imf_jax.data.doctor`, one line each.
    """

    kind: str
    folder: Path
    hz: float | None
    num_bytes: int
    episodes: list[EpisodeSummary]
    ranges: dict[str, dict[str, Any]]
    problems: list[str]
    notes: list[str] = field(default_factory=list)
    findings: list[str] = field(default_factory=list)

    @property
    def sound(self) -> list[EpisodeSummary]:
        """Episodes without problems."""
        return [episode for episode in self.episodes if not episode.problems]

    @property
    def exit_code(self) -> int:
        """0 if nothing is wrong, otherwise 1; what only looks wrong does not count."""
        return EXIT_OK if self.sound and len(self.sound) == len(self.episodes) and not self.problems else EXIT_FAILED


def inspect_folder(folder: Path) -> Inspection:
    """Read all numbers of a dataset and three pictures of every camera and episode, and check them.

    Raises:
        UserError: there is no dataset, or its form is damaged.
    """
    reader = open_reader(folder)
    selection, checks = select(reader), _Checks(reader)
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
        where = reader.path / info.name
        if info.hz != first[0].hz:
            summary.problems.append(f"{where}: control_hz is {info.hz}, but {first[0].hz} in the first episode")
        summary.problems += _check_pictures(reader, index, info, summary)
        summary.problems += [f"{where}: {line}" for line in checks.timing(index, info)]
        if not summary.problems:
            checks.add(index, steps)
    if reader.fixed_size:
        _check_cameras(summaries)
    problems = reader.dataset_problems()
    if summaries and not any(summary.problems for summary in summaries):
        problems += _check_statistics(selection)
    found = {name: accumulator.result() for name, accumulator in checks.ranges.items()}
    hz = first[0].hz if first else None
    findings = checks.findings(summaries, hz, selection)
    return Inspection(reader.kind, folder, hz, _size(folder), summaries, found, problems, reader.notes(), findings)


class _Checks:
    """What is gathered of all sound episodes."""

    def __init__(self, reader: DatasetReader) -> None:
        self.ranges: dict[str, Accumulator] = {}
        self._reader = reader
        self._entries: dict[str, EntryRange] = {}
        self._lag, self._rates = ActionLag(), list[float]()
        self._absent: dict[str, int] = {}

    def timing(self, index: int, info: EpisodeInfo) -> list[str]:
        """Problems of the time stamps of an episode."""
        try:
            times = self._reader.timestamps(index)
        except UserError as error:
            return [str(error)]
        if times is None:
            return []
        problems, rate = timing_problems(times, info.hz)
        if rate is not None:
            self._rates.append(rate)
        return problems

    def add(self, index: int, steps: Steps) -> None:
        """Add the columns of an episode."""
        columns = self._reader.columns
        for name, values in self._read(index).items():
            if values.dtype.kind == "f" and np.isfinite(values).all() and values.shape[1] == len(columns[name].names):
                self.ranges.setdefault(name, Accumulator()).add(values)
                self._entries.setdefault(name, EntryRange(columns[name].names)).add(values)
        if steps.action.shape == steps.state.shape:
            self._lag.add(steps.action, steps.state)

    def _read(self, index: int) -> dict[str, np.ndarray]:
        """All columns of an episode, without those that it lacks: what the policy needs was read before."""
        names = self._reader.columns
        try:
            return self._reader.read(index, names)
        except UserError:
            found: dict[str, np.ndarray] = {}
        for name in names:
            try:
                found |= self._reader.read(index, [name])
            except UserError:
                self._absent[name] = self._absent.get(name, 0) + 1
        return found

    def findings(self, summaries: list[EpisodeSummary], hz: float | None, selection: Selection) -> list[str]:
        """What looks wrong, one line each."""
        found = length_finding([summary.name for summary in summaries], [summary.steps for summary in summaries])
        found += rate_finding(self._rates, hz)
        found += [f"{name}: not in {count} of {len(summaries)} episodes" for name, count in self._absent.items()]
        for role in ("action", "state"):
            for name in selection.columns[role]:
                found += self._entries[name].findings(name) if name in self._entries else []
        return found + (self._lag.findings(selection.names("action")) if self._lag.steps else [])


def _check_statistics(selection: Selection) -> list[str]:
    try:
        statistics = compute_statistics(selection.read(index) for index in range(len(selection.reader)))
        selection.reader.check_statistics(statistics)
    except UserError as error:
        return [str(error)]
    return []


def _check_pictures(reader: DatasetReader, index: int, info: EpisodeInfo, summary: EpisodeSummary) -> list[str]:
    """Sizes of the pictures of an episode; the first, the middle and the last one of each camera are decoded."""
    problems = []
    for camera in info.cameras:
        try:
            summary.cameras[camera] = reader.picture_size(index, camera)
            for step in sorted({0, info.steps // 2, info.steps - 1}):
                if not list(reader.pictures(index, camera, step, step + 1)):
                    raise UserError(f"{reader.path / info.name}: there is no picture of {camera!r} at step {step}")
        except UserError as error:
            problems.append(str(error))
    return problems


def _check_cameras(summaries: list[EpisodeSummary]) -> None:
    sound = [summary for summary in summaries if not summary.problems]
    for summary in sound[1:]:
        if summary.cameras != sound[0].cameras:
            summary.problems.append(f"{summary.name}: has other cameras or sizes of pictures than {sound[0].name}")


def _size(folder: Path) -> int:
    if folder.is_file():
        return folder.stat().st_size
    return sum(path.stat().st_size for path in _files(folder))


def _files(folder: Path) -> Iterator[Path]:
    return (path for path in folder.rglob("*") if path.is_file() and not path.is_symlink())
