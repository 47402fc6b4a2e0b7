"""Small datasets of every format that can be read; pictures brighten by `BRIGHTER` per step."""

import io
import json
from pathlib import Path

import h5py
import numpy as np
from PIL import Image

STEPS, HEIGHT, WIDTH, BRIGHTER = 9, 32, 48, 20


def pictures(number: int, height: int = HEIGHT, width: int = WIDTH) -> np.ndarray:
    bright = (BRIGHTER * np.arange(STEPS) + number).reshape(-1, 1, 1, 1)
    return np.broadcast_to(bright, (STEPS, height, width, 3)).astype(np.uint8)


def jpeg(picture: np.ndarray) -> bytes:
    stream = io.BytesIO()
    Image.fromarray(picture).save(stream, "JPEG", quality=95)
    return stream.getvalue()


def write_act(folder: Path, count: int = 3, *, compress: bool = True, sim: bool = False, width: int = 14) -> Path:
    """Episodes as ALOHA records them; the second one has other picture sizes and no velocities."""
    folder.mkdir()
    for number in range(count):
        rows = np.sin(0.2 * np.arange(STEPS)[:, None] + np.arange(width) + number)
        size = (HEIGHT, WIDTH) if number != 1 else (24, 24)
        with h5py.File(folder / f"episode_{number}.hdf5", "w") as file:
            file.attrs.update(sim=sim, compress=compress)
            file["action"], file["observations/qpos"] = rows + 0.1, rows
            if number != 1:
                file["observations/qvel"] = file["observations/effort"] = np.zeros((STEPS, width))
            if not compress:
                file["observations/images/cam_high"] = pictures(number, *size)
                continue
            files = [jpeg(picture) for picture in pictures(number, *size)]
            longest = max(map(len, files))
            padded = [np.frombuffer(data.ljust(longest, b"\0"), np.uint8) for data in files]
            file["observations/images/cam_high"] = np.stack(padded)
            file["compress_len"] = np.array([[len(data) for data in files]])
    return folder


def write_robomimic(path: Path, count: int = 12) -> Path:
    """As robomimic converts robosuite's demonstrations; the last two episodes are kept for validation."""
    with h5py.File(path, "w") as file:
        data = file.create_group("data")
        settings = {"control_freq": 20, "robots": ["Panda"]}
        data.attrs.update(env_args=json.dumps({"env_name": "Lift", "type": 1, "env_kwargs": settings}), total=1)
        for number in range(count):
            demo, rows = data.create_group(f"demo_{number}"), np.arange(STEPS)[:, None] + number / 100
            demo.attrs["num_samples"] = STEPS
            demo["actions"] = np.repeat(rows, 7, 1)
            demo["rewards"], demo["dones"] = np.zeros(STEPS), np.zeros(STEPS, np.int64)
            for name, width in (("eef_pos", 3), ("eef_quat", 4), ("gripper_qpos", 2), ("joint_pos", 7)):
                demo[f"obs/robot0_{name}"] = np.repeat(rows, width, 1)
            demo["obs/object"] = np.repeat(rows, 10, 1)
            demo["obs/agentview_image"] = pictures(number)
            demo["next_obs/object"] = demo["obs/object"][()]
        file["mask/train"] = [f"demo_{number}" for number in range(count - 2)]
        file["mask/valid"] = [f"demo_{number}" for number in range(count - 2, count)]
    return path
