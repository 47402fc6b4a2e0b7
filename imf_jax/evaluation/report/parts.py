"""Parts of a report from the files beside the records. A missing or damaged file costs its part, never the page."""

import base64
import json
import zipfile
from collections.abc import Iterator, Sequence
from dataclasses import dataclass, field
from pathlib import Path, PurePosixPath
from typing import Any, NamedTuple
from urllib.parse import quote

import numpy as np
from markupsafe import Markup
from PIL import Image

from imf_jax.evaluation.manifest import folder_hash
from imf_jax.evaluation.report.charts import Series, line_chart, path_bounds, path_plot, range_bar, stage_strip
from imf_jax.evaluation.report.load import Evaluation
from imf_jax.files import TRAINING_METRICS, read_metrics
from imf_jax.images import encode_image, read_image
from imf_jax.rollout.episode import EpisodeRecord
from imf_jax.rollout.timing import TIMES, TIMING

TIMING_STAGES = TIMES
TIMING_FIGURES = ("count", "mean", "std", "min", "max", "p50", "p95")

THUMBNAIL_SIZE = 256
"""Largest side of a picture inside the page [pixels]."""

MAX_THUMBNAILS = 60
"""Pictures inside the page, at most; a page of hundreds of episodes must stay light."""

MAX_PATHS = 200
"""Episodes drawn in the path plots, at most."""

LOG_RATIO = 20.0
"""A loss that falls by more than this factor is drawn on a logarithmic axis."""

UNREADABLE = (OSError, ValueError, KeyError, EOFError, zipfile.BadZipFile, Image.DecompressionBombError)
"""Exceptions that reading a damaged picture or archive raises."""


class Link(NamedTuple):
    """Link to a file beside the page: its name for the reader, and its address (None if the file is not there)."""

    text: str
    address: str | None


@dataclass
class EpisodeRow:
    """Row of the table of episodes."""

    record: EpisodeRecord
    links: list[Link] = field(default_factory=list)
    picture: Link | None = None
    thumbnail: str | None = None
    reward: np.ndarray | None = None
    paths: tuple[np.ndarray, ...] | None = None
    strip: Markup | None = None


def episode_rows(evaluation: Evaluation, problems: list[str]) -> list[EpisodeRow]:
    """Rows of the table, with all that could be read for each; the rest is noted in `problems`."""
    rows = [_row(evaluation.folder, record, problems) for record in evaluation.records]
    # Episodes that did not succeed come first: they are looked at first.
    pictured = sorted((row for row in rows if row.picture), key=lambda row: row.record.status == "success")
    for row in pictured[:MAX_THUMBNAILS]:
        _embed(evaluation.folder / row.record.artifacts["path_image"], row, problems)
    longest = max((len(row.reward) for row in rows if row.reward is not None), default=0)
    for row in rows:
        if row.reward is not None:
            row.strip = stage_strip(row.reward, longest, evaluation.stages)
    return rows


def path_plots(rows: Sequence[EpisodeRow]) -> tuple[list[tuple[str, Markup]], int]:
    """Top views of all paths, those of successes and of the rest apart, and how many episodes they show."""
    drawn = [row for row in rows if row.paths is not None][:MAX_PATHS]
    if not drawn:
        return [], 0
    bounds = path_bounds([row.paths for row in drawn if row.paths])
    plots = []
    for name, success in (("successful", True), ("not successful", False)):
        paths = [row.paths for row in drawn if row.paths and (row.record.status == "success") == success]
        if not paths:
            continue
        title = f"{len(paths)} {name}"
        plots.append((title, path_plot(paths, bounds, f"Top view of the paths of {title} episodes")))
    return plots, len(drawn)


def timing_rows(folder: Path, problems: list[str]) -> list[dict[str, Any]]:
    """Rows of the stages of `timing.json`; none if there is no such file.

    Each has `name`, its figures [ms], `per_step` [ms] (None if it is missing) and a `bar`. Of a stage that could not
    be measured separately the bar is None, and there are no figures.
    """
    if not (folder / TIMING).exists():
        return []
    try:
        values = json.loads((folder / TIMING).read_text(encoding="utf-8"))
        steps = values.get("aggregates", {}).get("per_episode_step", {})
        figures = {
            name: values[name] and {key: float(values[name][key]) for key in TIMING_FIGURES}
            for name in TIMING_STAGES
            if name in values
        }
        per_step = {name: float(steps[name]["mean"]) if steps.get(name) else None for name in figures}
    except (OSError, ValueError, KeyError, TypeError, AttributeError) as error:
        problems.append(f"{TIMING} cannot be read ({type(error).__name__}: {error}); there is no timing chart")
        return []
    measured = [stage for stage in figures.values() if stage]
    # One outlier must not squeeze all other bars.
    usual = 1.5 * max((stage["p95"] for stage in measured), default=0.0)
    largest = min(usual, max((stage["max"] for stage in measured), default=0.0))
    return [
        {"name": name, **stage, "per_step": per_step[name], "bar": range_bar(stage, largest, _median(name, stage))}
        if stage
        else {"name": name, "bar": None}
        for name, stage in figures.items()
    ]


def _median(name: str, stage: dict[str, float]) -> str:
    return f"{name}: median {stage['p50']:.3g} ms"


