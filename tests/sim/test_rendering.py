"""Pictures: colours, sides, depth, freshness, independence of the batch, and agreement with MuJoCo's OpenGL."""

import importlib
import os
import re
import subprocess
import sys
import threading
import time
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import jax
import jax.numpy as jnp
import mujoco
import numpy as np
import pytest

import imf_jax
from imf_jax.errors import ArgumentError, UserError
from imf_jax.sim.rendering import opengl_renderer
from imf_jax.sim.rendering.camera import CameraView, camera_view
from imf_jax.sim.rendering.opengl_renderer import OpenGLRenderer, find_opengl
from imf_jax.sim.rendering.warp_renderer import WarpRenderer
from imf_jax.sim.rendering.warp_runtime import pick_device, start_warp

SIZE = 48

# `eye` looks along +x from one metre away: world y points left in its picture, world z up.
SCENE = """
<mujoco>
  <visual><headlight ambient=".4 .4 .4" diffuse=".5 .5 .5" specular="0 0 0"/></visual>
  <worldbody>
    <light type="directional" dir="1 0 -.3" diffuse=".2 .2 .2" specular="0 0 0"/>
    <camera name="eye" pos="-1 0 0" xyaxes="0 -1 0 0 0 1" fovy="45"/>
    <camera name="above" pos="0 0 1.5" xyaxes="0 -1 0 1 0 0" fovy="45"/>
    <geom name="wall" type="box" pos=".6 0 0" size=".1 .5 .25" rgba=".5 .5 .5 1"/>
    <body name="red" pos="0 .2 .1"><freejoint/><geom type="sphere" size=".04" rgba="1 0 0 1"/></body>
    <body name="green" pos="0 0 0"><freejoint/><geom type="box" size=".03 .03 .03" rgba="0 1 0 1"/></body>
    <body name="blue" pos="0 -.2 -.1"><freejoint/><geom type="capsule" size=".03 .03" rgba="0 0 1 1"/></body>
  </worldbody>
</mujoco>
"""
WALL_DEPTH = 1.5


@pytest.fixture(scope="module")
def model() -> mujoco.MjModel:
    return mujoco.MjModel.from_xml_string(SCENE)


@pytest.fixture(scope="module")
def renderer(model: mujoco.MjModel) -> WarpRenderer:
    return WarpRenderer(model, ("eye", "above"), SIZE, SIZE, depth=True)


@pytest.fixture(scope="module")
def poses(model: mujoco.MjModel) -> np.ndarray:
    """qpos (5, nq): the three bodies somewhere else in each scene."""
    qpos = np.tile(model.qpos0, (5, 1))
    offsets = np.random.default_rng(0).uniform(-0.1, 0.1, (5, 3, 3))
    for body in range(3):
        qpos[:, 7 * body : 7 * body + 3] += offsets[:, body]
    return qpos


def pixel(image: np.ndarray, view: CameraView, point: list[float]) -> np.ndarray:
    uv, _ = view.project(np.array(point))
    return image[int(uv[1]), int(uv[0])]


def test_colours_and_sides(model: mujoco.MjModel, renderer: WarpRenderer) -> None:
    image = renderer.render(model.qpos0[None])
    assert image.shape == (1, 2, SIZE, SIZE, 3)
    assert image.dtype == np.uint8
    view = camera_view(model, model.qpos0, "eye", SIZE, SIZE)
    for channel, point in enumerate(([-0.04, 0.2, 0.1], [-0.03, 0.0, 0.0], [-0.03, -0.2, -0.1])):
        seen = pixel(image[0, 0], view, point)
        assert seen[channel] > 150
        assert np.delete(seen, channel).max() == 0
    # Said without the projection: red is upper left of green, blue is lower right of it.
    pure = image[0, 0] * (image[0, 0].sum(axis=-1, keepdims=True) < 256)
    alone = [np.argwhere(pure[..., channel] > 150).mean(axis=0) for channel in range(3)]
    assert (alone[0] < alone[1]).all()
    assert (alone[1] < alone[2]).all()


