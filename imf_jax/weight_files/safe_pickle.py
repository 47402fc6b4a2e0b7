"""Read the pickle inside a PyTorch file without importing or running anything that it names.

A pickle names classes and functions; unpickling it normally imports and calls them. Here a short allow-list of names
that make up tensors maps to functions of this file, and every other name maps to a `Placeholder`: an empty class made
on the spot that only remembers what the pickle wanted to do with it. So a pickled `torch.nn.Module` can be walked for
its tensors although its class is not installed, and a pickle that would run code merely leaves a placeholder.
"""

import io
import pickle
from collections.abc import Callable
from typing import Any, ClassVar, Self

from imf_jax.errors import UserError
from imf_jax.weight_files.tensors import DTYPES, Storage, StoredTensor, listed_tensor


class Placeholder:
    """Placeholder of an object whose class is not allowed. Holds the values that the pickle gave it and does nothing.

    Attributes:
        qualified_name: module and name that the pickle asked for.
        args: positional arguments of its construction.
        state: value that the pickle would have put in its `__dict__`.
        items: values that the pickle would have stored in it under keys.
    """

    qualified_name: ClassVar[str] = ""

    def __new__(cls, *args: Any, **_: Any) -> Self:
        """Accept any arguments."""
        self = object.__new__(cls)
        self.args = args
        self.state = None
        self.items = {}
        return self

    @classmethod
    def short_name(cls) -> str:
        """Last part of the qualified name."""
        return cls.qualified_name.rpartition(".")[2]

    args: tuple[Any, ...]
    state: Any
    items: dict[Any, Any]

    def __setstate__(self, state: Any) -> None:
        self.state = state

    def __setitem__(self, key: Any, value: Any) -> None:
        self.items[key] = value

    def __call__(self, *args: Any, **_: Any) -> "Placeholder":
        """Accept a call, and return a placeholder of its result."""
        return Placeholder(*args)

    def append(self, value: Any) -> None:
        """Accept an element of a list-like object."""
        self.items[len(self.items)] = value

    def add(self, value: Any) -> None:
        """Accept an element of a set-like object."""
        self.append(value)


class Allowed:
    """Callable that a pickle may call. It holds no state that a pickle could change."""

    __slots__ = ("_function",)

    def __init__(self, function: Callable[..., Any]) -> None:
        self._function = function

    def __call__(self, *args: Any) -> Any:
        """Call the function."""
        return self._function(*args)

    def __setstate__(self, state: Any) -> None:
        raise pickle.UnpicklingError("the pickle tries to change a function")


class StateDict(dict[Any, Any]):
    """State dict in place of an OrderedDict; the attributes that PyTorch hangs on state dicts are dropped."""

    def __setstate__(self, state: Any) -> None:
        pass


class StorageType:
    """Element type of a storage, as the pickle names it; `dtype` is None for bytes."""

    __slots__ = ("dtype",)

    def __init__(self, dtype: str | None) -> None:
        self.dtype = dtype

    def __setstate__(self, state: Any) -> None:
        raise pickle.UnpicklingError("the pickle tries to change a storage type")


class TypedStorage:
    """Storage with its element type, as tensors in a pickle refer to it."""

    __slots__ = ("dtype", "storage")

    def __init__(self, storage: Storage, dtype: str | None) -> None:
        self.storage = storage
        self.dtype = dtype

    def __setstate__(self, state: Any) -> None:
        raise pickle.UnpicklingError("the pickle tries to change a storage")


def _tensor(storage: Any, offset: int, shape: Any, strides: Any, dtype: str | None, metadata: Any) -> StoredTensor:
    if not isinstance(storage, TypedStorage) or dtype is None:
        raise pickle.UnpicklingError("a tensor without a storage")
    if isinstance(metadata, dict) and (views := [str(name) for name, is_set in metadata.items() if is_set]):
        # The stored values are those before a lazy conjugation or negation.
        return listed_tensor(f"{dtype} view ({', '.join(views)})", tuple(shape))
    return StoredTensor(storage.storage, dtype, tuple(shape), tuple(strides), offset)


def _rebuild_tensor(
    storage: Any,
    offset: int,
    shape: Any,
    strides: Any,
    grad: Any = None,
    hooks: Any = None,
    metadata: Any = None,
    *_: Any,
) -> StoredTensor:
    return _tensor(storage, offset, shape, strides, getattr(storage, "dtype", None), metadata)


def _rebuild_tensor_v3(
    storage: Any,
    offset: int,
    shape: Any,
    strides: Any,
    grad: Any,
    hooks: Any,
    dtype: Any,
    metadata: Any = None,
    *_: Any,
) -> StoredTensor:
    if isinstance(dtype, StorageType):
        return _tensor(storage, offset, shape, strides, dtype.dtype, metadata)
    rare = isinstance(dtype, type) and issubclass(dtype, Placeholder)
    return _tensor(storage, offset, shape, strides, dtype.short_name() if rare else None, metadata)


