"""Messages between policy servers and their clients: msgpack with NumPy arrays, as openpi encodes them.

An array is the map {b"__ndarray__": True, b"data": bytes, b"dtype": "<f4", b"shape": [2, 16]}, a NumPy scalar
{b"__npgeneric__": True, b"data": number, b"dtype": "<f4"}. Nothing else has a meaning, and nothing is ever executed.
"""

import math
import re
from typing import Any

import msgpack
import numpy as np

from imf_jax.errors import UserError, one_line

MAX_LIST = 10_000
"""Entries of a list."""

MAX_CONTAINERS = 1_000
"""Maps and lists of a message: small ones would take up to a hundred times the memory of their bytes."""

MAX_DIMS = 8

_DTYPE = re.compile(r"[<>|=]?(b1|[iu][1248]|f[248])")
"""Booleans, whole and floating-point numbers: no objects, records, texts or dates."""


class ProtocolError(UserError):
    """A message that cannot be read."""


def pack(message: Any) -> bytes:
    """Encode a message of plain types and NumPy arrays.

    Raises:
        TypeError, ValueError: it holds something else.
    """
    packed: bytes = msgpack.packb(message, default=_encode)
    return packed


def unpack(data: bytes) -> Any:
    """Decode a message from anyone. Arrays are read-only views into `data`.

    Raises:
        ProtocolError: it is no message, or has entries that are not allowed; says which.
    """
    containers = 0

    def count(value: Any) -> Any:
        nonlocal containers
        containers += 1
        if containers > MAX_CONTAINERS:
            raise ProtocolError(f"the message has more than {MAX_CONTAINERS} maps and lists")
        return _decode(value) if isinstance(value, dict) else value

    try:
        return msgpack.unpackb(
            data,
            object_hook=count,
            list_hook=count,
            ext_hook=_refuse_extension,
            max_array_len=MAX_LIST,
            max_map_len=MAX_CONTAINERS,
        )
    except ProtocolError:
        raise
    except (ValueError, TypeError, OverflowError, msgpack.UnpackException) as error:
        raise ProtocolError(f"the message is no msgpack of the expected form ({one_line(error)})") from None


def _encode(value: Any) -> Any:
    if isinstance(value, np.ndarray | np.generic) and not _DTYPE.fullmatch(value.dtype.str):
        raise TypeError(f"an array of type {value.dtype} cannot be sent")
    if isinstance(value, np.ndarray):
        return {
            b"__ndarray__": True,
            b"data": value.tobytes(),
            b"dtype": value.dtype.str,
            b"shape": value.shape,
        }
    if isinstance(value, np.generic):
        return {b"__npgeneric__": True, b"data": value.item(), b"dtype": value.dtype.str}
    raise TypeError(f"a {type(value).__name__} cannot be sent")


def _decode(value: dict[Any, Any]) -> Any:
    if b"__ndarray__" in value:
        dtype, data, shape = _dtype(value), value.get(b"data"), value.get(b"shape")
        if not isinstance(data, bytes) or not isinstance(shape, list) or len(shape) > MAX_DIMS:
            raise ProtocolError(f"an array needs data and a shape of at most {MAX_DIMS} lengths")
        if not all(type(length) is int and length >= 0 for length in shape):
            raise ProtocolError("the shape of an array must be whole numbers")
        if math.prod(shape) * dtype.itemsize != len(data):
            raise ProtocolError(f"an array of shape {tuple(shape)} and type {dtype} does not have {len(data)} bytes")
        return np.frombuffer(data, dtype).reshape(shape)
    if b"__npgeneric__" in value:
        dtype, data = _dtype(value), value.get(b"data")
        if not isinstance(data, bool | int | float):
            raise ProtocolError("a NumPy scalar needs a number")
        return dtype.type(data)
    return value


def _dtype(value: dict[Any, Any]) -> np.dtype:
    name = value.get(b"dtype")
    if not isinstance(name, str) or not _DTYPE.fullmatch(name):
        raise ProtocolError(f"arrays of type {name!r:.40} are not read; send booleans, whole or floating-point numbers")
    return np.dtype(name)


def _refuse_extension(code: int, data: bytes) -> Any:
    raise ProtocolError(f"the message holds the msgpack extension {code}")
