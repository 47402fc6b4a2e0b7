"""`make cuda-check`: compile all that runs on an H100, on a machine without a GPU, and hold it to stated bounds.

What a GPU would launch and allocate is read from the compiled programs. What costs it dearly thus shows where there is
none; how long anything takes does not: `make gpu-check` measures that.
"""

from collections.abc import Iterator, Sequence
from dataclasses import asdict, dataclass, replace
from pathlib import Path
from typing import Any, NamedTuple

import tyro

from imf_jax.benchmark.cuda import compiler
from imf_jax.benchmark.cuda.kernels import CompiledModule, compile_modules, kernel_folder, record_loop
from imf_jax.benchmark.cuda.programs import (
    Program,
    encode,
    loop,
    on_device,
    plan,
    preset_config,
    pretraining,
    training,
    warp_calls,
    without_pictures,
)
from imf_jax.benchmark.tables import format_cell
from imf_jax.cli import run_main
from imf_jax.config import PretrainConfig
from imf_jax.errors import EXIT_FAILED, EXIT_OK
from imf_jax.evaluation.manifest import build_manifest
from imf_jax.files import write_json
from imf_jax.presets import PRETRAIN_DIRECTORY, load_preset
from imf_jax.sim.backends.warp import WarpBackend
from imf_jax.terminal import make_console, make_table

SCENES = (1, 64, 256, 1024)
"""Batch sizes. XLA fuses differently for other sizes, and may fail to compile at some of them only."""

PICTURES = 2
"""Moments that a plan reads, so that many pictures are embedded for a scene."""

WORKSPACE = 40e6
"""Scratch that does not grow with the scenes [bytes]: cuBLAS asks for 33.5 MB."""


class Bounds(NamedTuple):
    """Bounds of a program, and why they are where they are.

    Attributes:
        launches: of all of it; None for loops, whose launches follow from those of a step, and where pictures are
            encoded in blocks, which are large enough to hide their launches.
        distinct: the same, with what is repeated counted once: what XLA has to compile.
        step, substep: of a loop per control step and per physics step.
        scratch: scratch memory per scene [bytes], besides `fixed` ones.
    """

    launches: int | None = None
    distinct: int | None = None
    step: int | None = None
    substep: int | None = None
    scratch: float = 0.0
    fixed: float = WORKSPACE


BOUNDS = {
    # A layer is compiled once and scanned, with some forty launches: rotary positions, attention, SwiGLU, two mixtures.
    # Scratch is the sources of the residual attention, one per sub-layer, and the widest layer; besides, whatever the
    # number of scenes, the weights of the layers, which are stacked to be scanned (85 MB of the larger head).
    "plan 128/4": Bounds(launches=200, scratch=0.3e6),
    "plan 384/12": Bounds(launches=520, scratch=1.5e6, fixed=WORKSPACE + 90e6),
    # A physics step is the call of Warp, the flag of overflow, the count of the loop, and 36 arrays: MJX keeps them as
    # static fields of its model, and XLA makes constants with a pattern anew in every step. A control step is five of
    # those with their conditions, and some eighty launches for inverse kinematics and the books of the episode.
    "advance, no camera, 128/4": Bounds(step=290, substep=40, scratch=1.5e6),
    "advance, 3 cameras, 384/12": Bounds(step=290, substep=40, scratch=8e6, fixed=8e9),
    # Pictures are embedded in blocks, so that scratch stops growing at a tenth of an H100's memory: attention over the
    # longer `row` would take 31 MB per scene.
    "encoder, row": Bounds(fixed=8e9),
    "encoder, grid": Bounds(fixed=8e9),
    # Measured 853 and 2,556 launches, 331 and 444 of them distinct, 90 and 951 MB. Per layer 35 for v, 55 to 66 for u
    # and its tangent, 85 to 91 for the gradient, which computes the layer again; the optimizer launches three per
    # array of weights. With what a layer leaves for the gradient stored instead, and equal times computed apart, they
    # were 1,784 and 5,002; layers that are not scanned have as many distinct kernels as launches.
    "training step 128/4": Bounds(launches=900, distinct=350, fixed=0.11e9),
    "training step 384/12": Bounds(launches=2700, distinct=470, fixed=1.1e9),
    # Measured 2,670 launches, 638 of them distinct, and 18.9 GB for 128 clips.
    "pre-training step 192/12": Bounds(launches=2800, distinct=670, fixed=20e9),
}
"""Program -> its bounds. Launches cost 2 to 3 us each, however few scenes there are."""


@dataclass(frozen=True)
class Row:
    """A compiled program; None where there is nothing to be counted.

    Attributes:
        program, scenes: name and batch size.
        launches, step, substep: launches of all of it, per control step, and per physics step.
        distinct: launches of all of it, with what is repeated counted once.
        scratch_mb, scene_mb: scratch memory, and the same per scene [MB].
        compile_s: time of its compilation on this machine [s].
        broken: the bounds that do not hold, or why it cannot be compiled; "" if all is well.
    """

    program: str
    scenes: int
    launches: int | None = None
    distinct: int | None = None
    step: int | None = None
    substep: int | None = None
    scratch_mb: float | None = None
    scene_mb: float | None = None
    compile_s: float | None = None
    broken: str = ""


