"""What the closed loop asks for actions: a policy, or any other function of the observations."""

from functools import partial
from typing import Protocol

import jax
import numpy as np
from flax import nnx

from imf_jax.models.policy import Policy
from imf_jax.rollout.episode import noise_keys
from imf_jax.rollout.schedule import planning_batches
from imf_jax.sim.backends.base import StepOutput

Observations = dict[str, np.ndarray]
"""`state` float32 (A, obs_horizon, 16) and `env_state` float32 (A, obs_horizon, E), oldest first; for a planner with
cameras also `images` uint8 (A, obs_horizon, C, H, W, 3)."""


class Planner(Protocol):
    """Anything that can drive the closed loop.

    Attributes:
        obs_horizon: observations it reads: the newest and those before it.
        num_action_steps: actions of a plan, all of which are executed before the next plan.
        rows: episodes whose index is equal modulo `rows` are best not run at once; 1 if it makes no difference.
        cameras: names of the cameras C whose pictures it reads; none are rendered for a planner without.
    """

    obs_horizon: int
    num_action_steps: int
    rows: int
    cameras: tuple[str, ...]

    def plan(
        self, observations: Observations, output: StepOutput, seed: int, episodes: np.ndarray, replans: np.ndarray
    ) -> np.ndarray:
        """Plan for A scenes. The result of a scene must not depend on the other scenes or on their order.

        Args:
            observations: see `Observations`.
            output: what was read after the last step, numpy leaves (A, ...).
            seed: seed of the rollout; with episode and replan it determines the planning noise.
            episodes: int64 (A,) episode of each scene.
            replans: int64 (A,) plans made before in the episode; 0 says that the episode has just begun.

        Returns:
            float32 (A, num_action_steps, 16) actions; a scene whose plan is not finite ends as an error.
        """
        ...


@partial(jax.jit, static_argnums=0)
def plan_rows(
    graph: nnx.GraphDef[Policy],
    weights: nnx.State,
    observations: dict[str, jax.Array],
    seed: jax.Array,
    episodes: jax.Array,
    replans: jax.Array,
) -> jax.Array:
    """Executed actions (B, num_action_steps, 16) of a policy split into `graph` and `weights`.

    Compiled once per policy structure and batch size: planners of the same policy at different training steps share
    the compiled code.

    Args:
        observations: what the policy reads of `Observations`, with B rows.
        seed: uint32 scalar, seed of the planning noise.
        episodes: uint32 (B,).
        replans: uint32 (B,).
    """
    policy = nnx.merge(graph, weights)
    head = policy.config.head
    keys = noise_keys(seed, episodes, replans)
    noise = jax.vmap(lambda key: jax.random.normal(key, (head.pred_horizon, head.action_dim)))(keys)
    return policy.executed_slice(policy.plan(observations, noise))


class PolicyPlanner:
    """Plans with an IMF-AttnRes policy in compiled batches of one fixed size.

    Rounding of a matrix product depends on its size and on the row, so every scene is always planned in the same
    row of a batch of the same size; the rest is padding. One batch is one dispatch: noise, normalisation, vision
    encoder, network and the choice of the executed actions are inside the compiled function.

    Args:
        policy: a trained policy.
        plan_batch: rows of a planning batch.

    Attributes:
        image_size: height and width of the pictures it reads [pixels].
    """

    def __init__(self, policy: Policy, plan_batch: int) -> None:
        head = policy.config.head
        self.obs_horizon = head.obs_horizon
        self.num_action_steps = head.num_action_steps
        self.rows = plan_batch
        self.cameras = policy.config.encoder.cameras
        self.image_size = policy.config.encoder.image_size
        self._reads = policy.reads
        self._graph, self._weights = nnx.split(policy)

    def plan(
        self, observations: Observations, output: StepOutput, seed: int, episodes: np.ndarray, replans: np.ndarray
    ) -> np.ndarray:
        """See `Planner.plan`."""
        batches = planning_batches(episodes, self.rows)
        dispatched = []
        for batch in batches:
            # Padding repeats a real scene: its result is dropped, and its values are harmless.
            source = np.where(batch >= 0, batch, batch.max())
            rows = {name: observations[name][source] for name in self._reads}
            dispatched.append(
                plan_rows(
                    self._graph,
                    self._weights,
                    rows,
                    np.uint32(seed),
                    episodes[source].astype(np.uint32),
                    replans[source].astype(np.uint32),
                )
            )
        first = dispatched[0]
        actions = np.empty((len(episodes), *first.shape[1:]), first.dtype)
        for batch, planned in zip(batches, dispatched, strict=True):
            used = batch >= 0
            actions[batch[used]] = np.asarray(planned)[used]
        return actions
