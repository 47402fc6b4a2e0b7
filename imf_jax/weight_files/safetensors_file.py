"""Read safetensors files, whatever element types they hold; the library refuses a file for one it does not know."""

from typing import Any

from imf_jax.errors import UserError
from imf_jax.weight_files.json_file import parse_json
from imf_jax.weight_files.tensors import DTYPES, Storage, StoredTensor, listed_tensor

SAFETENSORS_DTYPES = {
    "F64": "float64",
    "F32": "float32",
    "F16": "float16",
    "BF16": "bfloat16",
    "I64": "int64",
    "I32": "int32",
    "I16": "int16",
    "I8": "int8",
    "U8": "uint8",
    "BOOL": "bool",
}
"""Names of the element types that are read."""


def read_safetensors(data: bytes, what: str) -> dict[str, StoredTensor]:
    """Read the tensors of a safetensors file by their names; values are cut out of `data` on request.

    Args:
        data: the whole file: 8 bytes that give the length of a JSON header, the header, the values.
        what: the file, for messages.

    Raises:
        UserError: the file is truncated or damaged.
    """
    start = 8 + int.from_bytes(data[:8], "little")

    def storage(name: str, begin: int, end: int) -> Storage:
        return Storage(f"{what}:{name}", end - begin, lambda: data[start + begin : start + end])

    try:
        header = parse_json(data[8:start])
        header.pop("__metadata__", None)
        entries = {name: _entry(entry) for name, entry in sorted(header.items())}
        position = 0
        for begin, end in sorted(span for _, _, span in entries.values()):
            if begin != position or end < begin:
                raise ValueError("its tensors overlap or leave gaps")
            position = end
        if start + position != len(data):
            raise ValueError(f"it has {len(data)} bytes, its header says {start + position}")
        return {name: _tensor(storage(name, *span), dtype, shape) for name, (dtype, shape, span) in entries.items()}
    except (AttributeError, KeyError, TypeError, ValueError, RecursionError) as error:
        raise UserError(f"{what} is truncated or no safetensors file ({error})") from error


def _entry(entry: Any) -> tuple[str, tuple[int, ...], tuple[int, int]]:
    """Element type, shape and span of values [bytes] of one tensor."""
    dtype, shape, (begin, end) = entry["dtype"], tuple(entry["shape"]), entry["data_offsets"]
    if not isinstance(dtype, str) or any(type(number) is not int or number < 0 for number in (*shape, begin, end)):
        raise ValueError("an entry of its header is no tensor")
    return dtype, shape, (begin, end)


def _tensor(storage: Storage, dtype: str, shape: tuple[int, ...]) -> StoredTensor:
    if dtype not in SAFETENSORS_DTYPES:
        return listed_tensor(dtype, shape)
    name = SAFETENSORS_DTYPES[dtype]
    strides, step = [], 1
    for length in reversed(shape):
        strides.append(step)
        step *= length
    if step * DTYPES[name].itemsize != storage.nbytes:
        raise ValueError(f"{storage.nbytes} bytes for {dtype} of shape {shape}")
    return StoredTensor(storage, name, shape, tuple(reversed(strides)))
