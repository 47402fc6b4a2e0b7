"""Collect demonstrations: the expert under noise in the closed loop; scenes in which it succeeds become files."""

import itertools
import json
from collections.abc import Callable
from dataclasses import dataclass, replace
from functools import partial
from pathlib import Path
from typing import Any, NamedTuple

import numpy as np
from typing_extensions import override

from imf_jax.config import CollectConfig, to_dict
from imf_jax.data.episodes import Episode, collected_episodes, write_episode
from imf_jax.data.readers.hdf5 import COLLECTION, recorded_style
from imf_jax.data.statistics import write_statistics
from imf_jax.errors import UserError, one_line
from imf_jax.evaluation.setup import make_rollout, require_camera
from imf_jax.files import read_failure, write_json
from imf_jax.memory import free_main_memory
from imf_jax.recording.demonstrator import CLEAN_ACTION, Demonstrator
from imf_jax.rollout.episode import EpisodeRecord
from imf_jax.rollout.episode_log import RolloutProgress
from imf_jax.rollout.recorders.base import Recorder, ResetBatch, StepBatch
from imf_jax.seeds import split_seed
from imf_jax.sim.backends.choice import make_backend, resolve_backend, resolve_devices
from imf_jax.sim.backends.picture_choice import resolve_renderer
from imf_jax.sim.tasks import Task, get_task

PICTURE_SHARE = 0.4
"""Share of the free memory for the pictures of running scenes; each is held twice when its episode is written."""

OBSERVED = ("state", "env_state")
"""Columns that are read before a step."""

HOPELESS_SCENES = 200
HOPELESS_SHARE = 0.2
"""A collection ends when after so many scenes fewer than this share have succeeded."""


@dataclass(frozen=True)
class CollectionSummary:
    """Summary of a collection: scenes tried, scenes in which the expert succeeded, control steps, wall time [s]."""

    attempted: int
    succeeded: int
    recorded: int
    control_steps: int
    wall_s: float


class _Steps(NamedTuple):
    """Steps of a batch of episodes.

    Attributes:
        columns: name -> (A, K, ...): `action`, `noise` and `reward` of the steps, `state` and `env_state` after them.
        pictures: camera -> uint8 (K, H, W, 3) before the steps, per row.
    """

    columns: dict[str, np.ndarray]
    pictures: list[dict[str, np.ndarray]]


