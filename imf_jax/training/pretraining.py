"""Pre-training of a LEWM encoder, from its configuration to the folder that policies read.

A run has the checkpoints, metrics and trackers of any training run, and beside them
`encoder/`            the encoder as `--policy.encoder.weights` takes it, and the whole model beside it
`diagnostics.json`    what the encoder is worth on demonstrations that were held out
`report.html`         the same for people, with curves and pictures of nearest neighbours
"""

import dataclasses
from collections.abc import Callable
from pathlib import Path

import jax
import jax.numpy as jnp
import numpy as np

from imf_jax.checkpoints import CheckpointMeta
from imf_jax.config import NO_TASK, PretrainConfig
from imf_jax.data.clips import (
    ClipBatch,
    ClipData,
    EpisodeSplit,
    action_statistics,
    action_steps,
    clip_starts,
    draw_frames,
    split_episodes,
)
from imf_jax.data.pictures import find_pictures, read_pictures
from imf_jax.data.windows import load_demonstrations
from imf_jax.errors import EXIT_INTERRUPTED, EXIT_OK, ArgumentError
from imf_jax.files import atomic_write, reported_write_errors, write_bytes, write_json
from imf_jax.models.encoders.lewm import encoder_files
from imf_jax.models.world_model import LeWorldModel
from imf_jax.models.world_model_file import WORLD_MODEL_FILE, read_world_model, world_model_bytes
from imf_jax.seeds import INIT_STREAM, root_key
from imf_jax.terminal import make_console, stage_progress
from imf_jax.training.diagnostics import Diagnostics, EncoderDiagnostics, diagnostics_line
from imf_jax.training.loop import check_out, check_task, data_sha256, restore, run_to_end, streaming
from imf_jax.training.pretraining_report import write_pretraining_report
from imf_jax.training.source import open_source
from imf_jax.training.state import StreamedDraw, initial_state, trained_policy
from imf_jax.training.tracker_backends import make_trackers
from imf_jax.training.trainer import TrainingSummary, Validate

ENCODER = "encoder"
DIAGNOSTICS = "diagnostics.json"


def pretrain(config: PretrainConfig) -> int:
    """Pre-train an encoder, write its folder and the report, and print what it is worth.

    Returns:
        exit code: 0, or 130 if it was interrupted (the state is in a checkpoint then).

    Raises:
        ArgumentError: see `imf_jax.training.loop.train`; or `init` holds a model of other sizes.
        UserError: the demonstrations have not the pictures, are too few or too short, or something cannot be written.
    """
    say = make_console().print
    source = open_source(config)
    task, spaces, wanted = source.task, source.spaces, config.model
    if task is None:
        config = dataclasses.replace(config, task=NO_TASK)
    check_out(config)
    external = make_trackers(config.tracker, config.tracker_mode)
    data, statistics = load_demonstrations(source.selection, spaces)
    if task is not None and source.selection.reader.fixed_size:  # others were looked at when they were opened
        check_task(config, statistics.task, data, task)
    pictures = find_pictures(source.selection, wanted.cameras, wanted.image_size, "model.image_size")
    split = split_episodes(data, config.validation.share, config.seed)
    starts, held_out_starts = (clip_starts(data, steps, wanted.span) for steps in (split.training, split.held_out))
    fingerprint = data_sha256(data, pictures)
    model = LeWorldModel(wanted, spaces.action_dim, root_key(config.seed, INIT_STREAM))
    if config.init is not None:
        say(start_from(model, config.init), markup=False)
    model.action_normalizer.set_statistics("action", action_statistics(np.asarray(data.action)[split.training]))
    state, frozen = initial_state(model, config)
    state, resumed = restore(config, state, frozen, fingerprint, None)
    first_step = int(state.step)
    for line in source.notes:
        say(line, markup=False)
    say(
        f"{split.num_training} demonstrations with {len(starts)} clips, {split.num_held_out} held out; "
        + (f"resuming {config.out} at step {first_step}" if config.resume else f"training into {config.out}"),
        markup=False,
    )
    with stage_progress("read pictures", pictures.num_steps) as on_progress:
        images = read_pictures(pictures, on_progress)
    say(f"pictures of {', '.join(pictures.cameras)} in main memory: {images.nbytes / 1e9:.2f} GB", markup=False)
    clips = ClipData(data.action, jnp.asarray(starts))
    objects = None if task is None else task.objects + task.other_poses
    diagnose = EncoderDiagnostics(config.validation, data, images, split, held_out_starts, spaces, objects)

    def validation(should_stop: Callable[[], bool], on_warning: Callable[[str], None]) -> Validate:
        diagnose.on_warning = on_warning
        return diagnose

    meta = CheckpointMeta(
        first_step, config.task, source.env_state_dim, "newest", fingerprint, None, {}, None,
        spaces.to_json(), pictures.reader.style, source.columns(wanted.cameras),
    )  # fmt: skip
    with streaming(config, clips, images, streamed_clips(config), first_step) as how:
        how["describe"] = diagnostics_line
        summary = run_to_end(config, state, frozen, clips, model.figures, meta, resumed, external, validation, **how)
    trained = trained_policy(summary.state, frozen)
    diagnostics = diagnose.last
    if diagnostics is None or diagnostics.step != int(summary.state.step):
        diagnose(trained, int(summary.state.step))
        diagnostics = diagnose.last
    assert diagnostics is not None
    write_results(config, trained, diagnostics, split, images)
    say(final_line(config.out, summary, diagnostics, int(summary.state.step) - first_step), markup=False)
    return EXIT_INTERRUPTED if summary.interrupted else EXIT_OK


