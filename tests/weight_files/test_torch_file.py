"""Reading checkpoint files: every container, damaged ones, and pickles that would run code."""

import os
import pickle
import struct
import zipfile
from pathlib import Path

import numpy as np
import pytest
from checkpoint_files import zip_container

from imf_jax.errors import ArgumentError, UserError
from imf_jax.weight_files.safe_pickle import Placeholder
from imf_jax.weight_files.tensors import Storage, StoredTensor
from imf_jax.weight_files.torch_file import LEGACY_MAGIC, open_checkpoint

FIXTURES = Path(__file__).parents[1] / "fixtures" / "lewm"
FILES = ["new.ckpt", "old_object.ckpt", "new_object.ckpt", "new_weights.pt", "older_container.pt", "old.safetensors"]


class RunsCode:
    """Unpickled by Python's own reader, this runs a shell command."""

    def __init__(self, marker: Path) -> None:
        self.marker = marker

    def __reduce__(self) -> tuple[object, tuple[str]]:
        return os.system, (f"touch {self.marker}",)


def tensor_pickle(offset: int = 0, shape: bytes = b"K\x02K\x03\x86", strides: bytes = b"K\x03K\x01\x86") -> bytes:
    """The opcodes that leave one float32 tensor, viewing storage "0" of 6 elements, on the unpickler's stack."""
    storage = b"(X\x07\x00\x00\x00storagectorch\nFloatStorage\nX\x01\x00\x00\x000X\x03\x00\x00\x00cpuK\x06tQ"
    return b"ctorch._utils\n_rebuild_tensor_v2\n(" + storage + bytes([75, offset]) + shape + strides + b"\x89NtR"


def state_dict_pickle(value: bytes) -> bytes:
    """A pickle of {"w": value}."""
    return b"\x80\x02}X\x01\x00\x00\x00w" + value + b"s."


SIX = np.arange(6, dtype="<f4").tobytes()


@pytest.mark.parametrize("name", FILES)
def test_every_container_gives_the_same_values(name: str) -> None:
    expected = open_checkpoint(FIXTURES / "new.safetensors").tensors["projector.net.1.running_var"].read()
    checkpoint = open_checkpoint(FIXTURES / name)
    (found,) = [tensor for key, tensor in checkpoint.tensors.items() if key.endswith("projector.net.1.running_var")]
    np.testing.assert_array_equal(found.read(), expected)
    assert expected.dtype == np.float32


def test_kinds_are_recognised() -> None:
    kinds = {name: open_checkpoint(FIXTURES / name).kind for name in FILES}
    assert kinds == {
        "new.ckpt": "lightning",
        "old_object.ckpt": "pickled module",
        "new_object.ckpt": "pickled module",
        "new_weights.pt": "state dict",
        "older_container.pt": "state dict",
        "old.safetensors": "safetensors",
    }


def test_pickled_module_is_walked_without_its_classes() -> None:
    checkpoint = open_checkpoint(FIXTURES / "new_object.ckpt")
    assert "torch_lewm.Lewm" in checkpoint.placeholders
    assert set(checkpoint.tensors) == set(open_checkpoint(FIXTURES / "new_weights.pt").tensors)
    assert isinstance(checkpoint.root, Placeholder)


def test_bfloat16_and_float16_are_read() -> None:
    exact = open_checkpoint(FIXTURES / "new_weights.pt").tensors["projector.net.0.weight"].read()
    for name, tolerance in (("bfloat16.pt", 2**-8), ("float16.pt", 2**-11)):
        tensor = open_checkpoint(FIXTURES / name).tensors["projector.net.0.weight"]
        assert tensor.dtype == name.removesuffix(".pt")
        np.testing.assert_allclose(tensor.read().astype(np.float32), exact, rtol=tolerance, atol=1e-6)


@pytest.mark.parametrize("name", FILES)
def test_truncated_files_are_refused(name: str, tmp_path: Path) -> None:
    data = (FIXTURES / name).read_bytes()
    for share in (0.0, 0.001, 0.01, 0.1, 0.5, 0.9, 0.999):
        cut = tmp_path / "cut.ckpt"
        cut.write_bytes(data[: int(share * len(data))])
        with pytest.raises(UserError, match=r"cut\.ckpt") as caught:
            open_checkpoint(cut)
        assert "\n" not in str(caught.value)


@pytest.mark.parametrize("name", ["new_object.ckpt", "older_container.pt", "old.safetensors"])
def test_damaged_bytes_never_crash(name: str, tmp_path: Path) -> None:
    random = np.random.default_rng(0)
    original = np.frombuffer((FIXTURES / name).read_bytes(), np.uint8)
    damaged = tmp_path / "damaged.ckpt"
    refused = 0
    for _ in range(150):
        data = original.copy()
        data[random.integers(0, min(len(data), 4000), 3)] = random.integers(0, 256, 3)
        damaged.write_bytes(data.tobytes())
        try:
            for tensor in open_checkpoint(damaged).tensors.values():
                tensor.read()
        except UserError:
            refused += 1
    assert refused > 10


def test_no_checkpoint_is_refused(tmp_path: Path) -> None:
    text = tmp_path / "notes.txt"
    text.write_text("these are no weights, only words")
    with pytest.raises(UserError, match="no checkpoint"):
        open_checkpoint(text)
    with pytest.raises(ArgumentError, match="no file"):
        open_checkpoint(tmp_path / "absent.ckpt")
    bare = tmp_path / "bare.pkl"
    bare.write_bytes(pickle.dumps({"w": 1}))
    with pytest.raises(UserError, match="no checkpoint"):
        open_checkpoint(bare)
    other_zip = tmp_path / "other.zip"
    with zipfile.ZipFile(other_zip, "w") as archive:
        archive.writestr("readme.txt", "hello")
    with pytest.raises(UserError, match=r"no data\.pkl"):
        open_checkpoint(other_zip)


