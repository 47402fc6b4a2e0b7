"""Observations as clients send them, checked and brought into the form that a policy reads."""

from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any

import numpy as np

from imf_jax.errors import UserError
from imf_jax.images import fit_square

STATE_NAMES = ("state", "observation.state", "observation/state")
ENV_STATE_NAMES = ("env_state", "observation.environment_state", "observation/environment_state")
IMAGE_PREFIXES = ("observation.images.", "observation/images/", "observation/")
"""Names of one camera's pictures: one of these before the name of the camera."""

CAMERA_PIXELS = 1280 * 720
"""Pixels of a picture as cameras make them; larger ones need a larger `--max-message-mb`."""

LARGEST_KEY = 2**32 - 1


class ObservationError(UserError):
    """An observation that the policy cannot read."""


@dataclass(frozen=True)
class ObservationSpec:
    """Form of the observations that a policy reads.

    Attributes:
        reads: the entries that it needs: `state`, `env_state`, `images`.
        obs_horizon: observations To of a plan, oldest first.
        state_dim: entries of the robot's state.
        env_state_dim: entries of the scene state.
        cameras: names of its cameras C.
        image_size: height and width of their pictures [pixels].
        action_dim: entries of an action.
        delay_training: control steps by which a chunk can begin later than its observation.
        prefix_training: control steps whose actions, executed while it plans, the policy can be given.
    """

    reads: tuple[str, ...]
    obs_horizon: int
    state_dim: int
    env_state_dim: int
    cameras: tuple[str, ...]
    image_size: int
    action_dim: int = 0
    delay_training: int = 0
    prefix_training: int = 0

    @property
    def shapes(self) -> dict[str, tuple[int, ...]]:
        """Entry -> shape of one observation."""
        pictures = (len(self.cameras), self.image_size, self.image_size, 3)
        known = {"state": (self.state_dim,), "env_state": (self.env_state_dim,), "images": pictures}
        return {name: known[name] for name in self.reads}

    @property
    def largest_bytes(self) -> int:
        """Size of all observations of a plan, pictures as they come, numbers as float64 [bytes]."""
        picture = 3 * max(self.image_size**2, CAMERA_PIXELS)
        sizes = {name: 8 * int(np.prod(shape)) for name, shape in self.shapes.items()}
        if "images" in sizes:
            sizes["images"] = len(self.cameras) * picture
        return self.obs_horizon * sum(sizes.values()) + 8 * self.longest_prefix * self.action_dim

    @property
    def longest_prefix(self) -> int:
        """Actions of the longest prefix: those before the newest observation, and those executed after it."""
        return self.obs_horizon - 1 + self.prefix_training if self.prefix_training else 0

    def zeros(self) -> dict[str, np.ndarray]:
        """Observations (To, ...) of nothing."""
        kinds = {"images": np.uint8}
        return {
            name: np.zeros((self.obs_horizon, *shape), kinds.get(name, np.float32))
            for name, shape in self.shapes.items()
        }

    def read(self, message: Mapping[Any, Any]) -> dict[str, np.ndarray]:
        """Read the entries of a message that the policy needs; others are ignored.

        Pictures of another size are brought to that of the policy, as in training: their middle square, resized.

        Returns:
            entry -> float32, pictures uint8, (T, ...), where T is 1 or obs_horizon, the same for all.

        Raises:
            ObservationError: one is missing, of another shape or type, or not finite; says which.
        """
        found = {name: getattr(self, f"_{name}")(message) for name in self.reads}
        lengths = {name: len(values) for name, values in found.items()}
        if len(set(lengths.values())) != 1:
            raise ObservationError(f"the entries are of different numbers of observations: {lengths}")
        return found

    def read_delay(self, message: Mapping[Any, Any]) -> int | None:
        """The entry `delay`: control steps after the newest observation at which the chunk begins; None without it.

        Raises:
            ObservationError: the policy has not learned it.
        """
        delay = _key(message, "delay", 0)
        if delay > self.delay_training:
            raise ObservationError(
                f"delay is {delay}; the policy was trained with --delay-training {self.delay_training}"
            )
        return delay if "delay" in message and self.delay_training else None

    def read_prefix(self, message: Mapping[Any, Any]) -> np.ndarray | None:
        """The entry `prefix`: actions (P, A) that the chunk continues, P at most `longest_prefix`; None without it.

        Raises:
            ObservationError: it is none, or the policy has not learned it.
        """
        if message.get("prefix") is None:
            return None
        if not self.prefix_training:
            raise ObservationError("the policy takes no prefix; it was not trained with --prefix-training")
        given = _array(message["prefix"])
        shape = f"(0..{self.longest_prefix}, {self.action_dim})"
        fits = given.ndim == 2 and given.shape[1] == self.action_dim and len(given) <= self.longest_prefix
        if not fits or given.dtype.kind not in "iuf":
            raise ObservationError(f"prefix has shape {given.shape}; send numbers {shape}")
        with np.errstate(over="ignore"):
            given = given.astype(np.float32)
        if not np.isfinite(given).all():
            raise ObservationError("prefix holds a value that is not finite")
        return given

    def _state(self, message: Mapping[Any, Any]) -> np.ndarray:
        return self._numbers("state", _first(message, STATE_NAMES), (self.state_dim,))

    def _env_state(self, message: Mapping[Any, Any]) -> np.ndarray:
        return self._numbers("env_state", _first(message, ENV_STATE_NAMES), (self.env_state_dim,))

    def _images(self, message: Mapping[Any, Any]) -> np.ndarray:
        whole = message.get("images")
        if isinstance(whole, np.ndarray):
            return self._pictures("images", whole, (len(self.cameras),))
        named = whole if isinstance(whole, dict) else {}
        views = []
        for camera in self.cameras:
            picture = named.get(camera, _first(message, tuple(prefix + camera for prefix in IMAGE_PREFIXES)))
            views.append(self._pictures(f"picture of camera {camera}", picture, ()))
        if len({len(view) for view in views}) != 1:
            raise ObservationError("the cameras are of different numbers of observations")
        return np.stack(views, axis=1)

    def _numbers(self, name: str, values: Any, shape: tuple[int, ...]) -> np.ndarray:
        array = _array(values)
        if array.dtype.kind not in "iuf":
            raise ObservationError(f"{name} is missing or holds no numbers; send shape {shape}")
        with np.errstate(over="ignore"):
            array = self._timed(name, array, shape).astype(np.float32)
        if not np.isfinite(array).all():
            raise ObservationError(f"{name} holds a value that is not finite")
        return array

    def _pictures(self, name: str, values: Any, views: tuple[int, ...]) -> np.ndarray:
        """Pictures (T, *views, image_size, image_size, 3); they may come with the colours first, and in any size."""
        size = self.image_size
        if not isinstance(values, np.ndarray) or values.dtype != np.uint8:
            raise ObservationError(f"{name} is missing or no array of uint8; send shape {(*views, size, size, 3)}")
        if values.ndim >= 3 and values.shape[-1] != 3 and values.shape[-3] == 3:
            values = np.moveaxis(values, -3, -1)
        height, width = values.shape[-3:-1] if values.ndim >= 3 and values.size else (size, size)
        timed = self._timed(name, values, (*views, height, width, 3))
        if height == width == size:
            return timed
        fitted = [fit_square(picture, size) for picture in timed.reshape(-1, height, width, 3)]
        return np.stack(fitted).reshape(*timed.shape[:-3], size, size, 3)

    def _timed(self, name: str, array: np.ndarray, shape: tuple[int, ...]) -> np.ndarray:
        """The array with its axis of time, which may be absent."""
        if array.shape == shape:
            return array[None]
        if array.shape[1:] == shape and len(array) in (1, self.obs_horizon):
            return array
        raise ObservationError(
            f"{name} has shape {array.shape}; send {shape}, or {(self.obs_horizon, *shape)} with the observations "
            "before it, oldest first"
        )


