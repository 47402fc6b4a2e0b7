"""The IMF-AttnRes head and objective in PyTorch: the ready-made peer of `scripts/benchmark.py policy --peer torch`.

Eager PyTorch with what saves time there: one product for query, key and value and one for gate and up, the scores of a
source for all later sub-layers at once, fused attention where no derivative passes through it. The objective takes
du/dt of every row of the batch by forward-mode differentiation.

Importing this module needs PyTorch: the extra `peers`, or the environment of `make parity`.
"""

import math
from collections.abc import Mapping
from typing import Any

import numpy as np
import torch
from torch import Tensor
from torch.nn import functional

NORM_EPS = 1e-6


def build(config: Mapping[str, Any], weights: Mapping[str, np.ndarray], threads: int) -> "TorchPeer":
    """Build the peer; see `imf_jax.benchmark.policy.peer_side`."""
    torch.set_num_threads(threads)
    return TorchPeer(config, weights)


class TorchPeer:
    """Training step and plan of the head, numpy in and out.

    Args:
        config: `n_layer`, `n_head` and `n_kv_head` of the head; the other sizes follow from the weights.
        weights: parameters under their torch names, linear weights (out, in).
    """

    def __init__(self, config: Mapping[str, Any], weights: Mapping[str, np.ndarray]) -> None:
        self.head = TorchHead(config, weights)

    def train_step(self, x: Any, noise: Any, r: Any, t: Any, condition: Any) -> np.float32:
        """Loss of a batch, its gradient computed as well; shapes as in `imf_jax.benchmark.policy.Batch`."""
        loss = self.head.loss(*(torch.as_tensor(np.array(value)) for value in (x, noise, r, t, condition)))
        self.head.zero_grad()
        loss.backward()
        return np.float32(loss.item())

    def plan(self, noise: Any, condition: Any) -> np.ndarray:
        """Chunks (B, H, A) planned in one step from noise (B, H, A) and conditions (B, Nc, C)."""
        with torch.inference_mode():
            return self.head.plan(torch.as_tensor(noise), torch.as_tensor(condition)).numpy()


