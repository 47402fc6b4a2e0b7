"""The picture of the executed path: where it is drawn, what hides it, and the file that a rollout leaves."""

import io

import mujoco
import numpy as np
import pytest
from PIL import Image

from imf_jax.errors import ArgumentError
from imf_jax.rollout.episode import EpisodeRecord
from imf_jax.rollout.recorders.base import ResetBatch, StepBatch
from imf_jax.rollout.recorders.path_drawing import STYLES, draw_path
from imf_jax.rollout.recorders.path_image import PathImageRecorder, RenderedScene, SceneRenderer
from imf_jax.sim.backends.base import StepOutput
from imf_jax.sim.rendering.camera import CameraView

GREY = np.full((128, 128, 3), 128, np.uint8)
# From one metre above the origin, looking down: world x is right and world y is up in the picture, 0.64 m wide.
DOWN = CameraView(128, 128, 200.0, np.array([0.0, 0.0, 1.0]), np.eye(3))
NOTHING = np.zeros((0, 3))
NAMES = ("left arm", "right arm")


def line(start: list[float], end: list[float], count: int = 50) -> np.ndarray:
    return np.linspace(start, end, count)


def redness(picture: np.ndarray) -> np.ndarray:
    return picture[..., 0].astype(int) - picture[..., 1:].max(axis=-1)


def at(picture: np.ndarray, x: float, y: float) -> np.ndarray:
    """The pixel of a world point on the plane z = 0."""
    scale = picture.shape[0] / 128
    return picture[int((64 - 200 * y) * scale), int((64 + 200 * x) * scale)]


def test_path_is_red_where_it_went_and_nothing_else_changes() -> None:
    before = GREY.copy()
    picture = draw_path(GREY, None, DOWN, [line([-0.2, 0.1, 0], [0.2, 0.1, 0])], thickness=0.02)
    assert picture.shape == GREY.shape
    assert picture.dtype == np.uint8
    assert redness(at(picture, 0.0, 0.1)) > 100
    assert (picture[70:] == 128).all()  # the path is 20 pixels above the middle
    np.testing.assert_array_equal(GREY, before)


def test_thickness_is_metric() -> None:
    def width(height: float) -> int:
        path = line([-0.1, 0, height], [0.1, 0, height])
        picture = draw_path(GREY, None, DOWN, [path, NOTHING], thickness=0.05)
        return int((redness(picture[:, 64]) > 110).sum())

    assert width(0.0) == pytest.approx(0.05 * 200, abs=1)
    assert width(0.5) == pytest.approx(2 * 0.05 * 200, abs=1)  # twice as near, twice as wide


def test_hidden_stretches_look_hidden() -> None:
    depth = np.full((128, 128), 1.5, np.float32)
    depth[:, 64:] = 0.5  # a surface between camera and path on the right half
    picture = draw_path(GREY, depth, DOWN, [line([-0.25, 0, 0], [0.25, 0, 0])], thickness=0.03)
    seen, hidden = redness(picture[:, 34]), redness(picture[:, 94])
    assert 0 < hidden.max() < 0.7 * seen.max()
    assert (hidden > 20).sum() < (seen > 20).sum()
    inside_surface = np.full((128, 128), 0.99, np.float32)  # 1 cm in front of the path: the wrist it belongs to
    covered = draw_path(GREY, inside_surface, DOWN, [line([-0.25, 0, 0], [0.25, 0, 0])])
    plain = draw_path(GREY, None, DOWN, [line([-0.25, 0, 0], [0.25, 0, 0])])
    np.testing.assert_array_equal(covered, plain)


def test_arms_and_ends_can_be_told_apart() -> None:
    path = line([-0.2, 0, 0], [0.2, 0, 0])
    left = draw_path(GREY, None, DOWN, [path, NOTHING], height=512)
    right = draw_path(GREY, None, DOWN, [NOTHING, path], height=512)
    assert left.shape == (512, 512, 3)
    assert tuple(at(left, 0.2, 0)) == STYLES[0].fill  # filled end
    assert tuple(at(right, 0.2, 0)) == STYLES[1].fill
    assert tuple(at(left, -0.2, 0)) == (255, 255, 255)  # hollow start
    assert np.abs(at(left, 0, 0).astype(int) - at(right, 0, 0)).max() > 30
    labelled = draw_path(GREY, None, DOWN, [path, NOTHING], names=NAMES, height=512)
    changed = np.argwhere((labelled != left).any(axis=-1))
    assert changed[:, 0].min() > 400  # the legend keeps to the lower left corner
    assert changed[:, 1].max() < 220


