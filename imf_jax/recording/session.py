"""One run of a strategy from its flags to its last frame."""

import contextlib
import itertools
import json
import time
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import numpy as np

from imf_jax.config import require, to_dict
from imf_jax.config.recording import SCENES, RolloutConfig
from imf_jax.errors import EXIT_FAILED, EXIT_INTERRUPTED, EXIT_OK, EXIT_SOME_ERRORED, UserError
from imf_jax.evaluation.candidates import Candidate, load_checkpoint, load_expert
from imf_jax.evaluation.evaluate import PicturedBackend, make_rollout, require_camera
from imf_jax.evaluation.manifest import build_manifest
from imf_jax.recording.base import Strategy, StrategyRecorder
from imf_jax.rollout.capacity import require_fit
from imf_jax.rollout.episode import EpisodeRecord
from imf_jax.rollout.planner import Planner
from imf_jax.rollout.progress import progress_bar
from imf_jax.seeds import split_seed
from imf_jax.sim.backends.choice import make_backend, resolve_backend, resolve_devices

BLOCK_SCENES = 2**16
"""Scenes of one loop; a run without an end is a row of such loops."""

LOG = "meta/rollouts.jsonl"
"""In a dataset: one line per run that recorded into it: what was rolled out, with which settings, what came out."""


@dataclass
class StrategySummary:
    """A run that is over.

    Attributes:
        records: the scenes that ended.
        wall_s: time of the loops [s].
        control_steps: of the scenes that ended.
        interrupted: somebody asked it to stop before it was done.
        failed: why the strategy could not go on.
        errors: one line for each thing that was not recorded.
        frames: frames that were recorded.
        complete: there was nothing left to do.
    """

    records: list[EpisodeRecord] = field(default_factory=list)
    wall_s: float = 0.0
    control_steps: int = 0
    interrupted: bool = False
    failed: str | None = None
    errors: list[str] = field(default_factory=list)
    frames: int = 0
    complete: bool = False

    @property
    def exit_code(self) -> int:
        """What a command line tells its caller; see `imf_jax.errors`."""
        if self.failed is not None:
            return EXIT_FAILED
        if self.interrupted:
            return EXIT_INTERRUPTED
        if not (self.records or self.frames or self.complete):
            return EXIT_FAILED
        return EXIT_SOME_ERRORED if self.errors or any(r.status == "error" for r in self.records) else EXIT_OK


