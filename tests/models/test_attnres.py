"""The transformer: size, initialisation, and what it reduces to."""

from functools import partial
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from flax import nnx
from parameters import count_parameters

from imf_jax.config import AttnResConfig
from imf_jax.errors import ArgumentError
from imf_jax.models.networks.attnres import AttnResHead
from imf_jax.models.networks.layers import RMSNorm, swiglu_width, time_embedding
from imf_jax.models.policy import weight_decay_mask

SMALL = AttnResConfig(n_emb=32, n_layer=3, n_head=4, n_kv_head=2)


def small_head(seed: int = 0, **changes: object) -> AttnResHead:
    config = AttnResConfig(**{**SMALL.__dict__, **changes})
    return AttnResHead(config, 16, 5, rngs=nnx.Rngs(seed))


@nnx.jit
def run(head: AttnResHead, *arguments: jax.Array) -> jax.Array:
    return head(*arguments)


def inputs(batch: int = 3, horizon: int = 6) -> tuple[jax.Array, ...]:
    keys = jax.random.split(jax.random.key(1), 4)
    z = jax.random.normal(keys[0], (batch, horizon, 16))
    r, t = jnp.sort(jax.random.uniform(keys[1], (2, batch)), axis=0)
    return z, r, t, jax.random.normal(keys[2], (batch, 2, 5))


def test_the_default_head_has_the_size_of_the_original() -> None:
    head = nnx.eval_shape(lambda: AttnResHead(AttnResConfig(), 16, 208, rngs=nnx.Rngs(0)))
    assert count_parameters(head) == 21_493_264
    assert swiglu_width(384) == 1024


def test_initial_weights() -> None:
    head = small_head(n_emb=128)
    params = dict(nnx.to_flat_state(nnx.state(head, nnx.Param)))
    kernels = [leaf for path, leaf in params.items() if path[-1] == "kernel"]
    assert np.std(np.concatenate([np.ravel(kernel[...]) for kernel in kernels])) == pytest.approx(0.02, rel=0.02)
    assert all(not np.any(leaf[...]) for path, leaf in params.items() if path[-1] in ("bias", "pseudo_queries"))
    assert all(np.all(leaf[...] == 1) for path, leaf in params.items() if path[-1] == "scale")


def test_zero_pseudo_queries_make_an_ordinary_residual_network() -> None:
    """Equal weights give the mean of the sources, and the norm before every sub-layer undoes the division."""
    head = small_head()
    arguments = inputs()
    expected = nnx.jit(residual_network)(head, *arguments)
    got = run(head, *arguments)
    scale = float(jnp.abs(expected).max())
    # The norm's eps weighs more on a mean than on a sum of small initial embeddings, hence not exact.
    np.testing.assert_allclose(got / scale, expected / scale, atol=2e-3)


def residual_network(head: AttnResHead, z: jax.Array, r: jax.Array, t: jax.Array, condition: jax.Array) -> jax.Array:
    """The same sub-layers in an ordinary pre-norm residual stream."""
    times = head.time_embedding(time_embedding(jnp.concatenate([r, t]), head.config.n_emb))[:, None]
    embedded = [*jnp.split(times, 2), head.condition_embedding(condition), head.action_embedding(z)]
    tokens = jnp.concatenate(embedded, axis=1)
    stream = tokens.reshape(-1, tokens.shape[-1])
    for norm, sublayer in zip(head.backbone.norms, head.backbone.sublayers, strict=True):
        stream = stream + sublayer(norm(stream), tokens.shape[1])
    return head.output(head.norm(stream.reshape(tokens.shape)[:, -z.shape[1] :]))


def test_nonzero_pseudo_queries_change_the_mixture() -> None:
    head = small_head()
    before = run(head, *inputs())
    head.backbone.pseudo_queries[...] = jax.random.normal(jax.random.key(0), head.backbone.pseudo_queries.shape)
    assert float(jnp.abs(run(head, *inputs()) - before).max()) > 1e-3 * float(jnp.abs(before).max())


def test_causal_attention_hides_later_actions() -> None:
    z, r, t, condition = inputs()
    changed = z.at[:, -1].add(1.0)
    for causal in (True, False):
        head = small_head(causal=causal)
        difference = jnp.abs(run(head, z, r, t, condition) - run(head, changed, r, t, condition))[:, :-1].max()
        assert (float(difference) == 0.0) == causal


def test_key_value_heads_serve_contiguous_groups() -> None:
    """With the keys and values of kv head 0 doubled into a 4-head model, the first two query heads agree."""
    grouped = small_head()
    full = small_head(n_kv_head=4)
    width, dim = 32, 8
    for ours, theirs in zip(grouped.backbone.sublayers, full.backbone.sublayers, strict=True):
        if not hasattr(ours, "qkv"):
            theirs.gate_up.kernel[...], theirs.down.kernel[...] = ours.gate_up.kernel[...], ours.down.kernel[...]
            continue
        kernel = ours.qkv.kernel[...]
        query, key, value = kernel[:, :width], kernel[:, width : width + 2 * dim], kernel[:, width + 2 * dim :]
        repeat = [jnp.repeat(part.reshape(width, 2, dim), 2, axis=1).reshape(width, width) for part in (key, value)]
        theirs.qkv.kernel[...] = jnp.concatenate([query, *repeat], axis=1)
        theirs.out.kernel[...] = ours.out.kernel[...]
    for name in ("action_embedding", "condition_embedding", "time_embedding", "output"):
        getattr(full, name).kernel[...] = getattr(grouped, name).kernel[...]
    np.testing.assert_allclose(run(full, *inputs()), run(grouped, *inputs()), atol=1e-6)


