"""Names of the tensors in a LEWM checkpoint, under every naming that is in use, and their targets in the encoder."""

import re
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass
from itertools import product

import numpy as np

from imf_jax.conversion.report import Report
from imf_jax.conversion.wrappers import unwrapped_paths
from imf_jax.errors import UserError
from imf_jax.models.encoders.lewm import LewmSizes
from imf_jax.models.world_model import ACTION_EXPANSION, SMOOTHED_CHANNELS, WorldModelSizes
from imf_jax.weight_files.tensors import FLOATING, StoredTensor
from imf_jax.weight_files.torch_file import Checkpoint

OLD_LAYER_NAMES = {
    "attention.attention.query": "attention.q_proj",
    "attention.attention.key": "attention.k_proj",
    "attention.attention.value": "attention.v_proj",
    "attention.output.dense": "attention.o_proj",
    "intermediate.dense": "mlp.fc1",
    "output.dense": "mlp.fc2",
}
"""Names inside a layer before transformers 5.9 -> since."""

NOT_NEEDED = ("projector.net.1.num_batches_tracked", "pred_proj.net.1.num_batches_tracked")
"""Part of the network in training only."""

WORLD_PARTS = ("action_encoder", "predictor", "pred_proj")
"""Modules of the whole model beside encoder and projector."""

Sources = dict[str, list[list["Source"]]]
"""Weight -> its layers (often one), each the parts to join on its last axis."""

LAYER = re.compile(r"^encoder\.(?:encoder\.layer|layers)\.(\d+)\.(.+)\.(weight|bias)$")


def canonical(name: str) -> str:
    """Name without wrappers, relative to the common parent of encoder and projector, as in transformers 5.9."""
    if match := LAYER.match(name):
        number, part, kind = match.groups()
        return f"encoder.layers.{int(number)}.{OLD_LAYER_NAMES.get(part, part)}.{kind}"
    return name


@dataclass(frozen=True)
class Parts:
    """Tensors of encoder and projector in a checkpoint, or of the whole model.

    Attributes:
        projector_prefix: path of the projector without wrappers, with its last dot.
        names: canonical name (`encoder.*`, `projector.*`, ...) -> name in the file.
    """

    projector_prefix: str
    names: dict[str, str]


def find_parts(checkpoint: Checkpoint, prefix: str | None, siblings: Sequence[str] = ()) -> Parts:
    """Find the one encoder with a projector beside it.

    Args:
        checkpoint: the file.
        prefix: what the names of both must begin with, to choose among several; None if there is one.
        siblings: further modules to take from beside the projector.

    Raises:
        UserError: there is none, or more than one.
    """
    tensors = checkpoint.tensors
    paths = unwrapped_paths(tensors, prefix)
    encoders = _prefixes(paths, r"((?:.*\.)?)embeddings\.cls_token")
    projectors = _prefixes(paths, r"((?:.*\.)?projector\.)net\.0\.weight")
    pairs = []
    for encoder, projector in product(encoders, projectors):
        parent = projector[: projector.rindex("projector.")]
        if encoder.startswith(parent) and encoder != parent:
            pairs.append((encoder, projector, len(parent)))
    # The projector nearest to an encoder is its own; one that is named "encoder" takes precedence.
    deepest = {encoder: max(depth for e, _, depth in pairs if e == encoder) for encoder, _, _ in pairs}
    pairs = [pair for pair in pairs if pair[2] == deepest[pair[0]]]
    named = [pair for pair in pairs if f".{pair[0]}".endswith(".encoder.")]
    pairs = _without_aliases(paths, tensors, named or pairs)
    if not pairs:
        places = [", ".join(prefix or "the top" for prefix in found) or "none" for found in (encoders, projectors)]
        found = f"encoder at {places[0]}, projector at {places[1]}"
        raise UserError(
            f"{checkpoint.path} holds no encoder (embeddings.cls_token) with a projector (projector.net.0.weight) "
            f"beside it; found {found}; see --inspect"
        )
    if len(pairs) > 1:
        choices = ", ".join(encoder for encoder, _, _ in pairs)
        raise UserError(f"{checkpoint.path} holds several encoders ({choices}); choose one with --prefix")
    ((encoder, projector, _),) = pairs
    names: dict[str, str] = {}
    parent = projector.removesuffix("projector.")
    starts = {"encoder.": encoder, "projector.": projector, **{f"{name}.": f"{parent}{name}." for name in siblings}}
    for path, source in paths.items():
        for part, start in starts.items():
            if path.startswith(start):
                name = canonical(part + path.removeprefix(start))
                if name in names:
                    raise UserError(f"{checkpoint.path}: {names[name]} and {source} are the same weight twice")
                names[name] = source
    return Parts(projector, names)


