"""Parameter names in PyTorch checkpoints of IMF-AttnRes, and the place of each value here."""

from collections.abc import Mapping
from dataclasses import dataclass

import jax
import jax.numpy as jnp
import numpy as np
from flax import nnx

from imf_jax.models.networks.attnres import AttnResHead
from imf_jax.models.networks.layers import Attention, SwiGLU


@dataclass(frozen=True)
class Slot:
    """Place of one torch parameter in a head.

    Attributes:
        variable: the NNX variable that holds it.
        index: the part of the variable that it fills.
        transposed: whether the torch array is (out, in) and the slot (in, out).
    """

    variable: nnx.Param
    index: tuple[slice | int, ...]
    transposed: bool

    @property
    def torch_shape(self) -> tuple[int, ...]:
        """Shape of the array under its torch name."""
        shape = np.empty(self.variable.shape, np.bool_)[self.index].shape
        return shape[::-1] if self.transposed else shape

    def read(self, value: np.ndarray | jax.Array) -> np.ndarray:
        """The torch array's part of `value`, an array shaped like the variable (a weight, a gradient)."""
        part = np.asarray(value)[self.index]
        return part.T if self.transposed else part


@dataclass(frozen=True)
class LoadReport:
    """Differences that `load_torch_state` found. All three lists are empty when the state fits.

    Attributes:
        missing: names that the head has and the state lacks.
        unexpected: names that the state has and the head lacks.
        mismatched: "name: shape in the state, shape in the head" for arrays that do not fit.
    """

    missing: list[str]
    unexpected: list[str]
    mismatched: list[str]

    @property
    def complete(self) -> bool:
        """Whether every parameter was found, fitted and loaded."""
        return not (self.missing or self.unexpected or self.mismatched)


def torch_slots(head: AttnResHead) -> dict[str, Slot]:
    """Every torch parameter name of a head, with the place of its value."""
    slots: dict[str, Slot] = {}

    def add(name: str, variable: nnx.Param | None, columns: slice = slice(None)) -> None:
        assert variable is not None, f"{name} belongs to a layer without it"
        matrix = variable.ndim == 2
        slots[name] = Slot(variable, (slice(None), columns) if matrix else (columns,), matrix)

    for name, layer in (
        ("input_emb", head.action_embedding),
        ("cond_obs_emb", head.condition_embedding),
        ("time_token_proj", head.time_embedding),
        ("head", head.output),
    ):
        add(f"{name}.weight", layer.kernel)
        add(f"{name}.bias", layer.bias)
    add("ln_f.weight", head.norm.scale)
    backbone = head.backbone
    for k, (norm, sublayer) in enumerate(zip(backbone.norms, backbone.sublayers, strict=True)):
        prefix = f"attnres_backbone.layers.{k}"
        add(f"{prefix}.norm.weight", norm.scale)
        slots[f"{prefix}.attn_res.pseudo_query"] = Slot(backbone.pseudo_queries, (k,), False)
        if isinstance(sublayer, Attention):
            queries, keys = sublayer.n_head * sublayer.head_dim, sublayer.n_kv_head * sublayer.head_dim
            add(f"{prefix}.fn.w_q.weight", sublayer.qkv.kernel, slice(0, queries))
            add(f"{prefix}.fn.w_k.weight", sublayer.qkv.kernel, slice(queries, queries + keys))
            add(f"{prefix}.fn.w_v.weight", sublayer.qkv.kernel, slice(queries + keys, queries + 2 * keys))
            add(f"{prefix}.fn.w_o.weight", sublayer.out.kernel)
        elif isinstance(sublayer, SwiGLU):
            width = sublayer.down.kernel.shape[0]
            add(f"{prefix}.fn.w_gate.weight", sublayer.gate_up.kernel, slice(0, width))
            add(f"{prefix}.fn.w_up.weight", sublayer.gate_up.kernel, slice(width, 2 * width))
            add(f"{prefix}.fn.w_down.weight", sublayer.down.kernel)
    return slots


def load_torch_state(head: AttnResHead, state: Mapping[str, np.ndarray]) -> LoadReport:
    """Copy a torch state dict into a head, in place. The head changes only if every name and shape fits.

    Args:
        head: receives the values as float32.
        state: parameter name (no wrapper prefix) to array; linear weights are (out, in).

    Returns:
        The report; `report.complete` says whether the head was loaded.
    """
    slots = torch_slots(head)
    report = LoadReport(
        missing=[name for name in slots if name not in state],
        unexpected=[name for name in state if name not in slots],
        mismatched=[
            f"{name}: {tuple(state[name].shape)} in the state, {slot.torch_shape} in the head"
            for name, slot in slots.items()
            if name in state and tuple(state[name].shape) != slot.torch_shape
        ],
    )
    if report.complete:
        filled: dict[int, tuple[nnx.Param, np.ndarray]] = {}
        for name, slot in slots.items():
            _, target = filled.setdefault(id(slot.variable), (slot.variable, np.empty(slot.variable.shape, np.float32)))
            value = np.asarray(state[name], np.float32)
            target[slot.index] = value.T if slot.transposed else value
        for variable, target in filled.values():
            variable[...] = jnp.asarray(target)
    return report


def torch_state(head: AttnResHead) -> dict[str, np.ndarray]:
    """The head's parameters under their torch names, linear weights (out, in); the inverse of `load_torch_state`."""
    return {name: np.array(slot.read(np.asarray(slot.variable[...]))) for name, slot in torch_slots(head).items()}
