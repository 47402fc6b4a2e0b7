"""One evaluation from start to report: roll out, record, summarise, write. Testing and validation both end here."""

import shutil
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import jax

from imf_jax.config import IMAGE_SIZE, VideoChoice, require, require_video_settings
from imf_jax.errors import EXIT_FAILED, EXIT_INTERRUPTED, EXIT_OK, EXIT_SOME_ERRORED
from imf_jax.evaluation.cluster import PROCESSES, Cluster, move_artifacts, process_folder
from imf_jax.evaluation.folder import METRICS, EvaluationFolder, read_records, require_empty, write_merged
from imf_jax.evaluation.manifest import build_manifest
from imf_jax.evaluation.report.page import write_report
from imf_jax.evaluation.resume import require_resumable, started, take_up
from imf_jax.evaluation.statistics import episode_statistics, success_line
from imf_jax.files import read_json
from imf_jax.rollout.capacity import capture_bytes, require_fit
from imf_jax.rollout.capture import QUEUE_BYTES
from imf_jax.rollout.engine import Rollout
from imf_jax.rollout.episode import EpisodeRecord
from imf_jax.rollout.ledger import RolloutResult
from imf_jax.rollout.planner import ProgramPlanner
from imf_jax.rollout.progress import progress_bar
from imf_jax.rollout.recorders.base import EPISODES, OnlyEpisodes, Recorder
from imf_jax.rollout.recorders.path_image import PathImageRecorder, Photographer
from imf_jax.rollout.recorders.trajectory import TrajectoryRecorder
from imf_jax.rollout.timing import StageClock, merge_timing, write_timing
from imf_jax.seeds import Split, split_seed
from imf_jax.sim.backends.base import Backend


