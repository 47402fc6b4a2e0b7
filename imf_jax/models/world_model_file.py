"""File of the weights of a whole LeWorldModel: `world_model.safetensors`, with the sizes in its metadata."""

import dataclasses
import json
from collections.abc import Mapping
from pathlib import Path

import numpy as np
import safetensors
import safetensors.numpy

from imf_jax.config import from_dict
from imf_jax.errors import UserError, one_line
from imf_jax.files import require_no_lfs_pointer
from imf_jax.models.world_model import WorldModelSizes

WORLD_MODEL_FILE = "world_model.safetensors"
METADATA = "imf_jax"
FORMAT = "imf_jax.world_model 1"


def world_model_bytes(weights: Mapping[str, np.ndarray], sizes: WorldModelSizes) -> bytes:
    """Content of the file; `weights` as `sizes.weight_shapes()`, float32."""
    # One entry: safetensors writes several in any order, and the same model is to be the same file.
    metadata = {METADATA: json.dumps({"format": FORMAT, "sizes": dataclasses.asdict(sizes)})}
    content: bytes = safetensors.numpy.save({name: np.asarray(value) for name, value in weights.items()}, metadata)
    return content


def read_world_model(folder: Path) -> tuple[dict[str, np.ndarray], WorldModelSizes]:
    """Read the weights of a folder.

    Raises:
        UserError: there are none, or they are damaged.
    """
    path = folder / WORLD_MODEL_FILE
    if not path.is_file():
        raise UserError(
            f"{folder} holds no {WORLD_MODEL_FILE}; give the folder `encoder` of a pre-training, or convert a "
            "checkpoint with converters/lewm.py --whole"
        )
    require_no_lfs_pointer(path)
    try:
        with safetensors.safe_open(str(path), "numpy") as file:
            metadata = json.loads((file.metadata() or {}).get(METADATA, "{}"))
            weights = {name: file.get_tensor(name) for name in file.keys()}  # noqa: SIM118 - not a mapping
        if metadata.get("format") != FORMAT:
            raise UserError(f"its format is {metadata.get('format')!r}, not {FORMAT!r}")
        sizes = from_dict(WorldModelSizes, metadata["sizes"])
    except (UserError, OSError, KeyError, ValueError, safetensors.SafetensorError) as error:
        raise UserError(f"{path} cannot be read ({one_line(error)}); make it again") from None
    if {name: value.shape for name, value in weights.items()} != sizes.weight_shapes():
        raise UserError(f"{path}: the tensors do not have the sizes that it states; make it again")
    return weights, sizes
