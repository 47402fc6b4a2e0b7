"""One evaluation from start to report: roll out, record, summarise, write. Testing and validation both end here."""

from collections.abc import Callable, Sequence
from dataclasses import dataclass, field, replace
from pathlib import Path
from typing import Any, Literal

from imf_jax.config import CaptureConfig, require
from imf_jax.config.perturbation import active
from imf_jax.errors import EXIT_FAILED, EXIT_INTERRUPTED, EXIT_OK, EXIT_SOME_ERRORED
from imf_jax.evaluation.cluster import Cluster
from imf_jax.evaluation.folder import METRICS, EvaluationFolder, require_empty
from imf_jax.evaluation.manifest import build_manifest
from imf_jax.evaluation.merge import merge_shares
from imf_jax.evaluation.report.page import write_report
from imf_jax.evaluation.resume import prepare_resume, require_resumable, started, stored_num_envs
from imf_jax.evaluation.setup import Setup, make_rollout, require_camera
from imf_jax.evaluation.statistics import evaluation_metrics, success_line
from imf_jax.files import read_json
from imf_jax.rollout.capacity import capture_bytes, default_num_envs, require_fit
from imf_jax.rollout.capture import QUEUE_BYTES
from imf_jax.rollout.episode import EpisodeRecord
from imf_jax.rollout.episode_log import RolloutResult
from imf_jax.rollout.progress import progress_bar
from imf_jax.rollout.recorders import make_recorders
from imf_jax.rollout.recorders.base import Recorder, RecorderContext
from imf_jax.rollout.timing import StageClock, write_timing
from imf_jax.seeds import Split, split_seed

Existing = Literal["refuse", "replace", "resume"]
"""Treatment of an evaluation that is in the folder already."""


@dataclass(frozen=True)
class EvaluationSettings:
    """Settings of an evaluation: its episodes, and the captures that are kept.

    Attributes:
        episodes: scenes to evaluate: 0, 1, ... of the seed.
        num_envs: scenes simulated at once, on all devices of a process together; by default `default_num_envs`, or
            those of the evaluation that is resumed.
        split: purpose of the scenes; splits never share one.
        seed: the user's seed.
        capture: captures of each episode besides its record.
        captured_episodes: captures are made of the first so many episodes; of all by default.
    """

    episodes: int
    num_envs: int | None = None
    split: Split = "test"
    seed: int = 0
    capture: CaptureConfig = field(default_factory=CaptureConfig)
    captured_episodes: int | None = None

    def __post_init__(self) -> None:
        require(self.episodes >= 1, f"{self.episodes} episodes leave nothing to evaluate; ask for at least 1")
        require(
            self.num_envs is None or self.num_envs >= 1,
            f"{self.num_envs} scenes at once cannot be simulated; ask for at least 1",
        )


@dataclass(frozen=True)
class Hooks:
    """Hooks between an evaluation and its caller.

    Attributes:
        should_stop: asked before every plan; True ends the evaluation early.
        on_note: receives lines for the user before the start: what was resumed, and the memory bound of the captures.
        show_progress: show a progress bar.
    """

    should_stop: Callable[[], bool] = lambda: False
    on_note: Callable[[str], None] = lambda line: None
    show_progress: bool = False


@dataclass(frozen=True)
class Summary:
    """Summary of a finished evaluation.

    Attributes:
        folder: the folder of its files.
        metrics: content of `metrics.json`.
        records: the episodes, in order of their index.
    """

    folder: Path
    metrics: dict[str, Any]
    records: tuple[EpisodeRecord, ...]

    @property
    def headline(self) -> str:
        """Success rate with its interval, in one line."""
        return success_line(self.metrics)

    @property
    def images(self) -> tuple[Path, ...]:
        """Pictures that were made, in order of the episodes."""
        return tuple(self.folder / r.artifacts["path_image"] for r in self.records if "path_image" in r.artifacts)

    @property
    def exit_code(self) -> int:
        """Exit code of a command line; see `imf_jax.errors`. A missing capture counts like an error."""
        if self.metrics["interrupted"] or self.metrics.get("repeats", {}).get("interrupted"):
            return EXIT_INTERRUPTED
        if not self.records:
            return EXIT_FAILED
        return EXIT_SOME_ERRORED if self.metrics["n_error"] or self.metrics["capture_errors"] else EXIT_OK


