"""Rounds of DAgger: roll out under supervision, add the corrections to the demonstrations, train, evaluate, again.

Every round trains a new policy on all demonstrations so far, with the same number of steps: only the data changes from
round to round. Every policy is evaluated, without the expert, on the same validation scenes.

    <out>/demonstrations/      the demonstrations, and the corrections of all rounds as further episodes
    <out>/round_0/evaluation/  of the initial policy
    <out>/round_1/run/         the training run of round 1
    <out>/round_1/evaluation/
    <out>/rounds.json          success per round with Wilson intervals

A round has a row in `rounds.json` once it is recorded, and its success once it is evaluated; `--resume` reads these.
The recording of a round that was cut off is removed and made again.
"""

import dataclasses
import shutil
from collections.abc import Callable
from typing import Any

from imf_jax.config import TrainConfig, ValidationConfig, flat_flags, from_dict, require, to_dict
from imf_jax.config.recording import SCENES, RolloutConfig
from imf_jax.data.episodes import list_episodes
from imf_jax.data.statistics import write_statistics
from imf_jax.errors import EXIT_OK
from imf_jax.evaluation.evaluate import EvaluationSettings, Hooks, evaluate
from imf_jax.evaluation.evaluated_policy import EvaluatedPolicy, load_evaluated_policy
from imf_jax.evaluation.resume import differences
from imf_jax.evaluation.statistics import wilson_interval
from imf_jax.files import read_json, write_json
from imf_jax.recording.assembly import corrected, make_strategy, open_recording
from imf_jax.recording.dagger import DaggerStrategy
from imf_jax.recording.demonstrations import Demonstrations
from imf_jax.recording.recording import Recording, episode_scenes
from imf_jax.recording.run import log_run, logged_runs
from imf_jax.recording.session import Session, StrategySummary

