"""LeWorldModel in training mode against the reference of the wheel stable-worldmodel, and weights both ways.

Run by `make parity`, which needs torch, transformers and the wheel; `make test` does not run it.
"""

import re
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np
import pytest
import reference_world_model as reference
import safetensors.torch
import torch
from torch_lewm import preprocess, renamed

from imf_jax.conversion.lewm import Args, convert
from imf_jax.conversion.lewm_names import to_torch, world_sources
from imf_jax.conversion.world_model import export_torch
from imf_jax.models.encoders.preprocess import preprocess as our_preprocess
from imf_jax.models.objectives.sigreg import sigreg
from imf_jax.models.world_model import forward, is_statistic, losses, running
from imf_jax.models.world_model_file import read_world_model

pytestmark = pytest.mark.optimized

MAX_ERROR, MAX_GRADIENT_ERROR = 1e-5, 1e-4
MAX_ZERO_GRADIENT = 1e-6
ZERO = re.compile(
    r"k_proj\.bias$|net\.0\.bias$(?<!mlp\.net\.0\.bias)|encoder\.layernorm\.bias$|transformer\.norm\.bias$"
)
"""Gradients that are zero but for rounding, because a softmax or batch normalisation removes what such a bias adds;
their difference is compared with the length of the whole gradient."""
SIGREG_WEIGHT = 0.09
BATCH, FRAMES, SKETCHES = 4, 4, 64
KINDS = ("lightning", "plain", "object", "safetensors")
SMALL: dict[str, Any] = {
    "action_dim": 6, "width": 64, "layers": 2, "heads": 2, "mlp": 96, "image_size": 56, "projector_hidden": 80,
    "predictor_layers": 2, "predictor_heads": 2, "predictor_mlp": 72,
}  # fmt: skip


def relative(ours: Any, theirs: torch.Tensor) -> float:
    """Length of the difference, in lengths of the reference."""
    expected = theirs.detach().numpy().astype(np.float64)
    return float(np.linalg.norm(np.asarray(ours, np.float64) - expected) / np.linalg.norm(expected))


@pytest.fixture(scope="module")
def model() -> torch.nn.Module:
    return reference.build()


def converted(model: torch.nn.Module, folder: Path, heads: int | None = None) -> tuple[dict[str, np.ndarray], Any]:
    torch.save(model.state_dict(), folder / "weights.pt")
    convert(Args(folder / "weights.pt", folder / "out", heads=heads, whole=True))
    return read_world_model(folder / "out")


def test_the_reference_has_the_stated_size(model: torch.nn.Module) -> None:
    assert len(model.state_dict()) == 303
    assert sum(value.numel() for value in model.parameters()) == 18_034_478


@pytest.fixture(scope="module")
def batch(model: torch.nn.Module) -> dict[str, np.ndarray]:
    random = np.random.default_rng(1)
    coarse = random.integers(0, 256, (BATCH * FRAMES, 8, 8, 3), np.uint8)
    sketches = random.normal(size=(192, SKETCHES)).astype(np.float32)
    return {
        "images": coarse.repeat(28, axis=1).repeat(28, axis=2),
        "actions": random.normal(size=(BATCH, FRAMES - 1, 10)).astype(np.float32),
        "sketches": sketches / np.linalg.norm(sketches, axis=0),
    }


def reference_pass(model: torch.nn.Module, batch: Mapping[str, np.ndarray], device: str) -> dict[str, Any]:
    """Embeddings, predictions, both terms and all gradients of the reference, in training mode on `device`."""
    model.zero_grad()
    pixels = preprocess(batch["images"], 224).unflatten(0, (BATCH, FRAMES)).to(device)
    with torch.device(device):
        encoded = model.encode({"pixels": pixels, "action": torch.tensor(batch["actions"])})
        predictions = model.predict(encoded["emb"][:, :-1], encoded["act_emb"])
        mse = (predictions - encoded["emb"][:, 1:]).pow(2).mean()
        regularity = reference.sigreg(encoded["emb"].transpose(0, 1), torch.tensor(batch["sketches"]))
        (mse + SIGREG_WEIGHT * regularity).backward()
    return {"embeddings": encoded["emb"], "predictions": predictions, "mse": mse, "sigreg": regularity}


