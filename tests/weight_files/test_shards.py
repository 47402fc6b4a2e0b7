"""Checkpoints in several files behind an index, and indexes that mislead."""

import json
from pathlib import Path

import numpy as np
import pytest
import safetensors.numpy

from imf_jax.conversion.lewm import Args, convert
from imf_jax.errors import ArgumentError, UserError
from imf_jax.models.encoders import lewm
from imf_jax.weight_files.torch_file import open_checkpoint

FIXTURES = Path(__file__).parents[1] / "fixtures" / "lewm"
INDEX = "model.safetensors.index.json"
SHARDS = ("model-00001-of-00002.safetensors", "model-00002-of-00002.safetensors")


@pytest.fixture
def folder(tmp_path: Path) -> Path:
    """The fixture's weights in two files, with the configuration of their network."""
    folder = tmp_path / "sharded"
    folder.mkdir()
    tensors = safetensors.numpy.load_file(FIXTURES / "new.safetensors")
    names = sorted(tensors)
    parts = dict(zip(SHARDS, (names[:9], names[9:]), strict=True))
    for shard, part in parts.items():
        safetensors.numpy.save_file({name: tensors[name] for name in part}, folder / shard)
    write_index(folder, {name: shard for shard, part in parts.items() for name in part})
    (folder / "config.json").write_text(json.dumps({"hidden_size": 16, "num_attention_heads": 2}))
    return folder


def write_index(folder: Path, shard_of: object) -> None:
    """Write the index of a folder."""
    (folder / INDEX).write_text(json.dumps({"metadata": {"total_size": 1}, "weight_map": shard_of}))


def shard_of(folder: Path) -> dict[str, str]:
    """Tensor -> its file."""
    values: dict[str, str] = json.loads((folder / INDEX).read_text())["weight_map"]
    return values


@pytest.mark.parametrize("name", ["", INDEX])
def test_shards_give_the_weights_of_one_file(name: str, folder: Path, tmp_path: Path) -> None:
    report = convert(Args(folder / name, tmp_path / "out"))
    assert report.notes == [f"heads 2: from {folder / 'config.json'}"]
    assert report.to_json()["source"]["kind"] == "sharded safetensors"
    assert report.ignored == ["projector.net.1.num_batches_tracked"]
    convert(Args(FIXTURES / "new.safetensors", tmp_path / "one", heads=2))
    weights = [(tmp_path / out / lewm.WEIGHTS_FILE).read_bytes() for out in ("out", "one")]
    assert weights[0] == weights[1]


def test_shards_may_be_links_and_pytorch_files(folder: Path) -> None:
    whole = open_checkpoint(folder).tensors
    # Hugging Face's cache links to files that lie elsewhere.
    (folder / SHARDS[0]).rename(folder.parent / "blob")
    (folder / SHARDS[0]).symlink_to(folder.parent / "blob")
    assert open_checkpoint(folder).tensors.keys() == whole.keys()
    (folder / SHARDS[1]).write_bytes((FIXTURES / "bfloat16.pt").read_bytes())
    names = open_checkpoint(folder / SHARDS[1]).tensors
    write_index(folder, dict.fromkeys(names, SHARDS[1]))
    assert open_checkpoint(folder).kind == "sharded state dict"


def test_folder_with_one_file_is_read(folder: Path) -> None:
    (folder / "model.safetensors").write_bytes((FIXTURES / "new.safetensors").read_bytes())
    assert open_checkpoint(folder).kind == "safetensors"
    with pytest.raises(ArgumentError, match=r"holds none of model\.safetensors,"):
        open_checkpoint(folder.parent)


@pytest.mark.parametrize(
    "escape",
    ["../outside.safetensors", "/outside.safetensors", "a/../../outside.safetensors", f"./../sharded/{SHARDS[0]}"],
)
def test_index_that_leads_out_of_its_folder_is_refused(escape: str, folder: Path) -> None:
    (folder.parent / "outside").write_bytes((folder / SHARDS[0]).read_bytes())
    write_index(folder, shard_of(folder) | {"encoder.embeddings.cls_token": escape})
    with pytest.raises(UserError, match="leads out of its folder"):
        open_checkpoint(folder)


@pytest.mark.parametrize("name", ["absent.safetensors", "", ".", "a\0b", "x" * 5000])
def test_missing_shards_are_named(name: str, folder: Path) -> None:
    write_index(folder, shard_of(folder) | {"encoder.embeddings.cls_token": name})
    with pytest.raises(UserError, match="lists 3 files and 1 are missing, first "):
        open_checkpoint(folder)


@pytest.mark.parametrize(
    "content", ["", "[]", "{}", '{"weight_map": {}}', '{"weight_map": ["a"]}', '{"weight_map": {"a": 1}}', "[" * 99_999]
)
def test_what_is_no_index_is_refused(content: str, folder: Path) -> None:
    (folder / INDEX).write_text(content)
    with pytest.raises(UserError, match=r"index\.json is no (index|JSON)"):
        open_checkpoint(folder)


def test_files_that_do_not_belong_together_are_refused(folder: Path) -> None:
    index = shard_of(folder)
    text = (folder / INDEX).read_text()
    name, shard = next(iter(index.items()))
    other = SHARDS[1 - SHARDS.index(shard)]
    (folder / INDEX).write_text(text.replace(f'"{name}"', f'"{name}": "{other}", "{name}"'))
    with pytest.raises(UserError, match=f"two entries '{name}'"):
        open_checkpoint(folder)
    write_index(folder, index | {name: other})
    with pytest.raises(UserError, match=f"{other} lacks {name}"):
        open_checkpoint(folder)
    write_index(folder, index)
    tensors = safetensors.numpy.load_file(folder / other)
    safetensors.numpy.save_file(tensors | {name: np.zeros(3, np.float32)}, folder / other)
    with pytest.raises(UserError, match=f"holds {name}, which another"):
        open_checkpoint(folder)
    (folder / other).write_bytes(b"version https://git-lfs.github.com/spec/v1\noid sha256:4d\nsize 12345\n")
    with pytest.raises(UserError, match=f"{other} is a Git LFS pointer"):
        open_checkpoint(folder)