class DemonstrationRecorder(Recorder):
    """Writes `episode_*.hdf5` of every scene in which a `Demonstrator` succeeded.

    Args:
        folder: an existing folder.
        backend: simulates the scenes, and takes the pictures.
        cameras: cameras whose pictures are recorded.

    Attributes:
        failed: why nothing is written any more, or None.
    """

    name = "demonstrations"

    def __init__(self, folder: Path, backend: Any, cameras: tuple[str, ...]) -> None:
        self._folder, self._backend, self._cameras = folder, backend, cameras
        self._first: dict[int, dict[str, np.ndarray]] = {}
        self._steps: dict[int, list[tuple[_Steps, int, int]]] = {}
        self._qpos: dict[int, np.ndarray] = {}
        self.failed: UserError | None = None

    @override
    def setup(self, qpos: np.ndarray) -> None:
        """The renderer compiles at its first picture."""
        if self._cameras:
            self._backend.render(qpos[None], self._cameras)

    @override
    def bytes_per_episode(self, max_steps: int) -> int:
        """Its pictures; the rest is small beside them."""
        return max_steps * (len(self._cameras) * 3 * self._backend.image_size**2 + 1000)

    @override
    def on_reset(self, reset: ResetBatch) -> None:
        """An observation belongs to the step after it."""
        for row, episode in enumerate(reset.episodes.tolist()):
            self._first[episode] = {name: np.array(getattr(reset.output, name)[row]) for name in OBSERVED}
            self._steps[episode] = []
            if self._cameras:
                self._qpos[episode] = np.array(reset.output.qpos[row])

    @override
    def on_steps(self, steps: StepBatch) -> None:
        clean, output = steps.notes[CLEAN_ACTION], steps.output
        columns = {"action": np.array(clean), "noise": steps.actions - clean, "reward": np.array(output.reward)}
        columns |= {name: np.array(getattr(output, name)) for name in OBSERVED}
        batch = _Steps(columns, self._render(steps) if self._cameras else [])
        for row, (episode, count) in enumerate(zip(steps.episodes.tolist(), steps.count.tolist(), strict=True)):
            self._steps[episode].append((batch, row, count))

    def _render(self, steps: StepBatch) -> list[dict[str, np.ndarray]]:
        """Render the scenes before each step, all in one call; camera -> uint8 (count, H, W, 3) per row."""
        before = []
        for row, (episode, count) in enumerate(zip(steps.episodes.tolist(), steps.count.tolist(), strict=True)):
            after = np.array(steps.output.qpos[row, :count])
            before.append(np.concatenate([self._qpos[episode][None], after[:-1]])[:count])
            if count:
                self._qpos[episode] = after[-1]
        pictures = self._backend.render(np.concatenate(before), self._cameras)
        parts = np.split(pictures, np.cumsum([len(part) for part in before])[:-1])
        return [{camera: part[:, index].copy() for index, camera in enumerate(self._cameras)} for part in parts]

    @override
    def finish(self, record: EpisodeRecord) -> dict[str, str]:
        """Only episodes that succeeded are written."""
        episode = self._pop(record) if self.keeps(record) and self.failed is None else None
        self.discard(record.episode)
        if episode is None:
            return {}
        try:
            return {"demonstration": write_episode(self._folder, episode).name}
        except UserError as error:
            self.failed = error
            return {}

    def keeps(self, record: EpisodeRecord) -> bool:
        """Whether an episode becomes a demonstration."""
        return record.status == "success"

    @override
    def discard(self, episode: int) -> None:
        for kept in (self._first, self._steps, self._qpos):
            kept.pop(episode, None)

    def _pop(self, record: EpisodeRecord) -> Episode:
        """The episode of a record, joined along time."""
        parts, first = self._steps[record.episode], self._first[record.episode]

        def joined(name: str) -> np.ndarray:
            return np.concatenate([batch.columns[name][row, :count] for batch, row, count in parts])

        return Episode(
            **{name: joined(name) for name in ("action", "noise", "reward")},
            **{name: np.concatenate([first[name][None], joined(name)[:-1]]) for name in OBSERVED},
            images={
                camera: np.concatenate([batch.pictures[row][camera] for batch, row, _ in parts])
                for camera in self._cameras
            },
            seed=record.seed,
            episode=record.episode,
            task=self._backend.task.name,
            spaces=self._backend.task.robot.spaces,
            control_hz=1.0 / self._backend.control_dt,
            success=record.status == "success",
        )


def scenes_at_once(config: CollectConfig, max_steps: int, free: int | None) -> int:
    """Scenes at once: `config.num_envs`, or fewer where the pictures of so many running scenes would not fit in memory.

    Args:
        config: of the collection.
        max_steps: control steps that an episode can take.
        free: free memory [bytes]; None if unknown.
    """
    if not config.cameras or free is None:
        return config.num_envs
    of_scene = max_steps * len(config.cameras) * config.image_size**2 * 3
    return max(1, min(config.num_envs, int(PICTURE_SHARE * free / of_scene)))