def _array(values: Any) -> np.ndarray:
    """The values as an array; one of objects if they are none."""
    try:
        return np.asarray(values)
    except ValueError:  # rows of different lengths
        return np.zeros(0, object)


def _first(message: Mapping[Any, Any], names: tuple[str, ...]) -> Any:
    return next((message[name] for name in names if name in message), None)


@dataclass(frozen=True)
class PlanRequest:
    """A plan that a client asks for.

    Attributes:
        observations: entry -> (To, ...).
        seed, episode, replan: determine the planning noise, see `imf_jax.seeds.noise_keys`.
        delay: control steps after the newest observation at which the chunk begins; None where none was told.
        prefix: float32 (P, A) actions that the chunk continues, from obs_horizon - 1 steps before the newest
            observation on; None where none was told.
    """

    observations: dict[str, np.ndarray]
    seed: int
    episode: int
    replan: int
    delay: int | None = None
    prefix: np.ndarray | None = None

    @property
    def group(self) -> tuple[int, bool, bool]:
        """Requests of one group can be planned in one call."""
        return self.seed, self.delay is not None, self.prefix is not None


class Session:
    """Memory of one connection: the last observations, and the keys of its planning noise.

    Args:
        spec: form of the observations.
        seed: of the planning noise, unless the client sends one.
        episode: of the planning noise, unless the client sends one.
    """

    def __init__(self, spec: ObservationSpec, seed: int, episode: int) -> None:
        self._spec, self._seed, self._episode = spec, seed, episode
        self._replan = 0
        self._history: dict[str, np.ndarray] = {}

    def request(self, message: Any) -> PlanRequest:
        """Read a message.

        `seed`, `episode` and `replan` are whole numbers that the client may send; `reset: true`, or another episode,
        begins an episode: observations before it are forgotten. The missing history is the first observation. `delay`
        and `prefix` are for policies that have learned them.

        Raises:
            ObservationError: see `ObservationSpec.read`; or a number of the three is none.
        """
        if not isinstance(message, dict):
            raise ObservationError("an observation is a map of names to arrays")
        found = self._spec.read(message)
        seed = _key(message, "seed", self._seed)
        episode = _key(message, "episode", self._episode)
        if message.get("reset") or episode != self._episode:
            self._history, self._replan = {}, 0
        replan = _key(message, "replan", self._replan)
        horizon = self._spec.obs_horizon
        if any(len(values) < horizon for values in found.values()):
            past = self._history or {name: np.repeat(values, horizon, axis=0) for name, values in found.items()}
            found = {name: np.concatenate([past[name], values])[-horizon:] for name, values in found.items()}
        delay, prefix = self._spec.read_delay(message), self._spec.read_prefix(message)
        self._history, self._seed, self._episode, self._replan = found, seed, episode, replan + 1
        return PlanRequest(found, seed, episode, replan, delay, prefix)


def _key(message: Mapping[Any, Any], name: str, default: int) -> int:
    value = message.get(name, default)
    if isinstance(value, bool) or not isinstance(value, int | np.integer) or not 0 <= value <= LARGEST_KEY:
        raise ObservationError(f"{name} must be a whole number in 0..{LARGEST_KEY}")
    return int(value)