def test_projection_hits_a_sphere_and_depth_agrees(model: mujoco.MjModel, renderer: WarpRenderer) -> None:
    qpos = model.qpos0.copy()
    qpos[:3] = [-0.35, 0.09, -0.07]
    image, depth = renderer.render_with_depth(qpos[None])
    view = camera_view(model, qpos, "eye", SIZE, SIZE)
    on_sphere = (image[0, 0, :, :, 0] > 100) & (image[0, 0, :, :, 1] < 20)
    centroid = np.argwhere(on_sphere).mean(axis=0)[::-1] + 0.5
    uv, distance = view.project(qpos[:3])
    np.testing.assert_allclose(centroid, uv, atol=0.35)
    assert distance == pytest.approx(0.65)
    nearest = depth[0, 0][on_sphere].min()
    assert nearest == pytest.approx(distance - 0.04, abs=2e-3)


def test_depth_is_planar_and_infinite_where_nothing_is(model: mujoco.MjModel, renderer: WarpRenderer) -> None:
    qpos = model.qpos0.copy()
    qpos[[2, 9, 16]] = 100.0
    depth = renderer.render_with_depth(qpos[None])[1][0, 0]
    wall = np.isfinite(depth)
    assert 0.3 < wall.mean() < 0.36  # (0.25 x 0.5) / (1.5 tan 22.5 degrees) ** 2
    np.testing.assert_allclose(depth[wall], WALL_DEPTH, rtol=1e-5)  # along rays, the corners would be farther
    assert np.isposinf(depth[~wall]).all()


def test_pictures_do_not_depend_on_the_batch(model: mujoco.MjModel, renderer: WarpRenderer, poses: np.ndarray) -> None:
    expected, expected_depth = renderer.render_with_depth(poses)
    assert len(np.unique(expected.reshape(5, -1), axis=0)) == 5
    for scene in (0, 3):
        np.testing.assert_array_equal(renderer.render(poses[[scene]])[0], expected[scene])
    np.testing.assert_array_equal(renderer.render(poses[::-1])[::-1], expected)
    batched = WarpRenderer(model, ("eye", "above"), SIZE, SIZE, num_worlds=3, depth=True, threads=1)
    image, depth = batched.render_with_depth(poses)
    np.testing.assert_array_equal(image, expected)
    np.testing.assert_array_equal(depth, expected_depth)


def test_frames_are_fresh_and_counted(model: mujoco.MjModel, poses: np.ndarray) -> None:
    renderer = WarpRenderer(model, ("above",), SIZE, SIZE, num_worlds=2)
    assert renderer.frames_rendered == 0
    first = renderer.render(poses[:1])
    np.testing.assert_array_equal(WarpRenderer(model, ("above",), SIZE, SIZE).render(poses[:1]), first)
    moved = renderer.render(poses[1:4])
    assert (moved[0] != first[0]).any()
    np.testing.assert_array_equal(renderer.render(poses[:1]), first)
    assert renderer.frames_rendered == 1 + 3 + 1  # padding is not counted


def test_cameras_are_chosen_by_name(model: mujoco.MjModel, renderer: WarpRenderer, poses: np.ndarray) -> None:
    swapped = WarpRenderer(model, ("above", "eye"), SIZE, SIZE)
    np.testing.assert_array_equal(swapped.render(poses), renderer.render(poses)[:, ::-1])
    with pytest.raises(ArgumentError, match="'front' is not in the scene; choose from: eye, above"):
        WarpRenderer(model, ("eye", "front"))
    with pytest.raises(ArgumentError, match="no camera named"):
        WarpRenderer(model, ())
    with pytest.raises(ArgumentError, match="front"):
        camera_view(model, model.qpos0, "front", SIZE, SIZE)


