"""The trainable vision encoder: architecture, keypoints, crops, sharing, normalisation, and the tokens made of it."""

from dataclasses import replace

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from flax import nnx
from parameters import count_parameters
from transfer_task import SPACES

from imf_jax.config import AttnResConfig, PolicyConfig, ResNetEncoderConfig
from imf_jax.errors import ArgumentError, UserError
from imf_jax.models.conditioning import ResNetConditioning
from imf_jax.models.encoders import resnet
from imf_jax.models.encoders.resnet import ResNet18, ResNetEncoder, color_jitter, crop, crop_offsets, spatial_softmax
from imf_jax.models.policy import Policy

CONFIG = ResNetEncoderConfig(cameras=("top", "front"), image_size=72, crop_size=64, keypoints=3, width=16)


def pictures(batch: int = 2, steps: int = 2, size: int = 72, seed: int = 0) -> np.ndarray:
    return np.random.default_rng(seed).integers(0, 256, (batch, steps, 2, size, size, 3), np.uint8)


def build(config: ResNetEncoderConfig = CONFIG) -> ResNetEncoder:
    return ResNetEncoder(config, rngs=nnx.Rngs(0))


@jax.jit
def evaluate(state: nnx.State, images: jax.Array) -> jax.Array:
    """Features of an encoder with `CONFIG`."""
    return nnx.merge(nnx.split(nnx.eval_shape(build))[0], state)(images)


def test_backbone_is_resnet_18() -> None:
    """The count is that of torchvision's resnet18 (11,689,512) without its classifier (513,000)."""
    net = nnx.eval_shape(lambda: ResNet18(64, "batch", rngs=nnx.Rngs(0)))
    assert count_parameters(net) == 11_176_512
    assert sum(leaf.ndim == 4 for leaf in jax.tree.leaves(nnx.state(net, nnx.Param))) == 20
    assert nnx.eval_shape(lambda net, x: net(x), net, jnp.zeros((2, 224, 224, 3))).shape == (2, 7, 7, 512)
    assert nnx.eval_shape(lambda net, x: net(x), net, jnp.zeros((2, 65, 96, 3))).shape == (2, 3, 3, 512)


@pytest.mark.parametrize(("stride", "side", "channels", "kernels"), [(32, 2, 128, 20), (16, 4, 64, 15), (8, 8, 32, 10)])
def test_stride_leaves_out_the_last_stages(stride: int, side: int, channels: int, kernels: int) -> None:
    net = nnx.eval_shape(lambda: ResNet18(16, "group", stride, rngs=nnx.Rngs(0)))
    assert nnx.eval_shape(lambda net, x: net(x), net, jnp.zeros((2, 64, 64, 3))).shape == (2, side, side, channels)
    assert sum(leaf.ndim == 4 for leaf in jax.tree.leaves(nnx.state(net, nnx.Param))) == kernels
    replace(CONFIG, stride=stride, crop_size=stride + 1)
    with pytest.raises(ArgumentError, match=f"crop_size {stride} must be above encoder.stride {stride}"):
        replace(CONFIG, stride=stride, crop_size=stride)


def test_spatial_softmax_is_the_expected_position() -> None:
    maps = np.random.default_rng(0).normal(size=(2, 3, 5, 4)).astype(np.float32)
    found = spatial_softmax(jnp.asarray(maps))
    for b in range(2):
        for k in range(4):
            weights = np.exp(maps[b, :, :, k]) / np.exp(maps[b, :, :, k]).sum()
            y, x = np.mgrid[-1:1:3j, -1:1:5j]
            np.testing.assert_allclose(
                found[b, 2 * k : 2 * k + 2], [(weights * x).sum(), (weights * y).sum()], atol=1e-6
            )
    peak = np.full((1, 3, 5, 1), -100, np.float32)
    peak[0, 0, 4] = 100
    np.testing.assert_allclose(spatial_softmax(jnp.asarray(peak)), [[1, -1]], atol=1e-6)


def test_crops_are_random_per_window_and_camera_and_alike_over_time() -> None:
    images = pictures(batch=64, steps=2, size=6)
    images[:, 1] = images[:, 0]
    offsets = crop_offsets(jax.random.key(0), 64, 2, 2)
    assert offsets.min() == 0
    assert offsets.max() == 2
    assert len(np.unique(np.asarray(offsets).reshape(-1, 2), axis=0)) == 9
    assert (np.asarray(offsets)[:, 0] != np.asarray(offsets)[:, 1]).any()
    cut = np.asarray(crop(jnp.asarray(images), offsets, 4))
    np.testing.assert_array_equal(cut[:, 0], cut[:, 1])
    for window in range(64):
        for camera in range(2):
            row, column = offsets[window, camera]
            expected = images[window, 0, camera, row : row + 4, column : column + 4]
            np.testing.assert_array_equal(cut[window, 0, camera], expected)


def test_evaluation_cuts_the_centre() -> None:
    images = pictures(size=7)
    cut = crop(jnp.asarray(images), crop_offsets(None, 2, 2, 3), 4)
    np.testing.assert_array_equal(cut, images[:, :, :, 1:5, 1:5])


