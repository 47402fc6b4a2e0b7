"""Start NVIDIA Warp quietly, with a persistent kernel cache. Importing this module does not import Warp."""

import contextlib
import ctypes
import os
import re
import sys
from collections.abc import Iterator
from pathlib import Path
from types import ModuleType
from typing import Any

import jax

from imf_jax.cache import cache_dir, require_writable
from imf_jax.errors import ArgumentError
from imf_jax.sim.rendering.kernel_cache import guard_kernel_cache

KERNELS = "WARP_CACHE_PATH"
"""Warp's own variable for the folder of its kernels."""

DRIVER = Path("/proc/driver/nvidia/version")


def start_warp() -> ModuleType:
    """Import and initialise `warp`; returns the module. Later calls are free.

    Kernels are cached under `WARP_CACHE_PATH` if that is set, else in the user's cache folder (`imf_jax.cache`),
    so only the first run on a machine compiles them; torn files are compiled again, see `kernel_cache`. A program that
    initialised Warp itself keeps its settings.

    Raises:
        UserError: the folder of the kernels cannot be written.
    """
    import warp

    if warp.config.log_level == warp.LOG_INFO:  # the default; MJX imports Warp without asking for quiet
        warp.config.log_level = warp.LOG_WARNING
    if warp.config.kernel_cache_dir is None:
        if named := os.environ.get(KERNELS):
            require_writable(Path(named), f"set {KERNELS} to a folder that you can write, such as a copy of this one")
        else:
            warp.config.kernel_cache_dir = str(cache_dir("warp"))
    with contextlib.nullcontext() if _cuda_driver_installed() else _stderr_closed():
        warp.init()
    guard_kernel_cache(warp)
    return warp


def exclusive_launches() -> contextlib.AbstractContextManager[Any]:
    """Keep Warp to this thread while it launches kernels: on CUDA, programs of JAX wait with theirs.

    Warp's current device and stream are those of the whole process, so a kernel that is launched while a program's are
    captured would become a part of their CUDA graph. Warp runs the kernels of programs one program at a time, under a
    lock that is held here too. It is not reentrant; who holds it must not wait for a program.
    """
    if not start_warp().is_cuda_available():  # one device, no streams, no graphs
        return contextlib.nullcontext()
    from warp._src.jax.ffi import _FFI_CALLBACK_LOCK

    return _FFI_CALLBACK_LOCK


def warp_device(device: jax.Device) -> str:
    """Name by which Warp knows a device of JAX; JAX counts those of all processes, Warp those that this one sees."""
    return "cpu" if device.platform == "cpu" else f"cuda:{device.local_hardware_id}"


def pick_device(device: str | None) -> str:
    """The Warp device to use: `device` if it exists, else the CUDA device that JAX uses or the first one, else "cpu".

    Raises:
        ArgumentError: the named device is not there.
    """
    warp = start_warp()
    names = [str(d) for d in warp.get_devices()]
    if device is None:
        if not warp.is_cuda_available():
            return "cpu"
        # Processes that share a host use a GPU each: none should take memory on the others'.
        first = jax.local_devices()[0]
        return "cuda:0" if first.platform == "cpu" else warp_device(first)
    wanted = "cuda:0" if device == "cuda" else device
    if wanted not in names:
        raise ArgumentError(f"render device {device!r} is not there; choose one of: {', '.join(names)}")
    return wanted


def driver_version() -> str | None:
    """Version of the NVIDIA driver, such as "580.95.05"; None where there is none, or it does not tell."""
    try:
        found = re.search(r"Kernel Module.*?\s(\d+\.[\d.]+)", DRIVER.read_text())
    except OSError:
        return None
    return found[1] if found else None


def cuda_memory(ordinal: int) -> tuple[int, int] | None:
    """Free memory and all memory of a CUDA device by its number, as the driver says [bytes]; None without CUDA."""
    warp = start_warp()
    if not warp.is_cuda_available():
        return None
    device = warp.get_device(f"cuda:{ordinal}")
    return device.free_memory, device.total_memory


def _cuda_driver_installed() -> bool:
    try:
        ctypes.CDLL("libcuda.so.1")
    except OSError:
        return False
    return True


@contextlib.contextmanager
def _stderr_closed() -> Iterator[None]:
    """Without a CUDA driver Warp's native code prints a warning that says nothing new on a CPU machine."""
    try:
        saved = os.dup(2)
    except OSError:  # closed already, as some daemons start programs
        yield
        return
    if sys.stderr is not None:
        sys.stderr.flush()
    null = os.open(os.devnull, os.O_WRONLY)
    try:
        os.dup2(null, 2)
        yield
    finally:
        os.dup2(saved, 2)
        os.close(saved)
        os.close(null)