def test_shadows_darken_and_samples_smooth(model: mujoco.MjModel, renderer: WarpRenderer) -> None:
    plain = renderer.render(model.qpos0[None])[0, 0]
    better = WarpRenderer(model, ("eye",), SIZE, SIZE, shadows=True, samples=2).render(model.qpos0[None])
    assert better.shape == (1, 1, SIZE, SIZE, 3)
    assert len(np.unique(better[0, 0].reshape(-1, 3), axis=0)) > len(np.unique(plain.reshape(-1, 3), axis=0))
    assert (better[0, 0] < plain - np.minimum(plain, 20)).any()
    assert np.abs(better[0, 0].astype(int) - plain).mean() < 8


def test_bad_poses_and_devices_are_refused(renderer: WarpRenderer, poses: np.ndarray) -> None:
    broken = poses.copy()
    broken[2, 1] = np.nan
    with pytest.raises(ValueError, match=r"scenes \[2\] is not finite"):
        renderer.render(broken)
    with pytest.raises(ValueError, match="shape"):
        renderer.render(poses[0])
    with pytest.raises(ArgumentError, match=r"'cuda:63' is not there; choose one of: .*(cpu|cuda:0)"):
        pick_device("cuda:63")


def test_depth_must_be_asked_for(model: mujoco.MjModel) -> None:
    with pytest.raises(ValueError, match="depth=True"):
        WarpRenderer(model, ("eye",), SIZE, SIZE).render_with_depth(model.qpos0[None])


@pytest.mark.skipif(find_opengl() is None, reason="no off-screen OpenGL (Debian: libosmesa6)")
def test_opengl_makes_the_same_pictures(model: mujoco.MjModel, poses: np.ndarray) -> None:
    for shadows in (False, True):
        gl = OpenGLRenderer(model, ("eye", "above"), 128, 128, shadows=shadows)
        warp = WarpRenderer(model, ("eye", "above"), 128, 128, shadows=shadows, depth=True)
        image, depth = warp.render_with_depth(poses)
        difference = np.abs(gl.render(poses).astype(int) - image).mean(axis=(0, 2, 3, 4))
        assert (difference <= 2).all(), difference
        gl._renderer.enable_depth_rendering()
        gap = np.abs(gl._render(poses, np.empty_like(depth)) - depth)[np.isfinite(depth)]
        assert np.quantile(gap, 0.98) < 1e-3
        assert gl.frames_rendered == 20
        gl.close()