def collect(config: CollectConfig, report: Callable[[int, str], None]) -> CollectionSummary:
    """Record demonstrations until `config.episodes` successful ones are in the folder, then write their statistics.

    Scenes run in the order of their index, exactly as many at a time as demonstrations are missing, so that which ones
    are recorded depends on nothing else.

    Args:
        config: the collection.
        report: called with the number of recorded demonstrations and a line about the running scenes.

    Raises:
        ArgumentError: the task has no expert, or the scene no such camera.
        UserError: the folder holds demonstrations of another task, seed or noise, or cannot be written, or the expert
            hardly ever succeeds.
    """
    name = resolve_backend(config.backend)
    folder, config = collection_folder(config), with_renderer(config, name)
    assert config.renderer != "auto"
    backend = make_backend(
        name, config.task, image_size=config.image_size, renderer=config.renderer, visual=config.visual
    )
    config = with_noise(config, backend.task)
    for camera in config.cameras:
        require_camera(camera, backend)
    try:
        folder.mkdir(parents=True, exist_ok=True)
    except OSError as error:
        raise UserError(f"cannot create {folder} ({error.strerror}); choose another --out") from error
    seed = split_seed("demonstration", config.seed)
    known, damaged = collected_episodes(folder, task=backend.task.name, seed=seed)
    _check_same_collection(folder, config, name, bool(known))
    for line in damaged:
        report(len(known), f"recording again: {line}")
    num_envs = scenes_at_once(config, backend.task.max_steps, free_main_memory())
    devices = resolve_devices(name, 1, num_envs) if backend.compiled else ()
    assert config.position_noise is not None
    assert config.yaw_noise is not None
    assert config.joint_noise is not None
    planner = Demonstrator(
        config.task, position_noise=config.position_noise, yaw_noise=config.yaw_noise, joint_noise=config.joint_noise
    )
    records: list[EpisodeRecord] = []
    steps, wall_s, recorded = 0, 0.0, len(known)
    fresh = (episode for episode in itertools.count() if episode not in known)

    def succeeded() -> int:
        return sum(record.status == "success" for record in records)

    def hopeless() -> bool:
        return len(records) >= HOPELESS_SCENES and succeeded() < HOPELESS_SHARE * len(records)

    while recorded < config.episodes:
        episodes = list(itertools.islice(fresh, config.episodes - recorded))
        recorder = DemonstrationRecorder(folder, backend, config.cameras)
        before = len(records)
        result = make_rollout(
            backend,
            planner,
            episodes,
            devices=devices,
            seed=seed,
            max_steps=backend.task.max_steps,
            num_envs=min(num_envs, len(episodes)) if not backend.compiled else num_envs,
            on_record=records.append,
            recorders=[recorder],
            on_progress=partial(_report, report, recorded, len(episodes)),
            should_stop=lambda recorder=recorder: recorder.failed is not None or hopeless(),
        ).run()
        steps, wall_s = steps + result.control_steps, wall_s + result.warmup_s + result.wall_s + result.capture_s
        if recorder.failed is not None:
            raise recorder.failed
        if result.capture_errors:
            raise UserError(f"a demonstration could not be recorded: {result.capture_errors[0]}")
        recorded += sum(record.status == "success" for record in records[before:])
        report(recorded, "")
        if recorded < config.episodes and hopeless():
            raise UserError(f"the expert succeeded in {succeeded()} of {len(records)} scenes; lower the noise")
    write_statistics(folder)
    return CollectionSummary(len(records), succeeded(), recorded, steps, wall_s)


def with_noise(config: CollectConfig, task: Task) -> CollectConfig:
    """The settings with the noise of the task where none is named."""
    names = ("position_noise", "yaw_noise", "joint_noise")
    return replace(config, **{name: getattr(task, name) for name in names if getattr(config, name) is None})


def with_renderer(config: CollectConfig, backend: str) -> CollectConfig:
    """The settings with the name of a renderer: that of the collection that is continued instead of auto."""
    before = recorded_style(collection_folder(config)) if config.renderer == "auto" else None
    renderer = resolve_renderer(
        before.renderer if before else config.renderer,
        config.task,
        config.cameras,
        backend=backend,
        image_size=config.image_size,
        scenes=config.num_envs,
        visual=config.visual,
    )
    return replace(config, renderer=renderer)


def collection_folder(config: CollectConfig) -> Path:
    """Folder of the demonstrations."""
    return Path("demos") / get_task(config.task).name if config.out is None else config.out


def _report(report: Callable[[int, str], None], recorded: int, scenes: int, progress: RolloutProgress) -> None:
    report(recorded + progress.successes, f"{progress.episodes} of {scenes} scenes have ended")


def _check_same_collection(folder: Path, config: CollectConfig, backend: str, started: bool) -> None:
    """Refuse to mix demonstrations made with other settings; remember the settings of a new collection."""
    path = folder / COLLECTION
    settings: dict[str, Any] = to_dict(config)
    for name in ("out", "episodes", "num_envs"):
        del settings[name]
    settings["backend"] = backend
    if started and path.is_file():
        try:
            before = json.loads(path.read_text())
        except (OSError, ValueError) as error:
            damage = f"is damaged ({one_line(error)}); remove the folder or choose another --out"
            raise read_failure(path, error, damage) from error
        # Older versions had no other.
        before = {"backend": "native", "joint_noise": settings["joint_noise"], "visual": "mesh"} | before
        differing = sorted(name for name in settings if before.get(name) != settings[name])
        if differing:
            raise UserError(
                f"{folder} was collected with other settings ({', '.join(differing)}); use the same or another --out"
            )
    write_json(path, settings)
