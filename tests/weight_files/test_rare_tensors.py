"""Tensors of rare types: listed, ignored where nothing needs them, and refused in one line where something does."""

from pathlib import Path

import numpy as np
import pytest
import safetensors.numpy
from checkpoint_files import (
    PICKLE_START,
    call,
    group,
    mapping,
    named,
    number,
    older_container,
    shape,
    storage,
    text,
    write_safetensors,
    zip_container,
)

from imf_jax.conversion.lewm import Args, convert
from imf_jax.conversion.report import DoesNotFitError
from imf_jax.errors import UserError
from imf_jax.weight_files.torch_file import open_checkpoint

FIXTURES = Path(__file__).parents[1] / "fixtures" / "lewm"
FALSE, NONE = b"\x89", b"N"
SIX = np.arange(6, dtype="<f4")
GOOD = call(
    "torch._utils._rebuild_tensor_v2", storage("torch.FloatStorage", 6), number(0), shape(6), shape(1), FALSE, NONE
)
RARE = "1"
"""Key of the storage of the rare tensor."""


def rebuild(kind: str, *more: bytes, function: str = "_rebuild_tensor_v2", elements: int = 4) -> bytes:
    """Opcodes of a tensor of shape (4,) in the storage of the rare tensor."""
    place = (storage(f"torch.{kind}", elements, RARE), number(0), shape(4), shape(1))
    return call(f"torch._utils.{function}", *place, FALSE, NONE, *more)


RARE_TENSORS = {
    "complex64 (4,)": rebuild("ComplexFloatStorage"),
    "complex128 (4,)": rebuild("ComplexDoubleStorage"),
    "FutureStorage (4,)": rebuild("FutureStorage"),
    "uint16 (4,)": rebuild("storage.UntypedStorage", named("torch.uint16"), function="_rebuild_tensor_v3", elements=16),
    "float8_e4m3fn (4,)": rebuild(
        "storage.UntypedStorage", named("torch.float8_e4m3fn"), function="_rebuild_tensor_v3", elements=16
    ),
    "float32 view (neg) (4,)": rebuild("FloatStorage", mapping({"conj": FALSE, "neg": b"\x88"})),
    "qtensor (4,)": rebuild("QUInt8Storage", function="_rebuild_qtensor"),
    "sparse_tensor (9, 4)": call(
        "torch._utils._rebuild_sparse_tensor",
        call("torch.serialization._get_layout", text("torch.sparse_coo")),
        group(GOOD, rebuild("FloatStorage"), call("torch.Size", shape(9, 4)), b"\x88"),
    ),
    "meta_tensor_no_storage (4, 2)": call(
        "torch._utils._rebuild_meta_tensor_no_storage", named("torch.float32"), shape(4, 2), shape(2, 1), FALSE
    ),
    "wrapper_subclass (4, 2)": call(
        "torch._tensor._rebuild_from_type_v2",
        named("torch._utils._rebuild_wrapper_subclass"),
        named("torchao.Quantized"),
        group(named("torchao.Quantized"), named("torch.int4"), shape(4, 2), shape(2, 1)),
        mapping({"inner": rebuild("CharStorage", elements=16)}),
    ),
}


@pytest.mark.parametrize("what", RARE_TENSORS)
def test_rare_tensor_beside_others_is_listed(what: str, tmp_path: Path) -> None:
    content = PICKLE_START + mapping({"before": GOOD, "rare": RARE_TENSORS[what], "after": GOOD}) + b"."
    path = zip_container(tmp_path / "rare.pt", content, _0=SIX.tobytes(), _1=bytes(16))
    tensors = open_checkpoint(path).tensors
    assert list(tensors) == ["before", "rare", "after"]
    assert tensors["rare"].describe() == what
    np.testing.assert_array_equal(tensors["after"].read(), SIX)
    with pytest.raises(UserError, match="not read"):
        tensors["rare"].read()


@pytest.mark.parametrize(
    ("kind", "size"), [("ComplexFloatStorage", 8), ("ComplexDoubleStorage", 16), ("QInt32Storage", 4)]
)
def test_storage_of_a_rare_type_is_passed_over_in_the_older_container(kind: str, size: int, tmp_path: Path) -> None:
    content = PICKLE_START + mapping({"rare": rebuild(kind), "good": GOOD}) + b"."
    storages = {"_1": (4, bytes(4 * size)), "_0": (6, SIX.tobytes())}
    tensors = open_checkpoint(older_container(tmp_path / "rare.pt", content, **storages)).tensors
    np.testing.assert_array_equal(tensors["good"].read(), SIX)
    unknown = PICKLE_START + mapping({"rare": rebuild("FutureStorage"), "good": GOOD}) + b"."
    with pytest.raises(UserError, match="FutureStorage, which is not known"):
        open_checkpoint(older_container(tmp_path / "unknown.pt", unknown, **storages))


