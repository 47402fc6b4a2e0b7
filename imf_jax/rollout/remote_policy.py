"""A policy on a server that speaks openpi's convention, asked for many scenes at once."""

from collections.abc import Mapping
from concurrent.futures import ThreadPoolExecutor
from queue import SimpleQueue
from typing import Any

import numpy as np
from typing_extensions import override

from imf_jax.client import PolicyClient, PolicyServerError
from imf_jax.errors import UserError
from imf_jax.rollout.outside_policy import Answer, OutsidePolicy, distinct
from imf_jax.rollout.planner import Observations

OURS = "imf_jax"
"""`protocol` of servers that read histories and the keys of the planning noise."""

STATES = ("state", "env_state")
LARGEST = 10_000
"""Of a horizon, a chunk or a batch that a server may name."""


class RemotePolicy(OutsidePolicy):
    """A policy of a server; a server of ours says itself what it reads, another one gets the newest observation.

    Args:
        address: ws://HOST:PORT.
        action_dim: entries of an action of the robot.
        shapes: entry -> shape of one observation, `state` and `env_state`.
        image_size: height and width of the pictures for a server that names none [pixels].
        plan_batch: observations that are sent at once, unless the server says how many it plans at once.
        keys: name here -> name there, for a server that is not ours; the cameras that are named are rendered.
        prompt: instruction that is sent with every observation.
        token: of the server, if it asks for one.
        timeout_s: time for a connection, and for each plan [s].

    Attributes:
        metadata: what the server told of the policy.
        plan_batch: observations that are sent at once.
        image_size: height and width of the pictures that it reads [pixels].

    Raises:
        UserError: the server cannot be reached, or describes no policy that can be evaluated.
    """

    def __init__(
        self,
        address: str,
        *,
        action_dim: int,
        shapes: Mapping[str, tuple[int, ...]],
        image_size: int,
        plan_batch: int,
        keys: Mapping[str, str] | None = None,
        prompt: str | None = None,
        token: str | None = None,
        timeout_s: float = 30.0,
    ) -> None:
        super().__init__()
        first = PolicyClient(address, token=token, timeout_s=timeout_s)
        self._connect = lambda: PolicyClient(address, token=token, timeout_s=timeout_s)
        self._clients = [first]
        self._free: SimpleQueue[PolicyClient | None] = SimpleQueue()
        self.metadata, self.action_dim = first.metadata, action_dim
        self._ours = self.metadata.get("protocol") == OURS
        self._extra = {} if prompt is None else {"prompt": prompt}
        try:
            if self._ours:
                self._describe(address)
            else:
                self._keys = dict(keys or {"state": "state"})
                self.cameras = tuple(name for name in self._keys if name not in STATES)
                self.obs_horizon, self.image_size, self.plan_batch = 1, image_size, plan_batch
                self._ask_once(first, shapes)
        except BaseException:
            first.close()
            raise
        self._threads = ThreadPoolExecutor(self.plan_batch, thread_name_prefix="ask")
        for client in (first, *[None] * (self.plan_batch - 1)):
            self._free.put(client)

    @override
    def answer(self, observations: Observations, seed: int, episodes: np.ndarray, replans: np.ndarray) -> list[Answer]:
        rows, repeated = distinct(episodes, replans)
        messages = [
            self._message({name: values[row] for name, values in observations.items()})
            | ({"seed": seed, "episode": int(episodes[row]), "replan": int(replans[row])} if self._ours else {})
            for row in rows
        ]
        answers = list(self._threads.map(self._ask, messages))
        return [answers[index] for index in repeated]

    @override
    def close(self) -> None:
        self._threads.shutdown()
        for client in self._clients:
            client.close()

    def _ask(self, message: dict[str, Any]) -> Answer:
        client = self._free.get()
        try:
            if client is None:
                client = self._connect()
                self._clients.append(client)
            return client.plan(message)
        except UserError as error:
            return str(error)
        finally:
            self._free.put(client)

    def _message(self, observation: Observations) -> dict[str, Any]:
        """An observation of one scene, arrays (obs_horizon, ...), as the server reads it."""
        message: dict[str, Any]
        if self._ours:
            message = {name: observation[name] for name in self._reads} | self._extra
            if "delay" in observation:
                message["delay"] = int(observation["delay"])
            if "prefix" in observation:
                message["prefix"] = observation["prefix"][: int(observation["prefix_steps"])]
            return message
        message = dict(self._extra)
        for name, key in self._keys.items():
            newest = observation["images" if name in self.cameras else name][-1]
            message[key] = newest[self.cameras.index(name)] if name in self.cameras else newest
        return message

    def _describe(self, address: str) -> None:
        """Take over what a server of ours says of its policy."""
        told = self.metadata

        def number(name: str, smallest: int = 1) -> int:
            value = told.get(name, 0)
            if type(value) is not int or not smallest <= value <= LARGEST:
                raise PolicyServerError(f"{address} names no {name} of its policy")
            return value

        self.obs_horizon, self.chunk_steps = number("obs_horizon"), number("chunk_steps")
        self.num_action_steps, self.plan_batch = number("num_action_steps"), number("plan_batch")
        self.image_size = number("image_size")
        self.delay_training, self.prefix_training = number("delay_training", 0), number("prefix_training", 0)
        names = {name: told.get(name) for name in ("reads", "cameras")}
        if not all(isinstance(value, list) and all(isinstance(n, str) for n in value) for value in names.values()):
            raise PolicyServerError(f"{address} does not say what its policy reads")
        self._reads, self.cameras = tuple(names["reads"] or ()), tuple(names["cameras"] or ())
        if not set(self._reads) <= {*STATES, "images"} or self.num_action_steps > self.chunk_steps:
            raise PolicyServerError(f"{address} describes a policy that cannot be evaluated here")

    def _ask_once(self, client: PolicyClient, shapes: Mapping[str, tuple[int, ...]]) -> None:
        """Learn from a plan for zeros how many actions a policy plans."""
        picture = (1, len(self.cameras), self.image_size, self.image_size, 3)
        seen = {name: np.zeros((1, *shape), np.float32) for name, shape in shapes.items()}
        chunk = client.plan(self._message(seen | {"images": np.zeros(picture, np.uint8)}))
        if chunk.shape[1] != self.action_dim or not 1 <= len(chunk) <= LARGEST:
            raise PolicyServerError(
                f"the server plans actions of shape {chunk.shape}; the robot of the task needs (N, {self.action_dim})"
            )
        self.chunk_steps = self.num_action_steps = len(chunk)
