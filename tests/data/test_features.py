"""Pictures of demonstrations: found, checked, loaded, and embedded once into a cache that is refused when stale."""

import json
import os
from collections.abc import Callable
from dataclasses import replace
from pathlib import Path

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from foreign_datasets import write_robomimic

from imf_jax.data import pictures as pictures_module
from imf_jax.data.episodes import Episode, episode_path, write_episode
from imf_jax.data.features import FeatureSource, cache_path, compute_features, read_features, write_features
from imf_jax.data.pictures import PictureFolder, find_pictures, read_pictures
from imf_jax.errors import UserError

CAMERAS = ("r_vis", "top", "front")
SIZE = 6
STEPS = (5, 8, 4)
SOURCE = FeatureSource("ab" * 32, "row", CAMERAS, SIZE)


def images(episode: int, steps: int, size: int = SIZE) -> dict[str, np.ndarray]:
    random = np.random.default_rng(episode)
    return {camera: random.integers(0, 256, (steps, size, size, 3), np.uint8) for camera in ("front", "top", "r_vis")}


@pytest.fixture
def folder(tmp_path: Path, make_episode: Callable[..., Episode]) -> Path:
    for episode, steps in enumerate(STEPS):
        write_episode(tmp_path, make_episode(episode, steps, images=images(episode, steps)))
    return tmp_path


@pytest.fixture
def found(folder: Path) -> PictureFolder:
    return find_pictures(folder, CAMERAS, SIZE)


@jax.jit
def embed(batch: jax.Array) -> jax.Array:
    """A stand-in for an encoder that depends on every pixel and its place."""
    flat = batch.reshape(len(batch), -1).astype(jnp.float32)
    return flat @ jnp.sin(jnp.arange(flat.shape[1] * 3, dtype=jnp.float32)).reshape(-1, 3) / 255


def expected_images() -> np.ndarray:
    return np.concatenate(
        [np.stack([images(e, steps)[camera] for camera in CAMERAS], axis=1) for e, steps in enumerate(STEPS)]
    )


def test_pictures_are_joined_in_the_order_of_episodes_and_cameras(found: PictureFolder) -> None:
    progress: list[int] = []
    loaded = read_pictures(found, progress.append)
    np.testing.assert_array_equal(loaded, expected_images())
    assert found.num_bytes == loaded.nbytes
    assert progress == [5, 13, 17]