def evaluate(
    setup: Setup,
    settings: EvaluationSettings,
    out: Path,
    *,
    about: dict[str, Any] | None = None,
    existing: Existing = "refuse",
    cluster: Cluster | None = None,
    hooks: Hooks | None = None,
) -> Summary:
    """Roll out all episodes and write manifest, records, captures, metrics and report to `out`.

    Files are written as early as possible: the manifest before the first episode, each record when its episode
    ends. Interrupted or failed evaluations keep what they have.

    Args:
        setup: policy, backend and devices.
        settings: the episodes and captures.
        out: the evaluation folder.
        about: entries of the manifest besides the policy's provenance, plain JSON types: `config`, `reference`, ...
        existing: treatment of an evaluation that is in `out` already: refuse to write there, replace it, or resume
            it, which runs only episodes without a record, and all if there is none yet.
        cluster: the processes that share the episodes; all of them call this function with the same arguments.
        hooks: hooks of the caller.

    Raises:
        ArgumentError: a seed outside its range, an unknown camera, a renderer that would render nothing, or more
            scenes at once than fit in memory.
        UserError: `out` holds something already, or cannot be written; another process of the cluster failed.
    """
    cluster, hooks = cluster or Cluster(), hooks or Hooks()
    prepared = prepare(setup, settings, out, about or {}, existing, cluster)
    for line in prepared.notes:
        hooks.on_note(line)
    return finish(prepared, run(prepared, hooks))


@dataclass
class Prepared:
    """Prepared evaluation: everything is checked, and nothing is compiled.

    Attributes:
        setup, settings, out, existing, cluster: see `evaluate`.
        folder: the folder that this process writes to.
        manifest: content of `manifest.json`.
        episodes: those of this process.
        seed: seed of its keys.
        num_envs: scenes that this process simulates at once.
        recorders: the captures.
        records: episodes that have ended; at first those that are there already.
        measured: metrics of the evaluation that is resumed, if it was complete.
        notes: lines for the user.
    """

    setup: Setup
    settings: EvaluationSettings
    out: Path
    existing: Existing
    cluster: Cluster
    folder: Path
    manifest: dict[str, Any]
    episodes: Sequence[int]
    seed: int
    num_envs: int
    recorders: list[Recorder]
    records: list[EpisodeRecord] = field(default_factory=list)
    measured: dict[str, Any] | None = None
    notes: list[str] = field(default_factory=list)


def prepare(
    setup: Setup, settings: EvaluationSettings, out: Path, about: dict[str, Any], existing: Existing, cluster: Cluster
) -> Prepared:
    """Check settings and folder, and read the records of an evaluation that is resumed; see `evaluate`."""
    backend, planner = setup.backend, setup.policy.planner
    settings = replace(settings, capture=settings.capture.with_default(backend.task.picture_camera))
    require_possible(setup, settings, cluster)
    seed = split_seed(settings.split, settings.seed)
    episodes = cluster.share(range(settings.episodes))
    folder = cluster.folder(out)
    wanted = settings.num_envs or (stored_num_envs(folder) if existing == "resume" else None)
    wanted = wanted or default_num_envs(backend, planner, len(episodes), setup.devices)
    num_envs = setup.num_envs(wanted, len(episodes))
    require_fit(backend, planner, num_envs, setup.devices)
    chunk_bytes = planner.program.chunk_bytes() / planner.num_action_steps
    context = RecorderContext(folder, backend, num_envs, settings.captured_episodes, chunk_bytes)
    recorders = make_recorders(settings.capture, context)
    manifest = describe(setup, settings, cluster, num_envs, about)
    if cluster.count > 1 and cluster.index == 0:
        if existing == "resume":
            require(not started(out), f"{out} holds merged results of several processes; choose another --out")
            require_resumable(out)
        else:
            require_empty(out, replace=existing == "replace")
    cluster.wait("start")  # process 0 has looked at the folder before any process writes to it
    if existing == "resume" and not started(folder):
        existing = "refuse"
    prepared = Prepared(setup, settings, out, existing, cluster, folder, manifest, episodes, seed, num_envs, recorders)
    if existing == "resume":
        prepared.measured = read_json(folder / METRICS) if (folder / METRICS).is_file() else None
        prepared.records, prepared.notes = prepare_resume(folder, manifest)
        prepared.notes.append(f"{len(prepared.records)} of {len(episodes)} episodes are there already")
    if recorders:
        bound = capture_bytes(recorders, num_envs, backend.task.max_steps, QUEUE_BYTES) / 2**20
        prepared.notes.append(
            f"captures take at most {bound:,.0f} MiB of memory: a full queue and {num_envs} running episodes"
        )
    return prepared


