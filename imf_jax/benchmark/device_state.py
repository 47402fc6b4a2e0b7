"""State of the device while something is measured: peak memory, captured graphs, driver, and what nvidia-smi prints."""

import functools
import shutil
import subprocess
import sys
from typing import Any

import jax

_captured = 0


def on_cuda() -> bool:
    """Whether JAX's default device is a CUDA GPU."""
    return jax.local_devices()[0].platform in ("gpu", "cuda")


def peak_memory_gb() -> float | None:
    """Most memory [GB] that JAX and Warp have had in use on the default device so far; None where unknown."""
    peak = (jax.local_devices()[0].memory_stats() or {}).get("peak_bytes_in_use")
    if peak is None:
        return None
    warp = sys.modules.get("warp")  # it allocates beside JAX, if it is used at all
    if warp is not None and warp.is_cuda_available() and warp.is_mempool_supported("cuda:0"):
        peak += warp.get_mempool_used_mem_high("cuda:0")
    return float(peak) / 1e9


def count_captures(warp: Any) -> None:
    """Count from now on how often Warp captures a CUDA graph, which takes long; calling it once is enough."""
    enter = warp.ScopedCapture.__enter__
    if hasattr(enter, "counted"):
        return

    @functools.wraps(enter)
    def counted(capture: Any) -> Any:
        global _captured
        _captured += 1
        return enter(capture)

    counted.counted = True  # type: ignore[attr-defined]
    warp.ScopedCapture.__enter__ = counted


def captured_graphs() -> int | None:
    """CUDA graphs that Warp has captured in this process since `count_captures`; None where there is no CUDA."""
    return _captured if on_cuda() else None


def nvidia_smi(*arguments: str) -> str | None:
    """Output of nvidia-smi, or None where it is missing or fails."""
    path = shutil.which("nvidia-smi")
    if path is None:
        return None
    try:
        done = subprocess.run([path, *arguments], capture_output=True, text=True, timeout=20, check=True)
    except (OSError, subprocess.SubprocessError):
        return None
    return done.stdout.strip()


def driver_version() -> str | None:
    """Version of the NVIDIA driver, such as "580.95.05"; None where unknown."""
    found = nvidia_smi("--query-gpu=driver_version", "--format=csv,noheader")
    return found.splitlines()[0].strip() if found else None
