"""Atomic file writing, and reading with errors that say why a file cannot be read."""

import errno
import functools
import itertools
import json
import logging
import os
import secrets
import shutil
from collections.abc import Iterator, Sequence
from contextlib import contextmanager, suppress
from datetime import datetime
from pathlib import Path
from typing import Any

from imf_jax.errors import UnavailableError, UserError

LFS_POINTER_START = b"version https://git-lfs.github.com/spec/"

PARTIAL = ".partial"
"""End of the name of what is still being written; the name begins with a dot."""

_PROCESS = secrets.token_hex(4)
"""Part of these names: several processes, also on several machines, may write the same file at once."""

_SYNC_UNSUPPORTED = {
    errno.EINVAL, errno.ENOTSUP, errno.EOPNOTSUPP, errno.ENOSYS, errno.ENOTTY, errno.EBADF, errno.EISDIR, errno.EACCES,
    errno.EPERM, errno.EROFS,
}  # fmt: skip
"""Answers of file systems that cannot flush a folder (CIFS, VirtualBox, some FUSE); others mean a failing disk."""


def require_no_lfs_pointer(path: Path) -> None:
    """Check that a file is itself and not the small text that Git LFS leaves where it was not fetched.

    A file that cannot be opened passes: its reader says why.

    Raises:
        UserError: it is such a pointer.
    """
    try:
        with path.open("rb") as file:
            start = file.read(len(LFS_POINTER_START))
    except OSError:
        return
    if start == LFS_POINTER_START:
        raise UserError(f"{path} is a Git LFS pointer, not the file itself; fetch it with `git lfs pull`")


def read_failure(path: Path, error: Exception, damage: str) -> UserError:
    """The error for a file that a library could not read.

    Args:
        path: the file.
        error: what the library raised. HDF5, Arrow and FFmpeg pass on the error number of the operating system.
        damage: what to say, and how to mend it, if the content of the file is at fault.

    Returns:
        `UnavailableError` if the operating system refused access (a lock, permissions, a disk that is gone), if another
        program is writing the file or if Git LFS has not fetched it; otherwise `UserError`.
    """
    try:
        require_no_lfs_pointer(path)
    except UserError as pointer:
        return UnavailableError(str(pointer))
    number = error.errno if isinstance(error, OSError) else None
    if number == errno.ENOENT:
        return UnavailableError(f"{path}: there is no such file; restore it")
    if number is not None and number in errno.errorcode:
        reason = os.strerror(number)
    elif "already open for" in str(error):  # HDF5's mark in files with a concurrent reader (SWMR)
        reason = "marked as open for writing; if no program writes it any more, run h5clear -s on it"
    else:
        return UserError(f"{path}: {damage}")
    return UnavailableError(
        f"{path}: cannot be opened now ({reason}); wait for the program that holds it or check permissions and disk, "
        "then try again"
    )


def timestamp() -> str:
    """Local time for the name of a folder, such as 20261121-143233."""
    return datetime.now().astimezone().strftime("%Y%m%d-%H%M%S")


@contextmanager
def new_folders(parent: Path, names: Sequence[str]) -> Iterator[list[Path]]:
    """Make folders `<timestamp>_<name>` that no other process has, also not one that was started in the same second.

    Args:
        parent: where; made if it is not there.
        names: of the folders; all get the same timestamp.

    Yields:
        the folders, with a number behind a timestamp that is taken (20261121-143233-2_name). Those that are still empty
        at the end are removed.

    Raises:
        UserError: they cannot be made.
    """
    stamp = timestamp()
    stamps = itertools.chain([stamp], (f"{stamp}-{number}" for number in itertools.count(2)))
    ours = not parent.exists()
    try:
        parent.mkdir(parents=True, exist_ok=True)
        folders = next(filter(None, (_make_all([parent / f"{stamp}_{name}" for name in names]) for stamp in stamps)))
    except OSError as error:
        raise UserError(f"cannot make a folder in {parent} ({error.strerror}); choose one with --out") from None
    try:
        yield folders
    finally:
        _remove_empty([*folders, parent] if ours else folders)


def _make_all(folders: list[Path]) -> list[Path]:
    """Make all these folders, or none if one is there already."""
    for number, path in enumerate(folders):
        try:
            path.mkdir(parents=True)
        except FileExistsError:
            _remove_empty(folders[:number])
            return []
    return folders


def _remove_empty(folders: Sequence[Path]) -> None:
    for path in folders:
        with suppress(OSError):
            path.rmdir()


def flush_to_disk(path: Path) -> None:
    """Make the content of a file, or the names in a folder, survive a power failure.

    A file system that cannot promise it is reported once; the file is written all the same.

    Raises:
        OSError: the disk is full or fails, or `path` is not there.
    """
    try:
        descriptor = os.open(path, os.O_RDONLY)
        try:
            os.fsync(descriptor)
        finally:
            os.close(descriptor)
    except OSError as error:
        if error.errno not in _SYNC_UNSUPPORTED:
            raise
        _say_unsupported(error.strerror)


