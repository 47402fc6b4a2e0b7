"""Servers of a policy that is a NumPy function, in a thread of the test."""

import asyncio
import threading
from collections.abc import Callable, Iterator
from types import SimpleNamespace
from typing import Any, NamedTuple

import numpy as np
import pytest

from imf_jax.config import ServeConfig
from imf_jax.serving.observations import ObservationSpec, PlanRequest
from imf_jax.serving.server import PolicyServer, listening_socket

SPEC = ObservationSpec(("state", "env_state"), 2, 3, 2, (), 8)


class Running(NamedTuple):
    """A server that runs."""

    server: PolicyServer
    port: int
    stop: Callable[[], None]

    @property
    def address(self) -> str:
        return f"ws://127.0.0.1:{self.port}"


def chunks(requests: list[PlanRequest]) -> np.ndarray:
    """Chunks of four actions: the newest state; then seed, episode, replan; then the oldest state twice."""
    plans = []
    for request in requests:
        state = request.observations["state"]
        plans.append([state[-1], [request.seed, request.episode, request.replan], state[0], state[0]])
    return np.array(plans, np.float32)


@pytest.fixture
def start_server() -> Iterator[Callable[..., Running]]:
    """Start servers; they are stopped at the end, if the test has not done it."""
    running: list[Running] = []

    def start(
        plan: Callable[[list[PlanRequest]], np.ndarray] = chunks, spec: ObservationSpec = SPEC, **how: Any
    ) -> Any:
        server_options = {name: how.pop(name) for name in ("token", "ping_s", "open_timeout_s") if name in how}
        metadata = how.pop("metadata", {"protocol": "imf_jax", "policy": "stub"})
        config = ServeConfig(checkpoint="none", **{"port": 0, **how})  # type: ignore[arg-type]
        policy: Any = SimpleNamespace(plan=plan, spec=spec, metadata=metadata, warm_up=lambda: None)
        bound = listening_socket("127.0.0.1", config.port)
        port = bound.getsockname()[1]
        server, asked, ready = PolicyServer(policy, config, **server_options), threading.Event(), threading.Event()
        thread = threading.Thread(target=lambda: asyncio.run(server.run(bound, asked.is_set, ready.set)), daemon=True)
        thread.start()
        assert ready.wait(10)

        def stop() -> None:
            asked.set()
            thread.join(20)
            assert not thread.is_alive()

        running.append(Running(server, port, stop))
        return running[-1]

    yield start
    for one in running:
        one.stop()
