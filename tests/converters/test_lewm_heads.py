"""The number of attention heads, which weights do not show: where it comes from, and when a config.json is believed."""

import json
from pathlib import Path

import pytest

from imf_jax.conversion.lewm import Args, convert
from imf_jax.errors import ArgumentError, UserError

FIXTURES = Path(__file__).parents[1] / "fixtures" / "lewm"


@pytest.fixture
def weights(tmp_path: Path) -> Path:
    """Weights that stand alone in a folder."""
    path = tmp_path / "weights.safetensors"
    path.write_bytes((FIXTURES / "new.safetensors").read_bytes())
    return path


def test_heads_come_from_the_pickled_module_or_a_config_beside(weights: Path, tmp_path: Path) -> None:
    module = tmp_path / "object.ckpt"
    module.write_bytes((FIXTURES / "new_object.ckpt").read_bytes())
    # What the module says itself needs no other file.
    (tmp_path / "config.json").write_text("{")
    assert convert(Args(module, tmp_path / "a")).notes == ["heads 2: from the pickled module"]
    (tmp_path / "config.json").unlink()
    with pytest.raises(UserError, match="--heads"):
        convert(Args(weights, tmp_path / "b"))
    (tmp_path / "config.json").write_text('{"num_attention_heads": 4}')
    assert convert(Args(weights, tmp_path / "b")).notes[0].startswith("heads 4: from ")
    (tmp_path / "config.json").write_text('{"num_attention_heads": 5}')
    with pytest.raises(UserError, match="do not divide"):
        convert(Args(weights, tmp_path / "c"))
    with pytest.raises(ArgumentError, match="--heads 3"):
        convert(Args(weights, tmp_path / "c", heads=3))
    assert not (tmp_path / "c").exists()


CONFIG = {"model_type": "vit", "hidden_size": 16, "num_hidden_layers": 2, "intermediate_size": 32, "patch_size": 4}
CONFIG |= {"image_size": [16, 16], "num_channels": 3, "num_attention_heads": 4}


@pytest.mark.parametrize(
    ("other", "said"),
    [
        ({"model_type": "bert"}, "model_type bert"),
        ({"hidden_size": 128}, "hidden_size 128 and not 16"),
        ({"num_hidden_layers": 12}, "num_hidden_layers 12 and not 2"),
        ({"intermediate_size": 3072}, "intermediate_size 3072 and not 32"),
        ({"patch_size": [14, 14]}, r"patch_size \[14, 14\] and not 4"),
        ({"image_size": 224}, "image_size 224 and not 16"),
        ({"num_channels": 1, "hidden_size": "16"}, "hidden_size '16' and not 16, num_channels 1 and not 3"),
    ],
)
def test_config_of_another_network_is_ignored_and_said(
    other: dict[str, object], said: str, weights: Path, tmp_path: Path
) -> None:
    (tmp_path / "config.json").write_text(json.dumps(CONFIG | other))
    with pytest.raises(UserError, match=rf"0\.25 attention heads .* give --heads; .* was ignored: {said}"):
        convert(Args(weights, tmp_path / "out"))


def test_config_of_this_network_is_read(weights: Path, tmp_path: Path) -> None:
    config = tmp_path / "config.json"
    # Pixels at the edge that fill no patch, an entry that states nothing.
    text = json.dumps(CONFIG | {"image_size": 18, "num_channels": None})
    for number, encoding in enumerate(("utf-8", "utf-8-sig", "utf-16")):
        config.write_text(text, encoding=encoding)
        report = convert(Args(weights, tmp_path / str(number)))
        assert report.notes == [f"heads 4: from {config}"]
    for heads in ("two", 2.5, True, float("nan"), float("inf"), 0, -2, [2]):
        config.write_text(json.dumps(CONFIG | {"num_attention_heads": heads}))
        with pytest.raises(UserError, match="give --heads"):
            convert(Args(weights, tmp_path / "refused"))
    for content in ("{", "[" * 100_000, "version https://git-lfs.github.com/spec/v1\n"):
        config.write_text(content)
        with pytest.raises(UserError, match=r"config\.json is (no JSON|a Git LFS pointer)"):
            convert(Args(weights, tmp_path / "refused"))
        convert(Args(weights, tmp_path / "by flag", heads=2))
