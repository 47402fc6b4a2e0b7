"""Checks of a recording before it starts, and of every frame."""

import shutil
from collections.abc import Mapping
from pathlib import Path

import numpy as np
from numpy.typing import ArrayLike

from imf_jax.config import require
from imf_jax.data.lerobot.features import FRAME_FEATURES, Feature
from imf_jax.errors import ArgumentError, UserError

RECORDING_PREFIX = "rollout_"

LEAST_FREE_BYTES = 512 * 2**20
"""A recording does not start with less room on the disk than this."""


def require_recording_name(folder: Path) -> None:
    """Refuse a folder for recorded rollouts whose name does not say what it holds.

    Raises:
        ArgumentError: the name does not start with `rollout_`.
    """
    require(
        folder.name.startswith(RECORDING_PREFIX) and len(folder.name) > len(RECORDING_PREFIX),
        f"dataset {folder} must have a name that starts with {RECORDING_PREFIX!r}, "
        f"for example {folder.with_name(RECORDING_PREFIX + folder.name)}",
    )


def require_free_space(folder: Path, wanted: int = LEAST_FREE_BYTES) -> None:
    """Refuse to record onto a disk that is nearly full.

    Args:
        folder: where to; it or a folder above it exists.
        wanted: room that is needed [bytes].

    Raises:
        UserError: says how much there is.
    """
    existing = next(path for path in (folder.absolute(), *folder.absolute().parents) if path.exists())
    free = shutil.disk_usage(existing).free
    if free < wanted:
        raise UserError(
            f"only {free / 2**20:,.0f} MiB are free for {folder}, a recording needs {wanted / 2**20:,.0f} MiB; "
            "free space or choose another disk"
        )


def require_settings(features: Mapping[str, Feature], fps: int) -> None:
    """Refuse features or frames per second that no dataset can have.

    Raises:
        ArgumentError: names the feature.
    """
    require(fps >= 1, f"fps is {fps}; it must be at least 1")
    taken = sorted(set(features) & set(FRAME_FEATURES))
    require(not taken, f"features {taken} are filled in by the dataset itself; name yours otherwise")
    for name, feature in features.items():
        require("/" not in name and name != "", f"feature {name!r} must have a name without '/'")
        fits = len(feature.shape) == (3 if feature.dtype == "video" else 1)
        require(fits and min(feature.shape) >= 1, f"feature {name} cannot have shape {feature.shape}")


def checked_value(where: str, name: str, feature: Feature, value: ArrayLike) -> np.ndarray:
    """A value of a frame in the type of its feature.

    Args:
        where: begins the message.
        name: of the feature.
        feature: what the value must fit.
        value: as in `OpenEpisode.add`.

    Raises:
        ArgumentError: it has another shape or type.
        UserError: it is not finite.
    """
    array = np.asarray(value)
    if feature.shape == (1,) and array.shape == ():
        array = array.reshape(1)
    kinds = {"video": "u", "float32": "fiu", "int64": "iu", "bool": "b"}[feature.dtype]
    if array.shape != feature.shape or array.dtype.kind not in kinds or (kinds == "u" and array.dtype != np.uint8):
        raise ArgumentError(f"{where}: {name} is {array.dtype} {array.shape}, the dataset has {feature}")
    if feature.dtype == "video":
        return array
    array = array.astype(feature.dtype)
    if array.dtype.kind == "f" and not np.isfinite(array).all():
        raise UserError(f"{where}: {name} is not finite; end the episode before it")
    return array