def _prefixes(paths: Iterable[str], pattern: str) -> list[str]:
    matches = (re.fullmatch(pattern, path) for path in paths)
    return [match.group(1) for match in matches if match]


def _without_aliases(
    paths: Mapping[str, str], tensors: Mapping[str, StoredTensor], pairs: list[tuple[str, str, int]]
) -> list[tuple[str, str, int]]:
    """Keep the first of several paths to the same encoder (a module that its parents share)."""
    seen: dict[tuple[tuple[str, str, int], ...], tuple[str, str, int]] = {}
    for pair in pairs:
        identity = tuple(
            (path.removeprefix(pair[0]), tensors[source].storage.key, tensors[source].offset)
            for path, source in paths.items()
            if path.startswith(pair[0])
        )
        seen.setdefault(identity, pair)
    return list(seen.values())


@dataclass(frozen=True)
class Source:
    """Source of a weight in the file.

    Attributes:
        name: canonical name.
        shape: in the file.
    """

    name: str
    shape: tuple[int, ...]


def _affine(target: str, layers: list[list[str]], out: int, *inner: int) -> Sources:
    """Sources of a norm or, with `inner` axes, of a linear layer; PyTorch's matrices are (out, in)."""
    matrix = "kernel" if inner else "scale"
    return {
        f"{target}.{matrix}": [[Source(f"{name}.weight", (out, *inner)) for name in parts] for parts in layers],
        f"{target}.bias": [[Source(f"{name}.bias", (out,)) for name in parts] for parts in layers],
    }


def _projector(target: str, inputs: int, sizes: LewmSizes) -> Sources:
    inner = sizes.projector_hidden
    statistics = (("mean", "running_mean"), ("var", "running_var"))
    return {
        **_affine(f"{target}.in", [[f"{target}.net.0"]], inner, inputs),
        **_affine(f"{target}.norm", [[f"{target}.net.1"]], inner),
        **{f"{target}.norm.{ours}": [[Source(f"{target}.net.1.{theirs}", (inner,))]] for ours, theirs in statistics},
        **_affine(f"{target}.out", [[f"{target}.net.3"]], sizes.output, inner),
    }


def sources(sizes: LewmSizes) -> Sources:
    """Sources of each weight of `sizes.weight_shapes()`."""
    vit = sizes.vit
    hidden, mlp, patch = vit.hidden, vit.mlp, vit.patch
    result: Sources = {}

    def add_layers(target: str, names: list[str], out: int, *inner: int) -> None:
        layers = [[f"encoder.layers.{n}.{name}" for name in names] for n in range(vit.layers)]
        result.update(_affine(f"layers.{target}", layers, out, *inner))

    projection = "encoder.embeddings.patch_embeddings.projection"
    result["patch.kernel"] = [[Source(f"{projection}.weight", (hidden, 3, patch, patch))]]
    result["patch.bias"] = [[Source(f"{projection}.bias", (hidden,))]]
    result["class_token"] = [[Source("encoder.embeddings.cls_token", (1, 1, hidden))]]
    result["positions"] = [[Source("encoder.embeddings.position_embeddings", (1, 1 + vit.grid**2, hidden))]]
    add_layers("norm1", ["layernorm_before"], hidden)
    add_layers("qkv", ["attention.q_proj", "attention.k_proj", "attention.v_proj"], hidden, hidden)
    add_layers("out", ["attention.o_proj"], hidden, hidden)
    add_layers("norm2", ["layernorm_after"], hidden)
    add_layers("up", ["mlp.fc1"], mlp, hidden)
    add_layers("down", ["mlp.fc2"], hidden, mlp)
    return {**result, **_affine("norm", [["encoder.layernorm"]], hidden), **_projector("projector", hidden, sizes)}


