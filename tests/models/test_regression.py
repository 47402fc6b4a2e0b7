"""Regression of chunks: an absolute error, no noise, one step."""

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from imf_jax.config import RegressionConfig
from imf_jax.models.objectives.regression import Regression

X = jax.random.normal(jax.random.key(0), (5, 4, 3))
NOTHING = jnp.zeros(X.shape[:2], bool)


def test_the_loss_is_the_mean_absolute_error() -> None:
    regression = Regression(RegressionConfig(), lambda z, r, t, condition: X + condition)
    loss, info = regression.loss(jax.random.key(1), X, NOTHING, jnp.full((5, 1, 3), -0.25))
    assert float(loss) == pytest.approx(0.25, rel=1e-6)
    assert info == {}


def test_the_best_constant_is_the_median() -> None:
    x = jnp.array([0.0, 1.0, 10.0]).reshape(3, 1, 1)

    def loss(constant: float) -> float:
        regression = Regression(RegressionConfig(), lambda z, r, t, condition: jnp.full_like(z, constant))
        return float(regression.loss(jax.random.key(1), x, jnp.zeros((3, 1), bool), x)[0])

    assert loss(1.0) < min(loss(0.9), loss(1.1), loss(float(x.mean())))


def test_neither_data_nor_noise_reach_the_network() -> None:
    regression = Regression(RegressionConfig(), lambda z, r, t, condition: z + condition)
    condition = jnp.full((5, 1, 3), 0.5)
    np.testing.assert_array_equal(regression.sample(X, condition, 1), jnp.full(X.shape, 0.5))
    loss, _ = regression.loss(jax.random.key(1), X, NOTHING, condition)
    assert float(loss) == pytest.approx(float(jnp.abs(X - 0.5).mean()), rel=1e-6)
