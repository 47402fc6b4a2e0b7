"""Meshes with fewer faces, for pictures only: what a renderer draws, while physics keeps the model that it has.

OpenGL on a CPU spends nearly all of its time on the vertices of meshes, most of which are smaller than a pixel.
"""

from pathlib import Path

import mujoco
import numpy as np

CELL = 0.01
"""Edge of the cubes whose vertices become one [m]: two pixels of cameras beside a table at 256 x 256."""

FEW_FACES = 2000
"""Meshes that have no more faces than this stay as they are."""

LAST_VISIBLE_GROUP = 2
"""Geoms of higher groups are never drawn."""


def decimated_model(model: mujoco.MjModel, spec: mujoco.MjSpec) -> mujoco.MjModel:
    """The same scene with decimated meshes: bodies, joints, cameras and lights are where they are in `model`.

    Args:
        model: the scene.
        spec: of the scene, as it was made and not compiled yet; it is changed.
    """
    for mesh in spec.meshes:
        index = model.mesh(mesh.name or Path(mesh.file).stem).id
        if _drawn(model, index) and model.mesh_facenum[index] > FEW_FACES and model.mesh_texcoordadr[index] < 0:
            vertices, faces = cluster_vertices(*mesh_surface(model, index), CELL)
            # They are those of the compiled mesh: scaled and in place.
            mesh.file, mesh.scale, mesh.refpos, mesh.refquat = "", [1, 1, 1], [0, 0, 0], [1, 0, 0, 0]
            mesh.inertia = mujoco.mjtMeshInertia.mjMESH_INERTIA_SHELL  # the surface need not be closed any more
            mesh.uservert, mesh.userface = vertices.astype(np.float32).ravel(), faces.astype(np.int32).ravel()
    drawn = spec.compile()
    drawn.stat.extent = model.stat.extent  # the unit of clipping distances
    for name in ("body_mass", "body_subtreemass", "body_ipos", "body_iquat"):  # lights may follow a centre of mass
        getattr(drawn, name)[:] = getattr(model, name)
    return drawn


def mesh_surface(model: mujoco.MjModel, index: int) -> tuple[np.ndarray, np.ndarray]:
    """Vertices, float64 (V, 3) [m] in the frame that the geoms of a mesh are given in, and its faces, int (F, 3)."""
    first, count = model.mesh_vertadr[index], model.mesh_vertnum[index]
    rotation = np.empty(9)
    mujoco.mju_quat2Mat(rotation, model.mesh_quat[index])
    vertices = model.mesh_vert[first : first + count] @ rotation.reshape(3, 3).T + model.mesh_pos[index]
    first, count = model.mesh_faceadr[index], model.mesh_facenum[index]
    return vertices, model.mesh_face[first : first + count].copy()


def cluster_vertices(vertices: np.ndarray, faces: np.ndarray, cell: float) -> tuple[np.ndarray, np.ndarray]:
    """Merge the vertices in each cube of a grid into their mean (Rossignac and Borrel 1993).

    Unlike the collapse of edges it also merges parts that only touch, such as screws. No vertex moves further than
    the diagonal of a cube.

    Args:
        vertices: (V, 3) [m].
        faces: int (F, 3).
        cell: edge of the cubes [m].

    Returns:
        fewer vertices, and the faces that still are triangles, each once.
    """
    _, merged = np.unique(np.floor(vertices / cell).astype(np.int64), axis=0, return_inverse=True)
    merged = merged.ravel()
    means = np.stack([np.bincount(merged, column) for column in vertices.T], axis=1) / np.bincount(merged)[:, None]
    corners = merged[faces]
    corners = corners[(corners != np.roll(corners, 1, axis=1)).all(axis=1)]
    # The smallest corner first tells equal faces from the two sides of a thin plate.
    turned = (corners.argmin(axis=1)[:, None] + np.arange(3)) % 3
    corners = np.take_along_axis(corners, turned, axis=1)
    _, first = np.unique(corners, axis=0, return_index=True)
    return means, corners[np.sort(first)]


def _drawn(model: mujoco.MjModel, index: int) -> bool:
    """Whether a visible geom shows the mesh itself."""
    shows = (model.geom_type == mujoco.mjtGeom.mjGEOM_MESH) & (model.geom_dataid == index)
    return bool((shows & (model.geom_group <= LAST_VISIBLE_GROUP)).any())