class TorchHead(torch.nn.Module):
    """Average velocity u(z, r, t | condition); arguments as of `TorchPeer`."""

    def __init__(self, config: Mapping[str, Any], weights: Mapping[str, np.ndarray]) -> None:
        super().__init__()
        self.n_head, self.n_kv_head = int(config["n_head"]), int(config["n_kv_head"])
        self.count = 2 * int(config["n_layer"])

        def parameter(*names: str) -> torch.nn.Parameter:
            return torch.nn.Parameter(torch.tensor(np.concatenate([np.asarray(weights[name]) for name in names])))

        ends = ("input_emb", "cond_obs_emb", "time_token_proj", "head")
        self.ends = torch.nn.ParameterDict(
            {f"{name}_{kind}": parameter(f"{name}.{kind}") for name in ends for kind in ("weight", "bias")}
        )
        names = [f"attnres_backbone.layers.{k}" for k in range(self.count)]
        joined = [("w_q", "w_k", "w_v") if k % 2 == 0 else ("w_gate", "w_up") for k in range(self.count)]
        self.inner = torch.nn.ParameterList(
            [
                parameter(*(f"{name}.fn.{part}.weight" for part in parts))
                for name, parts in zip(names, joined, strict=True)
            ]
        )
        self.outer = torch.nn.ParameterList(
            [parameter(f"{name}.fn.{'w_o' if k % 2 == 0 else 'w_down'}.weight") for k, name in enumerate(names)]
        )
        self.norms = torch.nn.ParameterList([parameter(f"{name}.norm.weight") for name in names])
        queries = np.stack([weights[f"{name}.attn_res.pseudo_query"] for name in names])
        self.queries = torch.nn.Parameter(torch.tensor(queries))
        self.last_norm = parameter("ln_f.weight")

    def forward(self, z: Tensor, r: Tensor, t: Tensor, condition: Tensor, *, fused: bool = False) -> Tensor:
        """Velocity (B, H, A); arguments as of `imf_jax.models.networks.attnres.AttnResHead`.

        PyTorch's `fused` attention has no forward-mode derivative.
        """
        times = self._end("time_token_proj", self._sinusoid(torch.stack([r, t], dim=1)))
        tokens = [times, self._end("cond_obs_emb", condition), self._end("input_emb", z)]
        sources, scores = [torch.cat(tokens, dim=1)], []
        cos, sin = self._angles(sources[0].shape[1])
        for k in range(self.count):
            newest = sources[-1]
            scores.append((newest @ self.queries.T) * _inverse_rms(newest))
            mix = torch.softmax(torch.stack([score[..., k] for score in scores]), dim=0)
            mixture = sum((mix[i, ..., None] * source for i, source in enumerate(sources)), start=torch.zeros(()))
            x = mixture * _inverse_rms(mixture) * self.norms[k]
            inner = functional.linear(x, self.inner[k])
            inner = self._attend(inner, cos, sin, fused) if k % 2 == 0 else _swiglu(inner)
            sources.append(functional.linear(inner, self.outer[k]))
        hidden = sum(sources[1:], start=sources[0])[:, -z.shape[1] :]
        return self._end("head", hidden * _inverse_rms(hidden) * self.last_norm)

    def loss(self, x: Tensor, noise: Tensor, r: Tensor, t: Tensor, condition: Tensor) -> Tensor:
        """Mean pseudo-Huber loss (delta 1) of V against noise - x; no padding."""
        z = (1 - t)[:, None, None] * x + t[:, None, None] * noise
        with torch.no_grad():
            v = self(z, t, t, condition)
        u, derivative = torch.func.jvp(
            lambda z, r, t: self(z, r, t, condition), (z, r, t), (v, torch.zeros_like(r), torch.ones_like(t))
        )
        compound = u + (t - r)[:, None, None] * derivative.detach()
        return ((1 + (compound - (noise - x)).square()).sqrt() - 1).mean()

    def plan(self, noise: Tensor, condition: Tensor) -> Tensor:
        """Chunks (B, H, A) in one step from noise at time 1."""
        r = torch.zeros(len(noise))
        return noise - self(noise, r, torch.ones_like(r), condition, fused=True)

    def _end(self, name: str, x: Tensor) -> Tensor:
        return functional.linear(x, self.ends[f"{name}_weight"], self.ends[f"{name}_bias"])

    def _sinusoid(self, times: Tensor) -> Tensor:
        half = len(self.last_norm) // 2
        angles = times[..., None] * torch.exp(torch.arange(half) * (-math.log(1e4) / max(half - 1, 1)))
        return torch.cat([angles.sin(), angles.cos()], dim=-1)

    def _angles(self, tokens: int) -> tuple[Tensor, Tensor]:
        """Cosine and sine (tokens, 1, head_dim / 2) of the rotary positions."""
        dim = len(self.last_norm) // self.n_head
        angles = torch.arange(tokens)[:, None] * 1e4 ** (-torch.arange(0, dim, 2) / dim)
        return angles.cos()[:, None], angles.sin()[:, None]

    def _attend(self, qkv: Tensor, cos: Tensor, sin: Tensor, fused: bool) -> Tensor:
        batch, tokens = qkv.shape[:2]
        heads = self.n_head + 2 * self.n_kv_head
        split = qkv.reshape(batch, tokens, heads, -1).split([self.n_head, self.n_kv_head, self.n_kv_head], dim=2)
        query, key, value = _rotate(split[0], cos, sin), _rotate(split[1], cos, sin), split[2]
        groups = self.n_head // self.n_kv_head
        if groups > 1:
            key, value = (part.repeat_interleave(groups, dim=2) for part in (key, value))
        query, key, value = (part.transpose(1, 2) for part in (query, key, value))
        if fused:
            mixed = functional.scaled_dot_product_attention(query, key, value)
        else:
            mixed = torch.softmax(query @ key.transpose(-1, -2) / math.sqrt(query.shape[-1]), dim=-1) @ value
        return mixed.transpose(1, 2).reshape(batch, tokens, -1)


def _inverse_rms(x: Tensor) -> Tensor:
    return torch.rsqrt(x.square().mean(dim=-1, keepdim=True) + NORM_EPS)


def _swiglu(x: Tensor) -> Tensor:
    gate, up = x.chunk(2, dim=-1)
    return functional.silu(gate) * up


def _rotate(x: Tensor, cos: Tensor, sin: Tensor) -> Tensor:
    """Rotary positions on adjacent pairs; x (B, tokens, heads, head_dim)."""
    even, odd = x[..., ::2], x[..., 1::2]
    return torch.stack([even * cos - odd * sin, even * sin + odd * cos], dim=-1).flatten(-2)
