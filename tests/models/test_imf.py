"""The objective and the sampler on velocity fields whose answers are known, and on a small network."""

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from flax import nnx

from imf_jax.config import AttnResConfig, ImfConfig
from imf_jax.models.networks.attnres import AttnResHead
from imf_jax.models.objectives import dct, imf, paths

BATCH, HORIZON, DIM = 8, 6, 16


@pytest.fixture(scope="module")
def head() -> AttnResHead:
    config = AttnResConfig(n_emb=32, n_layer=2, n_head=4, n_kv_head=4)
    return AttnResHead(config, 16, 5, rngs=nnx.Rngs(0))


def batch(dtype: jnp.dtype = jnp.float32) -> tuple[jax.Array, ...]:
    keys = jax.random.split(jax.random.key(3), 4)
    z = jax.random.normal(keys[0], (BATCH, HORIZON, DIM), dtype)
    r, t = jnp.sort(jax.random.uniform(keys[1], (2, BATCH), dtype), axis=0)
    return z, r, t, jax.random.normal(keys[2], (BATCH, 2, 5), dtype)


compound_velocity = nnx.jit(imf.compound_velocity)


@nnx.jit
def evaluate(head: AttnResHead, *arguments: jax.Array) -> jax.Array:
    return head(*arguments)


def test_equal_times_reduce_to_flow_matching(head: AttnResHead) -> None:
    z, _, t, condition = batch()
    terms = compound_velocity(head, z, t, t, condition)
    np.testing.assert_allclose(terms.compound, terms.average, atol=1e-7)
    np.testing.assert_allclose(terms.average, evaluate(head, z, t, t, condition), atol=1e-6)


@pytest.mark.parametrize(("platform", "num_equal"), [("cpu", 0), ("cpu", 3), ("cpu", 4), ("cpu", BATCH), ("gpu", 3)])
def test_the_split_batch_equals_the_plain_objective(
    head: AttnResHead, platform: str, num_equal: int, monkeypatch: pytest.MonkeyPatch
) -> None:
    z, r, t, condition = batch()
    r = jnp.where(jnp.arange(BATCH) < num_equal, t, r)
    plain = compound_velocity(head, z, r, t, condition)
    monkeypatch.setattr(jax, "default_backend", lambda: platform)
    split_velocity = nnx.jit(imf.batch_compound_velocity, static_argnums=5)
    compound, derivative = split_velocity(head, z, r, t, condition, num_equal)
    np.testing.assert_allclose(compound, plain.compound, atol=1e-6)
    np.testing.assert_allclose(derivative, plain.derivative[num_equal:], atol=1e-6)


def test_the_split_batch_has_the_gradient_of_the_plain_objective(head: AttnResHead) -> None:
    z, r, t, condition = batch()
    r = r.at[:4].set(t[:4])
    graph, weights = nnx.split(head)

    def through(function):
        return jax.jit(jax.grad(lambda w: jnp.sum(jnp.square(function(nnx.merge(graph, w))))))(weights)

    plain = through(lambda head: imf.compound_velocity(head, z, r, t, condition).compound)
    split = through(lambda head: imf.batch_compound_velocity(head, z, r, t, condition, 4)[0])
    for one, other in zip(jax.tree.leaves(plain), jax.tree.leaves(split), strict=True):
        np.testing.assert_allclose(one, other, atol=2e-5 * max(float(jnp.abs(one).max()), 1e-6))


def test_the_derivative_agrees_with_finite_differences(head: AttnResHead) -> None:
    with jax.enable_x64(True):
        double = nnx.merge(*_as_double(head))
        z, r, t, condition = batch(jnp.float64)
        terms = compound_velocity(double, z, r, t, condition)
        step = 1e-5
        ahead = evaluate(double, z + step * terms.instantaneous, r, t + step, condition)
        behind = evaluate(double, z - step * terms.instantaneous, r, t - step, condition)
        numeric = (ahead - behind) / (2 * step)
        np.testing.assert_allclose(terms.derivative, numeric, atol=1e-6 * float(jnp.abs(numeric).max()))


