"""Memory that a rollout needs, estimated before anything is compiled or launched."""

from collections.abc import Sequence
from typing import Any

import jax

from imf_jax.errors import ArgumentError
from imf_jax.memory import free_device_memory, free_main_memory
from imf_jax.rollout.planner import ProgramPlanner
from imf_jax.rollout.recorders.base import Recorder
from imf_jax.sim.backends.base import Backend

USABLE_SHARE = 0.85
"""Share of the free memory that an estimate may reach: it counts the large arrays, not all of them."""


def require_fit(backend: Backend, planner: ProgramPlanner, num_envs: int, devices: Sequence[Any] = ()) -> None:
    """Refuse more scenes than fit in memory.

    Args:
        backend: the simulator.
        planner: the planner.
        num_envs: scenes simulated at once.
        devices: the devices that share them; none for a backend of the host.

    Raises:
        ArgumentError: names the largest number of scenes that would fit.
    """
    on_accelerator = bool(devices) and devices[0].platform != "cpu"
    free = free_device_memory() if on_accelerator else free_main_memory()
    if free is None:
        return
    shares = len(devices) if on_accelerator else 1
    weights = sum(leaf.nbytes for leaf in jax.tree.leaves(planner.weights))
    per_scene = backend.bytes_per_scene(planner.cameras) + picture_bytes(backend, planner)
    if backend.compiled:  # the host plans `rows` scenes at a time, a compiled loop all of them
        per_scene += planner.program.bytes_per_scene()
    largest = max(0, int((USABLE_SHARE * free - weights) / per_scene)) * shares
    if num_envs > largest:
        where = "each device" if shares > 1 else "the device" if on_accelerator else "main memory"
        need = (weights + per_scene * num_envs / shares) / 1e9
        raise ArgumentError(
            f"{num_envs} scenes at once need about {need:.1f} GB, but {where} has {free / 1e9:.1f} GB free; "
            f"the largest --num-envs that fits is about {largest}"
        )


def picture_bytes(backend: Backend, planner: ProgramPlanner) -> int:
    """Memory [bytes] of the pictures that a planner remembers of one scene: before, after and while they are joined."""
    size = getattr(backend, "image_size", 0)
    return 3 * planner.obs_horizon * len(planner.cameras) * 3 * size**2


def capture_bytes(recorders: Sequence[Recorder], num_envs: int, max_steps: int, queue_bytes: int) -> int:
    """Largest memory [bytes] of captures: the full queue, and the buffers of the running episodes."""
    if not recorders:
        return 0
    return queue_bytes + num_envs * sum(recorder.bytes_per_episode(max_steps) for recorder in recorders)
