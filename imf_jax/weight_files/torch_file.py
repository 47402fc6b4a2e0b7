"""Open checkpoints: PyTorch's zip container, its older plain one, safetensors, and several of them behind an index.

Nothing in them is executed.
"""

import hashlib
import io
import struct
import zipfile
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from imf_jax.errors import ArgumentError, UserError
from imf_jax.files import require_no_lfs_pointer
from imf_jax.weight_files.safe_pickle import Placeholder, unpickle
from imf_jax.weight_files.safetensors_file import read_safetensors
from imf_jax.weight_files.shards import read_index, weights_in
from imf_jax.weight_files.tensors import DTYPES, Storage, StoredTensor, listed_tensor

LEGACY_MAGIC = 0x1950A86A20F9469CFC6C
LEGACY_PROTOCOL = 1001
LEGACY_START = b"\x80\x02\x8a\nl\xfc\x9cF\xf9 j\xa8P\x19."
"""A pickle of LEGACY_MAGIC, with which the older container begins."""

MAX_NODES = 1_000_000
"""Objects visited while looking for tensors; more means that the pickle refers to itself in a tangle."""

ITEM_SIZES = {
    **{name: dtype.itemsize for name, dtype in DTYPES.items()},
    "complex64": 8,
    "complex128": 16,
    "qint8": 1,
    "quint8": 1,
    "qint32": 4,
    "quint4x2": 1,
    "quint2x4": 1,
}
"""Bytes of an element in a storage; those of unknown types cannot be known."""


@dataclass(frozen=True)
class Checkpoint:
    """Content of a checkpoint file.

    Attributes:
        path: the file, or the index of several.
        sha256: of the whole file; of the hashes of several.
        kind: "lightning", "state dict", "pickled module", "safetensors" or "sharded ...".
        root: the pickled object with placeholders for unknown classes; None for safetensors and several files.
        tensors: every tensor by its dotted path from the root.
        placeholders: classes and functions that the file names; none was imported or run.
    """

    path: Path
    sha256: str
    kind: str
    root: Any
    tensors: dict[str, StoredTensor]
    placeholders: list[str]


def open_checkpoint(path: Path) -> Checkpoint:
    """Read a checkpoint of any supported kind.

    Args:
        path: a file of weights, the index (`*.json`) of several, or a folder with one of them under its usual name.

    Raises:
        ArgumentError: there is no such file.
        UserError: the file is truncated, damaged or no checkpoint, or files do not belong together.
    """
    if path.is_dir():
        path = weights_in(path)
    if not path.is_file():
        raise ArgumentError(f"{path} is no file; give --checkpoint a PyTorch or safetensors file")
    return _open_shards(path) if path.suffix == ".json" else _open_file(path)


def _open_shards(path: Path) -> Checkpoint:
    digest, kinds = hashlib.sha256(), set()
    placeholders: dict[str, None] = {}
    tensors: dict[str, StoredTensor] = {}
    for shard, expected in read_index(path).items():
        part = _open_file(shard)
        if twice := [name for name in part.tensors if name in tensors]:
            raise UserError(f"{path}: {shard.name} holds {twice[0]}, which another of the files holds too")
        if missing := [name for name in expected if name not in part.tensors]:
            raise UserError(f"{path}: {shard.name} lacks {missing[0]}; the files do not belong together")
        tensors |= part.tensors
        placeholders |= dict.fromkeys(part.placeholders)
        kinds.add(part.kind)
        digest.update(part.sha256.encode())
    return Checkpoint(
        path, digest.hexdigest(), f"sharded {' and '.join(sorted(kinds))}", None, tensors, [*placeholders]
    )


def _open_file(path: Path) -> Checkpoint:
    require_no_lfs_pointer(path)
    try:
        data = path.read_bytes()
    except OSError as error:
        raise UserError(f"{path} cannot be read ({error.strerror})") from error
    digest = hashlib.sha256(data).hexdigest()
    if data[:4] == b"PK\x03\x04":
        root, placeholders = _read_zip(data, str(path))
    elif data.startswith(LEGACY_START):
        root, placeholders = _read_legacy(data, str(path))
    elif data[8:9] == b"{":
        tensors = read_safetensors(data, str(path))
        return Checkpoint(path, digest, "safetensors", None, tensors, [])
    else:
        raise UserError(f"{path} is no checkpoint: neither PyTorch's zip or older container nor safetensors")
    tensors = {}
    try:
        for name, tensor in _walk(root, (), set(), [MAX_NODES]):
            # Which of two tensors of one name is meant is unknown; that matters only if it is needed.
            twice = name in tensors and tensors[name] != tensor
            tensors[name] = listed_tensor("two different tensors") if twice else tensor
    except RecursionError as error:
        raise UserError(f"{path} is nested too deeply for a checkpoint") from error
    return Checkpoint(path, digest, _kind(root), root, tensors, placeholders)


def _kind(root: Any) -> str:
    if isinstance(root, Placeholder):
        return "pickled module"
    if isinstance(root, dict) and "state_dict" in root and "pytorch-lightning_version" in root:
        return "lightning"
    return "state dict"


def module_parts(value: Any) -> list[dict[Any, Any]] | None:
    """Parameters, buffers and children of a pickled `torch.nn.Module`, as its state dict lists them; else None."""
    state = value.state if isinstance(value, Placeholder) else None
    if not isinstance(state, dict) or "_modules" not in state:
        return None
    transient = state.get("_non_persistent_buffers_set", ())
    buffers = state.get("_buffers", {})
    if isinstance(buffers, dict) and isinstance(transient, (set, tuple)):
        buffers = {name: buffer for name, buffer in buffers.items() if name not in transient}
    return [part for part in (state.get("_parameters"), buffers, state["_modules"]) if isinstance(part, dict)]


