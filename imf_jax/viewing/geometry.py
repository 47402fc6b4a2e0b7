"""What is drawn of a scene in 3-D: its visible geoms, fixed to bodies, and where these are at every step."""

import math
from collections.abc import Iterator
from typing import TYPE_CHECKING, NamedTuple

import numpy as np

from imf_jax.sim.rendering.decimation import LAST_VISIBLE_GROUP

if TYPE_CHECKING:
    import mujoco
else:
    from imf_jax.sim import mujoco

PLANE = 2.0
"""Half the edge of a plane without end, as it is drawn [m]."""

PLANE_HEIGHT = 1e-3
"""Half the thickness of a plane, as it is drawn [m]."""

_NO_COLOR = (0.5, 0.5, 0.5, 1.0)
"""Colour of geoms that do not have one of their own; a material counts then."""


class Geom(NamedTuple):
    """A geom that can be seen.

    Attributes:
        number: index in the model.
        body: index of its body.
        kind: "mesh", "box", "sphere", "ellipsoid", "capsule" or "cylinder".
        size: as of MuJoCo: radii, half lengths [m].
        color: uint8 (4,) RGBA.
    """

    number: int
    body: int
    kind: str
    size: np.ndarray
    color: np.ndarray


def visible_geoms(model: mujoco.MjModel) -> Iterator[Geom]:
    """The geoms of a scene that pictures show."""
    for index in np.flatnonzero(model.geom_group <= LAST_VISIBLE_GROUP).tolist():
        kind = mujoco.mjtGeom(int(model.geom_type[index])).name.removeprefix("mjGEOM_").lower()
        size = model.geom_size[index]
        if kind == "plane":
            edges = [edge if edge > 0 else PLANE for edge in size[:2]]
            kind, size = "box", np.array([*edges, PLANE_HEIGHT])
        if kind not in ("mesh", "box", "sphere", "ellipsoid", "capsule", "cylinder"):
            continue  # height fields and signed distance fields, which no scene here has
        yield Geom(index, int(model.geom_bodyid[index]), kind, size, _color(model, index))


def mesh_triangles(model: mujoco.MjModel, mesh: int) -> tuple[np.ndarray, np.ndarray, np.ndarray]:
    """Triangles of a mesh in the frame of its geoms.

    Returns:
        vertices float32 (V, 3) [m], their normals float32 (V, 3), and faces int (F, 3).
    """
    vertices, normals = model.mesh_vertadr[mesh], model.mesh_normaladr[mesh]
    faces = slice(model.mesh_faceadr[mesh], model.mesh_faceadr[mesh] + model.mesh_facenum[mesh])
    # A vertex has another normal on each side of an edge; here both sides get a vertex of their own.
    corners = np.stack([model.mesh_face[faces].ravel(), model.mesh_facenormal[faces].ravel()], axis=1)
    pairs, merged = np.unique(corners, axis=0, return_inverse=True)
    vertex, normal = model.mesh_vert[vertices + pairs[:, 0]], model.mesh_normal[normals + pairs[:, 1]]
    return vertex, normal, merged.reshape(-1, 3)


def body_poses(model: mujoco.MjModel, qpos: np.ndarray) -> np.ndarray:
    """Poses of all bodies, (T, nbody, 7): position [m] and quaternion wxyz in the world frame, from `qpos` (T, nq)."""
    data = mujoco.MjData(model)
    poses = np.empty((len(qpos), model.nbody, 7))
    for step, positions in enumerate(qpos):
        data.qpos[:] = positions
        mujoco.mj_kinematics(model, data)
        poses[step] = np.concatenate([data.xpos, data.xquat], axis=1)
    return poses


def camera_poses(model: mujoco.MjModel, camera: str, qpos: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
    """Positions (T, 3) [m] of a camera of the scene and its axes (T, 3, 3) in the world frame, from `qpos` (T, nq).

    The columns of the axes are the right and the upper side of its picture and the direction towards the viewer.
    """
    data = mujoco.MjData(model)
    seen = data.camera(camera)
    positions, axes = np.empty((len(qpos), 3)), np.empty((len(qpos), 3, 3))
    for step, values in enumerate(qpos):
        data.qpos[:] = values
        mujoco.mj_kinematics(model, data)
        mujoco.mj_comPos(model, data)
        mujoco.mj_camlight(model, data)
        positions[step], axes[step] = seen.xpos, seen.xmat.reshape(3, 3)
    return positions, axes


def focal_length(model: mujoco.MjModel, camera: str, height: int) -> float:
    """Focal length of a camera of the scene whose pictures have `height` [pixels]."""
    return 0.5 * height / math.tan(math.radians(float(model.camera(camera).fovy[0])) / 2)


def _color(model: mujoco.MjModel, index: int) -> np.ndarray:
    rgba, material = model.geom_rgba[index], model.geom_matid[index]
    if material >= 0 and np.allclose(rgba, _NO_COLOR):
        rgba = model.mat_rgba[material]
    return np.round(255 * np.clip(rgba, 0, 1)).astype(np.uint8)
