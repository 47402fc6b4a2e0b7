"""Convert the LEWM encoder and projector from a PyTorch checkpoint; neither PyTorch nor the classes are needed.

    python converters/lewm.py --checkpoint lewm.ckpt --out encoders/lewm

The folder then holds `weights.safetensors`, `config.json` and `report.json`;
`imf_jax.models.encoders.lewm.load` reads it. With --whole it holds `world_model.safetensors` as well, the encoder with
its predictor, from which scripts/pretrain.py --init goes on. The other way round:

    python converters/lewm.py --checkpoint runs/lewm-pretrain/encoder --export-torch weights.pt
"""

import dataclasses
import re
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import tyro

from imf_jax.conversion.config_file import CONFIG_BESIDE, contradictions
from imf_jax.conversion.lewm_names import WORLD_PARTS, Parts, assemble, find_parts, match, sources, world_sources
from imf_jax.conversion.report import Report, inspect, print_report, problems_on_stderr, write_folder
from imf_jax.conversion.world_model import TransformersNames, export_torch, read_world_sizes, require_usable
from imf_jax.errors import ArgumentError, UserError
from imf_jax.models.encoders.lewm import LewmSizes, encoder_files
from imf_jax.models.encoders.vit import VitSizes
from imf_jax.models.world_model_file import WORLD_MODEL_FILE, world_model_bytes
from imf_jax.weight_files.json_file import read_json
from imf_jax.weight_files.safe_pickle import Placeholder
from imf_jax.weight_files.torch_file import Checkpoint, module_parts, open_checkpoint

HEAD_CHANNELS = 64
"""Channels of an attention head in every published ViT size; weights alone do not show the number of heads."""

MODEL_TYPES = ("vit", "lewm")
"""Values of `model_type` in a config.json of the encoder."""


@dataclass(frozen=True)
class Args:
    """Convert a LEWM encoder and projector."""

    # Lightning .ckpt, state dict .pt, pickled module (*_object.ckpt) or .safetensors; a folder with model.safetensors,
    # or the index of a checkpoint in several files. Nothing in it is executed.
    checkpoint: Path
    # Folder that receives the weights, their configuration and the report.
    out: Path | None = None
    # Attention heads; needed only if neither the file nor a config.json beside it tells and 64 channels each is wrong.
    heads: int | None = None
    # Beginning of the tensor names of the encoder and projector, if the file holds several.
    prefix: str | None = None
    # Convert the whole model too: action encoder, predictor and the projector of its predictions.
    whole: bool = False
    # Write the whole model in --checkpoint, a folder with world_model.safetensors, as a state dict for PyTorch (.pt or
    # .safetensors) instead.
    export_torch: Path | None = None
    # Names of the encoder's tensors there: since transformers 5.9, or before.
    transformers_names: TransformersNames = "new"
    # Print the tree of tensors and stop.
    inspect: bool = False


def read_sizes(checkpoint: Checkpoint, parts: Parts, heads: int | None, report: Report) -> LewmSizes | None:
    """Read the sizes of the network, from the shapes of its tensors.

    Returns:
        The sizes, or None where a tensor that shows one is missing (`report.missing` then names it).

    Raises:
        UserError: the shapes contradict themselves.
    """
    shapes = {name: checkpoint.tensors[source].shape for name, source in parts.names.items()}
    numbers = sorted({int(m.group(1)) for name in shapes if (m := re.match(r"encoder\.layers\.(\d+)\.", name))})
    ranks = {
        "encoder.embeddings.cls_token": 3,
        "encoder.embeddings.position_embeddings": 3,
        "encoder.embeddings.patch_embeddings.projection.weight": 4,
        f"encoder.layers.{numbers[0] if numbers else 0}.mlp.fc1.weight": 2,
        "projector.net.0.weight": 2,
        "projector.net.3.weight": 2,
    }
    if "projector.net.1.running_mean" not in shapes or "projector.net.1.running_var" not in shapes:
        raise UserError(
            f"{checkpoint.path}: the projector has no running statistics ({parts.projector_prefix}net.1.running_mean "
            "and running_var); train it with BatchNorm1d(track_running_stats=True)"
        )
    report.missing += [name for name in ranks if name not in shapes]
    if report.missing:
        return None
    for name, rank in ranks.items():
        if len(shapes[name]) != rank or 0 in shapes[name]:
            found = checkpoint.tensors[parts.names[name]].describe()
            raise UserError(f"{checkpoint.path}: {parts.names[name]} is {found}; expected {rank} axes")
    class_token, positions, patch, mlp, first, last = (shapes[name] for name in ranks)
    hidden = class_token[-1]
    if patch[1] != 3 or patch[2] != patch[3]:
        raise UserError(f"{checkpoint.path}: the patch kernel has shape {patch}; expected square RGB patches")
    grid = round((positions[1] - 1) ** 0.5)
    if grid < 1 or grid * grid + 1 != positions[1]:
        raise UserError(f"{checkpoint.path}: {positions[1]} positions are no class token and a square grid of patches")
    if first[1] != hidden:
        raise UserError(f"{checkpoint.path}: the projector takes {first[1]} channels and the encoder gives {hidden}")
    side = patch[2]
    vit = VitSizes(hidden, layers=numbers[-1] + 1, heads=1, mlp=mlp[0], patch=side, image_size=grid * side)
    vit = dataclasses.replace(vit, heads=read_heads(checkpoint, parts, heads, vit, report))
    return LewmSizes(vit, projector_hidden=first[0], output=last[0])


