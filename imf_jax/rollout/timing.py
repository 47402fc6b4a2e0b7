"""Timing of a rollout: a clock for the stages of the loop, and the figures of `timing.json`.

The loop takes many scenes through each stage at once. One pass of it is a *call*: a plan for all running scenes and the
chunk of control steps that follows. Figures are given per call, and per control step of an episode: the share that one
step of one episode has in its call.

| stage | what |
|---|---|
| `obs_read_ms` | the newest observations join the history; pictures are rendered |
| `preprocess_ms` | observations are put into the rows of planning batches |
| `inference_ms` | the plan: transfer to the device, normalisation, encoder, network; for an expert, all that it does |
| `env_step_ms` | inverse kinematics and physics of the chunk |
| `loop_total_ms` | the whole call, with resets and records besides these stages; without waiting for captures |
"""

import time
from collections.abc import Iterator, Sequence
from contextlib import AbstractContextManager, contextmanager, nullcontext
from pathlib import Path
from typing import Any, TypeVar

import jax
import numpy as np

from imf_jax.files import read_json, write_json

TIMING = "timing.json"

STAGES = ("obs_read_ms", "preprocess_ms", "inference_ms", "env_step_ms")
"""Stages within a call that can be measured separately on the host."""

TOTAL = "loop_total_ms"

TIMES = (*STAGES, TOTAL)

ONE_PROGRAM = "obs_read, preprocess, inference and env_step are parts of one compiled program and cannot be told apart"

RESUMED = "only of the episodes that ran after --resume; times measured before the interruption are lost"

COMPILATION = "/jax/core/compile/backend_compile_duration"
"""JAX's own event for the compilation of one function."""

T = TypeVar("T")


class StageClock:
    """Measures the stages of one rollout, call by call. Stages may be nested: time belongs to the innermost one.

    Args:
        staged: the stages can be measured separately; otherwise only the whole call is.

    Attributes:
        compile_s: time [s] spent in compilation, before the first call and within calls.
    """

    def __init__(self, *, staged: bool = True) -> None:
        self.staged = staged
        self.compile_s = [0.0, 0.0]
        self._running: list[str] = []
        self._spent = dict.fromkeys(STAGES, 0.0)
        self._calls: list[list[float]] = []
        self._steps: list[int] = []
        self._started = False
        self._since = self._call_since = self._waited = 0.0

    @contextmanager
    def measure_compilation(self) -> Iterator[None]:
        """Measure the time that JAX spends on compilation within this block."""

        def listen(event: str, duration_secs: float, **_: Any) -> None:
            if event == COMPILATION:
                self.compile_s[self._started] += duration_secs

        jax.monitoring.register_event_duration_secs_listener(listen)
        try:
            yield
        finally:
            jax.monitoring.unregister_event_duration_listener(listen)

    def start(self, waited_s: float) -> None:
        """Start the first call, after the warm-up. `waited_s`: see `end_call`."""
        self._started = True
        self._spent = dict.fromkeys(STAGES, 0.0)
        self._waited, self._call_since = waited_s, time.perf_counter()

    @contextmanager
    def stage(self, name: str) -> Iterator[None]:
        """Measure the work in this block. It must have finished on the device when the block ends."""
        self._switch()
        self._running.append(name)
        try:
            yield
        finally:
            self._switch()
            self._running.pop()

    def finished(self, values: T) -> T:
        """Return `values` once the device has computed them."""
        return jax.block_until_ready(values)

    def end_call(self, steps: int, waited_s: float) -> dict[str, float | int]:
        """End a call and start the next one.

        Args:
            steps: control steps that it made, over all episodes.
            waited_s: time [s] for which the loop has waited for captures so far.

        Returns:
            its times [ms], and `call` and `call_steps`: its number and `steps`; the `timing` of a `StepBatch`.
        """
        now = time.perf_counter()
        total = now - self._call_since - (waited_s - self._waited)
        times = [1000 * self._spent[name] for name in STAGES] if self.staged else [np.nan] * len(STAGES)
        times.append(1000 * total)
        self._calls.append(times)
        self._steps.append(steps)
        self._spent = dict.fromkeys(STAGES, 0.0)
        self._call_since, self._waited = now, waited_s
        timing: dict[str, float | int] = {
            name: value for name, value in zip(TIMES, times, strict=True) if not np.isnan(value)
        }
        return timing | {"call": len(self._calls) - 1, "call_steps": steps}

    def raw(self, warmup_s: float, *, resumed: bool = False) -> dict[str, Any]:
        """Raw measurements, plain JSON types, for `timing_figures`.

        Args:
            warmup_s: time before the first call [s].
            resumed: other episodes of the evaluation ran earlier, in another process.
        """
        calls = [[None if np.isnan(value) else value for value in call] for call in self._calls]
        return {
            "calls": calls,
            "steps": self._steps,
            "staged": self.staged,
            "resumed": resumed,
            "warmup_s": warmup_s,
            "compile_s": self.compile_s,
        }

    def _switch(self) -> None:
        """Add the time since the last switch to the stage that ran."""
        now = time.perf_counter()
        if self._running:
            self._spent[self._running[-1]] += now - self._since
        self._since = now