@dataclass(frozen=True)
class CudaCheck:
    """Compile all that runs on an H100 without one: XLA's programs, and Warp's kernels for sm_90.

    Exit codes: 0 all within bounds, 1 something is not, or does not compile, 2 a wheel is missing.
    """

    # File that receives the figures.
    json: Path = Path("runs/cuda-check.json")
    # Folder that receives Warp's kernels, by default this user's cache. A fresh host with such a GPU, a copy of it and
    # WARP_CACHE_PATH compiles none.
    kernels: Path | None = None


def main(arguments: Sequence[str] | None = None) -> int:
    """Run the check. `arguments`: of the command line."""
    check = tyro.cli(CudaCheck, args=arguments)
    compiler.prepare()
    console = make_console()
    rows = []
    for program, scenes in programs():
        rows.append(measure(program, scenes))
        console.print(f"{program.name}, {scenes} scenes: {rows[-1].broken or 'ok'}")
    modules = compile_modules(record_loop("transfer"), kernel_folder(check.kernels))
    console.print(make_table(list(asdict(rows[0])), ([*map(cell, asdict(row).values())] for row in rows), left=1))
    console.print(kernels_line(modules))
    problems = [f"{row.program}, {row.scenes} scenes: {row.broken}" for row in rows if row.broken]
    problems += [f"{module.name}: {module.error}" for module in modules if module.error]
    for problem in problems:
        console.print(f"out of bounds: {problem}")
    check.json.parent.mkdir(parents=True, exist_ok=True)
    figures = {"programs": [asdict(row) for row in rows], "kernels": [asdict(module) for module in modules]}
    write_json(check.json, build_manifest(**figures, problems=problems))
    console.print(f"figures in {check.json}")
    return EXIT_FAILED if problems else EXIT_OK


def programs() -> Iterator[tuple[Program, int]]:
    """The programs, each with the batch size it is made for."""
    state, row, grid = preset_config("transfer-state"), preset_config("lewm-384"), preset_config("lewm-384", "grid")
    backend, device = WarpBackend(state.task), compiler.h100()
    for scenes in SCENES:
        for config in (state, without_pictures(row)):
            yield on_device(device, plan(config, scenes)), scenes
        yield loop(state, backend, scenes, device)[1], scenes
        yield on_device(device, encode("row", PICTURES * scenes)), scenes
        yield on_device(device, encode("grid", PICTURES * scenes)), scenes
    yield loop(grid, backend, SCENES[-1], device)[1], SCENES[-1]
    for config in (state, row):
        yield on_device(device, training(config)), config.batch_size
    eye = load_preset("lewm-pretrain", PRETRAIN_DIRECTORY, PretrainConfig)
    yield on_device(device, pretraining(eye)), eye.batch_size


def measure(program: Program, scenes: int) -> Row:
    """Compile a program and compare it with its bounds."""
    compiled = compiler.compile_program(program.trace().lower())
    if isinstance(compiled, str):
        return Row(program.name, scenes, broken=compiled)
    found = compiled.computations
    calls = {target for target, function in warp_calls().items() if function == "step"}
    *_, step, substep = (None, None, *compiler.loops_around(found, calls))
    row = Row(
        program.name,
        scenes,
        launches=None if step else compiler.launches(found),
        distinct=compiler.launches(found, distinct=True),
        step=compiler.launches(found, step) if step else None,
        substep=compiler.launches(found, substep) if substep else None,
        scratch_mb=compiled.scratch / 1e6,
        scene_mb=compiled.scratch / scenes / 1e6,
        compile_s=compiled.compile_s,
    )
    return replace(row, broken=broken_bounds(row, BOUNDS[program.name]))


def broken_bounds(row: Row, bounds: Bounds) -> str:
    """The bounds that a row breaks, in words; "" if there are none."""
    largest: dict[str, float | None] = {
        "launches": bounds.launches,
        "distinct": bounds.distinct,
        "step": bounds.step,
        "substep": bounds.substep,
        "scratch_mb": (bounds.fixed + bounds.scratch * row.scenes) / 1e6,
    }
    broken = []
    for name, bound in largest.items():
        value = getattr(row, name)
        if bound is not None and (value is None or value > bound):
            broken.append(f"{name} {cell(value) or 'unknown'} > {cell(bound)}")
    return ", ".join(broken)


def kernels_line(modules: Sequence[CompiledModule]) -> str:
    """What became of Warp's modules, in one line."""
    cached, failed = sum(module.cached for module in modules), sum(module.error is not None for module in modules)
    return f"Warp: {len(modules)} modules for sm_90, {cached} of them cached, {failed} failed"


def cell(value: Any) -> Any:
    """Format a cell of the table: fractions to three digits."""
    return format_cell(value) if isinstance(value, float) else value


if __name__ == "__main__":
    run_main(main)
