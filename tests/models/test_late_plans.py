"""Chunks that begin after their observation, and chunks that are drawn to others while they are generated."""

from dataclasses import replace
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from flax import nnx
from transfer_task import SPACES

from imf_jax.config import AttnResConfig, FlowConfig, PolicyConfig, RegressionConfig, UnetConfig
from imf_jax.errors import ArgumentError
from imf_jax.models.objectives import paths
from imf_jax.models.objectives.paths import Guide
from imf_jax.models.policy import Policy

HEAD = AttnResConfig(n_emb=16, n_layer=1, n_head=2, n_kv_head=1)
SIZES = PolicyConfig(HEAD, pred_horizon=8, num_action_steps=4, delay_training=3)
WINDOW = SIZES.window_steps


def observation(size: int = 6) -> dict[str, Any]:
    keys = jax.random.split(jax.random.key(1), 2)
    return {
        "state": jax.random.normal(keys[0], (size, 2, 16)),
        "env_state": jax.random.normal(keys[1], (size, 2, 7)),
    }


def test_a_policy_learns_the_chunk_of_its_delay(monkeypatch: pytest.MonkeyPatch) -> None:
    """Windows whose action at step w is w: the chunks of a batch begin at the steps that the network is told."""
    policy, seen = Policy(SIZES, SPACES, 7, rngs=nnx.Rngs(0)), {}
    size = 200
    steps = jnp.broadcast_to(jnp.arange(WINDOW, dtype=jnp.float32)[:, None], (size, WINDOW, 16))
    pad = jnp.broadcast_to(jnp.arange(WINDOW) >= 9, (size, WINDOW))

    class Generator:
        def loss(self, key: Any, x: Any, is_pad: Any, condition: Any, is_prefix: Any) -> tuple[Any, dict]:
            seen.update(x=np.asarray(x), is_pad=np.asarray(is_pad), condition=np.asarray(condition))
            return jnp.zeros(()), {}

    monkeypatch.setattr(Policy, "generator", Generator())
    policy.loss({"observation": observation(size), "action": steps, "is_pad": pad}, jax.random.key(2))
    assert WINDOW == 11
    first = seen["x"][:, 0, 0]
    np.testing.assert_array_equal(seen["x"][..., 0], first[:, None] + np.arange(8))
    np.testing.assert_array_equal(seen["is_pad"], seen["x"][..., 0] >= 9)
    values, counts = np.unique(first, return_counts=True)
    assert values.tolist() == [0, 1, 2, 3]
    assert counts.min() > 30
    told = np.asarray(policy.delay_embedding.embedding[...])[first.astype(int)]  # type: ignore[union-attr]
    np.testing.assert_array_equal(seen["condition"][:, -1], told)


@pytest.mark.parametrize(
    "change",
    [{}, {"head": UnetConfig(widths=(16, 32), groups=4, time_dim=16)}, {"objective": RegressionConfig()}],
    ids=["attnres", "unet", "regression"],
)
def test_plans_depend_on_the_delay(change: dict[str, Any]) -> None:
    policy = Policy(replace(SIZES, **change), SPACES, 7, rngs=nnx.Rngs(0))
    noise = jax.random.normal(jax.random.key(3), (2, 8, 16))
    # Where a network starts from, its outputs are too small for a difference to show.
    for leaf in jax.tree.leaves(nnx.state(policy, nnx.Param), is_leaf=lambda leaf: isinstance(leaf, nnx.Variable)):
        leaf[...] = leaf[...] + 0.3 * jax.random.normal(jax.random.key(leaf[...].size), leaf[...].shape)
    plan = nnx.jit(lambda policy, delay=None: policy.plan(observation(2), noise, delay=delay))
    now, both = plan(policy), plan(policy, jnp.array([0, 3]))
    np.testing.assert_allclose(now[0], both[0], atol=1e-5)
    assert np.abs(now[1] - both[1]).max() > 1e-3


def test_nothing_is_new_without_delays() -> None:
    plain = Policy(replace(SIZES, delay_training=0), SPACES, 7, rngs=nnx.Rngs(0))
    late = Policy(SIZES, SPACES, 7, rngs=nnx.Rngs(0))
    assert plain.delay_embedding is None
    names = {jax.tree_util.keystr(path): leaf for path, leaf in jax.tree_util.tree_leaves_with_path(nnx.state(plain))}
    more = {jax.tree_util.keystr(path): leaf for path, leaf in jax.tree_util.tree_leaves_with_path(nnx.state(late))}
    assert len(more) == len(names) + 1
    for name, leaf in names.items():
        np.testing.assert_array_equal(leaf, more[name])