def test_complex_buffer_of_a_pickled_module_is_listed(tmp_path: Path) -> None:
    parts = {
        "_parameters": mapping({"weight": call("torch._utils._rebuild_parameter", GOOD, FALSE, NONE)}),
        "_buffers": mapping({"freqs_cis": rebuild("ComplexFloatStorage")}),
        "_modules": b"}",
    }
    module = PICKLE_START + named("elsewhere.Module") + b")\x81" + mapping(parts) + b"b."
    path = zip_container(tmp_path / "module.ckpt", module, _0=SIX.tobytes(), _1=bytes(32))
    found = {name: tensor.describe() for name, tensor in open_checkpoint(path).tensors.items()}
    assert found == {"weight": "float32 (6,)", "freqs_cis": "complex64 (4,)"}


def test_storages_and_tensors_of_odd_sizes_are_read(tmp_path: Path) -> None:
    def tensor(elements: int, lengths: bytes, strides: bytes, key: str) -> bytes:
        place = (storage("torch.FloatStorage", elements, key), number(0), lengths, strides)
        return call("torch._utils._rebuild_tensor_v2", *place, FALSE, NONE)

    parts = {
        "storage": storage("torch.storage.UntypedStorage", 24),
        "empty": tensor(0, shape(0, 3), shape(3, 1), "1"),
        "expanded": tensor(1, shape(2, 3), shape(0, 0), "2"),
        "longer": tensor(1, shape(1), shape(1), "3"),
    }
    contents = {"_0": SIX.tobytes(), "_1": b"", "_2": SIX[1:2].tobytes(), "_3": SIX[2:3].tobytes() + bytes(3)}
    path = zip_container(tmp_path / "odd.pt", PICKLE_START + mapping(parts) + b".", **contents)
    tensors = open_checkpoint(path).tensors
    assert tensors["empty"].read().shape == (0, 3)
    np.testing.assert_array_equal(tensors["expanded"].read(), np.ones((2, 3), np.float32))
    np.testing.assert_array_equal(tensors["longer"].read(), [2])


def test_two_tensors_of_one_name_matter_only_where_needed(tmp_path: Path) -> None:
    outer = {"a.b": GOOD, "a": mapping({"b": rebuild("FloatStorage")}), "c.d": GOOD, "c": mapping({"d": GOOD})}
    path = zip_container(
        tmp_path / "twice.pt", PICKLE_START + mapping(outer) + b".", _0=SIX.tobytes(), _1=SIX[:4].tobytes()
    )
    tensors = open_checkpoint(path).tensors
    np.testing.assert_array_equal(tensors["c.d"].read(), SIX)
    with pytest.raises(UserError, match="two different tensors"):
        tensors["a.b"].read()


@pytest.mark.parametrize("kind", ["U16", "C64", "F8_E4M3", "F4", "not yet invented"])
def test_rare_type_in_safetensors(kind: str, tmp_path: Path) -> None:
    weights = safetensors.numpy.load_file(FIXTURES / "new.safetensors")
    weights.pop("projector.net.1.num_batches_tracked")
    rare = (kind, (3,), bytes(6))
    beside = {"predictor.tokens": rare, "encoder.embeddings.position_ids": rare}
    path = write_safetensors(tmp_path / "beside.safetensors", {**weights, **beside})
    report = convert(Args(path, tmp_path / "out", heads=2))
    assert set(report.ignored) == set(beside)
    assert report.to_json()["found"]["predictor.tokens"] == f"{kind} (3,)"
    for name in ("encoder.layernorm.bias", "encoder.embeddings.cls_token"):
        needed = (kind, weights[name].shape, bytes(16))
        path = write_safetensors(tmp_path / "needed.safetensors", {**weights, name: needed})
        with pytest.raises(DoesNotFitError, match=f"mismatched: {name}: {kind} ") as caught:
            convert(Args(path, tmp_path / "refused", heads=2))
        assert "\n" not in str(caught.value)


@pytest.mark.parametrize(
    ("entry", "cut"),
    [
        (("F32", (3,), bytes(8)), 0),
        (("F32", (-2,), bytes(8)), 0),
        ((4, (2,), bytes(8)), 0),
        (("F32", (2,), bytes(8)), 1),
    ],
)
def test_safetensors_that_lie_are_refused(entry: tuple[str, tuple[int, ...], bytes], cut: int, tmp_path: Path) -> None:
    path = write_safetensors(tmp_path / "lie.safetensors", {"w": entry})
    path.write_bytes(path.read_bytes()[: path.stat().st_size - cut])
    with pytest.raises(UserError, match=r"lie\.safetensors is truncated or no safetensors file"):
        open_checkpoint(path)


def test_git_lfs_pointer_is_named(tmp_path: Path) -> None:
    path = tmp_path / "lewm.ckpt"
    path.write_bytes(b"version https://git-lfs.github.com/spec/v1\noid sha256:4d7a2146\nsize 12345\n")
    with pytest.raises(UserError, match="Git LFS pointer"):
        open_checkpoint(path)
