"""LeWorldModel: sizes, causality, AdaLN-zero, what training mode does, and names of its weights."""

from dataclasses import replace
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from imf_jax import seeds
from imf_jax.config import WorldModelConfig
from imf_jax.conversion.lewm_names import to_torch, world_sources
from imf_jax.errors import ArgumentError
from imf_jax.models.encoders.vit import layer_norm
from imf_jax.models.networks.latent_predictor import NORM_EPS, PredictorSizes, predict_next
from imf_jax.models.world_model import (
    MOMENTUM,
    LeWorldModel,
    forward,
    initial_weights,
    is_statistic,
    losses,
    part,
    predict,
    sizes_of,
)

KEY = seeds.make_key(0)
SMALL = WorldModelConfig(
    cameras=("top", "front"), image_size=8, resolution=8, patch=4, hidden=8, layers=2, heads=2, mlp=12, embedding=6,
    projector_hidden=10, predictor_layers=2, predictor_heads=2, predictor_head_dim=4, predictor_mlp=10, frameskip=2,
    sketches=16,
)  # fmt: skip
ACTION_DIM = 3


@pytest.fixture(scope="module")
def weights() -> dict[str, jax.Array]:
    """Weights of a small model in which nothing is zero."""
    sizes = sizes_of(SMALL, ACTION_DIM)
    drawn = initial_weights(sizes, KEY)
    noise = {name: 0.1 * seeds.normal(seeds.fold_in(KEY, n), v.shape) for n, (name, v) in enumerate(drawn.items())}
    return {name: value + (0 if is_statistic(name) else noise[name]) for name, value in drawn.items()}


def batch(size: int = 4) -> dict[str, Any]:
    random = np.random.default_rng(0)
    images = random.integers(0, 256, (size, 4, 2, 8, 8, 3), np.uint8)
    return {"images": jnp.asarray(images), "action": jnp.asarray(random.normal(size=(size, 3, 2, 3)), jnp.float32)}


def test_the_model_of_the_source_has_its_parameter_count() -> None:
    shapes = sizes_of(WorldModelConfig(), 2).weight_shapes()
    trained = sum(int(np.prod(shape)) for name, shape in shapes.items() if not is_statistic(name))
    assert trained == 18_034_478


def test_tensors_of_the_source_are_all_there_and_come_back() -> None:
    sizes = sizes_of(SMALL, ACTION_DIM)
    weights = {name: np.asarray(value) for name, value in initial_weights(sizes, KEY).items()}
    assert set(weights) == set(sizes.weight_shapes()) == set(world_sources(sizes))
    encoder, head, action, table, block = 6 + 16 * SMALL.layers, 9, 6, 3, 13 * SMALL.predictor_layers
    assert len(to_torch(weights, sizes)) == encoder + 2 * head + action + table + block


PREDICTOR = PredictorSizes(width=6, history=3, layers=2, heads=2, head_dim=4, mlp=10)


def test_predictions_do_not_depend_on_what_comes_later(weights: dict[str, jax.Array]) -> None:
    predictor = part(weights, "predictor")
    random = np.random.default_rng(1)
    embeddings, actions = (jnp.asarray(random.normal(size=(2, 3, 6)), jnp.float32) for _ in range(2))
    before = predict_next(predictor, embeddings, actions, PREDICTOR)
    changed = predict_next(predictor, embeddings.at[:, 2].add(1.0), actions.at[:, 1].add(1.0), PREDICTOR)
    np.testing.assert_array_equal(before[:, 0], changed[:, 0])
    assert np.abs(before - changed)[:, 1:].min(axis=(0, 2)).max() > 0
    shorter = predict_next(predictor, embeddings[:, :2], actions[:, :2], PREDICTOR)
    np.testing.assert_allclose(shorter, before[:, :2], rtol=1e-5, atol=1e-6)


def test_blocks_begin_as_the_identity() -> None:
    predictor = part(initial_weights(sizes_of(SMALL, ACTION_DIM), KEY), "predictor")
    embeddings = jnp.asarray(np.random.default_rng(2).normal(size=(2, 3, 6)), jnp.float32)
    expected = layer_norm(embeddings + predictor["positions"], jnp.ones(6), jnp.zeros(6), NORM_EPS)
    np.testing.assert_allclose(predict_next(predictor, embeddings, embeddings, PREDICTOR), expected, atol=1e-6)