def world_sources(sizes: WorldModelSizes) -> Sources:
    """Sources of each weight of the whole model's `sizes.weight_shapes()`."""
    predictor = sizes.predictor
    width, inner = predictor.width, predictor.heads * predictor.head_dim
    expanded = ACTION_EXPANSION * width
    result = {
        **sources(sizes.encoder),
        **_affine("action.smooth", [["action_encoder.patch_embed"]], SMOOTHED_CHANNELS, sizes.action_dim, 1),
        **_affine("action.up", [["action_encoder.embed.0"]], expanded, SMOOTHED_CHANNELS),
        **_affine("action.down", [["action_encoder.embed.2"]], width, expanded),
        "predictor.positions": [[Source("predictor.pos_embedding", (1, predictor.history, width))]],
        **_affine("predictor.norm", [["predictor.transformer.norm"]], width),
        **_projector("pred_proj", width, sizes.encoder),
    }

    def add_layers(target: str, name: str, out: int, *inner: int) -> None:
        layers = [[f"predictor.transformer.layers.{n}.{name}"] for n in range(predictor.layers)]
        result.update(_affine(f"predictor.layers.{target}", layers, out, *inner))

    add_layers("modulation", "adaLN_modulation.1", 6 * width, width)
    add_layers("attention.norm", "attn.norm", width)
    add_layers("qkv", "attn.to_qkv", 3 * inner, width)
    del result["predictor.layers.qkv.bias"]
    add_layers("out", "attn.to_out.0", width, inner)
    add_layers("mlp.norm", "mlp.net.0", width)
    add_layers("up", "mlp.net.1", predictor.mlp, width)
    add_layers("down", "mlp.net.4", width, predictor.mlp)
    return result


def match(parts: Parts, tensors: Mapping[str, StoredTensor], wanted_sources: Sources, report: Report) -> None:
    """Match the tensors with the weights: used, missing, unexpected and mismatched ones go into the report."""
    wanted = {s.name: (target, s) for target, layers in wanted_sources.items() for layer in layers for s in layer}
    for name, (target, source) in wanted.items():
        file_name = parts.names.get(name)
        if file_name is None:
            report.missing.append(name)
            continue
        tensor = tensors[file_name]
        if tensor.shape != source.shape or not tensor.is_floating:
            problem = f"{tensor.describe()} in the file, expected {source.shape} of {' or '.join(FLOATING)}"
            report.mismatched.append(f"{file_name}: {problem}")
        report.used[file_name] = target
    # A tensor that is no floating-point number is never a weight; whatever replaced one is reported as missing.
    report.unexpected += [
        file_name
        for name, file_name in parts.names.items()
        if name not in {*wanted, *NOT_NEEDED} and tensors[file_name].is_floating
    ]


def assemble(
    parts: Parts,
    tensors: Mapping[str, StoredTensor],
    wanted_sources: Sources,
    shapes: Mapping[str, tuple[int, ...]],
) -> dict[str, np.ndarray]:
    """Assemble float32 weights of these shapes, from a checkpoint whose report is complete."""
    weights = {}
    for target, layers in wanted_sources.items():
        joined = [
            np.concatenate([_in_out(tensors[parts.names[source.name]].read()) for source in layer], axis=-1)
            for layer in layers
        ]
        value = np.stack(joined) if "layers." in target else joined[0]
        # Transposed matrices are views in column order; files and devices want rows.
        weights[target] = np.ascontiguousarray(value).reshape(shapes[target])
    return weights


def _in_out(value: np.ndarray) -> np.ndarray:
    value = np.asarray(value, np.float32)
    if value.ndim == 4:  # patch kernel (out, channel, row, column) -> (row, column, channel, out)
        return value.transpose(2, 3, 1, 0)
    # A convolution over time of kernel 1, (out, in, 1), is a matrix; other arrays of three axes are tables (1, ...).
    is_matrix = value.ndim == 2 or (value.ndim == 3 and value.shape[0] > 1)
    return value.T if is_matrix else value


def to_torch(weights: Mapping[str, np.ndarray], sizes: WorldModelSizes) -> dict[str, np.ndarray]:
    """Tensors of the reference's state dict by name, from the weights of the whole model: the inverse of `assemble`."""
    tensors: dict[str, np.ndarray] = {}
    for target, layers in world_sources(sizes).items():
        stacked = weights[target] if "layers." in target else weights[target][None]
        for value, parts in zip(stacked, layers, strict=True):
            for source, piece in zip(parts, np.split(value, len(parts), axis=-1), strict=True):
                tensors[source.name] = _out_in(piece, source.shape)
    batches = np.zeros((), np.int64)
    return {**tensors, **dict.fromkeys(NOT_NEEDED, batches)}


def _out_in(value: np.ndarray, shape: tuple[int, ...]) -> np.ndarray:
    if len(shape) == 4:
        out, channels, rows, columns = shape
        value = value.reshape(rows, columns, channels, out).transpose(3, 2, 0, 1)
    elif len(shape) == 2 or (len(shape) == 3 and shape[0] > 1):
        value = value.T
    return np.ascontiguousarray(value, np.float32).reshape(shape)


def before_5_9(name: str) -> str:
    """The name of a tensor under transformers before 5.9."""
    if match := LAYER.match(name):
        number, part, kind = match.groups()
        older = {new: old for old, new in OLD_LAYER_NAMES.items()}
        return f"encoder.encoder.layer.{number}.{older.get(part, part)}.{kind}"
    return name
