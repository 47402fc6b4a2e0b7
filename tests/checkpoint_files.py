"""Checkpoint files made by hand: what PyTorch and safetensors write, without either."""

import json
import pickle
import struct
import zipfile
from collections.abc import Mapping
from pathlib import Path

import numpy as np

from imf_jax.weight_files.torch_file import LEGACY_MAGIC, LEGACY_PROTOCOL

PICKLE_START = b"\x80\x02"


def zip_container(path: Path, data_pickle: bytes, **records: bytes) -> Path:
    """A PyTorch zip file with the given pickle and storages."""
    with zipfile.ZipFile(path, "w") as archive:
        archive.writestr("archive/data.pkl", data_pickle)
        for name, content in records.items():
            archive.writestr(f"archive/data/{name.removeprefix('_')}", content)
    return path


def older_container(path: Path, data_pickle: bytes, **storages: tuple[int, bytes]) -> Path:
    """A PyTorch file of before 1.6 with the given pickle and storages (elements, content)."""
    start = [pickle.dumps(part, protocol=2) for part in (LEGACY_MAGIC, LEGACY_PROTOCOL, {"little_endian": True})]
    keys = pickle.dumps([name.removeprefix("_") for name in storages], protocol=2)
    contents = [struct.pack("<q", elements) + content for elements, content in storages.values()]
    path.write_bytes(b"".join([*start, data_pickle, keys, *contents]))
    return path


def text(value: str) -> bytes:
    """Opcodes of a string."""
    return b"X" + struct.pack("<I", len(value)) + value.encode()


def number(value: int) -> bytes:
    """Opcodes of a whole number."""
    return b"J" + struct.pack("<i", value)


def group(*parts: bytes) -> bytes:
    """Opcodes of a tuple."""
    return b"(" + b"".join(parts) + b"t"


def mapping(parts: Mapping[str, bytes]) -> bytes:
    """Opcodes of a dict."""
    return b"}(" + b"".join(text(name) + value for name, value in parts.items()) + b"u"


def named(qualified: str) -> bytes:
    """Opcodes of a class or function."""
    module, _, name = qualified.rpartition(".")
    return f"c{module}\n{name}\n".encode()


def call(function: str, *arguments: bytes) -> bytes:
    """Opcodes of the result of a call."""
    return named(function) + group(*arguments) + b"R"


def storage(kind: str, elements: int, key: str = "0") -> bytes:
    """Opcodes of a reference to a storage."""
    return group(text("storage"), named(kind), text(key), text("cpu"), number(elements)) + b"Q"


def shape(*lengths: int) -> bytes:
    """Opcodes of a tuple of whole numbers."""
    return group(*map(number, lengths))


def write_safetensors(path: Path, tensors: Mapping[str, np.ndarray | tuple[str, tuple[int, ...], bytes]]) -> Path:
    """A safetensors file of arrays and of (element type, shape, content) for types that NumPy lacks."""
    header, body = {}, b""
    for name, tensor in tensors.items():
        kind, lengths, content = ("F32", tensor.shape, tensor.tobytes()) if isinstance(tensor, np.ndarray) else tensor
        header[name] = {"dtype": kind, "shape": lengths, "data_offsets": [len(body), len(body) + len(content)]}
        body += content
    head = json.dumps(header).encode()
    path.write_bytes(struct.pack("<Q", len(head)) + head + body)
    return path
