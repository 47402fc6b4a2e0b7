"""Files of an evaluation folder. Whole files appear at once or not at all; records are flushed one by one."""

import errno
import os
import shutil
from collections.abc import Sequence
from pathlib import Path
from types import TracebackType
from typing import Any

from imf_jax.errors import ArgumentError, UserError
from imf_jax.files import reported_write_errors, write_bytes, write_json
from imf_jax.rollout.episode import EpisodeRecord
from imf_jax.rollout.recorders.base import EPISODES

MANIFEST = "manifest.json"
RECORDS = "episodes.jsonl"
METRICS = "metrics.json"
REPORT = "report.html"


class EvaluationFolder:
    """Folder that receives one evaluation: manifest, records, metrics. Use it as a context manager.

    Args:
        path: the folder; made if it is not there.
        manifest: content of `manifest.json`, written at once.
        replace: the folder belongs to the caller, and an evaluation already in it is overwritten.
        resumed: the folder was prepared by `imf_jax.evaluation.resume.prepare_resume`, and records are added to it.

    Raises:
        UserError: the folder is not empty, or cannot be written.
    """

    def __init__(self, path: Path, manifest: dict[str, Any], *, replace: bool = False, resumed: bool = False) -> None:
        if not resumed:
            require_empty(path, replace=replace)
        self.path = path
        with reported_write_errors(path):
            path.mkdir(parents=True, exist_ok=True)
            if not resumed:
                # The manifest comes first; nothing of an older run may survive beside it.
                for name in (METRICS, REPORT):
                    (path / name).unlink(missing_ok=True)
                shutil.rmtree(path / EPISODES, ignore_errors=True)
            write_json(path / MANIFEST, manifest)
            # Unbuffered: a full disk is noticed at once.
            self._records = open(path / RECORDS, "ab" if resumed else "wb", buffering=0)  # noqa: SIM115 - closed by __exit__

    def add(self, record: EpisodeRecord) -> None:
        """Append a record and hand it to the operating system at once; a line that does not fit leaves no part.

        Raises:
            UserError: it cannot be written.
        """
        line = record.to_json().encode() + b"\n"
        with reported_write_errors(self.path):
            end = self._records.seek(0, os.SEEK_END)
            try:
                if self._records.write(line) != len(line):
                    raise OSError(errno.ENOSPC, os.strerror(errno.ENOSPC))
            except OSError:
                self._records.truncate(end)
                raise

    def finish(self, metrics: dict[str, Any], records: Sequence[EpisodeRecord] = ()) -> None:
        """Write `metrics.json`, and the records again, in order of their episodes.

        Raises:
            UserError: it cannot be written.
        """
        with reported_write_errors(self.path):
            if records:
                write_bytes(self.path / RECORDS, lines_of(records))
            write_json(self.path / METRICS, metrics)

    def __enter__(self) -> "EvaluationFolder":
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        self._records.close()


def lines_of(records: Sequence[EpisodeRecord]) -> bytes:
    """Serialise the content of `episodes.jsonl`, in order of the episodes."""
    ordered = sorted(records, key=lambda record: record.episode)
    return "".join(record.to_json() + "\n" for record in ordered).encode()


def write_merged(
    path: Path, manifest: dict[str, Any], records: Sequence[EpisodeRecord], metrics: dict[str, Any]
) -> None:
    """Write an evaluation that is complete: manifest, records, metrics.

    Raises:
        UserError: it cannot be written.
    """
    with reported_write_errors(path):
        write_json(path / MANIFEST, manifest)
        write_bytes(path / RECORDS, lines_of(records))
        write_json(path / METRICS, metrics)


def require_empty(path: Path, *, replace: bool = False) -> None:
    """Refuse a folder that an evaluation must not be written to.

    Raises:
        ArgumentError: `path` is a file, or a folder that is not empty (unless `replace`).
    """
    with reported_write_errors(path):
        if path.exists() and not path.is_dir():
            raise ArgumentError(f"{path} is a file; choose a folder for --out")
        taken = not replace and path.is_dir() and any(path.iterdir())
    if taken:
        what = "already holds a run" if (path / MANIFEST).exists() or (path / RECORDS).exists() else "is not empty"
        raise ArgumentError(
            f"output folder {path} {what}; choose another --out, continue it with --resume, or remove it"
        )


def read_records(folder: Path) -> tuple[list[EpisodeRecord], list[str]]:
    """Read `episodes.jsonl`.

    Returns:
        the records, by episode, and one line for each that could not be read.

    Raises:
        UserError: the file is not there.
    """
    path = folder / RECORDS
    if not path.is_file():
        raise UserError(f"{folder} holds no {RECORDS}; give the folder of an evaluation")
    records, problems = [], []
    for number, line in enumerate(path.read_text(encoding="utf-8", errors="replace").splitlines(), start=1):
        try:
            records.append(EpisodeRecord.from_json(line))
        except ValueError as error:
            problems.append(f"{path}:{number}: {error}")
    return sorted(records, key=lambda record: record.episode), problems
