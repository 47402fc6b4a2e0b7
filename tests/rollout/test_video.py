"""Videos of episodes: a frame per step and no other, whole files or none, and nothing else changes."""

import importlib
import os
import resource
import sys
from collections.abc import Callable
from dataclasses import replace
from pathlib import Path
from typing import Any

import av
import numpy as np
import pytest
from transfer_task import SPACES

from imf_jax.config import CaptureConfig
from imf_jax.errors import ArgumentError, UserError
from imf_jax.evaluation.evaluate import EvaluationSettings, Summary, evaluate
from imf_jax.evaluation.evaluated_policy import EvaluatedPolicy
from imf_jax.evaluation.setup import Setup
from imf_jax.files import partial_path
from imf_jax.rollout.engine import Rollout
from imf_jax.rollout.episode import EpisodeRecord
from imf_jax.rollout.episode_log import RolloutResult
from imf_jax.rollout.recorders import video
from imf_jax.rollout.recorders.base import OnlyEpisodes
from imf_jax.rollout.recorders.trajectory import TrajectoryRecorder
from imf_jax.rollout.recorders.video import CameraRenderer, VideoRecorder, require_encoder
from imf_jax.video import VideoEncoder

SIZE = 16
CAMERAS = ("front", "top")
FAULTS = {2: 99.0, 3: 7.0}
"""Episode 2 diverges, 3 loses its object; 5 is too slow; the others succeed."""


class Colours:
    """Stands for the ray tracer: a picture has the colour of the place of the hand, from above another one."""

    def __init__(self) -> None:
        self.sizes: list[int] = []

    def __call__(self, qpos: np.ndarray) -> np.ndarray:
        self.sizes.append(len(qpos))
        front = np.rint(255 * np.clip(qpos[:, None, None, None, :3], 0, 1)).astype(np.uint8)
        return np.broadcast_to(np.concatenate([front, 255 - front], axis=1), (len(qpos), 2, SIZE, SIZE, 3))


class Blind:
    """Makes one episode unplannable from the start."""

    def __init__(self, planner: Any, episode: int) -> None:
        self.planner, self.episode = planner, episode
        self.obs_horizon, self.num_action_steps, self.rows, self.cameras = 2, 4, 4, ()

    def plan(self, observations: Any, output: Any, seed: int, episodes: np.ndarray, replans: np.ndarray) -> np.ndarray:
        actions = self.planner.plan(observations, output, seed, episodes, replans)
        actions[episodes == self.episode] = np.nan
        return actions

    def notes(self, episodes: np.ndarray) -> dict[str, np.ndarray]:
        return {}

    def plan_error(self, episode: int, replan: int) -> str | None:
        return None


@pytest.fixture
def film(
    tmp_path: Path, chunk_backend: Any, straight_planner: Any
) -> Callable[..., tuple[dict[int, EpisodeRecord], RolloutResult]]:
    """Roll eight episodes out with recorders, into `tmp_path`; returns the records and the result."""

    def run(*recorders: Any, **options: Any) -> tuple[dict[int, EpisodeRecord], RolloutResult]:
        records: list[EpisodeRecord] = []
        result = Rollout(
            chunk_backend, Blind(straight_planner(FAULTS), 4), range(8), seed=0, max_steps=40, num_envs=3,
            on_record=records.append, recorders=recorders, **options,
        ).run()  # fmt: skip
        return {record.episode: record for record in sorted(records, key=lambda record: record.episode)}, result

    return run


def recorder(folder: Path, render: Any = None, **options: Any) -> VideoRecorder:
    return VideoRecorder(folder, render or Colours(), CAMERAS, SIZE, 50, **options)


def read(path: Path) -> np.ndarray:
    """Frames uint8 (T, H, W, 3) of a video, after checking its format."""
    with av.open(str(path)) as container:
        stream = container.streams.video[0]
        assert (stream.codec_context.name, stream.codec_context.pix_fmt) == ("h264", "yuv420p")
        assert (stream.height, stream.width, stream.average_rate) == (SIZE, SIZE, 50)
        packets = [packet for packet in container.demux(stream) if packet.size]
        return np.array([frame.to_ndarray(format="rgb24") for packet in packets for frame in packet.decode()])


def files(folder: Path) -> list[str]:
    """All files below a folder, hidden ones too."""
    return sorted(str(path.relative_to(folder)) for path in folder.rglob("*") if path.is_file())


