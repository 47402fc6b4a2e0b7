"""Rollout validation during training: closed-loop episodes on scenes that testing never uses."""

from collections.abc import Callable
from pathlib import Path
from typing import NamedTuple

from imf_jax.config import CaptureConfig, PictureStyle, TrainConfig, to_dict
from imf_jax.evaluation.evaluate import EvaluationSettings, Hooks, evaluate
from imf_jax.evaluation.evaluated_policy import EvaluatedPolicy
from imf_jax.evaluation.setup import Setup
from imf_jax.models.policy import Policy
from imf_jax.rollout.planner import PolicyPlanner
from imf_jax.sim.backends.native import NativeBackend
from imf_jax.sim.backends.picture_choice import possible_style, say_other_style

FOLDER = "validation"

MAX_PLAN_BATCH = 16
"""Scenes planned in one call, at most."""


class Validation(NamedTuple):
    """Result of a validation.

    Attributes:
        figures: `success` in 0..1, `n_success`, `n_episodes`, `n_error`, `return` (mean), `wall_s` [s]; of held-out
            episodes `action_error` [standard deviations], `loss`, `n_windows`, `wall_s`.
        images: the path pictures that were made, in order of the episodes.
    """

    figures: dict[str, float]
    images: tuple[Path, ...] = ()


class RolloutValidation:
    """Validates policies on the same scenes every time; call it with a policy and its training step.

    Results of a validation go to `<out>/validation/step_<n>/`, in the layout of an evaluation.

    Args:
        config: the run.
        pictures: how the pictures of its demonstrations were drawn, if somebody says so.
        should_stop: asked before every plan; True ends a validation early.
        on_warning: receives one line for each picture that could not be made.
    """

    def __init__(
        self,
        config: TrainConfig,
        *,
        pictures: PictureStyle | None = None,
        should_stop: Callable[[], bool] = lambda: False,
        on_warning: Callable[[str], None] = lambda line: None,
    ) -> None:
        self._config = config
        self._should_stop = should_stop
        self._on_warning = on_warning
        style, why = possible_style(pictures, NativeBackend.name)
        say_other_style(pictures, style, why)
        size = config.policy.encoder.image_size
        self._backend = NativeBackend(config.task, image_size=size, renderer=style.renderer, visual=style.visual)

    def __call__(self, policy: Policy, step: int) -> Validation | None:
        """Roll out all validation episodes; None if it was asked to stop before the last one ended."""
        wanted = self._config.validation
        planner = PolicyPlanner(policy, min(wanted.num_episodes, MAX_PLAN_BATCH))
        label = f"{self._config.out.name}, step {step}"
        provenance = {"checkpoint": {"step": step}, "training": to_dict(self._config)}
        summary = evaluate(
            Setup(EvaluatedPolicy(planner, self._config.task, label, provenance), self._backend),
            EvaluationSettings(
                episodes=wanted.num_episodes,
                num_envs=wanted.num_episodes,
                split="validation",
                seed=self._config.seed,
                capture=CaptureConfig(save_images=wanted.num_images > 0),
                captured_episodes=wanted.num_images,
            ),
            self._config.out / FOLDER / f"step_{step}",
            existing="replace",
            hooks=Hooks(self._should_stop),
        )
        metrics = summary.metrics
        for line in metrics["capture_errors"]:
            self._on_warning(f"validation at step {step}: {line}")
        if metrics["interrupted"]:
            return None
        returns = metrics["return"]
        figures = {
            "success": metrics["n_success"] / metrics["n_episodes"],
            "n_success": metrics["n_success"],
            "n_episodes": metrics["n_episodes"],
            "n_error": metrics["n_error"],
            "return": returns["mean"] if returns else 0.0,
            "wall_s": metrics["warmup_s"] + metrics["wall_s"] + metrics["capture_s"],
        }
        return Validation(figures, summary.images)


def validation_line(figures: dict[str, float]) -> str:
    """Format the figures in one line, as in "9/10 = 90 % success, mean return 812.5"."""
    if "action_error" in figures:
        return f"held-out action error {figures['action_error']:.3f} standard deviations, loss {figures['loss']:.4f}"
    line = f"{figures['n_success']:.0f}/{figures['n_episodes']:.0f} = {100 * figures['success']:.0f} % success"
    errors = f", {figures['n_error']:.0f} ended in an error" if figures["n_error"] else ""
    return f"{line}, mean return {figures['return']:.1f}{errors}"
