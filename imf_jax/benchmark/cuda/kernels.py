"""Warp's kernels of the compiled loop and of the renderer, compiled for a GPU that is not there.

Which kernels a simulation launches, and what is in them, follow from the model and from the kind of Warp's device. So
the loop runs once on the CPU while a recorder, posing as a CUDA device, notes launches instead of making them. Then the
NVRTC of Warp's wheel compiles the modules of those kernels, under the names by which a run on a GPU looks for them.
"""

import contextlib
import time
from collections.abc import Callable, Iterator
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass, field
from pathlib import Path
from types import ModuleType
from typing import Any
from unittest import mock

import numpy as np

from imf_jax.cores import usable_cores
from imf_jax.errors import one_line
from imf_jax.rollout.compiled import CompiledRollout
from imf_jax.rollout.function_planner import FunctionPlanner
from imf_jax.sim.backends.warp import WarpBackend
from imf_jax.sim.rendering.kernel_cache import list_files
from imf_jax.sim.rendering.warp_runtime import start_warp

ARCHITECTURE = 90
"""sm_90: H100 and H200."""

MULTIPROCESSORS = 132
"""Of an H100. Numbers of blocks depend on it, kernels do not."""

BLOCK = 256
"""Warp's threads per block on CUDA where a launch does not say how many."""

SCENES = 2
"""Scenes of the recorded loop. Sizes of launches depend on it, kernels do not."""

IMAGE_SIZE = 16
"""Height and width of its pictures [pixels]; likewise."""


@dataclass(frozen=True)
class CompiledModule:
    """A module of kernels that was compiled, or not.

    Attributes:
        name: name and hash; also the name of its folder in a kernel cache.
        block: threads per block.
        kernels: kernels in it that are launched.
        cached: it was there before.
        compile_s: time of its compilation [s].
        error: why it cannot be compiled, in one line, or None.
    """

    name: str
    block: int
    kernels: int
    cached: bool
    compile_s: float
    error: str | None


@dataclass
class Recorder:
    """Stands in for Warp's functions that launch kernels.

    Attributes:
        launched: (module, threads per block) -> names of its kernels that would have been launched.
    """

    launched: dict[tuple[Any, int], set[str]] = field(default_factory=dict)

    def launch(
        self,
        kernel: Any,
        dim: Any,
        inputs: Any = (),
        outputs: Any = (),
        *_: Any,
        block_dim: int | None = None,
        **options: Any,
    ) -> None:
        """In place of `warp.launch` and `warp.launch_tiled`. A launch over nothing does not even load its module."""
        if not np.prod(dim):
            return
        if kernel.is_generic:
            kernel = kernel.add_overload(kernel.infer_argument_types([*inputs, *outputs]))
        self.launched.setdefault((kernel.module, block_dim or BLOCK), set()).add(kernel.key)

    def suggested_block_size(self, kernel: Any, device: Any = None) -> tuple[int, int]:
        """In place of `warp.get_suggested_block_size`, which loads the module to ask the driver about its kernel."""
        self.launch(kernel, dim=1)
        return BLOCK, MULTIPROCESSORS

    def convex_grid(self, kernel: Any, capacity: int, device: Any) -> int:
        """In place of the function that sizes the collision of convex shapes, and sees the CPU its arrays are on."""
        self.suggested_block_size(kernel)
        return capacity


class PosingDevice:
    """Warp's CPU device, posing as an H100 where code asks on which kind of device it runs."""

    is_cuda, is_cpu, arch, sm_count = True, False, ARCHITECTURE, MULTIPROCESSORS

    def __init__(self, real: Any) -> None:
        self._real = real

    def __getattr__(self, name: str) -> Any:
        return getattr(self._real, name)


