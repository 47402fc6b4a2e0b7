"""XLA's compiler for an H100 that is not there, and what its programs would launch and allocate.

Needs the wheels of JAX's CUDA plugin and of NVIDIA's assembler, but neither a GPU nor a driver (`make cuda-check`).
"""

import os
import re
import time
from collections.abc import Container
from dataclasses import dataclass
from functools import cache
from importlib.util import find_spec
from typing import Any, NamedTuple

import jax
from jax.experimental import topologies

from imf_jax.errors import ArgumentError, one_line

FLAGS = ("--xla_gpu_autotune_level=0", "--xla_gpu_enable_triton_gemm=false")
"""Both would have to measure kernels on a device. Matrix products go to cuBLAS, as most do after measuring."""

H100 = """
gpu_device_info {
  threads_per_block_limit: 1024 threads_per_warp: 32 shared_memory_per_block: 49152 shared_memory_per_core: 233472
  threads_per_core_limit: 2048 core_count: 132 fpus_per_core: 128
  block_dim_limit_x: 2147483647 block_dim_limit_y: 65535 block_dim_limit_z: 65535
  memory_bandwidth: 3352320000000 l2_cache_size: 52428800 clock_rate_ghz: 1.98 device_memory_size: 84929347584
  shared_memory_per_block_optin: 232448 cuda_compute_capability { major: 9 }
  registers_per_core_limit: 65536 registers_per_block_limit: 65536
}
platform_name: "CUDA"
dnn_version_info { major: 9 minor: 12 }
runtime_version { major: 13 minor: 0 patch: 0 }
device_description_str: "NVIDIA H100 80GB HBM3"
"""
"""What XLA asks a device for (a `GpuTargetConfigProto`)."""

FREE = {
    *("parameter", "constant", "tuple", "get-tuple-element", "bitcast", "opt-barrier", "after-all"),
    *("partition-id", "replica-id", "copy-done", "async-done"),
}
"""Instructions that launch nothing."""


class Instruction(NamedTuple):
    """An instruction of a computation in optimised HLO.

    Attributes:
        opcode: such as "fusion", "custom-call", "while".
        target: of a custom call, else "".
        called: computations that it runs: of a loop its body and condition, of a conditional its branches, of a call
            the one that is called; none of a fusion, which is one kernel.
        trips: how often a loop runs, 1 where that is not known.
    """

    opcode: str
    target: str
    called: tuple[str, ...]
    trips: int


Computations = dict[str, list[Instruction]]


@dataclass(frozen=True)
class Compiled:
    """A compiled program.

    Attributes:
        computations: name -> instructions, with the entry as "ENTRY".
        scratch: memory besides arguments and results [bytes].
        compile_s: time of the compilation [s].
    """

    computations: Computations
    scratch: int
    compile_s: float


def prepare() -> None:
    """Prepare this process, before JAX has made any device, for compilation without one.

    Raises:
        ArgumentError: a wheel is missing.
    """
    plugin, assembler = folder_of("jax_plugins.xla_cuda13"), folder_of("nvidia.cu13")
    if plugin is None or assembler is None:
        raise ArgumentError(
            "the wheels of JAX's CUDA plugin and of NVIDIA's assembler are missing; run: make cuda-check"
        )
    os.environ["PATH"] = os.pathsep.join([f"{assembler}/bin", os.environ.get("PATH", "")])
    os.environ["XLA_FLAGS"] = " ".join([os.environ.get("XLA_FLAGS", ""), *FLAGS]).strip()
    os.environ["JAX_SKIP_CUDA_CONSTRAINTS_CHECK"] = "1"  # the libraries of CUDA are not there, and not needed
    jax.config.update("jax_platforms", "cpu")
    # A cached program can be read back by a device only.
    jax.config.update("jax_enable_compilation_cache", False)


