"""Memory of the device and of the host: what is free, to refuse in one line what would not fit, and what was used."""

import resource
import sys
from pathlib import Path

import jax


def free_device_memory() -> int | None:
    """Memory that JAX can still allocate on this process' default device [bytes]; None where unknown, as on a CPU."""
    statistics = jax.local_devices()[0].memory_stats()
    if not statistics or "bytes_limit" not in statistics:
        return None
    return statistics["bytes_limit"] - statistics.get("bytes_in_use", 0)


def free_main_memory() -> int | None:
    """Memory that this process can still have, a limit of its control group included [bytes]; None if unknown."""
    free = []
    try:
        lines = Path("/proc/meminfo").read_text().splitlines()
        free += [1024 * int(line.split()[1]) for line in lines if line.startswith("MemAvailable:")]
        limit = Path("/sys/fs/cgroup/memory.max").read_text().strip()
        if limit != "max":
            used = dict(line.split() for line in Path("/sys/fs/cgroup/memory.stat").read_text().splitlines())
            free.append(int(limit) - int(used["anon"]) - int(used["shmem"]))
    except (OSError, ValueError, KeyError):
        pass  # not a Linux that tells
    return min(free, default=None)


def peak_memory() -> dict[str, int | None]:
    """Most memory that this process has had so far [bytes].

    Returns:
        `peak_host_memory`, and `peak_device_memory` on its default device, None where unknown, as on a CPU.
    """
    unit = 1 if sys.platform == "darwin" else 1024
    statistics = jax.local_devices()[0].memory_stats() or {}
    return {
        "peak_host_memory": unit * resource.getrusage(resource.RUSAGE_SELF).ru_maxrss,
        "peak_device_memory": statistics.get("peak_bytes_in_use"),
    }
