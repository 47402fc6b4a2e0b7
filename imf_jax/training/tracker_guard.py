"""Guard around a tracker: whatever the tracker does, training goes on.

Every call is made by a daemon thread of the tracker's own, fed through a bounded queue. So a tracker that raises is
counted, one that hangs fills its queue and is left behind, and none delays a training step.
"""

import queue
import threading
import time
from collections.abc import Callable
from typing import Any

MAX_FAILURES = 3
"""A tracker that has failed this often is not called any more."""

QUEUE_SIZE = 1000
"""Calls that may wait for a slow tracker."""

_left_behind: set[str] = set()


def left_behind() -> tuple[str, ...]:
    """Trackers of this process whose thread never came back; their exit handlers may hang as well."""
    return tuple(sorted(_left_behind))


class GuardedTracker:
    """Hands calls over to a tracker in its own thread.

    Args:
        name: the user's name of the tracker.
        tracker: the tracker; see `trackers.Tracker`.
        on_warning: receives one line at the first failure, and one when the tracker is given up.
        queue_size: see `QUEUE_SIZE`.
        on_address: receives what `start` returns, if that is a text: where the run can be looked at.
    """

    def __init__(
        self,
        name: str,
        tracker: Any,
        on_warning: Callable[[str], None],
        *,
        queue_size: int = QUEUE_SIZE,
        on_address: Callable[[str], None] = lambda address: None,
    ) -> None:
        self.name = name
        self._tracker = tracker
        self._on_warning = on_warning
        self._on_address = on_address
        self._calls: queue.Queue[tuple[str, tuple[Any, ...]]] = queue.Queue(queue_size)
        self._lock = threading.Lock()
        self._closing = threading.Event()
        self._failures = 0
        self._first_failure: str | None = None
        self._disabled = self._started = self._finished = False
        self._thread = threading.Thread(target=self._work, name=f"tracker {name}", daemon=True)
        self._thread.start()

    def call(self, method: str, *arguments: Any) -> None:
        """Queue a call of `method`; returns at once."""
        if self._disabled:
            return
        try:
            self._calls.put_nowait((method, arguments))
        except queue.Full:
            self._failed(f"{method}: it does not keep up")

    def close(self) -> None:
        """Queue the end: queued calls are still made, then the tracker's `finish`."""
        self._closing.set()

    def wait(self, deadline: float) -> None:
        """Wait for the end, until `time.monotonic()` reaches `deadline` at most."""
        self._thread.join(max(0.0, deadline - time.monotonic()))
        if self._thread.is_alive():
            _left_behind.add(self.name)
            self._failed("finish: it did not end in time", fatal=True)

    def report(self) -> dict[str, Any]:
        """Report on the tracker: `failures`, `first_failure`, `disabled`, `finished`."""
        return {
            "failures": self._failures,
            "first_failure": self._first_failure,
            "disabled": self._disabled,
            "finished": self._finished,
        }

    def _work(self) -> None:
        while True:
            try:
                method, arguments = self._calls.get(timeout=0.05)
            except queue.Empty:
                if self._closing.is_set():
                    break
                continue
            if not self._disabled:
                self._try(method, *arguments)
        if self._started:
            self._finished = self._try("finish")

    def _try(self, method: str, *arguments: Any) -> bool:
        try:
            answer = getattr(self._tracker, method)(*arguments)
            if method == "start" and isinstance(answer, str):
                self._on_address(answer)
        except BaseException as error:  # some libraries raise SystemExit; here it would end the thread unseen
            # A tracker that did not start cannot do anything else either.
            self._failed(f"{method}: {_error_line(error)}", fatal=method == "start")
            return False
        self._started |= method == "start"
        return True

    def _failed(self, reason: str, *, fatal: bool = False) -> None:
        with self._lock:
            self._failures += 1
            first = self._first_failure is None
            self._first_failure = self._first_failure or reason
            given_up = not self._disabled and (fatal or self._failures >= MAX_FAILURES)
            self._disabled |= given_up
        if first and given_up:
            self._on_warning(f"tracker {self.name} failed and is given up ({reason}); training is not affected")
        elif first:
            self._on_warning(f"tracker {self.name} failed ({reason}); training is not affected")
        elif given_up:
            self._on_warning(f"tracker {self.name} failed {self._failures} times and is given up")


def _error_line(error: BaseException) -> str:
    """Format an error as one line of limited length, also if its own text cannot be made."""
    try:
        text = " ".join(str(error).split())
    except Exception:
        text = ""
    return f"{type(error).__name__}: {text}"[:300] if text else type(error).__name__
