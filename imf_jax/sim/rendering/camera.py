"""Cameras by name, and the pinhole projection that the pictures follow."""

from dataclasses import dataclass

import mujoco
import numpy as np

from imf_jax.errors import ArgumentError


def camera_names(model: mujoco.MjModel) -> tuple[str, ...]:
    """Names of all cameras of `model`, in model order."""
    return tuple(model.camera(index).name for index in range(model.ncam))


def camera_ids(model: mujoco.MjModel, names: tuple[str, ...]) -> tuple[int, ...]:
    """Model indices of the cameras called `names`.

    Raises:
        ArgumentError: no name is given, or a name is not a camera of the model.
    """
    known = camera_names(model)
    if not names:
        raise ArgumentError(f"no camera named; the scene has: {', '.join(known)}")
    for name in names:
        if name not in known:
            raise ArgumentError(f"camera {name!r} is not in the scene; choose from: {', '.join(known)}")
    return tuple(known.index(name) for name in names)


@dataclass(frozen=True)
class CameraView:
    """Pinhole camera at one moment; it projects world points onto pixels.

    The camera frame is MuJoCo's: x right, y up, looking along -z. Image coordinates (u right, v down) are
    continuous, in pixels, with (0, 0) at the top left corner of the picture, so that the pixel of row r and
    column c has its centre at (c + 0.5, r + 0.5).

    Attributes:
        height, width: picture size [pixels].
        focal: focal length [pixels], the same in both directions.
        position: float64 (3,) centre of projection, world frame [m].
        rotation: float64 (3, 3) columns are the camera's axes in the world frame.
    """

    height: int
    width: int
    focal: float
    position: np.ndarray
    rotation: np.ndarray

    def project(self, points: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
        """Image coordinates and depth of world points.

        Args:
            points: (..., 3) world positions [m].

        Returns:
            uv: float64 (..., 2) image coordinates [pixels]; NaN for points that are not in front of the camera.
            depth: float64 (...) distance along the optical axis [m], negative behind the camera. It is what
                `WarpRenderer.render_with_depth` measures.
        """
        local = (np.asarray(points, dtype=np.float64) - self.position) @ self.rotation
        depth = -local[..., 2]
        in_front = np.where(depth > 0, depth, np.nan)
        uv = np.stack(
            [
                self.width / 2 + self.focal * local[..., 0] / in_front,
                self.height / 2 - self.focal * local[..., 1] / in_front,
            ],
            axis=-1,
        )
        return uv, depth

    def resized(self, height: int) -> "CameraView":
        """The same view on a picture of another height [pixels], aspect kept."""
        scale = height / self.height
        return CameraView(height, round(self.width * scale), self.focal * scale, self.position, self.rotation)


def camera_view(model: mujoco.MjModel, qpos: np.ndarray, name: str, height: int, width: int) -> CameraView:
    """View of camera `name` with the model at `qpos`.

    The focal length follows from the camera's vertical field of view: `height / 2 / tan(fovy / 2)`.

    Args:
        model: of the scene.
        qpos: float64 (nq,) generalised positions.
        name: of the camera.
        height: of the picture [pixels].
        width: of the picture [pixels].

    Raises:
        ArgumentError: the camera is not in the model.
        ValueError: the camera is orthographic or defined by a sensor size instead of a field of view.
    """
    (index,) = camera_ids(model, (name,))
    if model.cam_projection[index] != mujoco.mjtProjection.mjPROJ_PERSPECTIVE or model.cam_sensorsize[index].any():
        raise ValueError(f"camera {name!r} must be a perspective camera with a field of view (fovy)")
    data = mujoco.MjData(model)
    set_poses(model, data, qpos)
    focal = height / 2 / np.tan(np.deg2rad(model.cam_fovy[index]) / 2)
    return CameraView(
        height, width, float(focal), data.cam_xpos[index].copy(), data.cam_xmat[index].reshape(3, 3).copy()
    )


def set_poses(model: mujoco.MjModel, data: mujoco.MjData, qpos: np.ndarray) -> None:
    """Put every geom, camera and light of `data` where the generalised positions `qpos` (nq,) say. No dynamics."""
    data.qpos[:] = qpos
    mujoco.mj_kinematics(model, data)
    mujoco.mj_comPos(model, data)  # cameras and lights may track a centre of mass
    mujoco.mj_camlight(model, data)