def read_heads(checkpoint: Checkpoint, parts: Parts, flag: int | None, vit: VitSizes, report: Report) -> int:
    """Read the number of attention heads.

    From the flag, the pickled module's own config, a config.json beside the file, or hidden / 64, in this order. A
    config.json of another network is ignored, and the report notes it.

    Args:
        checkpoint: the file.
        parts: of the checkpoint.
        flag: the requested number, if any.
        vit: the sizes that the tensors show.
        report: receives the origin of the number.

    Raises:
        ArgumentError: the flag does not divide the channels.
        UserError: the number found elsewhere does not.
    """
    hidden = vit.hidden
    if flag is not None:
        if flag < 1 or hidden % flag:
            raise ArgumentError(f"--heads {flag} does not divide the {hidden} channels of the encoder")
        report.notes.append(f"heads {flag}: from --heads")
        return flag
    beside = checkpoint.path.parent / CONFIG_BESIDE
    where, value = "the pickled module", _pickled_heads(checkpoint, parts)
    if value is None:
        where, value = str(beside), _heads_beside(beside, vit, report)
    if value is None:
        where, value = f"{HEAD_CHANNELS} channels each", hidden / HEAD_CHANNELS
    is_number = isinstance(value, (int, float)) and not isinstance(value, bool)
    if not is_number or not value >= 1 or hidden % value or value % 1:
        problem = f"{value} attention heads ({where}) do not divide {hidden} channels"
        raise UserError("; ".join([f"{checkpoint.path}: {problem}; give --heads", *report.notes]))
    report.notes.append(f"heads {int(value)}: from {where}")
    return int(value)


def _pickled_heads(checkpoint: Checkpoint, parts: Parts) -> Any:
    """`config.num_attention_heads` of the pickled encoder, if the file holds the module itself."""
    module: Any = checkpoint.root
    encoder, _, _ = parts.names["encoder.embeddings.cls_token"].rpartition("embeddings.")
    for name in encoder.split(".")[:-1]:
        children = module if isinstance(module, dict) else {}
        for part in module_parts(module) or []:
            children = {**children, **part}
        module = children.get(name)
    config = module.state.get("config") if isinstance(module, Placeholder) and isinstance(module.state, dict) else None
    state = config.state if isinstance(config, Placeholder) else None
    return state.get("num_attention_heads") if isinstance(state, dict) else None


def _heads_beside(path: Path, vit: VitSizes, report: Report) -> Any:
    """`num_attention_heads` of a transformers configuration; None if there is none of this network."""
    config = read_json(path, "mend it or give --heads") if path.is_file() else None
    if not isinstance(config, dict) or config.get("num_attention_heads") is None:
        return None
    side = config.get("image_size")
    # Pixels that fill no whole patch are cut off.
    image_size = side if type(side) is int and side // vit.patch == vit.grid else vit.image_size
    sizes = {
        "hidden_size": vit.hidden,
        "num_hidden_layers": vit.layers,
        "intermediate_size": vit.mlp,
        "patch_size": vit.patch,
        "image_size": image_size,
        "num_channels": 3,
    }
    if wrong := contradictions(config, sizes, MODEL_TYPES):
        report.notes.append(f"{path} is of another network and was ignored: {', '.join(wrong)}")
        return None
    return config["num_attention_heads"]


def convert(args: Args) -> Report:
    """Convert one checkpoint.

    Raises:
        ArgumentError: an argument cannot be used.
        UserError: the file is damaged, does not fit, or the output folder is taken. Nothing was written.
    """
    if args.out is None:
        raise ArgumentError("--out is missing: name the folder that receives the weights")
    checkpoint = open_checkpoint(args.checkpoint)
    report = Report(checkpoint)
    parts = find_parts(checkpoint, args.prefix, WORLD_PARTS if args.whole else ())
    sizes = read_sizes(checkpoint, parts, args.heads, report)
    report.require_complete()
    assert sizes is not None
    world = read_world_sizes(checkpoint, parts, sizes, report) if args.whole else None
    report.require_complete()
    wanted = sources(sizes) if world is None else world_sources(world)
    match(parts, checkpoint.tensors, wanted, report)
    report.require_complete()
    weights = assemble(parts, checkpoint.tensors, wanted, (world or sizes).weight_shapes())
    require_usable(checkpoint, weights)
    files = encoder_files({name: weights[name] for name in sizes.weight_shapes()}, sizes)
    if world is not None:
        files = {WORLD_MODEL_FILE: world_model_bytes(weights, world), **files}
    write_folder(args.out, files, report)
    return report


def main() -> None:
    """Parse the command line and convert."""
    args = tyro.cli(Args, description=__doc__)
    if args.inspect:
        inspect(open_checkpoint(args.checkpoint))
        return
    if args.export_torch is not None:
        count = export_torch(args.checkpoint, args.export_torch, args.transformers_names)
        print(f"{args.export_torch}: {count} tensors")
        return
    with problems_on_stderr():
        report = convert(args)
    print_report(args.out, report)
