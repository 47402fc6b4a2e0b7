"""Features of a dataset, the entries of every frame. The names are the ones that LeRobot policies look for."""

from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any, Literal

import numpy as np

from imf_jax.config import require
from imf_jax.spaces import RobotSpaces

STATE = "observation.state"
ENV_STATE = "observation.environment_state"
ACTION = "action"
REWARD = "next.reward"
SUCCESS = "success"
SEED = "seed"
SCENE = "scene"
INTERVENTION = "intervention"
IMAGES = "observation.images."

CHANNELS = (1, 3, 4)
"""Channels that a picture can have."""

DEPTH_MARKS = ("video.is_depth_map", "is_depth_map")
"""What an entry of `info.json` says about pictures whose values are distances."""

DType = Literal["float32", "int64", "bool", "video"]


@dataclass(frozen=True)
class Feature:
    """One entry of every frame.

    Attributes:
        dtype: type of its values; "video" for pictures. Datasets of others may have more types, among them "image" for
            pictures that are stored in the rows.
        shape: (D,), or (height, width, 3) of pictures [pixels]. Features of others may have any number of axes.
        names: of its D entries, or of the axes of a picture.
        per_episode: the value is the same in all frames of an episode and given when the episode is saved.
    """

    dtype: DType
    shape: tuple[int, ...]
    names: tuple[str, ...]
    per_episode: bool = False

    def to_json(self) -> dict[str, Any]:
        """Entry of the feature in `info.json`; the writer adds what it knows about a video."""
        return {"dtype": self.dtype, "shape": list(self.shape), "names": list(self.names)}

    @property
    def is_picture(self) -> bool:
        """Whether it is what a camera sees."""
        return self.dtype in ("video", "image")

    def __str__(self) -> str:
        return f"{self.dtype} {self.shape}"


FRAME_FEATURES = {
    "timestamp": Feature("float32", (1,), ("seconds",)),
    "frame_index": Feature("int64", (1,), ("frame",)),
    "episode_index": Feature("int64", (1,), ("episode",)),
    "index": Feature("int64", (1,), ("frame",)),
    "task_index": Feature("int64", (1,), ("task",)),
}
"""Features that the format itself wants in every frame; the writer fills them in."""


def picture_feature(height: int, width: int) -> Feature:
    """Feature of a camera's pictures.

    Raises:
        ArgumentError: H.264 cannot hold pictures of that size.
    """
    require(
        height % 2 == 0 and width % 2 == 0 and min(height, width) >= 16,
        f"pictures of {height}x{width} pixels cannot become a video; height and width must be even and at least 16",
    )
    return Feature("video", (height, width, 3), ("height", "width", "channels"))


def robot_features(
    spaces: RobotSpaces, pictures: Mapping[str, tuple[int, int]], env_state_dim: int = 0
) -> dict[str, Feature]:
    """Features of the recordings of a robot: state, action, reward, pictures, and where a frame comes from.

    Args:
        spaces: action and state of the robot.
        pictures: camera -> height and width [pixels].
        env_state_dim: channels of the task's scene state; 0 leaves it out.

    Raises:
        ArgumentError: pictures that cannot become a video.
    """
    features = {
        STATE: Feature("float32", (spaces.state_dim,), spaces.state_names),
        ACTION: Feature("float32", (spaces.action_dim,), spaces.action_names),
        REWARD: Feature("float32", (1,), ("reward",)),
        INTERVENTION: Feature("bool", (1,), ("intervention",)),
        SUCCESS: Feature("bool", (1,), ("success",), per_episode=True),
        SEED: Feature("int64", (1,), ("seed",), per_episode=True),
        SCENE: Feature("int64", (1,), ("scene",), per_episode=True),
    }
    if env_state_dim:
        features[ENV_STATE] = Feature("float32", (env_state_dim,), tuple(f"env{i}" for i in range(env_state_dim)))
    return features | {IMAGES + camera: picture_feature(*size) for camera, size in pictures.items()}


def feature_from_json(name: str, values: Any) -> Feature:
    """Read the feature of an entry of `info.json`, which other writers may have written.

    The axes of pictures are brought into the order height, width, channels. An axis of any length has -1.

    Raises:
        ValueError: the entry is not one; the message names it.
    """
    try:
        shape = tuple(-1 if n is None else int(n) for n in values["shape"])
        feature = Feature(str(values["dtype"]), shape, _names(values.get("names")))  # type: ignore[arg-type]
    except (TypeError, KeyError, ValueError, AttributeError):
        raise ValueError(f"feature {name!r} has no valid dtype and shape") from None
    if feature.is_picture and len(shape) == 3:
        order = _picture_axes(shape, feature.names)
        return Feature(feature.dtype, tuple(shape[axis] for axis in order), ("height", "width", "channels"))
    return feature


def unsupported(feature: Feature, values: Mapping[str, Any]) -> str | None:
    """Why a feature of a dataset cannot be read here; None if it can.

    Args:
        feature: made by `feature_from_json`.
        values: what it was made from.
    """
    if feature.is_picture:
        about = [values, *(values.get(key) for key in ("info", "video_info"))]
        if any(part.get(key) for part in about if isinstance(part, dict) for key in DEPTH_MARKS):
            return "pictures of depth"
        return None if len(feature.shape) == 3 and feature.shape[2] == 3 else f"pictures of shape {feature.shape}"
    if min(feature.shape, default=1) < 1:
        return f"values of shape {feature.shape}"
    try:
        numeric = np.dtype(feature.dtype).kind in "fiub"
    except TypeError:
        numeric = False
    return None if numeric else f"values of type {feature.dtype!r}"


def differences(dataset: Mapping[str, Feature], given: Mapping[str, Feature]) -> list[str]:
    """List the differences between the features of a dataset and those of a recording; each names both sides."""
    found = []
    for name in [*dataset, *(name for name in given if name not in dataset)]:
        ours, theirs = dataset.get(name), given.get(name)
        if ours is None or theirs is None or (ours.dtype, ours.shape) != (theirs.dtype, theirs.shape):
            found.append(f"{name} is {ours or 'absent'} in the dataset and {theirs or 'absent'} in the recording")
    return found


def _names(values: Any) -> tuple[str, ...]:
    """Names in any form that writers use: a list, groups {"motors": [...]}, indices {"x": 0}, or nothing."""
    if isinstance(values, dict):
        groups = [group if isinstance(group, list) else [] if group is None else [key] for key, group in values.items()]
        values = [name for group in groups for name in group]
    return tuple(map(str, values)) if isinstance(values, list) else ()


def _picture_axes(shape: tuple[int, ...], names: tuple[str, ...]) -> tuple[int, ...]:
    """Where height, width and channels are in a shape: as its names tell, or as its lengths do."""
    order = tuple(i for letter in "hwc" for i, name in enumerate(names) if name.lower().startswith(letter))
    if len(names) == 3 and sorted(order) == [0, 1, 2] and shape[order[2]] in CHANNELS:
        return order
    return (1, 2, 0) if shape[0] in CHANNELS and shape[2] not in CHANNELS else (0, 1, 2)
