"""Checkpoints split into several files, with an index that maps each tensor to its file."""

import os
from pathlib import Path

from imf_jax.errors import ArgumentError, UserError
from imf_jax.weight_files.json_file import read_json

WEIGHT_FILES = (
    "model.safetensors",
    "model.safetensors.index.json",
    "pytorch_model.bin",
    "pytorch_model.bin.index.json",
)
"""Files that transformers looks for in a folder, in this order."""


def weights_in(folder: Path) -> Path:
    """Find the weights of a folder: a file, or the index of several.

    Raises:
        ArgumentError: it holds neither under a usual name.
    """
    for name in WEIGHT_FILES:
        if (folder / name).is_file():
            return folder / name
    raise ArgumentError(f"{folder} holds none of {', '.join(WEIGHT_FILES)}; name the file of weights in it")


def read_index(path: Path) -> dict[Path, list[str]]:
    """Read the shards that an index lists, in the order of their names, and the tensors that each must hold.

    Raises:
        UserError: it is no index, leads out of its folder, or a shard is missing.
    """
    index = read_json(path, "download it again")
    shard_of = index.get("weight_map") if isinstance(index, dict) else None
    if not isinstance(shard_of, dict) or not shard_of or not all(isinstance(name, str) for name in shard_of.values()):
        raise UserError(f"{path} is no index of weights (its weight_map names no files)")
    shards: dict[Path, list[str]] = {path.parent / name: [] for name in sorted(set(shard_of.values()))}
    for name in shard_of.values():
        if Path(name).is_absolute() or ".." in Path(name).parts:
            raise UserError(f"{path} leads out of its folder ({name}) and is not followed")
    for tensor, name in shard_of.items():
        shards[path.parent / name].append(tensor)
    # Not Path.is_file, which lets an error through for a name that is too long.
    missing = [str(shard) for shard in shards if not os.path.isfile(shard)]
    if missing:
        raise UserError(f"{path} lists {len(shards)} files and {len(missing)} are missing, first {missing[0]}")
    return shards
