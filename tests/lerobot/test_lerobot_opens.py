"""LeRobot itself opens our datasets: every frame, every column, every video time stamp.

Run by `make lerobot-check` in an environment that has lerobot and torch, and without our readers; the variable
LEROBOT_DATASETS names the folder that `write_datasets.py` made.
"""

import importlib
import importlib.metadata
import os
import shutil
from pathlib import Path

import numpy as np
import pytest

pytest.importorskip("lerobot", reason="needs the package lerobot; run make lerobot-check")
import torch
from lerobot.datasets.lerobot_dataset import LeRobotDataset

FOLDER = Path(os.environ.get("LEROBOT_DATASETS", "."))
PICTURE_TOLERANCE = 12 / 255
"""Largest difference of a pixel after H.264 with halved colour resolution."""


def opened(name: str, video_backend: str = "pyav", **settings) -> LeRobotDataset:
    return LeRobotDataset(f"local/{name}", root=FOLDER / name, video_backend=video_backend, **settings)


@pytest.fixture(params=["pyav", "torchcodec"])
def video_backend(request) -> str:
    """What decodes the videos; torchcodec needs FFmpeg installed on the system."""
    if request.param == "torchcodec":
        try:
            importlib.import_module("torchcodec")
        except (ImportError, RuntimeError, OSError) as error:
            pytest.skip(f"torchcodec does not load ({str(error).splitlines()[0]})")
    return request.param


@pytest.fixture(scope="module")
def expected() -> dict[str, np.ndarray]:
    return dict(np.load(FOLDER / "expected.npz"))


@pytest.fixture(scope="module", autouse=True)
def versions(pytestconfig):
    """Say which versions the result is about."""
    packages = ("lerobot", "torch", "torchcodec", "datasets", "pyarrow", "av")
    with pytestconfig.pluginmanager.getplugin("capturemanager").global_and_fixture_disabled():
        print(*(f"{name} {importlib.metadata.version(name)}" for name in packages), sep=", ")


@pytest.mark.parametrize("name", ["export", "rollout_resumed"])
def test_every_frame_is_what_was_recorded(name, video_backend, expected):
    dataset = opened(name, video_backend, tolerance_s=1e-4)
    assert (len(dataset), dataset.num_episodes, dataset.fps) == (36, 3, 50)
    assert set(dataset.meta.camera_keys) == {"observation.images.front", "observation.images.top"}
    for index in range(len(dataset)):
        frame = dataset[index]
        for key, values in expected.items():
            if key == "task":
                assert frame[key] == values[index]
            elif key.startswith("observation.images"):
                difference = np.abs(frame[key].permute(1, 2, 0).numpy() - values[index] / 255)
                assert difference.max() < PICTURE_TOLERANCE, (index, key)
            else:
                np.testing.assert_allclose(frame[key].numpy(), values[index], atol=1e-6, err_msg=f"{key} {index}")


@pytest.mark.parametrize("name", ["export", "rollout_resumed"])
def test_windows_for_training_have_the_right_times(name, expected):
    """Windows over pictures and actions, in batches: what a LeRobot policy trains on."""
    times = {"observation.images.front": [-0.02, 0.0], "action": [0.0, 0.02, 0.04]}
    dataset = opened(name, delta_timestamps=times)
    batch = next(iter(torch.utils.data.DataLoader(dataset, batch_size=36)))
    assert batch["observation.images.front"].shape == (36, 2, 3, 64, 64)
    np.testing.assert_array_equal(batch["action"][3], expected["action"][3:6])
    assert batch["action_is_pad"][11].tolist() == [False, True, True]
    pictures = batch["observation.images.front"][20].permute(0, 2, 3, 1).numpy()
    assert np.abs(pictures - expected["observation.images.front"][19:21] / 255).max() < PICTURE_TOLERANCE


@pytest.mark.parametrize("name", ["rollout_uncounted", "rollout_orphan"])
def test_what_was_saved_before_a_kill_opens(name, expected):
    dataset = opened(name)
    assert (len(dataset), dataset.num_episodes) == (21, 2)
    actions = np.stack([dataset[index]["action"] for index in range(21)])
    np.testing.assert_array_equal(actions, expected["action"][:21])


def test_episodes_can_be_selected(expected):
    dataset = opened("rollout_resumed", episodes=[2])
    assert len(dataset) == 15
    np.testing.assert_array_equal(dataset[0]["action"], expected["action"][21])
    assert dataset[0]["task"] == "transfer"


def test_statistics_are_loaded(expected):
    stats = opened("export").meta.stats
    np.testing.assert_allclose(stats["action"]["mean"], expected["action"].mean(0), atol=1e-6)
    np.testing.assert_allclose(stats["action"]["std"], expected["action"].astype(np.float64).std(0), atol=1e-6)
    assert stats["observation.images.top"]["mean"].shape == (3, 1, 1)


def test_lerobot_goes_on_recording_into_our_dataset(tmp_path, expected):
    """LeRobot's own recorder appends an episode, and both parts are read back."""
    shutil.copytree(FOLDER / "export", tmp_path / "export")
    dataset = LeRobotDataset.resume("local/export", root=tmp_path / "export", video_backend="pyav")
    for step in range(5):
        frame = {"task": "transfer"}
        for key, feature in dataset.features.items():
            if key in ("timestamp", "frame_index", "episode_index", "index", "task_index"):
                continue
            kind = np.uint8 if feature["dtype"] == "video" else feature["dtype"]
            frame[key] = np.full(feature["shape"], step, kind)
        dataset.add_frame(frame)
    dataset.save_episode()
    dataset.finalize()
    both = LeRobotDataset("local/export", root=tmp_path / "export", video_backend="pyav")
    assert (len(both), both.num_episodes) == (41, 4)
    np.testing.assert_array_equal(both[35]["action"], expected["action"][35])
    assert both[40]["action"][0] == 4
    assert both[40]["observation.images.front"].shape == (3, 64, 64)
