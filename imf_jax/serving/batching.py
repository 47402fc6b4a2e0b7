"""Dynamic batching: observations of clients that come at about the same time are planned in one call."""

import asyncio
import time
from collections.abc import Callable
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass, field

import numpy as np

from imf_jax.serving.metrics import ServerMetrics
from imf_jax.serving.observations import PlanRequest


@dataclass
class _Waiting:
    request: PlanRequest
    result: "asyncio.Future[np.ndarray]" = field(default_factory=lambda: asyncio.get_running_loop().create_future())


class Batcher:
    """Gathers requests and plans them in a thread of its own, one call at a time.

    Args:
        plan: plans for requests of one group, all of different rows: (A) requests -> (A, N, action_dim).
        rows: rows of a call; a request is in row `episode % rows`.
        max_wait_s: longest time that a request waits for others, while the policy is free [s].
        metrics: what is measured.
    """

    def __init__(
        self, plan: Callable[[list[PlanRequest]], np.ndarray], rows: int, max_wait_s: float, metrics: ServerMetrics
    ) -> None:
        self._plan, self._rows, self._max_wait_s, self._metrics = plan, rows, max_wait_s, metrics
        self._waiting: list[_Waiting] = []
        self._arrived = asyncio.Event()
        self._thread = ThreadPoolExecutor(1, thread_name_prefix="plan")

    async def plan(self, request: PlanRequest) -> np.ndarray:
        """The chunk of a request, float32 (N, action_dim).

        Raises:
            Exception: what the policy raised.
        """
        waiting = _Waiting(request)
        self._waiting.append(waiting)
        self._arrived.set()
        return await waiting.result

    async def in_thread(self, function: Callable[[], None]) -> None:
        """Call a function in the thread that plans: what is compiled is looked up faster there ever after."""
        await asyncio.get_running_loop().run_in_executor(self._thread, function)

    async def run(self) -> None:
        """Serve until cancelled."""
        try:
            while True:
                await self._gather()
                batch = self._take()
                try:
                    chunks = await asyncio.get_running_loop().run_in_executor(self._thread, self._timed, batch)
                except Exception as error:  # of the policy; its clients are told, and others are served on
                    self._end(batch, error)
                else:
                    self._end(batch, chunks)
        finally:
            self._thread.shutdown(wait=False)

    async def _gather(self) -> None:
        """Wait for a request, and then for those of the other clients, but not for long."""
        loop = asyncio.get_running_loop()
        while not self._waiting:
            self._arrived.clear()
            await self._arrived.wait()
        until = loop.time() + self._max_wait_s
        while len(self._next()) < min(self._rows, self._metrics.connections) and loop.time() < until:
            self._arrived.clear()
            try:
                async with asyncio.timeout_at(until):
                    await self._arrived.wait()
            except TimeoutError:
                return

    def _next(self) -> dict[int, _Waiting]:
        """Row -> the oldest request, and those of its group in rows that are free; not of clients that have left."""
        taken: dict[int, _Waiting] = {}
        waiting = [one for one in self._waiting if not one.result.done()]
        for one in waiting:
            if one.request.group == waiting[0].request.group:
                taken.setdefault(one.request.episode % self._rows, one)
        return taken

    def _take(self) -> list[_Waiting]:
        batch = list(self._next().values())
        chosen = {id(one) for one in batch}
        self._waiting = [one for one in self._waiting if id(one) not in chosen and not one.result.done()]
        return batch

    def _timed(self, batch: list[_Waiting]) -> tuple[np.ndarray, float]:
        began = time.perf_counter()
        chunks = self._plan([waiting.request for waiting in batch]) if batch else np.zeros(0)
        return chunks, 1e3 * (time.perf_counter() - began)

    def _end(self, batch: list[_Waiting], outcome: Exception | tuple[np.ndarray, float]) -> None:
        if not isinstance(outcome, Exception) and batch:
            self._metrics.plan_ms.add(outcome[1])
            self._metrics.batch.add(len(batch))
        for row, waiting in enumerate(batch):
            if waiting.result.done():  # cancelled: the client has left
                continue
            if isinstance(outcome, Exception):
                waiting.result.set_exception(outcome)
            else:
                waiting.result.set_result(outcome[0][row])
