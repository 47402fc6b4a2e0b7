"""Names that wrappers of modules add to the names of tensors."""

import re
from collections.abc import Mapping

from imf_jax.weight_files.tensors import StoredTensor

WRAPPER = re.compile(r"module|_orig_mod|_forward_module|_fpw_module|\w*wrapped_module")
"""Part of a name by a wrapper: of data parallelism and averaged models, torch.compile, Lightning, sharding (FSDP) and
activation checkpoints."""


def without_wrappers(name: str) -> str:
    """Remove the parts that are wrappers from the dotted name of a tensor, wherever they stand."""
    *path, leaf = name.split(".")
    return ".".join([*(part for part in path if not WRAPPER.fullmatch(part)), leaf])


def unwrapped_paths(tensors: Mapping[str, StoredTensor], prefix: str | None) -> dict[str, str]:
    """Map names without wrappers: name without wrappers -> name in the file.

    Args:
        tensors: of a checkpoint, by their names.
        prefix: beginning of the names, with or without wrappers; None for all.

    Returns:
        Every tensor once. Of two different ones that would get the same name, the later keeps its wrappers.
    """
    plain = {source: without_wrappers(source) for source in tensors}
    paths: dict[str, str] = {}
    # Names without wrappers first, so that no other takes theirs.
    for source in sorted(tensors, key=lambda name: plain[name] != name):
        path = plain[source]
        if not (source.startswith(prefix or "") or path.startswith(prefix or "")):
            continue
        if path not in paths:
            paths[path] = source
        elif tensors[paths[path]] != tensors[source]:
            paths[source] = source
    return paths