class Session:
    """What is rolled out and where: candidate, backend, devices. Nothing is compiled or recorded by making one.

    Raises:
        UserError, ArgumentError: something that the flags name cannot be used.
    """

    def __init__(self, config: RolloutConfig) -> None:
        self.config = config
        if config.recording.dataset is not None:
            check_dataset_folder(config.recording.dataset, resume=config.recording.resume)
        name = resolve_backend(config.backend)
        self.devices = resolve_devices(name, config.devices, config.num_envs)
        self.candidate = self.load(config.checkpoint)
        require(
            config.renderer == "warp" or bool(self.candidate.planner.cameras),
            f"--renderer {config.renderer} would do nothing: what acts sees no pictures, and recorded ones are Warp's",
        )
        self.backend: PicturedBackend = make_backend(
            name,
            self.candidate.task,
            image_size=self.candidate.image_size,
            renderer=config.renderer,
            interpolation=config.execution.action_interpolation,
            devices=self.devices,
        )
        for camera in config.recording.cameras:
            require_camera(camera, self.backend)
        self.seed = split_seed("recording", config.seed)

    def load(self, checkpoint: Path | None) -> Candidate:
        """What is rolled out: the policy of a checkpoint, or the expert."""
        config = self.config
        if checkpoint is None:
            return load_expert(config.task, config.execution)
        return load_checkpoint(
            checkpoint,
            task=config.task,
            sampling_steps=config.sampling_steps,
            plan_batch=config.plan_batch,
            execution=config.execution,
        )[0]

    def fps(self) -> int:
        """Frames per second of a dataset: the control rate."""
        return round(1 / self.backend.control_dt)

    def run(
        self,
        strategy: Strategy,
        planner: Planner,
        scenes: Iterator[Sequence[int]],
        *,
        total: int | None,
        should_stop: Callable[[], bool] = lambda: False,
        show_progress: bool = False,
    ) -> StrategySummary:
        """Roll out and let the strategy do its work; it is not finished by that.

        Args:
            strategy: what is done with the scenes.
            planner: what acts.
            scenes: rows of scenes, each for one loop.
            total: of all rows together, None if there is no end to them.
            should_stop: asked before every plan by the user; limits and the strategy itself also end it.
            show_progress: show a progress bar.
        """
        config, summary = self.config, StrategySummary()
        limit_s = config.sentry.duration_s
        began: list[float] = []

        def stop() -> bool:
            began.append(time.monotonic()) if not began else None  # compilation does not count
            late = limit_s is not None and time.monotonic() - began[0] >= limit_s
            return should_stop() or strategy.wants_to_stop() or late

        recorders = [] if type(strategy) is Strategy else [StrategyRecorder(strategy)]
        with progress_bar(total, shown=show_progress, label=strategy.name) as bar:
            for row in scenes:
                num_envs = self._num_envs(len(row))
                require_fit(self.backend, planner, num_envs, self.devices if self.backend.compiled else ())
                result = make_rollout(
                    self.backend,
                    planner,
                    row,
                    devices=self.devices if self.backend.compiled else (),
                    seed=self.seed,
                    max_steps=self.backend.task.max_steps,
                    num_envs=num_envs,
                    on_record=summary.records.append,
                    recorders=recorders,
                    on_progress=bar,
                    should_stop=stop,
                ).run()
                summary.wall_s += result.wall_s
                summary.control_steps += result.control_steps
                summary.errors += result.capture_errors
                if stop():
                    break
        summary.failed = strategy.failed
        # A sentry is meant to be ended.
        summary.interrupted = should_stop() and strategy.name != "sentry"
        return summary

    def _num_envs(self, scenes: int) -> int:
        shares = len(self.devices) if self.backend.compiled else 1
        return min(self.config.num_envs, -(-scenes // shares) * shares)


def check_dataset_folder(folder: Path, *, resume: bool) -> None:
    """Refuse a dataset that cannot be recorded into, before anything else is done.

    Raises:
        ArgumentError: the name does not fit, or there is none to resume, or one that nobody asked to resume.
        UserError: the disk is nearly full, or a package is not installed.
    """
    from imf_jax.data.lerobot.checks import require_free_space, require_recording_name
    from imf_jax.data.lerobot.reader import is_dataset

    require_recording_name(folder)
    require_free_space(folder)
    require(resume or not is_dataset(folder), f"--dataset {folder} holds a dataset already; go on with it by --resume")
    require(not resume or is_dataset(folder), f"--resume: {folder} holds no dataset; leave --resume away to create it")


def run_strategy(
    config: RolloutConfig,
    *,
    should_stop: Callable[[], bool] = lambda: False,
    on_note: Callable[[str], None] = lambda line: None,
    show_progress: bool = False,
) -> StrategySummary:
    """Do what the flags ask for, except for rounds; see `imf_jax.recording.rounds`.

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
            session.candidate.planner,
            iter([range(total)]),
            total=total,
            should_stop=should_stop,
            show_progress=show_progress,
        )
    from imf_jax.recording.assembly import corrected, make_strategy, open_recording

    recording, known = open_recording(session, on_note)
    with recording.writer as writer:
        strategy = make_strategy(session, recording)
        planner = session.candidate.planner
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
        if strategy.failed is None:
            log_run(session, summary, writer.folder)
    return summary


def wanted_scenes(config: RolloutConfig, known: set[int]) -> tuple[Iterator[Sequence[int]], int | None]:
    """The scenes to run, a row for each loop, and how many they are (None without an end).

    Args:
        config: the flags.
        known: scenes that the dataset holds anything of. Episodic recordings complete them to as many as are asked for;
            others, which may hold parts of a scene, go on behind the last one.
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
    """Append to the log of a dataset what was rolled out and what came out."""
    records = summary.records
    line = build_manifest(
        policy=session.candidate.label,
        task=session.candidate.task,
        backend=session.backend.name,
        seeds={"split": "recording", "seed": session.config.seed},
        config=to_dict(session.config),
        **session.candidate.provenance,
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
    """The lines of the log of a dataset; one that was cut off by a kill is left out."""
    runs = []
    for line in (folder / LOG).read_text(encoding="utf-8").splitlines() if (folder / LOG).is_file() else ():
        with contextlib.suppress(json.JSONDecodeError):
            runs.append(json.loads(line))
    return runs


def _plain(value: Any) -> Any:
    return value.item() if isinstance(value, np.generic) else str(value)
