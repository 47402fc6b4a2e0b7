"""The policy of a server: loaded, compiled for one batch size, and described for its clients."""

from dataclasses import dataclass, replace
from itertools import product
from typing import Any

import jax
import numpy as np
from flax import nnx
from typing_extensions import override

import imf_jax
from imf_jax.config import ServeConfig
from imf_jax.evaluation.evaluated_policy import load_as_configured
from imf_jax.evaluation.manifest import folder_hash
from imf_jax.models.objectives.paths import prefix_mask
from imf_jax.models.policy import Prefix
from imf_jax.rollout.plan_program import KeptChunks, PlanProgram, PolicyProgram
from imf_jax.rollout.planner import PolicyPlanner
from imf_jax.serving.observations import ObservationSpec, PlanRequest
from imf_jax.sim.backends.base import StepOutput

PROTOCOL = "imf_jax"
"""Entry `protocol` of the metadata: the server reads histories and keys, see `imf_jax.serving.observations`."""


class ServedProgram(PolicyProgram):
    """Plan of a policy that is told of delays and prefixes where it has learned them.

    Observations have three more entries then: `delay` int32 (B,), and `prefix` float32 (B, H, A), of which the first
    `prefix_steps`, int32 (B,), are given.
    """

    @override
    def plan(
        self,
        weights: nnx.State,
        memory: KeptChunks,
        observations: dict[str, jax.Array],
        output: StepOutput | None,
        seed: jax.Array,
        episodes: jax.Array,
        replans: jax.Array,
    ) -> tuple[jax.Array, KeptChunks]:
        seen, prefix = dict(observations), None
        delay = seen.pop("delay", None)
        if "prefix" in seen:
            mask = prefix_mask(seen.pop("prefix_steps"), self.pred_horizon)
            prefix = Prefix(seen.pop("prefix"), mask)
        chunk = self.chunk(weights, seen, seed, episodes, replans, prefix, delay=delay)
        return chunk[:, self.obs_horizon - 1 :], memory


@dataclass(frozen=True)
class ServedPolicy:
    """A policy that plans for clients.

    Attributes:
        planner: plans whole chunks in batches of one size, each episode in a row of its own.
        spec: form of the observations.
        metadata: what clients are told of it, plain types.
    """

    planner: PolicyPlanner
    spec: ObservationSpec
    metadata: dict[str, Any]

    def plan(self, requests: list[PlanRequest]) -> np.ndarray:
        """Plan for clients of one group: float32 (A, N, action_dim).

        The first action is for now, or for the end of the delay. The result of a request does not depend on the
        others: each is computed in row `episode % plan_batch`.
        """
        names = requests[0].observations
        observations = {name: np.stack([request.observations[name] for request in requests]) for name in names}
        observations |= self._late(requests)
        episodes, replans = (
            np.array([getattr(request, name) for request in requests], np.int64) for name in ("episode", "replan")
        )
        # A policy reads nothing of the simulator's output.
        return self.planner.plan(observations, None, requests[0].seed, episodes, replans)  # type: ignore[arg-type]

    def warm_up(self) -> None:
        """Compile, and plan until all that is made at first use is there."""
        spec, zeros = self.spec, self.spec.zeros()
        delays = (None, 0) if spec.delay_training else (None,)
        prefixes = (None, np.zeros((0, spec.action_dim), np.float32)) if spec.prefix_training else (None,)
        for delay, prefix in product(delays, prefixes):
            for replan in range(3):
                self.plan([PlanRequest(zeros, 0, 0, replan, delay, prefix)])

    def _late(self, requests: list[PlanRequest]) -> dict[str, np.ndarray]:
        """What the program is told of delays and prefixes; nothing where none were."""
        told: dict[str, np.ndarray] = {}
        if requests[0].delay is not None:
            told["delay"] = np.array([request.delay for request in requests], np.int32)
        given = [request.prefix for request in requests if request.prefix is not None]
        if given:
            horizon = self.spec.obs_horizon - 1 + self.planner.num_action_steps
            told["prefix"] = np.zeros((len(given), horizon, self.spec.action_dim), np.float32)
            told["prefix_steps"] = np.array([len(actions) for actions in given], np.int32)
            for row, actions in enumerate(given):
                told["prefix"][row, : len(actions)] = actions
        return told


def load_served(config: ServeConfig) -> ServedPolicy:
    """Load the policy of a checkpoint; of any robot, also one without a task here.

    Raises:
        ArgumentError: there is no checkpoint, or it cannot be computed as the flags say.
        UserError: it cannot be read.
    """
    loaded = load_as_configured(config)
    policy, meta, run = loaded.policy, loaded.meta, loaded.path.resolve().parent.parent.name
    encoder = policy.config.encoder
    spec = ObservationSpec(
        tuple(policy.reads),
        policy.config.obs_horizon,
        policy.spaces.state_dim,
        meta.env_state_dim,
        encoder.cameras,
        encoder.image_size,
        policy.spaces.action_dim,
        policy.config.delay_training,
        policy.config.prefix_training,
    )
    metadata = {
        "protocol": PROTOCOL,
        "version": imf_jax.__version__,
        "policy": f"{run}, step {loaded.step}",
        "checkpoint": {"run": run, "step": loaded.step, "sha256": folder_hash(loaded.path)},
        "sampling_steps": policy.config.sampling_steps,
        "precision": config.precision,
        "task": meta.task,
        "robot": policy.spaces.to_json(),
        "reads": list(spec.reads),
        "obs_horizon": spec.obs_horizon,
        "pred_horizon": policy.config.pred_horizon,
        "num_action_steps": policy.config.num_action_steps,
        "chunk_steps": policy.config.chunk_steps,
        "delay_training": policy.config.delay_training,
        "prefix_training": policy.config.prefix_training,
        "action_dim": policy.spaces.action_dim,
        "state_dim": spec.state_dim,
        "env_state_dim": spec.env_state_dim,
        "cameras": list(spec.cameras),
        "image_size": spec.image_size,
        "pictures": None if meta.pictures is None else vars(meta.pictures),
        "plan_batch": config.plan_batch,
    }
    return ServedPolicy(PolicyPlanner(policy, config.plan_batch, _served), spec, metadata)


def _served(program: PolicyProgram, weights: nnx.State) -> tuple[PlanProgram, nnx.State]:
    whole = program.pred_horizon - program.obs_horizon + 1
    return ServedProgram(**vars(replace(program, num_action_steps=whole))), weights
