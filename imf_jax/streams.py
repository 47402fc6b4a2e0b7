"""Standard streams that never stop the work: closed ones, a full disk, a reader that has left, letters they lack."""

import errno
import io
import os
import select
import sys
from collections.abc import Iterator
from contextlib import contextmanager
from typing import Any


class _LastingFile(io.RawIOBase):
    """An open file descriptor; what cannot be written to it is dropped.

    Attributes:
        error: the first reason why something was dropped.
    """

    def __init__(self, descriptor: int) -> None:
        self.error: OSError | None = None
        self._descriptor = descriptor

    def writable(self) -> bool:
        return True

    def fileno(self) -> int:
        return self._descriptor

    def isatty(self) -> bool:
        return os.isatty(self._descriptor)

    def write(self, content: Any) -> int:
        while True:
            try:
                return os.write(self._descriptor, content)
            except BlockingIOError:
                select.select([], [self._descriptor], [])
            except OSError as error:
                self.error = self.error or error
                return len(content)


@contextmanager
def lasting_streams() -> Iterator[list[OSError]]:
    """Make stdout and stderr such streams for a while; streams that a caller has put in their place stay as they are.

    Yields:
        a list that receives, when the context ends, why output was lost; a reader that has left is no reason.
    """
    _open_closed_descriptors()
    lost: list[OSError] = []
    kept = {}
    for name in ("stdout", "stderr"):
        stream = getattr(sys, name)
        if stream is None:
            setattr(sys, name, open(os.devnull, "w", encoding="utf-8"))  # noqa: SIM115 - as long as the process
        elif stream is getattr(sys, f"__{name}__") and isinstance(stream, io.TextIOWrapper):
            stream.flush()
            kept[name] = stream, _LastingFile(stream.fileno())
            buffer = io.BufferedWriter(kept[name][1])
            lines = stream.line_buffering or name == "stderr"
            setattr(sys, name, io.TextIOWrapper(buffer, stream.encoding, "backslashreplace", line_buffering=lines))
    try:
        yield lost
    finally:
        for name, (stream, file) in kept.items():
            getattr(sys, name).flush()
            setattr(sys, name, stream)
            if file.error is not None and file.error.errno != errno.EPIPE:
                lost.append(file.error)


def _open_closed_descriptors() -> None:
    """Else the next file that is opened gets their number, and what libraries print to it goes into that file."""
    for descriptor in range(3):
        try:
            os.fstat(descriptor)
        except OSError:
            os.open(os.devnull, os.O_RDWR)  # takes the lowest free number: this one
