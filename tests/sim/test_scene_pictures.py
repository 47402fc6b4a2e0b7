"""What the three cameras see of the transfer scene: the right things on the right sides, as OpenGL would show them."""

import numpy as np
import pytest

from imf_jax.sim.backends.task_scene import TaskScene
from imf_jax.sim.rendering.camera import camera_view
from imf_jax.sim.rendering.opengl_renderer import OpenGLRenderer, find_opengl
from imf_jax.sim.rendering.warp_renderer import WarpRenderer
from imf_jax.sim.robots.diana.model import MAX_OPENING, READY

SIZE = 128
CAMERAS = ("r_vis", "top", "front")


@pytest.fixture(scope="module")
def scene() -> TaskScene:
    return TaskScene("transfer")


def pose(scene: TaskScene, box: tuple[float, float, float]) -> np.ndarray:
    """qpos (nq,) with both arms ready and the box at a place [m]."""
    qpos = scene.model.qpos0.copy()
    qpos[scene.robot.qpos[:14]] = np.tile(READY, 2)
    qpos[scene.robot.qpos[14:]] = MAX_OPENING / 2
    qpos[scene.model.joint("box_joint").qposadr[0] :][:3] = box
    return qpos


def blue(image: np.ndarray) -> np.ndarray:
    """Image coordinates of the middle of what is blue, which the box alone is, or NaN."""
    saturated = image[..., 2].astype(int) > 1.8 * image[..., 0].astype(int) + 20
    return np.argwhere(saturated).mean(axis=0)[::-1] + 0.5 if saturated.any() else np.full(2, np.nan)


def test_the_box_is_seen_where_it_is(scene: TaskScene) -> None:
    model = scene.model
    renderer = WarpRenderer(model, CAMERAS, SIZE, SIZE)
    places = [(0.45, -0.1, 0.1), (0.55, 0.1, 0.2)]
    pictures = renderer.render(np.stack([pose(scene, place) for place in places]))
    assert renderer.frames_rendered == len(places) * len(CAMERAS)
    for place, picture in zip(places, pictures, strict=True):
        for camera in ("top", "front"):
            view = camera_view(model, pose(scene, place), camera, SIZE, SIZE)
            uv, _ = view.project(np.array(place))
            np.testing.assert_allclose(blue(picture[CAMERAS.index(camera)]), uv, atol=4)
    # The front camera faces the robots: what is on their left is on the right of the picture. The top one does not.
    top, front = (pictures[:, CAMERAS.index(name)] for name in ("top", "front"))
    assert blue(top[1])[0] < SIZE / 2 < blue(top[0])[0]
    assert blue(front[0])[0] < SIZE / 2 < blue(front[1])[0]


def test_the_wrist_camera_moves_with_the_right_arm(scene: TaskScene) -> None:
    renderer = WarpRenderer(scene.model, ("r_vis",), SIZE, SIZE)
    still = pose(scene, (0.45, -0.35, 0.03))
    turned_right, turned_left = still.copy(), still.copy()
    turned_right[scene.robot.qpos[7]] += 0.15
    turned_left[scene.robot.qpos[0]] += 0.15
    pictures = renderer.render(np.stack([still, turned_right, turned_left]))[:, 0].astype(int)
    assert np.isfinite(blue(pictures[0])).all()  # the box below the hand is in view
    assert np.abs(pictures[1] - pictures[0]).mean() > 2
    assert np.abs(pictures[2] - pictures[0]).mean() < 0.5


@pytest.mark.skipif(find_opengl() is None, reason="no off-screen OpenGL (Debian: libosmesa6)")
@pytest.mark.parametrize("shadows", [False, True])
def test_opengl_shows_the_same_scene(scene: TaskScene, shadows: bool) -> None:
    qpos = np.stack([pose(scene, (0.45, -0.3, 0.025)), pose(scene, (0.5, 0.0, 0.2))])
    gl = OpenGLRenderer(scene.model, CAMERAS, 256, 256, shadows=shadows)
    expected = gl.render(qpos).astype(int)
    gl.close()
    pictures = WarpRenderer(scene.model, CAMERAS, 256, 256, shadows=shadows).render(qpos)
    difference = np.abs(pictures - expected).mean(axis=(0, 2, 3, 4))
    assert (difference <= 2).all(), dict(zip(CAMERAS, difference, strict=True))