def require_possible(setup: Setup, settings: EvaluationSettings, cluster: Cluster) -> None:
    """Refuse settings that cannot be evaluated, or would have no effect.

    Raises:
        ArgumentError: names the flag.
    """
    backend, planner, capture = setup.backend, setup.policy.planner, settings.capture
    require(
        backend.renderer == "warp" or bool(planner.cameras),
        f"--renderer {backend.renderer} would do nothing: this policy sees no pictures",
    )
    require(
        cluster.count <= settings.episodes,
        f"{settings.episodes} episodes cannot be shared by {cluster.count} processes; start fewer processes",
    )
    for camera in (*capture.cameras, *planner.cameras):
        require_camera(camera, backend)


def describe(
    setup: Setup, settings: EvaluationSettings, cluster: Cluster, num_envs: int, about: dict[str, Any]
) -> dict[str, Any]:
    """Content of `manifest.json`."""
    backend, planner = setup.backend, setup.policy.planner
    return build_manifest(
        policy=setup.policy.label,
        task=backend.task.name,
        backend=backend.name,
        seeds={"split": settings.split, "seed": settings.seed, "episodes": [0, settings.episodes - 1]},
        max_steps=backend.task.max_steps,
        control_hz=1 / backend.control_dt,
        cameras=list(dict.fromkeys([*planner.cameras, *settings.capture.cameras])),
        renderer=backend.renderer if planner.cameras else None,
        visual=backend.visual if planner.cameras else None,
        num_envs=num_envs,
        devices=max(1, len(setup.devices)),
        processes=cluster.count,
        **setup.policy.provenance,
        **about,
    )


def run(prepared: Prepared, hooks: Hooks) -> dict[str, Any]:
    """Roll out the missing episodes, and write their results; returns the metrics of this process."""
    setup, settings, folder, records = prepared.setup, prepared.settings, prepared.folder, prepared.records
    backend, alone = setup.backend, prepared.cluster.count == 1
    there = {record.episode for record in records}
    missing = [episode for episode in prepared.episodes if episode not in there]
    perturbations = active(setup.policy.provenance.get("perturbations", {}))
    clock = StageClock(staged=not backend.compiled) if settings.capture.save_timing else None
    result = RolloutResult()
    with (
        EvaluationFolder(
            folder,
            prepared.manifest,
            replace=prepared.existing == "replace",
            resumed=prepared.existing == "resume",
        ) as files,
        progress_bar(len(missing), shown=hooks.show_progress) as progress,
    ):

        def keep(record: EpisodeRecord) -> None:
            record = replace(record, perturbations=perturbations)
            records.append(record)
            files.add(record)

        if missing:
            result = make_rollout(
                backend,
                setup.policy.planner,
                missing,
                devices=setup.devices,
                seed=prepared.seed,
                max_steps=backend.task.max_steps,
                num_envs=prepared.num_envs if backend.compiled else min(prepared.num_envs, len(missing)),
                on_record=keep,
                recorders=prepared.recorders,
                on_progress=progress,
                should_stop=hooks.should_stop,
                clock=clock,
            ).run()
        if clock and missing:
            write_timing(folder, clock.raw(result.warmup_s, resumed=bool(there)), whole=alone)
        if missing or prepared.measured is None:
            metrics = evaluation_metrics(records, result, len(prepared.episodes), backend.task.stages)
            metrics["resumed_episodes"] = len(there)
        else:  # it was complete: its measurements and capture errors stay
            metrics = prepared.measured
        files.finish(metrics, records)
    return metrics


def finish(prepared: Prepared, metrics: dict[str, Any]) -> Summary:
    """Merge the shares of several processes, and write the report; `metrics`: of this process."""
    out, records = prepared.out, prepared.records
    if prepared.cluster.count > 1:
        metrics, records = merge_shares(
            out,
            prepared.cluster,
            prepared.manifest,
            requested=prepared.settings.episodes,
            stages=prepared.setup.backend.task.stages,
        )
    else:
        write_report(out)
    return Summary(out, metrics, tuple(sorted(records, key=lambda record: record.episode)))
