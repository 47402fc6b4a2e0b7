"""Warp's kernel cache, guarded: files that a power cut or a full disk has torn are compiled again instead of loaded.

Warp trusts every file that it finds; a torn one is an exception at best, in every later run. So each folder of the
cache gets a list of checksums once its kernels are loaded, and what differs is removed before Warp looks for it.
"""

import contextlib
import fcntl
import functools
import hashlib
import json
import threading
from collections.abc import Iterator
from pathlib import Path
from types import ModuleType
from typing import Any

CHECKSUMS = "imf_jax.json"
"""In a folder of the cache: name of each file -> SHA-256."""

LOCK = "imf_jax.lock"
"""In the cache: held by the process that loads kernels, so that no other removes what it compiles."""

_loading = threading.RLock()


def guard_kernel_cache(warp: ModuleType) -> None:
    """Let Warp, which is initialised, load only what it has compiled itself or is as listed; once is enough."""
    load: Any = warp.Module.load
    if hasattr(load, "guarded"):
        return

    @functools.wraps(load)
    def guarded(module: Any, device: Any, block_dim: int | None = None, *files: Any, **named_files: Any) -> Any:
        size = block_dim if block_dim is not None else module.options["block_dim"]
        loaded = (warp.get_device(device).context, size) in module.execs
        if loaded or files or named_files:
            return load(module, device, block_dim, *files, **named_files)
        cache = Path(warp.config.kernel_cache_dir)
        folder = cache / module.get_module_identifier(size)
        with _locked(cache / LOCK):
            _remove_unlisted(folder)
            found = load(module, device, block_dim)
            list_files(folder)
        return found

    guarded.guarded = True  # type: ignore[attr-defined]
    warp.Module.load = guarded


@contextlib.contextmanager
def _locked(path: Path) -> Iterator[None]:
    """Keep other threads and processes waiting; where locks or the folder do not work, threads only."""
    with _loading, contextlib.ExitStack() as stack:
        with contextlib.suppress(OSError):
            file = stack.enter_context(open(path, "ab"))
            fcntl.flock(file, fcntl.LOCK_EX)
        yield


def _checksums(folder: Path) -> dict[str, str]:
    files = sorted(path for path in folder.glob("*") if path.is_file() and path.name != CHECKSUMS)
    return {path.name: hashlib.sha256(path.read_bytes()).hexdigest() for path in files}


def _listed(folder: Path) -> dict[str, str]:
    try:
        listed = json.loads((folder / CHECKSUMS).read_bytes())
    except (OSError, ValueError):
        return {}
    return listed if isinstance(listed, dict) else {}


def _remove_unlisted(folder: Path) -> None:
    listed = _listed(folder)
    with contextlib.suppress(OSError):  # a cache that this user may only read
        for name, checksum in _checksums(folder).items():
            if listed.get(name) != checksum:
                (folder / name).unlink()


def list_files(folder: Path) -> None:
    """List what is in a folder of the cache as Warp's own, with its checksums."""
    with contextlib.suppress(OSError):
        checksums = _checksums(folder)
        if checksums != _listed(folder):
            # Not flushed to the disk: a list that gets lost or torn costs a compilation, nothing else.
            (folder / CHECKSUMS).write_text(json.dumps(checksums), encoding="utf-8")
