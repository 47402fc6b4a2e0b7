"""The policy of a server: loaded, compiled for one batch size, and described for its clients."""

from dataclasses import dataclass, replace
from typing import Any

import numpy as np

import imf_jax
from imf_jax.config import ServeConfig
from imf_jax.evaluation.evaluated_policy import load_as_configured
from imf_jax.evaluation.manifest import folder_hash
from imf_jax.rollout.planner import PlanProgram, PolicyPlanner, PolicyProgram
from imf_jax.serving.observations import ObservationSpec, PlanRequest

PROTOCOL = "imf_jax"
"""Entry `protocol` of the metadata: the server reads histories and keys, see `imf_jax.serving.observations`."""


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
        """Plan for clients with the same seed: float32 (A, N, action_dim); the first action is for now.

        The result of a request does not depend on the others: each is computed in row `episode % plan_batch`.
        """
        names = requests[0].observations
        observations = {name: np.stack([request.observations[name] for request in requests]) for name in names}
        episodes, replans = (
            np.array([getattr(request, name) for request in requests], np.int64) for name in ("episode", "replan")
        )
        # A policy reads nothing of the simulator's output.
        return self.planner.plan(observations, None, requests[0].seed, episodes, replans)  # type: ignore[arg-type]

    def warm_up(self) -> None:
        """Compile, and plan until all that is made at first use is there."""
        for replan in range(3):
            self.plan([PlanRequest(self.spec.zeros(), 0, 0, replan)])


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
        "action_dim": policy.spaces.action_dim,
        "state_dim": spec.state_dim,
        "env_state_dim": spec.env_state_dim,
        "cameras": list(spec.cameras),
        "image_size": spec.image_size,
        "pictures": None if meta.pictures is None else vars(meta.pictures),
        "plan_batch": config.plan_batch,
    }
    return ServedPolicy(PolicyPlanner(policy, config.plan_batch, _whole_chunk), spec, metadata)


def _whole_chunk(program: PolicyProgram, weights: Any) -> tuple[PlanProgram, Any]:
    return replace(program, num_action_steps=program.pred_horizon - program.obs_horizon + 1), weights