@pytest.mark.parametrize("container", ["zip", "older"])
def test_a_pickle_that_would_run_code_does_not(container: str, tmp_path: Path) -> None:
    marker = tmp_path / "it_ran"
    content = pickle.dumps({"weights": RunsCode(marker), "more": [RunsCode(marker)]}, protocol=2)
    path = tmp_path / "hostile.ckpt"
    if container == "zip":
        zip_container(path, content)
    else:
        start = [pickle.dumps(part, protocol=2) for part in (LEGACY_MAGIC, 1001, {"little_endian": True})]
        path.write_bytes(b"".join([*start, content, pickle.dumps([], protocol=2)]))

    checkpoint = open_checkpoint(path)

    assert not marker.exists()
    assert checkpoint.tensors == {}
    assert checkpoint.placeholders == [f"{os.system.__module__}.system"]
    # The same bytes do run when Python's own reader gets them: the test would notice.
    pickle.loads(content)
    assert marker.exists()


def test_hand_made_tensor_is_read(tmp_path: Path) -> None:
    path = zip_container(tmp_path / "good.pt", state_dict_pickle(tensor_pickle()), _0=SIX)
    np.testing.assert_array_equal(open_checkpoint(path).tensors["w"].read(), np.arange(6).reshape(2, 3))
    transposed = tensor_pickle(shape=b"K\x03K\x02\x86", strides=b"K\x01K\x03\x86")
    path = zip_container(tmp_path / "transposed.pt", state_dict_pickle(transposed), _0=SIX)
    np.testing.assert_array_equal(open_checkpoint(path).tensors["w"].read(), np.arange(6).reshape(2, 3).T)


@pytest.mark.parametrize(
    ("value", "message"),
    [
        pytest.param(tensor_pickle(offset=1), "past the end", id="offset past the end"),
        pytest.param(tensor_pickle(shape=b"K\x09K\x03\x86"), "past the end", id="shape past the end"),
        pytest.param(tensor_pickle(strides=b"K\xffK\x01\x86"), "past the end", id="stride past the end"),
        pytest.param(tensor_pickle(strides=b"J\xff\xff\xff\xffK\x01\x86"), "strides", id="negative stride"),
        pytest.param(
            tensor_pickle() + b"}X\x06\x00\x00\x00offsetJ\x00\x00\x00\x40sb", "cannot be replaced", id="changed later"
        ),
        pytest.param(b"ctorch\nSize\n}X\x01\x00\x00\x00aK\x01sb", "change a function", id="change to the reader"),
        pytest.param(b"ctorch._utils\n_rebuild_tensor_v2\n(K\x01K\x00))\x89NtR", "without a storage", id="no storage"),
        pytest.param(b"(X\x06\x00\x00\x00secretK\x01tQ", "no tensor storage", id="foreign reference"),
    ],
)
def test_tensors_that_lie_are_refused(value: bytes, message: str, tmp_path: Path) -> None:
    path = zip_container(tmp_path / "lie.pt", state_dict_pickle(value), _0=SIX)
    with pytest.raises(UserError, match=message):
        open_checkpoint(path)


def test_expanded_tensor_is_refused_when_read() -> None:
    storage = Storage("0", 4, lambda: b"\0\0\0\0")
    with pytest.raises(UserError, match="contiguous"):
        StoredTensor(storage, "float32", (10**9, 10**9), (0, 0)).read()


def test_wrong_length_of_a_storage_is_refused(tmp_path: Path) -> None:
    path = zip_container(tmp_path / "short.pt", state_dict_pickle(tensor_pickle()), _0=SIX[:20])
    with pytest.raises(UserError, match="wrong length"):
        open_checkpoint(path)
    path = zip_container(tmp_path / "none.pt", state_dict_pickle(tensor_pickle()))
    with pytest.raises(UserError, match="missing"):
        open_checkpoint(path)


def test_self_referring_pickles_end(tmp_path: Path) -> None:
    endless: dict[str, object] = {}
    endless["again"] = endless
    assert open_checkpoint(zip_container(tmp_path / "loop.pt", pickle.dumps(endless))).tensors == {}
    doubled: list[object] = []
    for _ in range(60):
        doubled = [doubled, doubled]
    with pytest.raises(UserError, match="objects"):
        open_checkpoint(zip_container(tmp_path / "doubled.pt", pickle.dumps(doubled)))
    nested = b"\x80\x02" + b"]" * 100_000 + b"a" * 99_999 + b"."
    with pytest.raises(UserError, match="deeply"):
        open_checkpoint(zip_container(tmp_path / "nested.pt", nested))


def test_buffers_outside_the_state_dict_are_left_out(tmp_path: Path) -> None:
    def text(value: str) -> bytes:
        return b"X" + struct.pack("<I", len(value)) + value.encode()

    buffers = b"}(" + text("kept") + tensor_pickle() + text("transient") + tensor_pickle() + b"u"
    transient = b"c__builtin__\nset\n]" + text("transient") + b"a\x85R"
    parts = {"_parameters": b"}", "_buffers": buffers, "_non_persistent_buffers_set": transient, "_modules": b"}"}
    state = b"}(" + b"".join(text(name) + value for name, value in parts.items()) + b"u"
    module = b"\x80\x02celsewhere\nModule\n)\x81" + state + b"b."
    checkpoint = open_checkpoint(zip_container(tmp_path / "module.ckpt", module, _0=SIX))
    assert checkpoint.kind == "pickled module"
    assert checkpoint.placeholders == ["elsewhere.Module"]
    assert list(checkpoint.tensors) == ["kept"]
