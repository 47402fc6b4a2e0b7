"""A LeRobot dataset of a robot of six joints with one camera, whose pictures say where the joints have to go."""

from pathlib import Path

import numpy as np

from imf_jax.data.lerobot.features import Feature, picture_feature
from imf_jax.data.lerobot.writer import LeRobotWriter

JOINTS = tuple(f"{name}.pos" for name in ("pan", "lift", "elbow", "wrist", "roll", "gripper"))
HEIGHT, WIDTH, STEPS, EPISODES = 48, 64, 24, 120


def target(goal: np.ndarray) -> np.ndarray:
    """Joint angles (6,) for a goal (2,) in -1..1."""
    u, v = goal
    return np.array([u, v, u - v, 0.5 * u, -0.5 * v, 0.3])


def picture(goal: np.ndarray) -> np.ndarray:
    """What its camera sees, uint8 (H, W, 3): a bright disc at the goal, in the middle square."""
    rows, columns = np.mgrid[:HEIGHT, :WIDTH]
    row, column = HEIGHT / 2 + 18 * goal[1], WIDTH / 2 + 18 * goal[0]
    seen = np.full((HEIGHT, WIDTH, 3), 40, np.uint8)
    seen[(rows - row) ** 2 + (columns - column) ** 2 < 25] = (250, 200, 60)
    return seen


def episode(number: int) -> tuple[np.ndarray, list[dict[str, np.ndarray]]]:
    """The goal (2,) of an episode, and its steps: joints that approach their target."""
    random = np.random.default_rng(number)
    goal, joints = random.uniform(-1, 1, 2), random.normal(0, 0.2, 6)
    steps = []
    for _ in range(STEPS):
        action = joints + 0.2 * (target(goal) - joints)
        steps.append({"observation.state": joints, "action": action, "observation.images.wrist": picture(goal)})
        joints = action
    return goal, steps


def write_dataset(folder: Path) -> None:
    """Write the dataset."""
    features = {
        "observation.state": Feature("float32", (6,), JOINTS),
        "action": Feature("float32", (6,), JOINTS),
        "observation.images.wrist": picture_feature(HEIGHT, WIDTH),
    }
    with LeRobotWriter.create(folder, features, 30, robot_type="so100") as writer:
        for number in range(EPISODES):
            writer.add_episode("reach the light", episode(number)[1])


def write_expected(path: Path, episodes: int = 10) -> None:
    """Write first observations of episodes that the dataset does not have, and their actions (episodes, STEPS, 6)."""
    unseen = [episode(EPISODES + number)[1] for number in range(episodes)]
    np.savez(
        path,
        state=np.stack([steps[0]["observation.state"] for steps in unseen]).astype(np.float32),
        wrist=np.stack([steps[0]["observation.images.wrist"] for steps in unseen]),
        actions=np.stack([[step["action"] for step in steps] for steps in unseen]),
    )
