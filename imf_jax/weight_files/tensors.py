"""Tensors of a checkpoint file: shape and dtype at once, values on request."""

from collections.abc import Callable
from dataclasses import dataclass, field

import jax.numpy as jnp
import numpy as np

from imf_jax.errors import UserError

DTYPES = {
    "float64": np.dtype(np.float64),
    "float32": np.dtype(np.float32),
    "float16": np.dtype(np.float16),
    "bfloat16": np.dtype(jnp.bfloat16),
    "int64": np.dtype(np.int64),
    "int32": np.dtype(np.int32),
    "int16": np.dtype(np.int16),
    "int8": np.dtype(np.int8),
    "uint8": np.dtype(np.uint8),
    "bool": np.dtype(np.bool_),
}
"""Element types that are read, by PyTorch's name. Tensors of any other are listed and never read."""

FLOATING = ("float64", "float32", "float16", "bfloat16")

MAX_EXPANDED = 2**30
"""Largest tensor [bytes] that may repeat the values of a smaller storage."""


@dataclass(frozen=True)
class Storage:
    """Range of bytes that tensors view.

    Attributes:
        key: names it, its file included; two tensors with one key share memory.
        nbytes: length [bytes].
        load: reads exactly `nbytes` bytes, or raises UserError; a new function for every reference to the storage.
        byte_order: "<" or ">".
    """

    key: str
    nbytes: int
    load: Callable[[], bytes] = field(compare=False)
    byte_order: str = "<"


@dataclass(frozen=True)
class StoredTensor:
    """Strided view of a storage.

    Attributes:
        storage: the storage of the values.
        dtype: PyTorch's name; only those in `DTYPES` are read.
        shape: lengths of the axes.
        strides: steps along the axes [elements].
        offset: first element [elements].
    """

    storage: Storage
    dtype: str
    shape: tuple[int, ...]
    strides: tuple[int, ...]
    offset: int = 0

    def __post_init__(self) -> None:
        numbers = (*self.shape, *self.strides, self.offset)
        if len(self.shape) != len(self.strides) or any(type(n) is not int or n < 0 for n in numbers):
            raise ValueError(f"a tensor with shape {self.shape}, strides {self.strides}, offset {self.offset}")
        if self.dtype in DTYPES:
            self._check_end(self.storage.nbytes)

    def _check_end(self, nbytes: int) -> None:
        last = self.offset + sum((n - 1) * step for n, step in zip(self.shape, self.strides, strict=True))
        if 0 not in self.shape and (last + 1) * DTYPES[self.dtype].itemsize > nbytes:
            raise ValueError(f"a tensor of shape {self.shape} that reaches past the end of its storage")

    def __setstate__(self, state: object) -> None:
        # Unpickling would set fields through this; a tensor that was checked must not change.
        raise TypeError("the fields of a stored tensor cannot be replaced")

    @property
    def is_floating(self) -> bool:
        """True if the values are floating-point numbers."""
        return self.dtype in FLOATING

    def describe(self) -> str:
        """Describe dtype and shape, for messages."""
        return f"{self.dtype} {self.shape}"

    def read(self) -> np.ndarray:
        """Read the values into an array of their own.

        Raises:
            UserError: the storage is truncated or damaged, the element type is not read, or the tensor is much larger
                than its storage.
        """
        if self.dtype not in DTYPES:
            raise UserError(f"a tensor of type {self.dtype} is not read; save it as float32")
        dtype = DTYPES[self.dtype].newbyteorder(self.storage.byte_order)
        size = int(np.prod(self.shape, dtype=object))
        # An expanded tensor is larger than its storage; a few bytes must not ask for all memory.
        if size * dtype.itemsize > max(self.storage.nbytes, MAX_EXPANDED):
            raise UserError(f"a tensor of shape {self.shape} repeats fewer stored values; save it contiguous")
        if size == 0:
            return np.zeros(self.shape, DTYPES[self.dtype])
        stored = np.frombuffer(self.storage.load(), np.uint8)
        self._check_end(len(stored))
        values = stored[: len(stored) // dtype.itemsize * dtype.itemsize].view(dtype)[self.offset :]
        steps = [step * dtype.itemsize for step in self.strides]
        view = np.lib.stride_tricks.as_strided(values, self.shape, steps, writeable=False)
        return np.array(view, DTYPES[self.dtype], order="C")


def listed_tensor(kind: str, shape: tuple[int, ...] = ()) -> StoredTensor:
    """Make a tensor that is listed and never read; `kind` stands in place of an element type."""

    def nothing() -> bytes:
        return b""

    return StoredTensor(Storage("", 0, nothing), kind, shape, (0,) * len(shape))