ROUNDS = "rounds.json"


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
        ArgumentError: the folder of the rounds exists, or holds others than those to resume, or the checkpoint does not
            name its demonstrations.
        UserError: there are no demonstrations.
    """
    flags = config.dagger
    assert flags.rounds is not None
    resume = config.recording.resume
    require(resume or not flags.out.exists(), f"--out {flags.out} exists already; go on with it by --resume")
    session = Session(config)
    training = training_config(session.policy, config)
    list_episodes(training.data)  # none, or no folder: say so before anything is made
    rows = prepare_resume(session) if resume else []
    recording, _ = open_recording(session, on_note, keep=rows[-1]["dataset_episodes"] if rows else None)
    encoder = training.policy.encoder
    demonstrations = Demonstrations(flags.out / "demonstrations", session, encoder.cameras, encoder.image_size)

    def keep(row: dict[str, Any]) -> None:
        rows[row["round"] :] = [row]
        write_json(flags.out / ROUNDS, {**round_manifest(session), "rounds": rows})

    summary, policy = StrategySummary(complete=True), session.policy
    with recording.writer as writer:
        if not rows:
            shutil.rmtree(demonstrations.folder, ignore_errors=True)
            demonstrations.begin(training.data)
            keep({"round": 0, "demonstrations": len(demonstrations), "dataset_episodes": writer.num_episodes})
        demonstrations.keep(rows[-1]["demonstrations"])
        for number in range(flags.rounds + 1):
            if number == len(rows):
                summary, recorded = record_round(
                    session, policy, recording, demonstrations, number, should_stop, show_progress
                )
                if summary.failed is not None or summary.interrupted:
                    return summary
                if not summary.frames:
                    on_note(f"round {number}: the expert had nothing to correct; more rounds would not change that")
                    return summary
                write_statistics(demonstrations.folder)
                counts = {"demonstrations": len(demonstrations), "dataset_episodes": writer.num_episodes}
                keep({"round": number, **counts, **recorded})
                log_run(session, summary, writer.folder)
            if number > 0:
                run = flags.out / f"round_{number}" / "run"
                if train_round(dataclasses.replace(training, data=demonstrations.folder, out=run)) != EXIT_OK:
                    summary.interrupted = True
                    return summary
                policy = load_evaluated_policy(dataclasses.replace(config, checkpoint=run))
            if "n_episodes" not in rows[number]:
                figures = evaluated(session, policy, number, should_stop, show_progress)
                if figures is None:
                    summary.interrupted = True
                    return summary
                keep(rows[number] | figures)
            on_note(round_line(rows[number]))
    return summary


def round_manifest(session: Session) -> dict[str, Any]:
    """Manifest of the settings that all rounds in a folder share; the number of rounds may grow."""
    flags = flat_flags(to_dict(session.config))
    del flags["rounds"]
    return {
        "backend": session.backend.name,
        "checkpoint": session.policy.provenance["checkpoint"],
        "config": flags,
    }


def prepare_resume(session: Session) -> list[dict[str, Any]]:
    """Read the rows of the rounds to resume; none if they were cut off before there was one.

    Raises:
        ArgumentError: there are other rounds in the folder, or episodes in the dataset that are not of these.
        UserError: a file is damaged.
    """
    flags, dataset = session.config.dagger, session.config.recording.dataset
    assert dataset is not None
    path, rows = flags.out / ROUNDS, []
    if path.is_file():
        before = read_json(path)
        rows = before.pop("rounds", [])
        differing = differences(before, round_manifest(session))
        require(
            not differing,
            f"--resume: {flags.out} holds rounds with another {', '.join(differing)}; repeat their command with "
            "--resume, or choose another --out",
        )
    else:
        others = [entry.name for entry in flags.out.glob("*") if not entry.name.startswith((".", "demonstrations"))]
        require(not others, f"--resume: {flags.out} holds no {ROUNDS} to go on with; choose another --out")
    kept = rows[-1]["dataset_episodes"] if rows else 0
    found = episode_scenes(dataset)
    scenes = session.config.episodes or SCENES
    going_on = range((len(rows) - 1) * scenes, len(rows) * scenes) if rows else range(0)
    ours = all(place is not None and place[0] == session.seed and place[1] in going_on for place in found[kept:])
    alone = all(run["config"]["dagger"]["rounds"] is not None for run in logged_runs(dataset))
    require(
        len(found) >= kept and ours and alone,
        f"--resume: {dataset} holds other episodes than those of the rounds in {flags.out}; start anew with "
        "another --dataset and --out",
    )
    return rows


def record_round(
    session: Session,
    policy: EvaluatedPolicy,
    recording: Recording,
    demonstrations: Demonstrations,
    number: int,
    should_stop: Callable[[], bool],
    show_progress: bool,
) -> tuple[StrategySummary, dict[str, Any]]:
    """Record a round: the expert supervises the policy of the round before on scenes of their own.

    Returns:
        its summary, `frames` counting those in which the expert acted; and its part of the row of the round.
    """
    scenes = session.config.episodes or SCENES
    strategy = make_strategy(session, recording, demonstrations.add, demonstrations.recorded)
    assert isinstance(strategy, DaggerStrategy)
    try:
        summary = session.run(
            strategy,
            corrected(session, policy.planner, round_number=number),
            iter([range((number - 1) * scenes, number * scenes)]),
            total=scenes,
            should_stop=should_stop,
            show_progress=show_progress,
        )
    finally:
        strategy.finish()
    summary.failed, summary.frames = strategy.failed, strategy.frames
    return summary, {
        "supervised_scenes": len(summary.records),
        "supervised_successes": sum(record.status == "success" for record in summary.records),
        "corrections": strategy.corrections,
        "corrected_frames": strategy.frames,
        "corrected_share": strategy.frames / max(1, summary.control_steps),
    }


def training_config(policy: EvaluatedPolicy, config: RolloutConfig) -> TrainConfig:
    """Training configuration of a round: as of the checkpoint, from new weights, without validation on the way."""
    flags, before = config.dagger, from_dict(TrainConfig, policy.provenance["training"])
    steps = flags.train_steps or before.max_steps
    optimizer = before.optimizer
    if flags.train_steps is not None:
        optimizer = dataclasses.replace(optimizer, decay_steps=None, warmup_steps=min(optimizer.warmup_steps, steps))
    return dataclasses.replace(
        before,
        task=policy.task,
        data=flags.demonstrations or before.data,
        resume=False,
        precision=config.precision,
        max_steps=steps,
        save_every=min(before.save_every, steps),
        tracker=(),
        optimizer=optimizer,
        validation=ValidationConfig(num_episodes=0),
    )


def train_round(config: TrainConfig) -> int:
    """Train the policy of a round, or resume its training; returns the exit code of the training."""
    from imf_jax.checkpoints import CONFIG, newest_checkpoint
    from imf_jax.training.loop import train

    begun = (config.out / CONFIG).is_file()
    newest = newest_checkpoint(config.out) if begun else None
    if newest is not None and int(newest.name) == config.max_steps:
        return EXIT_OK
    config.out.parent.mkdir(parents=True, exist_ok=True)
    return train(dataclasses.replace(config, resume=begun))


def evaluated(
    session: Session, policy: EvaluatedPolicy, number: int, should_stop: Callable[[], bool], show_progress: bool
) -> dict[str, Any] | None:
    """Evaluate the policy of a round, without the expert, on the validation scenes: its part of a row.

    Returns:
        the figures; None if it was asked to stop before.
    """
    config = session.config
    episodes = config.dagger.validation_episodes
    folder = config.dagger.out / f"round_{number}" / "evaluation"
    folder.parent.mkdir(parents=True, exist_ok=True)
    summary = evaluate(
        dataclasses.replace(session.setup, policy=policy),
        EvaluationSettings(episodes, config.num_envs, split="validation", seed=config.seed),
        folder,
        existing="resume",
        hooks=Hooks(should_stop, show_progress=show_progress),
    )
    successes, count = summary.metrics["n_success"], summary.metrics["n_episodes"]
    if count < episodes:
        return None
    low, high = wilson_interval(successes, count)
    return {
        "n_episodes": count, "n_success": successes, "pc_success": 100 * successes / count,
        "pc_success_ci95": [100 * low, 100 * high],
    }  # fmt: skip


def round_line(row: dict[str, Any]) -> str:
    """Format a row of the table for the terminal."""
    low, high = row["pc_success_ci95"]
    corrected = f", {row['corrected_frames']} frames corrected" if "corrected_frames" in row else ""
    return (
        f"round {row['round']}: {row['n_success']}/{row['n_episodes']} = {row['pc_success']:.1f} % "
        f"(95 % interval {low:.1f}-{high:.1f} %) after {row['demonstrations']} demonstrations{corrected}"
    )
