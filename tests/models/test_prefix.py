"""Chunks whose first actions are given: clean in z_t, still along the path, without loss, kept when sampling."""

from dataclasses import replace

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from flax import nnx
from transfer_task import SPACES

from imf_jax.config import AttnResConfig, ImfConfig, PolicyConfig
from imf_jax.errors import ArgumentError
from imf_jax.models.objectives import imf, paths
from imf_jax.models.policy import Policy, Prefix, weight_decay_mask

HEAD = AttnResConfig(n_emb=16, n_layer=1, n_head=2, n_kv_head=1)
SIZES = PolicyConfig(HEAD, obs_horizon=3, pred_horizon=8, num_action_steps=4)
LONGEST = 4


def make(prefix_training: int = LONGEST) -> Policy:
    return Policy(replace(SIZES, prefix_training=prefix_training), SPACES, 7, rngs=nnx.Rngs(0))


def batch(size: int = 6) -> dict:
    keys = jax.random.split(jax.random.key(1), 3)
    observation = {
        "state": jax.random.normal(keys[0], (size, 3, 16)),
        "env_state": jax.random.normal(keys[1], (size, 3, 7)),
    }
    return {
        "observation": observation,
        "action": jax.random.normal(keys[2], (size, 8, 16)),
        "is_pad": jnp.zeros((size, 8), bool).at[0, 6:].set(True),
    }


def test_prefixes_in_training_are_those_of_delays() -> None:
    """None without a delay; else the actions before the newest observation (2) and the delay's."""
    mask = np.asarray(make().training_prefix(jax.random.key(0), 500))
    lengths = mask.sum(axis=1)
    np.testing.assert_array_equal(mask, np.arange(8) < lengths[:, None])
    values, counts = np.unique(lengths, return_counts=True)
    assert values.tolist() == [0, 3, 4, 5, 6]
    assert counts.min() > 60
    assert make(0).training_prefix(jax.random.key(0), 500) is None


def test_given_steps_are_clean_and_the_others_are_not() -> None:
    seen = []

    def velocity(z: jax.Array, r: jax.Array, t: jax.Array, condition: jax.Array, is_prefix: jax.Array) -> jax.Array:
        seen.append((z, t))
        return z

    x, is_prefix = batch()["action"], paths.prefix_mask(jnp.array([0, 1, 2, 3, 7, 8]), 8)
    flow_matching = ImfConfig(equal_time_fraction=1.0)
    imf.imf_loss(
        paths.given_prefix(velocity), jax.random.key(2), x, batch()["is_pad"], (jnp.zeros(6), is_prefix), flow_matching,
        is_prefix,
    )  # fmt: skip
    ((z, _),) = seen
    same = np.asarray((z == x).all(axis=-1))
    np.testing.assert_array_equal(same, is_prefix)


def test_given_steps_carry_no_loss() -> None:
    """A velocity of zero leaves the error -(e - x) of the steps that are neither given nor padding."""
    x, is_pad = batch()["action"], batch()["is_pad"]
    is_prefix = paths.prefix_mask(jnp.array([0, 1, 2, 3, 4, 5]), 8)

    def still(z: jax.Array, *others: jax.Array) -> jax.Array:
        return jnp.zeros_like(z)

    config, key = ImfConfig(), jax.random.key(3)
    loss, _ = imf.imf_loss(paths.given_prefix(still), key, x, is_pad, (jnp.zeros(6), is_prefix), config, is_prefix)
    expected, _ = imf.imf_loss(still, key, x, is_pad | is_prefix, jnp.zeros(6), config)
    assert float(loss) == pytest.approx(float(expected), rel=1e-6)
    everything = jnp.ones_like(is_prefix)
    nothing, info = imf.imf_loss(
        paths.given_prefix(still), key, x, is_pad, (jnp.zeros(6), everything), config, everything
    )
    assert (float(nothing), float(info["mse"])) == (0.0, 0.0)


def test_given_steps_do_not_move_along_the_path() -> None:
    """u = sum of all steps of z, so du/dt is the sum of the velocities: of the steps that are not given."""

    def total(z: jax.Array, *others: jax.Array) -> jax.Array:
        return jnp.broadcast_to(z.sum(axis=1, keepdims=True), z.shape)

    z = batch(2)["action"]
    r, t = jnp.zeros(2), jnp.ones(2)
    is_prefix = paths.prefix_mask(jnp.array([3, 0]), 8)
    terms = imf.compound_velocity(paths.given_prefix(total), z, r, t, (jnp.zeros(2), is_prefix))
    moving = np.array([5, 8])[:, None]
    expected = moving * np.asarray(z.sum(axis=1))
    np.testing.assert_allclose(terms.derivative[:, -1], expected, rtol=1e-4)
    np.testing.assert_array_equal(terms.compound[0, :3], 0)


def test_plans_keep_what_is_given_and_follow_it() -> None:
    policy, observation = make(), batch(2)["observation"]
    # Where a network starts from, its outputs are too small for a difference to show.
    policy.head.output.kernel[...] = jax.random.normal(jax.random.key(8), policy.head.output.kernel.shape)
    noise = jax.random.normal(jax.random.key(4), (2, 8, 16))
    given = jnp.full((2, 8, 16), 0.3).at[..., [3, 4, 5, 6, 11, 12, 13, 14]].set(0.5)
    is_given = paths.prefix_mask(jnp.array([5, 0]), 8)
    plan = nnx.jit(lambda policy, prefix=None: policy.plan(observation, noise, prefix))
    free, held = plan(policy), plan(policy, Prefix(given, is_given))
    moved = plan(policy, Prefix(given.at[..., 0].add(1), is_given))
    np.testing.assert_allclose(held[0, :5], given[0, :5], atol=1e-6)
    assert np.abs(held[0, 5:] - free[0, 5:]).max() > 1e-3
    assert np.abs(held[0, 5:] - moved[0, 5:]).max() > 1e-3
    np.testing.assert_allclose(held[1], free[1], atol=1e-5)


def test_training_learns_the_mark_and_nothing_else_is_new() -> None:
    policy = make()
    gradient = nnx.jit(nnx.grad(lambda policy: policy.loss(batch(), jax.random.key(5))[0]))(policy)
    mark = np.asarray(gradient["head"]["prefix_mark"][...])
    assert mark.shape == (16,)
    assert np.abs(mark).max() > 0
    count = {n: len(jax.tree.leaves(nnx.state(make(n), nnx.Param))) for n in (0, LONGEST)}
    assert count[LONGEST] == count[0] + 1
    assert not weight_decay_mask(nnx.state(policy, nnx.Param))["head"]["prefix_mark"].get_value()


@pytest.mark.parametrize(
    ("settings", "message"),
    [
        ({"prefix_training": -1}, "--prefix-training -1 must not be negative"),
        ({"prefix_training": 6}, r"--prefix-training 6 leaves nothing of a chunk to learn; it must be in \[0, 5\]"),
        (
            {"prefix_training": 2, "objective": ImfConfig(action_representation="dct")},
            "--prefix-training needs",
        ),
    ],
)
def test_settings_that_cannot_work_are_refused(settings: dict, message: str) -> None:
    with pytest.raises(ArgumentError, match=message):
        replace(SIZES, **settings)
