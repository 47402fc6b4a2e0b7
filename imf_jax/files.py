"""Files that are either complete or absent, whatever happens to the process that writes them; why one is unreadable."""

import errno
import json
import os
from datetime import datetime
from pathlib import Path
from typing import Any

from imf_jax.errors import UnavailableError, UserError

LFS_POINTER_START = b"version https://git-lfs.github.com/spec/"


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


def flush_to_disk(path: Path) -> None:
    """Make the content of a file (or the entries of a folder) survive a power failure."""
    descriptor = os.open(path, os.O_RDONLY)
    try:
        os.fsync(descriptor)
    finally:
        os.close(descriptor)


def write_json(path: Path, values: Any) -> None:
    """Write indented JSON atomically into an existing folder.

    Raises:
        ValueError: `values` holds a number that JSON does not know (NaN, infinity).
    """
    temporary = path.with_name(f".{path.name}.partial")
    try:
        temporary.write_text(json.dumps(values, indent=2, allow_nan=False) + "\n", encoding="utf-8")
        flush_to_disk(temporary)
        os.replace(temporary, path)
    finally:
        temporary.unlink(missing_ok=True)
