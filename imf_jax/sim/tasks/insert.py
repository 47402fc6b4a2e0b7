"""Insert: the left arm takes a square ring, the right arm a bar, and the bar goes through the ring in the air."""

from types import ModuleType
from typing import NamedTuple

import jax
import jax.numpy as jnp
import mujoco
import numpy as np

from imf_jax import seeds
from imf_jax.sim.arrays import Array, array_module
from imf_jax.sim.quaternions import conjugate, rotate
from imf_jax.sim.tasks.base import ObjectGeoms, TableTask, TaskObservation, TaskResult, highest_stage

RING_OUTER = 0.068
APERTURE = 0.032
RING_THICKNESS = 0.018
"""Ring [m]: outer width, width of its square hole, thickness along the hole's axis, which is y of the ring."""

BAR_HALF_SIZE = (0.012, 0.06, 0.012)
"""Half extents of the bar [m]; its long axis is y of the bar. Ours."""

RING_MASS, BAR_MASS = 0.04, 0.045  # as of wood [kg]

START_X = (0.38, 0.50)
RING_START_Y = (0.16, 0.32)
BAR_START_Y = (-0.32, -0.16)
"""Start of the ring (left) and of the bar (right) on the table [m], uniform and independent. The ring stands upright;
the hole's axis and the bar are along y of the world."""

LIFT_HEIGHT = 0.03
"""An object is lifted when its lowest point is this high above the table [m]."""

DEPTH = 0.03
"""Length by which the bar must stand out beyond both faces of the ring [m]."""

TOLERANCE = 0.001
"""Walls count as crossed when an edge of the bar is this far inside one [m]; contacts are slightly soft."""

HOLD_STEPS = 10
"""Control steps for which the bar must stay inserted, both objects held, for success (0.2 s)."""

WORKSPACE = ((-0.15, 0.95), (-0.8, 0.8))
"""Outside this part of the table (x, y) [m] an object is lost."""

_SIDES = np.array([[1, 1], [1, -1], [-1, 1], [-1, -1]], np.float32)  # signs of (x, z) of the four edges of a bar


class Insertion(NamedTuple):
    """Geometry of a bar and a ring, (B,) each [m].

    Attributes:
        clearance: smallest distance between the bar's four long edges, prolonged, and the walls of the aperture, at
            both faces of the ring; negative if the bar would cross a wall. Between the faces the edges are straight and
            the aperture is convex, so it is the smallest distance there, too.
        depth: length by which the bar, of finite length, stands out beyond both faces, the smaller of the two; negative
            if an end of the bar has not passed the face.
    """

    clearance: Array
    depth: Array


def insertion(ring: Array, bar: Array) -> Insertion:
    """Measure how far a bar is through a ring.

    Args:
        ring: (B, 7) pose of the ring, position [m] and quaternion wxyz; the hole's axis is its y axis.
        bar: (B, 7) pose of the bar, whose long axis is its y axis; either end may lead.
    """
    xp = array_module(ring)
    to_ring = conjugate(ring[:, 3:])
    center = rotate(to_ring, bar[:, :3] - ring[:, :3])

    def in_ring(axis_of_bar: int) -> Array:
        unit = xp.eye(3, dtype=np.float32)[axis_of_bar]
        return rotate(to_ring, rotate(bar[:, 3:], xp.broadcast_to(unit, (len(bar), 3))))

    x_axis, axis, z_axis = in_ring(0), in_ring(1), in_ring(2)
    axis = xp.where(axis[:, 1:2] < 0, -axis, axis)
    across = x_axis[:, None] * (BAR_HALF_SIZE[0] * _SIDES[:, :1]) + z_axis[:, None] * (BAR_HALF_SIZE[2] * _SIDES[:, 1:])
    middle = center[:, None] + across  # (B, 4, 3) midpoints of the long edges
    # A bar that lies across the ring has no crossing with the faces: it ends up far outside the aperture.
    along = xp.maximum(axis[:, 1], 1e-3)[:, None]
    walls = []
    for face in (-0.5 * RING_THICKNESS, 0.5 * RING_THICKNESS):
        crossing = middle + ((face - middle[..., 1]) / along)[..., None] * axis[:, None]
        walls.append(0.5 * APERTURE - xp.abs(crossing[..., [0, 2]]).max(axis=(1, 2)))
    reach = BAR_HALF_SIZE[1] * axis[:, 1] - 0.5 * RING_THICKNESS
    depth = xp.minimum(reach + middle[..., 1].min(axis=1), reach - middle[..., 1].max(axis=1))
    return Insertion(xp.minimum(*walls), depth)


def lowest_point(pose: Array, half_size: tuple[float, float, float]) -> Array:
    """Height (B,) [m] of the lowest corner of boxes with half extents `half_size` [m] at `pose` (B, 7)."""
    xp = array_module(pose)
    down = rotate(conjugate(pose[:, 3:]), xp.broadcast_to(xp.array([0.0, 0.0, 1.0], xp.float32), (len(pose), 3)))
    return pose[:, 2] - (xp.abs(down) * np.array(half_size, np.float32)).sum(axis=-1)


class InsertProgress(NamedTuple):
    """Control steps in a row, (B,), for which the bar has been inserted."""

    held: Array


