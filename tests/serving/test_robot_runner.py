"""A robot's loop on a server that runs: the chunks that it executes, and a server that goes away in the middle."""

from collections.abc import Callable
from contextlib import closing
from typing import Any

import numpy as np
from conftest import Running

from imf_jax.client import ChunkExecutor, PolicyClient, RobotRunner
from imf_jax.spaces import Part, RobotSpaces

JOINTS = RobotSpaces(
    "arm", (Part("joint", 3, "joint", "rad"),), (Part("joint", 3, "joint", "rad"),), ("hand",), ("hand",)
)


def test_a_robot_is_driven_and_goes_on_when_the_server_is_gone(start_server: Callable[..., Running]) -> None:
    """The stub plans the newest state, then the keys of the plan, then the oldest state twice."""
    server = start_server()
    with closing(PolicyClient(server.address, timeout_s=5)) as client:

        def plan(observation: dict[str, Any]) -> np.ndarray:
            return client.plan(observation | {"seed": 7, "episode": 5})

        def act(step: int) -> list[float]:
            return np.asarray(runner.act({"state": np.full(3, float(step)), "env_state": np.zeros(2)})).tolist()

        runner = RobotRunner([plan], ChunkExecutor(JOINTS, 4, replan_every=2), obs_horizon=2)

        runner.start(hold=np.zeros(3))
        assert act(0) == [0, 0, 0]
        assert act(1) == [7, 5, 0]
        assert act(2) == [2, 2, 2]
        assert act(3) == [7, 5, 1], "the second plan of the episode"
        server.stop()
        assert act(4) == [1, 1, 1], "the rest of the chunk: the state of a step before the plan"
        assert (runner.failed, runner.executor.stopped) == (1, False)
        assert "the connection broke" in runner.last_error
        runner.close()
