"""Policies of every objective and network in the closed loop: on the host, compiled, and with plans that come late."""

from dataclasses import replace
from typing import Any

import jax
import numpy as np
import pytest
from flax import nnx
from test_delay import run
from transfer_task import SPACES

from imf_jax.config import (
    AttnResConfig,
    DiffusionConfig,
    ExecutionConfig,
    FlowConfig,
    HeadConfig,
    ImfConfig,
    MeanFlowConfig,
    ObjectiveConfig,
    PolicyConfig,
    RegressionConfig,
    TransformerConfig,
    UnetConfig,
)
from imf_jax.models.policy import Policy
from imf_jax.rollout.compiled import CompiledRollout
from imf_jax.rollout.delay import policy_planner
from imf_jax.rollout.engine import Rollout

SIZES: dict[str, int] = {"n_emb": 16, "n_layer": 1, "n_head": 2, "n_kv_head": 1}
NETWORKS: dict[str, HeadConfig] = {
    "attnres": AttnResConfig(**SIZES),
    "transformer": TransformerConfig(**SIZES),
    "unet": UnetConfig(widths=(8, 16), kernel_size=3, groups=4, time_dim=8),
}
LATE = ExecutionConfig(inference="async", delay_steps=2, prefix=True)


def make(network: str, objective: ObjectiveConfig, steps: int) -> Policy:
    """A policy whose actions the point world shows: initial weights make smaller ones."""
    config = PolicyConfig(
        NETWORKS[network], objective, pred_horizon=8, num_action_steps=4, sampling_steps=steps, prefix_training=2
    )
    policy = Policy(config, SPACES, 3, rngs=nnx.Rngs(0))
    kernel = policy.head.output.kernel
    kernel[...] = 0.3 * jax.random.normal(jax.random.key(1), kernel.shape)
    return policy


@pytest.mark.parametrize(
    ("network", "objective", "steps"),
    [
        ("transformer", ImfConfig(), 1),
        ("transformer", FlowConfig(), 3),
        ("unet", DiffusionConfig(), 4),
        ("attnres", MeanFlowConfig(), 2),
        ("unet", RegressionConfig(), 1),
    ],
)
def test_both_loops_execute_the_same_also_late_and_with_prefixes(
    network: str, objective: ObjectiveConfig, steps: int
) -> None:
    policy = make(network, objective, steps)
    late = {}
    for execution in (ExecutionConfig(), LATE):
        planner = policy_planner(policy, 4, execution)
        on_host, compiled = run(Rollout, planner, range(3)), run(CompiledRollout, planner, range(3))
        for record, other in zip(on_host.values(), compiled.values(), strict=True):
            assert record.status == other.status != "error"
            assert record.return_ == pytest.approx(other.return_, rel=1e-3)
        late[execution.prefix] = [record.return_ for record in on_host.values()]
    assert late[True] != late[False]


@pytest.mark.parametrize("objective", [FlowConfig(), DiffusionConfig(prediction="v", clip=None), MeanFlowConfig()])
def test_sampling_steps_count(objective: ObjectiveConfig) -> None:
    """More of them give another plan, and those of a checkpoint can be changed."""
    policy = make("transformer", objective, 1)
    noise = jax.random.normal(jax.random.key(2), (2, 8, 16))
    seen: dict[str, Any] = {"state": np.zeros((2, 2, 16), np.float32), "env_state": np.zeros((2, 2, 3), np.float32)}
    one = policy.plan(seen, noise)
    policy.config = replace(policy.config, sampling_steps=2)
    assert np.abs(policy.plan(seen, noise) - one).max() > 1e-4
