"""Normalizer and policy: units in, units out."""

from dataclasses import replace

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from flax import nnx
from transfer_task import SPACES

from imf_jax.config import AttnResConfig, ImfConfig, PolicyConfig
from imf_jax.errors import ArgumentError, UserError
from imf_jax.models.normalizer import Normalizer
from imf_jax.models.policy import Policy

SIZES = PolicyConfig(AttnResConfig(n_emb=32, n_layer=2, n_head=4, n_kv_head=4), pred_horizon=8, num_action_steps=4)


def statistics(rows: np.ndarray) -> dict[str, np.ndarray]:
    return {"min": rows.min(0), "max": rows.max(0), "mean": rows.mean(0), "std": rows.std(0)}


@pytest.fixture(scope="module")
def stats() -> dict[str, dict[str, np.ndarray]]:
    generator = np.random.default_rng(0)
    action = generator.uniform(-0.5, 0.7, (200, 16)).astype(np.float32)
    action[:, 4:6] = 0.0  # downward hands never tilt: constant channels
    return {
        "action": statistics(action),
        "qpos": statistics(generator.normal(size=(200, 16)).astype(np.float32)),
        "env_state": statistics(generator.normal(size=(200, 7)).astype(np.float32)),
    }


def make(stats, **changes: object) -> Policy:
    policy = Policy(replace(SIZES, **changes), SPACES, 7, rngs=nnx.Rngs(0))
    policy.set_statistics(stats)
    return policy


def observation(batch: int = 2) -> dict[str, jax.Array]:
    keys = jax.random.split(jax.random.key(0))
    return {
        "state": jax.random.normal(keys[0], (batch, 2, 16)),
        "env_state": jax.random.normal(keys[1], (batch, 2, 7)),
    }


@pytest.mark.parametrize("mode", ["min_max", "mean_std"])
def test_normalizer_inverts_and_scales(mode: str) -> None:
    rows = np.random.default_rng(1).uniform(-3, 9, (500, 4)).astype(np.float32)
    rows[:, 2] = 1.25
    normalizer = Normalizer(4, mode)
    normalizer.set_statistics("rows", statistics(rows))
    scaled = np.asarray(normalizer.normalize(rows))
    varying = [0, 1, 3]
    if mode == "min_max":
        np.testing.assert_allclose(scaled[:, varying].min(0), -1, atol=1e-5)
        np.testing.assert_allclose(scaled[:, varying].max(0), 1, atol=1e-5)
    else:
        np.testing.assert_allclose(scaled[:, varying].mean(0), 0, atol=1e-5)
        np.testing.assert_allclose(scaled[:, varying].std(0), 1, atol=1e-4)
    np.testing.assert_allclose(normalizer.unnormalize(jnp.asarray(scaled)), rows, atol=1e-5)


def test_a_constant_channel_always_comes_back_as_its_constant() -> None:
    rows = np.tile(np.float32([0.3, 5.0]), (10, 1)) + np.float32([0, 1]) * np.arange(10)[:, None]
    normalizer = Normalizer(2, "min_max")
    normalizer.set_statistics("rows", statistics(rows.astype(np.float32)))
    assert float(normalizer.normalize(jnp.array([0.9, 7.0]))[0]) == 0.0
    assert float(normalizer.unnormalize(jnp.array([4.0, 0.0]))[0]) == pytest.approx(0.3)


@pytest.mark.parametrize(
    "broken", [{"min": np.zeros(3)}, {"max": np.full(4, np.nan)}, {"std": None}], ids=["shape", "nan", "missing"]
)
def test_unusable_statistics_are_refused_by_name(broken: dict) -> None:
    values = statistics(np.random.default_rng(0).normal(size=(9, 4)))
    values = {name: value for name, value in {**values, **broken}.items() if value is not None}
    with pytest.raises(UserError, match=f"{next(iter(broken))}.*action|action.*{next(iter(broken))}"):
        Normalizer(4, "min_max").set_statistics("action", values)


@pytest.mark.parametrize("representation", ["time", "dct"])
@pytest.mark.parametrize("normalization", ["min_max", "mean_std"])
def test_plans_are_in_physical_units(stats, normalization: str, representation: str) -> None:
    objective = ImfConfig(action_representation=representation)
    policy = make(stats, normalization=normalization, objective=objective)
    noise = jax.random.normal(jax.random.key(1), (2, 8, 16))
    chunk = np.asarray(policy.plan(observation(), noise))
    assert chunk.shape == (2, 8, 16)
    quaternion = chunk.reshape(2, 8, 2, 8)[..., 3:7]
    np.testing.assert_allclose(np.linalg.norm(quaternion, axis=-1), 1.0, atol=1e-5)


def test_the_condition_holds_state_then_scene(stats) -> None:
    policy = make(stats)
    condition = policy.condition(observation())
    assert condition.shape == (2, 2, 16 + 7)
    moved = observation()
    moved["env_state"] = moved["env_state"] + 1.0
    changed = np.abs(np.asarray(policy.condition(moved) - condition)).max(axis=(0, 1))
    assert not changed[:16].any()
    assert changed[16:].all()


def test_the_loss_falls_when_the_target_is_learned(stats) -> None:
    policy = make(stats)
    graph, params, rest = nnx.split(policy, nnx.Param, ...)
    action = jnp.tile(jnp.asarray(stats["action"]["mean"]), (16, 8, 1))
    batch = {"observation": observation(16), "action": action, "is_pad": jnp.zeros((16, 8), bool)}

    @jax.jit
    def step(params, key):
        value, gradient = jax.value_and_grad(lambda p: nnx.merge(graph, p, rest).loss(batch, key)[0])(params)
        return jax.tree.map(lambda p, g: p - 0.5 * g, params, gradient), value

    losses = []
    for i in range(30):
        params, value = step(params, jax.random.key(i))
        losses.append(float(value))
    assert np.mean(losses[-5:]) < 0.7 * np.mean(losses[:5])


def test_actions_must_be_those_of_the_robot() -> None:
    with pytest.raises(ArgumentError, match="action_dim is 12, but actions of robot 'two_diana7' have 16 entries"):
        Policy(replace(SIZES, action_dim=12), SPACES, 7, rngs=nnx.Rngs(0))
