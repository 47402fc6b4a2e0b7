"""What every objective owes the rest, with a network that is a formula."""

from typing import Any, get_args

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from imf_jax.config import (
    DiffusionConfig,
    FlowConfig,
    ImfConfig,
    MeanFlowConfig,
    ObjectiveConfig,
    PolicyConfig,
    RegressionConfig,
)
from imf_jax.errors import ArgumentError
from imf_jax.models.generator import GENERATORS, Generator, build_generator
from imf_jax.models.objectives.paths import prefix_mask

SETTINGS: list[Any] = [
    ImfConfig(), FlowConfig(), FlowConfig(prediction="data"), RegressionConfig(),
    DiffusionConfig(), DiffusionConfig(prediction="v", clip=None), MeanFlowConfig(), MeanFlowConfig(weight_power=0.0),
]  # fmt: skip
SHAPE = 6, 8, 3


def network(z: jax.Array, r: jax.Array, t: jax.Array, condition: jax.Array, is_prefix: Any = None) -> jax.Array:
    """Mixes the steps of a chunk with its condition and its times, and no two rows."""
    mark = 0.0 if is_prefix is None else 0.1 * is_prefix[..., None]
    times = (r + 2 * t)[:, None, None]
    return jnp.tanh(z.mean(axis=1, keepdims=True) + 0.5 * z + times + condition.mean(axis=(1, 2))[:, None, None] + mark)


@pytest.fixture(params=SETTINGS, ids=str)
def generator(request: pytest.FixtureRequest) -> Generator:
    return build_generator(request.param, network)


def batch() -> tuple[jax.Array, jax.Array, jax.Array]:
    keys = jax.random.split(jax.random.key(0), 2)
    x = jax.random.normal(keys[0], SHAPE)
    return x, jnp.zeros(SHAPE[:2], bool).at[0, 5:].set(True), jax.random.normal(keys[1], (6, 2, 4))


def steps_of(generator: Generator) -> int:
    return min(3, generator.config.most_steps or 3)  # type: ignore[attr-defined]


def test_every_kind_of_settings_has_a_generator() -> None:
    assert {type(settings) for settings in SETTINGS} == set(GENERATORS) == set(get_args(ObjectiveConfig))


def test_the_figures_are_what_the_loss_returns(generator: Generator) -> None:
    x, is_pad, condition = batch()
    loss, info = generator.loss(jax.random.key(1), x, is_pad, condition)
    assert tuple(info) == generator.figures
    assert all(value.shape == () for value in (loss, *info.values()))
    assert float(loss) > 0


def test_padded_and_given_steps_carry_no_loss(generator: Generator) -> None:
    """What a network says there does not count, so a bias that is only there has no gradient."""
    x, is_pad, condition = batch()
    is_prefix = prefix_mask(jnp.array([0, 1, 2, 3, 7, 8]), 8)
    silent = np.asarray(is_pad | is_prefix)
    biased = build_generator(generator.config, lambda z, r, t, bias, *mark: jnp.tanh(z) + bias)  # type: ignore[attr-defined]
    gradient = jax.grad(lambda bias: biased.loss(jax.random.key(1), x, is_pad, bias, is_prefix)[0])(jnp.zeros(SHAPE))
    assert not np.asarray(gradient)[silent].any()
    assert np.asarray(gradient)[~silent].any(axis=-1).all()
    everything = jnp.ones_like(is_pad)
    assert float(generator.loss(jax.random.key(1), x, everything, condition)[0]) == 0


def test_rows_do_not_influence_one_another(generator: Generator) -> None:
    noise, _, condition = batch()
    steps = steps_of(generator)
    together = generator.sample(noise, condition, steps)
    alone = generator.sample(noise[2:4], condition[2:4], steps)
    assert together.shape == SHAPE
    np.testing.assert_allclose(together[2:4], alone, atol=1e-6)


def test_given_steps_stay_and_the_others_follow_them(generator: Generator) -> None:
    noise, _, condition = batch()
    is_prefix = prefix_mask(jnp.full(6, 3), 8)
    steps = steps_of(generator)
    chunk = generator.sample(noise, condition, steps, is_prefix)
    moved = generator.sample(noise.at[:, 0].add(1.0), condition, steps, is_prefix)
    np.testing.assert_array_equal(chunk[:, :3], noise[:, :3])
    assert np.abs(chunk[:, 3:] - moved[:, 3:]).max() > 1e-3


def test_a_bound_that_cuts_actions_off_is_refused() -> None:
    with pytest.raises(ArgumentError, match=r"objective\.clip 1\.0 cuts off most of what normalization mean_std makes"):
        PolicyConfig(objective=DiffusionConfig(), normalization="mean_std")
    with pytest.raises(ArgumentError, match=r"--sampling-steps 101 is more .* diffusion has; choose 1\.\.100"):
        PolicyConfig(objective=DiffusionConfig(), sampling_steps=101)


def test_more_steps_than_an_objective_has_are_refused() -> None:
    with pytest.raises(ArgumentError, match="--sampling-steps 2 is more than objective regression has; choose 1"):
        PolicyConfig(objective=RegressionConfig(), sampling_steps=2)
