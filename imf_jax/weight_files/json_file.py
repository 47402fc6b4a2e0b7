"""Reading of JSON that other programs wrote."""

import json
from pathlib import Path
from typing import Any

from imf_jax.errors import UserError
from imf_jax.files import require_no_lfs_pointer


def parse_json(data: bytes) -> Any:
    """Parse UTF-8, with a byte order mark or without, UTF-16 or UTF-32.

    Raises:
        ValueError: it is no JSON, or an object has two entries of one name: which one counts depends on the reader.
        RecursionError: it is nested too deeply.
    """
    return json.loads(data, object_pairs_hook=_unique)


def _unique(pairs: list[tuple[str, Any]]) -> dict[str, Any]:
    values: dict[str, Any] = {}
    for name, value in pairs:
        if name in values:
            raise ValueError(f"it has two entries {name!r}")
        values[name] = value
    return values


def read_json(path: Path, mend: str) -> Any:
    """Read a JSON file, see `parse_json`.

    Args:
        path: the file.
        mend: advice for the case that it is no JSON, for the message.

    Raises:
        UserError: it cannot be read or is no JSON.
    """
    require_no_lfs_pointer(path)
    try:
        return parse_json(path.read_bytes())
    except (OSError, ValueError, RecursionError) as error:
        raise UserError(f"{path} is no JSON ({error}); {mend}") from None