def streamed_clips(config: PretrainConfig) -> StreamedDraw:
    """Draw of a batch: clips of `ClipData`."""
    model = config.model

    def frames(data: ClipData, key: jax.Array) -> jax.Array:
        return draw_frames(data, key, config.batch_size, history=model.history, frameskip=model.frameskip)

    def batch(data: ClipData, key: jax.Array, images: jax.Array) -> ClipBatch:
        return ClipBatch(images=images, action=data.action[action_steps(frames(data, key), model.frameskip)])

    return StreamedDraw(frames, batch)


def start_from(model: LeWorldModel, folder: Path) -> str:
    """Take over the weights of a whole model. Actions of other widths begin with their initial weights.

    Returns:
        a line that says what was taken.

    Raises:
        ArgumentError: its sizes are not those of `model`.
        UserError: the folder holds no whole model.
    """
    weights, sizes = read_world_model(folder)
    same_actions = dataclasses.replace(sizes, action_dim=model.sizes.action_dim)
    if same_actions != model.sizes:
        raise ArgumentError(
            f"the model in {folder} has {same_actions}, the configuration {model.sizes}; set the --model flags to match"
        )
    taken = {name: value for name, value in weights.items() if sizes == model.sizes or name != "action.smooth.kernel"}
    model.set_weights({**model.arrays(), **taken})
    own = (
        "" if sizes == model.sizes else f"; its actions have {sizes.action_dim} entries a frame: the first layer is new"
    )
    return f"weights from {folder}{own}"


def write_results(
    config: PretrainConfig, model: LeWorldModel, diagnostics: Diagnostics, split: EpisodeSplit, images: np.ndarray
) -> None:
    """Write `encoder/`, `diagnostics.json` and `report.html`, each whole or not at all.

    Raises:
        UserError: they cannot be written.
    """
    whole = {name: np.asarray(value) for name, value in model.arrays().items()}
    files = {
        WORLD_MODEL_FILE: world_model_bytes(whole, model.sizes),
        **encoder_files(model.encoder_weights(), model.sizes.encoder, model.training_pictures),
    }
    values = {
        **dataclasses.asdict(diagnostics),
        "warning": diagnostics.warning,
        "training_episodes": split.num_training,
        "held_out_episodes": split.num_held_out,
    }
    with reported_write_errors(config.out, "encoder and report"):
        with atomic_write(config.out / ENCODER) as folder:
            for name, content in files.items():
                write_bytes(folder / name, content)
        write_json(config.out / DIAGNOSTICS, values)
    write_pretraining_report(config, diagnostics, split, model, images)


def final_line(run: Path, summary: TrainingSummary, diagnostics: Diagnostics, steps: int) -> str:
    """Final line of a run: the last step, the speed, what the encoder is worth, and how to use it."""
    step = int(summary.state.step)
    ended = f"interrupted at step {step} (continue with --resume)" if summary.interrupted else f"done at step {step}"
    speed = f"; {steps} steps at {summary.steps_per_s:.2f} steps/s" if steps else ""
    return (
        f"{ended}{speed}; held out: {diagnostics_line(diagnostics.figures())}; report {run / 'report.html'}; "
        f"use it with --policy.encoder.weights {run / ENCODER}"
    )
