"""Make tests/fixtures/lewm: tiny checkpoints in every file kind and naming, and what PyTorch computes with them.

.venv-parity/bin/python tests/parity/make_lewm_fixtures.py
"""

from pathlib import Path

import numpy as np
import torch
from torch_lewm import KINDS, NAMINGS, Lewm, fuse, preprocess, save
from transformers import ViTConfig

FOLDER = Path(__file__).parents[1] / "fixtures" / "lewm"
IMAGE_SIZE = 16
VIEW_SIZE = 24


def main() -> None:
    """Write all files."""
    FOLDER.mkdir(parents=True, exist_ok=True)
    config = ViTConfig(
        hidden_size=16,
        num_hidden_layers=2,
        num_attention_heads=2,
        intermediate_size=32,
        patch_size=4,
        image_size=IMAGE_SIZE,
    )
    model = Lewm(config, projector_hidden=24, output=12, seed=0)
    for kind in KINDS:
        for naming in NAMINGS:
            save(model, FOLDER, kind, naming)
    torch.save(model.state_dict(), FOLDER / "older_container.pt", _use_new_zipfile_serialization=False)
    half = {name: value.half() if value.is_floating_point() else value for name, value in model.state_dict().items()}
    torch.save(half, FOLDER / "float16.pt")
    brain = {
        name: value.bfloat16() if value.is_floating_point() else value for name, value in model.state_dict().items()
    }
    torch.save(brain, FOLDER / "bfloat16.pt")

    random = np.random.default_rng(0)
    images = random.integers(0, 256, (3, IMAGE_SIZE, IMAGE_SIZE, 3), np.uint8)
    views = {
        name: random.integers(0, 256, (2, VIEW_SIZE, VIEW_SIZE, 3), np.uint8) for name in ("r_vis", "top", "front")
    }
    uneven = random.integers(0, 256, (1, 21, 34, 3), np.uint8)
    pixels = preprocess(images, IMAGE_SIZE)
    table = model.encoder.embeddings.interpolate_pos_encoding(torch.zeros(1, 1 + 4 * 12, 16), 16, 48)
    fused = {fusion: preprocess(fuse(views, fusion), IMAGE_SIZE) for fusion in ("row", "grid")}
    np.savez_compressed(
        FOLDER / "expected.npz",
        images=images,
        class_feature=model.class_feature(pixels).numpy(),
        embedding=model(pixels).numpy(),
        **{f"view_{name}": value for name, value in views.items()},
        **{f"embedding_{fusion}": model(value).numpy() for fusion, value in fused.items()},
        **{f"pixels_{fusion}": value.permute(0, 2, 3, 1).numpy() for fusion, value in fused.items()},
        uneven=uneven,
        pixels_uneven=preprocess(uneven, IMAGE_SIZE).permute(0, 2, 3, 1).numpy(),
        positions_16x48=table[0].detach().numpy(),
    )


if __name__ == "__main__":
    main()