class Insert(TableTask):
    """Staged reward per control step.

    1 ring touched by the left hand and bar by the right, 2 both lifted and held, 3 the bar points through the aperture,
    4 it stands out by `DEPTH` on both sides.
    """

    name = "insert"
    max_steps = 700
    objects: tuple[str, ...] = ("ring_block", "bar_block")
    stages: tuple[str, ...] = ("touch", "lift", "align", "insert")
    env_state_dim = 28
    other_poses = ("left_hand", "right_hand")
    contact_slots, constraint_rows = 48, 256  # under noise the expert needs at most 37 and 216
    position_noise, yaw_noise = 0.006, 0.03
    measures_sizes = True
    expert = "imf_jax.sim.experts.insert:InsertExpert"

    def add_objects(self, spec: mujoco.MjSpec) -> ObjectGeoms:
        """Add the ring, made of four boxes, and the bar; see `Task`."""
        wall = (RING_OUTER - APERTURE) / 4  # half width of a wall
        off, depth, inner = APERTURE / 2 + wall, RING_THICKNESS / 2, APERTURE / 2
        # The sides reach to the top and only the bottom wall meets the table: few contacts when held and when standing.
        ring_walls = {
            "bottom": ((0.0, 0.0, -off), (RING_OUTER / 2, depth, wall)),
            "top": ((0.0, 0.0, off), (inner, depth, wall)),
            "right": ((off, 0.0, wall), (wall, depth, inner + wall)),
            "left": ((-off, 0.0, wall), (wall, depth, inner + wall)),
        }
        ring = spec.worldbody.add_body(name="ring_block", pos=[0.45, 0.25, RING_OUTER / 2])
        ring.add_freejoint(name="ring_block_joint")
        for name, (position, size) in ring_walls.items():
            _add_box(ring, f"ring_block_{name}", position, size, RING_MASS / 4, (0.20, 0.75, 0.60, 1.0))
        bar = spec.worldbody.add_body(name="bar_block", pos=[0.45, -0.25, BAR_HALF_SIZE[2]])
        bar.add_freejoint(name="bar_block_joint")
        _add_box(bar, "bar_block", (0.0, 0.0, 0.0), BAR_HALF_SIZE, BAR_MASS, (0.98, 0.78, 0.10, 1.0))
        return {"ring_block": tuple(f"ring_block_{name}" for name in ring_walls), "bar_block": ("bar_block",)}

    def sample(self, key: jax.Array) -> jax.Array:
        """Initial poses of ring and bar, float32 (2, 7): unrotated at random places of their regions."""
        low = jnp.array([[START_X[0], RING_START_Y[0]], [START_X[0], BAR_START_Y[0]]], jnp.float32)
        high = jnp.array([[START_X[1], RING_START_Y[1]], [START_X[1], BAR_START_Y[1]]], jnp.float32)
        height = jnp.array([[RING_OUTER / 2], [BAR_HALF_SIZE[2]]], jnp.float32)
        upright = jnp.tile(jnp.array([[1.0, 0.0, 0.0, 0.0]], jnp.float32), (2, 1))
        return jnp.concatenate([seeds.uniform(key, (2, 2), low, high), height, upright], axis=-1)

    def start(self, batch: int, xp: ModuleType) -> InsertProgress:
        """Progress of `batch` fresh scenes: nothing has been inserted yet."""
        return InsertProgress(held=xp.zeros(batch, xp.int32))

    def env_state(self, observation: TaskObservation, hands: Array) -> Array:
        """Poses of ring and bar, then of both hands.

        How an object lies in its hand decides, and the state of the robot, joint angles, says that through the
        kinematics of the arms only.
        """
        poses = array_module(hands).concatenate([observation.objects, hands], axis=1)
        return poses.reshape(poses.shape[0], -1)

    def evaluate(self, progress: InsertProgress, observation: TaskObservation) -> tuple[InsertProgress, TaskResult]:
        """Stage, reward, success and failure after one control step.

        Success: the bar has been inserted for `HOLD_STEPS`. Failure: an object has left `WORKSPACE`.
        """
        xp = array_module(observation.objects)
        ring, bar = observation.objects[:, 0], observation.objects[:, 1]
        by_left, by_right = observation.touch[:, 0, 0], observation.touch[:, 1, 1]
        touched = by_left.any(-1) & by_right.any(-1)
        ring_half_size = (RING_OUTER / 2, RING_THICKNESS / 2, RING_OUTER / 2)
        lowest = xp.minimum(lowest_point(ring, ring_half_size), lowest_point(bar, BAR_HALF_SIZE))
        lifted = by_left.all(-1) & by_right.all(-1) & (lowest > LIFT_HEIGHT)
        measured = insertion(ring, bar)
        aligned = lifted & (measured.clearance > -TOLERANCE)
        holds = [touched, lifted, aligned, aligned & (measured.depth > DEPTH)]
        stage = highest_stage(holds)
        held = xp.where(stage == len(holds), progress.held + 1, 0).astype(xp.int32)
        (x_low, x_high), (y_low, y_high) = WORKSPACE
        x, y = observation.objects[..., 0], observation.objects[..., 1]
        lost = ((x < x_low) | (x > x_high) | (y < y_low) | (y > y_high)).any(-1)
        success = held >= HOLD_STEPS
        return InsertProgress(held), TaskResult(stage.astype(xp.float32), stage, success, lost & ~success)


def _add_box(
    body: mujoco.MjsBody,
    name: str,
    position: tuple[float, float, float],
    half_size: tuple[float, float, float],
    mass: float,
    rgba: tuple[float, float, float, float],
) -> None:
    body.add_geom(
        name=name,
        type=mujoco.mjtGeom.mjGEOM_BOX,
        pos=list(position),
        size=list(half_size),
        mass=mass,
        rgba=list(rgba),
        contype=0,
        conaffinity=0,
    )
