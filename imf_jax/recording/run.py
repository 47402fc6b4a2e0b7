"""Run of a recording strategy, from the flags to the log in its dataset."""

import contextlib
import itertools
import json
from collections.abc import Callable, Iterator, Sequence
from pathlib import Path
from typing import Any

import numpy as np

from imf_jax.config import to_dict
from imf_jax.config.recording import SCENES, RolloutConfig
from imf_jax.errors import UserError
from imf_jax.evaluation.manifest import build_manifest
from imf_jax.recording.base import Strategy
from imf_jax.recording.session import Session, StrategySummary

BLOCK_SCENES = 2**16
"""Scenes of one loop; a run without an end is a sequence of such loops."""

LOG = "meta/rollouts.jsonl"
"""Log in a dataset, one line per run that recorded into it: policy, settings and results."""


def run_strategy(
    config: RolloutConfig,
    *,
    should_stop: Callable[[], bool] = lambda: False,
    on_note: Callable[[str], None] = lambda line: None,
    show_progress: bool = False,
) -> StrategySummary:
    """Run the strategy that the flags name, except for rounds; see `imf_jax.recording.rounds`.

    Args:
        config: the flags.
        should_stop: asked before every plan; True ends the run early.
        on_note: receives lines for the user.
        show_progress: show a progress bar.
    """
    session = Session(config)
    if config.strategy == "base":
        total = config.episodes or SCENES
        return session.run(
            Strategy(),
            session.policy.planner,
            iter([range(total)]),
            total=total,
            should_stop=should_stop,
            show_progress=show_progress,
        )
    from imf_jax.recording.assembly import corrected, make_strategy, open_recording

    recording, known = open_recording(session, on_note)
    with recording.writer as writer:
        strategy = make_strategy(session, recording)
        planner = session.policy.planner
        if config.strategy == "dagger":
            planner = corrected(session, planner, round_number=1)
        before = writer.num_frames
        rows, wanted = wanted_scenes(config, known)
        try:
            if wanted == 0:
                on_note(f"all {config.episodes or SCENES} scenes are in the dataset already")
                return StrategySummary(complete=True)
            summary = session.run(
                strategy, planner, rows, total=wanted, should_stop=should_stop, show_progress=show_progress
            )
        finally:
            strategy.finish()
        summary.failed, summary.frames = strategy.failed, writer.num_frames - before
        on_note(f"{writer.num_episodes} episodes, {writer.num_frames} frames in {writer.folder}")
        if recording.num_cut:
            on_note(f"{recording.num_cut} episodes of this run are cut, see the column cut of meta/episodes")
        if strategy.failed is None:
            log_run(session, summary, writer.folder)
    return summary


def wanted_scenes(config: RolloutConfig, known: set[int]) -> tuple[Iterator[Sequence[int]], int | None]:
    """List the scenes to run, a sequence for each loop, and their number (None without an end).

    Args:
        config: the flags.
        known: scenes of which the dataset holds frames. Episodic recordings complete them to the requested number;
            others, which may hold parts of a scene, go on after the last one.
    """
    if config.strategy == "episodic":
        missing = [scene for scene in range(config.episodes or SCENES) if scene not in known]
        return iter([missing]), len(missing)
    first = max(known, default=-1) + 1
    if config.strategy == "sentry" and config.episodes is None:
        return (range(start, start + BLOCK_SCENES) for start in itertools.count(first, BLOCK_SCENES)), None
    count = config.episodes or SCENES
    return iter([range(first, first + count)]), count


def log_run(session: Session, summary: StrategySummary, folder: Path) -> None:
    """Append the policy, settings and results of a run to the log of its dataset."""
    records = summary.records
    line = build_manifest(
        policy=session.policy.label,
        task=session.policy.task,
        backend=session.backend.name,
        seeds={"split": "recording", "seed": session.config.seed},
        config=to_dict(session.config),
        **session.policy.provenance,
        n_episodes=len(records),
        n_success=sum(record.status == "success" for record in records),
        control_steps=summary.control_steps,
    )
    try:
        with (folder / LOG).open("a", encoding="utf-8") as file:
            file.write(json.dumps(line, default=_plain) + "\n")
    except OSError as error:
        raise UserError(f"cannot write {folder / LOG} ({error.strerror}); the episodes are whole") from None


def logged_runs(folder: Path) -> list[dict[str, Any]]:
    """Read the lines of the log of a dataset; one that was cut off by a kill is left out."""
    runs = []
    for line in (folder / LOG).read_text(encoding="utf-8").splitlines() if (folder / LOG).is_file() else ():
        with contextlib.suppress(json.JSONDecodeError):
            runs.append(json.loads(line))
    return runs


def _plain(value: Any) -> Any:
    return value.item() if isinstance(value, np.generic) else str(value)
