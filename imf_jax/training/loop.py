"""Training run from its configuration to its last checkpoint: start or resume, train, report the result."""

import hashlib
import json
import secrets
from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import ExitStack, contextmanager
from dataclasses import replace
from functools import partial
from pathlib import Path
from typing import Any

import jax
import numpy as np

from imf_jax import checkpoints
from imf_jax.checkpoints import CheckpointMeta
from imf_jax.config import PretrainConfig, StateEncoderConfig, TrainConfig, require, to_dict
from imf_jax.data.picture_cache import PictureRows, SomeRows
from imf_jax.data.picture_pool import DecodedRows
from imf_jax.data.pictures import PictureFolder, find_pictures
from imf_jax.data.prefetch import Prefetch
from imf_jax.data.statistics import DatasetStatistics
from imf_jax.data.windows import Demonstrations, load_demonstrations, take_steps
from imf_jax.errors import EXIT_INTERRUPTED, EXIT_OK, UserError
from imf_jax.files import TRAINING_METRICS as METRICS
from imf_jax.files import write_json
from imf_jax.interrupts import stop_on_interrupt
from imf_jax.memory import peak_memory
from imf_jax.models.policy import FrozenParts, build_policy, encoder_identity
from imf_jax.sim.tasks import Task
from imf_jax.terminal import make_console
from imf_jax.training import saved_state
from imf_jax.training.ahead import decoding_ahead, picture_budgets, room_ahead
from imf_jax.training.held_out import HeldOutValidation
from imf_jax.training.progress import TrainingProgress
from imf_jax.training.sight import blind_cameras
from imf_jax.training.source import TrainingSource, data_notes, find_source, hold_out
from imf_jax.training.state import (
    StreamedDraw,
    TrainState,
    compile_streamed_step,
    initial_state,
    stream_pictures,
    streamed_windows,
    trained_policy,
)
from imf_jax.training.tracker_backends import make_trackers
from imf_jax.training.trackers import TRACKING, TrackedRun, Tracker, Trackers
from imf_jax.training.trainer import Trainer, TrainingSummary, Validate
from imf_jax.training.validation import FOLDER as VALIDATION
from imf_jax.training.validation import RolloutValidation, validation_line
from imf_jax.training.vision import with_vision

MAY_CHANGE = (
    "out", "data", "resume", "max_steps", "keep", "log_every", "save_every", "policy.encoder.weights", "tracker",
    "tracker_mode", "tracker_group",
)  # fmt: skip
"""Settings that may differ between a run and its continuation. The content of folders may move, but not change."""


