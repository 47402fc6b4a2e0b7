"""The reference model of the wheel stable-worldmodel, of which only the files that are needed are loaded."""

import importlib.util
import re
import sys
from pathlib import Path
from types import ModuleType

import torch
from transformers import ViTConfig, ViTModel


def load_file(relative: str) -> ModuleType:
    """A module of the wheel by its file; the package itself would import environments and datasets."""
    package = importlib.util.find_spec("stable_worldmodel")
    assert package is not None
    assert package.origin is not None
    path = Path(package.origin).parent / relative
    spec = importlib.util.spec_from_file_location(f"reference_{path.stem}", path)
    assert spec is not None
    assert spec.loader is not None
    module = importlib.util.module_from_spec(spec)
    sys.modules[spec.name] = module  # pickling a model looks its classes up there
    spec.loader.exec_module(module)
    return module


MODEL, MODULE, LOSS = (load_file(f"wm/{name}.py") for name in ("lewm/lewm", "lewm/module", "loss"))


def build(
    *,
    action_dim: int = 10,
    width: int = 192,
    layers: int = 12,
    heads: int = 3,
    mlp: int = 768,
    image_size: int = 224,
    projector_hidden: int = 2048,
    predictor_layers: int = 6,
    predictor_heads: int = 16,
    predictor_mlp: int = 2048,
    dropout: float = 0.0,
    seed: int = 0,
) -> torch.nn.Module:
    """The reference model with random weights, as spread as trained ones, in training mode."""
    config = ViTConfig(
        hidden_size=width,
        num_hidden_layers=layers,
        num_attention_heads=heads,
        intermediate_size=mlp,
        patch_size=14,
        image_size=image_size,
        hidden_act="gelu",
        layer_norm_eps=1e-12,
    )

    def head() -> torch.nn.Module:
        return MODULE.MLP(width, projector_hidden, width, norm_fn=torch.nn.BatchNorm1d)

    model = MODEL.LeWM(
        encoder=ViTModel(config, add_pooling_layer=False, use_mask_token=False),
        predictor=MODULE.Predictor(
            num_frames=3,
            depth=predictor_layers,
            heads=predictor_heads,
            mlp_dim=predictor_mlp,
            input_dim=width,
            hidden_dim=width,
            dropout=dropout,
        ),
        action_encoder=MODULE.Embedder(input_dim=action_dim, emb_dim=width),
        projector=head(),
        pred_proj=head(),
    )
    generator = torch.Generator().manual_seed(seed)
    for name, value in model.state_dict().items():
        if name.endswith("running_var"):
            value.uniform_(0.3, 3.0, generator=generator)
        elif value.is_floating_point():
            is_norm = re.search(r"(norm\w*|net\.1|mlp\.net\.0)\.weight$", name) and value.ndim == 1
            scale = value.shape[1] ** -0.5 if value.ndim == 2 else 0.05
            value.normal_(1.0 if is_norm else 0.0, scale, generator=generator)
    return model.train()


def sigreg(embeddings: torch.Tensor, sketches: torch.Tensor) -> torch.Tensor:
    """The reference's SIGReg of (T, B, D) with these sketches (D, P) in place of drawn ones."""
    drawn = torch.randn
    torch.randn = lambda *shape, **options: sketches.clone()
    try:
        return LOSS.SIGReg(num_proj=sketches.shape[1])(embeddings)
    finally:
        torch.randn = drawn
