"""The models of the two ViperX 300 arms of ALOHA, as they are in the package `gym-aloha` (found, not imported).

Its scenes hold robot, table and objects; they are read as they are. What is needed here of its `constants.py` and
`tasks/sim.py` is repeated below with the names used there.
"""

from pathlib import Path

import mujoco

from imf_jax.sim.assets import asset_folder, require_content

INSTALL = "pip install 'imf_jax[aloha]', or without what it does not need: pip install --no-deps gym-aloha==0.1.3"

SIDES = ("left", "right")

ARM_JOINTS = ("waist", "shoulder", "elbow", "forearm_roll", "wrist_angle", "wrist_rotate")

START_ARM = (0.0, -0.96, 1.16, 0.0, -0.3, 0.0)
"""Joint angles of an arm at the start [rad] (START_ARM_POSE)."""

START_FINGER = 0.02239
"""Position of the left finger of a hand at the start [m] (START_ARM_POSE); the right one has the negative."""

FINGER_OPEN, FINGER_CLOSE = 0.05800, 0.01844
"""Positions of the left finger at gripper 1 and 0 [m] (PUPPET_GRIPPER_POSITION_OPEN, ..._CLOSE)."""

SCENES = ("bimanual_viperx_transfer_cube.xml", "bimanual_viperx_insertion.xml")

_MESHES = (
    "tabletop",
    "vx300s_10_custom_finger_left",
    "vx300s_10_custom_finger_right",
    "vx300s_1_base",
    "vx300s_2_shoulder",
    "vx300s_3_upper_arm",
    "vx300s_4_upper_forearm",
    "vx300s_5_lower_forearm",
    "vx300s_6_wrist",
    "vx300s_7_gripper",
    "vx300s_8_gripper_prop",
    "vx300s_9_gripper_bar",
)

FILES = (
    *SCENES,
    "scene.xml",
    "vx300s_dependencies.xml",
    "vx300s_left.xml",
    "vx300s_right.xml",
    *(f"{name}.stl" for name in _MESHES),
)

SHA256 = "972546b7ad1711ebf0f9b314f024ac04df06f7637084dd914ef3a9171c98fc91"
"""Of the contents of `FILES` in gym-aloha 0.1.3."""


def assets() -> Path:
    """Folder of the models.

    Raises:
        ArgumentError: the package is not installed, or its models have changed.
    """
    folder = asset_folder("gym_aloha", "assets", INSTALL)
    require_content(folder, FILES, SHA256, INSTALL)
    return folder


def load_scene(name: str) -> mujoco.MjSpec:
    """Load one of the `SCENES`, unchanged.

    Raises:
        ArgumentError: see `assets`.
    """
    return mujoco.MjSpec.from_file(str(assets() / name))
