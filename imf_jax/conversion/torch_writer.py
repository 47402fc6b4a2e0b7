"""Write a state dict as PyTorch's zip container, without PyTorch: `torch.load(path, weights_only=True)` reads it.

The container is a zip file with a pickle of the dictionary, whose tensors refer to records of raw bytes beside it. The
pickle is put together from its opcodes, because Python's pickler would have to import the functions that it names.
"""

import io
import pickle
import struct
import zipfile
from collections.abc import Mapping

import numpy as np

STORAGES = {np.dtype(np.float32): "FloatStorage", np.dtype(np.int64): "LongStorage"}
"""Element type -> name of PyTorch's storage class."""

VERSION = b"3\n"
"""Version of the container."""


def state_dict_bytes(tensors: Mapping[str, np.ndarray]) -> bytes:
    """Content of a `.pt` file. `tensors`: by name, float32 or int64."""
    arrays = {name: np.ascontiguousarray(value).reshape(value.shape) for name, value in tensors.items()}
    content = io.BytesIO()
    with zipfile.ZipFile(content, "w", zipfile.ZIP_STORED) as archive:
        # A fixed date: the same weights make the same bytes.
        def write(name: str, data: bytes) -> None:
            archive.writestr(zipfile.ZipInfo(f"archive/{name}"), data)

        write("data.pkl", _pickle(arrays))
        write("byteorder", b"little")
        for number, value in enumerate(arrays.values()):
            write(f"data/{number}", value.astype(value.dtype.newbyteorder("<")).tobytes())
        write("version", VERSION)
    return content.getvalue()


def _pickle(arrays: Mapping[str, np.ndarray]) -> bytes:
    items = b"".join(_text(name) + _tensor(str(n), value) for n, (name, value) in enumerate(arrays.items()))
    return pickle.PROTO + b"\x02" + pickle.EMPTY_DICT + pickle.MARK + items + pickle.SETITEMS + pickle.STOP


def _tensor(key: str, value: np.ndarray) -> bytes:
    """The call `_rebuild_tensor_v2(storage, offset, shape, strides, requires_grad, hooks)`."""
    strides = tuple(step // value.itemsize for step in value.strides)
    storage = _tuple(
        _text("storage"),
        _global("torch", STORAGES[value.dtype]),
        _text(key),
        _text("cpu"),
        _int(value.size),
    )
    no_hooks = _global("collections", "OrderedDict") + pickle.EMPTY_TUPLE + pickle.REDUCE
    arguments = _tuple(
        storage + pickle.BINPERSID,
        _int(0),
        _tuple(*map(_int, value.shape)),
        _tuple(*map(_int, strides)),
        pickle.NEWFALSE,
        no_hooks,
    )
    return _global("torch._utils", "_rebuild_tensor_v2") + arguments + pickle.REDUCE


def _tuple(*items: bytes) -> bytes:
    return pickle.MARK + b"".join(items) + pickle.TUPLE


def _int(value: int) -> bytes:
    return pickle.BININT + struct.pack("<i", value)


def _text(value: str) -> bytes:
    encoded = value.encode()
    return pickle.BINUNICODE + struct.pack("<I", len(encoded)) + encoded


def _global(module: str, name: str) -> bytes:
    return pickle.GLOBAL + f"{module}\n{name}\n".encode()