class NoClock:
    """Stands for a `StageClock` where nothing is measured: it does nothing."""

    def stage(self, name: str) -> AbstractContextManager[None]:
        """Measure nothing."""
        return nullcontext()

    def measure_compilation(self) -> AbstractContextManager[None]:
        """Measure no compilation."""
        return nullcontext()

    def finished(self, values: T) -> T:
        """Return `values`, whether or not the device has computed them."""
        return values


NO_CLOCK = NoClock()


def timing_figures(measured: Sequence[dict[str, Any]]) -> dict[str, Any]:
    """Content of `timing.json`.

    Args:
        measured: results of `StageClock.raw`, of each process that shared the evaluation.

    Returns:
        per time `count`, `mean`, `std`, `min`, `max`, `p50`, `p95` [ms] of the calls, None for stages that cannot
        be separated; `aggregates` with the same per control step of an episode.
    """
    calls = np.array([call for part in measured for call in part["calls"]], dtype=float).reshape(-1, len(TIMES)).T
    steps = np.array([count for part in measured for count in part["steps"]], dtype=np.int64)
    made = steps > 0
    before, within = np.array([part["compile_s"] for part in measured]).max(axis=0).tolist()
    notes = [] if all(part["staged"] for part in measured) else [ONE_PROGRAM]
    notes += [RESUMED] if any(part["resumed"] for part in measured) else []
    return {
        **{name: _figures(times, np.ones_like(steps)) for name, times in zip(TIMES, calls, strict=True)},
        "aggregates": {
            "calls": len(steps),
            "control_steps": int(steps.sum()),
            "per_episode_step": {
                name: _figures(times[made] / steps[made], steps[made]) for name, times in zip(TIMES, calls, strict=True)
            },
            "total_s": {
                name: None if np.isnan(times).any() else float(times.sum() / 1000)
                for name, times in zip(TIMES, calls, strict=True)
            },
            "warmup_s": max(part["warmup_s"] for part in measured),
            "compile_s": before,
            "compile_within_calls_s": within,
        },
        **({"note": "; ".join(notes)} if notes else {}),
    }


def write_timing(folder: Path, measured: dict[str, Any], *, whole: bool) -> None:
    """Write `timing.json` of a `StageClock.raw`; for `merge_timing`, unless it is the `whole` evaluation."""
    write_json(folder / TIMING, timing_figures([measured]) if whole else measured)


def merge_timing(folders: Sequence[Path], out: Path) -> None:
    """Merge the `timing.json` of several processes into one, if there are any."""
    measured = [read_json(folder / TIMING) for folder in folders if (folder / TIMING).exists()]
    if measured:
        write_json(out / TIMING, timing_figures(measured))


def _figures(times: np.ndarray, weights: np.ndarray) -> dict[str, float | int] | None:
    """Figures of `times` (N,) [ms], of which each counts `weights` times; None if there are none or some are NaN."""
    if not len(times) or np.isnan(times).any():
        return None
    mean = float(np.average(times, weights=weights))
    p50, p95 = np.percentile(times, [50, 95], weights=weights, method="inverted_cdf").tolist()
    return {
        "count": int(weights.sum()),
        "mean": mean,
        "std": float(np.sqrt(np.average((times - mean) ** 2, weights=weights))),
        "min": float(times.min()),
        "max": float(times.max()),
        "p50": p50,
        "p95": p95,
    }