def test_broken_and_empty_paths_leave_gaps() -> None:
    path = line([-0.2, 0, 0], [0.2, 0, 0], 41)
    path[15:26] = np.nan
    picture = draw_path(GREY, None, DOWN, [path, NOTHING])
    assert redness(at(picture, -0.1, 0)) > 100
    assert (at(picture, 0.0, 0) == 128).all()
    behind = line([0, 0, 2], [0.1, 0, 3])
    np.testing.assert_array_equal(draw_path(GREY, None, DOWN, [behind]), GREY)
    np.testing.assert_array_equal(draw_path(GREY, None, DOWN, [NOTHING, NOTHING]), GREY)
    outside = line([5, 5, 0], [6, 5, 0])
    np.testing.assert_array_equal(draw_path(GREY, None, DOWN, [outside]), GREY)


def test_a_picture_of_another_size_is_refused() -> None:
    with pytest.raises(ValueError, match="image must be uint8"):
        draw_path(GREY[:64], None, DOWN, [NOTHING, NOTHING])


def output(left: np.ndarray) -> StepOutput:
    """A read-out (..., ) in which only the position of the left hand matters."""
    shape = left.shape[:-1]
    pose = np.zeros((*shape, 2, 7), np.float32)
    pose[..., 0, :3] = left
    pose[..., 1, :3] = [0.0, -0.2, 0.0]
    nothing = np.zeros(shape)
    return StepOutput(
        nothing, nothing, pose, *[nothing] * 6, qpos=np.cumsum(np.ones((*shape, 1)), axis=-2), overflow=nothing
    )


def test_recorder_draws_the_executed_steps_of_each_episode(tmp_path) -> None:
    photographed = []

    def photograph(qpos: np.ndarray) -> list[RenderedScene]:
        photographed.extend(qpos.tolist())
        return [RenderedScene(GREY, np.full((128, 128), 1.2, np.float32), DOWN)] * len(qpos)

    recorder = PathImageRecorder(tmp_path, photograph, NAMES)
    starts = np.array([[-0.2, 0.1, 0.0], [-0.2, 0.2, 0.0]], np.float32)
    recorder.on_reset(ResetBatch(np.array([7, 9]), output(starts)))
    way = np.linspace(starts, starts + np.array([0.2, 0, 0]), 5, axis=1)[:, 1:]
    beyond = way[:, -1:] + np.array([0.2, 0, 0])
    chunk = np.concatenate([way, beyond], axis=1).astype(np.float32)
    recorder.on_steps(StepBatch(np.array([7, 9]), np.zeros((2, 5, 16)), output(chunk), np.array([4, 5])))
    record = EpisodeRecord(7, 0, 0, "success", 4, 0, 3, 0.0, 0.0, 3, 1, 0.0)
    recorder.on_ended([9, 7])
    assert recorder.finish(record) == {"path_image": "episodes/ep_000007/trajectory.png"}
    assert photographed == [[5.0], [4.0]], "the states after the last steps of the episodes"
    assert [path.name for path in (tmp_path / "episodes/ep_000007").iterdir()] == ["trajectory.png"]
    picture = np.asarray(Image.open(io.BytesIO((tmp_path / "episodes/ep_000007/trajectory.png").read_bytes())))
    expected = draw_path(
        *photograph(np.zeros((1, 1)))[0],
        [np.concatenate([starts[:1], way[0]]), np.tile([0.0, -0.2, 0.0], (5, 1))],
        names=NAMES,
    )
    np.testing.assert_array_equal(picture, expected)
    assert redness(at(picture, -0.1, 0.1)) > 100
    assert (at(picture, 0.1, 0.1) == 128).all()  # a step past the end of the episode is no part of it
    recorder.discard(9)
    recorder.close()
    assert not (tmp_path / "episodes/ep_000009").exists()


def test_photographer_sees_the_scene_and_names_unknown_cameras() -> None:
    model = mujoco.MjModel.from_xml_string(
        "<mujoco><worldbody><camera name='front' pos='0 0 1'/><body><freejoint/>"
        "<geom type='sphere' size='.1' rgba='1 0 0 1'/></body></worldbody></mujoco>"
    )
    with pytest.raises(ArgumentError, match="'side' is not in the scene; choose from: front"):
        SceneRenderer(model, "side")
    qpos = np.array([[0.1, 0, 0, 1, 0, 0, 0], [-0.1, 0.05, 0, 1, 0, 0, 0]])
    renderer = SceneRenderer(model, "front", 64)
    scenes = renderer(qpos)
    for (x, y, *_), (image, depth, view) in zip(qpos, scenes, strict=True):
        uv, _ = view.project(np.array([x, y, 0.1]))
        assert redness(image[int(uv[1]), int(uv[0])]) > 50
        assert depth[int(uv[1]), int(uv[0])] == pytest.approx(0.9, abs=0.01)
    np.testing.assert_array_equal(renderer(qpos[1:])[0].image, scenes[1].image)