def _as_double(head: AttnResHead) -> tuple[nnx.GraphDef, nnx.State]:
    graph, weights = nnx.split(head)
    return graph, jax.tree.map(lambda leaf: jnp.asarray(np.asarray(leaf), jnp.float64), weights)


def test_only_the_average_velocity_carries_gradient(head: AttnResHead) -> None:
    z, r, t, condition = batch()
    graph, weights = nnx.split(head)

    def compound(w, frozen):
        terms = imf.compound_velocity(nnx.merge(graph, w), z, r, t, condition)
        constant = imf.compound_velocity(nnx.merge(graph, frozen), z, r, t, condition).derivative
        return terms.compound, terms.average + (t - r)[:, None, None] * constant

    for index in (0, 1):
        gradient = jax.jit(jax.grad(lambda w, index=index: jnp.sum(jnp.sin(compound(w, weights)[index]))))(weights)
        if index == 0:
            first = gradient
    for one, other in zip(jax.tree.leaves(first), jax.tree.leaves(gradient), strict=True):
        np.testing.assert_allclose(one, other, atol=1e-6)


@pytest.mark.parametrize("steps", [1, 2, 5])
def test_sampling_a_straight_path_is_exact(steps: int) -> None:
    """For one data point x, u(z, r, t) = (z - x) / t: every number of steps ends at x."""
    x = jax.random.normal(jax.random.key(1), (4, HORIZON, DIM))
    noise = jax.random.normal(jax.random.key(2), x.shape)
    got = paths.sample(lambda z, r, t, condition: (z - x) / t[:, None, None], noise, jnp.zeros((4, 1, 1)), steps)
    np.testing.assert_allclose(got, x, atol=1e-5)


def test_sampling_passes_r_before_t() -> None:
    """u = t - 2 r integrates to different values when the times are swapped or flipped."""
    noise = jnp.zeros((1, 1, 1))
    got = paths.sample(lambda z, r, t, condition: (t - 2 * r)[:, None, None], noise, noise, 2)
    # intervals (t, r) = (1, .5) and (.5, 0), each half long: -(0.5 * 0) - (0.5 * 0.5)
    np.testing.assert_allclose(got, [[[-0.25]]], atol=1e-6)


def test_times_are_ordered_and_half_of_them_equal() -> None:
    config = ImfConfig()
    r, t = paths.sample_times(jax.random.key(0), 4000, config)
    assert bool((r <= t).all())
    assert int((r == t).sum()) == 2000
    logit = np.log(t[:2000] / (1 - t[:2000]))
    assert np.mean(logit) == pytest.approx(-0.4, abs=0.08)
    assert np.std(logit) == pytest.approx(1.0, abs=0.08)
    r, t = paths.sample_times(jax.random.key(0), 4000, ImfConfig(time_distribution="uniform"))
    assert float(t[2000:].mean()) == pytest.approx(2 / 3, abs=0.02)  # the larger of two uniforms


def test_pseudo_huber_is_quadratic_then_linear() -> None:
    small, large = jnp.array(0.05), jnp.array(1e3)
    assert float(imf.pseudo_huber(small, 1.0)) == pytest.approx(0.5 * 0.05**2, rel=2e-3)
    assert float(imf.pseudo_huber(large, 2.0)) == pytest.approx(2 * 1e3 - 4, rel=1e-4)


@pytest.mark.parametrize("representation", ["time", "dct"])
@pytest.mark.parametrize("kind", ["mse", "pseudo_huber"])
def test_padded_steps_carry_no_loss(kind: str, representation: str) -> None:
    config = ImfConfig(loss=kind, action_representation=representation)
    error = jax.random.normal(jax.random.key(0), (3, HORIZON, DIM))
    is_pad = jnp.zeros((3, HORIZON), bool).at[:, 4:].set(True)
    changed = error.at[:, 4:].add(5.0)
    to = dct.dct if representation == "dct" else lambda values: values
    one, other = (imf.regression_loss(to(values), is_pad, config) for values in (error, changed))
    assert float(one) == pytest.approx(float(other), rel=1e-5)
    assert float(one) != pytest.approx(float(imf.regression_loss(to(changed), ~is_pad, config)), rel=1e-2)


