"""LeWorldModel: an encoder of pictures learned by predicting its own next embedding from actions (arXiv 2603.19312).

Frames go through a vision transformer and a projector to embeddings; a predictor sees those of the last frames and the
actions that follow each, and gives the embedding of the frame after it. Both are trained together, without target
network or stop-gradient: the loss is the squared error of the prediction, plus SIGReg, which keeps embeddings Gaussian
and so from collapsing to a point.
"""

from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any, ClassVar, NamedTuple

import jax
import jax.numpy as jnp
import numpy as np
from flax import nnx
from jaxtyping import Float, Key, UInt8

from imf_jax import seeds
from imf_jax.config import WorldModelConfig
from imf_jax.models.encoders.lewm import LewmEncoder, LewmSizes, Moments, TrainingPictures, project, project_batch
from imf_jax.models.encoders.preprocess import fuse_views, preprocess
from imf_jax.models.encoders.vit import VitSizes, class_feature, linear
from imf_jax.models.networks.latent_predictor import PredictorSizes, predict_next
from imf_jax.models.normalizer import Normalizer
from imf_jax.models.objectives.sigreg import draw_sketches, sigreg

Array = jax.Array
Weights = Mapping[str, Array]

SMOOTHED_CHANNELS = 10
"""Channels of actions after the first linear map of their encoder (a convolution of kernel 1 in the reference)."""

ACTION_EXPANSION = 4
"""Width of the action encoder's hidden layer, in widths of an embedding."""

MOMENTUM = 0.1
"""Share of a batch in the running statistics of batch normalisation."""

INITIAL_STD = 0.02
"""Standard deviation of the vision transformer's initial weights."""

_DROPOUT_STREAM, _SKETCH_STREAM = 0, 1


@dataclass(frozen=True)
class WorldModelSizes:
    """Sizes of the whole model.

    Attributes:
        encoder: vision transformer and projector.
        predictor: of embeddings; `predictor.width` equals `encoder.output`.
        action_dim: entries of the actions of one frame, joined.
    """

    encoder: LewmSizes
    predictor: PredictorSizes
    action_dim: int

    def weight_shapes(self) -> dict[str, tuple[int, ...]]:
        """Name and shape of every weight and running statistic, those of the encoder under their names there."""
        width = self.encoder.output
        hidden = ACTION_EXPANSION * width
        head = {name: shape for name, shape in self.encoder.weight_shapes().items() if name.startswith("projector.")}
        head |= {"projector.in.kernel": (width, self.encoder.projector_hidden)}
        return {
            **self.encoder.weight_shapes(),
            "action.smooth.kernel": (self.action_dim, SMOOTHED_CHANNELS),
            "action.smooth.bias": (SMOOTHED_CHANNELS,),
            "action.up.kernel": (SMOOTHED_CHANNELS, hidden),
            "action.up.bias": (hidden,),
            "action.down.kernel": (hidden, width),
            "action.down.bias": (width,),
            **{f"predictor.{name}": shape for name, shape in self.predictor.weight_shapes().items()},
            **{name.replace("projector.", "pred_proj."): shape for name, shape in head.items()},
        }


def is_statistic(name: str) -> bool:
    """Whether a weight is a running statistic of batch normalisation, which no gradient trains."""
    return name.endswith((".norm.mean", ".norm.var"))


def part(weights: Weights, name: str) -> dict[str, Array]:
    """Weights of a part of the model, by their names within it."""
    return {key.removeprefix(f"{name}."): value for key, value in weights.items() if key.startswith(f"{name}.")}


def initial_weights(sizes: WorldModelSizes, key: Key[Array, ""]) -> dict[str, Array]:
    """Initial weights, distributed as in the reference.

    The vision transformer begins with N(0, INITIAL_STD) and biases of 0; other linear layers, biases included, are
    uniform in ±1/√(inputs), and those of the modulation 0; positions of the predictor are N(0, 1).
    """
    shapes, vit = sizes.weight_shapes(), sizes.encoder.vit.weight_shapes()

    def initial(name: str, shape: tuple[int, ...], key: Key[Array, ""]) -> Array:
        owner, _, leaf = name.rpartition(".")
        if leaf in ("scale", "var"):
            return jnp.ones(shape, jnp.float32)
        if "norm" in owner or "modulation" in owner or (name in vit and leaf == "bias"):
            return jnp.zeros(shape, jnp.float32)
        if name in vit:
            return INITIAL_STD * seeds.normal(key, shape)
        if leaf == "positions":
            return seeds.normal(key, shape)
        bound = shapes[f"{owner}.kernel"][-2] ** -0.5
        return seeds.uniform(key, shape, -bound, bound)

    return {name: initial(name, shape, seeds.fold_in(key, n)) for n, (name, shape) in enumerate(shapes.items())}


