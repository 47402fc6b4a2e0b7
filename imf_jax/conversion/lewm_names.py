"""Names of the tensors in a LEWM checkpoint, under every naming that is in use, and their targets in the encoder."""

import re
from collections.abc import Iterable, Mapping
from dataclasses import dataclass
from itertools import product

import numpy as np

from imf_jax.conversion.report import Report
from imf_jax.conversion.tensors import FLOATING, StoredTensor
from imf_jax.conversion.torch_file import Checkpoint
from imf_jax.conversion.wrappers import unwrapped_paths
from imf_jax.errors import UserError
from imf_jax.models.encoders.lewm import LewmSizes

OLD_LAYER_NAMES = {
    "attention.attention.query": "attention.q_proj",
    "attention.attention.key": "attention.k_proj",
    "attention.attention.value": "attention.v_proj",
    "attention.output.dense": "attention.o_proj",
    "intermediate.dense": "mlp.fc1",
    "output.dense": "mlp.fc2",
}
"""Names inside a layer before transformers 5.9 -> since."""

NOT_NEEDED = ("projector.net.1.num_batches_tracked",)
"""Part of the network in training only."""

LAYER = re.compile(r"^encoder\.(?:encoder\.layer|layers)\.(\d+)\.(.+)\.(weight|bias)$")


def canonical(name: str) -> str:
    """Name without wrappers, relative to the common parent of encoder and projector, as in transformers 5.9."""
    if match := LAYER.match(name):
        number, part, kind = match.groups()
        return f"encoder.layers.{int(number)}.{OLD_LAYER_NAMES.get(part, part)}.{kind}"
    return name


@dataclass(frozen=True)
class Parts:
    """Tensors of encoder and projector in a checkpoint.

    Attributes:
        projector_prefix: path of the projector without wrappers, with its last dot.
        names: canonical name (`encoder.*`, `projector.*`) -> name in the file.
    """

    projector_prefix: str
    names: dict[str, str]


def find_parts(checkpoint: Checkpoint, prefix: str | None) -> Parts:
    """Find the one encoder with a projector beside it.

    Args:
        checkpoint: the file.
        prefix: what the names of both must begin with, to choose among several; None if there is one.

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
    for path, source in paths.items():
        for part, start in (("encoder.", encoder), ("projector.", projector)):
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


def sources(sizes: LewmSizes) -> dict[str, list[list[Source]]]:
    """Sources of each weight of `sizes.weight_shapes()`: layers (often one), each the parts to join on its last axis.

    PyTorch's matrices are (out, in); `join` transposes them.
    """
    vit = sizes.vit
    hidden, mlp, patch = vit.hidden, vit.mlp, vit.patch

    def both(name: str, out: int, inner: int | None = None) -> dict[str, Source]:
        weight = (out,) if inner is None else (out, inner)
        return {"weight": Source(f"{name}.weight", weight), "bias": Source(f"{name}.bias", (out,))}

    result: dict[str, list[list[Source]]] = {}

    def add(target: str, layers: list[list[str]], out: int, inner: int | None = None) -> None:
        matrix = "scale" if inner is None else "kernel"
        for ours, theirs in ((matrix, "weight"), ("bias", "bias")):
            result[f"{target}.{ours}"] = [[both(name, out, inner)[theirs] for name in parts] for parts in layers]

    def add_layers(target: str, names: list[str], out: int, inner: int | None = None) -> None:
        layers = [[f"encoder.layers.{n}.{name}" for name in names] for n in range(vit.layers)]
        add(f"layers.{target}", layers, out, inner)

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
    add("norm", [["encoder.layernorm"]], hidden)
    add("projector.in", [["projector.net.0"]], sizes.projector_hidden, hidden)
    add("projector.norm", [["projector.net.1"]], sizes.projector_hidden)
    for ours, theirs in (("mean", "running_mean"), ("var", "running_var")):
        result[f"projector.norm.{ours}"] = [[Source(f"projector.net.1.{theirs}", (sizes.projector_hidden,))]]
    add("projector.out", [["projector.net.3"]], sizes.output, sizes.projector_hidden)
    return result


def match(parts: Parts, tensors: Mapping[str, StoredTensor], sizes: LewmSizes, report: Report) -> None:
    """Match the tensors with the weights: used, missing, unexpected and mismatched ones go into the report."""
    wanted = {s.name: (target, s) for target, layers in sources(sizes).items() for layer in layers for s in layer}
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


def assemble(parts: Parts, tensors: Mapping[str, StoredTensor], sizes: LewmSizes) -> dict[str, np.ndarray]:
    """Assemble the float32 weights of the encoder, from a checkpoint whose report is complete."""
    shapes = sizes.weight_shapes()
    weights = {}
    for target, layers in sources(sizes).items():
        joined = [
            np.concatenate([_in_out(tensors[parts.names[source.name]].read()) for source in layer], axis=-1)
            for layer in layers
        ]
        value = np.stack(joined) if target.startswith("layers.") else joined[0]
        # Transposed matrices are views in column order; files and devices want rows.
        weights[target] = np.ascontiguousarray(value).reshape(shapes[target])
    return weights


def _in_out(value: np.ndarray) -> np.ndarray:
    value = np.asarray(value, np.float32)
    if value.ndim == 4:  # patch kernel (out, channel, row, column) -> (row, column, channel, out)
        return value.transpose(2, 3, 1, 0)
    return value.T if value.ndim == 2 else value
