"""Files that are either complete or absent, whatever happens to the process that writes them."""

import json
import os
from datetime import datetime
from pathlib import Path
from typing import Any


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
