"""Whole LeWM checkpoints: sizes of the modules beside the encoder, and export for the reference model."""

import re
from pathlib import Path
from typing import Literal

import numpy as np
import safetensors.numpy

from imf_jax.conversion.lewm_names import Parts, before_5_9, to_torch
from imf_jax.conversion.report import Report
from imf_jax.conversion.torch_writer import state_dict_bytes
from imf_jax.errors import UserError
from imf_jax.files import reported_write_errors, write_bytes
from imf_jax.models.encoders.lewm import LewmSizes
from imf_jax.models.networks.latent_predictor import PredictorSizes
from imf_jax.models.world_model import WorldModelSizes
from imf_jax.models.world_model_file import read_world_model
from imf_jax.weight_files.torch_file import Checkpoint

HEAD_CHANNELS = 64
"""Channels of an attention head of the predictor; weights alone do not show the number of heads."""

TransformersNames = Literal["new", "old"]
"""Names of the encoder's tensors: since transformers 5.9, or before."""


def read_world_sizes(
    checkpoint: Checkpoint, parts: Parts, encoder: LewmSizes, report: Report
) -> WorldModelSizes | None:
    """Read the sizes of the whole model from the shapes of its tensors.

    Returns:
        The sizes, or None where a tensor that shows one is missing (`report.missing` then names it).

    Raises:
        UserError: a tensor has another number of axes, or no whole number of heads.
    """
    shapes = {name: checkpoint.tensors[source].shape for name, source in parts.names.items()}
    layer = "predictor.transformer.layers"
    ranks = {
        "predictor.pos_embedding": 3,
        "action_encoder.patch_embed.weight": 3,
        f"{layer}.0.attn.to_qkv.weight": 2,
        f"{layer}.0.mlp.net.1.weight": 2,
    }
    report.missing += [name for name in ranks if name not in shapes]
    if report.missing:
        return None
    for name, rank in ranks.items():
        if len(shapes[name]) != rank or 0 in shapes[name]:
            found = checkpoint.tensors[parts.names[name]].describe()
            raise UserError(f"{checkpoint.path}: {parts.names[name]} is {found}; expected {rank} axes")
    positions, actions, qkv, mlp = (shapes[name] for name in ranks)
    inner = qkv[0] // 3
    if qkv[0] % (3 * HEAD_CHANNELS):
        raise UserError(
            f"{checkpoint.path}: the predictor's attention has {inner} channels, not a multiple of {HEAD_CHANNELS}"
        )
    layers = 1 + max(int(m.group(1)) for name in shapes if (m := re.match(rf"{re.escape(layer)}\.(\d+)\.", name)))
    report.notes.append(f"predictor heads {inner // HEAD_CHANNELS}: {HEAD_CHANNELS} channels each")
    predictor = PredictorSizes(encoder.output, positions[1], layers, inner // HEAD_CHANNELS, HEAD_CHANNELS, mlp[0])
    return WorldModelSizes(encoder, predictor, actions[1])


def export_torch(folder: Path, path: Path, names: TransformersNames = "new") -> int:
    """Write whole weights as a state dict that the reference model loads strictly.

    Args:
        folder: holds `world_model.safetensors`.
        path: the file to write, .pt or .safetensors.
        names: see `TransformersNames`.

    Returns:
        number of tensors.

    Raises:
        UserError: the folder holds no weights, or the file cannot be written.
    """
    tensors = to_torch(*read_world_model(folder))
    if names == "old":
        tensors = {before_5_9(name): value for name, value in tensors.items()}
    content = safetensors.numpy.save(tensors) if path.suffix == ".safetensors" else state_dict_bytes(tensors)
    with reported_write_errors(path, "weights"):
        write_bytes(path, content)
    return len(tensors)


def require_usable(checkpoint: Checkpoint, weights: dict[str, np.ndarray]) -> None:
    """Refuse weights that are not finite, and negative variances.

    Raises:
        UserError: names them.
    """
    broken = [name for name, value in weights.items() if not np.isfinite(value).all()]
    broken = broken or [name for name in weights if name.endswith(".norm.var") and (weights[name] < 0).any()]
    if broken:
        raise UserError(
            f"{checkpoint.path} is no usable network: NaN, infinity or negative variance in {', '.join(broken)}"
        )