def test_jitter_follows_from_its_key_and_keeps_the_range() -> None:
    images = pictures(batch=3, size=4)
    images[:, 1] = images[:, 0]
    pixels = jnp.asarray(images, jnp.float32) / 255
    first, again, other = (np.asarray(color_jitter(pixels, jax.random.key(seed), 0.5)) for seed in (0, 0, 1))
    np.testing.assert_array_equal(first, again)
    assert first.min() >= 0
    assert first.max() <= 1
    np.testing.assert_array_equal(first[:, 0], first[:, 1], err_msg="observation steps are changed alike")
    changed = np.abs(first - np.asarray(pixels)).max(axis=(1, 3, 4, 5))
    assert (changed > 0.01).all(), "every window and camera"
    assert (np.abs(first - other).max(axis=(1, 3, 4, 5)) > 0.01).all()


@pytest.mark.parametrize("key", [None, jax.random.key(0)])
def test_jitter_is_off_by_default_and_outside_of_training(
    key: jax.Array | None, monkeypatch: pytest.MonkeyPatch
) -> None:
    drawn = []
    monkeypatch.setattr("imf_jax.models.encoders.resnet.color_jitter", lambda x, *how: drawn.append(how) or x)
    for jitter in (0.0, 0.3):
        encoder = nnx.eval_shape(lambda jitter=jitter: build(replace(CONFIG, jitter=jitter, shared=True)))
        nnx.eval_shape(lambda encoder, images: encoder(images, key), encoder, jnp.asarray(pictures()))
    assert [strength for _, strength in drawn] == ([] if key is None else [0.3])


def test_a_jitter_of_one_or_more_is_refused() -> None:
    with pytest.raises(ArgumentError, match=r"encoder\.jitter 1\.0 must be in \[0, 1\)"):
        replace(CONFIG, jitter=1.0)


def test_every_camera_has_its_own_network() -> None:
    images = pictures()
    images[:, :, 1] = images[:, :, 0]
    features = evaluate(nnx.state(build()), images)
    assert features.shape == (2, 2, 2, 6)
    assert not np.allclose(features[:, :, 0], features[:, :, 1], atol=1e-3)
    assert np.abs(features).max() <= 1
    one = nnx.eval_shape(lambda: build(replace(CONFIG, shared=True)))
    assert count_parameters(build()) == 2 * count_parameters(one)


def test_features_come_from_the_right_picture() -> None:
    """Changing one picture changes the features of its window, step and camera, and no others."""
    images = pictures()
    state = nnx.state(build())
    other = images.copy()
    other[1, 0, 1] = 255 - other[1, 0, 1]
    changed = np.abs(np.asarray(evaluate(state, other) - evaluate(state, images))).max(axis=-1) > 1e-6
    assert np.argwhere(changed).tolist() == [[1, 0, 1]]


def test_a_shared_network_treats_cameras_alike() -> None:
    encoder = build(replace(CONFIG, shared=True))
    images = pictures(batch=1)
    images[:, :, 1] = images[:, :, 0]
    features = nnx.jit(lambda encoder, images: encoder(images))(encoder, images)
    np.testing.assert_allclose(features[:, :, 0], features[:, :, 1], atol=1e-5)


@pytest.mark.parametrize("shared", [False, True])
def test_batch_normalisation_keeps_statistics(shared: bool) -> None:
    encoder = build(replace(CONFIG, norm="batch", shared=shared))
    before = jax.tree.map(np.array, nnx.state(encoder, nnx.BatchStat))
    run = nnx.jit(lambda encoder, images, key: encoder(images, key))
    evaluated = nnx.jit(lambda encoder, images: encoder(images))
    images = pictures()
    alone, together = evaluated(encoder, np.tile(images[:1], (2, 1, 1, 1, 1, 1))), evaluated(encoder, images)
    np.testing.assert_allclose(alone[0], together[0], atol=1e-5)
    assert jax.tree.all(jax.tree.map(np.array_equal, nnx.state(encoder, nnx.BatchStat), before))
    run(encoder, images, jax.random.key(0))
    moved = jax.tree.map(lambda a, b: not np.array_equal(a, b), nnx.state(encoder, nnx.BatchStat), before)
    assert jax.tree.all(moved)
    assert not np.allclose(evaluated(encoder, images), together, atol=1e-3)


def test_gradients_reach_every_weight() -> None:
    graph, params, rest = nnx.split(build(), nnx.Param, ...)

    @jax.jit
    @jax.grad
    def gradient(params: nnx.State, images: jax.Array) -> jax.Array:
        return jnp.sum(nnx.merge(graph, params, rest)(images, jax.random.key(0)) ** 2)

    assert not jax.tree.leaves(rest), "group normalisation has no statistics"
    for path, leaf in jax.tree_util.tree_leaves_with_path(gradient(params, pictures())):
        assert np.isfinite(leaf).all(), path
        assert np.any(leaf), path


