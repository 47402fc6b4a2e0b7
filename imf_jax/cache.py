"""Cache folders of compiled code: one per user, so that only the very first run compiles."""

import os
import tempfile
from pathlib import Path

from imf_jax.errors import UserError

ENVIRONMENT_VARIABLE = "IMF_JAX_CACHE"


def cache_dir(kind: str) -> Path:
    """Find or make the writable cache folder of a kind ("warp", "xla").

    `$IMF_JAX_CACHE/<kind>` if that variable is set, else `$XDG_CACHE_HOME/imf_jax/<kind>`, else
    `~/.cache/imf_jax/<kind>`.

    Raises:
        UserError: the folder cannot be made or written.
    """
    override = os.environ.get(ENVIRONMENT_VARIABLE)
    user_cache = os.environ.get("XDG_CACHE_HOME") or Path.home() / ".cache"
    folder = (Path(override).expanduser() if override else Path(user_cache) / "imf_jax") / kind
    try:
        folder.mkdir(parents=True, exist_ok=True)
        with tempfile.TemporaryFile(dir=folder):
            pass
    except OSError as error:
        mend = f"set {ENVIRONMENT_VARIABLE} to a writable folder"
        raise UserError(f"cannot write the cache folder {folder} ({error.strerror}); {mend}") from error
    return folder