def test_rows_do_not_influence_one_another() -> None:
    head = small_head()
    z, r, t, condition = inputs()
    whole = run(head, z, r, t, condition)
    other = run(head, z.at[1:].set(7.0), r.at[1:].set(0.1), t.at[1:].set(0.2), condition.at[1:].set(-3.0))
    np.testing.assert_array_equal(whole[0], other[0])


@pytest.mark.parametrize(
    ("n_layer", "n_kv_head", "causal"),
    [
        pytest.param(1, 4, False, marks=pytest.mark.long),
        (2, 2, True),
        pytest.param(4, 1, False, marks=pytest.mark.long),
    ],
)
def test_scanned_layers_are_the_unrolled_ones(n_layer: int, n_kv_head: int, causal: bool) -> None:
    """Outputs, their derivative along a tangent, and gradients of the weights through both."""
    head = small_head(n_layer=n_layer, n_kv_head=n_kv_head, causal=causal)
    head.backbone.pseudo_queries[...] = jax.random.normal(jax.random.key(0), head.backbone.pseudo_queries.shape)
    z, r, t, condition = inputs()

    def outputs(graph: nnx.GraphDef, weights: nnx.State) -> tuple[jax.Array, jax.Array]:
        return jax.jvp(
            lambda z, r, t: nnx.merge(graph, weights)(z, r, t, condition), (z, r, t), (jnp.cos(z), 0 * r, jnp.ones(3))
        )

    def scalar(graph: nnx.GraphDef, weights: nnx.State) -> jax.Array:
        value, derivative = outputs(graph, weights)
        return jnp.sum(jnp.sin(value)) + jnp.sum(jnp.cos(derivative))

    @partial(jax.jit, static_argnums=0)
    def all_of(graph: nnx.GraphDef, weights: nnx.State) -> Any:
        return outputs(graph, weights), jax.grad(scalar, argnums=1)(graph, weights)

    results, trees = [], []
    for form in ("unrolled", "scanned"):
        head.backbone.form = form
        graph, weights = nnx.split(head)
        results.append(all_of(graph, weights))
        trees.append(jax.tree.structure(weights))
    assert trees[0] == trees[1]
    for unrolled, scanned in zip(*map(jax.tree.leaves, results), strict=True):
        scale = float(jnp.abs(unrolled).max())
        np.testing.assert_allclose(scanned / scale, unrolled / scale, rtol=0, atol=1e-5)


@pytest.mark.parametrize(
    ("platform", "n_layer", "scanned"), [("cpu", 24, False), ("cpu", 25, True), ("gpu", 1, True), ("tpu", 4, True)]
)
def test_layers_are_scanned_where_compilation_matters_more(
    platform: str, n_layer: int, scanned: bool, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(jax, "default_backend", lambda: platform)
    head = nnx.eval_shape(lambda: small_head(n_layer=n_layer))
    assert head.backbone.is_scanned() == scanned


def test_norm_is_root_mean_square() -> None:
    x = jax.random.normal(jax.random.key(0), (4, 8))
    expected = x / np.sqrt(np.mean(np.square(x), axis=-1, keepdims=True) + 1e-6)
    np.testing.assert_allclose(RMSNorm(8)(x), expected, rtol=1e-6)


def test_only_kernels_of_linear_layers_decay() -> None:
    mask = dict(nnx.to_flat_state(weight_decay_mask(nnx.state(small_head(), nnx.Param))))
    for path, leaf in mask.items():
        assert leaf.get_value() == (path[-1] == "kernel"), path


@pytest.mark.parametrize(
    ("changes", "message"),
    [
        ({"n_emb": 30}, "n_emb 30 must be a multiple"),
        ({"n_kv_head": 3}, "n_kv_head 3"),
        ({"n_layer": 0}, "n_layer is 0"),
    ],
)
def test_impossible_sizes_are_refused(changes: dict[str, int], message: str) -> None:
    with pytest.raises(ArgumentError, match=message):
        AttnResConfig(**{**SMALL.__dict__, **changes})


def test_bfloat16_rounds_the_layers_and_nothing_else() -> None:
    config = AttnResConfig(n_emb=32, n_layer=2, n_head=4, n_kv_head=4)
    head = AttnResHead(config, 4, 6, rngs=nnx.Rngs(0))
    head.backbone.pseudo_queries[...] = jax.random.normal(jax.random.key(3), head.backbone.pseudo_queries.shape)
    z, condition = jax.random.normal(jax.random.key(0), (3, 16, 4)), jax.random.normal(jax.random.key(1), (3, 2, 6))
    r, t = jnp.zeros(3), jnp.ones(3)
    exact, embedded = head(z, r, t, condition), head.action_embedding(z)
    with jax.default_matmul_precision("bfloat16"):
        rounded, same = jax.jit(lambda *x: head(*x))(z, r, t, condition), head.action_embedding(z)
        in_graph = jax.jit(lambda *x: head(*x)).lower(z, r, t, condition).as_text()
    error = float(jnp.abs(rounded - exact).max() / jnp.abs(exact).max())
    assert 1e-5 < error < 0.02
    np.testing.assert_array_equal(same, embedded)
    assert in_graph.count("bf16") > 4 * 2 * config.n_layer
