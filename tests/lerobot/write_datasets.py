"""Write the datasets that `test_lerobot_opens.py` lets LeRobot open, and beside them what LeRobot must find.

Run by `make lerobot-check` in the project's own environment: python tests/lerobot/write_datasets.py FOLDER
"""

import shutil
import sys
from pathlib import Path
from typing import Any

import numpy as np

from imf_jax.data.episodes import Episode, write_episodes
from imf_jax.data.lerobot.export import export_demonstrations
from imf_jax.data.lerobot.features import robot_features
from imf_jax.data.lerobot.writer import LeRobotWriter
from imf_jax.sim.tasks import get_task

LENGTHS = (12, 9, 15)
SPACES = get_task("transfer").robot.spaces
CAMERAS = {"front": (64, 64), "top": (48, 64)}


def pictures(steps: int, height: int, width: int, rng: np.random.Generator) -> np.ndarray:
    """A gradient that moves and brightens, uint8 (T, H, W, 3)."""
    rows, columns = np.mgrid[:height, :width]
    phase = rng.uniform(0, 60)
    frames = [np.stack([rows + 8 * t, columns + phase, 0 * rows + 15 * t], axis=-1) for t in range(steps)]
    return np.clip(np.stack(frames), 0, 255).astype(np.uint8)


def episode(number: int, steps: int) -> Episode:
    """A demonstration of noise, with two cameras."""
    rng = np.random.default_rng(number)
    return Episode(
        action=rng.normal(size=(steps, 16)).astype(np.float32),
        state=rng.normal(size=(steps, 16)).astype(np.float32),
        env_state=rng.normal(size=(steps, 7)).astype(np.float32),
        reward=np.arange(steps, dtype=np.float32),
        noise=np.zeros((steps, 16), np.float32),
        seed=5,
        episode=number,
        task=("transfer", "insert")[number % 2],
        control_hz=50.0,
        success=number != 1,
        spaces=SPACES,
        images={camera: pictures(steps, *size, rng) for camera, size in CAMERAS.items()},
    )


def frames(demonstration: Episode) -> list[dict[str, Any]]:
    """The frames of a recording."""
    return [
        {
            "observation.state": demonstration.state[t],
            "action": demonstration.action[t],
            "observation.environment_state": demonstration.env_state[t],
            "next.reward": demonstration.reward[t],
            "intervention": False,
            **{f"observation.images.{camera}": images[t] for camera, images in demonstration.images.items()},
        }
        for t in range(len(demonstration))
    ]


def main() -> None:
    folder = Path(sys.argv[1])
    episodes = [episode(number, steps) for number, steps in enumerate(LENGTHS)]
    write_episodes(folder / "demos", episodes)
    export_demonstrations(folder / "demos", folder / "export")
    features = robot_features(SPACES, CAMERAS, 7)
    for number, demonstration in enumerate(episodes):  # a recording that is resumed twice
        resumed = folder / "rollout_resumed"
        if number == 0:
            writer = LeRobotWriter.create(resumed, features, 50, robot_type=SPACES.name)
        else:
            writer = LeRobotWriter.resume(resumed, features, 50)
        with writer:
            constants = {"success": demonstration.success, "seed": 5, "scene": number}
            writer.add_episode(demonstration.task, frames(demonstration), constants)
        if number == 1:
            two_episodes = (folder / "rollout_resumed/meta/info.json").read_text()
    LeRobotWriter.resume(folder / "rollout_resumed", features, 50).open_episode("transfer").add(frames(episodes[0])[0])
    for name in ("rollout_uncounted", "rollout_orphan"):  # as two kills while the third episode was saved leave them
        shutil.copytree(folder / "rollout_resumed", folder / name)
        (folder / name / "meta/info.json").write_text(two_episodes)
    (folder / "rollout_orphan/meta/episodes/chunk-000/file-002.parquet").unlink()
    expected = {
        "action": np.concatenate([e.action for e in episodes]),
        "observation.state": np.concatenate([e.state for e in episodes]),
        "observation.environment_state": np.concatenate([e.env_state for e in episodes]),
        "next.reward": np.concatenate([e.reward for e in episodes]),
        "success": np.concatenate([np.full(len(e), e.success) for e in episodes]),
        "scene": np.concatenate([np.full(len(e), e.episode) for e in episodes]),
        "task": np.concatenate([np.full(len(e), e.task) for e in episodes]),
        "timestamp": np.concatenate([np.arange(len(e)) / 50 for e in episodes]),
    }
    for camera in CAMERAS:
        expected[f"observation.images.{camera}"] = np.concatenate([e.images[camera] for e in episodes])
    np.savez(folder / "expected.npz", **expected)


if __name__ == "__main__":
    main()
