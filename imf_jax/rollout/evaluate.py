"""One evaluation from start to report: roll out, record, summarise, write. Testing and validation both end here."""

from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Protocol

import mujoco

from imf_jax.config import RendererName, require
from imf_jax.errors import EXIT_FAILED, EXIT_INTERRUPTED, EXIT_OK, EXIT_SOME_ERRORED
from imf_jax.rollout.engine import Rollout
from imf_jax.rollout.episode import EpisodeRecord, Split, split_seed
from imf_jax.rollout.manifest import build_manifest
from imf_jax.rollout.planner import Planner
from imf_jax.rollout.progress import progress_bar
from imf_jax.rollout.recorders.base import OnlyEpisodes, Recorder
from imf_jax.rollout.recorders.path_image import PathImageRecorder, Photographer
from imf_jax.rollout.recorders.trajectory import TrajectoryRecorder
from imf_jax.rollout.report import write_report
from imf_jax.rollout.statistics import episode_statistics, success_line
from imf_jax.rollout.writers import EvaluationFolder
from imf_jax.sim.backends.base import Backend
from imf_jax.sim.tasks.base import Task


class PicturedBackend(Backend, Protocol):
    """A backend whose scenes can be photographed.

    Attributes:
        task: the task of its scenes.
        model: the compiled scene.
        renderer: what makes the pictures that policies see.
    """

    task: Task
    model: mujoco.MjModel
    renderer: RendererName


@dataclass(frozen=True)
class EvaluationSettings:
    """What is evaluated, and what is kept of it.

    Attributes:
        episodes: scenes to evaluate: 0, 1, ... of the seed.
        num_envs: scenes simulated at once.
        split: what the scenes serve; splits never share one.
        seed: the user's seed.
        save_trajectory: write `trajectory.npz` of every episode.
        num_images: write `trajectory.png` of the first so many episodes.
        camera: camera of those pictures.
    """

    episodes: int
    num_envs: int
    split: Split = "test"
    seed: int = 0
    save_trajectory: bool = False
    num_images: int = 0
    camera: str = "front"

    def __post_init__(self) -> None:
        require(self.episodes >= 1, f"{self.episodes} episodes leave nothing to evaluate; ask for at least 1")
        require(self.num_envs >= 1, f"{self.num_envs} scenes at once cannot be simulated; ask for at least 1")


@dataclass(frozen=True)
class Summary:
    """An evaluation that is over.

    Attributes:
        folder: where its files are.
        metrics: content of `metrics.json`.
        records: the episodes, in order of their index.
    """

    folder: Path
    metrics: dict[str, Any]
    records: tuple[EpisodeRecord, ...]

    @property
    def headline(self) -> str:
        """Success with its interval, in one line."""
        return success_line(self.metrics)

    @property
    def images(self) -> tuple[Path, ...]:
        """The pictures that were made, in order of the episodes."""
        return tuple(self.folder / r.artifacts["path_image"] for r in self.records if "path_image" in r.artifacts)

    @property
    def exit_code(self) -> int:
        """What a command line tells its caller; see `imf_jax.errors`. A missing capture counts like an error."""
        if self.metrics["interrupted"]:
            return EXIT_INTERRUPTED
        if not self.records:
            return EXIT_FAILED
        return EXIT_SOME_ERRORED if self.metrics["n_error"] or self.metrics["capture_errors"] else EXIT_OK


def evaluate(
    planner: Planner,
    backend: PicturedBackend,
    settings: EvaluationSettings,
    out: Path,
    *,
    policy: str,
    provenance: dict[str, Any] | None = None,
    replace: bool = False,
    show_progress: bool = False,
    should_stop: Callable[[], bool] = lambda: False,
) -> Summary:
    """Roll out all episodes and write manifest, records, captures, metrics and report to `out`.

    What is written is there as soon as it is known: the manifest before the first episode, each record when its
    episode ends. Interrupted or failed evaluations keep what they have.

    Args:
        planner: what chooses actions.
        backend: the simulator.
        settings: what to evaluate and to keep.
        out: the evaluation folder.
        policy: how to call what is evaluated.
        provenance: more for the manifest, plain JSON types: `checkpoint`, `config`, `reference`, ...
        replace: an evaluation already in `out` is the caller's, and overwritten.
        show_progress: show a progress bar.
        should_stop: asked before every plan; True ends the evaluation early.

    Raises:
        ArgumentError: a seed outside its range, an unknown camera, or a renderer that would render nothing.
        UserError: `out` holds something already, or cannot be written.
    """
    require(
        backend.renderer == "warp" or bool(planner.cameras),
        f"--renderer {backend.renderer} would do nothing: this policy sees no pictures",
    )
    require_camera(settings.camera, backend)
    for camera in planner.cameras:
        require_camera(camera, backend)
    cameras = dict.fromkeys([*planner.cameras, *([settings.camera] if settings.num_images else [])])
    seed = split_seed(settings.split, settings.seed)
    recorders = make_recorders(backend, settings, out)
    manifest = build_manifest(
        policy=policy,
        task=backend.task.name,
        backend=backend.name,
        seeds={"split": settings.split, "seed": settings.seed, "episodes": [0, settings.episodes - 1]},
        max_steps=backend.task.max_steps,
        control_hz=1 / backend.control_dt,
        cameras=list(cameras),
        renderer=backend.renderer if planner.cameras else None,
        **(provenance or {}),
    )
    records: list[EpisodeRecord] = []
    with (
        EvaluationFolder(out, manifest, replace=replace) as folder,
        progress_bar(settings.episodes, shown=show_progress) as progress,
    ):

        def keep(record: EpisodeRecord) -> None:
            records.append(record)
            folder.add(record)

        result = Rollout(
            backend,
            planner,
            range(settings.episodes),
            seed=seed,
            max_steps=backend.task.max_steps,
            num_envs=settings.num_envs,
            on_record=keep,
            recorders=recorders,
            on_progress=progress,
            should_stop=should_stop,
        ).run()
        records.sort(key=lambda record: record.episode)
        metrics = {
            **episode_statistics(records),
            "n_requested": settings.episodes,
            "interrupted": result.interrupted,
            "warmup_s": result.warmup_s,
            "wall_s": result.wall_s,
            "capture_s": result.capture_s,
            "control_steps": result.control_steps,
            "control_steps_per_s": result.control_steps / result.wall_s,
            "frames_rendered": result.frames_rendered,
            "overflow_steps": result.overflow_steps,
            "capture_errors": result.capture_errors,
        }
        folder.finish(metrics)
    write_report(out)
    return Summary(out, metrics, tuple(records))


def require_camera(name: str, backend: Backend) -> None:
    """Refuse a camera that the scene does not have.

    Raises:
        ArgumentError: lists those that it has.
    """
    require(name in backend.cameras, f"camera {name!r} is not in the scene; choose from: {', '.join(backend.cameras)}")


def make_recorders(backend: PicturedBackend, settings: EvaluationSettings, out: Path) -> list[Recorder]:
    """The captures that `settings` ask for."""
    recorders: list[Recorder] = []
    if settings.save_trajectory:
        recorders.append(TrajectoryRecorder(out))
    if settings.num_images:
        photograph = Photographer(backend.model, settings.camera)
        recorders.append(OnlyEpisodes(PathImageRecorder(out, photograph), range(settings.num_images)))
    return recorders