def train(config: TrainConfig) -> int:
    """Train, and print the best checkpoint.

    Returns:
        exit code: 0, or 130 if it was interrupted (the state is in a checkpoint then).

    Raises:
        ArgumentError: `out` holds a run that is not to be resumed, or none that could be, or another one; or the
            settings do not fit the demonstrations.
        UserError: the demonstrations cannot be used, the run cannot be written, or a tracker is not installed.
    """
    say = partial(make_console().print, markup=False)
    config, source = find_source(config)
    spaces, task = source.spaces, source.task
    check_out(config)
    external = make_trackers(config.tracker, config.tracker_mode)
    data, statistics = load_demonstrations(source.selection, spaces)
    check_demonstrations(config, statistics.task, data, source)
    encoder = config.policy.encoder
    pictures = find_pictures(source.selection, encoder.cameras, encoder.image_size) if encoder.cameras else None
    fingerprint = data_sha256(data, pictures)
    policy = build_policy(config, spaces, source.env_state_dim)
    policy.set_statistics(statistics.arrays)
    identity = encoder_identity(policy)
    state, frozen = initial_state(policy, config)
    state, resumed = restore(config, state, frozen, fingerprint, identity)
    first_step = int(state.step)
    for line in data_notes(source):
        say(line)
    say(
        f"{statistics.num_episodes} demonstrations, {statistics.num_steps} steps; "
        + (f"resuming {config.out} at step {first_step}" if config.resume else f"training into {config.out}")
    )
    room = room_ahead(config, pictures, policy, resumed)
    images: PictureRows | None
    if pictures is None or room is None:
        data, images = with_vision(data, pictures, policy, say, *picture_budgets(config))
    else:
        images = DecodedRows(pictures)

    meta = CheckpointMeta(
        first_step, config.task, source.env_state_dim, "newest", fingerprint, None, {}, identity, spaces.to_json(),
        pictures.reader.style if pictures else None, source.columns(encoder.cameras), room,
    )  # fmt: skip
    held_out: HeldOutValidation | None = None
    rows = np.arange(len(data.first))
    if task is None:
        split = hold_out(source, data, config.validation.held_out, config.seed)
        if split is not None:
            data, images, held_out = held_out_validation(config, data, images, split, statistics)
            rows = split[0]
        say(f"validation: {'none' if held_out is None else 'action error and loss on held-out episodes'}")

    def validation(should_stop: Callable[[], bool], on_warning: Callable[[str], None]) -> Validate | None:
        if task is None or config.validation.num_episodes == 0:
            return held_out
        return RolloutValidation(config, pictures=meta.pictures, should_stop=should_stop, on_warning=on_warning)

    with ExitStack() as stack:
        how: dict[str, Any] = {}
        if pictures is not None and room is not None:
            kept = 0 if held_out is None else held_out.num_pictures
            how = stack.enter_context(decoding_ahead(config, data, pictures, rows, room, kept, first_step, say))
        elif images is not None:
            draw = streamed_windows(config)
            how = stack.enter_context(streaming(config, data, images, draw, first_step))
        summary = run_to_end(config, state, frozen, data, policy.figures, meta, resumed, external, validation, **how)
    if images is not None and not summary.interrupted:
        blind = blind_cameras(trained_policy(summary.state, frozen), images)
        if blind is not None:
            say(f"warning: {blind}")
    say(final_line(config.out, summary, int(summary.state.step) - first_step))
    return EXIT_INTERRUPTED if summary.interrupted else EXIT_OK


def held_out_validation(
    config: TrainConfig,
    data: Demonstrations,
    images: PictureRows | None,
    split: tuple[np.ndarray, np.ndarray],
    statistics: DatasetStatistics,
) -> tuple[Demonstrations, PictureRows | None, HeldOutValidation]:
    """Set held-out steps apart.

    Args:
        config: the run.
        data: all demonstrations.
        images: their pictures, if the policy reads any.
        split: steps to train on, and held-out steps.
        statistics: of all demonstrations.

    Returns:
        demonstrations and pictures to train on, and the validation on the others.
    """
    training, held_out = (take_steps(data, rows) for rows in split)
    training_images, held_out_images = (None if images is None else SomeRows(images, rows) for rows in split)
    spread = np.asarray(statistics.arrays["action"]["std"])
    return training, training_images, HeldOutValidation(config, held_out, held_out_images, spread)


@contextmanager
def streaming(
    config: TrainConfig | PretrainConfig, data: Any, images: PictureRows, draw: StreamedDraw, first_step: int
) -> Iterator[dict[str, Any]]:
    """Attributes of a `Trainer` whose pictures stay in main memory: a thread prepares those of the next steps.

    See `stream_pictures` for the arguments.
    """
    with Prefetch(stream_pictures(config, data, images, draw, first_step)) as stream:
        compile_with = partial(compile_streamed_step, draw=draw, picture_shape=images.shape[1:])
        yield {"pictures": stream, "compile": compile_with}


