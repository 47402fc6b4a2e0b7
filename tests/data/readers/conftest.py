"""A dataset of every format that can be read."""

from collections.abc import Callable
from pathlib import Path

import pytest
from foreign_datasets import STEPS, pictures, write_act, write_robomimic

from imf_jax.data.episodes import Episode, write_episodes
from imf_jax.data.lerobot.export import export_demonstrations


@pytest.fixture
def ours(tmp_path: Path, make_episode: Callable[..., Episode]) -> Path:
    episodes = [make_episode(n, steps=STEPS, images={"front": pictures(n)}) for n in range(3)]
    write_episodes(tmp_path / "ours", episodes)
    return tmp_path / "ours"


@pytest.fixture(params=["ours", "lerobot", "act", "robomimic"])
def dataset(request: pytest.FixtureRequest, tmp_path: Path) -> Path:
    """One of each format."""
    if request.param == "act":
        return write_act(tmp_path / "act")
    if request.param == "robomimic":
        return write_robomimic(tmp_path / "lift.hdf5")
    ours: Path = request.getfixturevalue("ours")
    if request.param == "lerobot":
        export_demonstrations(ours, tmp_path / "lerobot")
    return tmp_path / request.param
