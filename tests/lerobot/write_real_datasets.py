"""Let LeRobot itself write datasets, and say what it reads from them, frame by frame.

Run by `make lerobot-check` in an environment that has lerobot and torch: python write_real_datasets.py FOLDER
"""

import sys
from pathlib import Path

import numpy as np
from lerobot.datasets.lerobot_dataset import LeRobotDataset

LENGTHS = (7, 12, 9, 5)
TASKS = ("pick the cube", "push the cube")
HEIGHT, WIDTH, FPS = 48, 64, 30
JOINTS = [f"joint{i}.pos" for i in range(6)]


def frame(episode: int, step: int) -> dict:
    rows, columns = np.mgrid[:HEIGHT, :WIDTH]
    picture = np.stack([(4 * rows + 8 * step) % 256, (3 * columns + 40 * episode) % 256, 0 * rows + 15 * step], -1)
    random = np.random.default_rng(100 * episode + step)
    return {
        "observation.state": random.normal(size=6).astype(np.float32),
        "action": random.normal(size=6).astype(np.float32),
        "observation.images.camera": picture.astype(np.uint8),
        "task": TASKS[episode % 2],
    }


def write(folder: Path, use_videos: bool) -> LeRobotDataset:
    camera = {"dtype": "video" if use_videos else "image", "shape": (HEIGHT, WIDTH, 3)}
    features = {
        "observation.state": {"dtype": "float32", "shape": (6,), "names": JOINTS},
        "action": {"dtype": "float32", "shape": (6,), "names": JOINTS},
        "observation.images.camera": {**camera, "names": ["height", "width", "channels"]},
    }
    dataset = LeRobotDataset.create("local/real", FPS, features, root=folder, robot_type="so100", use_videos=use_videos)
    for episode, length in enumerate(LENGTHS):
        for step in range(length):
            dataset.add_frame(frame(episode, step))
        dataset.save_episode()
    dataset.finalize()
    return LeRobotDataset("local/real", root=folder, video_backend="pyav")


def main() -> None:
    for name in ("video", "image"):
        folder = Path(sys.argv[1]) / f"real_{name}"
        dataset = write(folder, use_videos=name == "video")
        frames = [dataset[index] for index in range(len(dataset))]
        keys = ("observation.state", "action", "observation.images.camera", "timestamp", "episode_index", "task_index")
        np.savez(
            folder.with_suffix(".npz"),
            task=np.array([item["task"] for item in frames]),
            **{key: np.stack([item[key].numpy() for item in frames]) for key in keys},
        )


if __name__ == "__main__":
    main()