def test_without_opengl_the_message_names_the_packages(model: mujoco.MjModel, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(opengl_renderer, "find_opengl", lambda: None)
    with pytest.raises(UserError, match=r"apt-get install libegl1 libgl1-mesa-dri.*apt-get install libosmesa6"):
        OpenGLRenderer(model, ("eye",))


def test_a_hanging_opengl_counts_as_none(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(opengl_renderer, "_PROBE", "import time; time.sleep(60)")
    monkeypatch.setattr(opengl_renderer, "PROBE_SECONDS", 0.3)
    assert find_opengl.__wrapped__() is None


WITHOUT_OPENGL_LIBRARIES = """
import ctypes, ctypes.util
load, find = ctypes.CDLL.__init__, ctypes.util.find_library
def refuse(self, name, *args, **kwargs):
    if any(library in str(name) for library in ("libEGL", "libOSMesa", "libGL.")):
        raise OSError(name)
    load(self, name, *args, **kwargs)
ctypes.CDLL.__init__ = refuse
ctypes.util.find_library = lambda name: None if name in ("EGL", "OSMesa", "GL") else find(name)
"""

IMPORTS = """
import os, sys
import imf_jax.evaluation.evaluate, imf_jax.rollout.recorders.video
import mujoco
from imf_jax.sim.rendering import opengl_renderer, warp_renderer
mujoco.MjModel.from_xml_string("<mujoco/>")
print(os.environ["MUJOCO_GL"], *(name in sys.modules for name in ("warp", "glfw", "OpenGL")))
"""


@pytest.mark.parametrize("platform", ["nonsense", "egl", "osmesa", "glfw", " "])
def test_a_stray_gl_setting_breaks_nothing_and_imports_are_lazy(platform: str) -> None:
    pytest.importorskip("av")
    stray = {"MUJOCO_GL": platform, "PYOPENGL_PLATFORM": "nonsense", "DISPLAY": ":77"}
    environment = os.environ | stray | {"PYTHONPATH": os.pathsep.join(sys.path)}
    result = subprocess.run(
        [sys.executable, "-W", "error", "-c", WITHOUT_OPENGL_LIBRARIES + IMPORTS],
        env=environment,
        capture_output=True,
        text=True,
        check=False,
    )
    assert result.returncode == 0, result.stderr
    assert result.stdout == f"{platform} False False False\n"


def test_mujoco_is_imported_through_the_package_that_guards_it() -> None:
    package = Path(imf_jax.__file__).parent
    for path in package.rglob("*.py"):
        if package / "sim" not in path.parents:
            unguarded = re.search(r"^(import mujoco|from mujoco\b)", path.read_text(encoding="utf-8"), re.MULTILINE)
            assert unguarded is None, f"{path}: write `from imf_jax.sim import mujoco`"


def test_programs_of_others_still_find_their_opengl(monkeypatch: pytest.MonkeyPatch) -> None:
    gl_context = importlib.import_module("mujoco.rendering.classic.gl_context")
    monkeypatch.delitem(vars(gl_context), "GLContext", raising=False)
    monkeypatch.setenv("MUJOCO_GL", "nonsense")
    with pytest.raises(RuntimeError, match="invalid value for environment variable MUJOCO_GL: nonsense"):
        _ = gl_context.GLContext
    monkeypatch.setenv("MUJOCO_GL", "off")
    assert not hasattr(gl_context, "GLContext")


def test_pictures_wait_for_the_kernels_of_programs_on_cuda(
    model: mujoco.MjModel, renderer: WarpRenderer, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Warp's stream belongs to the process: launched during a capture, a picture would land in the program's graph."""
    warp = start_warp()
    monkeypatch.setattr(warp, "is_cuda_available", lambda: True)
    busy, found_free = threading.Lock(), []

    def launch() -> None:
        found_free.append(busy.acquire(blocking=False))
        time.sleep(0.002)
        if found_free[-1]:
            busy.release()

    def kernel(source: warp.array(dtype=float), target: warp.array(dtype=float)) -> None:  # type: ignore[valid-type]
        launch()
        target.assign(source)

    def trace(*_: Any) -> None:
        launch()

    monkeypatch.setattr(renderer._tracers[0], "trace", trace)
    call = warp.jax_callable(kernel, num_outputs=1, graph_mode=warp.JaxCallableGraphMode.NONE)
    program = jax.jit(lambda x: jax.lax.fori_loop(0, 30, lambda _, y: call(y)[0] + 1, x))
    with ThreadPoolExecutor(1) as recorder:
        pictures = [recorder.submit(renderer.render, model.qpos0[None]) for _ in range(30)]
        assert program(jnp.zeros(3)).tolist() == [30, 30, 30]
        assert all(picture.result(timeout=60).shape == (1, 2, SIZE, SIZE, 3) for picture in pictures)
    assert len(found_free) == 60
    assert all(found_free)


def test_pictures_are_made_on_the_gpu_of_the_process(monkeypatch: pytest.MonkeyPatch) -> None:
    """The others of its host may belong to other processes."""
    warp = start_warp()
    monkeypatch.setattr(warp, "is_cuda_available", lambda: True)
    for platform, device in (("gpu", "cuda:3"), ("cpu", "cuda:0")):
        here = SimpleNamespace(platform=platform, local_hardware_id=3)
        monkeypatch.setattr(jax, "local_devices", lambda here=here: [here])
        assert pick_device(None) == device
