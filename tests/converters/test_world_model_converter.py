"""Whole LeWM checkpoints: written here as PyTorch's container, converted back; what is refused."""

from pathlib import Path

import numpy as np
import pytest
import safetensors.numpy

from imf_jax import seeds
from imf_jax.config import WorldModelConfig
from imf_jax.conversion.lewm import Args, convert
from imf_jax.conversion.lewm_names import to_torch
from imf_jax.conversion.torch_writer import state_dict_bytes
from imf_jax.conversion.world_model import export_torch
from imf_jax.errors import UserError
from imf_jax.models.encoders.lewm import load
from imf_jax.models.world_model import WorldModelSizes, initial_weights, sizes_of
from imf_jax.models.world_model_file import WORLD_MODEL_FILE, read_world_model, world_model_bytes
from imf_jax.weight_files.torch_file import open_checkpoint

CONFIG = WorldModelConfig(
    resolution=8, patch=4, hidden=8, layers=2, heads=2, mlp=12, embedding=6, projector_hidden=10, predictor_layers=2,
    predictor_heads=1, predictor_head_dim=64, predictor_mlp=10, frameskip=2,
)  # fmt: skip
SIZES = sizes_of(CONFIG, 3)


@pytest.fixture(scope="module")
def weights() -> dict[str, np.ndarray]:
    return {name: np.asarray(value) for name, value in initial_weights(SIZES, seeds.make_key(0)).items()}


@pytest.fixture
def folder(weights: dict[str, np.ndarray], tmp_path: Path) -> Path:
    """A folder with whole weights."""
    (tmp_path / WORLD_MODEL_FILE).write_bytes(world_model_bytes(weights, SIZES))
    return tmp_path


def test_written_container_is_read_again(tmp_path: Path) -> None:
    values = {
        "a.weight": np.arange(6, dtype=np.float32).reshape(2, 3),
        "a.count": np.array(7, np.int64),
        "b": np.arange(24, dtype=np.float32).reshape(2, 3, 4).transpose(2, 0, 1),
    }
    (tmp_path / "w.pt").write_bytes(state_dict_bytes(values))
    found = open_checkpoint(tmp_path / "w.pt")
    assert found.kind == "state dict"
    for name, value in values.items():
        np.testing.assert_array_equal(found.tensors[name].read(), value, err_msg=name)
        assert found.tensors[name].read().dtype == value.dtype
    assert state_dict_bytes(values) == (tmp_path / "w.pt").read_bytes()


@pytest.mark.parametrize("names", ["new", "old"])
@pytest.mark.parametrize("suffix", [".pt", ".safetensors"])
def test_export_and_conversion_are_inverse(
    suffix: str, names: str, folder: Path, weights: dict[str, np.ndarray], tmp_path: Path
) -> None:
    path = tmp_path / f"exported{suffix}"
    assert export_torch(folder, path, names) == len(to_torch(weights, SIZES))  # type: ignore[arg-type]
    report = convert(Args(path, tmp_path / "out", heads=2, whole=True))
    assert (report.missing, report.unexpected, report.mismatched) == ([], [], [])
    again, sizes = read_world_model(tmp_path / "out")
    assert sizes == SIZES
    for name, value in weights.items():
        np.testing.assert_array_equal(again[name], value, err_msg=name)
    encoder = load(tmp_path / "out", fusion="row")
    np.testing.assert_array_equal(encoder.weights["positions"][...], weights["positions"])


def test_the_encoder_alone_is_converted_without_the_flag(folder: Path, tmp_path: Path) -> None:
    export_torch(folder, tmp_path / "w.pt")
    convert(Args(tmp_path / "w.pt", tmp_path / "out", heads=2))
    assert not (tmp_path / "out" / WORLD_MODEL_FILE).exists()
    with pytest.raises(UserError, match=r"converters/lewm\.py --whole"):
        read_world_model(tmp_path / "out")


def test_a_checkpoint_without_predictor_is_refused(weights: dict[str, np.ndarray], tmp_path: Path) -> None:
    tensors = {name: v for name, v in to_torch(weights, SIZES).items() if not name.startswith("predictor.")}
    (tmp_path / "w.safetensors").write_bytes(safetensors.numpy.save(tensors))
    with pytest.raises(UserError, match=r"missing: predictor\.pos_embedding"):
        convert(Args(tmp_path / "w.safetensors", tmp_path / "out", heads=2, whole=True))
    assert not (tmp_path / "out").exists()


def test_damaged_weights_are_refused(folder: Path, weights: dict[str, np.ndarray]) -> None:
    path = folder / WORLD_MODEL_FILE
    other = WorldModelSizes(SIZES.encoder, SIZES.predictor, action_dim=9)
    path.write_bytes(world_model_bytes(weights, other))
    with pytest.raises(UserError, match="do not have the sizes"):
        read_world_model(folder)
    path.write_bytes(safetensors.numpy.save(weights))
    with pytest.raises(UserError, match="its format is None"):
        read_world_model(folder)
    path.write_bytes(path.read_bytes()[:50])
    with pytest.raises(UserError, match="cannot be read"):
        read_world_model(folder)
