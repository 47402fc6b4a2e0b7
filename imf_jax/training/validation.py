"""Rollout validation during training: closed-loop episodes on scenes that testing never uses."""

from collections.abc import Callable
from pathlib import Path

from imf_jax.config import TrainConfig, to_dict
from imf_jax.models.policy import Policy
from imf_jax.rollout.engine import Rollout
from imf_jax.rollout.episode import EpisodeRecord, split_seed
from imf_jax.rollout.manifest import build_manifest
from imf_jax.rollout.planner import PolicyPlanner
from imf_jax.rollout.recorders.base import OnlyEpisodes, Recorder
from imf_jax.rollout.recorders.path_image import PathImageRecorder, Photograph, Photographer
from imf_jax.rollout.statistics import episode_statistics
from imf_jax.rollout.writers import EvaluationFolder
from imf_jax.sim.backends.base import SimState
from imf_jax.sim.backends.native import NativeBackend

FOLDER = "validation"

MAX_PLAN_BATCH = 16
"""Scenes planned in one call, at most."""


class RolloutValidation:
    """Validates policies on the same scenes every time; call it with a policy and its training step.

    Results of a validation go to `<out>/validation/step_<n>/`, in the layout of an evaluation.

    Args:
        config: the run.
        should_stop: asked before every plan; True ends a validation early.
        on_warning: receives one line for each picture that could not be made.
    """

    def __init__(
        self,
        config: TrainConfig,
        *,
        should_stop: Callable[[], bool] = lambda: False,
        on_warning: Callable[[str], None] = lambda line: None,
    ) -> None:
        self._config = config
        self._should_stop = should_stop
        self._on_warning = on_warning
        self._seed = split_seed("validation", config.seed)
        self._backend = NativeBackend(config.task, image_size=config.policy.encoder.image_size)
        self._photographer: Photographer | None = None

    def __call__(self, policy: Policy, step: int) -> dict[str, float] | None:
        """Roll out all validation episodes.

        Returns:
            `success` in 0..1, `n_success`, `n_episodes`, `n_error`, `return` (mean), `wall_s`; None if it was asked to
            stop before the last episode ended.
        """
        settings = self._config.validation
        folder = self._config.out / FOLDER / f"step_{step}"
        records: list[EpisodeRecord] = []
        manifest = build_manifest(
            policy="IMF-AttnRes", task=self._config.task, split="validation", seed=self._seed,
            checkpoint={"step": step}, config=to_dict(self._config),
        )  # fmt: skip
        with EvaluationFolder(folder, manifest, replace=True) as evaluation:

            def keep(record: EpisodeRecord) -> None:
                records.append(record)
                evaluation.add(record)

            result = Rollout(
                self._backend,
                PolicyPlanner(policy, min(settings.num_episodes, MAX_PLAN_BATCH)),
                range(settings.num_episodes),
                seed=self._seed,
                max_steps=self._backend.task.max_steps,
                num_envs=settings.num_episodes,
                on_record=keep,
                recorders=self._recorders(folder),
                should_stop=self._should_stop,
            ).run()
            if result.interrupted:
                return None
            statistics = episode_statistics(records)
            evaluation.finish(statistics | {"capture_errors": result.capture_errors})
        for line in result.capture_errors:
            self._on_warning(f"validation at step {step}: {line}")
        returns = statistics["return"]
        return {
            "success": statistics["n_success"] / statistics["n_episodes"],
            "n_success": statistics["n_success"],
            "n_episodes": statistics["n_episodes"],
            "n_error": statistics["n_error"],
            "return": returns["mean"] if returns else 0.0,
            "wall_s": result.warmup_s + result.wall_s,
        }

    def _recorders(self, folder: Path) -> list[Recorder]:
        pictures = min(self._config.validation.num_images, self._config.validation.num_episodes)
        return [OnlyEpisodes(PathImageRecorder(folder, self._photograph), range(pictures))] if pictures else []

    def _photograph(self, state: SimState) -> Photograph:
        if self._photographer is None:
            self._photographer = Photographer(self._backend.model)
        return self._photographer(self._backend.qpos(state)[0])


def validation_line(figures: dict[str, float]) -> str:
    """ "9/10 = 90 % success, mean return 812.5" """
    line = f"{figures['n_success']:.0f}/{figures['n_episodes']:.0f} = {100 * figures['success']:.0f} % success"
    errors = f", {figures['n_error']:.0f} ended in an error" if figures["n_error"] else ""
    return f"{line}, mean return {figures['return']:.1f}{errors}"
