"""Memory that a rollout needs, estimated before anything is compiled or launched."""

from bisect import bisect_right
from collections.abc import Callable, Sequence
from typing import Any, NamedTuple

import jax

from imf_jax.errors import ArgumentError
from imf_jax.memory import free_device_memory, free_main_memory
from imf_jax.rollout.planner import ProgramPlanner
from imf_jax.rollout.recorders.base import Recorder
from imf_jax.sim.backends.base import Backend
from imf_jax.sim.rendering.warp_runtime import cuda_memory

NOTICED = 2e9
"""Memory of other processes on a GPU that is worth a word [bytes]; contexts, also our own, take some hundred MB."""

USABLE_SHARE = 0.85
"""Share of the free memory that an estimate may reach: it counts the large arrays, not all of them."""

MOST_SCENES = 2**31
"""More than any device has room for."""

HOST_SCENES = 50
"""Scenes at once on a CPU by default: enough to fill its cores."""

DEVICE_SCENES = 512
"""Scenes at once on each accelerator by default. With fewer, a step takes about as long; with more, the rows of a batch
see fewer episodes each, and more of them are idle at the end."""


class Demand(NamedTuple):
    """Memory of a rollout on each device, or in main memory [bytes].

    Attributes:
        free: free memory; None if unknown.
        others: used by other processes on the first device.
        weights: of the planner.
        scene: of one scene.
        encoder: memory of a frozen encoder that works on the pictures of so many scenes.
        shares: devices between which the scenes are divided.
    """

    free: int | None
    others: int
    weights: int
    scene: int
    encoder: Callable[[int], int]
    shares: int

    @property
    def largest(self) -> int | None:
        """Scenes that fit, on all devices together; None if unknown."""
        if self.free is None:
            return None
        usable = USABLE_SHARE * self.free
        return max(0, bisect_right(range(MOST_SCENES), usable, key=self.of_share) - 1) * self.shares

    def of_share(self, scenes: int) -> int:
        """Memory of so many scenes on one device."""
        return self.weights + self.scene * scenes + self.encoder(scenes)


def memory_demand(backend: Backend, planner: ProgramPlanner, devices: Sequence[Any]) -> Demand:
    """Estimate the memory of a rollout; arguments as of `require_fit`."""
    on_accelerator = _on_accelerator(devices)
    scene = backend.bytes_per_scene(planner.cameras) + picture_bytes(backend, planner)
    if backend.compiled:  # the host plans `rows` scenes at a time, a compiled loop all of them
        scene += planner.program.bytes_per_scene()
    free, others = _device_memory(devices[0]) if on_accelerator else (free_main_memory(), 0)
    return Demand(
        free=free,
        others=others,
        weights=sum(leaf.nbytes for leaf in jax.tree.leaves(planner.weights)),
        scene=scene,
        encoder=planner.program.encoder_bytes if backend.compiled else lambda scenes: 0,
        shares=len(devices) if on_accelerator else 1,
    )


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
    demand = memory_demand(backend, planner, devices)
    if demand.free is None or demand.largest is None or num_envs <= demand.largest:
        return
    on_accelerator, shares = _on_accelerator(devices), demand.shares
    where = "each device" if shares > 1 else "the device" if on_accelerator else "main memory"
    taken = f" (other processes use {demand.others / 1e9:.1f} GB of it)" if demand.others > NOTICED else ""
    need = demand.of_share(-(-num_envs // shares)) / 1e9
    raise ArgumentError(
        f"{num_envs} scenes at once need about {need:.1f} GB, but {where} has {demand.free / 1e9:.1f} GB free{taken}; "
        f"the largest --num-envs that fits is about {demand.largest}"
    )


def default_num_envs(backend: Backend, planner: ProgramPlanner, episodes: int, devices: Sequence[Any] = ()) -> int:
    """Scenes simulated at once unless the user says how many: no more than episodes, and than fit in memory.

    Returns:
        a multiple of the devices, at least one scene for each; arguments as of `require_fit`.
    """
    shares = max(1, len(devices))
    usual = DEVICE_SCENES * shares if _on_accelerator(devices) else HOST_SCENES
    largest = memory_demand(backend, planner, devices).largest
    fitting = usual if largest is None else min(usual, largest)
    return max(1, min(fitting // shares, -(-episodes // shares))) * shares


def _on_accelerator(devices: Sequence[Any]) -> bool:
    return bool(devices) and devices[0].platform != "cpu"


def _device_memory(device: Any) -> tuple[int | None, int]:
    """Memory [bytes] that this process can still have on its device, and what other processes use of it.

    JAX counts a fixed share of a GPU as its own, whatever others have taken of it: the driver knows.
    """
    free = free_device_memory()
    if free is None or device.platform not in ("gpu", "cuda"):
        return free, 0
    known = cuda_memory(device.local_hardware_id)
    if known is None:
        return free, 0
    free_now, total = known
    statistics = device.memory_stats() or {}
    used = statistics.get("bytes_in_use", 0)
    held = max(used, statistics.get("pool_bytes", 0))  # JAX's pool: what of it is not in use can be used again
    return min(free, free_now + held - used), max(0, total - free_now - held)


def picture_bytes(backend: Backend, planner: ProgramPlanner) -> int:
    """Memory [bytes] of the pictures that a planner remembers of one scene: before, after and while they are joined."""
    size = getattr(backend, "image_size", 0)
    return 3 * planner.obs_horizon * len(planner.cameras) * 3 * size**2


def capture_bytes(recorders: Sequence[Recorder], num_envs: int, max_steps: int, queue_bytes: int) -> int:
    """Largest memory [bytes] of captures: the full queue, and the buffers of the running episodes."""
    if not recorders:
        return 0
    return queue_bytes + num_envs * sum(recorder.bytes_per_episode(max_steps) for recorder in recorders)