@pytest.mark.parametrize("recompute", [False, True])
def test_embeddings_predictions_losses_and_gradients_match(
    recompute: bool, model: torch.nn.Module, batch: dict[str, np.ndarray], tmp_path: Path
) -> None:
    weights, sizes = converted(model, tmp_path)
    before = {name: value.clone() for name, value in model.state_dict().items()}
    theirs = reference_pass(model, batch, "cpu")
    after = model.state_dict()

    params = {name: jnp.asarray(value) for name, value in weights.items() if not is_statistic(name)}
    statistics = {name: jnp.asarray(value) for name, value in weights.items() if is_statistic(name)}
    pixels = our_preprocess(batch["images"], 224).reshape(BATCH, FRAMES, 224, 224, 3)

    def loss(params: dict[str, jax.Array]) -> Any:
        result = forward({**params, **statistics}, pixels, jnp.asarray(batch["actions"]), sizes, recompute=recompute)
        mse, regularity = losses(result, jnp.asarray(batch["sketches"]))
        return mse + SIGREG_WEIGHT * regularity, (result, mse, regularity)

    with jax.default_matmul_precision("highest"):
        (_, (result, mse, regularity)), gradient = jax.jit(jax.value_and_grad(loss, has_aux=True))(params)
    errors = {
        "embeddings": relative(result.embeddings, theirs["embeddings"]),
        "predictions": relative(result.predictions, theirs["predictions"]),
        "mse": relative(mse, theirs["mse"]),
        "sigreg": relative(regularity, theirs["sigreg"]),
    }
    print(errors)
    assert max(errors.values()) <= MAX_ERROR

    named = {name: parameter.grad.numpy() for name, parameter in model.named_parameters()}
    ours = to_torch({**{name: np.zeros_like(weights[name]) for name in statistics}, **gradient}, sizes)
    whole = np.sqrt(sum(float(np.square(value).sum()) for value in named.values()))
    errors = {
        name: float(np.linalg.norm(ours[name] - value) / (whole if ZERO.search(name) else np.linalg.norm(value)))
        for name, value in named.items()
    }
    largest = max(errors, key=lambda name: errors[name])
    print(f"gradients: {largest} {errors[largest]:.2e}")
    assert errors[largest] <= MAX_GRADIENT_ERROR
    assert max(error for name, error in errors.items() if ZERO.search(name)) <= MAX_ZERO_GRADIENT

    updated = {**weights, **running({name: jnp.asarray(v) for name, v in weights.items()}, result.moments)}
    for name in ("projector", "pred_proj"):
        for ours_name, theirs_name in (("mean", "running_mean"), ("var", "running_var")):
            key = f"{name}.net.1.{theirs_name}"
            assert not torch.equal(before[key], after[key])
            assert relative(updated[f"{name}.norm.{ours_name}"], after[key]) <= MAX_ERROR
    model.load_state_dict(before)


def test_sigreg_matches_on_its_own() -> None:
    random = np.random.default_rng(3)
    embeddings = random.normal(0.3, 1.4, (4, 32, 24)).astype(np.float32)
    sketches = random.normal(size=(24, 128)).astype(np.float32)
    theirs = reference.sigreg(torch.tensor(embeddings), torch.tensor(sketches))
    ours = sigreg(jnp.asarray(embeddings), jnp.asarray(sketches / np.linalg.norm(sketches, axis=0)))
    assert relative(ours, theirs) <= MAX_ERROR


@pytest.mark.parametrize("naming", ["new", "old"])
@pytest.mark.parametrize("kind", KINDS)
def test_whole_checkpoints_of_every_kind_are_converted(kind: str, naming: str, tmp_path: Path) -> None:
    model = reference.build(**SMALL)
    state = renamed(model.state_dict(), naming)
    path = (
        tmp_path
        / {"lightning": "a.ckpt", "plain": "a.pt", "object": "a_object.ckpt", "safetensors": "a.safetensors"}[kind]
    )
    if kind == "lightning":
        prefixed = {f"model.{name}": value for name, value in state.items()}
        buffers = {"sigreg.t": torch.linspace(0, 3, 17)}
        torch.save({"state_dict": {**prefixed, **buffers}, "pytorch-lightning_version": "2.5.0"}, path)
    elif kind == "safetensors":
        safetensors.torch.save_file({name: value.contiguous() for name, value in state.items()}, path)
    elif kind == "object" and naming == "new":
        torch.save(model, path)
    else:
        torch.save(state, path)
    report = convert(Args(path, tmp_path / "out", heads=2, whole=True))
    assert not report.unexpected
    weights, sizes = read_world_model(tmp_path / "out")
    assert (sizes.action_dim, sizes.predictor.heads, sizes.predictor.history) == (6, 2, 3)
    for name, value in to_torch(weights, sizes).items():
        np.testing.assert_array_equal(value, model.state_dict()[name], err_msg=name)


@pytest.mark.parametrize("name", ["weights.pt", "weights.safetensors"])
def test_the_reference_loads_exported_weights(name: str, tmp_path: Path) -> None:
    model = reference.build(**SMALL)
    weights, sizes = converted(model, tmp_path, heads=2)
    assert set(weights) == set(world_sources(sizes))
    count = export_torch(tmp_path / "out", tmp_path / name)
    path = tmp_path / name
    state = safetensors.torch.load_file(path) if path.suffix == ".safetensors" else torch.load(path, weights_only=True)
    assert count == len(state) == len(model.state_dict())
    fresh = reference.build(**SMALL, seed=1)
    fresh.load_state_dict(state, strict=True)
    for key, value in model.state_dict().items():
        torch.testing.assert_close(fresh.state_dict()[key], value, rtol=0, atol=0)


def test_exported_names_of_older_transformers(tmp_path: Path) -> None:
    model = reference.build(**SMALL)
    converted(model, tmp_path, heads=2)
    export_torch(tmp_path / "out", tmp_path / "old.pt", "old")
    assert set(torch.load(tmp_path / "old.pt", weights_only=True)) == set(renamed(model.state_dict(), "old"))