@dataclass(frozen=True)
class EvaluationSettings:
    """What is evaluated, and what is kept of it.

    Attributes:
        episodes: scenes to evaluate: 0, 1, ... of the seed.
        num_envs: scenes simulated at once, on all devices of a process together.
        split: what the scenes serve; splits never share one.
        seed: the user's seed.
        save_trajectory: write `trajectory.npz` of every episode.
        num_images: write `trajectory.png` of the first so many episodes.
        camera: camera of those pictures.
        save_timing: write `timing.json`, and with `save_trajectory` the raw times of every step.
        record_video: episodes whose videos are kept.
        video_cameras, video_size: cameras of the videos, and their height and width [pixels].
    """

    episodes: int
    num_envs: int
    split: Split = "test"
    seed: int = 0
    save_trajectory: bool = False
    num_images: int = 0
    camera: str = "front"
    save_timing: bool = False
    record_video: VideoChoice = "none"
    video_cameras: tuple[str, ...] = ("front",)
    video_size: int = IMAGE_SIZE

    def __post_init__(self) -> None:
        require(self.episodes >= 1, f"{self.episodes} episodes leave nothing to evaluate; ask for at least 1")
        require(self.num_envs >= 1, f"{self.num_envs} scenes at once cannot be simulated; ask for at least 1")
        require_video_settings(self.record_video, self.video_cameras, self.video_size)

    @property
    def num_videos(self) -> int:
        """Episodes that are filmed; of failures it is known only at the end which they are."""
        choice = self.record_video
        return min(choice, self.episodes) if isinstance(choice, int) else 0 if choice == "none" else self.episodes

    @property
    def pictured(self) -> tuple[str, ...]:
        """Cameras of pictures and videos."""
        return (*([self.camera] if self.num_images else []), *(self.video_cameras if self.num_videos else ()))


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
    planner: ProgramPlanner,
    backend: Backend,
    settings: EvaluationSettings,
    out: Path,
    *,
    policy: str,
    provenance: dict[str, Any] | None = None,
    replace: bool = False,
    resume: bool = False,
    show_progress: bool = False,
    should_stop: Callable[[], bool] = lambda: False,
    on_note: Callable[[str], None] = lambda line: None,
    devices: Sequence[Any] = (),
    cluster: Cluster | None = None,
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
        resume: continue the evaluation in `out`: only episodes without a record run. Does nothing special if there is
            none yet.
        show_progress: show a progress bar.
        should_stop: asked before every plan; True ends the evaluation early.
        on_note: receives lines for the user before the start: the memory bound of the captures.
        devices: devices that share the scenes of a compiled backend; the first one if none are given.
        cluster: the processes that share the episodes; all of them call this function with the same arguments.

    Raises:
        ArgumentError: a seed outside its range, an unknown camera, a renderer that would render nothing, or more
            scenes at once than fit in memory.
        UserError: `out` holds something already, or cannot be written; another process of the cluster failed.
    """
    cluster = cluster or Cluster()
    require(
        backend.renderer == "warp" or bool(planner.cameras),
        f"--renderer {backend.renderer} would do nothing: this policy sees no pictures",
    )
    require(
        cluster.count <= settings.episodes,
        f"{settings.episodes} episodes cannot be shared by {cluster.count} processes; start fewer processes",
    )
    for camera in settings.pictured:
        require_camera(camera, backend)
    for camera in planner.cameras:
        require_camera(camera, backend)
    cameras = dict.fromkeys([*planner.cameras, *settings.pictured])
    seed = split_seed(settings.split, settings.seed)
    devices = tuple(devices) or ((jax.local_devices()[0],) if backend.compiled else ())
    episodes = cluster.share(range(settings.episodes))
    num_envs = min(settings.num_envs, -(-len(episodes) // max(1, len(devices))) * max(1, len(devices)))
    require_fit(backend, planner, num_envs, devices)
    if settings.num_videos:
        from imf_jax.rollout.recorders.video import require_encoder  # needs an extra

        require_encoder(min(num_envs, settings.num_videos) * len(settings.video_cameras))
    manifest = build_manifest(
        policy=policy,
        task=backend.task.name,
        backend=backend.name,
        seeds={"split": settings.split, "seed": settings.seed, "episodes": [0, settings.episodes - 1]},
        max_steps=backend.task.max_steps,
        control_hz=1 / backend.control_dt,
        cameras=list(cameras),
        renderer=backend.renderer if planner.cameras else None,
        devices=max(1, len(devices)),
        processes=cluster.count,
        **(provenance or {}),
    )
    if cluster.count > 1 and cluster.index == 0:
        if resume:
            require(not started(out), f"{out} holds merged results of several processes; choose another --out")
            require_resumable(out)
        else:
            require_empty(out, replace=replace)
    cluster.wait("start")  # process 0 has looked at the folder before anybody writes to it
    folder = cluster.folder(out)
    records: list[EpisodeRecord] = []
    resumed = resume and started(folder)
    known: dict[str, Any] | None = None
    if resumed:
        known = read_json(folder / METRICS) if (folder / METRICS).is_file() else None
        records, problems = take_up(folder, manifest)
        for problem in problems:
            on_note(problem)
        on_note(f"{len(records)} of {len(episodes)} episodes are there already")
    there = {record.episode for record in records}
    missing = [episode for episode in episodes if episode not in there]
    recorders = make_recorders(backend, settings, folder)
    clock = StageClock(staged=not backend.compiled) if settings.save_timing else None
    if recorders:
        bound = capture_bytes(recorders, num_envs, backend.task.max_steps, QUEUE_BYTES)
        on_note(
            f"captures take at most {bound / 2**20:,.0f} MiB of memory: a full queue and {num_envs} running episodes"
        )
    with (
        EvaluationFolder(folder, manifest, replace=replace, resumed=resumed) as files,
        progress_bar(len(missing), shown=show_progress) as progress,
    ):

        def keep(record: EpisodeRecord) -> None:
            records.append(record)
            files.add(record)

        result = RolloutResult()
        if missing:
            result = make_rollout(
                backend,
                planner,
                missing,
                devices=devices,
                seed=seed,
                max_steps=backend.task.max_steps,
                num_envs=num_envs if backend.compiled else min(num_envs, len(missing)),
                on_record=keep,
                recorders=recorders,
                on_progress=progress,
                should_stop=should_stop,
                clock=clock,
            ).run()
        if clock and missing:
            write_timing(folder, clock.raw(result.warmup_s, resumed=bool(there)), whole=cluster.count == 1)
        if missing or known is None:
            metrics = figures(records, result, len(episodes), backend.task.stages) | {"resumed_episodes": len(there)}
        else:  # it was complete: what was measured, and what could not be captured, stays
            metrics = known
        files.finish(metrics, records)
    if cluster.count > 1:
        return _merge(out, cluster, manifest, settings.episodes, backend.task.stages)
    write_report(out)
    return Summary(out, metrics, tuple(sorted(records, key=lambda record: record.episode)))


def make_rollout(
    backend: Backend, planner: ProgramPlanner, episodes: Sequence[int], *, devices: Sequence[Any], **options: Any
) -> Any:
    """The loop that suits the backend; see `Rollout` for the options."""
    if not backend.compiled:
        return Rollout(backend, planner, episodes, **options)
    from imf_jax.rollout.compiled import CompiledRollout  # it imports MJX, which the host loop does without

    return CompiledRollout(backend, planner, episodes, devices=devices, **options)  # type: ignore[arg-type]


def figures(
    records: Sequence[EpisodeRecord], result: RolloutResult, requested: int, stages: Sequence[str]
) -> dict[str, Any]:
    """Content of `metrics.json`; `stages`: names of the stages of the task."""
    return {
        **episode_statistics(records, stages),
        "n_requested": requested,
        "interrupted": result.interrupted,
        "warmup_s": result.warmup_s,
        "wall_s": result.wall_s,
        "capture_s": result.capture_s,
        "control_steps": sum(record.steps for record in records),
        "control_steps_per_s": result.control_steps / result.wall_s if result.wall_s else 0.0,
        "frames_rendered": result.frames_rendered,
        "overflow_steps": sum(record.overflow_steps for record in records),
        "capture_errors": result.capture_errors,
    }


def _merge(out: Path, cluster: Cluster, manifest: dict[str, Any], requested: int, stages: Sequence[str]) -> Summary:
    """Wait for all processes; process 0 makes one evaluation of their shares, the others read it."""
    cluster.wait("shares are written")
    if cluster.index == 0:
        folders = [process_folder(out, index) for index in range(cluster.count)]
        records = sorted((r for folder in folders for r in read_records(folder)[0]), key=lambda r: r.episode)
        shares = [read_json(folder / METRICS) for folder in folders]
        total = RolloutResult(
            **{name: max(share[name] for share in shares) for name in ("warmup_s", "wall_s", "capture_s")},
            **{
                name: sum(share[name] for share in shares)
                for name in ("control_steps", "frames_rendered", "overflow_steps")
            },
            interrupted=any(share["interrupted"] for share in shares),
            capture_errors=[line for share in shares for line in share["capture_errors"]],
        )
        for folder in folders:
            move_artifacts(folder / EPISODES, out / EPISODES)
        merge_timing(folders, out)
        write_merged(out, manifest, records, figures(records, total, requested, stages))
        shutil.rmtree(out / PROCESSES)
        write_report(out)
    cluster.wait("shares are merged")
    return Summary(out, read_json(out / METRICS), tuple(read_records(out)[0]))


def require_camera(name: str, backend: Backend) -> None:
    """Refuse a camera that the scene does not have.

    Raises:
        ArgumentError: lists those that it has.
    """
    require(name in backend.cameras, f"camera {name!r} is not in the scene; choose from: {', '.join(backend.cameras)}")


def make_recorders(backend: Backend, settings: EvaluationSettings, out: Path) -> list[Recorder]:
    """The captures that `settings` ask for."""
    recorders: list[Recorder] = []
    if settings.save_trajectory:
        recorders.append(TrajectoryRecorder(out))
    if settings.num_images:
        photograph = Photographer(backend.model, settings.camera)
        recorders.append(OnlyEpisodes(PathImageRecorder(out, photograph), range(settings.num_images)))
    if settings.num_videos:
        from imf_jax.rollout.recorders.video import Camerawork, VideoRecorder

        cameras, size = settings.video_cameras, settings.video_size
        film = VideoRecorder(
            out,
            Camerawork(backend.model, cameras, size),
            cameras,
            size,
            round(1 / backend.control_dt),
            failures_only=settings.record_video == "failures",
        )
        recorders.append(OnlyEpisodes(film, range(settings.num_videos)))
    return recorders
