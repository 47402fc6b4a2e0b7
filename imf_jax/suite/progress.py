"""Progress of a suite's runs, as their folders tell it: nothing that could be lost with the suite's own files."""

import json
from collections.abc import Mapping
from pathlib import Path
from typing import Any, NamedTuple

from imf_jax.checkpoints import newest_checkpoint
from imf_jax.errors import UserError
from imf_jax.evaluation.folder import METRICS, RECORDS
from imf_jax.evaluation.jobs import JOB, job_name
from imf_jax.files import TRAINING_METRICS, read_json
from imf_jax.suite.runs import Run
from imf_jax.training.trackers import SUMMARY, TRACKING

TAIL = 65536
"""Bytes of a log in which its last lines are looked for."""


class RunProgress(NamedTuple):
    """Progress of a run: steps, demonstrations or episodes, and steps per second where the run says so."""

    done: int
    rate: float | None = None


def progress_of(run: Run) -> RunProgress:
    """How far a run is."""
    if run.kind == "training":
        return _training_progress(run.folder)
    if run.kind == "demonstrations":
        return RunProgress(sum(1 for _ in run.folder.glob("episode_*.hdf5")))
    if run.kind == "evaluation":
        return RunProgress(sum(_num_lines(path) for path in run.folder.glob(f"*/{RECORDS}")))
    return RunProgress(0)


def is_finished(run: Run) -> bool:
    """Whether all that a run should leave is there; never of cached features, which cost little to look for."""
    if run.kind == "training":
        newest = newest_checkpoint(run.folder)
        ended = read_if_there(run.folder / SUMMARY).get("status") == "done"
        return ended and newest is not None and int(newest.name) == run.total
    if run.kind == "demonstrations":
        return (run.folder / "stats.json").is_file() and progress_of(run).done >= run.total
    if run.kind == "evaluation":
        return all(is_evaluated(folder, job["episodes"]) for job in run.jobs for folder in job_folders(run.folder, job))
    return False


def job_folders(folder: Path, job: Mapping[str, Any]) -> list[Path]:
    """Folders of the evaluations of a job, one per seed of the scenes."""
    seeds = job["seeds"]
    return [folder / job_name(job["name"], seed, seeds) for seed in seeds]


def is_evaluated(folder: Path, episodes: int) -> bool:
    """Whether an evaluation is complete; episodes that ended in an error are, too."""
    metrics = read_if_there(folder / METRICS)
    return metrics.get("n_episodes") == episodes and not metrics.get("interrupted")


def tracker_links(run: Run) -> dict[str, str]:
    """Where trackers show a training run."""
    addresses = read_if_there(run.folder / TRACKING).get("addresses")
    return addresses if run.kind == "training" and isinstance(addresses, dict) else {}


def failure_lines(run: Run, log: Path, count: int = 3) -> list[str]:
    """What a failed run said last; of an evaluation the reasons that its jobs left."""
    reasons = []
    for path in sorted(run.folder.glob(f"*/{JOB}")) if run.kind == "evaluation" else ():
        content = read_if_there(path)
        if content.get("status") == "failed":
            reasons.append(f"{content.get('name')}: {content.get('reason')}")
    return reasons[:count] or last_lines(log, count)


def last_lines(log: Path, count: int) -> list[str]:
    """The last lines of a log that are not empty; none if there is no such file."""
    lines = [line.strip() for line in _tail(log).splitlines()]
    return [line for line in lines if line][-count:]


def read_if_there(path: Path) -> dict[str, Any]:
    """A JSON object; empty if there is none, or it cannot be read."""
    try:
        return read_json(path)
    except UserError:
        return {}


def _training_progress(folder: Path) -> RunProgress:
    step, rate = 0, None
    for line in _tail(folder / TRAINING_METRICS).splitlines():
        try:
            values = json.loads(line)
        except ValueError:
            continue
        if isinstance(values, dict) and isinstance(values.get("step"), int):
            step, rate = values["step"], values.get("steps_per_s", rate)
    return RunProgress(step, rate)


def _tail(path: Path) -> str:
    try:
        with path.open("rb") as file:
            file.seek(max(0, path.stat().st_size - TAIL))
            return file.read().decode(errors="replace")
    except OSError:
        return ""


def _num_lines(path: Path) -> int:
    try:
        return path.read_bytes().count(b"\n")
    except OSError:
        return 0
