"""Optimizer: AdamW with warm-up and cosine decay, clipped gradients, and an average of the weights."""

from typing import TypeVar

import jax
import jax.numpy as jnp
import optax

from imf_jax.config import OptimizerConfig
from imf_jax.models.policy import weight_decay_mask

Params = TypeVar("Params")


def learning_rate_schedule(config: OptimizerConfig, max_steps: int) -> optax.Schedule:
    """Learning rate as a function of the step: linear rise to the peak, then a cosine down to a share of it.

    The rise takes `warmup_steps` and starts at peak / (warmup_steps + 1), so that the first step learns already. The
    cosine ends at `decay_steps` (by default `max_steps`); later steps keep its last value.
    """
    total = config.decay_steps or max_steps
    peak, warmup = config.learning_rate, config.warmup_steps
    rise = optax.linear_schedule(peak / (warmup + 1), peak, max(warmup, 1))
    fall = optax.cosine_decay_schedule(peak, max(total - warmup, 1), alpha=config.final_fraction)
    return optax.join_schedules([rise, fall], [warmup])


def build_optimizer(config: OptimizerConfig, max_steps: int) -> optax.GradientTransformation:
    """Clip the global gradient norm, then AdamW with weight decay on the kernels of linear layers only."""
    return optax.chain(
        optax.clip_by_global_norm(config.clip_norm),
        optax.adamw(
            learning_rate_schedule(config, max_steps),
            b1=config.beta1,
            b2=config.beta2,
            weight_decay=config.weight_decay,
            mask=weight_decay_mask,
        ),
    )


def update_average(average: Params, params: Params, decay: float, step: jax.Array) -> Params:
    """Exponential moving average: average <- d average + (1 - d) params.

    The decay d = min(decay, (1 + step) / (10 + step)) grows with the step, so that the initial weights are forgotten
    even when training is much shorter than 1 / (1 - decay) steps.

    Args:
        average: pytree of float arrays.
        params: the same tree, the newest weights.
        decay: largest decay, in [0, 1).
        step: int scalar, optimizer steps before this one.
    """
    step = step.astype(jnp.float32)
    kept = jnp.minimum(decay, (1 + step) / (10 + step))
    return jax.tree.map(lambda old, new: old + (1 - kept) * (new - old), average, params)
