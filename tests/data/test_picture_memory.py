"""Memory is bounded whatever the size of a dataset."""

import tracemalloc
from pathlib import Path

import h5py
import numpy as np
import pytest

from imf_jax.data import picture_cache
from imf_jax.data.picture_cache import SomeRows, cached_pictures
from imf_jax.data.pictures import find_pictures, fits_in_memory
from imf_jax.errors import UserError

STEPS, EPISODES, SIZE = 250, 4, 96
BUDGET = 6_000_000
"""What pictures may take [bytes]; those of the dataset take more than four times as much."""


@pytest.fixture
def large(tmp_path: Path) -> Path:
    """A dataset of the form of ACT whose pictures take 28 MB, and more before they are resized."""
    folder = tmp_path / "large"
    folder.mkdir()
    for number in range(EPISODES):
        with h5py.File(folder / f"episode_{number}.hdf5", "w") as file:
            file["action"] = file["observations/qpos"] = np.zeros((STEPS, 14))
            bright = ((np.arange(STEPS) + number) % 256).astype(np.uint8)[:, None, None, None]
            file["observations/images/top"] = np.broadcast_to(bright, (STEPS, SIZE, SIZE + 16, 3))
    return folder


def test_batches_of_a_dataset_larger_than_the_budget_stay_within_it(large: Path) -> None:
    found = find_pictures(large, ("top",), SIZE)
    assert found.num_bytes > 4 * BUDGET
    assert not fits_in_memory(found, BUDGET)
    tracemalloc.start()
    try:
        stored, _ = cached_pictures(found)
        some = SomeRows(stored, np.arange(0, found.num_steps, 2))
        random = np.random.default_rng(0)
        for _ in range(20):
            rows = random.integers(0, some.shape[0], (8, 2))
            batch = some[rows]
            np.testing.assert_array_equal(batch[:, :, 0, 5, 5, 1], (2 * rows % STEPS + 2 * rows // STEPS) % 256)
        assert sum(len(part) for part in found.read_all()) == found.num_steps
        _, peak = tracemalloc.get_traced_memory()
    finally:
        tracemalloc.stop()
    assert peak < BUDGET


def test_a_cache_that_the_disk_cannot_hold_is_refused(large: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(picture_cache, "HEADROOM", 0.0)
    with pytest.raises(UserError, match=r"pictures of .* take 0\.0 GB at 96 pixels, but .* has room for 0\.0 GB"):
        cached_pictures(find_pictures(large, ("top",), SIZE))
    assert not list(large.glob("pictures_*"))
