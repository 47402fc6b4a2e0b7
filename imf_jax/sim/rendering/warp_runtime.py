"""Start NVIDIA Warp quietly, with a persistent kernel cache. Importing this module does not import Warp."""

import contextlib
import ctypes
import os
import sys
from collections.abc import Iterator
from types import ModuleType

from imf_jax.cache import cache_dir
from imf_jax.errors import ArgumentError
from imf_jax.sim.rendering.kernel_cache import guard_kernel_cache


def start_warp() -> ModuleType:
    """Import and initialise `warp`; returns the module. Later calls are free.

    Kernels are cached under `WARP_CACHE_PATH` if that is set, else in the user's cache folder (`imf_jax.cache`),
    so only the first run on a machine compiles them; torn files are compiled again, see `kernel_cache`. A program that
    initialised Warp itself keeps its settings.
    """
    import warp

    if warp.config.log_level == warp.LOG_INFO:  # the default; MJX imports Warp without asking for quiet
        warp.config.log_level = warp.LOG_WARNING
    if warp.config.kernel_cache_dir is None and "WARP_CACHE_PATH" not in os.environ:
        warp.config.kernel_cache_dir = str(cache_dir("warp"))
    with contextlib.nullcontext() if _cuda_driver_installed() else _stderr_closed():
        warp.init()
    guard_kernel_cache(warp)
    return warp


def pick_device(device: str | None) -> str:
    """The Warp device to use: `device` if it exists, else the first CUDA device, else "cpu".

    Raises:
        ArgumentError: the named device is not there.
    """
    warp = start_warp()
    names = [str(d) for d in warp.get_devices()]
    if device is None:
        return "cuda:0" if warp.is_cuda_available() else "cpu"
    wanted = "cuda:0" if device == "cuda" else device
    if wanted not in names:
        raise ArgumentError(f"render device {device!r} is not there; choose one of: {', '.join(names)}")
    return wanted


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
