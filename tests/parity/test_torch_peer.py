"""The ready-made PyTorch peer computes what this package computes."""

from dataclasses import asdict
from pathlib import Path

import numpy as np
import pytest
from flax import nnx

from imf_jax.benchmark import policy, torch_head
from imf_jax.benchmark.peers import TorchPolicy, require_peers
from imf_jax.benchmark.suite import untrained_policies
from imf_jax.config import AttnResConfig
from imf_jax.models.encoders.torch_names import torch_state
from imf_jax.models.networks.attnres import AttnResHead

# PyTorch itself scripts some of its derivatives when the first forward-mode one is asked for.
pytestmark = pytest.mark.filterwarnings("ignore:.*torch.jit.script.*is deprecated:DeprecationWarning")


def test_the_peer_agrees_on_loss_and_plan() -> None:
    """`measure` itself refuses sides that differ."""
    rows = policy.measure(64, 2, batch=4, plan_batch=2, rounds=1, peer=Path("torch"))
    assert [row.side for row in rows] == 2 * ["imf_jax", "plain JAX", "PyTorch"]


def test_the_policy_of_the_vector_environments_plans_all_scenes() -> None:
    require_peers()
    planner = TorchPolicy(untrained_policies([(16, 1)], None)[0].policy, 3)
    actions = planner.plan(np.zeros((3, 2, 23), np.float32))
    assert actions.shape == (3, 8, 16)
    assert np.isfinite(actions).all()
    assert planner.threads >= 1


def test_the_peer_trains_all_its_weights() -> None:
    """A step computes the gradient of every weight, as the other sides do."""
    config = AttnResConfig(n_emb=16, n_layer=1, n_head=2, n_kv_head=1)
    head = AttnResHead(config, policy.ACTION_DIM, policy.CONDITION_DIM, rngs=nnx.Rngs(0))
    peer = torch_head.build(asdict(config), torch_state(head), 1)
    peer.train_step(*policy.make_batch(4))
    assert all(weight.grad is not None and weight.grad.abs().max() > 0 for weight in peer.head.parameters())