@functools.cache
def _say_unsupported(reason: str) -> None:
    logging.getLogger(__name__).warning(
        f"this file system cannot flush to disk ({reason}): files are written, but a power failure may lose the newest"
    )


def partial_path(path: Path) -> Path:
    """Where `path` is written until it is complete: a hidden name beside it."""
    return path.with_name(f".{path.name}.{_PROCESS}{PARTIAL}")


def remove_partials(folder: Path, name: str = "*") -> None:
    """Delete what killed writers of files called `name`, a pattern, left behind; nobody else may be writing them."""
    for path in folder.glob(f".{name}.*{PARTIAL}"):
        _remove(path)


def put_in_place(partial: Path, path: Path) -> None:
    """Flush a complete file or folder to the disk and give it its name, replacing what has this name.

    Raises:
        OSError: it cannot be flushed or moved.
    """
    for folder, _, files in os.walk(partial, topdown=False):
        for name in files:
            flush_to_disk(Path(folder, name))
        flush_to_disk(Path(folder))
    if partial.is_dir() and path.is_dir():
        replaced = partial_path(path.with_name(f"{path.name}.replaced"))
        os.replace(path, replaced)  # a folder can only take the place of an empty one
        os.replace(partial, path)
        _remove(replaced)
    else:
        if partial.is_file():
            flush_to_disk(partial)
        os.replace(partial, path)
    flush_to_disk(path.parent)


@contextmanager
def atomic_write(path: Path) -> Iterator[Path]:
    """Let a file or a folder appear when it is complete and on the disk, or not at all.

    Args:
        path: what is written; its folder must exist. If it exists it is replaced at the end, and not before.

    Yields:
        the path to write to; nothing is there yet. If the block raises, what it wrote is removed.

    Raises:
        OSError: it cannot be flushed or moved.
    """
    partial = partial_path(path)
    try:
        yield partial
        put_in_place(partial, path)
    finally:
        _remove(partial)


@contextmanager
def atomic_folder(path: Path) -> Iterator[Path]:
    """Let a new folder appear when it is complete, or not at all; makes the folders above it.

    Args:
        path: the folder. One that is there already is written into: it may be a mounted volume or the current folder.

    Yields:
        the folder to write into.

    Raises:
        OSError: see `atomic_write`.
    """
    if path.is_dir():
        yield path
        return
    path.parent.mkdir(parents=True, exist_ok=True)
    with atomic_write(path) as partial:
        partial.mkdir()
        yield partial


def write_bytes(path: Path, content: bytes | memoryview) -> None:
    """Write a file atomically. Makes its folder."""
    path.parent.mkdir(parents=True, exist_ok=True)
    with atomic_write(path) as partial:
        partial.write_bytes(content)


def write_json(path: Path, values: Any) -> None:
    """Write indented JSON atomically into an existing folder.

    Raises:
        ValueError: `values` holds a number that JSON does not know (NaN, infinity).
    """
    content = json.dumps(values, indent=2, allow_nan=False) + "\n"
    with atomic_write(path) as partial:
        partial.write_bytes(content.encode())


def _remove(path: Path) -> None:
    if path.is_dir() and not path.is_symlink():
        shutil.rmtree(path, ignore_errors=True)
    else:
        path.unlink(missing_ok=True)


@contextmanager
def reported_write_errors(path: Path, what: str = "evaluation") -> Iterator[None]:
    """Turn a failure of the file system into one line for the user: what could not be written, and where."""
    try:
        yield
    except OSError as error:
        reason = error.strerror or str(error)
        raise UserError(f"cannot write the {what} to {path} ({reason}); free space or choose another --out") from None


def read_json(path: Path) -> dict[str, Any]:
    """Read a JSON object.

    Raises:
        UserError: it is not there or no JSON object.
    """
    try:
        values = json.loads(path.read_text(encoding="utf-8"))
    except FileNotFoundError:
        raise UserError(f"{path} is not there; give the folder of an evaluation") from None
    except (ValueError, OSError) as error:
        raise UserError(f"cannot read {path}: {error}") from None
    if not isinstance(values, dict):
        raise UserError(f"{path} holds no JSON object; it is not a file of an evaluation")
    return values


TRAINING_METRICS = "metrics.jsonl"


def read_metrics(folder: Path) -> list[dict[str, Any]]:
    """The complete lines of `metrics.jsonl`; none if there is no such file."""
    path = folder / TRAINING_METRICS
    lines = path.read_text(encoding="utf-8").splitlines(keepends=True) if path.is_file() else []
    return [values for values in map(_parse, lines) if values is not None]


def _parse(line: str) -> dict[str, Any] | None:
    try:
        values = json.loads(line) if line.endswith("\n") else None
    except ValueError:
        return None
    return values if isinstance(values, dict) and isinstance(values.get("step"), int) else None