def folder_of(package: str) -> str | None:
    """Folder of a package, which is not imported; None if it is not installed."""
    try:
        found = find_spec(package)
    except ModuleNotFoundError:  # not even the package around it
        return None
    folders = found.submodule_search_locations if found else None
    return folders[0] if folders else None


@cache
def h100() -> Any:
    """An H100 to compile for; nothing can be put on it."""
    return topologies.get_topology_desc(platform="cuda", target_config=H100, topology="1x1x1").devices[0]


def compile_program(lowered: Any) -> Compiled | str:
    """Compile a lowered program; where XLA cannot, what it says, in one line."""
    start = time.perf_counter()
    try:
        compiled = lowered.compile()
    except Exception as error:  # XLA's own errors, which have no public class
        return one_line(error)
    seconds = time.perf_counter() - start
    return Compiled(parse(compiled.as_text()), compiled.memory_analysis().temp_size_in_bytes, seconds)


_COMPUTATION = re.compile(r"^(ENTRY )?%([\w.\-]+) \(.*\{$")
_OPCODE = re.compile(r" = (.*?) ([a-z][a-z0-9-]*)\(")
_EMPTY = re.compile(r"\w+\[(?:\d+,)*0(?:,\d+)*\]")
_CALLED = re.compile(r"\b(?:body|condition|to_apply|calls|true_computation|false_computation)=%([\w.\-]+)")
_BRANCHES = re.compile(r"\bbranch_computations=\{([^}]*)\}")
_TRIPS = re.compile(r'"known_trip_count":\{"n":"(\d+)"')
_TARGET = re.compile(r'custom_call_target="([^"]+)"')
_RUNS_OTHERS = ("while", "conditional", "call", "async-start")


def parse(hlo: str) -> Computations:
    """Read the text of an optimised module; see `Compiled.computations`. What makes empty arrays only is left out."""
    computations: Computations = {}
    found: list[Instruction] = []
    for line in hlo.splitlines():
        if start := _COMPUTATION.match(line):
            found = computations.setdefault("ENTRY" if start[1] else start[2], [])
        elif (instruction := _OPCODE.search(line)) and not _EMPTY.match(instruction[1]):
            opcode, called = instruction[2], list[str]()
            if opcode in _RUNS_OTHERS:
                branches = _BRANCHES.search(line)
                called = _CALLED.findall(line) + re.findall(r"%([\w.\-]+)", branches[1] if branches else "")
            trips, target = _TRIPS.search(line), _TARGET.search(line)
            found.append(Instruction(opcode, target[1] if target else "", tuple(called), int(trips[1]) if trips else 1))
    return computations


def launches(computations: Computations, name: str = "ENTRY", *, distinct: bool = False) -> int:
    """Kernels, copies and calls of libraries that a computation launches; of a conditional its largest branch.

    Args:
        computations: of the program.
        name: of the computation.
        distinct: count what loops repeat once, as the compiler does, whose time follows from this number.
    """
    total = 0
    for instruction in computations[name]:
        inner = [launches(computations, called, distinct=distinct) for called in instruction.called]
        if instruction.opcode == "conditional":
            total += max(inner)
        elif inner:
            total += (1 if distinct else instruction.trips) * sum(inner)
        else:
            total += instruction.opcode not in FREE
    return total


def loops_around(computations: Computations, targets: Container[str]) -> list[str]:
    """Bodies of the loops around a custom call to one of `targets`, the outermost first.

    Where there are several such calls, those around the one in most loops.
    """

    def search(name: str) -> list[str] | None:
        """Bodies of loops on the way from a computation to the call, or None if it is not in it."""
        ways: list[list[str]] = []
        for instruction in computations[name]:
            if instruction.target in targets:
                ways.append([])
            for called in instruction.called:
                way = search(called)
                if way is not None:
                    ways.append([called, *way] if instruction.opcode == "while" else way)
        return max(ways, key=len) if ways else None

    return search("ENTRY") or []
