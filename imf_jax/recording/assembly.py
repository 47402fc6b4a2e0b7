"""Assembly of a recording: the dataset, and the strategy that the flags name. Needs the packages of datasets."""

from collections.abc import Callable
from functools import partial

import numpy as np

from imf_jax.config.recording import DaggerConfig
from imf_jax.data.lerobot.features import robot_features
from imf_jax.data.lerobot.writer import LeRobotWriter
from imf_jax.errors import ArgumentError
from imf_jax.recording.base import Strategy
from imf_jax.recording.correction import CorrectedPlanner, InterventionRules, beta_of_round
from imf_jax.recording.dagger import DaggerStrategy, OnSegment
from imf_jax.recording.episodic import EpisodicStrategy
from imf_jax.recording.events import EventRules
from imf_jax.recording.highlight import HighlightStrategy
from imf_jax.recording.recording import Recording, Render, recorded_scenes
from imf_jax.recording.sentry import SentryStrategy
from imf_jax.recording.session import Session
from imf_jax.rollout.planner import ProgramPlanner
from imf_jax.sim.backends.base import Backend
from imf_jax.sim.backends.task_scene import TaskScene
from imf_jax.sim.rendering.camera import camera_view


def open_recording(
    session: Session, on_note: Callable[[str], None] = lambda line: None, *, keep: int | None = None
) -> tuple[Recording, set[int]]:
    """Create or resume the dataset that the flags name.

    Args:
        session: the run.
        on_note: receives one line for each repair.
        keep: episodes of a resumed dataset to keep; all by default.

    Returns:
        the recording, and the scenes of this seed of which the dataset holds frames.

    Raises:
        ArgumentError: a resumed dataset has other features; both are named.
        UserError: it is damaged, or the disk is nearly full.
    """
    flags = session.config.recording
    assert flags.dataset is not None
    task = session.backend.task
    pictures = dict.fromkeys(flags.cameras, (flags.image_size, flags.image_size))
    features = robot_features(task.robot.spaces, pictures, task.env_state_dim)
    event_rules(session)  # settings that it refuses must not leave an empty dataset behind
    known: set[int] = set()
    if flags.resume:
        writer = LeRobotWriter.resume(flags.dataset, features, session.fps(), keep=keep)
        for line in writer.repaired:
            on_note(f"{flags.dataset}: {line}")
        known = recorded_scenes(flags.dataset, session.seed)
    else:
        writer = LeRobotWriter.create(flags.dataset, features, session.fps(), robot_type=task.robot.spaces.name)
    render = partial(make_render, session.backend, flags.cameras, flags.image_size) if flags.cameras else None
    return Recording(writer, task.name, session.seed, render), known


def make_render(backend: Backend, cameras: tuple[str, ...], size: int) -> Render:
    """Make the renderer of the recorded pictures, which is not the loop's: that one renders at the same time."""
    return TaskScene(backend.task, backend.visual, size, backend.renderer).renderer(cameras).render


def make_strategy(
    session: Session, recording: Recording, on_segment: OnSegment | None = None, cameras: tuple[str, ...] = ()
) -> Strategy:
    """Make the strategy that the flags name; `on_segment` and its `cameras`: see `DaggerStrategy`."""
    config, fps = session.config, session.fps()
    if config.strategy == "episodic":
        return EpisodicStrategy(recording)
    if config.strategy == "sentry":
        sentry = config.sentry
        return SentryStrategy(recording, shard_bytes=sentry.shard_bytes, max_bytes=sentry.max_bytes)
    if config.strategy == "highlight":
        highlight = config.highlight
        return HighlightStrategy(
            recording,
            event_rules(session),
            pre_frames=max(1, round(highlight.pre_s * fps)),
            post_frames=round(highlight.post_s * fps),
            ring_bytes=highlight.ring_bytes,
        )
    return DaggerStrategy(recording, save=config.dagger.save, on_segment=on_segment, cameras=cameras)


def event_rules(session: Session) -> EventRules:
    """Make the rules of the events that the flags name.

    Raises:
        ArgumentError: the event camera cannot be used.
    """
    highlight, in_view, task = session.config.highlight, None, session.backend.task
    if "out_of_view" in highlight.events:
        in_view = camera_test(session.backend, session.event_camera, session.config.recording.image_size)
    return EventRules(
        highlight.events,
        highlight.reward_jump,
        max(1, round(highlight.stall_s * session.fps())),
        task.lifted_stage,
        task.followed_position,
        in_view,
    )


def camera_test(backend: Backend, camera: str, size: int) -> Callable[[np.ndarray], bool]:
    """Make a test whether a point (3,) [m] is on the picture of a camera.

    Raises:
        ArgumentError: the camera moves with an arm, so that its view says nothing about the object.
    """
    if backend.model.cam_bodyid[backend.model.camera(camera).id] != 0:
        raise ArgumentError(f"--event-camera {camera} moves; --events out_of_view needs one that stands still")
    view = camera_view(backend.model, backend.model.qpos0, camera, size, size)

    def on_picture(point: np.ndarray) -> bool:
        uv, _ = view.project(point)
        return bool(np.isfinite(uv).all() and (uv >= 0).all() and (uv <= size).all())

    return on_picture


def intervention_rules(dagger: DaggerConfig, round_number: int) -> InterventionRules:
    """Make the rules for the expert's interventions in round 1, 2, ..."""
    return InterventionRules(
        distance=dagger.distance if "distance" in dagger.intervene else None,
        no_progress_steps=dagger.no_progress_steps if "no_progress" in dagger.intervene else None,
        beta=beta_of_round(dagger.beta, round_number) if "beta" in dagger.intervene else 0.0,
        correction_steps=dagger.correction_steps,
    )


def corrected(session: Session, planner: ProgramPlanner, *, round_number: int) -> ProgramPlanner:
    """Make a planner with the expert as its corrector."""
    rules = intervention_rules(session.config.dagger, round_number)
    return CorrectedPlanner(planner, session.policy.task, rules)
