"""Check of a config.json beside weights: whether it belongs to these weights."""

from collections.abc import Collection, Mapping
from typing import Any

CONFIG_BESIDE = "config.json"
"""File in which other programs leave the configuration of the weights in the same folder."""


def contradictions(config: Mapping[str, Any], sizes: Mapping[str, int], model_types: Collection[str]) -> list[str]:
    """List the entries by which a configuration contradicts the tensors it lies beside; empty if there are none.

    Args:
        config: the configuration; entries that are missing or null contradict nothing.
        sizes: entry -> size by the tensors. A pair of equal sides may stand for one.
        model_types: values of `model_type` that the network may have.
    """
    wrong = []
    if (model_type := config.get("model_type")) is not None and str(model_type).lower() not in model_types:
        wrong.append(f"model_type {model_type}")
    for name, size in sizes.items():
        stated = config.get(name)
        if stated is not None and stated not in (size, [size, size]):
            wrong.append(f"{name} {stated!r} and not {size}")
    return wrong