def _walk(
    value: Any, path: tuple[str, ...], ancestors: set[int], budget: list[int]
) -> Iterator[tuple[str, StoredTensor]]:
    """Walk every tensor under `value` with its dotted path; a reference back to an ancestor is not followed."""
    if isinstance(value, StoredTensor):
        yield ".".join(path), value
        return
    if isinstance(value, Placeholder) and value.short_name().startswith("_rebuild_"):
        yield ".".join(path), _rare_tensor(value)
        return
    children: list[dict[Any, Any]]
    if isinstance(value, Placeholder):
        parts = module_parts(value)
        children = parts if parts is not None else [p for p in (value.state, value.items) if isinstance(p, dict)]
    elif isinstance(value, dict):
        children = [value]
    elif isinstance(value, (list, tuple)):
        children = [dict(enumerate(value))]
    else:
        return
    if id(value) in ancestors:
        return
    ancestors.add(id(value))
    for part in children:
        for key, child in part.items():
            budget[0] -= 1
            if budget[0] < 0:
                raise UserError(f"the file holds more than {MAX_NODES} objects; save the state dict alone")
            if isinstance(key, (str, int)):
                yield from _walk(child, (*path, str(key)), ancestors, budget)
    ancestors.discard(id(value))


def _rare_tensor(value: Placeholder) -> StoredTensor:
    """Sparse, quantised, nested or meta tensor, named by the function with which PyTorch would rebuild it."""
    inside = [item for arg in value.args if isinstance(arg, tuple) for item in arg]
    sizes = (
        arg
        for arg in (*value.args, *inside)
        if isinstance(arg, tuple) and all(type(length) is int and length >= 0 for length in arg)
    )
    return listed_tensor(value.short_name().removeprefix("_rebuild_"), next(sizes, ()))


def _read_zip(data: bytes, what: str) -> tuple[Any, list[str]]:
    try:
        archive = zipfile.ZipFile(io.BytesIO(data))
    except (zipfile.BadZipFile, ValueError, NotImplementedError) as error:
        raise UserError(f"{what} is truncated or damaged ({error})") from error
    names = set(archive.namelist())
    pickles = [name for name in names if name.endswith("/data.pkl") and name.count("/") == 1]
    if len(pickles) != 1:
        raise UserError(f"{what} is a zip file but no PyTorch checkpoint (it has no data.pkl)")
    folder = pickles[0].removesuffix("data.pkl")
    if f"{folder}constants.pkl" in names:
        raise UserError(f"{what} is a TorchScript archive; save the module's state_dict instead")

    def record(name: str) -> bytes:
        try:
            return archive.read(name)
        # zipfile meets damaged bytes with several exceptions, zlib.error and EOFError among them.
        except Exception as error:
            raise UserError(f"{what} is truncated or damaged (record {name}: {error})") from error

    order = ">" if f"{folder}byteorder" in names and record(f"{folder}byteorder") == b"big" else "<"

    def find_storage(key: str, dtype: str | None, elements: int) -> Storage:
        name = f"{folder}data/{key}"
        if name not in names:
            raise UserError(f"{what} is damaged (the record {name} is missing)")
        nbytes = archive.getinfo(name).file_size
        if dtype is None or dtype in DTYPES:
            size = DTYPES[dtype].itemsize if dtype else 1
            # Bytes that make no whole element may follow the last one.
            if not 0 <= nbytes - elements * size < size:
                raise UserError(f"{what} is damaged (the record {name} has the wrong length)")
        return Storage(f"{what}:{key}", nbytes, lambda: record(name), order)

    return unpickle(io.BytesIO(record(pickles[0])), find_storage, what)


def _no_storage(key: str, dtype: str | None, elements: int) -> Storage:
    raise ValueError("a storage where none belongs")


def _read_legacy(data: bytes, what: str) -> tuple[Any, list[str]]:
    stream = io.BytesIO(data)
    header = [unpickle(stream, _no_storage, what)[0] for _ in range(3)]
    if header[:2] != [LEGACY_MAGIC, LEGACY_PROTOCOL] or not isinstance(header[2], dict):
        raise UserError(f"{what} is damaged or of an unknown version of PyTorch's older container")
    order = "<" if header[2].get("little_endian", True) else ">"
    spans: dict[str, tuple[int, int]] = {}
    itemsizes: dict[str, int] = {}

    def find_storage(key: str, dtype: str | None, elements: int) -> Storage:
        size = ITEM_SIZES.get(dtype) if dtype else 1
        if size is None:
            raise UserError(f"{what} holds a {dtype}, which is not known; save it without the older container")
        itemsizes[key] = size

        def load() -> bytes:
            start, stop = spans[key]
            return data[start:stop]

        return Storage(f"{what}:{key}", elements * itemsizes[key], load, order)

    root, placeholders = unpickle(stream, find_storage, what)
    keys, _ = unpickle(stream, _no_storage, what)
    if not isinstance(keys, list) or set(map(str, keys)) != set(itemsizes):
        raise UserError(f"{what} is damaged (its list of storages does not fit its tensors)")
    position = stream.tell()
    for key in keys:
        if position + 8 > len(data):
            raise UserError(f"{what} is truncated (storage {key} is missing)")
        (elements,) = struct.unpack_from(f"{order}q", data, position)
        stop = position + 8 + elements * itemsizes[key]
        if elements < 0 or stop > len(data):
            raise UserError(f"{what} is truncated (storage {key} is incomplete)")
        spans[key] = (position + 8, stop)
        position = stop
    return root, placeholders
