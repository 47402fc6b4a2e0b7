"""Cache folders of compiled code: one per user, so that only the very first run compiles."""

import os
import tempfile
from pathlib import Path

from imf_jax.errors import UserError

ENVIRONMENT_VARIABLE = "IMF_JAX_CACHE"

MEND = f"set {ENVIRONMENT_VARIABLE} to a writable folder"


def cache_dir(kind: str) -> Path:
    """Find or make the writable cache folder of a kind ("warp", "xla").

    `$IMF_JAX_CACHE/<kind>` if that variable is set, else `$XDG_CACHE_HOME/imf_jax/<kind>`, else
    `~/.cache/imf_jax/<kind>`. A user without a home has `imf_jax-<user id>/<kind>` among the temporary files.

    Raises:
        UserError: the folder cannot be made or written.
    """
    folder = _user_cache() / kind
    require_writable(folder, MEND)
    return folder


def require_writable(folder: Path, mend: str) -> None:
    """Make a cache folder if need be, and refuse one that cannot be written, before anything is compiled for it.

    Raises:
        UserError: ends with `mend`.
    """
    try:
        folder.mkdir(parents=True, exist_ok=True)
        with tempfile.TemporaryFile(dir=folder):
            pass
    except OSError as error:
        raise UserError(f"cannot write the cache folder {folder} ({error.strerror}); {mend}") from error


def _user_cache() -> Path:
    if override := os.environ.get(ENVIRONMENT_VARIABLE):
        try:
            return Path(override).expanduser()
        except RuntimeError as error:
            raise UserError(f"{ENVIRONMENT_VARIABLE}={override} names no folder ({error}); {MEND}") from None
    if caches := os.environ.get("XDG_CACHE_HOME"):
        return Path(caches) / "imf_jax"
    try:
        return Path.home() / ".cache" / "imf_jax"
    except RuntimeError:  # neither HOME nor an entry in passwd, as in containers that run under any user id
        return _temporary_cache()


def _temporary_cache() -> Path:
    """A folder among the temporary files that nobody else can put code into; it is made if need be."""
    try:
        path = Path(tempfile.gettempdir()) / f"imf_jax-{os.getuid()}"
        path.mkdir(mode=0o700, exist_ok=True)
        found = path.lstat()
    except OSError as error:
        raise UserError(f"cannot make a cache folder among the temporary files ({error.strerror}); {MEND}") from error
    if path.is_symlink() or found.st_uid != os.getuid() or found.st_mode & 0o022:
        raise UserError(f"the cache folder {path} is not private to this user; {MEND}")
    return path