def test_a_frame_per_step_and_every_one_shows_its_own_step(film: Any, tmp_path: Path) -> None:
    records, result = film(recorder(tmp_path), TrajectoryRecorder(tmp_path, SPACES))
    assert [r.status for r in records.values()] == ["success"] * 2 + ["error", "failure", "error", "timeout"] + [
        "success"
    ] * 2
    assert not result.capture_errors
    for episode, record in records.items():
        if not record.steps:
            assert record.artifacts == {}
            continue
        assert record.artifacts["video_front"] == f"episodes/ep_{episode:06d}/front.mp4"
        with np.load(tmp_path / record.artifacts["trajectory"]) as file:
            place = file["executed_left_link7_pos"]
        colour = 255 * np.clip(place, 0, 1)
        for camera, expected in (("front", colour), ("top", 255 - colour)):
            frames = read(tmp_path / record.artifacts[f"video_{camera}"])
            assert len(frames) == record.steps
            np.testing.assert_allclose(frames.mean(axis=(1, 2)), expected, atol=8)
    assert records[4].steps == 0
    assert not (tmp_path / "episodes/ep_000004").exists()
    assert not [name for name in files(tmp_path) if "partial" in name]


def test_failures_only(film: Any, tmp_path: Path) -> None:
    records, _ = film(recorder(tmp_path, failures_only=True))
    assert [e for e, r in records.items() if r.artifacts] == [2, 3, 5], "4 ended without a step"
    assert files(tmp_path) == [f"episodes/ep_00000{e}/{camera}.mp4" for e in (2, 3, 5) for camera in CAMERAS]
    assert sorted(path.name for path in (tmp_path / "episodes").iterdir()) == ["ep_000002", "ep_000003", "ep_000005"]


def test_records_are_those_without_captures(film: Any, tmp_path: Path) -> None:
    filmed, _ = film(recorder(tmp_path), queue_bytes=4000)
    plain, _ = film()
    assert {e: replace(record, artifacts={}) for e, record in filmed.items()} == plain


def test_no_more_pictures_at_once_than_the_memory_bound_counts(film: Any, tmp_path: Path) -> None:
    colours = Colours()
    records, _ = film(recorder(tmp_path, colours))
    setup, *sizes = colours.sizes
    assert setup == 1
    assert max(sizes) <= 3 * video.MOMENTS_PER_EPISODE
    assert sum(sizes) == sum(record.steps for record in records.values()), "nothing is rendered past an end"


