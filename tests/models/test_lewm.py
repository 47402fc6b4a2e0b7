"""The frozen LEWM encoder against numbers that PyTorch computed, and that it stays frozen."""

import dataclasses
import json
from collections.abc import Callable, Iterator
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np
import optax
import pytest
from flax import nnx

from imf_jax.benchmark.lewm import SIZES
from imf_jax.conversion.lewm import Args, convert
from imf_jax.errors import UserError
from imf_jax.models.encoders import lewm, vit
from imf_jax.models.encoders.lewm import Frozen, LewmEncoder, load
from imf_jax.models.encoders.preprocess import VIEW_ORDER, fuse_views, fused_shape, preprocess, views_of_map
from imf_jax.models.encoders.vit import position_table

pytestmark = pytest.mark.optimized

FIXTURES = Path(__file__).parents[1] / "fixtures" / "lewm"

Expected = dict[str, np.ndarray]


@pytest.fixture(scope="module")
def folder(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A converted encoder."""
    out = tmp_path_factory.mktemp("lewm") / "encoder"
    convert(Args(FIXTURES / "new.ckpt", out, heads=2))
    return out


@pytest.fixture(scope="module")
def expected() -> Expected:
    """What PyTorch computes with the same weights."""
    with np.load(FIXTURES / "expected.npz") as data:
        return dict(data)


@pytest.fixture
def views(expected: Expected) -> dict[str, np.ndarray]:
    """Pictures of the three cameras, not in the order of fusion, and one more."""
    return {name: expected[f"view_{name}"] for name in ("front", "r_vis", "top")} | {"left": np.zeros((1, 2, 3))}


@pytest.fixture(autouse=True)
def highest_precision() -> Iterator[None]:
    """Products in full float32 on accelerators too."""
    with jax.default_matmul_precision("highest"):
        yield


def test_matches_pytorch(folder: Path, expected: Expected) -> None:
    encoder = load(folder)
    np.testing.assert_allclose(encoder.class_feature(expected["images"]), expected["class_feature"], rtol=0, atol=1e-5)
    embedding = encoder(expected["images"])
    assert embedding.shape == (3, encoder.joint_output_dim)
    assert embedding.dtype == jnp.float32
    np.testing.assert_allclose(embedding, expected["embedding"], rtol=0, atol=5e-6)


@pytest.mark.parametrize("fusion", ["row", "grid"])
def test_fused_views_match_pytorch(
    fusion: lewm.Fusion, folder: Path, expected: Expected, views: dict[str, np.ndarray]
) -> None:
    pixels = preprocess(fuse_views(views, fusion), 16)
    np.testing.assert_allclose(pixels, expected[f"pixels_{fusion}"], rtol=0, atol=1e-5)
    embedding = load(folder, fusion=fusion)(views)
    np.testing.assert_allclose(embedding, expected[f"embedding_{fusion}"], rtol=0, atol=5e-6)


def test_preprocessing_keeps_the_aspect(expected: Expected) -> None:
    pixels = preprocess(expected["uneven"], 16)
    np.testing.assert_allclose(pixels, expected["pixels_uneven"], rtol=0, atol=1e-5)


def test_interpolated_positions_match_pytorch(folder: Path, expected: Expected) -> None:
    encoder = load(folder)
    table = position_table(encoder.weights["positions"][...], encoder.sizes.vit.grid, 4, 12)
    np.testing.assert_allclose(table, expected["positions_16x48"], rtol=0, atol=1e-6)


def test_layouts_put_every_view_in_its_place() -> None:
    colours = {name: np.full((1, 4, 4, 3), 10 * (i + 1), np.uint8) for i, name in enumerate(VIEW_ORDER)}
    row = np.asarray(fuse_views(colours, "row"))
    assert row.shape == (1, 4, 12, 3)
    assert row[0, 0, ::4, 0].tolist() == [10, 20, 30]
    grid = np.asarray(fuse_views(colours, "grid"))
    assert grid.shape == (1, 8, 8, 3)
    assert grid[0, ::4, ::4, 0].tolist() == [[10, 20], [30, 0]]


def test_any_cameras_are_laid_out_in_their_order() -> None:
    views = {str(n): np.full((1, 4, 4, 3), n, np.uint8) for n in range(1, 5)}
    assert np.asarray(fuse_views(views, "row", ("3", "1")))[0, 0, ::4, 0].tolist() == [3, 1]
    for cameras, places in [
        (("4", "2"), [[4, 2], [0, 0]]), (("2", "3", "1"), [[2, 3], [1, 0]]), (("1", "2", "3", "4"), [[1, 2], [3, 4]]),
    ]:  # fmt: skip
        assert np.asarray(fuse_views(views, "grid", cameras))[0, ::4, ::4, 0].tolist() == places
    for fusion in ("row", "grid"):
        np.testing.assert_array_equal(fuse_views(views, fusion, ("2",)), views["2"])
    for count in range(1, 5):
        cameras = tuple(views)[:count]
        for fusion in ("row", "grid"):
            assert fused_shape(4, fusion, count) == fuse_views(views, fusion, cameras).shape[1:3]
    with pytest.raises(UserError, match="camera 5 is missing"):
        fuse_views(views, "row", ("5",))


def test_a_map_is_cut_into_its_views() -> None:
    views = np.random.default_rng(0).integers(0, 256, (4, 2, 6, 6, 3), np.uint8)
    for count in range(1, 5):
        for fusion in ("row", "grid"):
            fused = fuse_views({str(n): view for n, view in enumerate(views[:count])}, fusion, "0123"[:count])
            np.testing.assert_array_equal(views_of_map(fused, fusion, count), views[:count].swapaxes(0, 1))


def test_maps_of_patches(folder: Path) -> None:
    encoder = load(folder, fusion="row", cameras=("a", "b"))
    images = np.random.default_rng(0).integers(0, 256, (2, 2, 20, 20, 3), np.uint8)
    maps = encoder.maps(images)
    assert (maps.shape, maps.dtype) == ((2, *encoder.map_shape(2, 20)), jnp.float16)
    assert maps.shape == (2, 2, 4, 4, encoder.sizes.vit.hidden)
    # The final LayerNorm has been applied, and a token tells of its own patch.
    weights = {name: np.asarray(value[...]) for name, value in encoder.weights.items()}
    plain = (np.asarray(maps, np.float32) - weights["norm.bias"]) / weights["norm.scale"]
    np.testing.assert_allclose(plain.mean(-1), 0, atol=5e-3)
    np.testing.assert_allclose(plain.std(-1), 1, atol=5e-3)
    changed = images.copy()
    changed[:, 1, :5, :5] = 255 - changed[:, 1, :5, :5]
    difference = np.abs(np.asarray(encoder.maps(changed), np.float32) - np.asarray(maps, np.float32)).max(-1)
    assert (difference[:, 1, 0, 0] > 3 * np.delete(difference.reshape(2, -1), 16, axis=1).max(1)).all()


def test_views_that_share_patches_have_no_maps(folder: Path) -> None:
    encoder = load(folder, fusion="grid")
    assert encoder.map_shape(3, 20) == (3, 2, 2, encoder.sizes.vit.hidden)
    odd = LewmEncoder(
        {}, dataclasses.replace(encoder.sizes, vit=dataclasses.replace(encoder.sizes.vit, image_size=20)), fusion="grid"
    )
    with pytest.raises(UserError, match="5 x 5 patches of fusion 'grid' do not divide among 3 views; use --policy"):
        odd.map_shape(3, 20)


def test_works_inside_jit(folder: Path, views: dict[str, np.ndarray]) -> None:
    encoder = load(folder, fusion="row")
    del views["left"]
    np.testing.assert_allclose(jax.jit(encoder)(views), encoder(views), rtol=0, atol=1e-6)


def test_bfloat16_is_near_and_not_the_default(folder: Path, expected: Expected) -> None:
    exact, rounded = load(folder)(expected["images"]), load(folder, dtype=jnp.bfloat16)(expected["images"])
    assert rounded.dtype == jnp.float32
    difference = np.abs(np.asarray(exact) - np.asarray(rounded)).max()
    assert 1e-5 < difference < 0.02 * np.abs(exact).max()
    with pytest.raises(UserError, match="float16"):
        load(folder, dtype=jnp.float16)


def usual_weights(sizes: lewm.LewmSizes) -> dict[str, np.ndarray]:
    """Random weights that keep the variance from layer to layer, so that different pictures are told apart."""
    rng = np.random.default_rng(0)
    weights = {}
    for name, shape in sizes.weight_shapes().items():
        if name.endswith((".scale", ".var")):
            weights[name] = np.ones(shape, np.float32)
        elif name.endswith((".bias", ".mean")):
            weights[name] = np.zeros(shape, np.float32)
        else:
            spread = shape[-2] ** -0.5 if name.endswith(".kernel") else 0.02
            weights[name] = rng.normal(0, spread, shape).astype(np.float32)
    return weights


@pytest.mark.parametrize("fusion", ["row", "grid"])
def test_error_of_bfloat16_at_the_published_sizes(fusion: lewm.Fusion) -> None:
    """The docstring of the encoder says how large it is, for random weights on a CPU."""
    weights = usual_weights(SIZES)
    rng = np.random.default_rng(0)
    views = {name: rng.integers(0, 256, (2, 28, 28, 3), np.uint8) for name in VIEW_ORDER}
    exact, rounded = (
        np.asarray(LewmEncoder(weights, SIZES, fusion=fusion, dtype=dtype)(views)) for dtype in lewm.DTYPES
    )
    error, norm = np.linalg.norm(rounded - exact, axis=1), np.linalg.norm(exact, axis=1)
    assert np.linalg.norm(exact[0] - exact[1]) > 0.1 * norm.mean()
    assert 1e-4 < (error / norm).max() < 0.02


@pytest.mark.parametrize("dtype", lewm.DTYPES)
def test_many_pictures_are_encoded_in_blocks(
    dtype: np.dtype, folder: Path, expected: Expected, monkeypatch: pytest.MonkeyPatch
) -> None:
    images = np.concatenate([expected["images"], 255 - expected["images"], expected["images"] // 2])[:8]
    encoder = load(folder, dtype=dtype)
    whole = encoder(images)
    tokens = encoder.sizes.vit.num_tokens(16, 16)
    monkeypatch.setattr(lewm, "ENCODED_TOKENS", 3 * tokens)
    assert lewm.pictures_at_once(encoder.sizes, 16, 16) == 3
    jax.clear_caches()
    blocks = encoder(images)
    assert blocks.shape == whole.shape
    np.testing.assert_allclose(blocks, whole, rtol=0, atol=5e-6 if dtype == np.float32 else 2e-2)
    text = lewm.encode.lower({name: v[...] for name, v in encoder.weights.items()}, images, encoder.sizes, dtype, True)
    assert "8x16x16x3xf32" not in text.as_text()  # only the pictures of a block are preprocessed at once
    jax.clear_caches()


@pytest.mark.parametrize(
    ("dtype", "platform", "capability", "head_dim", "works"),
    [
        (jnp.bfloat16, "gpu", "9.0", 64, True),
        (jnp.bfloat16, "gpu", "12.0", 64, True),
        (jnp.bfloat16, "gpu", "7.5", 64, False),
        (jnp.bfloat16, "gpu", "gfx942", 64, False),
        (jnp.bfloat16, "gpu", "9.0", 60, False),
        (jnp.bfloat16, "cpu", "9.0", 64, False),
        (jnp.float32, "gpu", "9.0", 64, False),
    ],
)
def test_flash_attention_is_used_where_it_runs(
    dtype: Any, platform: str, capability: str, head_dim: int, works: bool, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(jax, "default_backend", lambda: platform)
    monkeypatch.setattr(jax, "local_devices", lambda: [SimpleNamespace(compute_capability=capability)])
    assert vit.has_flash_attention(np.dtype(dtype), head_dim) == works


def test_flash_attention_is_the_same_attention(monkeypatch: pytest.MonkeyPatch) -> None:
    """With XLA in place of cuDNN: what goes in and comes out is in the same place."""
    qkv = jax.random.normal(jax.random.key(0), (2 * 5, 3 * 24))
    expected = vit.attention(qkv, 2, 3, jnp.bfloat16)
    asked = []
    stand_in_for_cudnn(monkeypatch, asked)
    np.testing.assert_allclose(vit.attention(qkv, 2, 3, jnp.bfloat16), expected, rtol=0, atol=0.02)
    assert asked == [5]


@pytest.mark.parametrize("tokens", [5, 6])
def test_flash_attention_is_differentiated_over_even_lengths_only(tokens: int, monkeypatch: pytest.MonkeyPatch) -> None:
    """JAX refuses another gradient of cuDNN's attention, whose 769 tokens stopped `lewm-pretrain` on a GPU."""
    qkv = jax.random.normal(jax.random.key(0), (2 * tokens, 3 * 24))

    def loss(qkv: jax.Array) -> jax.Array:
        mixed = vit.attention(qkv, 2, 3, jnp.bfloat16)
        return jnp.sum(mixed * jnp.cos(jnp.arange(mixed.size).reshape(mixed.shape)))

    expected, expected_gradient = jax.value_and_grad(loss)(qkv)
    asked: list[int] = []
    stand_in_for_cudnn(monkeypatch, asked)
    value, gradient = jax.value_and_grad(loss)(qkv)
    assert asked == [6]
    np.testing.assert_allclose(value, expected, rtol=0, atol=0.05)
    np.testing.assert_allclose(gradient, expected_gradient, rtol=0, atol=0.02)


def stand_in_for_cudnn(monkeypatch: pytest.MonkeyPatch, asked: list[int]) -> None:
    """Compute what cuDNN is asked for by XLA, and note the number of tokens."""
    plain = jax.nn.dot_product_attention

    def xla(query: jax.Array, *arrays: jax.Array, implementation: str, **lengths: jax.Array) -> jax.Array:
        assert implementation == "cudnn"
        asked.append(query.shape[1])
        return plain(query, *arrays, implementation="xla", **lengths)

    monkeypatch.setattr(jax.nn, "dot_product_attention", xla)
    monkeypatch.setattr(vit, "has_flash_attention", lambda dtype, head_dim: True)


class Classifier(nnx.Module):
    """A trainable layer on the frozen encoder."""

    def __init__(self, encoder: LewmEncoder) -> None:
        self.encoder = encoder
        self.layer = nnx.Linear(encoder.joint_output_dim, 3, rngs=nnx.Rngs(0))

    def __call__(self, images: jax.Array) -> jax.Array:
        return self.layer(self.encoder(images))


def test_training_leaves_the_encoder_alone(folder: Path, expected: Expected) -> None:
    model = Classifier(load(folder))
    optimizer = nnx.Optimizer(model, optax.adamw(0.1, weight_decay=0.5), wrt=nnx.Param)
    before = {name: np.array(variable[...]) for name, variable in model.encoder.weights.items()}
    layer_before = np.array(model.layer.kernel[...])

    @nnx.jit
    def step(model: Classifier, optimizer: nnx.Optimizer, images: jax.Array) -> nnx.State:
        gradient = nnx.grad(lambda model: jnp.sum(model(images) ** 2))(model)
        optimizer.update(model, gradient)
        return gradient

    model.train()
    for _ in range(3):
        gradient = step(model, optimizer, jnp.asarray(expected["images"]))

    for name, variable in model.encoder.weights.items():
        assert isinstance(variable, Frozen)
        np.testing.assert_array_equal(variable[...], before[name], err_msg=name)
    assert {"projector.norm.mean", "projector.norm.var"} <= set(before)
    assert not np.array_equal(model.layer.kernel[...], layer_before)
    assert len(jax.tree.leaves(gradient)) == 2
    moments = [leaf for leaf in jax.tree.leaves(nnx.state(optimizer)) if leaf.ndim > 0]
    assert sorted(leaf.shape for leaf in moments) == sorted(2 * [(12, 3), (3,)])


def test_no_gradient_reaches_the_weights(folder: Path, expected: Expected) -> None:
    graph, state = nnx.split(load(folder))
    gradient = jax.grad(lambda state: jnp.sum(nnx.merge(graph, state)(expected["images"])))(state)
    assert all(not np.any(leaf) for leaf in jax.tree.leaves(gradient))


IMAGES = np.zeros((2, 16, 16, 3), np.uint8)


@pytest.mark.parametrize(
    ("images", "message"),
    [
        (IMAGES.astype(np.float32), "float32; give uint8"),
        (IMAGES.astype(np.int32), "int32; give uint8"),
        (IMAGES[0], "give RGB pictures"),
        (IMAGES[..., :1], "give RGB pictures"),
        (np.zeros((2, 16, 16, 4), np.uint8), "give RGB pictures"),
        (IMAGES.transpose(0, 3, 1, 2), "give RGB pictures"),
        (np.zeros((2, 16, 17, 3), np.uint8), "16x17"),
        ({"front": IMAGES}, "takes one picture"),
        ("picture.png", "give RGB pictures"),
    ],
)
def test_wrong_pictures_are_refused(images: object, message: str, folder: Path) -> None:
    with pytest.raises(UserError, match=message):
        load(folder)(images)  # type: ignore[arg-type]


def test_wrong_views_are_refused(folder: Path) -> None:
    encoder = load(folder, fusion="row")
    good = dict.fromkeys(VIEW_ORDER, IMAGES)
    with pytest.raises(UserError, match="camera top, front is missing"):
        encoder({"r_vis": IMAGES, "side": IMAGES})
    with pytest.raises(UserError, match="differ in shape"):
        encoder({**good, "top": np.zeros((2, 8, 8, 3), np.uint8)})
    with pytest.raises(UserError, match="camera top are float32"):
        encoder({**good, "top": IMAGES.astype(np.float32)})
    with pytest.raises(UserError, match="needs a mapping"):
        encoder(IMAGES)
    with pytest.raises(UserError, match="does not divide into 4 px patches"):
        encoder(dict.fromkeys(VIEW_ORDER, np.zeros((2, 16, 17, 3), np.uint8)))
    with pytest.raises(UserError, match="diagonal"):
        load(folder, fusion="diagonal")  # type: ignore[arg-type]


def edit_config(**changes: object) -> Callable[[Path], object]:
    """A change of config.json."""

    def edit(folder: Path) -> None:
        config = json.loads((folder / lewm.CONFIG_FILE).read_text())
        (folder / lewm.CONFIG_FILE).write_text(json.dumps({**config, **changes}))

    return edit


@pytest.mark.parametrize(
    ("damage", "message"),
    [
        (lambda folder: (folder / lewm.CONFIG_FILE).unlink(), "no LEWM encoder"),
        (lambda folder: (folder / lewm.WEIGHTS_FILE).unlink(), "no LEWM encoder"),
        (lambda folder: (folder / lewm.CONFIG_FILE).write_text("{"), "no LEWM encoder"),
        (lambda folder: (folder / lewm.WEIGHTS_FILE).write_bytes(b"\0" * 99), "sha256 differs"),
        (
            lambda folder: (folder / lewm.WEIGHTS_FILE).write_text("version https://git-lfs.github.com/spec/v1\noid"),
            r"weights\.safetensors is a Git LFS pointer",
        ),
        (edit_config(format="other"), "is not imf_jax.lewm"),
        (edit_config(format_version=2), "is not imf_jax.lewm"),
        (edit_config(sizes={}), r"damaged.*field vit is missing"),
        (edit_config(sizes=None), "damaged"),
    ],
)
def test_damaged_folders_are_refused(
    damage: Callable[[Path], object], message: str, folder: Path, tmp_path: Path
) -> None:
    for name in (lewm.CONFIG_FILE, lewm.WEIGHTS_FILE):
        (tmp_path / name).write_bytes((folder / name).read_bytes())
    damage(tmp_path)
    with pytest.raises(UserError, match=message) as caught:
        load(tmp_path)
    assert "\n" not in str(caught.value)


def test_sizes_that_do_not_fit_the_weights_are_refused(folder: Path, tmp_path: Path) -> None:
    content = (folder / lewm.WEIGHTS_FILE).read_bytes()
    sizes = load(folder).sizes
    config = lewm.config_dict(dataclasses.replace(sizes, output=13), lewm.sha256(content))
    (tmp_path / lewm.WEIGHTS_FILE).write_bytes(content)
    (tmp_path / lewm.CONFIG_FILE).write_text(json.dumps(config))
    with pytest.raises(UserError, match="do not have the sizes"):
        load(tmp_path)


def test_tiny_vit_of_the_source_has_its_parameter_count() -> None:
    sizes = lewm.LewmSizes(
        lewm.VitSizes(hidden=192, layers=12, heads=3, mlp=768, patch=14, image_size=224), 2048, output=192
    )
    counts = {name: int(np.prod(shape)) for name, shape in sizes.weight_shapes().items()}
    projector = sum(count for name, count in counts.items() if name.startswith("projector."))
    statistics = counts["projector.norm.mean"] + counts["projector.norm.var"]
    assert sum(counts.values()) - projector == 5_501_376
    assert projector - statistics == 792_768