def test_dropout_follows_its_key_and_keeps_the_mean() -> None:
    predictor = part(initial_weights(sizes_of(SMALL, ACTION_DIM), KEY), "predictor")
    predictor["layers.modulation.bias"] = jnp.ones_like(predictor["layers.modulation.bias"])
    x = jnp.asarray(np.random.default_rng(3).normal(size=(1, 3, 6)), jnp.float32)

    def run(key: Any, rate: float = 0.1) -> jax.Array:
        return predict_next(predictor, x, x, PREDICTOR, rate=rate, key=key)

    np.testing.assert_array_equal(run(None), run(KEY, rate=0.0))
    np.testing.assert_array_equal(run(KEY), run(KEY))
    assert np.any(run(KEY) != run(None))
    mean = jnp.mean(jax.vmap(run)(jax.random.split(jax.random.key(5), 400)), axis=0)
    assert np.abs(mean - run(None)).max() < 0.1


def test_recomputing_gives_the_same_gradient(weights: dict[str, jax.Array]) -> None:
    model = LeWorldModel(SMALL, ACTION_DIM, KEY)
    data = batch()
    pixels, actions = model.pixels(data["images"]), model.actions(data["action"])
    sketches = jnp.eye(6)

    def loss(weights: dict[str, jax.Array], recompute: bool) -> jax.Array:
        return sum(losses(forward(weights, pixels, actions, model.sizes, recompute=recompute), sketches))

    kept, again = (jax.grad(loss)(weights, recompute) for recompute in (False, True))
    for name, value in kept.items():
        np.testing.assert_allclose(again[name], value, rtol=1e-4, atol=1e-5, err_msg=name)


def test_loss_is_its_two_terms_and_updates_running_statistics() -> None:
    model = LeWorldModel(replace(SMALL, dropout=0.0), ACTION_DIM, KEY)
    before = model.arrays()
    loss, figures = model.loss(batch(), KEY)
    np.testing.assert_allclose(loss, figures["mse"] + 0.09 * figures["sigreg"], rtol=1e-6)
    after = model.arrays()
    assert {name for name in before if np.any(before[name] != after[name])} == set(filter(is_statistic, before))
    frames = model.pixels(batch()["images"])
    moments = forward(before, frames, model.actions(batch()["action"]), model.sizes).moments["projector"]
    np.testing.assert_allclose(after["projector.norm.mean"], MOMENTUM * moments.mean, rtol=1e-5, atol=1e-6)
    np.testing.assert_allclose(after["projector.norm.var"], 1 - MOMENTUM + MOMENTUM * moments.var, rtol=1e-5)


def test_prediction_with_the_moments_of_a_batch_equals_that_of_training(weights: dict[str, jax.Array]) -> None:
    model = LeWorldModel(SMALL, ACTION_DIM, KEY)
    data = batch()
    actions = model.actions(data["action"])
    result = forward(weights, model.pixels(data["images"]), actions, model.sizes)
    moments = result.moments["pred_proj"]
    rows = result.predictions.shape[0] * result.predictions.shape[1]
    biased = {"pred_proj.norm.mean": moments.mean, "pred_proj.norm.var": moments.var * (rows - 1) / rows}
    predicted = predict({**weights, **biased}, result.embeddings[:, :-1], actions, model.sizes)
    np.testing.assert_allclose(predicted, result.predictions, rtol=1e-4, atol=1e-5)


def test_unknown_actions_count_as_zero() -> None:
    model = LeWorldModel(SMALL, ACTION_DIM, KEY)
    statistics = {"min": [0.0] * 3, "max": [4.0] * 3, "mean": [2.0] * 3, "std": [0.5] * 3}
    model.action_normalizer.set_statistics("action", statistics)
    actions = jnp.array([[[[2.5, 2.0, jnp.nan], [1.0, 2.0, 3.0]]]])
    np.testing.assert_allclose(model.actions(actions), [[[1, 0, 0, -2, 0, 2]]])


def test_the_frozen_encoder_is_the_trained_one() -> None:
    model = LeWorldModel(SMALL, ACTION_DIM, KEY)
    encoder = model.encoder()
    images = batch()["images"][:, 0]
    views = {"front": images[:, 1], "top": images[:, 0]}
    assert encoder(views).shape == (4, 6)
    assert set(encoder.weights) == set(model.sizes.encoder.weight_shapes())


@pytest.mark.parametrize(
    ("change", "named"),
    [
        ({"resolution": 10}, "model.resolution 10 must be a multiple of model.patch 4"),
        ({"heads": 3}, "model.hidden 8 must be a multiple"),
        ({"cameras": ()}, "model.cameras is empty"),
        ({"cameras": ("a", "b", "c", "d", "e"), "fusion": "grid"}, "room for 4 cameras"),
        ({"dropout": 1.0}, "model.dropout"),
        ({"history": 0}, "model.history is 0"),
    ],
)
def test_settings_that_cannot_work(change: dict[str, Any], named: str) -> None:
    with pytest.raises(ArgumentError, match=named):
        replace(SMALL, **change)
