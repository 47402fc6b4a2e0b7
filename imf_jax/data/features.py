"""Cached features: what a frozen encoder makes of the pictures of demonstrations, kept beside them.

`<demonstrations>/features_<key>.npz` holds `features` (N, ...), N steps of all demonstrations in order, and `about`, a
JSON text that says what they were made from. A step is an embedding float32 (D,), or maps (C, h, w, channels) of C
cameras in float16, which takes half of the memory and is what a policy sees in the closed loop too. The key names
encoder, fusion, preprocessing, cameras and picture size, so that several encoders can be tried on the same
demonstrations.
"""

import hashlib
import json
import zipfile
from collections.abc import Callable, Iterator
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any

import jax
import numpy as np

from imf_jax.data.pictures import PictureFolder
from imf_jax.errors import UserError, one_line
from imf_jax.files import atomic_write, read_failure

PREPROCESSING_VERSION = 1
"""Raised when preprocessing or the encoder's computation changes, so that old caches are not used."""

KEY_DIGITS = 16

CHECKED_ROWS = 4096

Embed = Callable[[np.ndarray], jax.Array]
"""uint8 (B, C, H, W, 3) -> features (B, ...); compiled, called with one B only."""


@dataclass(frozen=True)
class FeatureSource:
    """Source of features: all that they depend on besides the pictures.

    Attributes:
        encoder_sha256: hash of the encoder's weights.
        fusion: layout of the views in one picture, "None" where each is encoded on its own.
        cameras: in the order in which the encoder takes them.
        image_size: height and width of the pictures [pixels].
        preprocessing: version of the computation.
        dtype: of the encoder's matrix products.
        output: what of the encoder, "" for its only or first output.
    """

    encoder_sha256: str
    fusion: str
    cameras: tuple[str, ...]
    image_size: int
    preprocessing: int = PREPROCESSING_VERSION
    dtype: str = "float32"
    output: str = ""

    def to_dict(self) -> dict[str, Any]:
        """All of it; what was once the only choice goes without saying, so that older caches stay usable."""
        unsaid = {"dtype": "float32", "output": ""}
        return {name: value for name, value in asdict(self).items() if unsaid.get(name) != value}

    @property
    def key(self) -> str:
        """Short name of this source."""
        return hashlib.sha256(json.dumps(self.to_dict(), sort_keys=True).encode()).hexdigest()[:KEY_DIGITS]


def cache_path(directory: Path, source: FeatureSource) -> Path:
    """Path of the cached features of demonstrations: in their folder, or beside the file that holds all of them."""
    name = f"features_{source.key}.npz"
    return directory.with_name(f"{directory.stem}_{name}") if directory.is_file() else directory / name


def read_features(
    pictures: PictureFolder, source: FeatureSource, shape: tuple[int, ...], dtype: np.dtype | type = np.float32
) -> np.ndarray | None:
    """Read the cached features, (N, *shape), or None if there are none.

    Args:
        pictures: the demonstrations' pictures.
        source: what else features depend on.
        shape: of the features of a step.
        dtype: of the features.

    Raises:
        UserError: the cache is damaged, or was made from other pictures or by another encoder.
    """
    path = cache_path(pictures.directory, source)
    if not path.exists():
        return None
    try:
        with path.open("rb") as file, np.load(file, allow_pickle=False) as stored:
            about, features = json.loads(str(stored["about"])), stored["features"]
    except OSError as error:
        raise read_failure(path, error, f"cannot be read ({one_line(error)})") from None
    except (ValueError, KeyError, EOFError, zipfile.BadZipFile) as error:
        raise _refused(path, f"it is damaged ({error})") from None
    if not isinstance(about, dict):
        raise _refused(path, "it does not say what it was made from")
    expected = _about(pictures, source)
    for name, value in expected.items():
        if about.get(name) != value and name != "pictures":
            raise _refused(path, f"it was made with {name} {about.get(name)!r}, not {value!r}")
    if about.get("pictures") != expected["pictures"]:
        raise _refused(path, "the pictures of the demonstrations have changed since it was made")
    expected_shape = (pictures.num_steps, *shape)
    if features.shape != expected_shape or features.dtype != dtype or not all_finite(features):
        raise _refused(path, f"it holds no finite {np.dtype(dtype)} {expected_shape} features")
    return features


def compute_features(
    pictures: PictureFolder, embed: Embed, batch_size: int, on_progress: Callable[[int], None] = lambda steps: None
) -> np.ndarray:
    """Embed the pictures of all demonstrations.

    Args:
        pictures: what to embed.
        embed: see `Embed`.
        batch_size: steps per call of `embed`; the last batch is padded.
        on_progress: called with the number of control steps embedded so far.

    Returns:
        (N, ...), as `embed` makes them.

    Raises:
        UserError: a file cannot be read, or a feature is not finite.
    """
    features, done = np.empty(0), 0
    for batch, count in _batches(pictures, batch_size):
        found = np.asarray(embed(batch))[:count]
        if not done:  # one array from the start: maps take gigabytes, which are not to be held twice
            features = np.empty((pictures.num_steps, *found.shape[1:]), found.dtype)
        features[done : done + count] = found
        done += count
        on_progress(done)
    if not all_finite(features):
        raise UserError(f"the encoder makes features of {pictures.directory} that are not finite; convert it again")
    return features


def all_finite(values: np.ndarray) -> bool:
    """Whether no value is infinite or not a number; a part at a time, in little memory."""
    return all(np.isfinite(values[first : first + CHECKED_ROWS]).all() for first in range(0, len(values), CHECKED_ROWS))


def write_features(pictures: PictureFolder, source: FeatureSource, features: np.ndarray) -> Path:
    """Write the cache; it appears under its name only when it is whole.

    Raises:
        UserError: it cannot be written.
    """
    path = cache_path(pictures.directory, source)
    try:
        with atomic_write(path) as aside, aside.open("wb") as file:
            np.savez(file, features=features, about=np.array(json.dumps(_about(pictures, source))))
    except OSError as error:
        raise UserError(f"cannot write {path}: {error.strerror}; make the folder writable or free space") from error
    return path


def _about(pictures: PictureFolder, source: FeatureSource) -> dict[str, Any]:
    values: dict[str, Any] = json.loads(json.dumps(source.to_dict()))  # as they come back from a file
    return values | {"pictures": pictures.fingerprint, "num_steps": pictures.num_steps}


def _refused(path: Path, reason: str) -> UserError:
    return UserError(f"cached features {path} cannot be used: {reason}; delete the file and they are computed again")


def _batches(pictures: PictureFolder, batch_size: int) -> Iterator[tuple[np.ndarray, int]]:
    """Pictures of consecutive steps in batches of one size, and how many of a batch are not padding."""
    rest = np.empty((0, *pictures.step_shape), np.uint8)
    for episode in pictures.read_all():
        waiting = np.concatenate([rest, episode])
        for first in range(0, len(waiting) - batch_size + 1, batch_size):
            yield waiting[first : first + batch_size], batch_size
        rest = waiting[len(waiting) // batch_size * batch_size :]
    if len(rest):
        padded = np.zeros((batch_size, *pictures.step_shape), np.uint8)
        padded[: len(rest)] = rest
        yield padded, len(rest)
