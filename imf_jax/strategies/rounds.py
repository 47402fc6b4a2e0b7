"""Rounds of DAgger: roll out under supervision, add the corrections to the demonstrations, train, evaluate, again.

Every round trains a new policy on all that there is by then, with the same number of steps: what changes from round to
round is the data. Every policy is evaluated, without the expert, on the same validation scenes.

    <out>/demonstrations/      the demonstrations, and the corrections of all rounds as further episodes
    <out>/round_0/evaluation/  of the policy to begin with
    <out>/round_1/run/         the training run of round 1
    <out>/round_1/evaluation/
    <out>/rounds.json          success per round with Wilson intervals
"""

import dataclasses
import os
import shutil
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import numpy as np

from imf_jax.config import TrainConfig, ValidationConfig, from_dict, require
from imf_jax.data.episodes import Episode, episode_number, list_episodes, write_episode
from imf_jax.data.statistics import write_statistics
from imf_jax.errors import EXIT_OK, UserError
from imf_jax.files import write_json
from imf_jax.rollout.candidates import Candidate
from imf_jax.rollout.evaluate import EvaluationSettings, evaluate
from imf_jax.rollout.statistics import wilson_interval
from imf_jax.strategies.assembly import corrected, make_render, make_strategy, open_recording
from imf_jax.strategies.base import Frame
from imf_jax.strategies.dagger import DaggerStrategy
from imf_jax.strategies.recording import Render
from imf_jax.strategies.session import SCENES, Session, StrategySummary, log_run
from imf_jax.strategies.settings import RolloutConfig

ROUNDS = "rounds.json"


class Demonstrations:
    """The growing folder of demonstrations: a copy of the first ones, and every correction as an episode behind them.

    Args:
        folder: must not exist.
        first: the demonstrations to begin with; their files are linked, or copied where that cannot be.
        session: what is rolled out.
        encoder_cameras: whose pictures the policy learns from.
        image_size: their height and width [pixels].
    """

    def __init__(
        self, folder: Path, first: Path, session: Session, encoder_cameras: tuple[str, ...], image_size: int
    ) -> None:
        self.folder = folder
        self._session, self._cameras, self._image_size = session, encoder_cameras, image_size
        self._render: Render | None = None
        paths = list_episodes(first)
        folder.mkdir(parents=True)
        for path in paths:
            try:
                os.link(path, folder / path.name)
            except OSError:  # another disk
                shutil.copy2(path, folder / path.name)
        self.num_first = len(paths)
        self._next = episode_number(paths[-1]) + 1

    def add(self, frames: list[Frame], success: bool) -> None:
        """Write what is worth learning from of a recorded piece."""
        for part in teachable(frames, success):
            write_episode(self.folder, self._episode(part, success))
            self._next += 1

    def _episode(self, frames: list[Frame], success: bool) -> Episode:
        session = self._session
        return Episode(
            action=np.stack([frame.action for frame in frames]),
            qpos=np.stack([frame.before.state for frame in frames]),
            env_state=np.stack([frame.before.env_state for frame in frames]),
            reward=np.array([frame.after.reward for frame in frames], np.float32),
            noise=np.zeros((len(frames), frames[0].action.shape[0]), np.float32),
            seed=session.seed,
            episode=self._next,
            task=session.candidate.task,
            control_hz=1.0 / session.backend.control_dt,
            success=success,
            images=self._pictures(frames),
        )

    def _pictures(self, frames: list[Frame]) -> dict[str, np.ndarray]:
        if not self._cameras:
            return {}
        if self._render is None:
            self._render = make_render(self._session.backend, self._cameras, self._image_size)
        pictures = self._render(np.stack([frame.before.qpos for frame in frames]))
        return {camera: pictures[:, index] for index, camera in enumerate(self._cameras)}


def teachable(frames: list[Frame], success: bool) -> Iterator[list[Frame]]:
    """The parts of a piece to learn from: all of it if its scene succeeded, else only what the expert did."""
    if success:
        yield frames
        return
    part: list[Frame] = []
    for frame in frames:
        if frame.intervention:
            part.append(frame)
        elif part:
            yield part
            part = []
    if part:
        yield part


