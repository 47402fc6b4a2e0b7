"""Choice of backend and devices by their names on the command line, or one line that says what is missing."""

import importlib.util
import logging
from collections.abc import Mapping, Sequence
from importlib.metadata import version
from types import MappingProxyType
from typing import Any

import jax

from imf_jax.config import BackendName, DeviceCount, RendererName, VisualName, require
from imf_jax.errors import UserError
from imf_jax.jax_settings import platform_problem
from imf_jax.sim.robots import Visual
from imf_jax.sim.tasks import Task

_logger = logging.getLogger(__name__)

COMPILED = ("mjx", "warp")
"""Backends that are part of a compiled program, and whose scenes several devices can share."""


def local_devices() -> list[Any]:
    """The devices of this process.

    Raises:
        UserError: JAX cannot use the requested platform.
    """
    problem = platform_problem()
    if problem is not None:
        raise UserError(problem)
    return jax.local_devices()


def resolve_backend(name: BackendName) -> str:
    """Resolve the name of a backend: "auto" is "warp" on CUDA and "native" elsewhere.

    Raises:
        UserError: the backend cannot run here.
    """
    if name == "auto":
        if local_devices()[0].platform not in ("gpu", "cuda"):
            return "native"
        if _warp_sees_cuda():
            return "warp"
        _logger.warning("%s; --backend auto takes native, the CPU", _no_cuda_for_warp())
        return "native"
    if name == "warp":
        if importlib.util.find_spec("warp") is None:
            raise UserError("--backend warp needs NVIDIA Warp; install it: pip install 'mujoco-mjx[warp]==3.17.*'")
        if local_devices()[0].platform in ("gpu", "cuda") and not _warp_sees_cuda():
            raise UserError(f"--backend warp: {_no_cuda_for_warp()}")
    return name


def _no_cuda_for_warp() -> str:
    from imf_jax.sim.rendering.warp_runtime import driver_version

    driver = driver_version()
    found = f" with driver {driver}" if driver else ""
    warp = version("warp-lang")
    return f"JAX runs on CUDA but Warp {warp} finds no such device{found}; update the NVIDIA driver to R580 or newer"


def _warp_sees_cuda() -> bool:
    from imf_jax.sim.rendering.warp_runtime import start_warp

    return bool(start_warp().is_cuda_available())


def resolve_devices(backend: str, count: DeviceCount, num_envs: int | None) -> list[Any]:
    """Choose the devices that share the scenes of a compiled backend in equal parts.

    Args:
        backend: a name made by `resolve_backend`.
        count: how many, or "all".
        num_envs: scenes simulated at once; None if they will be chosen to suit the devices.

    Raises:
        ArgumentError: there are not that many, they do not divide the scenes, or the backend uses none.
    """
    there = local_devices()
    if backend not in COMPILED:
        require(
            count in (1, "all"),
            f"--devices {count} would do nothing: --backend {backend} uses all CPU cores; choose --backend mjx or warp",
        )
        return there[:1]
    wanted = len(there) if count == "all" else count
    processes = jax.process_count()
    require(
        1 <= wanted <= len(there),
        f"--devices {wanted} is more than there are: {len(there)} ({there[0].device_kind})"
        + (f" in this one of {processes} processes; --devices counts those of one process" if processes > 1 else ""),
    )
    require(
        num_envs is None or num_envs % wanted == 0,
        f"{num_envs} scenes cannot be shared by {wanted} devices; let --num-envs be a multiple of --devices, "
        f"for example {-(-(num_envs or 0) // wanted) * wanted}",
    )
    return there[:wanted]


def make_backend(
    name: str,
    task: str | Task,
    *,
    image_size: int,
    renderer: RendererName,
    visual: Visual | VisualName = "mesh",
    interpolation: int = 1,
    devices: Sequence[jax.Device] = (),
    perturb: Mapping[str, float] = MappingProxyType({}),
) -> Any:
    """Make the backend `name` (from `resolve_backend`) for a task; see the classes. `devices`: of a compiled backend.

    Raises:
        ArgumentError: a renderer that the backend cannot draw with, or a perturbation of what the task does not have.
    """
    how: dict[str, Any] = {"image_size": image_size, "interpolation": interpolation, "perturb": perturb}
    if name == "native":
        from imf_jax.sim.backends.native import NativeBackend

        return NativeBackend(task, renderer=renderer, visual=visual, **how)
    if name == "mjx":
        from imf_jax.sim.backends.mjx import MjxBackend

        return MjxBackend(task, renderer=renderer, visual=visual, devices=devices, **how)
    require(
        renderer == "warp",
        f"--renderer {renderer} cannot be part of --backend warp; leave it out, or take another backend",
    )
    from imf_jax.sim.backends.warp import WarpBackend

    return WarpBackend(task, visual=visual, devices=devices, **how)
