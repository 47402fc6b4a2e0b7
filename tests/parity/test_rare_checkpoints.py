"""What PyTorch itself writes beyond plain tensors: rare types, wrapped modules, several files.

Run by `make parity`, which needs torch and transformers; `make test` does not run it.
"""

import copy
from functools import partial
from pathlib import Path
from typing import Any

import pytest
import torch
from huggingface_hub import save_torch_state_dict
from torch.distributed.algorithms._checkpoint.checkpoint_wrapper import checkpoint_wrapper
from torch_lewm import Lewm
from transformers import ViTConfig

from imf_jax.conversion.lewm import Args, convert
from imf_jax.models.encoders.lewm import WEIGHTS_FILE
from imf_jax.weight_files.torch_file import open_checkpoint

REFERENCE = Path(__file__).parents[1] / "fixtures" / "lewm" / "new.safetensors"
VALUES = torch.arange(8.0)
COMPLEX = torch.complex(VALUES, VALUES + 1)


def quantised(dtype: torch.dtype) -> torch.Tensor:
    """A tensor with one scale for all."""
    return torch.quantize_per_tensor(VALUES, 0.1, 0, dtype)


RARE: dict[str, Any] = {
    **{
        f"{name} (4,)": torch.empty(4, dtype=getattr(torch, name))
        for name in ("complex64", "complex128", "uint16", "uint32", "uint64", "float4_e2m1fn_x2")
    },
    **{
        f"float8_{name} (4,)": torch.empty(4, dtype=getattr(torch, f"float8_{name}"))
        for name in ("e4m3fn", "e4m3fnuz", "e5m2", "e5m2fnuz", "e8m0fnu")
    },
    "sparse_tensor (3, 3)": torch.eye(3).to_sparse(),
    "meta_tensor_no_storage (3,)": torch.empty(3, device="meta"),
    "complex64 view (conj) (8,)": COMPLEX.conj(),
    "float32 view (neg) (8,)": COMPLEX.conj().imag,
    "float32 (3, 4)": torch.ones(1).expand(3, 4),
    "float32 (8,)": torch.nn.Buffer(VALUES.clone()),
    "float32 (0, 3)": torch.empty(0, 3),
    "bool (8,)": VALUES > 2,
}


@pytest.fixture
def model() -> Lewm:
    """The network of the fixtures."""
    sizes = {"hidden_size": 16, "num_hidden_layers": 2, "num_attention_heads": 2, "intermediate_size": 32}
    return Lewm(ViTConfig(**sizes, patch_size=4, image_size=16), projector_hidden=24, output=12, seed=0)


def check(path: Path, folder: Path, heads: int | None = 2) -> list[str]:
    """Convert and compare with the plain file; returns the notes."""
    report = convert(Args(path, folder / "out", heads=heads))
    convert(Args(REFERENCE, folder / "reference", heads=2))
    assert (folder / "out" / WEIGHTS_FILE).read_bytes() == (folder / "reference" / WEIGHTS_FILE).read_bytes()
    return report.notes


@pytest.mark.parametrize("newer", [True, False])
@pytest.mark.parametrize("what", RARE)
def test_rare_tensor_is_passed_over(what: str, newer: bool, model: Lewm, tmp_path: Path) -> None:
    path = tmp_path / "rare.pt"
    content = {"before": VALUES, "ema": {"0": RARE[what]}, "model": model.state_dict()}
    torch.save(content, path, _use_new_zipfile_serialization=newer)
    tensors = open_checkpoint(path).tensors
    assert tensors["ema.0"].describe() == what
    if what.startswith("float32 ("):
        torch.testing.assert_close(torch.tensor(tensors["ema.0"].read()), RARE[what])
    check(path, tmp_path)


# PyTorch itself announces the end of these.
@pytest.mark.filterwarnings("ignore::DeprecationWarning", "ignore::UserWarning")
def test_rare_layouts_are_passed_over(model: Lewm, tmp_path: Path) -> None:
    path = tmp_path / "rare.pt"
    scales, zeros = torch.tensor([0.1, 0.2]), torch.tensor([0, 0])
    rare = {
        "quint8": quantised(torch.quint8),
        "qint32": quantised(torch.qint32),
        "per_channel": torch.quantize_per_channel(VALUES.reshape(2, 4), scales, zeros, 0, torch.qint8),
        "csr": torch.eye(3).to_sparse_csr(),
        "nested": torch.nested.nested_tensor([VALUES, VALUES[:3]]),
        "storage": VALUES.untyped_storage(),
    }
    for newer in (True, False):
        torch.save({**rare, **model.state_dict()}, path, _use_new_zipfile_serialization=newer)
        found = open_checkpoint(path).tensors
        assert [found[name].describe() for name in list(rare)[:-1]] == [
            "qtensor (8,)",
            "qtensor (8,)",
            "qtensor (2, 4)",
            "sparse_tensor (3, 3)",
            "nested_tensor ()",
        ]
        check(path, tmp_path / f"newer {newer}")


def test_complex_buffer_in_a_pickled_module_is_passed_over(model: Lewm, tmp_path: Path) -> None:
    model.predictor = torch.nn.Module()
    model.predictor.register_buffer("freqs_cis", COMPLEX)
    model.encoder.register_buffer("position_ids", torch.arange(17))
    path = tmp_path / "object.ckpt"
    torch.save(model, path)
    assert open_checkpoint(path).tensors["predictor.freqs_cis"].describe() == "complex64 (8,)"
    assert check(path, tmp_path, heads=None) == ["heads 2: from the pickled module"]


def test_wrapped_modules_are_unwrapped(model: Lewm, tmp_path: Path) -> None:
    compiled = partial(torch.compile, backend="eager")
    plain = copy.deepcopy(model)
    layers = model.encoder.layers
    layers[0] = checkpoint_wrapper(compiled(layers[0]))
    layers[1].mlp = compiled(checkpoint_wrapper(layers[1].mlp))
    model.projector.net = torch.nn.DataParallel(torch.nn.DataParallel(model.projector.net))
    model.encoder = compiled(model.encoder)
    names = {**dict(model.named_parameters()), **dict(model.named_buffers())}
    assert any("layers.0._checkpoint_wrapped_module._orig_mod." in name for name in names)
    path = tmp_path / "wrapped.pt"
    torch.save(names, path)
    check(path, tmp_path)
    plain.encoder = torch.nn.DataParallel(plain.encoder)
    path = tmp_path / "object.ckpt"
    torch.save(torch.optim.swa_utils.AveragedModel(plain), path)
    assert check(path, tmp_path / "averaged", heads=None) == ["heads 2: from the pickled module"]


@pytest.mark.parametrize("safe", [True, False])
def test_shards_are_put_together(safe: bool, model: Lewm, tmp_path: Path) -> None:
    folder = tmp_path / "sharded"
    folder.mkdir()
    state = {name: value.contiguous() for name, value in model.state_dict().items()}
    save_torch_state_dict(state, folder, max_shard_size="8KB", safe_serialization=safe)
    assert len(list(folder.glob("*-of-*"))) > 1
    check(folder, tmp_path)
