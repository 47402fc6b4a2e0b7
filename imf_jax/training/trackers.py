"""Trackers of a training run: always local files, and the trackers that the user names.

`metrics.jsonl` has one JSON object per line, `summary.json` the results. They are the truth of a run; trackers are
external (see `tracker_guard`) that can neither stop nor slow it.
"""

import json
import math
import os
import threading
import time
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from functools import partial
from pathlib import Path
from types import TracebackType
from typing import Any

from typing_extensions import override

from imf_jax.files import TRAINING_METRICS, read_metrics, write_bytes, write_json
from imf_jax.training.tracker_guard import GuardedTracker

SUMMARY = "summary.json"
TRACKING = "tracking.json"
"""File with the name of the run in services and where it can be looked at; only there if a tracker was named."""
IMAGES = "validation/images"

FINISH_TIMEOUT = 30.0
"""Time limit of all trackers together for sending their queued calls [s]."""


@dataclass(frozen=True)
class TrackedRun:
    """Description of a run, for trackers.

    Attributes:
        name: name of the run.
        folder: the run folder.
        config: the configuration, plain JSON types.
        first_step: training steps done before; not 0 if the run is resumed.
        id: names the run in services, so that a resumed run continues its curves there.
        resumed: the run has been there before under this `id`.
        group: under which services show it together with others.
    """

    name: str
    folder: Path
    config: Mapping[str, Any]
    first_step: int = 0
    id: str = ""
    resumed: bool = False
    group: str | None = None


class Tracker:
    """Receives the figures of one training run; called in the order of the methods. By default it does nothing."""

    def start(self, run: TrackedRun) -> str | None:
        """Start the run, or resume it after `run.first_step`; returns where it can be looked at, if anywhere."""

    def scalars(self, step: int, values: Mapping[str, float]) -> None:
        """Receive the figures of a step. Names are grouped by a slash, as in `validation/success`."""

    def images(self, step: int, paths: Sequence[Path]) -> None:
        """Receive the pictures of a validation."""

    def summary(self, values: Mapping[str, Any]) -> None:
        """Receive the results, plain JSON types."""

    def finish(self) -> None:
        """Finish a run that is done, was interrupted or has failed."""


class JsonlTracker(Tracker):
    """Appends to `metrics.jsonl` and flushes every line to the operating system at once; writes `summary.json`.

    Lines after the first step of a resumed run are removed, and so is a line that was cut off; they belong to steps
    that it takes again.
    """

    @override
    def start(self, run: TrackedRun) -> None:
        self._folder = run.folder
        path = run.folder / TRAINING_METRICS
        _truncate(path, run.first_step)
        (run.folder / SUMMARY).unlink(missing_ok=True)
        self._file = open(path, "a", encoding="utf-8")  # noqa: SIM115 - closed by finish()

    @override
    def scalars(self, step: int, values: Mapping[str, float]) -> None:
        """Write a line of figures; numbers that JSON does not have become null."""
        self._write({"step": step, **{name: finite(value) for name, value in values.items()}})

    @override
    def images(self, step: int, paths: Sequence[Path]) -> None:
        """Write the paths, relative to the run folder."""
        self._write({"step": step, IMAGES: [os.path.relpath(path, self._folder) for path in paths]})

    @override
    def summary(self, values: Mapping[str, Any]) -> None:
        write_json(self._folder / SUMMARY, values)

    @override
    def finish(self) -> None:
        self._file.close()

    def _write(self, values: Mapping[str, Any]) -> None:
        self._file.write(json.dumps(values) + "\n")
        self._file.flush()


class Trackers:
    """Local files and the user's trackers as one; use it as a context manager around the training.

    Args:
        run: the run; local files are opened at once.
        external: trackers by their names.
        on_warning: receives one line about each tracker that fails.
        finish_timeout: see `FINISH_TIMEOUT`.
    """

    def __init__(
        self,
        run: TrackedRun,
        external: Mapping[str, Tracker],
        on_warning: Callable[[str], None],
        *,
        finish_timeout: float = FINISH_TIMEOUT,
    ) -> None:
        self._local = JsonlTracker()
        self._local.start(run)
        self._run, self._addresses, self._lock = run, dict[str, str](), threading.Lock()
        self._external = [
            GuardedTracker(name, tracker, on_warning, on_address=partial(self._keep_address, name))
            for name, tracker in external.items()
        ]
        self._summary: dict[str, Any] = {"status": "failed"}
        self._finish_timeout = finish_timeout
        for tracker in self._external:
            tracker.call("start", run)

    def _keep_address(self, name: str, address: str) -> None:
        with self._lock:  # every tracker has a thread of its own
            self._addresses[name] = address
            write_json(self._run.folder / TRACKING, {"id": self._run.id, "addresses": self._addresses})

    def scalars(self, step: int, values: Mapping[str, float]) -> None:
        """Send the figures of a step."""
        self._local.scalars(step, values)
        for tracker in self._external:
            # A figure that is not a number is null in the local file; services differ in what they make of it.
            tracker.call("scalars", step, {name: value for name, value in values.items() if math.isfinite(value)})

    def images(self, step: int, paths: Sequence[Path]) -> None:
        """Send the pictures of a validation, if there are any."""
        if paths:
            self._local.images(step, paths)
            for tracker in self._external:
                tracker.call("images", step, tuple(paths))

    def summary(self, values: Mapping[str, Any]) -> None:
        """Keep the results; `finish` writes them, together with the reports on the trackers."""
        self._summary = dict(values)

    def finish(self, timeout: float | None = None) -> None:
        """Let the trackers send their queued calls, and write `summary.json`.

        Args:
            timeout: time limit of all together [s]; see `FINISH_TIMEOUT`.
        """
        deadline = time.monotonic() + (self._finish_timeout if timeout is None else timeout)
        for tracker in self._external:
            tracker.call("summary", self._summary)
            tracker.close()
        try:
            for tracker in self._external:
                tracker.wait(deadline)
        finally:  # also when Ctrl-C ends the waiting
            reports = {tracker.name: tracker.report() for tracker in self._external}
            self._local.summary({**self._summary, "trackers": reports})
            self._local.finish()

    def __enter__(self) -> "Trackers":
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        if error is not None:
            self._summary = {"status": "failed", "reason": f"{type(error).__name__}: {error}"}
        # A second Ctrl-C means now.
        self.finish(timeout=0.0 if isinstance(error, KeyboardInterrupt) else None)


def finite(value: float) -> float | None:
    """Return the number, or None if JSON does not have it (NaN, infinity)."""
    return value if math.isfinite(value) else None


def _truncate(path: Path, last_step: int) -> None:
    if not path.is_file():
        return
    kept = [values for values in read_metrics(path.parent) if values["step"] <= last_step]
    write_bytes(path, "".join(json.dumps(values) + "\n" for values in kept).encode())
