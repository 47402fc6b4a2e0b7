"""Validation on held-out episodes, for policies whose robot has no scene to roll out in."""

import time

import jax
import jax.numpy as jnp
import numpy as np
from flax import nnx

from imf_jax import seeds
from imf_jax.config import TrainConfig
from imf_jax.data.picture_cache import PictureRows
from imf_jax.data.windows import Batch, Demonstrations, observed_steps, windows_at
from imf_jax.models.policy import Policy
from imf_jax.seeds import root_key
from imf_jax.training.validation import Validation

WINDOWS = 256
"""Held-out windows that a policy is measured on, at most; evenly spread."""

STREAM = 3
"""Of the random keys of noise, apart from those of weights and steps."""


class HeldOutValidation:
    """Measures policies on the same windows of held-out episodes every time; call it with a policy and its step.

    The action error is the mean absolute difference between planned and demonstrated actions, over the steps of a chunk
    that are executed, each entry in its standard deviation over all episodes; entries that never change do not count.

    Args:
        config: the run.
        data: the held-out demonstrations, without pictures.
        images: their pictures, where the policy reads any.
        spread: standard deviation of each entry of an action, float (A,).
    """

    def __init__(
        self, config: TrainConfig, data: Demonstrations, images: PictureRows | None, spread: np.ndarray
    ) -> None:
        self._config, self._data, self._images = config, data, images
        spread = np.asarray(spread, np.float32)
        self._weight = np.where(spread > 1e-6, 1 / np.maximum(spread, 1e-6), 0).astype(np.float32)
        steps = len(data.first)
        self._steps = np.unique(np.linspace(0, steps - 1, min(steps, WINDOWS)).astype(np.int32))

    @property
    def num_pictures(self) -> int:
        """Pictures that are read, by each camera, at most."""
        return len(self._steps) * self._config.policy.obs_horizon

    def __call__(self, policy: Policy, step: int) -> Validation:
        """Plan and compute the loss on all windows."""
        started = time.perf_counter()
        graph, state = nnx.split(policy)
        wanted = self._config.policy
        executed = slice(wanted.obs_horizon - 1, wanted.obs_horizon - 1 + wanted.num_action_steps)
        weight = jnp.asarray(self._weight)

        @jax.jit
        def measure(state: nnx.State, batch: Batch, key: jax.Array) -> tuple[jax.Array, jax.Array, jax.Array]:
            module: Policy = nnx.merge(graph, state)
            noise_key, loss_key = seeds.split(key)
            chunk = module.plan(batch["observation"], seeds.normal(noise_key, batch["action"].shape))
            apart = jnp.abs(chunk - batch["action"])[:, executed] * weight
            counts = ~batch["is_pad"][:, executed, None] & (weight > 0)
            loss, _ = module.loss(batch, loss_key)
            return (apart * counts).sum(), counts.sum(), loss

        key, size = root_key(self._config.seed, STREAM), min(self._config.batch_size, len(self._steps))
        totals, losses = np.zeros(2), []
        for number, first in enumerate(range(0, len(self._steps) - size + 1, size)):
            batch = self._batch(self._steps[first : first + size])
            apart, count, loss = measure(state, batch, seeds.fold_in(key, number))
            totals += float(apart), float(count)
            losses.append(float(loss))
        figures = {
            "action_error": totals[0] / max(totals[1], 1),
            "loss": float(np.mean(losses)),
            "n_windows": len(losses) * size,
            "wall_s": time.perf_counter() - started,
        }
        return Validation(figures)

    def _batch(self, steps: np.ndarray) -> Batch:
        wanted = self._config.policy
        rows = jnp.asarray(steps)
        batch = windows_at(self._data, rows, obs_horizon=wanted.obs_horizon, pred_horizon=wanted.pred_horizon)
        if self._images is not None:
            observed = np.asarray(observed_steps(self._data, rows, wanted.obs_horizon))
            batch["observation"]["images"] = jnp.asarray(self._images[observed])
        return batch