@contextlib.contextmanager
def recording(warp: ModuleType) -> Iterator[Recorder]:
    """Note the kernels that would be launched on CUDA, and launch none."""
    from mujoco.mjx.third_party import mujoco_warp
    from mujoco.mjx.third_party.mujoco_warp._src import collision_convex

    recorder, posing = Recorder(), PosingDevice(warp.get_device("cpu"))
    real_launch, real_device, real_context = warp.launch, warp.get_device, mujoco_warp.create_render_context

    def run_body(condition: Any, while_body: Callable[..., None], **arguments: Any) -> None:
        while_body(**arguments)

    def run_branches(condition: Any, on_true: Any = None, on_false: Any = None, **arguments: Any) -> None:
        for branch in filter(None, (on_true, on_false)):
            branch(**arguments)

    def launch_both(kernel: Any, *arguments: Any, **options: Any) -> None:
        recorder.launch(kernel, *arguments, **options)
        real_launch(kernel, *arguments, **options)

    def create_context(*arguments: Any, **options: Any) -> Any:
        # Acceleration structures are built by Warp's native code, which needs what the kernels before it compute.
        with mock.patch.multiple(warp, launch=launch_both, get_device=real_device):
            return real_context(*arguments, **options)

    def nothing(*_: Any, **__: Any) -> None:
        return None

    with (
        mock.patch.multiple(
            warp,
            launch=recorder.launch,
            launch_tiled=recorder.launch,
            get_suggested_block_size=recorder.suggested_block_size,
            get_device=lambda name=None: posing if name is None else real_device(name),
            capture_while=run_body,
            capture_if=run_branches,
        ),
        mock.patch.multiple(warp.utils, segmented_sort_pairs=nothing, array_scan=nothing),
        mock.patch.object(collision_convex, "_ccd_grid_size", recorder.convex_grid),
        mock.patch.object(mujoco_warp, "create_render_context", create_context),
    ):
        yield recorder


def record_loop(task: str) -> Recorder:
    """Record the loop of a task with pictures of all its cameras; videos are rendered by the same kernels.

    It goes through MJX, as on a GPU: MJX sets fields of the model by which Warp chooses and names kernels.
    """
    warp = start_warp()
    backend = WarpBackend(task, image_size=IMAGE_SIZE)
    actions = backend.task.robot.spaces.action_dim
    planner = FunctionPlanner(
        lambda seen: np.zeros((SCENES, actions), np.float32), action_dim=actions, cameras=backend.cameras, rows=SCENES
    )
    rollout = CompiledRollout(
        backend, planner, range(SCENES), seed=0, max_steps=1, num_envs=SCENES, on_record=lambda record: None
    )
    with recording(warp) as recorder:
        rollout.run()
    return recorder


def kernel_folder(cache: Path | None) -> Path:
    """Where Warp of this version looks for kernels in a cache, by default that of this user."""
    warp = start_warp()
    return Path(warp.config.kernel_cache_dir) if cache is None else cache / warp.config.version


def compile_modules(recorder: Recorder, folder: Path) -> list[CompiledModule]:
    """Compile what was recorded for sm_90, as cubins.

    Args:
        recorder: what was recorded.
        folder: a kernel cache of this version of Warp; what it has already is not compiled again.
    """
    warp = start_warp()

    def compile_one(item: tuple[tuple[Any, int], set[str]]) -> CompiledModule:
        (module, block), kernels = item
        start, compiled, error = time.perf_counter(), False, None
        name = module.get_module_identifier(block)
        options = module.resolve_options(warp.config, block_dim=block)
        try:
            compiled = module._compile(
                None, output_dir=folder / name, output_arch=ARCHITECTURE, use_ptx=False, options=options
            )
            list_files(folder / name)
        except Exception as problem:  # whatever code generation, NVRTC or the disk has to say
            error = one_line(problem)
        seconds = time.perf_counter() - start
        return CompiledModule(name, block, len(kernels), not compiled and error is None, seconds, error)

    with ThreadPoolExecutor(usable_cores()) as pool:
        return list(pool.map(compile_one, recorder.launched.items()))