def _rebuild_parameter(data: Any, *_: Any) -> Any:
    return data


def _rebuild_subclass(function: Any, kind: Any, args: Any, *_: Any) -> Any:
    # A type can only be that of a placeholder here.
    return function(*args) if isinstance(function, (Allowed, type)) else Placeholder(*args)


STORAGE_TYPES = {
    "DoubleStorage": "float64",
    "FloatStorage": "float32",
    "HalfStorage": "float16",
    "BFloat16Storage": "bfloat16",
    "LongStorage": "int64",
    "IntStorage": "int32",
    "ShortStorage": "int16",
    "CharStorage": "int8",
    "ByteStorage": "uint8",
    "BoolStorage": "bool",
    "ComplexFloatStorage": "complex64",
    "ComplexDoubleStorage": "complex128",
    "QInt8Storage": "qint8",
    "QUInt8Storage": "quint8",
    "QInt32Storage": "qint32",
    "QUInt4x2Storage": "quint4x2",
    "QUInt2x4Storage": "quint2x4",
    "UntypedStorage": None,
}
"""Class of a storage -> element type; None for bytes. Newer element types are named beside an untyped storage."""

ALLOWED: dict[str, Any] = {
    "collections.OrderedDict": Allowed(StateDict),
    "builtins.set": Allowed(set),
    "__builtin__.set": Allowed(set),
    "torch.Size": Allowed(tuple),
    "torch._utils._rebuild_tensor": Allowed(_rebuild_tensor),
    "torch._utils._rebuild_tensor_v2": Allowed(_rebuild_tensor),
    "torch._utils._rebuild_tensor_v3": Allowed(_rebuild_tensor_v3),
    "torch._utils._rebuild_parameter": Allowed(_rebuild_parameter),
    "torch._utils._rebuild_parameter_with_state": Allowed(_rebuild_parameter),
    "torch._utils._rebuild_device_tensor_from_cpu_tensor": Allowed(_rebuild_parameter),
    "torch._tensor._rebuild_from_type_v2": Allowed(_rebuild_subclass),
    **{f"torch.{name}": StorageType(name) for name in DTYPES},
}
"""Names that a pickle may resolve, besides PyTorch's storages; all others become placeholders."""


class SafeUnpickler(pickle.Unpickler):
    """Unpickler that resolves names by `ALLOWED` and storages by a function of the container.

    Args:
        data: the pickle.
        find_storage: (key, dtype or None for bytes, number of elements) -> Storage.

    Attributes:
        placeholders: qualified names that were not allowed, in the order met.
    """

    def __init__(self, data: io.BytesIO, find_storage: Callable[[str, str | None, int], Storage]) -> None:
        super().__init__(data, encoding="utf-8")
        self._find_storage = find_storage
        self._classes: dict[str, type[Placeholder]] = {}

    @property
    def placeholders(self) -> list[str]:
        """Names of the classes and functions that were neither imported nor run."""
        return list(self._classes)

    def find_class(self, module: str, name: str) -> Any:
        """Resolve a name of the pickle; imports nothing."""
        qualified = f"{module}.{name}"
        if qualified in ALLOWED:
            return ALLOWED[qualified]
        if module in ("torch", "torch.storage", "torch.cuda") and name.endswith("Storage"):
            # A storage of an element type that PyTorch has yet to invent passes under its own name.
            return StorageType(STORAGE_TYPES.get(name, name))
        if qualified not in self._classes:
            self._classes[qualified] = type("Placeholder", (Placeholder,), {"qualified_name": qualified})
        return self._classes[qualified]

    def persistent_load(self, pid: Any) -> Any:
        """Resolve a reference to a storage, or to a class that the older container stores with its source text."""
        match pid:
            case ("module", type() as kind, *_) if issubclass(kind, Placeholder):
                return kind
            # The older container adds a sixth entry; it is None but for views written by PyTorch before 0.4.
            case ("storage", StorageType() as kind, str(key), _, int(elements), *rest) if rest in ([], [None]):
                return TypedStorage(self._find_storage(key, kind.dtype, elements), kind.dtype)
        raise pickle.UnpicklingError("a reference to something that is no tensor storage")


def unpickle(
    data: io.BytesIO, find_storage: Callable[[str, str | None, int], Storage], what: str
) -> tuple[Any, list[str]]:
    """Read one pickle from `data` and leave the position behind it.

    Args:
        data: positioned at the pickle.
        find_storage: see `SafeUnpickler`.
        what: the file, for messages.

    Returns:
        The object, and the names that became placeholders.

    Raises:
        UserError: the pickle is damaged or requests objects that a checkpoint never holds.
    """
    unpickler = SafeUnpickler(data, find_storage)
    try:
        return unpickler.load(), unpickler.placeholders
    except UserError:
        raise
    # A damaged or hostile pickle can fail anywhere in the unpickler with nearly any exception.
    except Exception as error:
        raise UserError(f"{what} is damaged or no PyTorch checkpoint ({type(error).__name__}: {error})") from error
