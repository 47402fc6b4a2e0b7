"""A policy with ResNet-18 encoders in PyTorch: the peer of `scripts/benchmark.py resnet`.

Eager PyTorch, pictures and kernels in the memory format `channels_last`, which is the faster one on CPUs; the head is
`imf_jax.benchmark.torch_head`. Importing this module needs PyTorch, see there.
"""

from collections.abc import Mapping
from typing import Any

import numpy as np
import torch
from torch import Tensor, nn
from torch.nn import functional

from imf_jax.benchmark.torch_head import TorchHead
from imf_jax.models.encoders.resnet import BLOCKS_PER_STAGE, GROUP_CHANNELS, NORM_EPS, STAGE_STRIDES

Weights = Mapping[str, Any]
"""Nested weights of a flax module, as of `nnx.to_pure_dict`."""


class TorchResNetPolicy(nn.Module):
    """Plan and training step of a policy with a ResNet-18 per camera.

    Args:
        head: sizes of the head, see `TorchHead`.
        head_weights: its weights.
        cameras: weights of the network of every camera.
        crop_size: height and width of the centre of the pictures that is seen [pixels].
        threads: CPU threads of PyTorch.
    """

    def __init__(
        self,
        head: Mapping[str, Any],
        head_weights: Mapping[str, np.ndarray],
        cameras: list[Weights],
        crop_size: int,
        threads: int,
    ) -> None:
        super().__init__()
        torch.set_num_threads(threads)
        self.head = TorchHead(head, head_weights)
        self.crop_size = crop_size
        self.cameras = nn.ModuleList([KeypointNet(weights) for weights in cameras])
        self.to(memory_format=torch.channels_last)

    def condition(self, images: Tensor, state: Tensor) -> Tensor:
        """Condition (B, To, D) of pictures uint8 (B, To, C, H, W, 3) and normalised states (B, To, S)."""
        start = (images.shape[3] - self.crop_size) // 2
        cut = images[:, :, :, start : start + self.crop_size, start : start + self.crop_size]
        features = []
        for c, network in enumerate(self.cameras):
            pixels = cut[:, :, c].flatten(0, 1).permute(0, 3, 1, 2).float() / 127.5 - 1
            features.append(network(pixels).reshape(*state.shape[:2], -1))
        return torch.cat([*features, state], dim=-1)

    def train_step(self, images: Any, state: Any, x: Any, noise: Any, r: Any, t: Any) -> np.float32:
        """Loss of a batch, its gradient computed as well; numpy in and out."""
        x, noise, r, t = (torch.as_tensor(np.array(value)) for value in (x, noise, r, t))
        condition = self.condition(*(torch.as_tensor(np.array(value)) for value in (images, state)))
        loss = self.head.loss(x, noise, r, t, condition)
        self.zero_grad()
        loss.backward()
        return np.float32(loss.item())

    def plan(self, images: Any, state: Any, noise: Any) -> np.ndarray:
        """Chunks (B, H, A); numpy in and out."""
        with torch.inference_mode():
            images, state, noise = (torch.as_tensor(np.array(value)) for value in (images, state, noise))
            return self.head.plan(noise, self.condition(images, state)).numpy()


class KeypointNet(nn.Module):
    """ResNet-18 with group normalisation, a 1 x 1 convolution and a spatial softmax."""

    def __init__(self, weights: Weights) -> None:
        super().__init__()
        backbone = weights["backbone"]
        self.stem, self.stem_norm = convolution(backbone["stem"], 2), group_norm(backbone["stem_norm"])
        stages = STAGE_STRIDES[: len(backbone["blocks"]) // BLOCKS_PER_STAGE]
        strides = [stride if n == 0 else 1 for stride in stages for n in range(BLOCKS_PER_STAGE)]
        self.blocks = nn.Sequential(*(Block(backbone["blocks"][n], stride) for n, stride in enumerate(strides)))
        self.maps = convolution(weights["keypoint_maps"], 1)

    def forward(self, pixels: Tensor) -> Tensor:
        """Keypoints (B, 2 K) of pixels (B, 3, H, W)."""
        x = functional.max_pool2d(functional.relu(self.stem_norm(self.stem(pixels))), 3, 2, 1)
        maps = self.maps(self.blocks(x))
        weights = torch.softmax(maps.flatten(2), dim=-1).reshape(maps.shape)
        height, width = maps.shape[2:]
        x = weights.sum(2) @ torch.linspace(-1, 1, width)
        y = weights.sum(3) @ torch.linspace(-1, 1, height)
        return torch.stack([x, y], dim=-1).flatten(1)


class Block(nn.Module):
    """Residual block."""

    def __init__(self, weights: Weights, stride: int) -> None:
        super().__init__()
        self.conv1, self.norm1 = convolution(weights["conv1"], stride), group_norm(weights["norm1"])
        self.conv2, self.norm2 = convolution(weights["conv2"], 1), group_norm(weights["norm2"])
        self.shortcut: nn.Module = nn.Identity()
        if "shortcut" in weights:
            parts = convolution(weights["shortcut"], stride), group_norm(weights["shortcut_norm"])
            self.shortcut = nn.Sequential(*parts)

    def forward(self, x: Tensor) -> Tensor:
        """Apply the block."""
        h = self.norm2(self.conv2(functional.relu(self.norm1(self.conv1(x)))))
        return functional.relu(self.shortcut(x) + h)


def convolution(weights: Weights, stride: int) -> nn.Conv2d:
    """A convolution with the weights of one of flax, (height, width, in, out)."""
    kernel = np.array(weights["kernel"]).transpose(3, 2, 0, 1)
    channels_out, channels_in, size, _ = kernel.shape
    made = nn.Conv2d(channels_in, channels_out, size, stride, size // 2, bias="bias" in weights)
    made.weight = nn.Parameter(torch.tensor(kernel))
    if "bias" in weights:
        made.bias = nn.Parameter(torch.tensor(np.array(weights["bias"])))
    return made


def group_norm(weights: Weights) -> nn.GroupNorm:
    """A group normalisation with the weights of one of flax."""
    scale, bias = (torch.tensor(np.array(weights["norm"][name])) for name in ("scale", "bias"))
    made = nn.GroupNorm(len(scale) // GROUP_CHANNELS, len(scale), NORM_EPS)
    made.weight, made.bias = nn.Parameter(scale), nn.Parameter(bias)
    return made