def test_pictures_that_do_not_fit_are_refused_before_they_are_read(
    found: PictureFolder, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(PictureFolder, "read", lambda *args: pytest.fail("read"))
    monkeypatch.setattr(pictures_module, "free_main_memory", lambda: 5000)
    with pytest.raises(UserError, match=r"17 steps x 3 cameras x 6x6\), but main memory has 0.0 GB free"):
        read_pictures(found)


def test_free_memory_is_known_on_this_machine() -> None:
    free = pictures_module.free_main_memory()
    assert free is None or 1e6 < free < 1e15


@pytest.mark.parametrize(
    ("change", "message"),
    [
        (lambda kept: kept.pop("top"), r"no pictures of camera 'top' \(cameras: front, r_vis\)"),
        (lambda kept: kept.clear(), r"no pictures of camera 'r_vis' \(cameras: none\)"),
        (lambda kept: kept.update(top=np.zeros((4, 5, 6, 3), np.uint8)), "camera 'top' are 5x6"),
    ],
)
def test_missing_and_misshapen_pictures_are_named(
    folder: Path, make_episode: Callable[..., Episode], change: Callable[[dict], object], message: str
) -> None:
    kept = images(2, 4)
    change(kept)
    write_episode(folder, make_episode(2, 4, images=kept))
    with pytest.raises(UserError, match=message) as caught:
        find_pictures(folder, CAMERAS, SIZE)
    assert str(episode_path(folder, 2)) in str(caught.value)
    assert "--cameras r_vis top front" in str(caught.value)
    assert "\n" not in str(caught.value)


def test_another_size_than_the_policy_reads_is_named(folder: Path) -> None:
    with pytest.raises(UserError, match=r"6x6, but policy.encoder.image_size is 8; .*--policy.encoder.image-size"):
        find_pictures(folder, CAMERAS, 8)


def test_a_damaged_file_is_named(folder: Path, found: PictureFolder) -> None:
    episode_path(folder, 1).write_bytes(b"no HDF5")
    with pytest.raises(UserError, match=r"episode_000001\.hdf5: cannot be read"):
        find_pictures(folder, CAMERAS, SIZE)
    with pytest.raises(UserError, match=r"episode_000001\.hdf5: the pictures cannot be read"):
        read_pictures(found)


def test_fingerprint_tells_pictures_apart(
    folder: Path, found: PictureFolder, make_episode: Callable[..., Episode]
) -> None:
    assert find_pictures(folder, CAMERAS, SIZE).fingerprint == found.fingerprint
    os.utime(episode_path(folder, 0))
    assert find_pictures(folder, CAMERAS, SIZE).fingerprint == found.fingerprint, "copying a folder changes no picture"
    assert find_pictures(folder, CAMERAS[:2], SIZE).fingerprint != found.fingerprint
    changed = images(0, 5)
    changed["top"] = 255 - changed["top"]
    write_episode(folder, make_episode(0, 5, images=changed))
    assert find_pictures(folder, CAMERAS, SIZE).fingerprint != found.fingerprint


@pytest.mark.parametrize("batch_size", [1, 4, 17, 32])
def test_features_do_not_depend_on_batches_or_files(found: PictureFolder, batch_size: int) -> None:
    sizes, progress = set(), []

    def watched(batch: np.ndarray) -> jax.Array:
        sizes.add(len(batch))
        return embed(batch)

    features = compute_features(found, watched, batch_size, progress.append)
    assert features.dtype == np.float32
    np.testing.assert_allclose(features, embed(expected_images()), rtol=1e-5, atol=1e-5)
    assert sizes == {batch_size}
    assert progress[-1] == 17


def test_features_that_are_not_finite_are_refused(found: PictureFolder) -> None:
    with pytest.raises(UserError, match="not finite"):
        compute_features(found, lambda batch: jnp.full((len(batch), 3), jnp.nan), 4)


def test_cache_comes_back_bit_for_bit(found: PictureFolder) -> None:
    assert read_features(found, SOURCE, (3,)) is None
    features = compute_features(found, embed, 4)
    path = write_features(found, SOURCE, features)
    assert path == cache_path(found.directory, SOURCE)
    np.testing.assert_array_equal(read_features(found, SOURCE, (3,)), features)
    assert not list(found.directory.glob(".*"))
    assert len(find_pictures(found.directory, CAMERAS, SIZE).steps) == 3, "a cache is no demonstration"


def test_demonstrations_in_one_file_have_their_cache_beside_it(tmp_path: Path) -> None:
    """Each file of a folder its own."""
    paths = [write_robomimic(tmp_path / name, count=2) for name in ("low.hdf5", "high.hdf5")]
    found = [find_pictures(path, ("agentview",), SIZE) for path in paths]
    written = [write_features(pictures, SOURCE, compute_features(pictures, embed, 4)) for pictures in found]
    assert [path.parent for path in written] == [tmp_path, tmp_path]
    assert len(set(written)) == 2
    for pictures in found:
        np.testing.assert_array_equal(read_features(pictures, SOURCE, (3,)), compute_features(pictures, embed, 4))


@pytest.mark.parametrize(
    "change",
    [
        {"encoder_sha256": "cd" * 32},
        {"fusion": "grid"},
        {"cameras": CAMERAS[::-1]},
        {"image_size": 8},
        {"preprocessing": 2},
    ],
)
def test_everything_that_features_depend_on_is_in_the_key(found: PictureFolder, change: dict) -> None:
    write_features(found, SOURCE, np.zeros((17, 3), np.float32))
    other = replace(SOURCE, **change)
    assert read_features(found, other, (3,)) is None
    cache_path(found.directory, SOURCE).rename(cache_path(found.directory, other))
    with pytest.raises(UserError, match=f"it was made with {next(iter(change))}") as caught:
        read_features(found, other, (3,))
    assert str(cache_path(found.directory, other)) in str(caught.value)
    assert "delete the file" in str(caught.value)


def test_a_cache_of_other_pictures_is_stale(
    folder: Path, found: PictureFolder, make_episode: Callable[..., Episode]
) -> None:
    write_features(found, SOURCE, np.zeros((17, 3), np.float32))
    changed = images(1, 8)
    changed["front"][4] = 0
    write_episode(folder, make_episode(1, 8, images=changed))
    with pytest.raises(UserError, match="have changed since it was made"):
        read_features(find_pictures(folder, CAMERAS, SIZE), SOURCE, (3,))
    write_episode(folder, make_episode(3, 8, images=images(3, 8)))
    with pytest.raises(UserError, match="cannot be used: it was made with num_steps 17, not 25"):
        read_features(find_pictures(folder, CAMERAS, SIZE), SOURCE, (3,))


def test_a_damaged_cache_is_refused(found: PictureFolder) -> None:
    path = write_features(found, SOURCE, np.zeros((17, 3), np.float32))
    content = path.read_bytes()
    about = json.dumps({"format": "of another program"})
    for damage in (content[:200], b"", content.replace(b"\x00" * 64, b"\x01" * 64)):
        path.write_bytes(damage)
        with pytest.raises(UserError, match="it is damaged"):
            read_features(found, SOURCE, (3,))
    np.savez(path, features=np.zeros((17, 3), np.float32), about=np.array(about))
    with pytest.raises(UserError, match="it was made with encoder_sha256 None"):
        read_features(found, SOURCE, (3,))
    np.savez(path, features=np.zeros((17, 3), np.float32), about=np.array("3"))
    with pytest.raises(UserError, match="does not say"):
        read_features(found, SOURCE, (3,))
    write_features(found, SOURCE, np.full((17, 3), np.nan, np.float32))
    with pytest.raises(UserError, match="no finite"):
        read_features(found, SOURCE, (3,))
    write_features(found, SOURCE, np.zeros((17, 3), np.float32))
    with pytest.raises(UserError, match=r"no finite float32 \(17, 5\)"):
        read_features(found, SOURCE, (5,))


def test_a_failed_write_leaves_nothing(found: PictureFolder, monkeypatch: pytest.MonkeyPatch) -> None:
    def full(source: object, target: object) -> None:
        raise OSError(28, "No space left on device")

    before = sorted(found.directory.iterdir())
    monkeypatch.setattr(os, "replace", full)
    with pytest.raises(UserError, match=r"cannot write .*features_.*No space left"):
        write_features(found, SOURCE, np.zeros((17, 3), np.float32))
    assert sorted(found.directory.iterdir()) == before


def test_features_of_another_type_have_a_cache_of_their_own() -> None:
    """And those in float32 keep the name that they had when there was no other type."""
    assert "dtype" not in SOURCE.to_dict()
    assert cache_path(Path(), replace(SOURCE, dtype="bfloat16")) != cache_path(Path(), SOURCE)
