"""What this machine has room for: GPUs, and memory for processes."""

import os
import subprocess

from imf_jax.config import require
from imf_jax.cores import share_cores
from imf_jax.memory import free_main_memory
from imf_jax.suite.launch import Pool

PROCESS_MEMORY = 3 * 2**30
"""Main memory that a run is expected to take, at least: libraries, demonstrations, scenes [bytes]."""


def visible_gpus() -> tuple[str, ...]:
    """Names of the CUDA devices that runs may use, as CUDA_VISIBLE_DEVICES takes them; none on a machine without."""
    if os.environ.get("JAX_PLATFORMS", "").lower() == "cpu":
        return ()
    chosen = os.environ.get("CUDA_VISIBLE_DEVICES")
    if chosen is not None:
        return tuple(name.strip() for name in chosen.split(",") if name.strip() not in ("", "-1"))
    try:
        listed = subprocess.run(["nvidia-smi", "-L"], capture_output=True, text=True, timeout=30, check=True).stdout
    except (OSError, subprocess.SubprocessError):
        return ()
    return tuple(str(number) for number, line in enumerate(listed.splitlines()) if line.startswith("GPU "))


def make_pool(workers: int | None, gpus: tuple[str, ...], free_memory: int | None) -> Pool:
    """The processes that this machine runs at a time.

    Args:
        workers: so many; None for one per GPU, or one, as far as memory allows.
        gpus: of which each process has one for itself.
        free_memory: main memory [bytes], None if unknown.

    Raises:
        ArgumentError: there are fewer GPUs than workers.
    """
    require(
        workers is None or not gpus or workers <= len(gpus),
        f"--workers {workers} is more than the {len(gpus)} GPUs, of which each run has one",
    )
    fitting = max(1, free_memory // PROCESS_MEMORY) if free_memory is not None else len(gpus)
    count = workers or max(1, min(len(gpus), fitting))
    # Without GPUs, runs that compute with threads on all cores would keep each other waiting.
    return Pool(count, gpus, [] if gpus else share_cores(count))


def this_machine(workers: int | None) -> Pool:
    """The pool of this machine; see `make_pool`."""
    return make_pool(workers, visible_gpus(), free_main_memory())
