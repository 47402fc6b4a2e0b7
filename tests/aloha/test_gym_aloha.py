"""The real gym-aloha moves and rewards as this package does, given the same actions from the same object poses.

Run by `make aloha-check` in an environment that has gym-aloha (with dm-control) but not this package; the variable
ALOHA_ROLLOUTS names the folder that `write_rollouts.py` made.
"""

import importlib.metadata
import os
from pathlib import Path

import numpy as np
import pytest

os.environ.setdefault("MUJOCO_GL", "disable")
pytest.importorskip("gym_aloha", reason="needs the package gym-aloha; run make aloha-check")
from dm_control import mujoco
from dm_control.rl import control
from gym_aloha.constants import ASSETS_DIR, DT
from gym_aloha.tasks import sim

FOLDER = Path(os.environ.get("ALOHA_ROLLOUTS", "."))
JOINTS = [*range(6), *range(7, 13)]
GRIPPERS = [6, 13]

TASKS = {
    "aloha-transfer": ("bimanual_viperx_transfer_cube.xml", sim.TransferCubeTask),
    "aloha-insertion": ("bimanual_viperx_insertion.xml", sim.InsertionTask),
}


def make_environment(scene: str, kind: type) -> control.Environment:
    """As `gym_aloha.env.AlohaEnv` makes it, but without pictures, which need OpenGL."""
    task = kind()
    task.get_observation = lambda physics: {"qpos": task.get_qpos(physics)}
    physics = mujoco.Physics.from_xml_path(str(ASSETS_DIR / scene))
    return control.Environment(physics, task, float("inf"), control_timestep=DT, n_sub_steps=None)


def robot_touches(physics: mujoco.Physics) -> bool:
    """Whether a part of the robot touches anything."""
    names = [
        [physics.model.id2name(geom, "geom") for geom in (contact.geom1, contact.geom2)]
        for contact in physics.data.contact
    ]
    return any(name.startswith("vx300s") for pair in names for name in pair)


@pytest.mark.parametrize("name", TASKS)
def test_same_motion_and_same_rewards(name, capsys):
    rollouts = np.load(FOLDER / f"{name}.npz")
    environment = make_environment(*TASKS[name])
    steps, episodes = rollouts["rewards"].shape
    agree, largest, compared, best = 0, 0.0, 0, []
    for episode in range(episodes):
        sim.BOX_POSE[0] = rollouts["objects"][episode]
        environment.reset()
        touched, rewards = False, []
        for step in range(steps):
            moment = environment.step(rollouts["actions"][step, episode])
            expected = rollouts["states"][step, episode]
            touched = touched or robot_touches(environment.physics)
            if not touched:
                apart = np.abs(moment.observation["qpos"] - expected)
                largest, compared = max(largest, apart[JOINTS].max()), compared + 1
                assert apart[JOINTS].max() < 1e-3
                assert apart[GRIPPERS].max() < 1e-3
            rewards.append(moment.reward)
        agree += int((np.array(rewards) == rollouts["rewards"][:, episode]).sum())
        best.append((max(rewards), rollouts["rewards"][:, episode].max()))
    with capsys.disabled():
        versions = ", ".join(f"{p} {importlib.metadata.version(p)}" for p in ("gym-aloha", "dm-control", "mujoco"))
        print(
            f"\n{versions}: {name}: largest difference of a joint before a contact {largest:.1e} rad over {compared} "
            f"steps, rewards equal in {100 * agree / (steps * episodes):.2f} % of {steps * episodes} steps, "
            f"highest reward here and there {best}"
        )
    assert compared > 20 * episodes  # it says something
    assert max(ours for _, ours in best) == 4  # contacts of every stage were compared
    assert agree >= 0.97 * steps * episodes