def test_all_padding_is_not_a_division_by_zero() -> None:
    for mean in (imf.regression_loss, imf.mean_squared_error):
        assert float(mean(jnp.ones((2, 3, 4)), jnp.ones((2, 3), bool), ImfConfig())) == 0.0


@pytest.mark.parametrize(("representation", "given"), [("time", 0), ("time", 2), ("dct", 0)])
def test_the_logged_error_is_that_of_the_steps_with_loss(representation: str, given: int) -> None:
    """A velocity of zero is wrong by x - e; what is padded or given in x does not count, however large it is."""
    config = ImfConfig(loss="mse", action_representation=representation)
    x = jax.random.normal(jax.random.key(0), (BATCH, HORIZON, DIM))
    is_pad = jnp.zeros((BATCH, HORIZON), bool).at[:, 4:].set(True)
    is_prefix = paths.prefix_mask(jnp.full(BATCH, given), HORIZON) if given else None
    key = jax.random.key(1)
    masked = is_pad if is_prefix is None else is_pad | is_prefix

    def logged(x: jax.Array) -> tuple[float, float]:
        chunk = dct.dct(x) if representation == "dct" else x
        loss, info = imf.imf_loss(lambda z, *others: jnp.zeros_like(z), key, chunk, is_pad, None, config, is_prefix)
        return float(loss), float(info["mse"])

    loss, mse = logged(x)
    assert logged(jnp.where(masked[..., None], 100.0, x))[1] == pytest.approx(mse, rel=1e-3)
    if representation == "time":
        assert mse == pytest.approx(loss, rel=1e-6)


def test_dct_is_orthonormal_and_agrees_with_scipy() -> None:
    import scipy.fft

    matrix = dct.dct_matrix(HORIZON)
    np.testing.assert_allclose(matrix @ matrix.T, np.eye(HORIZON), atol=1e-6)
    chunk = np.random.default_rng(0).normal(size=(2, HORIZON, DIM)).astype(np.float32)
    np.testing.assert_allclose(dct.dct(jnp.asarray(chunk)), scipy.fft.dct(chunk, axis=1, norm="ortho"), atol=1e-5)
    np.testing.assert_allclose(dct.inverse_dct(dct.dct(jnp.asarray(chunk))), chunk, atol=1e-5)
    np.testing.assert_allclose(dct.dct_weights(5)[:, 0], 1 + (np.arange(5) / 4) ** 2)


def test_a_network_that_predicts_the_data_exactly_has_the_velocity_of_the_path() -> None:
    x, noise = jnp.asarray(np.random.default_rng(0).normal(size=(2, 6, 4, 3)), jnp.float32)
    exact = paths.from_data(lambda z, r, t, condition: condition)
    r = jnp.array([0.0, 0.1, 0.0, 0.3, 0.2, 0.5])
    t = jnp.array([0.1, 0.4, 1.0, 0.9, 0.2, 0.6])
    z = paths.interpolate(x, noise, t)
    terms = imf.compound_velocity(exact, z, r, t, x)
    for term in (terms.instantaneous, terms.average, terms.compound):
        np.testing.assert_allclose(term, noise - x, atol=2e-5)
    np.testing.assert_allclose(terms.derivative, 0.0, atol=2e-3)


def test_one_step_from_noise_is_the_predicted_data() -> None:
    noise = np.random.default_rng(1).normal(size=(2, 4, 3)).astype(np.float32)
    network = paths.from_data(lambda z, r, t, condition: 0.1 * z + condition)
    chunk = paths.sample(network, jnp.asarray(noise), jnp.full((2, 1, 1), 0.5), 1)
    np.testing.assert_allclose(chunk, 0.1 * noise + 0.5, atol=1e-6)


def test_small_times_do_not_blow_errors_up() -> None:
    off = paths.from_data(lambda z, r, t, condition: z - 0.01)
    z = jnp.zeros((1, 2, 3))
    assert float(jnp.abs(off(z, jnp.zeros(1), jnp.full(1, 1e-6), None)).max()) <= 0.01 / paths.SMALLEST_TIME + 1e-6
