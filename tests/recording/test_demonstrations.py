"""The pictures of DAgger's demonstrations: taken once per frame, some at a time, and of nothing that is thrown away."""

from pathlib import Path
from types import SimpleNamespace
from typing import Any

import numpy as np
import pytest
from point_world import PointBackend

from imf_jax.config.recording import DatasetConfig
from imf_jax.data.episodes import list_episodes, read_episode
from imf_jax.recording import demonstrations as module
from imf_jax.recording import recording as recording_module
from imf_jax.recording.correction import CorrectedPlanner, InterventionRules
from imf_jax.recording.dagger import DaggerStrategy
from imf_jax.recording.demonstrations import Demonstrations
from imf_jax.recording.spool import PictureSpool

pytestmark = pytest.mark.usefixtures("point_expert")

SIZE = 16
"""Of the recorded pictures, see `conftest.record`."""

BOUND = 4


class SceneRenderer:
    """Pictures whose brightness tells the camera and where the hand is; counts them."""

    def __init__(self) -> None:
        self.calls: dict[tuple[str, int], list[int]] = {}

    def make(self, cameras: tuple[str, ...], size: int) -> Any:
        def render(qpos: np.ndarray) -> np.ndarray:
            for camera in cameras:
                self.calls.setdefault((camera, size), []).append(len(qpos))
            shade = (200 * np.clip(qpos[:, 0], 0, 1)).astype(np.uint8)[:, None] + np.array([len(c) for c in cameras])
            shape = (len(qpos), len(cameras), size, size, 3)
            return np.broadcast_to(shade[..., None, None, None], shape).astype(np.uint8)

        return render

    def frames(self, camera: str, size: int) -> int:
        return sum(self.calls.get((camera, size), []))


def test_a_full_disk_ends_the_recording(
    roll: Any, record: Any, make_planner: Any, monkeypatch: pytest.MonkeyPatch
) -> None:
    def full(self: PictureSpool, camera: str, pictures: np.ndarray) -> None:
        raise OSError(28, "No space left on device")

    monkeypatch.setattr(PictureSpool, "add", full)
    recording, errors = record(cameras=True), []
    with recording.writer:
        strategy = DaggerStrategy(recording, save="corrections", on_segment=lambda *segment: None, cameras=("front",))
        planner = CorrectedPlanner(make_planner(), "point", InterventionRules(beta=1.0))
        roll(strategy, planner=planner, errors=errors)
    assert "No space left on device" in str(strategy.failed)


@pytest.mark.parametrize("save", ["corrections", "episodes"])
@pytest.mark.parametrize(("cameras", "size"), [(("front",), SIZE), (("front", "top"), SIZE), (("front",), SIZE + 2)])
def test_each_frame_is_pictured_once_and_only_if_it_is_kept(
    roll: Any, record: Any, make_planner: Any, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, save: Any,
    cameras: tuple[str, ...], size: int,
) -> None:  # fmt: skip
    photographer = SceneRenderer()
    monkeypatch.setattr(module, "make_render", lambda backend, *settings: photographer.make(*settings))
    for owner in (module, recording_module):
        monkeypatch.setattr(owner, "RENDER_SCENES", BOUND)
    flags = DatasetConfig(tmp_path / "rollout_test", cameras=("front",), image_size=SIZE)
    session: Any = SimpleNamespace(
        config=SimpleNamespace(recording=flags), backend=PointBackend(), seed=7, policy=SimpleNamespace(task="point")
    )
    recording = record(cameras=True)
    recording._make_render = lambda: photographer.make(("front",), SIZE)
    demonstrations = Demonstrations(tmp_path / "demonstrations", session, cameras, size)
    demonstrations.folder.mkdir()
    rules = InterventionRules(no_progress_steps=6, correction_steps=3)
    with recording.writer as writer:
        strategy = DaggerStrategy(recording, save=save, on_segment=demonstrations.add, cameras=demonstrations.recorded)
        roll(strategy, planner=CorrectedPlanner(make_planner(fault=6.0), "point", rules))
    written = [read_episode(path, images=True) for path in list_episodes(demonstrations.folder)]
    taught = sum(map(len, written))
    assert len(written) > 3
    assert taught < writer.num_frames or save == "corrections", "of failures only the corrections are learned from"
    warm_up = 1
    assert photographer.frames("front", SIZE) == warm_up + writer.num_frames
    assert photographer.frames("front", SIZE + 2) == (taught if size > SIZE else 0)
    assert photographer.frames("top", size) == (taught if "top" in cameras else 0)
    assert max(map(max, photographer.calls.values())) <= BOUND
    for episode in written:
        assert list(episode.images) == list(cameras)
        for camera in cameras:
            assert episode.images[camera].shape == (len(episode), size, size, 3)
            shown = (200 * np.clip(episode.state[:, 0], 0, 1)).astype(np.uint8) + len(camera)
            np.testing.assert_array_equal(episode.images[camera][:, 0, 0, 0], shown)
    assert not [path for path in demonstrations.folder.iterdir() if path.suffix != ".hdf5"]
