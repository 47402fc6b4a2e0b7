"""Features of a dataset: what every frame holds. The names are the ones that LeRobot policies look for."""

from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any, Literal

from imf_jax.config import ACTION_DIM, STATE_DIM, require

STATE = "observation.state"
ENV_STATE = "observation.environment_state"
ACTION = "action"
REWARD = "next.reward"
SUCCESS = "success"
SEED = "seed"
SCENE = "scene"
INTERVENTION = "intervention"
IMAGES = "observation.images."

DType = Literal["float32", "int64", "bool", "video"]


@dataclass(frozen=True)
class Feature:
    """One entry of every frame.

    Attributes:
        dtype: type of its values; "video" for pictures.
        shape: (D,), or (height, width, 3) of pictures [pixels].
        names: of its D entries, or of the axes of a picture.
        per_episode: the value is the same in all frames of an episode and given when the episode is saved.
    """

    dtype: DType
    shape: tuple[int, ...]
    names: tuple[str, ...]
    per_episode: bool = False

    def to_json(self) -> dict[str, Any]:
        """Its entry in `info.json`; the writer adds what it knows about a video."""
        return {"dtype": self.dtype, "shape": list(self.shape), "names": list(self.names)}

    def __str__(self) -> str:
        return f"{self.dtype} {self.shape}"


FRAME_FEATURES = {
    "timestamp": Feature("float32", (1,), ("seconds",)),
    "frame_index": Feature("int64", (1,), ("frame",)),
    "episode_index": Feature("int64", (1,), ("episode",)),
    "index": Feature("int64", (1,), ("frame",)),
    "task_index": Feature("int64", (1,), ("task",)),
}
"""What the format itself wants in every frame; the writer fills it in."""


def picture_feature(height: int, width: int) -> Feature:
    """A camera's pictures.

    Raises:
        ArgumentError: H.264 cannot hold pictures of that size.
    """
    require(
        height % 2 == 0 and width % 2 == 0 and min(height, width) >= 16,
        f"pictures of {height}x{width} pixels cannot become a video; height and width must be even and at least 16",
    )
    return Feature("video", (height, width, 3), ("height", "width", "channels"))


def robot_features(pictures: Mapping[str, tuple[int, int]], env_state_dim: int = 0) -> dict[str, Feature]:
    """What this project records of two arms: state, action, reward, pictures, and where a frame comes from.

    Args:
        pictures: camera -> height and width [pixels].
        env_state_dim: channels of the task's scene state; 0 leaves it out.

    Raises:
        ArgumentError: pictures that cannot become a video.
    """
    arm_state = [*(f"joint{i}" for i in range(1, 8)), "gripper"]
    arm_action = ["x", "y", "z", "qw", "qx", "qy", "qz", "gripper"]
    features = {
        STATE: Feature("float32", (STATE_DIM,), _both_arms(arm_state)),
        ACTION: Feature("float32", (ACTION_DIM,), _both_arms(arm_action)),
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
    """The feature of an entry of `info.json`.

    Raises:
        ValueError: the entry is not one; the message names it.
    """
    try:
        return Feature(str(values["dtype"]), tuple(int(n) for n in values["shape"]), _names(values.get("names")))  # type: ignore[arg-type]
    except (TypeError, KeyError, ValueError, AttributeError):
        raise ValueError(f"feature {name!r} has no valid dtype and shape") from None


def differences(dataset: Mapping[str, Feature], given: Mapping[str, Feature]) -> list[str]:
    """What differs between the features of a dataset and those of a recording, each difference naming both sides."""
    found = []
    for name in [*dataset, *(name for name in given if name not in dataset)]:
        ours, theirs = dataset.get(name), given.get(name)
        if ours is None or theirs is None or (ours.dtype, ours.shape) != (theirs.dtype, theirs.shape):
            found.append(f"{name} is {ours or 'absent'} in the dataset and {theirs or 'absent'} in the recording")
    return found


def _both_arms(names: list[str]) -> tuple[str, ...]:
    return tuple(f"{arm}_{name}" for arm in ("left", "right") for name in names)


def _names(values: Any) -> tuple[str, ...]:
    if isinstance(values, dict):  # other writers group names, for example {"motors": [...]}
        values = [name for group in values.values() for name in group]
    return tuple(str(name) for name in values or ())
