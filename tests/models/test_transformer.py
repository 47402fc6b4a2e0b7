"""The transformer with ordinary residuals, against the equations and beside the one with attention residuals."""

from functools import partial
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from flax import nnx
from parameters import count_parameters

from imf_jax.config import AttnResConfig, TransformerConfig
from imf_jax.models.networks.attnres import AttnResHead
from imf_jax.models.networks.transformer import TransformerHead

SIZES: dict[str, int] = {"n_emb": 32, "n_layer": 3, "n_head": 4, "n_kv_head": 2}


def make() -> TransformerHead:
    return TransformerHead(TransformerConfig(**SIZES), 16, 5, rngs=nnx.Rngs(0))


def inputs() -> tuple[jax.Array, ...]:
    keys = jax.random.split(jax.random.key(1), 3)
    r, t = jnp.sort(jax.random.uniform(keys[1], (2, 3)), axis=0)
    return jax.random.normal(keys[0], (3, 6, 16)), r, t, jax.random.normal(keys[2], (3, 2, 5))


def test_attention_residuals_at_zero_queries_are_ordinary_ones() -> None:
    """With the same weights, up to the eps of the norms."""
    attention = AttnResHead(AttnResConfig(**SIZES), 16, 5, rngs=nnx.Rngs(2))
    plain = make()
    weights = nnx.to_flat_state(nnx.state(attention))
    shared = [(path, leaf) for path, leaf in weights if path[-1] != "pseudo_queries"]
    nnx.update(plain, nnx.from_flat_state(shared))
    expected, got = (nnx.jit(lambda head, *inputs: head(*inputs))(head, *inputs()) for head in (attention, plain))
    scale = float(jnp.abs(expected).max())
    np.testing.assert_allclose(got / scale, expected / scale, atol=2e-3)
    assert count_parameters(attention) - count_parameters(plain) == 2 * SIZES["n_layer"] * SIZES["n_emb"]


def test_scanned_layers_are_the_unrolled_ones() -> None:
    head = make()
    z, r, t, condition = inputs()

    @partial(jax.jit, static_argnums=0)
    def all_of(graph: nnx.GraphDef, weights: nnx.State) -> Any:
        def scalar(weights: nnx.State) -> jax.Array:
            head = nnx.merge(graph, weights)
            value, derivative = jax.jvp(lambda z, t: head(z, r, t, condition), (z, t), (jnp.cos(z), jnp.ones(3)))
            return jnp.sum(jnp.sin(value)) + jnp.sum(jnp.cos(derivative))

        return jax.value_and_grad(scalar)(weights)

    results = []
    for form in ("unrolled", "scanned"):
        head.backbone.form = form  # type: ignore[assignment]
        results.append(all_of(*nnx.split(head)))
    for unrolled, scanned in zip(*map(jax.tree.leaves, results), strict=True):
        scale = float(jnp.abs(unrolled).max())
        np.testing.assert_allclose(scanned / scale, unrolled / scale, rtol=0, atol=1e-5)


@pytest.mark.parametrize("kept", [1, 1 + 2 * SIZES["n_layer"]])
def test_memory_counts_what_is_kept(kept: int) -> None:
    kind, config = (TransformerHead, TransformerConfig) if kept == 1 else (AttnResHead, AttnResConfig)
    head = nnx.eval_shape(lambda: kind(config(**SIZES), 16, 5, rngs=nnx.Rngs(0)))
    assert head.bytes_per_chunk(2, 6) == 4 * 10 * 32 * (kept + 12)
