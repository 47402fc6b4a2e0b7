"""The LEWM encoder in PyTorch and transformers, and the kinds of file its weights come in."""

import re
from collections.abc import Mapping
from pathlib import Path

import numpy as np
import safetensors.torch
import torch
from torch.nn import functional
from transformers import ViTConfig, ViTModel

OLD_NAMES = (
    (r"^encoder\.layers\.", "encoder.encoder.layer."),
    (r"attention\.q_proj", "attention.attention.query"),
    (r"attention\.k_proj", "attention.attention.key"),
    (r"attention\.v_proj", "attention.attention.value"),
    (r"attention\.o_proj", "attention.output.dense"),
    (r"mlp\.fc1", "intermediate.dense"),
    (r"mlp\.fc2", "output.dense"),
)
"""Pattern of a name since transformers 5.9 -> what it was before."""

MEAN = torch.tensor([0.485, 0.456, 0.406]).reshape(3, 1, 1)
STD = torch.tensor([0.229, 0.224, 0.225]).reshape(3, 1, 1)

KINDS = ("lightning", "plain", "object", "safetensors")
NAMINGS = ("new", "old")


class Projector(torch.nn.Module):
    """Linear, batch normalisation, GELU, linear."""

    def __init__(self, width: int, hidden: int, output: int) -> None:
        super().__init__()
        self.net = torch.nn.Sequential(
            torch.nn.Linear(width, hidden),
            torch.nn.BatchNorm1d(hidden),
            torch.nn.GELU(),
            torch.nn.Linear(hidden, output),
        )

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        return self.net(x)


class Lewm(torch.nn.Module):
    """Vision transformer and projector with random weights, running statistics included, in evaluation mode."""

    def __init__(self, config: ViTConfig, projector_hidden: int, output: int, seed: int) -> None:
        super().__init__()
        self.encoder = ViTModel(config, add_pooling_layer=False, use_mask_token=False)
        self.projector = Projector(config.hidden_size, projector_hidden, output)
        generator = torch.Generator().manual_seed(seed)
        for name, value in self.state_dict().items():
            if name.endswith("running_var"):
                value.uniform_(0.3, 3.0, generator=generator)
            elif value.is_floating_point():
                scale = 0.02 if value.ndim > 1 else 0.1
                offset = 1.0 if re.search(r"(layernorm\w*|net\.1)\.weight$", name) else 0.0
                value.normal_(offset, scale, generator=generator)
        self.eval()

    @torch.no_grad()
    def class_feature(self, pixels: torch.Tensor) -> torch.Tensor:
        """(B, 3, H, W) preprocessed -> (B, hidden)."""
        return self.encoder(pixels, interpolate_pos_encoding=True).last_hidden_state[:, 0]

    @torch.no_grad()
    def patch_features(self, pixels: torch.Tensor) -> torch.Tensor:
        """(B, 3, H, W) preprocessed -> (B, patches, hidden), row by row."""
        return self.encoder(pixels, interpolate_pos_encoding=True).last_hidden_state[:, 1:]

    @torch.no_grad()
    def forward(self, pixels: torch.Tensor) -> torch.Tensor:
        """(B, 3, H, W) preprocessed -> (B, output)."""
        return self.projector(self.class_feature(pixels))


def preprocess(images: np.ndarray, shorter_side: int) -> torch.Tensor:
    """uint8 (B, H, W, 3) -> (B, 3, H', W'), as torchvision's Normalize and Resize(antialias=True) do it."""
    pixels = (torch.tensor(images).permute(0, 3, 1, 2) / 255.0 - MEAN) / STD
    height, width = pixels.shape[2:]
    if height <= width:
        size = (shorter_side, shorter_side * width // height)
    else:
        size = (shorter_side * height // width, shorter_side)
    if size == (height, width):
        return pixels
    return functional.interpolate(pixels, size=size, mode="bilinear", align_corners=False, antialias=True)


def fuse(views: Mapping[str, np.ndarray], fusion: str) -> np.ndarray:
    """The three views in one picture."""
    right_wrist, top, front = (views[name] for name in ("r_vis", "top", "front"))
    if fusion == "row":
        return np.concatenate([right_wrist, top, front], axis=2)
    lower = np.concatenate([front, np.zeros_like(front)], axis=2)
    return np.concatenate([np.concatenate([right_wrist, top], axis=2), lower], axis=1)


def renamed(state: Mapping[str, torch.Tensor], naming: str) -> dict[str, torch.Tensor]:
    """A state dict under the names of transformers since 5.9 ("new") or before ("old")."""
    names = list(state)
    if naming == "old":
        for pattern, replacement in OLD_NAMES:
            names = [re.sub(pattern, replacement, name) for name in names]
    return dict(zip(names, state.values(), strict=True))


def module_tree(state: Mapping[str, torch.Tensor], buffers: set[str]) -> torch.nn.Module:
    """A module whose state dict is `state`: bare modules nested as the names say."""
    root = torch.nn.Module()
    for name, value in state.items():
        *folders, leaf = name.split(".")
        module = root
        for folder in folders:
            if folder not in dict(module.named_children()):
                module.add_module(folder, torch.nn.Module())
            module = module.get_submodule(folder)
        if name in buffers:
            module.register_buffer(leaf, value)
        else:
            module.register_parameter(leaf, torch.nn.Parameter(value))
    return root


def save(model: Lewm, folder: Path, kind: str, naming: str) -> Path:
    """Write one checkpoint file as training code leaves it.

    Args:
        model: whose weights.
        folder: receives the file.
        kind: one of `KINDS`.
        naming: one of `NAMINGS`.
    """
    state = renamed(model.state_dict(), naming)
    if kind == "lightning":
        path = folder / f"{naming}.ckpt"
        prefixed = {f"model.{name}": value for name, value in state.items()}
        first = next(iter(model.parameters()))
        momentum = {"exp_avg": torch.zeros_like(first), "exp_avg_sq": torch.ones_like(first), "step": torch.tensor(7.0)}
        content = {
            "epoch": 3,
            "global_step": 7,
            "pytorch-lightning_version": "2.5.0",
            "state_dict": {**prefixed, "sigreg.frequencies": torch.linspace(0, 3, 17)},
            "optimizer_states": [{"state": {0: momentum}, "param_groups": [{"lr": 1e-4, "params": [0]}]}],
            "hyper_parameters": {"lr": 1e-4},
        }
        torch.save(content, path)
    elif kind == "plain":
        path = folder / f"{naming}_weights.pt"
        torch.save(state, path)
    elif kind == "object":
        path = folder / f"{naming}_object.ckpt"
        buffers = {name for name, _ in model.named_buffers()}
        torch.save(model if naming == "new" else module_tree(state, buffers), path)
    else:
        path = folder / f"{naming}.safetensors"
        safetensors.torch.save_file({name: value.contiguous() for name, value in state.items()}, path)
    return path
