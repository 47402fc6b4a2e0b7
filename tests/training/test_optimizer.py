"""Schedule, weight decay, clipping and the average of the weights."""

import jax
import jax.numpy as jnp
import numpy as np
import optax
import pytest
from transfer_task import SPACES

from imf_jax.config import AttnResConfig, OptimizerConfig, PolicyConfig, TrainConfig
from imf_jax.models.policy import build_policy
from imf_jax.training.optimizer import build_optimizer, learning_rate_schedule, update_average
from imf_jax.training.state import initial_state

CONFIG = OptimizerConfig(learning_rate=1e-3, warmup_steps=4, final_fraction=0.1)


def test_schedule():
    rate = learning_rate_schedule(CONFIG, 14)
    assert float(rate(0)) == pytest.approx(1e-3 / 5)
    assert float(rate(2)) == pytest.approx(1e-3 / 5 + (1e-3 - 1e-3 / 5) / 2)
    assert float(rate(4)) == pytest.approx(1e-3)
    assert float(rate(9)) == pytest.approx(1e-3 * (0.1 + 0.9 / 2))
    assert float(rate(14)) == float(rate(99)) == pytest.approx(1e-4)


def test_schedule_length_can_be_set_apart_from_the_run():
    short = learning_rate_schedule(OptimizerConfig(warmup_steps=1, decay_steps=10), 2)
    long = learning_rate_schedule(OptimizerConfig(warmup_steps=1, decay_steps=10), 50)
    assert [float(short(step)) for step in range(12)] == [float(long(step)) for step in range(12)]


@pytest.mark.parametrize(("warmup", "steps"), [(0, 3), (500, 2)])
def test_schedule_of_extreme_lengths(warmup, steps):
    rate = learning_rate_schedule(OptimizerConfig(learning_rate=1.0, warmup_steps=warmup), steps)
    values = [float(rate(step)) for step in range(steps)]
    assert all(0 < value <= 1 for value in values)


def test_only_kernels_of_linear_layers_decay():
    config = TrainConfig(policy=PolicyConfig(head=AttnResConfig(n_emb=16, n_layer=1, n_head=2, n_kv_head=1)))
    state, _ = initial_state(build_policy(config, SPACES, 7), config)
    params = jax.tree.map(jnp.ones_like, state.params)
    optimizer = build_optimizer(OptimizerConfig(learning_rate=1.0, warmup_steps=0, weight_decay=0.1), 10)
    updates, _ = optimizer.update(jax.tree.map(jnp.zeros_like, params), optimizer.init(params), params)
    decayed, kept = set(), set()
    for path, update in jax.tree_util.tree_leaves_with_path(updates):
        name = jax.tree_util.keystr(path, simple=True, separator=".").removesuffix(".value")
        assert np.allclose(update, -0.1) or np.all(np.asarray(update) == 0), name
        (decayed if np.any(np.asarray(update)) else kept).add(name)
    assert all(name.endswith(".kernel") for name in decayed)
    assert not any(name.endswith(".kernel") for name in kept)
    assert {"head.backbone.pseudo_queries", "head.norm.scale", "head.output.bias"} <= kept


def test_gradients_are_clipped():
    """The first moment after one step is (1 - beta1) times the gradient that Adam was given."""
    optimizer = build_optimizer(OptimizerConfig(warmup_steps=0, clip_norm=2.0, weight_decay=0.0), 10)
    params = {"kernel": jnp.zeros(4)}
    _, state = optimizer.update({"kernel": jnp.full(4, 1e6)}, optimizer.init(params), params)
    (moments,) = (part for part in jax.tree.leaves(state, is_leaf=_is_adam) if _is_adam(part))
    np.testing.assert_allclose(moments.mu["kernel"], 0.1 * 2.0 / np.sqrt(4), rtol=1e-6)


def _is_adam(part):
    return isinstance(part, optax.ScaleByAdamState)


def test_average_follows_its_formula():
    average, params = {"w": jnp.array([0.0])}, {"w": jnp.array([1.0])}
    first = update_average(average, params, 0.9, jnp.int32(0))
    assert float(first["w"][0]) == pytest.approx(0.9)  # decay (1 + 0) / (10 + 0)
    late = update_average(average, params, 0.9, jnp.int32(10_000))
    assert float(late["w"][0]) == pytest.approx(0.1)
