"""Session of a strategy, from its flags to its last frame."""

from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass, field, replace
from pathlib import Path

from imf_jax.config import require
from imf_jax.config.recording import RolloutConfig
from imf_jax.errors import EXIT_FAILED, EXIT_INTERRUPTED, EXIT_OK, EXIT_SOME_ERRORED
from imf_jax.evaluation.setup import assemble, make_rollout, require_camera
from imf_jax.recording.base import Strategy, StrategyRecorder
from imf_jax.rollout.capacity import require_fit
from imf_jax.rollout.episode import EpisodeRecord
from imf_jax.rollout.planner import ProgramPlanner
from imf_jax.rollout.progress import TimeLimit, progress_bar
from imf_jax.seeds import split_seed


@dataclass
class StrategySummary:
    """Summary of a finished run.

    Attributes:
        records: records of the scenes that ended.
        wall_s: time of the loops [s].
        control_steps: control steps of the scenes that ended.
        interrupted: a stop was requested before it was done.
        failed: reason why the strategy could not go on, or None.
        errors: one line for each scene or frame that was not recorded.
        frames: frames that were recorded.
        complete: nothing was left to do.
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
        """Exit code of a command line; see `imf_jax.errors`."""
        if self.failed is not None:
            return EXIT_FAILED
        if self.interrupted:
            return EXIT_INTERRUPTED
        if not (self.records or self.frames or self.complete):
            return EXIT_FAILED
        return EXIT_SOME_ERRORED if self.errors or any(r.status == "error" for r in self.records) else EXIT_OK


class Session:
    """Policy, backend and devices of a run. Nothing is compiled or recorded by making one.

    Attributes:
        event_camera: the camera of the event out_of_view.

    Raises:
        UserError, ArgumentError: something that the flags name cannot be used.
    """

    def __init__(self, config: RolloutConfig) -> None:
        if config.recording.dataset is not None:
            check_dataset_folder(config.recording.dataset, resume=config.recording.resume)
        self.setup = assemble(config)
        self.policy, self.backend = self.setup.policy, self.setup.backend
        self.config = replace(config, renderer=self.setup.style.renderer, visual=self.setup.style.visual)
        for camera in config.recording.cameras:
            require_camera(camera, self.backend)
        self.event_camera = config.highlight.event_camera or self.backend.task.picture_camera
        require(
            config.strategy != "highlight"
            or "out_of_view" not in config.highlight.events
            or self.event_camera in config.recording.cameras,
            f"--events out_of_view needs the camera {self.event_camera}, which is off; add it to --cameras or choose "
            "another --event-camera",
        )
        self.seed = split_seed("recording", config.seed)

    def fps(self) -> int:
        """Frames per second of a dataset: the control rate."""
        return round(1 / self.backend.control_dt)

    def run(
        self,
        strategy: Strategy,
        planner: ProgramPlanner,
        scenes: Iterator[Sequence[int]],
        *,
        total: int | None,
        should_stop: Callable[[], bool] = lambda: False,
        show_progress: bool = False,
    ) -> StrategySummary:
        """Roll out and feed the strategy, without finishing it.

        Args:
            strategy: the strategy to feed.
            planner: the planner.
            scenes: sequences of scenes, each for one loop.
            total: number of all scenes together, None without an end.
            should_stop: asked before every plan by the user; limits and the strategy itself also end it.
            show_progress: show a progress bar.
        """
        config, summary = self.config, StrategySummary()
        limit = None if config.sentry.duration_s is None else TimeLimit(config.sentry.duration_s)

        def stop() -> bool:
            late = limit is not None and limit.is_over()
            return should_stop() or strategy.wants_to_stop() or late

        recorders = [] if type(strategy) is Strategy else [StrategyRecorder(strategy)]
        with progress_bar(total, shown=show_progress, label=strategy.name, limit=limit) as bar:
            for row in scenes:
                num_envs = self.setup.num_envs(config.num_envs, len(row))
                require_fit(self.backend, planner, num_envs, self.setup.devices)
                result = make_rollout(
                    self.backend,
                    planner,
                    row,
                    devices=self.setup.devices,
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
        # A stop is the usual end of a sentry.
        summary.interrupted = should_stop() and strategy.name != "sentry"
        return summary


def check_dataset_folder(folder: Path, *, resume: bool) -> None:
    """Refuse a dataset that cannot be recorded into, before anything is loaded.

    Raises:
        ArgumentError: the name does not fit, or there is none to resume, or one that was not to be resumed.
        UserError: the disk is nearly full, or a package is not installed.
    """
    from imf_jax.data.lerobot.checks import require_free_space, require_recording_name
    from imf_jax.data.lerobot.reader import is_dataset

    require_recording_name(folder)
    require_free_space(folder)
    require(resume or not is_dataset(folder), f"--dataset {folder} holds a dataset already; go on with it by --resume")
    require(not resume or is_dataset(folder), f"--resume: {folder} holds no dataset; leave --resume away to create it")
