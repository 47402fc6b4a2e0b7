"""A served plan beside the bare plan, and many clients beside one, on loopback."""

import asyncio
import re
import signal
import statistics
import subprocess
import sys
import tempfile
import time
from collections.abc import Iterator
from contextlib import AsyncExitStack, contextmanager
from dataclasses import dataclass
from pathlib import Path

import jax.numpy as jnp
import numpy as np
from websockets.asyncio.client import ClientConnection, connect

from imf_jax.benchmark.policy import take_turns
from imf_jax.benchmark.random_walk import untrained_policy
from imf_jax.checkpoints import CheckpointMeta
from imf_jax.client import PolicyClient
from imf_jax.client.protocol import pack
from imf_jax.config import ServeConfig, TrainConfig
from imf_jax.errors import UserError
from imf_jax.serving.observations import PlanRequest
from imf_jax.serving.policy import load_served
from imf_jax.sim.tasks import get_task
from imf_jax.training.saved_state import save_checkpoint
from imf_jax.training.state import initial_state

TASK = "transfer"


@dataclass(frozen=True)
class ServingFigures:
    """Figures of one policy.

    Attributes:
        size: width and layers of the head.
        bare_ms: plan of one observation in this process, median [ms].
        served_ms: the same through a server for batches of 1, the client in this process, median [ms].
        extra_ms: served - bare in the same round, median [ms]; at most 1 is aimed at.
        clients: clients at once, and observations that a second server plans in one call.
        one_per_s: plans of a single client of that server [1/s].
        all_per_s: plans of all of them together [1/s].
        gain: of these two rates, in the same round, median; at least 4 for 16 clients is aimed at.
    """

    size: str
    bare_ms: float
    served_ms: float
    extra_ms: float
    clients: int
    one_per_s: float
    all_per_s: float
    gain: float


def measure_serving(width: int, layers: int, *, clients: int, rounds: int, seconds: float) -> ServingFigures:
    """Measure an untrained policy of states; the sides take turns.

    Args:
        width: of its head.
        layers: of its head.
        clients: at once.
        rounds: timed plans of each side; of clients a twentieth, at least three.
        seconds: time of a round of clients [s].

    Raises:
        UserError: the server does not start.
    """
    with tempfile.TemporaryDirectory(prefix="imf_jax_serving_") as folder:
        run = Path(folder)
        _write_run(run, width, layers)
        served = load_served(ServeConfig(run, plan_batch=1))
        request = PlanRequest(served.spec.zeros(), 0, 0, 0)
        message = {**request.observations, "seed": 0, "episode": 0, "replan": 0}
        served.warm_up()
        with _server(run, 1) as address:
            client = PolicyClient(address)
            sides = [lambda: served.plan([request]), lambda: client.plan(message)]
            np.testing.assert_array_equal(sides[0]().squeeze(0), sides[1]())
            bare, through = take_turns(sides, rounds, warm=True)
            client.close()
        one, all_clients = [], []
        with _server(run, clients) as address:
            for _ in range(max(3, rounds // 20)):
                one.append(asyncio.run(_plans_per_second(address, 1, message, seconds)))
                all_clients.append(asyncio.run(_plans_per_second(address, clients, message, seconds)))
    return ServingFigures(
        f"{width}/{layers}",
        1e3 * statistics.median(bare),
        1e3 * statistics.median(through),
        1e3 * statistics.median(b - a for a, b in zip(bare, through, strict=True)),
        clients,
        statistics.median(one),
        statistics.median(all_clients),
        statistics.median(b / a for a, b in zip(one, all_clients, strict=True)),
    )


async def _plans_per_second(address: str, clients: int, message: dict[str, object], seconds: float) -> float:
    """Plans per second of clients that ask again as soon as they have their answer."""
    count = 0
    async with AsyncExitStack() as stack:
        connections = [
            await stack.enter_async_context(connect(address, compression=None, proxy=None)) for _ in range(clients)
        ]
        for connection in connections:
            await connection.recv()
        began = time.perf_counter()

        async def ask(connection: ClientConnection, data: bytes) -> None:
            nonlocal count
            while time.perf_counter() < began + seconds:
                await connection.send(data)
                await connection.recv()
                count += 1

        await asyncio.gather(*(ask(one, pack(message | {"episode": row})) for row, one in enumerate(connections)))
        return count / (time.perf_counter() - began)


def _write_run(run: Path, width: int, layers: int) -> None:
    task = get_task(TASK)
    policy = untrained_policy(width, layers, task)
    config = TrainConfig(policy=policy.config)
    state, frozen = initial_state(policy, config)
    robot = task.robot.spaces.to_json()
    meta = CheckpointMeta(1, TASK, task.env_state_dim, "newest", "00", None, {}, robot=robot)
    save_checkpoint(run, state._replace(step=jnp.int32(1)), frozen, config, meta)


@contextmanager
def _server(run: Path, plan_batch: int) -> Iterator[str]:
    """A server in a process of its own; yields its address."""
    command = [sys.executable, "-m", "imf_jax.commands.serve", "--checkpoint", str(run), "--port", "0"]
    server = subprocess.Popen([*command, "--plan-batch", str(plan_batch)], stdout=subprocess.PIPE, text=True)
    try:
        assert server.stdout is not None
        found = next((match for line in server.stdout if (match := re.search(r"ready: (ws://\S+)", line))), None)
        if found is None:
            raise UserError("the policy server did not start, see above")
        yield found[1]
    finally:
        server.send_signal(signal.SIGTERM)
        server.communicate(timeout=60)
