"""A plan in a batch of fixed size is the same to the last bit, whatever is planned beside it and in which row.

Evaluation plans in padded batches of one size; these tests are what makes its records independent of `--num-envs`.
"""

from collections.abc import Callable

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from flax import nnx
from transfer_task import SPACES

from imf_jax.config import AttnResConfig, PolicyConfig
from imf_jax.models.policy import Policy

pytestmark = pytest.mark.optimized

BATCH = 5

Plan = Callable[[dict[str, jax.Array], jax.Array], np.ndarray]
Inputs = tuple[dict[str, jax.Array], jax.Array]


@pytest.fixture(scope="module")
def plan() -> Plan:
    policy = Policy(
        PolicyConfig(head=AttnResConfig(n_emb=64, n_layer=2), sampling_steps=2), SPACES, 7, rngs=nnx.Rngs(0)
    )
    queries = policy.head.backbone.pseudo_queries
    queries[...] = jax.random.normal(jax.random.key(1), queries.shape)
    compiled = nnx.jit(Policy.plan)
    return lambda observation, noise: np.asarray(compiled(policy, observation, noise))


@pytest.fixture(scope="module")
def inputs() -> Inputs:
    keys = jax.random.split(jax.random.key(0), 3)
    observation = {
        "state": jax.random.normal(keys[0], (BATCH, 2, 16)),
        "env_state": jax.random.normal(keys[1], (BATCH, 2, 7)),
    }
    return observation, jax.random.normal(keys[2], (BATCH, 16, 16))


@pytest.mark.parametrize("row", range(BATCH))
def test_a_row_does_not_depend_on_the_values_of_others(plan: Plan, inputs: Inputs, row: int) -> None:
    others = (jnp.arange(BATCH) != row)[:, None, None]
    changed = jax.tree.map(lambda leaf: jnp.where(others, 3 * leaf + 1, leaf), inputs)
    before, after = plan(*inputs), plan(*changed)
    np.testing.assert_array_equal(after[row], before[row])
    assert np.abs(np.delete(after - before, row, axis=0)).max() > 1e-3


def test_a_row_full_of_nan_harms_no_other(plan: Plan, inputs: Inputs) -> None:
    broken = jax.tree.map(lambda leaf: leaf.at[2].set(jnp.nan), inputs)
    after = plan(*broken)
    assert not np.isfinite(after[2]).all()
    np.testing.assert_array_equal(np.delete(after, 2, axis=0), np.delete(plan(*inputs), 2, axis=0))


@pytest.mark.parametrize("shift", range(1, BATCH))
def test_a_row_does_not_depend_on_its_position(plan: Plan, inputs: Inputs, shift: int) -> None:
    """Not promised by XLA, but so on the CPUs seen up to now; elsewhere rounding may differ in the last bits."""
    moved = plan(*jax.tree.map(lambda leaf: jnp.roll(leaf, shift, axis=0), inputs))
    np.testing.assert_allclose(np.roll(moved, -shift, axis=0), plan(*inputs), rtol=0, atol=1e-5)