def test_a_broken_encoder_costs_the_video_of_its_episode_only(
    film: Any, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    add = VideoEncoder.add

    def broken(self: VideoEncoder, picture: np.ndarray) -> None:
        if "ep_000001" in str(self.path) and self.num_frames == 5:
            raise UserError("no space left on device")
        add(self, picture)

    monkeypatch.setattr(VideoEncoder, "add", broken)
    records, result = film(recorder(tmp_path))
    assert result.capture_errors == ["episode 1, video: no space left on device"]
    assert len(records) == 8
    assert (records[1].status, records[1].artifacts) == ("success", {})
    assert {e for e, record in records.items() if record.artifacts} == {0, 2, 3, 5, 6, 7}
    assert not [name for name in files(tmp_path) if "partial" in name or "ep_000001" in name]


def test_a_renderer_that_fails_costs_videos_only(film: Any, tmp_path: Path) -> None:
    def blind(qpos: np.ndarray) -> np.ndarray:
        raise RuntimeError("no light")

    records, result = film(recorder(tmp_path, blind))
    assert len(records) == 8
    assert "episode 0, video: no light" in result.capture_errors
    assert files(tmp_path) == []


def test_an_unfinished_episode_has_no_file_under_its_name(film: Any, tmp_path: Path) -> None:
    class Watching(Colours):
        def __call__(self, qpos: np.ndarray) -> np.ndarray:
            seen.append(files(tmp_path))
            return super().__call__(qpos)

    seen: list[list[str]] = []
    asked = iter([False] * 4 + [True] * 9)
    records, result = film(recorder(tmp_path, Watching()), should_stop=lambda: next(asked))
    assert result.interrupted
    hidden = [partial_path(tmp_path / f"episodes/ep_00000{i}/{camera}.mp4") for i in (0, 1, 2) for camera in CAMERAS]
    assert [tmp_path / name for name in seen[2]] == hidden, "what a killed run leaves is hidden"
    complete = {path for record in records.values() for path in record.artifacts.values()}
    assert files(tmp_path) == sorted(complete)


@pytest.fixture
def run(
    tmp_path: Path, chunk_backend: Any, straight_planner: Any, monkeypatch: pytest.MonkeyPatch
) -> Callable[..., Summary]:
    monkeypatch.setattr(video, "CameraRenderer", lambda model, cameras, size: Colours())
    chunk_backend.model = None

    def run(name: str, **settings: Any) -> Summary:
        chosen = EvaluationSettings(episodes=8, num_envs=3, capture=CaptureConfig(**settings))
        return evaluate(
            Setup(EvaluatedPolicy(straight_planner(FAULTS), "point", "straight", {}), chunk_backend),
            chosen,
            tmp_path / name,
        )

    return run


@pytest.mark.parametrize(
    ("choice", "filmed"), [("all", list(range(8))), ("failures", [2, 3, 5]), (2, [0, 1]), ("none", []), (0, [])]
)
def test_which_episodes_are_filmed(run: Callable[..., Summary], choice: Any, filmed: list[int]) -> None:
    summary = run("run", record_video=choice, video_cameras=CAMERAS, video_size=SIZE)
    assert [r.episode for r in summary.records if "video_top" in r.artifacts] == filmed
    assert (summary.folder / "episodes").exists() == bool(filmed)


@pytest.mark.parametrize(
    ("settings", "message"),
    [
        ({"record_video": -1}, "--record-video is -1; it must be all, failures, none, or the number"),
        ({"record_video": "some"}, "--record-video is some"),
        ({"record_video": True}, "--record-video is True"),
        ({"video_size": 65}, "--video-size is 65; it must be even and at least 16"),
        ({"video_size": 0}, "--video-size is 0"),
        ({"video_cameras": ()}, "--video-cameras is empty"),
        ({"video_cameras": ("top", "top")}, "--video-cameras top top names a camera twice"),
    ],
)
def test_bad_settings(settings: dict[str, Any], message: str) -> None:
    with pytest.raises(ArgumentError, match=message):
        CaptureConfig(**settings)


def test_unknown_camera_and_missing_library_are_said_before_anything_is_written(
    run: Callable[..., Summary], tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    with pytest.raises(ArgumentError, match=r"camera 'back' is not in the scene; choose from: front, top"):
        run("run", record_video="all", video_cameras=("back",))
    monkeypatch.setitem(sys.modules, "av", None)
    for name in ("imf_jax.video", "imf_jax.rollout.recorders.video"):
        monkeypatch.delitem(sys.modules, name)
    with pytest.raises(UserError, match=r"videos need the package 'av'; install it with: pip install 'imf_jax\[video"):
        importlib.import_module("imf_jax.video")
    with pytest.raises(UserError, match="videos need the package 'av'"):
        run("run", record_video="all")
    assert run("plain").metrics["n_episodes"] == 8, "without videos the library is not needed"
    assert os.listdir(tmp_path) == ["plain"]


def test_what_this_machine_cannot_do(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(resource, "getrlimit", lambda kind: (256, 4096))
    require_encoder(192)
    with pytest.raises(ArgumentError, match=r"193 videos at once .* allows \(256\).*ulimit -n 257"):
        require_encoder(193)
    monkeypatch.setattr("imf_jax.video.CODEC", "libnothing")
    with pytest.raises(UserError, match=r"cannot encode H\.264"):
        require_encoder(1)


def test_true_pictures_of_a_scene(transfer_backend: Any, tmp_path: Path) -> None:
    _, output = transfer_backend.reset(np.zeros((1, 2), np.uint32))
    picture = CameraRenderer(transfer_backend.model, ("front", "r_vis"), 32)(np.asarray(output.qpos))
    assert (picture.shape, picture.dtype) == ((1, 2, 32, 32, 3), np.uint8)
    assert (picture.std(axis=(0, 2, 3, 4)) > 5).all()
    with pytest.raises(ArgumentError, match="back"):
        CameraRenderer(transfer_backend.model, ("back",), 32)


def test_chosen_episodes_of_a_recorder(film: Any, tmp_path: Path) -> None:
    records, _ = film(OnlyEpisodes(recorder(tmp_path), range(3)))
    assert [e for e, record in records.items() if record.artifacts] == [0, 1, 2]
