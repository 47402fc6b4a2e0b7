"""The compiled scene: what is in it, and that the MJX implementations take it."""

import warnings

import mujoco
import numpy as np
import pytest
from mujoco import mjx

from imf_jax.sim import scene as scenes
from imf_jax.sim.scene import CAMERAS, READY, SIDES, TORQUE_LIMIT, Scene, build_scene
from imf_jax.sim.tasks import get_task

HOME = np.array([0.0, -np.pi / 4, 0.0, np.pi / 2, 0.0, np.pi / 4, 0.0])


@pytest.fixture(scope="module")
def scene() -> Scene:
    return build_scene(get_task("transfer").add_objects, "primitive")


def test_home_puts_link7_where_the_maker_says(scene: Scene) -> None:
    data = mujoco.MjData(scene.model)
    data.qpos[scene.index.arm_qpos] = np.tile(HOME, 2)
    mujoco.mj_kinematics(scene.model, data)
    for side, body in zip(SIDES, scene.index.link7_body, strict=True):
        base = np.array([0.0, scenes.BASE_Y[side], 0.0])
        np.testing.assert_allclose(data.xpos[body] - base, [0.836, 0.005, 0.369], atol=1e-3)


def test_arms_keep_the_masses_and_limits_of_the_maker(scene: Scene) -> None:
    model = scene.model
    masses = [2.727, 3.182, 3.936, 1.585, 1.927, 1.730]
    for side in SIDES:
        np.testing.assert_allclose([model.body(f"{side}_link{i + 1}").mass[0] for i in range(6)], masses, atol=1e-3)
        np.testing.assert_allclose(model.joint(f"{side}_j4").range, [0.0, 3.05])
    np.testing.assert_allclose(model.actuator_forcerange[scene.index.arm_ctrl], [[-TORQUE_LIMIT, TORQUE_LIMIT]] * 14)


def test_cameras_are_named_and_complete(scene: Scene) -> None:
    assert {scene.model.camera(i).name for i in range(scene.model.ncam)} == set(CAMERAS)


def test_only_listed_pairs_of_simple_shapes_collide(scene: Scene) -> None:
    model = scene.model
    assert not model.geom_contype.any()
    assert not model.geom_conaffinity.any()
    simple = {mujoco.mjtGeom.mjGEOM_CAPSULE, mujoco.mjtGeom.mjGEOM_BOX, mujoco.mjtGeom.mjGEOM_PLANE}
    paired = np.concatenate([model.pair_geom1, model.pair_geom2])
    assert {mujoco.mjtGeom(kind) for kind in model.geom_type[paired]} <= simple


@pytest.mark.parametrize("visual", ["mesh", "primitive"])
def test_the_look_does_not_change_the_physics(scene: Scene, visual: scenes.Visual) -> None:
    model = build_scene(get_task("transfer").add_objects, visual).model
    np.testing.assert_array_equal(model.body_mass, scene.model.body_mass)
    np.testing.assert_array_equal(model.body_inertia, scene.model.body_inertia)
    assert bool(model.nmesh) == (visual == "mesh")


def test_arms_stand_still_and_the_box_rests(scene: Scene) -> None:
    model, index = scene.model, scene.index
    data = mujoco.MjData(model)
    data.qpos[index.arm_qpos] = data.ctrl[index.arm_ctrl] = np.tile(READY, 2)
    box = index.object_qpos["box"]
    start = data.qpos[box : box + 7].copy()
    for _ in range(250):
        mujoco.mj_step(model, data)
    np.testing.assert_allclose(data.qpos[index.arm_qpos], np.tile(READY, 2), atol=1e-3)
    np.testing.assert_allclose(data.qpos[box : box + 7], start, atol=1e-3)


@pytest.mark.parametrize("implementation", ["jax", "warp"])
def test_mjx_takes_the_scene_without_a_warning(scene: Scene, implementation: str) -> None:
    with warnings.catch_warnings():
        warnings.simplefilter("error")
        model = mjx.put_model(scene.model, impl=implementation)
        data = mjx.make_data(scene.model, impl=implementation)
    assert model.nq == scene.model.nq
    assert data.qpos.shape == (scene.model.nq,)
