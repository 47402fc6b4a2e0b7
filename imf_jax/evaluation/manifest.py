"""`manifest.json`: all settings and versions of an evaluation, so that its figures can be traced and repeated."""

import hashlib
import os
import platform
from datetime import UTC, datetime
from importlib.metadata import version
from pathlib import Path
from typing import Any

import jax

import imf_jax
from imf_jax.jax_settings import matmul_precision

MANIFEST_VERSION = 1
LIBRARIES = ("jax", "jaxlib", "flax", "numpy", "mujoco", "mujoco-mjx")


def versions() -> dict[str, str]:
    """Versions of the package, of Python and of the libraries that compute."""
    libraries = {name: version(name) for name in LIBRARIES}
    return {"imf_jax": imf_jax.__version__, "python": platform.python_version(), **libraries}


def environment() -> dict[str, Any]:
    """Versions, devices and precision of matrix products.

    `count` devices of all processes together, `local_count` of this one.
    """
    device = jax.local_devices()[0]
    return {
        "versions": versions(),
        "device": {
            "platform": device.platform,
            "kind": device.device_kind,
            "count": jax.device_count(),
            "local_count": jax.local_device_count(),
            "cpu_cores": os.cpu_count(),
        },
        "matmul_precision": matmul_precision(),
    }


def build_manifest(**content: Any) -> dict[str, Any]:
    """Build a manifest of `content` (plain JSON types), with schema version, time of creation, versions and device."""
    created = datetime.now(UTC).isoformat(timespec="seconds")
    return {"schema": MANIFEST_VERSION, "created": created, **content, **environment()}


def folder_hash(folder: Path) -> str:
    """SHA-256 over the relative paths and contents of all files of a folder, hexadecimal."""
    digest = hashlib.sha256()
    for path in sorted(path for path in folder.rglob("*") if path.is_file()):
        content = hashlib.sha256(path.read_bytes()).hexdigest()
        digest.update(f"{path.relative_to(folder).as_posix()}\0{content}\n".encode())
    return digest.hexdigest()
