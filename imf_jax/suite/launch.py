"""Processes of a suite: started here, found again after the suite was killed, or handed to a cluster by submitit.

A process holds a lock on a file of its run for as long as it lives, whatever becomes of the suite that started it. So
no run is ever written by two processes, and a suite that is resumed waits for what an earlier one has left running.
"""

import fcntl
import os
import signal
import socket
import subprocess
import time
from collections.abc import Iterator, Mapping, Sequence
from contextlib import suppress
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any, Protocol, TypeVar

from imf_jax.cores import confined_to
from imf_jax.suite.runs import Run

T = TypeVar("T")

GRACE_S = 10.0
"""Time for processes to end after the second Ctrl-C [s]."""


class Handle(Protocol):
    """A run that is under way."""

    @property
    def place(self) -> Mapping[str, Any]:
        """Host and process id, or job id."""

    def poll(self) -> int | None:
        """Exit code; None while it runs."""

    def interrupt(self) -> None:
        """Ask it to stop in good order, as Ctrl-C does; a second time to stop at once."""

    def kill(self) -> None:
        """End it."""


class Launcher(Protocol):
    """Starts runs; `workers` of them may be under way at a time, any number if that is None."""

    @property
    def workers(self) -> int | None:
        """Runs at a time."""

    def start(self, run: Run, logs: Path, before: Mapping[str, Any]) -> Handle:
        """Start a run, or find it again; `before` is what `status.json` had about it."""


def lock_path(run: Run, logs: Path) -> Path:
    """File that is locked while a process of a run lives."""
    return logs / f".{file_name(run)}.lock"


def log_path(run: Run, logs: Path) -> Path:
    """File that receives all output of a run."""
    return logs / f"{file_name(run)}.log"


def file_name(run: Run) -> str:
    """Name of a run in names of files."""
    return run.name.replace(" ", "_")


def is_alive(run: Run, logs: Path) -> bool:
    """Whether a process of this run is still there, perhaps one that an earlier suite has started."""
    path = lock_path(run, logs)
    if not path.is_file():
        return False
    with path.open("rb") as file:
        try:
            fcntl.flock(file, fcntl.LOCK_EX | fcntl.LOCK_NB)
        except BlockingIOError:
            return True
    return False


def spawn(run: Run, logs: Path, environment: Mapping[str, str]) -> "subprocess.Popen[bytes]":
    """Start the process of a run, in a session of its own: Ctrl-C reaches the suite only, which passes it on.

    Waits for a process of the run that is still there.
    """
    logs.mkdir(parents=True, exist_ok=True)
    with lock_path(run, logs).open("wb") as lock, log_path(run, logs).open("ab") as log:
        fcntl.flock(lock, fcntl.LOCK_EX)
        log.write(f"$ {' '.join(run.command)}  # {socket.gethostname()}, {time.strftime('%F %T')}\n".encode())
        log.flush()
        return subprocess.Popen(
            run.command, stdin=subprocess.DEVNULL, stdout=log, stderr=subprocess.STDOUT, start_new_session=True,
            env={**os.environ, **environment}, pass_fds=[lock.fileno()],
        )  # fmt: skip


@dataclass
class LocalProcess:
    """Process that this suite has started.

    Attributes:
        process: the process.
        device: the GPU it has for itself, if any.
        cores: numbers of those it has for itself, if any.
    """

    process: "subprocess.Popen[bytes]"
    device: str | None = None
    cores: list[int] | None = None

    @property
    def place(self) -> Mapping[str, Any]:
        """Where it runs."""
        return {"host": socket.gethostname(), "pid": self.process.pid, "device": self.device, "cores": self.cores}

    def poll(self) -> int | None:
        """Exit code; None while it runs."""
        return self.process.poll()

    def interrupt(self) -> None:
        """Send SIGINT."""
        self.process.send_signal(signal.SIGINT)

    def kill(self) -> None:
        """Send SIGKILL."""
        self.process.kill()


@dataclass
class FormerProcess:
    """Process that an earlier suite has started and left behind; only its lock tells that it lives."""

    run: Run
    logs: Path
    place: Mapping[str, Any]

    def poll(self) -> int | None:
        """0 when it has ended: whether it was successful, its folder tells."""
        return None if is_alive(self.run, self.logs) else 0

    def interrupt(self) -> None:
        """Send SIGINT, if it is on this machine."""
        self._send(signal.SIGINT)

    def kill(self) -> None:
        """Send SIGKILL, if it is on this machine."""
        self._send(signal.SIGKILL)

    def _send(self, number: int) -> None:
        pid = self.place.get("pid")
        # Its lock is held: the process with this number is still the one that was written down.
        if isinstance(pid, int) and self.place.get("host") == socket.gethostname() and self.poll() is None:
            with suppress(ProcessLookupError, PermissionError):
                os.kill(pid, number)


@dataclass
class Pool:
    """Processes on this machine.

    Attributes:
        workers: so many at a time.
        devices: GPUs, of which every process has one; none on a machine without.
        cores: numbers of the cores of each process; none if all share all of them.
    """

    workers: int
    devices: tuple[str, ...] = ()
    cores: Sequence[list[int]] = ()
    _running: list[LocalProcess | FormerProcess] = field(default_factory=list)

    def start(self, run: Run, logs: Path, before: Mapping[str, Any]) -> Handle:
        """Start a run, or find it again."""
        handle: LocalProcess | FormerProcess
        if is_alive(run, logs):
            handle = FormerProcess(run, logs, {name: before.get(name) for name in ("host", "pid", "device", "cores")})
        else:
            self._running = [handle for handle in self._running if handle.poll() is None]
            device = next(self._free("device", self.devices), None)
            cores = next(self._free("cores", self.cores), None)
            own = {} if device is None else {"CUDA_VISIBLE_DEVICES": device}
            with confined_to(cores):
                handle = LocalProcess(spawn(run, logs, own), device, cores)
        self._running.append(handle)
        return handle

    def _free(self, name: str, all_of_them: Sequence[T]) -> Iterator[T]:
        """Those of the devices or cores that no process has."""
        taken = [handle.place.get(name) for handle in self._running]
        return (one for one in all_of_them if one not in taken)