def test_training_is_told_noise_and_dropout_of_the_prefix() -> None:
    sizes = replace(SIZES, delay_training=0, prefix_training=4)
    dropped = Policy(replace(sizes, prefix_dropout=0.5), SPACES, 7, rngs=nnx.Rngs(0))
    lengths = np.asarray(dropped.training_prefix(jax.random.key(0), 2000)).sum(axis=1)
    assert np.mean(lengths == 0) == pytest.approx(0.5 + 0.5 / 5, abs=0.04)
    assert set(lengths.tolist()) == {0, 2, 3, 4, 5}

    batch = {"observation": observation(), "action": jnp.ones((6, 8, 16)), "is_pad": jnp.zeros((6, 8), bool)}

    def given(noise: float) -> tuple[np.ndarray, np.ndarray]:
        policy, seen = Policy(replace(sizes, prefix_noise=noise), SPACES, 7, rngs=nnx.Rngs(0)), []

        def head(z: Any, r: Any, t: Any, condition: Any, is_prefix: Any) -> Any:
            seen.append((np.asarray(z), np.asarray(is_prefix)))
            return jnp.zeros_like(z)

        policy.config = replace(policy.config, objective=FlowConfig())
        policy.head = nnx.data(head)
        policy.loss(batch, jax.random.key(2))
        (both,) = seen
        return both

    (clean, is_prefix), (noisy, _) = given(0.0), given(0.1)
    np.testing.assert_array_equal(clean[is_prefix], 1)
    assert np.std(noisy[is_prefix] - 1) == pytest.approx(0.1, rel=0.3)
    np.testing.assert_array_equal(noisy[~is_prefix], clean[~is_prefix])


@pytest.mark.parametrize(
    ("settings", "message"),
    [
        ({"delay_training": -1}, "--delay-training -1 must not be negative"),
        ({"prefix_training": 2}, "--delay-training and --prefix-training are two answers to late plans"),
        ({"prefix_noise": 0.1}, r"--prefix-noise 0\.1 would do nothing without --prefix-training"),
        ({"prefix_dropout": 0.1}, r"--prefix-dropout 0\.1 would do nothing without --prefix-training"),
        ({"delay_training": 0, "prefix_training": 2, "prefix_dropout": 1.0}, r"--prefix-dropout 1 must be in \[0, 1\)"),
        (
            {"delay_training": 0, "prefix_training": 2, "prefix_noise": -0.1},
            r"--prefix-noise -0\.1 must not be negative",
        ),
    ],
)
def test_settings_that_cannot_work_are_refused(settings: dict[str, Any], message: str) -> None:
    with pytest.raises(ArgumentError, match=message):
        replace(SIZES, **settings)


# Guidance.

NOISE = jax.random.normal(jax.random.key(5), (4, 6, 3))
TARGET = jax.random.normal(jax.random.key(6), (4, 6, 3))


def towards_origin(z: jax.Array, r: jax.Array, t: jax.Array, condition: Any) -> jax.Array:
    """Velocity of the path to data that is a tenth of the noise: x = 0.1 z / (0.1 (1 - t) + t)."""
    share = 0.1 * (1 - t) + t
    return z * (0.9 / share)[:, None, None]


@pytest.mark.parametrize("steps", [2, 10])
def test_guidance_draws_a_chunk_to_its_target_and_leaves_the_rest(steps: int) -> None:
    weight = jnp.zeros((4, 6)).at[:2, :3].set(1.0)
    free = paths.sample(towards_origin, NOISE, None, steps)
    guided = paths.sample(towards_origin, NOISE, None, steps, Guide(TARGET, weight, np.float32(5)))
    before, after = (np.abs(np.asarray(chunk - TARGET))[:2, :3].mean() for chunk in (free, guided))
    assert after < 0.9 * before
    np.testing.assert_array_equal(guided[2:], free[2:])
    np.testing.assert_array_equal(guided[:2, 3:], free[:2, 3:])
    more = paths.sample(towards_origin, NOISE, None, steps, Guide(TARGET, weight, np.float32(0)))
    np.testing.assert_array_equal(more, free)


def test_guidance_by_hand() -> None:
    """u = 2 z, t = 0.5: x = 0, so the gradient is (1 - 2 t) weight (target - x) = 0; with u = z it is half of it."""
    t = jnp.full(4, 0.5)
    guide = Guide(TARGET, jnp.full((4, 6), 0.25), np.float32(1.5))
    nothing = paths.guidance(lambda z, r, t, condition: 2 * z, NOISE, t, None, guide)
    np.testing.assert_array_equal(nothing, jnp.zeros_like(NOISE))
    half = paths.guidance(lambda z, r, t, condition: z, NOISE, t, None, guide)
    np.testing.assert_allclose(half, 1.5 * 0.5 * 0.25 * (TARGET - 0.5 * NOISE), rtol=1e-5)  # the ratio would be 2
    free = paths.guidance(lambda z, r, t, condition: z, NOISE, t, None, guide._replace(limit=np.float32(9)))
    np.testing.assert_allclose(free, 2 * 0.5 * 0.25 * (TARGET - 0.5 * NOISE), rtol=1e-5)


def test_a_policy_is_guided_in_physical_units() -> None:
    policy = Policy(replace(SIZES, sampling_steps=3), SPACES, 7, rngs=nnx.Rngs(0))
    width = {"min": np.full(16, -4.0), "max": np.full(16, 4.0), "mean": np.zeros(16), "std": np.ones(16)}
    policy.action_normalizer.set_statistics("action", width)
    target, noise = jnp.full((2, 8, 16), 2.0), jax.random.normal(jax.random.key(3), (2, 8, 16))
    weight = jnp.ones((2, 8)).at[1].set(0.0)
    plan = nnx.jit(lambda policy, guide=None: policy.plan(observation(2), noise, guide=guide))
    free, guided = plan(policy), plan(policy, Guide(target, weight, jnp.float32(5)))
    positions = (..., [0, 1, 2])
    assert np.abs(guided - target)[0][positions].mean() < 0.7 * np.abs(free - target)[0][positions].mean()
    np.testing.assert_allclose(guided[1], free[1], atol=1e-5)
