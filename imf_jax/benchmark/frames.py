"""Frames per second of simulation and cameras alone, without a policy: the condition in which others are measured."""

import statistics
import time
from collections.abc import Callable
from dataclasses import dataclass
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np

from imf_jax import seeds
from imf_jax.benchmark.components import SEED
from imf_jax.seeds import scene_keys
from imf_jax.sim.backends.base import SimState, StepOutput
from imf_jax.sim.backends.choice import make_backend
from imf_jax.sim.robots.base import hold
from imf_jax.sim.tasks import get_task


@dataclass(frozen=True)
class FrameRate:
    """Frames per second [1/s], each after a control step of its scene, and the time of the first call [s]."""

    frames_per_s: float
    first_call_s: float


def measure_frames(
    backend_name: str, task: str, *, batch: int, cameras: tuple[str, ...], image_size: int, steps: int, repeats: int
) -> FrameRate:
    """Control steps with a picture of every camera after each; the robot is told to stay where it starts.

    Args:
        backend_name: a name made by `imf_jax.sim.backends.choice.resolve_backend`.
        task: name of the task.
        batch: scenes at once.
        cameras: names of cameras.
        image_size: height and width of a picture [pixels].
        steps: control steps per call.
        repeats: timed calls, of which the median counts.
    """
    backend = make_backend(backend_name, task, image_size=image_size, renderer="warp")
    keys = np.asarray(seeds.key_data(scene_keys(SEED, range(batch))))
    start = time.perf_counter()
    run = (_compiled if backend.compiled else _host)(backend, get_task(task).robot.spaces, keys, cameras, steps)
    run()
    first_call_s = time.perf_counter() - start
    seconds = []
    for _ in range(repeats):
        start = time.perf_counter()
        run()
        seconds.append(time.perf_counter() - start)
    return FrameRate(batch * len(cameras) * steps / statistics.median(seconds), first_call_s)


def _host(backend: Any, spaces: Any, keys: np.ndarray, cameras: tuple[str, ...], steps: int) -> Callable[[], Any]:
    start, output = backend.reset(keys)
    still = np.asarray(hold(spaces, output.state, output.end_effector))

    def run() -> Any:
        state, pictures = start, None
        for _ in range(steps):
            state, output = backend.step(state, still)
            pictures = backend.render(output.qpos, cameras)
        return pictures

    return run


def _compiled(backend: Any, spaces: Any, keys: np.ndarray, cameras: tuple[str, ...], steps: int) -> Callable[[], Any]:
    constants = backend.constants(len(keys))
    size = backend.image_size
    Carry = tuple[Any, SimState, StepOutput, jax.Array]

    def begin(constants: Any, keys: jax.Array) -> tuple[SimState, StepOutput]:
        return backend.start(constants, backend.allocate(constants, len(keys)), seeds.typed_keys(keys))

    def simulate(constants: Any, state: SimState, output: StepOutput, action: jax.Array) -> jax.Array:
        def step(carry: Carry, _: None) -> tuple[Carry, None]:
            data, state, output = backend.advance(constants, *carry[:2], action)
            return (data, state, output, backend.pictures(constants, data, output.qpos, cameras)), None

        blank = jnp.zeros((len(keys), len(cameras), size, size, 3), jnp.uint8)
        start = backend.allocate(constants, len(keys)), state, output, blank
        return jax.lax.scan(step, start, length=steps)[0][-1]

    state, output = jax.jit(begin)(constants, keys)
    still = hold(spaces, output.state, output.end_effector)
    program = jax.jit(simulate)
    return lambda: jax.block_until_ready(program(constants, state, output, still))
