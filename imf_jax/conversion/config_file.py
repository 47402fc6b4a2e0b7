"""The config.json beside weights, and whether it is that of the weights."""

from collections.abc import Collection, Mapping
from typing import Any

CONFIG_BESIDE = "config.json"
"""Where other programs leave the configuration of the weights in the same folder."""


def contradictions(config: Mapping[str, Any], sizes: Mapping[str, int], model_types: Collection[str]) -> list[str]:
    """What shows that a configuration is of another network than the tensors it lies beside; empty if nothing does.

    Args:
        config: the configuration; what it does not state, or states as null, contradicts nothing.
        sizes: entry -> what the tensors show. A pair of equal sides may stand for one.
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
