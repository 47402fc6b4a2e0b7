"""Datasets of HDF5 files that anybody may have written: nothing outside the file is followed, nothing huge is read."""

from typing import Any

import h5py

from imf_jax.errors import UserError

LARGEST_EPISODE = 8 * 2**30
"""A dataset that unpacks to more than this is refused [bytes]."""


class Refused(UserError):
    """A file, or a part of it, that cannot be used; the message is without the file's name."""


def find_node(file: h5py.Group, key: str) -> Any:
    """The group or dataset under a key; None if there is none.

    Raises:
        Refused: it is a link, or its data is in another file.
    """
    node: Any = file
    for part in key.split("/"):
        link = node.get(part, getlink=True) if isinstance(node, h5py.Group) else None
        if link is None:
            return None
        if not isinstance(link, h5py.HardLink):
            raise Refused(f"'{key}' is a link and not data")
        node = node[part]
    if isinstance(node, h5py.Dataset) and (node.external or node.is_virtual):
        raise Refused(f"'{key}' takes its data from another file")
    return node


def find_dataset(file: h5py.Group, key: str) -> h5py.Dataset | None:
    """The dataset under a key, of a type that can be read; None if there is none.

    Raises:
        Refused: see `find_node`, or something else has this key.
    """
    node = find_node(file, key)
    if node is None:
        return None
    if not isinstance(node, h5py.Dataset):
        raise Refused(f"'{key}' is not a dataset")
    try:
        _ = node.dtype, node.shape
    except TypeError:
        raise Refused(f"'{key}' has a type that is not supported") from None
    return node


def require_size(dataset: h5py.Dataset) -> None:
    """Refuse to read a dataset that is larger than any episode.

    Raises:
        Refused: it is.
    """
    if dataset.dtype.kind != "O" and dataset.size * dataset.dtype.itemsize > LARGEST_EPISODE:
        size = f"{LARGEST_EPISODE / 2**30:.0f} GiB"
        raise Refused(f"'{dataset.name.strip('/')}' has shape {dataset.shape}, which is more than {size}")