def run_to_end(
    config: TrainConfig | PretrainConfig,
    state: TrainState,
    frozen: FrozenParts,
    data: Any,
    figures: Sequence[str],
    meta: CheckpointMeta,
    resumed: CheckpointMeta | None,
    external: Mapping[str, Tracker],
    validation: Callable[[Callable[[], bool], Callable[[str], None]], Validate | None],
    **how: Any,
) -> TrainingSummary:
    """Open the run, train to its last step or until interrupted, with checkpoints, trackers and progress.

    Args:
        config: the run.
        state: the state to start from.
        frozen: the rest of what is trained.
        data: what it is trained on, on the device.
        figures: of a step, in the order of the log.
        meta: metadata of the checkpoints; step, weights and validation are filled in.
        resumed: metadata of the checkpoint that `state` is from, if it is from one.
        external: trackers by their names.
        validation: (should_stop, on_warning) -> validation of the run, or None.
        how: further attributes of `Trainer`.
    """
    first_step = int(state.step)

    def save(state: TrainState, validated: dict[str, float] | None) -> None:
        weights = "newest" if state.average is None else "average"
        of_state = replace(meta, step=int(state.step), weights=weights, validation=validated)
        saved_state.save_checkpoint(config.out, state, frozen, config, of_state)
        saved_state.prune(config.out, config.keep)

    with stop_on_interrupt() as should_stop, TrainingProgress(first_step, config.max_steps) as progress:
        validate = validation(should_stop, progress.say)
        open_run(config)
        run = tracked_run(config, first_step)
        with Trackers(run, external, progress.say) as tracker:
            trainer = Trainer(config, frozen, data, figures, save, tracker, progress, validate, should_stop, **how)
            validated = resumed is not None and resumed.validation is not None
            summary = trainer.run(state, validated=validated, saved=resumed is not None)
            tracker.summary(run_summary(config.out, summary))
    return summary


def check_out(config: TrainConfig | PretrainConfig) -> None:
    """Refuse an output folder that a run must not be started or continued in.

    Raises:
        ArgumentError: see `train`.
    """
    out = config.out
    require(not out.exists() or out.is_dir(), f"--out {out} is a file; choose a folder")
    holds_run = (out / checkpoints.CONFIG).exists()
    remains = [name for name in (checkpoints.FOLDER, METRICS, VALIDATION) if (out / name).exists()]
    if not config.resume:
        require(
            not holds_run and not remains,
            f"--out {out} already holds a run; continue it with --resume or choose another folder",
        )
        return
    require(holds_run, f"--resume: {out} holds no run to continue; leave --resume away to start one there")
    differing = sorted(differences(to_dict(checkpoints.read_run_config(out, type(config))), to_dict(config)))
    require(
        not differing,
        f"--resume: {out} was started with other settings: {', '.join(differing)}; "
        "give the same ones or choose another --out",
    )


def differences(old: dict[str, Any], new: dict[str, Any], prefix: str = "") -> Iterator[str]:
    """List the settings that differ between two configurations and must not: "field old value -> new value"."""
    for name in sorted(old.keys() | new.keys()):
        before, after = old.get(name), new.get(name)
        if isinstance(before, dict) and isinstance(after, dict):
            yield from differences(before, after, f"{prefix}{name}.")
        elif before != after and prefix + name not in MAY_CHANGE:
            yield f"{prefix}{name} {before} -> {after}"


def check_task(config: TrainConfig | PretrainConfig, name: str, data: Demonstrations, task: Task) -> None:
    """Refuse demonstrations of another task, or of a robot whose actions and states have other widths.

    Raises:
        ArgumentError: names the field.
    """
    require(name == task.name, f"{config.data} holds demonstrations of task {name!r}, not of --task {config.task!r}")
    spaces = task.robot.spaces
    widths = data.action.shape[1], data.state.shape[1]
    require(
        widths == (spaces.action_dim, spaces.state_dim),
        f"robot {spaces.name!r} of task {task.name!r} has actions of {spaces.action_dim} and states of "
        f"{spaces.state_dim} entries, but those in {config.data} have {widths[0]} and {widths[1]}",
    )


def check_demonstrations(config: TrainConfig, name: str, data: Demonstrations, source: TrainingSource) -> None:
    """Refuse settings that do not fit the demonstrations.

    Raises:
        ArgumentError: names the field.
    """
    task = source.task
    if task is None:
        return
    if source.selection.reader.fixed_size:  # others were looked at when they were opened
        check_task(config, name, data, task)
    found, env_state_dim = data.env_state.shape[1], task.env_state_dim
    # A policy that sees never reads the scene state, and imported demonstrations have none.
    require(
        env_state_dim == found or not isinstance(config.policy.encoder, StateEncoderConfig),
        f"task {config.task} has a scene state of {env_state_dim} entries, but {config.data} has {found}; "
        "collect the demonstrations again",
    )


