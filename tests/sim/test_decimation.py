"""Decimated meshes: fewer faces in pictures that look alike, and physics that knows nothing of them."""

import jax
import jax.numpy as jnp
import mujoco
import numpy as np
import pytest

from imf_jax.config import PictureStyle
from imf_jax.sim.backends.choice import make_backend
from imf_jax.sim.backends.task_scene import TaskScene
from imf_jax.sim.rendering.camera import set_poses
from imf_jax.sim.rendering.decimation import CELL, FEW_FACES, cluster_vertices, decimated_model, mesh_surface
from imf_jax.sim.rendering.warp_renderer import WarpRenderer

CUBE = """
<mujoco>
  <asset>
    <mesh name="placed" builtin="sphere" params="4" scale=".1 .2 .3" refpos=".3 -.2 .1" refquat="1 1 0 0"/>
  </asset>
  <worldbody><body pos="1 2 3" euler="10 20 30"><freejoint/><geom type="mesh" mesh="placed"/></body></worldbody>
</mujoco>
"""


@pytest.fixture(scope="module")
def scene() -> TaskScene:
    return TaskScene("transfer", "decimated")


def world_vertices(model: mujoco.MjModel, geom: int) -> np.ndarray:
    data = mujoco.MjData(model)
    set_poses(model, data, model.qpos0)
    first = model.mesh_vertadr[model.geom_dataid[geom]]
    local = model.mesh_vert[first : first + model.mesh_vertnum[model.geom_dataid[geom]]]
    return local @ data.geom_xmat[geom].reshape(3, 3).T + data.geom_xpos[geom]


def test_meshes_have_few_faces_and_stay_where_they_are(scene: TaskScene) -> None:
    drawn, model = scene.drawn_model, scene.model
    assert model.mesh_facenum.sum() > 100_000
    assert drawn.mesh_facenum.max() <= FEW_FACES
    for geom in np.flatnonzero(model.geom_type == mujoco.mjtGeom.mjGEOM_MESH):
        whole, fewer = world_vertices(model, geom), world_vertices(drawn, geom)
        np.testing.assert_allclose(fewer.min(axis=0), whole.min(axis=0), atol=CELL)
        np.testing.assert_allclose(fewer.max(axis=0), whole.max(axis=0), atol=CELL)


def test_a_mesh_that_is_scaled_and_placed_stays_there() -> None:
    model = mujoco.MjModel.from_xml_string(CUBE)
    assert model.mesh_facenum[0] > FEW_FACES
    drawn = decimated_model(model, mujoco.MjSpec.from_string(CUBE))
    assert drawn.mesh_facenum[0] < model.mesh_facenum[0]
    whole, fewer = world_vertices(model, 0), world_vertices(drawn, 0)
    np.testing.assert_allclose(fewer.min(axis=0), whole.min(axis=0), atol=CELL)
    np.testing.assert_allclose(fewer.max(axis=0), whole.max(axis=0), atol=CELL)


def test_physics_is_that_of_the_whole_meshes(scene: TaskScene) -> None:
    whole = TaskScene("transfer")
    for name in ("geom_pos", "geom_aabb", "mesh_vert", "body_inertia", "geom_rbound"):
        np.testing.assert_array_equal(getattr(scene.model, name), getattr(whole.model, name))
    assert whole.drawn_model is whole.model


def test_pictures_stay_close(scene: TaskScene) -> None:
    cameras, qpos = scene.task.cameras, scene.model.qpos0[None]
    pictures = [WarpRenderer(model, cameras, 64, 64).render(qpos) for model in (scene.model, scene.drawn_model)]
    difference = np.abs(pictures[0].astype(int) - pictures[1]).mean(axis=(0, 2, 3, 4))
    assert (difference <= 2).all()
    assert difference.max() > 0


def test_vertices_of_a_cell_become_their_mean() -> None:
    vertices = np.array([[0.001, 0, 0], [0.003, 0, 0], [0.05, 0, 0], [0, 0.05, 0]])
    faces = np.array([[0, 2, 3], [3, 1, 2], [0, 3, 2], [0, 1, 2]])
    fewer, kept = cluster_vertices(vertices, faces, 0.01)
    assert len(fewer) == 3
    assert np.abs(fewer - [0.002, 0, 0]).sum(axis=1).min() < 1e-12
    # The first two are the same face now, the third is its other side, and the last one is a line.
    assert len(kept) == 2
    normals = [np.cross(*np.diff(fewer[face], axis=0))[2] for face in kept]
    assert min(normals) < 0 < max(normals)


def test_the_program_of_warp_draws_them_too() -> None:
    pictures = {}
    for name in ("native", "warp"):
        backend = make_backend(name, "transfer", image_size=64, renderer="warp", visual="decimated")
        if name == "native":
            _, output = backend.reset(jax.random.split(jax.random.key(0), 2))
            qpos = jnp.asarray(output.qpos)
            pictures[name] = backend.render(output.qpos, ("top", "front"))
        else:
            constants = backend.constants(2)
            draw = jax.jit(lambda constants, qpos, backend=backend: backend.pictures(
                constants, backend.allocate(constants, 2), qpos, ("top", "front")
            ))  # fmt: skip
            pictures[name] = np.asarray(draw(constants, qpos))
    difference = np.abs(pictures["warp"].astype(int) - pictures["native"])
    # Meshes at the places of those that are not decimated would be seen as a different robot.
    assert (difference > 2).mean() < 0.002
    assert pictures["native"].std() > 10


def test_a_style_in_words() -> None:
    assert str(PictureStyle()) == "warp"
    assert str(PictureStyle("opengl", "decimated")) == "opengl with decimated meshes"


def test_the_surface_of_a_mesh_is_that_of_its_file() -> None:
    model = mujoco.MjModel.from_xml_string(CUBE)
    vertices, faces = mesh_surface(model, 0)
    assert vertices.shape == (model.mesh_vertnum[0], 3)
    assert faces.max() == len(vertices) - 1
