"""Speed of the closed loop over batch sizes."""

import math
import statistics
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from typing import Any

import jax

from imf_jax.benchmark.device_state import captured_graphs, peak_memory_gb
from imf_jax.benchmark.rollouts import PLAN_ROWS, WARP, MeasuredPolicy, require_whole_plans, run_batches
from imf_jax.config import PictureStyle
from imf_jax.errors import ArgumentError, one_line
from imf_jax.rollout.capacity import require_fit


@dataclass(frozen=True)
class ScalingFigures:
    """The closed loop at one of many batch sizes.

    Attributes:
        policy, backend, batch, steps: see `LoopFigures`.
        batches: number of timed batches.
        steps_per_s: control steps, median over the batches [1/s]; None if it was not measured.
        warmup_s: see `LoopFigures`.
        peak_gb: most memory [GB] that the device has had in use so far; None where unknown.
        captures: CUDA graphs that Warp has captured so far; None without CUDA.
        note: why it was not measured.
    """

    policy: str
    backend: str
    batch: int
    steps: int
    batches: int
    steps_per_s: float | None
    warmup_s: float | None
    peak_gb: float | None = None
    captures: int | None = None
    note: str = ""


def batch_sizes(largest: int) -> list[int]:
    """1, 4, 16, ... and `largest`."""
    sizes = [1]
    while 4 * sizes[-1] < largest:
        sizes.append(4 * sizes[-1])
    return sizes if largest == 1 else [*sizes, largest]


def measure_scaling(
    measured_policy: MeasuredPolicy,
    backend_name: str,
    *,
    sizes: Sequence[int],
    steps: int,
    repeats: int,
    max_seconds: float,
    style: PictureStyle = WARP,
    on_row: Callable[[ScalingFigures], None] = lambda row: None,
) -> list[ScalingFigures]:
    """Control steps per second at some batch sizes.

    A row without a figure says why, and no larger batch is tried: it does not fit in memory, would take more than what
    is left of `max_seconds`, judged by the sizes before, or the device failed. After an episode that ended early
    nothing else is measured.

    Args:
        measured_policy: the policy that is measured.
        backend_name: what simulates.
        sizes: the batch sizes, in the order in which they are measured.
        steps: control steps of an episode.
        repeats: batches of each size, fewer where the time is short.
        max_seconds: budget for the batches of all sizes [s]; starts, most of which is compilation, do not count.
        style: how pictures are drawn.
        on_row: receives each row when it is there.
    """
    require_whole_plans(steps, measured_policy.plan_with(1), backend_name)
    rows: list[ScalingFigures] = []
    left, too_large = max_seconds, math.inf
    backend: Any = None
    for batch in sizes:
        if batch >= too_large:
            continue
        batch_s, batches = _batch_seconds(rows, batch, steps), repeats
        note, ended_early = "", False
        if batch_s > left:
            note = f"about {batch_s:.0f} s were needed and {max(left, 0):.0f} s left; raise --max-seconds"
        elif batch_s:
            batches = max(1, min(repeats, int(left / (4 * batch_s))))
        rate = warmup_s = None
        if not note:
            planner = measured_policy.plan_with(min(batch, PLAN_ROWS))
            try:
                if backend is None or backend.compiled:
                    # What a compiled backend keeps for a batch size on the device goes with it.
                    backend = measured_policy.backend(backend_name, style)
                note = _memory_problem(backend, planner, batch)
                if not note:
                    # Nothing is known of the first size: it may take so long that one batch of it must do.
                    seconds, result = run_batches(
                        backend, planner, batch=batch, steps=steps, batches=batches, max_seconds=left / 4
                    )
                    left, batches = left - sum(seconds), len(seconds)
                    rate, warmup_s = batch * steps / statistics.median(seconds), result.warmup_s
            except ArgumentError as error:
                note, ended_early = str(error), True
            except (RuntimeError, MemoryError) as error:  # of the device; what was measured before it stands
                note = one_line(error)
        if note:
            batches, too_large = 0, batch
        rows.append(
            ScalingFigures(
                measured_policy.label,
                backend_name,
                batch,
                steps,
                batches,
                rate,
                warmup_s,
                peak_gb=peak_memory_gb(),
                captures=captured_graphs(),
                note=note,
            )
        )
        on_row(rows[-1])
        if ended_early:
            break
    return rows


def _batch_seconds(rows: Sequence[ScalingFigures], batch: int, steps: int) -> float:
    """Time of a batch at worst [s]: as much longer than one that was measured as it has more scenes; 0 if unknown."""
    times = [max(batch, row.batch) * steps / row.steps_per_s for row in rows if row.steps_per_s]
    return min(times, default=0.0)


def _memory_problem(backend: Any, planner: Any, batch: int) -> str:
    """Why a batch does not fit in memory, or an empty text."""
    try:
        require_fit(backend, planner, batch, jax.local_devices()[:1] if backend.compiled else ())
    except ArgumentError as error:
        return str(error)
    return ""