def data_sha256(data: Demonstrations, pictures: PictureFolder | None) -> str:
    """Fingerprint of demonstrations, by which a resumed run checks that they are still the same.

    Args:
        data: the demonstrations, without pictures or features.
        pictures: their pictures, if the policy reads them.
    """
    digest = hashlib.sha256()
    for values in data:
        if values is not None:
            digest.update(np.ascontiguousarray(values).data)
    if pictures is not None:
        digest.update(pictures.fingerprint.encode())
    return digest.hexdigest()


def restore(
    config: TrainConfig | PretrainConfig,
    state: TrainState,
    frozen: Any,
    fingerprint: str,
    encoder: dict[str, Any] | None,
) -> tuple[TrainState, CheckpointMeta | None]:
    """Restore the state to start from: of the newest complete checkpoint if the run is resumed and has one.

    Raises:
        ArgumentError: the demonstrations or the frozen encoder have changed.
        UserError: the checkpoint does not fit.
    """
    path = checkpoints.newest_checkpoint(config.out) if config.resume else None
    if path is None:
        return state, None
    meta = checkpoints.read_meta(path)
    require(
        meta.data_sha256 == fingerprint,
        f"--resume: the demonstrations in {config.data} are not those that {config.out} was started with",
    )
    require(
        meta.encoder == encoder,
        f"--resume: the frozen encoder is not the one that {config.out} was started with; "
        "name its folder with --policy.encoder.weights",
    )
    return saved_state.restore_state(path, state, frozen), meta


def open_run(config: TrainConfig | PretrainConfig) -> None:
    """Make the run folder and write its `config.json`.

    Raises:
        UserError: it cannot be written.
    """
    try:
        config.out.mkdir(parents=True, exist_ok=True)
        write_json(config.out / checkpoints.CONFIG, to_dict(config))
    except OSError as error:
        raise UserError(f"cannot write the run to {config.out}: {error.strerror}; choose another --out") from None


def tracked_run(config: TrainConfig | PretrainConfig, first_step: int) -> TrackedRun:
    """Describe a run that `open_run` has opened, for trackers.

    The run's name in services is kept beside it, so that a resumed run goes on there too.
    """
    path = config.out / TRACKING
    known = _read_id(path) if config.resume else None
    run_id = known or secrets.token_hex(8)
    if config.tracker:
        write_json(path, {"id": run_id})
    name = config.out.resolve().name
    return TrackedRun(name, config.out, to_dict(config), first_step, run_id, known is not None, config.tracker_group)


def _read_id(path: Path) -> str | None:
    try:
        run_id = json.loads(path.read_text(encoding="utf-8"))["id"]
    except (OSError, ValueError, TypeError, KeyError):
        return None
    return run_id if isinstance(run_id, str) else None


def run_summary(run: Path, summary: TrainingSummary) -> dict[str, Any]:
    """Content of `summary.json`: the end of training and the best checkpoint."""
    best = saved_state.best_checkpoint(run)
    return {
        "status": "interrupted" if summary.interrupted else "done",
        "step": int(summary.state.step),
        "steps_per_s": summary.steps_per_s,
        "step_share": summary.step_share,
        "compile_s": summary.compile_s,
        "parameters": sum(leaf.size for leaf in jax.tree.leaves(summary.state.params)),
        **peak_memory(),
        "best_checkpoint": best and {
            "path": best[0].relative_to(run).as_posix(), "step": best[1].step, "validation": best[1].validation,
        },
    }  # fmt: skip


def final_line(run: Path, summary: TrainingSummary, steps: int) -> str:
    """Final line of a run: the best checkpoint and the reason, the last step and the speed."""
    best = saved_state.best_checkpoint(run)
    if best is None:
        raise UserError(f"run {run} holds no complete checkpoint; something removed it")
    path, meta = best
    reason = (
        f"by validation at step {meta.step}, {validation_line(meta.validation)}"
        if meta.validation is not None
        else f"the newest, step {meta.step}: there was no validation to choose by"
    )
    step = int(summary.state.step)
    ended = f"interrupted at step {step} (continue with --resume)" if summary.interrupted else f"done at step {step}"
    speed = (
        f"; {steps} steps at {summary.steps_per_s:.1f} steps/s, {100 * summary.step_share:.1f} % of the time in the "
        f"step (compiled in {summary.compile_s:.0f} s)"
        if steps
        else ""
    )
    return f"{ended}{speed}; best checkpoint {path}: {reason}"
