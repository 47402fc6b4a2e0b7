"""Where the figures of a training run go: `metrics.jsonl`, one JSON object per line."""

import json
import math
import os
from collections.abc import Mapping
from pathlib import Path
from types import TracebackType
from typing import Protocol

FILE = "metrics.jsonl"


class Tracker(Protocol):
    """Receives scalars by training step."""

    def log(self, step: int, values: Mapping[str, float]) -> None:
        """Take over the figures of a step. Names are grouped by a slash, as in `validation/success`."""
        ...

    def close(self) -> None:
        """The run is over or was interrupted."""
        ...


class JsonlTracker:
    """Appends to `metrics.jsonl` and hands every line to the operating system at once. Use it as a context manager.

    Args:
        folder: the run folder.
        last_step: lines of later steps are removed, and so is a line that was cut off; they belong to steps that a
            resumed run takes again.
    """

    def __init__(self, folder: Path, last_step: int = 0) -> None:
        path = folder / FILE
        _truncate(path, last_step)
        self._file = open(path, "a", encoding="utf-8")  # noqa: SIM115 - closed by close()

    def log(self, step: int, values: Mapping[str, float]) -> None:
        """See `Tracker`. Numbers that JSON does not know become null."""
        finite = {name: value if math.isfinite(value) else None for name, value in values.items()}
        self._file.write(json.dumps({"step": step, **finite}) + "\n")
        self._file.flush()

    def close(self) -> None:
        """See `Tracker`."""
        self._file.close()

    def __enter__(self) -> "JsonlTracker":
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        self.close()


def read_metrics(folder: Path) -> list[dict[str, float]]:
    """The complete lines of `metrics.jsonl`; none if there is no such file."""
    path = folder / FILE
    lines = path.read_text(encoding="utf-8").splitlines(keepends=True) if path.is_file() else []
    return [values for values in map(_parse, lines) if values is not None]


def _parse(line: str) -> dict[str, float] | None:
    try:
        values = json.loads(line) if line.endswith("\n") else None
    except ValueError:
        return None
    return values if isinstance(values, dict) and isinstance(values.get("step"), int) else None


def _truncate(path: Path, last_step: int) -> None:
    if not path.is_file():
        return
    kept = [values for values in read_metrics(path.parent) if values["step"] <= last_step]
    aside = path.with_name(f".{path.name}.partial")
    aside.write_text("".join(json.dumps(values) + "\n" for values in kept), encoding="utf-8")
    os.replace(aside, path)
