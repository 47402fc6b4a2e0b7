"""Convolutions and pools: the form of CPUs computes what XLA computes, forwards and backwards, also in a loop."""

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from flax import nnx

from imf_jax.models.encoders.convolution import LARGE_MAP, WIDE, Convolution, max_pool, on_cpu, taps


def results(form: str, channels: int, size: int, stride: int, shape: tuple[int, int]) -> list[np.ndarray]:
    """Output and gradients of a convolution within a compiled loop."""
    module = Convolution(channels, 4, size, stride, rngs=nnx.Rngs(0))
    module.form = form
    graph, weights = nnx.split(module)
    random = np.random.default_rng(0)
    x = jnp.asarray(random.normal(size=(2, *shape, channels)).astype(np.float32))
    out_shape = [-(-side // stride) for side in shape]
    cotangent = jnp.asarray(random.normal(size=(2, *out_shape, 4)).astype(np.float32))

    @jax.jit
    def looped(x: jax.Array, weights: nnx.State, cotangent: jax.Array, count: jax.Array) -> tuple:
        def one(_: jax.Array, carry: tuple) -> tuple:
            y, pull = jax.vjp(lambda x, weights: nnx.merge(graph, weights)(x), x, weights)
            return (y, *pull(cotangent))

        return jax.lax.fori_loop(0, count, one, (jnp.zeros_like(cotangent), x, weights))

    return [np.asarray(leaf) for leaf in jax.tree.leaves(looped(x, weights, cotangent, jnp.int32(1)))]


@pytest.mark.parametrize(
    ("channels", "size", "stride", "shape"),
    [
        (3, 3, 1, (9, 11)),
        (3, 3, 2, (13, 16)),
        (3, 7, 2, (14, 15)),
        (3, 3, 1, (4, 5)),
        (3, 3, 2, (5, 4)),
        (3, 1, 2, (9, 8)),
        (WIDE, 3, 1, (27, LARGE_MAP // 27 + 1)),
    ],
)
def test_the_forms_agree(channels: int, size: int, stride: int, shape: tuple[int, int]) -> None:
    for xla, cpu in zip(*(results(form, channels, size, stride, shape) for form in ("xla", "cpu")), strict=True):
        assert xla.shape == cpu.shape
        np.testing.assert_allclose(cpu, xla, rtol=0, atol=2e-5 * np.abs(xla).max())


@pytest.mark.parametrize("side", [6, 7])
def test_pools_agree(side: int) -> None:
    x = jnp.asarray(np.random.default_rng(0).normal(size=(2, side, side + 2, 3)).astype(np.float32))
    values = {}
    for form in ("xla", "cpu"):
        pool = jax.jit(jax.value_and_grad(lambda x, form=form: jnp.sum(jnp.sin(max_pool(x, 3, 2, form)))))
        values[form] = pool(x)
        assert max_pool(x, 3, 2, form).shape == (2, -(-side // 2), -(-(side + 2) // 2), 3)
    for xla, cpu in zip(values["xla"], values["cpu"], strict=True):
        np.testing.assert_allclose(cpu, xla, atol=1e-5)


def test_taps_are_what_the_cells_of_a_window_read() -> None:
    x = jnp.arange(16.0).reshape(1, 4, 4, 1)
    found = [np.asarray(tap)[0, :, :, 0].tolist() for tap in taps(x, 2, 2, ((0, 0), (0, 0)))]
    assert found == [[[0, 2], [8, 10]], [[1, 3], [9, 11]], [[4, 6], [12, 14]], [[5, 7], [13, 15]]]


@pytest.mark.parametrize(("platform", "own"), [("cpu", True), ("gpu", False), ("tpu", False)])
def test_accelerators_get_xlas_convolutions(platform: str, own: bool, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(jax, "default_backend", lambda: platform)
    assert on_cpu("auto") == own
    assert on_cpu("cpu")
    assert not on_cpu("xla")