def run_rounds(
    config: RolloutConfig,
    *,
    should_stop: Callable[[], bool] = lambda: False,
    on_note: Callable[[str], None] = lambda line: None,
    show_progress: bool = False,
) -> StrategySummary:
    """Record, train and evaluate `config.dagger.rounds` times; arguments as of `run_strategy`.

    Returns:
        the summary of the last recording.

    Raises:
        ArgumentError: the folder of the rounds exists, or the checkpoint does not tell its demonstrations.
        UserError: there are no demonstrations, or nothing was corrected.
    """
    flags = config.dagger
    assert flags.rounds is not None
    require(not flags.out.exists(), f"--out {flags.out} exists already; choose another folder")
    session = Session(config)
    training = training_config(session.candidate, config)
    list_episodes(training.data)  # none, or no folder: say so before anything is made
    recording, _ = open_recording(session, on_note)
    encoder = training.policy.encoder
    demonstrations = Demonstrations(
        flags.out / "demonstrations", training.data, session, encoder.cameras, encoder.image_size
    )
    table = [evaluated(session, session.candidate, flags.out, 0, {"demonstrations": demonstrations.num_first})]
    on_note(round_line(table[0]))
    scenes = config.episodes or SCENES
    candidate = session.candidate
    with recording.writer:
        for number in range(1, flags.rounds + 1):
            strategy = make_strategy(session, recording, demonstrations.add)
            assert isinstance(strategy, DaggerStrategy)
            try:
                summary = session.run(
                    strategy,
                    corrected(session, candidate.planner, round_number=number),
                    iter([range((number - 1) * scenes, number * scenes)]),
                    total=scenes,
                    should_stop=should_stop,
                    show_progress=show_progress,
                )
            finally:
                strategy.finish()
            summary.failed = strategy.failed
            if summary.failed is not None or summary.interrupted:
                return summary
            log_run(session, summary, recording.writer.folder)
            if not strategy.frames:
                on_note(f"round {number}: the expert had nothing to correct; more rounds would not change anything")
                return summary
            write_statistics(demonstrations.folder)
            run = flags.out / f"round_{number}" / "run"
            if train_round(dataclasses.replace(training, data=demonstrations.folder, out=run)) != EXIT_OK:
                summary.interrupted = True
                return summary
            candidate = session.load(run)
            table.append(
                evaluated(
                    session,
                    candidate,
                    flags.out,
                    number,
                    {
                        "demonstrations": len(list_episodes(demonstrations.folder)),
                        "supervised_scenes": len(summary.records),
                        "supervised_successes": sum(record.status == "success" for record in summary.records),
                        "corrections": strategy.corrections,
                        "corrected_frames": strategy.frames,
                        "corrected_share": strategy.frames / max(1, summary.control_steps),
                    },
                )
            )
            write_json(flags.out / ROUNDS, {"seed": config.seed, "rounds": table})
            on_note(round_line(table[-1]))
    return summary


def training_config(candidate: Candidate, config: RolloutConfig) -> TrainConfig:
    """How each round trains: as the checkpoint was trained, from new weights, without validation on the way."""
    flags, before = config.dagger, from_dict(TrainConfig, candidate.provenance["training"])
    steps = flags.train_steps or before.max_steps
    optimizer = before.optimizer
    if flags.train_steps is not None:
        optimizer = dataclasses.replace(optimizer, decay_steps=None, warmup_steps=min(optimizer.warmup_steps, steps))
    return dataclasses.replace(
        before,
        task=candidate.task,
        data=flags.demonstrations or before.data,
        resume=False,
        max_steps=steps,
        save_every=steps,
        tracker=(),
        optimizer=optimizer,
        validation=ValidationConfig(num_episodes=0),
    )


def train_round(config: TrainConfig) -> int:
    """Train a policy; returns the exit code of the training."""
    from imf_jax.training.loop import train

    config.out.parent.mkdir(parents=True, exist_ok=True)
    return train(config)


def evaluated(session: Session, candidate: Candidate, out: Path, number: int, told: dict[str, Any]) -> dict[str, Any]:
    """Evaluate the policy of a round, without the expert, on the validation scenes: a row of the table."""
    config = session.config
    episodes = config.dagger.validation_episodes
    folder = out / f"round_{number}" / "evaluation"
    folder.parent.mkdir(parents=True, exist_ok=True)
    shares = len(session.devices) if session.backend.compiled else 1
    summary = evaluate(
        candidate.planner,
        session.backend,
        EvaluationSettings(
            episodes=episodes,
            num_envs=min(config.num_envs, -(-episodes // shares) * shares),
            split="validation",
            seed=config.seed,
        ),
        folder,
        policy=candidate.label,
        provenance=candidate.provenance,
        devices=session.devices if session.backend.compiled else (),
    )
    successes, count = summary.metrics["n_success"], summary.metrics["n_episodes"]
    if count < episodes:
        raise UserError(f"round {number}: the evaluation in {folder} was ended early; the round cannot be compared")
    low, high = wilson_interval(successes, count)
    return {
        "round": number, **told, "n_episodes": count, "n_success": successes, "pc_success": 100 * successes / count,
        "pc_success_ci95": [100 * low, 100 * high],
    }  # fmt: skip


def round_line(row: dict[str, Any]) -> str:
    """A row of the table for the terminal."""
    low, high = row["pc_success_ci95"]
    corrected = f", {row['corrected_frames']} frames corrected" if "corrected_frames" in row else ""
    return (
        f"round {row['round']}: {row['n_success']}/{row['n_episodes']} = {row['pc_success']:.1f} % "
        f"(95 % interval {low:.1f}-{high:.1f} %) after {row['demonstrations']} demonstrations{corrected}"
    )
