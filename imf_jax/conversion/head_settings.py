"""Sizes of an IMF-AttnRes head: most show in its tensors, others come from flags or a config.json beside the file."""

import dataclasses
import re
from collections.abc import Mapping
from pathlib import Path
from typing import Any

from imf_jax.config import AttnResConfig, PolicyConfig, require
from imf_jax.conversion.config_file import CONFIG_BESIDE, contradictions
from imf_jax.conversion.report import Report
from imf_jax.errors import ArgumentError, UserError
from imf_jax.weight_files.json_file import read_json
from imf_jax.weight_files.tensors import StoredTensor

FROM_CONFIG = ("n_head", "n_kv_head", "pred_horizon", "obs_horizon", "num_action_steps")
"""Settings that the tensors of a head do not show."""

CONFIG_PATHS = ((), ("head",), ("policy", "head"), ("agent", "head"), ("model", "head"))
"""Sections of a config.json beside a checkpoint that may hold them."""

MODEL_TYPES = ("imf", "imf_attnres", "imf-attnres", "attnres")
"""Values of `model_type` in a config.json of the head."""


def settings_beside(path: Path, sizes: Mapping[str, int], kv_channels: int, report: Report) -> dict[str, int]:
    """Read the settings `FROM_CONFIG` from a config.json beside the checkpoint, where it agrees with the tensors.

    Args:
        path: the checkpoint.
        sizes: n_emb, n_layer and action_dim, which the tensors show.
        kv_channels: channels of the keys.
        report: receives notes on files that were ignored because they are of another network.

    Raises:
        UserError: the file is no JSON.
    """
    config = path.parent / CONFIG_BESIDE
    if not config.is_file():
        return {}
    values = read_json(config, "mend it or move it away")
    n_emb = sizes["n_emb"]
    others = {"n_embd": n_emb, "hidden_size": n_emb, "num_hidden_layers": sizes["n_layer"]}
    settings: dict[str, int] = {}
    for keys in CONFIG_PATHS:
        node: Any = values
        for key in keys:
            node = node.get(key) if isinstance(node, dict) else None
        if not isinstance(node, dict):
            continue
        stated = {name: node[name] for name in FROM_CONFIG if node.get(name) is not None}
        wrong = contradictions(node, {**sizes, **others}, MODEL_TYPES)
        wrong += [f"{name} {value!r}" for name, value in stated.items() if type(value) is not int or value < 1]
        if not wrong and "n_head" in stated:
            n_head = stated["n_head"]
            # Whole heads of keys, as many as are stated.
            kv_heads = stated.get("n_kv_head", kv_channels * n_head // n_emb)
            if n_emb % n_head or kv_heads * n_emb != kv_channels * n_head:
                heads = " ".join(f"{name} {stated[name]}" for name in ("n_head", "n_kv_head") if name in stated)
                wrong.append(f"{heads} for {n_emb} channels and {kv_channels} of keys")
        if stated and wrong:
            within = f" under {'.'.join(keys)}" if keys else ""
            report.notes.append(f"{config}{within} is of another network and was ignored: {', '.join(wrong)}")
        elif stated:
            settings |= stated
    return settings


def read_sizes(given: Mapping[str, int], tensors: Mapping[str, StoredTensor], report: Report) -> PolicyConfig:
    """Read sizes and horizons of the policy from its tensors, the flags and the config.json beside the file.

    Args:
        given: flags that were given; they take precedence over the file.
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

    kv_channels = tensors["attnres_backbone.layers.0.fn.w_k.weight"].shape[0]
    sizes = {"n_emb": n_emb, "n_layer": n_layer, "action_dim": action_dim}
    beside = settings_beside(path, sizes, kv_channels, report)
    ignored = "".join(f"; {note}" for note in report.notes)
    settings: dict[str, Any] = {**beside, **given}
    for name, value in settings.items():
        report.notes.append(f"{name} {value}: from {'--' + name.replace('_', '-') if name in given else CONFIG_BESIDE}")
    missing = f"--n-head is missing: the tensors do not show the number of query heads{ignored}"
    require("n_head" in settings, missing)
    n_head = settings["n_head"]
    require(n_head >= 1 and n_emb % n_head == 0, f"--n-head {n_head} does not divide the {n_emb} channels of the head")
    kv_heads = kv_channels / (n_emb // n_head)
    if settings.setdefault("n_kv_head", int(kv_heads)) != kv_heads:
        raise ArgumentError(
            f"the keys have {kv_channels} channels, which is {kv_heads:g} heads of {n_emb // n_head}; "
            f"--n-head {n_head} with --n-kv-head {settings['n_kv_head']} does not fit"
        )
    for field in dataclasses.fields(PolicyConfig):
        if field.name in FROM_CONFIG and field.name not in settings:
            report.notes.append(f"{field.name} {field.default}: assumed; the tensors do not show it")
    heads = {name: settings.pop(name) for name in ("n_head", "n_kv_head")}
    head = AttnResConfig(n_emb=n_emb, n_layer=n_layer, **heads)
    return PolicyConfig(head=head, action_dim=action_dim, **settings)
