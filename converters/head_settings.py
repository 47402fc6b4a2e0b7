"""Sizes of an IMF-AttnRes head: most show in its tensors, others come from flags or a config.json beside the file."""

import dataclasses
import json
import re
from collections.abc import Mapping
from pathlib import Path
from typing import Any

from converters.report import Report
from converters.tensors import StoredTensor
from imf_jax.config import HeadConfig, require
from imf_jax.errors import ArgumentError, UserError

FROM_CONFIG = ("n_head", "n_kv_head", "pred_horizon", "obs_horizon", "num_action_steps")
"""Settings of a head that its tensors do not show."""

CONFIG_PATHS = ((), ("head",), ("policy", "head"), ("agent", "head"), ("model", "head"))
"""Where a config.json beside a checkpoint may hold them."""


def settings_beside(path: Path) -> dict[str, int]:
    """What of `FROM_CONFIG` a config.json beside the checkpoint tells.

    Raises:
        UserError: it is no JSON.
    """
    config = path.parent / "config.json"
    if not config.is_file():
        return {}
    try:
        values = json.loads(config.read_text(encoding="utf-8"))
    except (OSError, ValueError) as error:
        raise UserError(f"{config} beside the checkpoint is no JSON ({error}); mend it or move it away") from None
    settings: dict[str, int] = {}
    for keys in CONFIG_PATHS:
        node: Any = values
        for key in keys:
            node = node.get(key) if isinstance(node, dict) else None
        if isinstance(node, dict):
            settings |= {name: node[name] for name in FROM_CONFIG if type(node.get(name)) is int}
    return settings


def read_head_config(given: Mapping[str, int], tensors: Mapping[str, StoredTensor], report: Report) -> HeadConfig:
    """Sizes of the head from its tensors, the flags and the config.json beside the file.

    Args:
        given: flags that were given; they go before the file.
        tensors: by name within the head.
        report: receives notes on where settings came from.

    Raises:
        ArgumentError: a setting is missing or cannot work.
        UserError: the tensors contradict themselves.
    """
    path = report.checkpoint.path
    needed = ("input_emb.weight", "cond_obs_emb.weight", "attnres_backbone.layers.0.fn.w_k.weight")
    report.missing += [name for name in needed if name not in tensors]
    report.require_complete()
    for name in needed:
        if len(tensors[name].shape) != 2 or 0 in tensors[name].shape:
            raise UserError(f"{path}: {name} is {tensors[name].describe()}; expected a matrix")
    n_emb, action_dim = tensors["input_emb.weight"].shape
    sublayers = {
        int(match.group(1)) for name in tensors if (match := re.match(r"attnres_backbone\.layers\.(\d+)", name))
    }
    n_layer = (max(sublayers) + 2) // 2

    beside = settings_beside(path)
    settings: dict[str, Any] = {**beside, **given}
    for name, value in settings.items():
        report.notes.append(f"{name} {value}: from {'--' + name.replace('_', '-') if name in given else 'config.json'}")
    require("n_head" in settings, "--n-head is missing: the tensors do not show the number of query heads")
    n_head = settings["n_head"]
    require(n_head >= 1 and n_emb % n_head == 0, f"--n-head {n_head} does not divide the {n_emb} channels of the head")
    kv_channels = tensors["attnres_backbone.layers.0.fn.w_k.weight"].shape[0]
    kv_heads = kv_channels / (n_emb // n_head)
    if settings.setdefault("n_kv_head", int(kv_heads)) != kv_heads:
        raise ArgumentError(
            f"the keys have {kv_channels} channels, which is {kv_heads:g} heads of {n_emb // n_head}; "
            f"--n-head {n_head} with --n-kv-head {settings['n_kv_head']} does not fit"
        )
    for field in dataclasses.fields(HeadConfig):
        if field.name in FROM_CONFIG and field.name not in settings:
            report.notes.append(f"{field.name} {field.default}: assumed; the tensors do not show it")
    return HeadConfig(action_dim=action_dim, n_emb=n_emb, n_layer=n_layer, **settings)