def test_the_loop_over_cameras_keeps_only_what_was_convolved(monkeypatch: pytest.MonkeyPatch) -> None:
    graph, params = nnx.split(build())
    images = pictures(batch=1, steps=1)

    def kept() -> int:
        """Numbers that a gradient needs of the forward pass, besides the weights."""
        pull = jax.eval_shape(lambda params: jax.vjp(lambda p: nnx.merge(graph, p)(images), params)[1], params)
        return sum(leaf.size for leaf in jax.tree.leaves(pull)) - sum(leaf.size for leaf in jax.tree.leaves(params))

    on_a_cpu = kept()
    monkeypatch.setattr(resnet, "on_cpu", lambda form: False)
    assert 0 < on_a_cpu < 0.5 * kept()


def condition(config: ResNetEncoderConfig, dim: int, tokens: int) -> None:
    conditioning = nnx.eval_shape(lambda: ResNetConditioning(PolicyConfig(encoder=config), 16, rngs=nnx.Rngs(0)))
    assert (conditioning.dim, conditioning.tokens_per_step) == (dim, tokens)
    images = jnp.zeros((5, 2, len(config.cameras), config.image_size, config.image_size, 3), jnp.uint8)
    shape = nnx.eval_shape(lambda c, o: c(o), conditioning, {"state": jnp.zeros((5, 2, 16)), "images": images}).shape
    assert shape == (5, 2 * tokens, dim)


def test_sizes_of_conditions() -> None:
    condition(ResNetEncoderConfig(), 3 * 64 + 16, 1)
    condition(ResNetEncoderConfig(token_per_camera=True), 64 + 16, 3)
    condition(ResNetEncoderConfig(cameras=("front",), token_per_camera=True), 64 + 16, 1)


@pytest.mark.parametrize("token_per_camera", [False, True])
def test_features_come_before_the_state(token_per_camera: bool, monkeypatch: pytest.MonkeyPatch) -> None:
    config = PolicyConfig(encoder=replace(CONFIG, token_per_camera=token_per_camera))
    conditioning = ResNetConditioning(config, 16, rngs=nnx.Rngs(0))
    features = np.random.default_rng(0).normal(size=(3, 2, 2, 6)).astype(np.float32)
    monkeypatch.setattr(ResNetEncoder, "__call__", lambda self, images, key: jnp.asarray(features))
    state = np.random.default_rng(1).normal(size=(3, 2, 16)).astype(np.float32)
    tokens = conditioning({"state": state, "images": pictures(3)})
    if token_per_camera:
        assert tokens.shape == (3, 4, 22)
        tokens = tokens.reshape(3, 2, 2, 22)
        np.testing.assert_array_equal(tokens[..., :6], features)
        np.testing.assert_array_equal(tokens[..., 6:], np.stack([state, state], axis=2))
    else:
        np.testing.assert_array_equal(tokens[..., :12], features.reshape(3, 2, 12))
        np.testing.assert_array_equal(tokens[..., 12:], state)


def test_policy_sizes_its_head_by_the_tokens() -> None:
    head = AttnResConfig(n_emb=16, n_layer=1, n_head=2, n_kv_head=1)
    for encoder, dim in [(CONFIG, 28), (replace(CONFIG, token_per_camera=True), 22)]:
        config = PolicyConfig(head=head, encoder=encoder)
        policy = nnx.eval_shape(lambda config=config: Policy(config, SPACES, 7, rngs=nnx.Rngs(0)))
        assert policy.head.condition_dim == dim
        assert policy.joint_output_dim is None
        assert policy.frozen_encoder is None
        assert policy.reads == ("state", "images")


@pytest.mark.parametrize(
    ("images", "message"),
    [
        (pictures().astype(np.float32), "float32; give uint8"),
        (pictures()[:, :, :1], r"\(1, 72, 72, 3\).*reads \(2, 72, 72, 3\)"),
        (pictures(size=64), "make pictures of top, front at 72 pixels"),
    ],
)
def test_wrong_pictures_are_refused(images: np.ndarray, message: str) -> None:
    conditioning = nnx.eval_shape(lambda: ResNetConditioning(PolicyConfig(encoder=CONFIG), 16, rngs=nnx.Rngs(0)))
    with pytest.raises(UserError, match=message):
        conditioning({"state": np.zeros((2, 2, 16)), "images": images})


@pytest.mark.parametrize(
    ("change", "message"),
    [
        ({"cameras": ()}, "cameras is empty"),
        ({"cameras": ("top", "top")}, "names a camera twice"),
        ({"crop_size": 73}, "crop_size 73 must be above encoder.stride 32 and at most encoder.image_size 72"),
        ({"crop_size": 32}, "crop_size 32"),
        ({"width": 24}, "width 24"),
        ({"keypoints": 0}, "keypoints 0"),
    ],
)
def test_settings_that_cannot_work(change: dict, message: str) -> None:
    with pytest.raises(ArgumentError, match=message):
        replace(CONFIG, **change)