def training_charts(evaluation: Evaluation, problems: list[str]) -> list[tuple[str, Markup]]:
    """Curves of the training run that made the checkpoint, if it still is where it was."""
    run = _run_folder(evaluation)
    try:
        lines = read_metrics(run) if run else []
    except (OSError, ValueError) as error:
        problems.append(
            f"{run}/{TRAINING_METRICS} cannot be read ({type(error).__name__}); there are no training curves"
        )
        lines = []
    step = _checkpoint(evaluation).get("step")
    mark = float(step) if isinstance(step, (int, float)) else None
    loss, success = _curve(lines, "loss"), _curve(lines, "validation/success", marked=True, scale=100)
    rate = _curve(lines, "learning_rate")
    positive = loss.y[loss.y > 0]
    log = len(positive) > 0 and positive.max() / positive.min() > LOG_RATIO
    axis = "training step"
    charts = [
        (
            "loss" + (" (logarithmic)" if log else ""),
            line_chart([loss], title="loss", x_label=axis, log=log, mark=mark),
        ),
        (
            "success in validation [%]",
            line_chart([success], title="success in validation", x_label=axis, y_range=(0, 100), mark=mark),
        ),
        ("learning rate", line_chart([rate], title="learning rate", x_label=axis, mark=mark)),
    ]
    return [(title, chart) for title, chart in charts if chart]


def _row(folder: Path, record: EpisodeRecord, problems: list[str]) -> EpisodeRow:
    row = EpisodeRow(record)
    for kind, name in record.artifacts.items():
        where = f"episode {record.episode}: {kind} {name}"
        if not _inside(name):
            problems.append(f"{where} lies outside of the evaluation folder and is left out")
            continue
        there = (folder / name).is_file()
        if not there:
            problems.append(f"{where} is missing")
        link = Link(kind.replace("_", " "), quote(name) if there else None)
        if kind == "path_image":
            row.picture = link if there else None
        row.links.append(link)
        if kind == "trajectory" and there:
            try:
                row.reward, row.paths = _trajectory(folder / name)
            except UNREADABLE as error:
                problems.append(f"{where} cannot be read ({type(error).__name__})")
    return row


def _inside(name: str) -> bool:
    """True for a relative path that does not leave its folder, and is no address with a scheme."""
    path = PurePosixPath(name)
    return bool(path.parts) and not path.is_absolute() and ".." not in path.parts and ":" not in path.parts[0]


def _trajectory(path: Path) -> tuple[np.ndarray, tuple[np.ndarray, ...]]:
    # Opened here, because numpy leaves damaged archives open.
    with open(path, "rb") as file, np.load(file, allow_pickle=False) as arrays:
        reward = np.asarray(arrays["reward"], np.float64).reshape(-1)
        executed = [name for name in arrays.files if name.startswith("executed_") and name.endswith("_pos")]
        paths = tuple(np.asarray(arrays[name], np.float64).reshape(-1, 3) for name in executed)
    return reward, paths


def _embed(path: Path, row: EpisodeRow, problems: list[str]) -> None:
    try:
        small = Image.fromarray(read_image(path))
        small.thumbnail((THUMBNAIL_SIZE, THUMBNAIL_SIZE), Image.Resampling.LANCZOS)
    except UNREADABLE as error:
        problems.append(f"episode {row.record.episode}: {path.name} cannot be read ({type(error).__name__})")
        row.picture = None
        return
    content = encode_image(np.asarray(small), ".jpeg", quality=82)
    row.thumbnail = f"data:image/jpeg;base64,{base64.b64encode(content).decode()}"


def _checkpoint(evaluation: Evaluation) -> dict[str, Any]:
    checkpoint = evaluation.manifest.get("checkpoint")
    return checkpoint if isinstance(checkpoint, dict) else {}


def _run_folder(evaluation: Evaluation) -> Path | None:
    """Run folder of the evaluated checkpoint, <run>/checkpoints/<step>, or of which this is a validation."""
    folder, checkpoint = evaluation.folder.resolve(), _checkpoint(evaluation)
    stored, sha256 = checkpoint.get("path"), checkpoint.get("sha256")
    if not isinstance(stored, str):  # of a validation the folder is <run>/validation/step_<n>
        return folder.parent.parent if (folder.parent.parent / TRAINING_METRICS).is_file() else None
    for path in _checkpoint_places(Path(stored), folder):
        run = path.parent.parent
        if not (run / TRAINING_METRICS).is_file():
            continue
        # Somewhere else there may be another run of that name.
        if str(path) == stored or sha256 is None or (path.is_dir() and folder_hash(path) == sha256):
            return run
    return None


def _checkpoint_places(stored: Path, folder: Path) -> Iterator[Path]:
    """Places at which a checkpoint may be now, most likely first.

    Args:
        stored: its path then, <run>/checkpoints/<step>. Manifests of older versions give it relative to the folder in
            which the evaluation was started.
        folder: the evaluation, absolute; it may have been moved together with the run.
    """
    if stored.is_absolute():
        yield stored
    parts = stored.parts[1:] if stored.is_absolute() else stored.parts
    longest_first = [Path(*parts[first:]) for first in range(max(1, len(parts) - 2))]
    for root in (*folder.parents, Path.cwd()):
        yield from (root / end for end in (longest_first if stored.is_absolute() else [stored]))


def _curve(lines: Sequence[dict[str, Any]], name: str, *, marked: bool = False, scale: float = 1.0) -> Series:
    points = [(line["step"], scale * line[name]) for line in lines if isinstance(line.get(name), (int, float))]
    x, y = np.array(points, np.float64).reshape(-1, 2).T
    return Series(name, x, y, marked)
