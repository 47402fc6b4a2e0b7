"""Sizes of policies, without their weights."""

import functools
import math

import jax
from flax import nnx

from imf_jax.config import EfficientNetEncoderConfig, LewmEncoderConfig, PolicyConfig, TrainConfig
from imf_jax.models.policy import Policy
from imf_jax.sim.tasks import get_task


def num_parameters(config: TrainConfig) -> int | None:
    """Number of trained weights of a policy, by its shapes; None where they depend on the weights of an encoder.

    Raises:
        ArgumentError: it cannot be built for the robot of the task.
    """
    if isinstance(config.policy.encoder, LewmEncoderConfig | EfficientNetEncoderConfig):
        get_task(config.task)
        return None
    return _num_parameters(config.policy, config.task)


@functools.cache
def _num_parameters(policy: PolicyConfig, task_name: str) -> int:
    task = get_task(task_name)
    built = nnx.eval_shape(lambda: Policy(policy, task.robot.spaces, task.env_state_dim, rngs=nnx.Rngs(0)))
    return sum(math.prod(leaf.shape) for leaf in jax.tree.leaves(nnx.state(built, nnx.Param)))
