"""Ctrl-C and what job schedulers send: the first signal stops in good order, the second at once.

SIGTERM (Slurm, Kubernetes, docker stop, systemd) and SIGHUP (a closed terminal) are treated like Ctrl-C, unless whoever
started the process has it ignore them, as nohup does.
"""

import signal
import threading
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from types import FrameType
from typing import Any, NoReturn

SIGNALS = (signal.SIGINT, signal.SIGTERM, signal.SIGHUP)

_received: list[int] = []
"""The signals that this process was sent, in order."""


def exit_code() -> int:
    """Exit code of a process that was interrupted: 130 by Ctrl-C, 143 by SIGTERM, 129 by SIGHUP."""
    return 128 + next(iter(_received), signal.SIGINT)


@contextmanager
def signals_interrupt() -> Iterator[None]:
    """Within it, SIGTERM and SIGHUP raise `KeyboardInterrupt` in the main thread, as Ctrl-C does."""
    _received.clear()
    with _handled({number: _interrupt for number in SIGNALS if signal.getsignal(number) is not signal.SIG_IGN}):
        yield


@contextmanager
def stop_on_interrupt() -> Iterator[Callable[[], bool]]:
    """Let the first signal ask the run to stop at the next opportunity; the second one interrupts at once."""
    asked = threading.Event()

    def ask(number: int, frame: FrameType | None) -> None:
        _received.append(number)
        asked.set()
        for taken in handlers:
            signal.signal(taken, _interrupt)

    # Shells start background jobs with SIGINT ignored; sent on purpose, it must work there too.
    obeyed = [n for n in SIGNALS if n == signal.SIGINT or signal.getsignal(n) is not signal.SIG_IGN]
    handlers = dict.fromkeys(obeyed, ask)
    with _handled(handlers):
        yield asked.is_set


def _interrupt(number: int, frame: FrameType | None) -> NoReturn:
    _received.append(number)
    for taken in SIGNALS:  # compiled code can keep this interrupt waiting; the next signal waits for nothing
        if signal.getsignal(taken) is _interrupt:
            signal.signal(taken, signal.SIG_DFL)
    raise KeyboardInterrupt


@contextmanager
def _handled(handlers: dict[signal.Signals, Any]) -> Iterator[None]:
    """Handlers of signals for as long as the context lasts; only the main thread has any."""
    if threading.current_thread() is not threading.main_thread():
        yield
        return
    previous = {number: signal.signal(number, handler) for number, handler in handlers.items()}
    try:
        yield
    finally:
        for number, handler in previous.items():
            signal.signal(number, handler)