def embed_actions(
    weights: Weights, actions: Float[Array, "B T A"], dtype: jnp.dtype = jnp.float32
) -> Float[Array, "B T width"]:
    """Embeddings of the actions of each frame, float32 (B, T, A) normalised -> (B, T, width)."""
    h = linear(actions, weights["action.smooth.kernel"], weights["action.smooth.bias"], dtype)
    h = jax.nn.silu(linear(h, weights["action.up.kernel"], weights["action.up.bias"], dtype))
    return linear(h, weights["action.down.kernel"], weights["action.down.bias"], dtype)


class Forward(NamedTuple):
    """Result of the model in training mode.

    Attributes:
        embeddings: float32 (B, T + 1, D) of all frames.
        predictions: float32 (B, T, D), the embedding after each of the first T frames.
        moments: of the batch, for the running statistics of `projector` and `pred_proj`.
    """

    embeddings: Float[Array, "B F D"]
    predictions: Float[Array, "B T D"]
    moments: dict[str, Moments]


def forward(
    weights: Weights,
    pixels: Float[Array, "B F H W 3"],
    actions: Float[Array, "B T A"],
    sizes: WorldModelSizes,
    *,
    dtype: jnp.dtype = jnp.float32,
    rate: float = 0.0,
    key: Key[Array, ""] | None = None,
    recompute: bool = False,
) -> Forward:
    """Encode frames and predict each from those before it, with the statistics of the batch.

    Args:
        weights: as `sizes.weight_shapes()`.
        pixels: float32 (B, T + 1, H, W, 3), preprocessed.
        actions: float32 (B, T, A), normalised; those that follow each of the first T frames.
        sizes: of the model.
        dtype: of the operands of matrix products.
        rate: of dropout in the predictor.
        key: typed JAX key of dropout; None turns it off.
        recompute: see `class_feature`.
    """
    batch, frames = pixels.shape[:2]
    eps = sizes.encoder.batch_norm_eps
    feature = class_feature(
        weights, pixels.reshape(-1, *pixels.shape[2:]), sizes.encoder.vit, dtype, recompute=recompute
    )
    flat, moments = project_batch(weights, feature, eps, dtype)
    embeddings = flat.reshape(batch, frames, -1)
    conditions = embed_actions(weights, actions, dtype)
    h = predict_next(
        part(weights, "predictor"),
        embeddings[:, : frames - 1],
        conditions,
        sizes.predictor,
        dtype=dtype,
        rate=rate,
        key=key,
    )
    head = _prediction_head(weights)
    flat, predicted_moments = project_batch(head, h.reshape(-1, h.shape[-1]), eps, dtype)
    return Forward(embeddings, flat.reshape(h.shape), {"projector": moments, "pred_proj": predicted_moments})


def predict(
    weights: Weights, embeddings: Float[Array, "B T D"], actions: Float[Array, "B T A"], sizes: WorldModelSizes
) -> Float[Array, "B T D"]:
    """Predict the embedding after each frame, with running statistics and without dropout.

    Args:
        weights: as `sizes.weight_shapes()`.
        embeddings: float32 (B, T, D) of frames, oldest first.
        actions: float32 (B, T, A), normalised.
        sizes: of the model.
    """
    float32 = jnp.dtype(jnp.float32)
    conditions = embed_actions(weights, actions, float32)
    h = predict_next(part(weights, "predictor"), embeddings, conditions, sizes.predictor)
    head = _prediction_head(weights)
    return project(head, h.reshape(-1, h.shape[-1]), sizes.encoder.batch_norm_eps, float32).reshape(h.shape)


def _prediction_head(weights: Weights) -> dict[str, Array]:
    """Weights of `pred_proj` under the names of the encoder's projector, which has the same form."""
    return {f"projector.{name}": value for name, value in part(weights, "pred_proj").items()}


def losses(result: Forward, sketches: Float[Array, "D P"]) -> tuple[Float[Array, ""], Float[Array, ""]]:
    """Both terms of the loss: squared error of the predictions, and SIGReg of the embeddings of every time step."""
    mse = jnp.mean(jnp.square(result.predictions - result.embeddings[:, 1:]))
    return mse, sigreg(jnp.swapaxes(result.embeddings, 0, 1), sketches)


def running(weights: Weights, moments: Mapping[str, Moments]) -> dict[str, Array]:
    """Running statistics after a batch of these moments."""
    updated = {}
    for name, batch in moments.items():
        for key, value in zip((f"{name}.norm.mean", f"{name}.norm.var"), batch, strict=True):
            updated[key] = (1 - MOMENTUM) * weights[key] + MOMENTUM * value
    return updated


