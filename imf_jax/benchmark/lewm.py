"""LEWM embeddings per second: this port against PyTorch and transformers, taking turns in one process.

Needs the `parity` extra (torch, transformers) for the comparison.
"""

import statistics
import time
from collections.abc import Callable
from dataclasses import dataclass
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np

from imf_jax.cores import usable_cores
from imf_jax.errors import UserError
from imf_jax.models.encoders.lewm import LewmEncoder, LewmSizes
from imf_jax.models.encoders.preprocess import IMAGENET_MEAN, IMAGENET_STD
from imf_jax.models.encoders.vit import VitSizes

SIZES = LewmSizes(
    VitSizes(hidden=192, layers=12, heads=3, mlp=768, patch=14, image_size=224), projector_hidden=2048, output=192
)


@dataclass(frozen=True)
class LewmSpeed:
    """Embeddings per second [1/s], uint8 pictures in.

    Attributes:
        ours: median of this port.
        peer: median of PyTorch and transformers; None if they were not asked for.
        ratio: median over the rounds of (peer time / our time) within a round; above 1 means that this port is faster.
        threads: CPU threads of both.
        device: where this port ran.
    """

    ours: float
    peer: float | None
    ratio: float | None
    threads: int
    device: str

    def line(self) -> str:
        """The result in one line."""
        ours = f"LEWM embeddings on {self.device}, {self.threads} threads: {self.ours:.1f} per second"
        return ours if self.peer is None else f"{ours}, PyTorch {self.peer:.1f}, ratio {self.ratio:.2f}"


def random_encoder(dtype: Any = jnp.float32) -> LewmEncoder:
    """The encoder with random weights, which take as long as trained ones."""
    random = np.random.default_rng(0)
    weights = {name: random.normal(0, 0.02, shape) for name, shape in SIZES.weight_shapes().items()}
    weights["projector.norm.var"] = np.ones(SIZES.projector_hidden)
    return LewmEncoder(weights, SIZES, dtype=dtype)


def peer_encoder(threads: int) -> Callable[[np.ndarray], Any]:
    """PyTorch's encoder and projector as a function of uint8 (B, 224, 224, 3).

    Raises:
        UserError: torch or transformers is not installed.
    """
    try:
        import torch
        from transformers import ViTConfig, ViTModel
    except ImportError as error:
        raise UserError(f"{error.name} is not installed; run `make parity`, then use .venv-parity/bin/python") from None
    torch.set_num_threads(threads)
    vit = SIZES.vit
    config = ViTConfig(
        hidden_size=vit.hidden,
        num_hidden_layers=vit.layers,
        num_attention_heads=vit.heads,
        intermediate_size=vit.mlp,
        patch_size=vit.patch,
        image_size=vit.image_size,
    )
    encoder = ViTModel(config, add_pooling_layer=False, use_mask_token=False).eval()
    projector = torch.nn.Sequential(
        torch.nn.Linear(vit.hidden, SIZES.projector_hidden),
        torch.nn.BatchNorm1d(SIZES.projector_hidden),
        torch.nn.GELU(),
        torch.nn.Linear(SIZES.projector_hidden, SIZES.output),
    ).eval()
    mean, std = (torch.tensor(values).reshape(3, 1, 1) for values in (IMAGENET_MEAN, IMAGENET_STD))

    def encode(images: np.ndarray) -> Any:
        with torch.inference_mode():
            pixels = (torch.from_numpy(images).permute(0, 3, 1, 2) / 255.0 - mean) / std
            return projector(encoder(pixels).last_hidden_state[:, 0])

    return encode


def measure(*, batch: int = 32, rounds: int = 10, peer: bool = True, dtype: Any = jnp.float32) -> LewmSpeed:
    """Time both sides in turns.

    Args:
        batch: pictures per call.
        rounds: calls of each side; the first of each is not counted.
        peer: also measure PyTorch and transformers, on the CPU.
        dtype: of this port's matrix products.

    Raises:
        UserError: the comparison was asked for and torch or transformers is not installed.
    """
    threads = usable_cores()
    images = np.random.default_rng(1).integers(0, 256, (batch, 224, 224, 3), np.uint8)
    encoder = random_encoder(dtype)
    sides: list[Callable[[], Any]] = [lambda: encoder(images).block_until_ready()]
    if peer:
        theirs = peer_encoder(threads)
        sides.append(lambda: theirs(images))
    seconds: list[list[float]] = []
    for _ in range(rounds + 1):
        seconds.append([])
        for side in sides:
            start = time.perf_counter()
            side()
            seconds[-1].append(time.perf_counter() - start)
    ours, *others = zip(*seconds[1:], strict=True)
    device = jax.local_devices()[0].device_kind
    if not others:
        return LewmSpeed(batch / statistics.median(ours), None, None, threads, device)
    ratio = statistics.median(b / a for a, b in zip(ours, others[0], strict=True))
    return LewmSpeed(batch / statistics.median(ours), batch / statistics.median(others[0]), ratio, threads, device)