class LeWorldModel(nnx.Module):
    """The model with its settings and the statistics of actions.

    Args:
        config: sizes, cameras, loss.
        action_dim: entries A of an action of the robot.
        key: typed JAX key of the initial weights.

    Attributes:
        config: as given.
        sizes: of the networks.
        weights: parameters and running statistics by name.
        figures: of a training step, in the order of the log.
    """

    figures: ClassVar[tuple[str, ...]] = ("loss", "mse", "sigreg", "embedding_std", "grad_norm")

    def __init__(self, config: WorldModelConfig, action_dim: int, key: Key[Array, ""]) -> None:
        self.config = config
        self.sizes = sizes_of(config, action_dim)
        self.action_normalizer = Normalizer(action_dim, "mean_std")
        self.set_weights(initial_weights(self.sizes, key))

    def set_weights(self, weights: Mapping[str, Any]) -> None:
        """Take over weights, as `sizes.weight_shapes()`."""
        kind = {name: nnx.BatchStat if is_statistic(name) else nnx.Param for name in weights}
        self.weights = nnx.data({name: kind[name](jnp.asarray(value)) for name, value in weights.items()})

    def arrays(self) -> dict[str, Array]:
        """All weights and running statistics by name."""
        return {name: variable[...] for name, variable in self.weights.items()}

    def pixels(self, images: UInt8[Array, "B F C H W 3"]) -> Float[Array, "B F H2 W2 3"]:
        """Fuse and preprocess the views of frames."""
        config = self.config
        flat = images.reshape(-1, *images.shape[2:])
        views = {camera: flat[:, c] for c, camera in enumerate(config.cameras)}
        pixels = preprocess(fuse_views(views, config.fusion, config.cameras), config.resolution)
        return pixels.reshape(*images.shape[:2], *pixels.shape[1:])

    def actions(self, actions: Float[Array, "B T S A"]) -> Float[Array, "B T S*A"]:
        """Normalise the S actions of each frame and join them; an action that is not known (NaN) counts as 0."""
        normalised = jnp.nan_to_num(self.action_normalizer.normalize(actions))
        return normalised.reshape(*actions.shape[:2], -1)

    def loss(
        self, batch: Mapping[str, Any], key: Key[Array, ""]
    ) -> tuple[Float[Array, ""], dict[str, Float[Array, ""]]]:
        """Training loss of one batch. Batch normalisation updates its running statistics.

        Args:
            batch: `images` uint8 (B, T + 1, C, H, W, 3), `action` float32 (B, T, S, A), see `imf_jax.data.clips`.
            key: typed JAX key of dropout and sketches.

        Returns:
            float32 scalar, and a dict of float32 scalars for the log.
        """
        config = self.config
        weights = self.arrays()
        result = forward(
            weights,
            self.pixels(batch["images"]),
            self.actions(batch["action"]),
            self.sizes,
            dtype=jnp.dtype(config.dtype),
            rate=config.dropout,
            key=seeds.fold_in(key, _DROPOUT_STREAM),
            recompute=config.recompute,
        )
        sketches = draw_sketches(seeds.fold_in(key, _SKETCH_STREAM), self.sizes.encoder.output, config.sketches)
        mse, regularity = losses(result, sketches)
        for name, value in running(weights, result.moments).items():
            self.weights[name][...] = value
        spread = jnp.mean(jnp.std(result.embeddings.reshape(-1, result.embeddings.shape[-1]), axis=0))
        loss = mse + config.sigreg_weight * regularity
        return loss, {"mse": mse, "sigreg": regularity, "embedding_std": spread}

    def encoder(self) -> LewmEncoder:
        """The encoder alone, frozen."""
        return LewmEncoder(
            self.encoder_weights(), self.sizes.encoder, fusion=self.config.fusion, cameras=self.config.cameras
        )

    def encoder_weights(self) -> dict[str, np.ndarray]:
        """Weights of the encoder alone, as `sizes.encoder.weight_shapes()`."""
        return {name: np.asarray(self.weights[name][...]) for name in self.sizes.encoder.weight_shapes()}

    @property
    def training_pictures(self) -> TrainingPictures:
        """Pictures that the encoder is trained on."""
        return TrainingPictures(self.config.cameras, self.config.fusion, self.config.image_size)


def sizes_of(config: WorldModelConfig, action_dim: int) -> WorldModelSizes:
    """Sizes of the networks of a configuration, for a robot whose actions have `action_dim` entries."""
    vit = VitSizes(config.hidden, config.layers, config.heads, config.mlp, config.patch, config.resolution)
    encoder = LewmSizes(vit, config.projector_hidden, config.embedding)
    predictor = PredictorSizes(
        config.embedding,
        config.history,
        config.predictor_layers,
        config.predictor_heads,
        config.predictor_head_dim,
        config.predictor_mlp,
    )
    return WorldModelSizes(encoder, predictor, action_dim * config.frameskip)
