"""Presets: every file in configs/ is one, all of them work, and broken ones are named."""

import os
from pathlib import Path

import pytest
from flax import nnx

from imf_jax.config import TrainConfig
from imf_jax.errors import ArgumentError, UserError
from imf_jax.models.policy import Policy
from imf_jax.presets import load_preset, preset_description, preset_paths


def test_names_are_file_names_with_dashes():
    assert {"debug", "transfer-state"} <= set(preset_paths())


@pytest.mark.parametrize("name", preset_paths())
def test_every_preset_loads_and_builds_a_policy(name):
    config = load_preset(name)
    assert isinstance(config, TrainConfig)
    assert preset_description(preset_paths()[name]).splitlines()[0].endswith(".")
    nnx.eval_shape(lambda: Policy(config.policy, 7, rngs=nnx.Rngs(0)))


def test_working_directory_does_not_matter(tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    assert load_preset("debug").max_steps == 20
    assert os.listdir(tmp_path) == []


def test_unknown_preset_lists_those_there_are():
    with pytest.raises(ArgumentError, match=r"'nope'; presets are: .*debug.*transfer-state"):
        load_preset("nope")


def write_preset(folder: Path, text: str) -> None:
    (folder / "own_try.py").write_text(text)


def test_a_file_adds_a_preset(tmp_path):
    write_preset(tmp_path, '"""Mine."""\nfrom imf_jax.config import TrainConfig\nconfig = TrainConfig(seed=5)\n')
    (tmp_path / "_shared.py").write_text("")
    assert list(preset_paths(tmp_path)) == ["own-try"]
    assert load_preset("own-try", tmp_path).seed == 5


@pytest.mark.parametrize(
    ("text", "error", "named"),
    [
        ("import no_such_module", UserError, "no_such_module"),
        ("x = (", UserError, "SyntaxError"),
        ("conf = 1", UserError, "config = TrainConfig"),
        ("from imf_jax.config import TrainConfig\nconfig = TrainConfig(max_steps=0)", ArgumentError, "max_steps"),
    ],
)
def test_broken_presets_are_named(tmp_path, text, error, named):
    write_preset(tmp_path, text)
    with pytest.raises(error, match=named) as raised:
        load_preset("own-try", tmp_path)
    assert "own_try.py" in str(raised.value)


def test_a_preset_must_say_what_it_reaches(tmp_path):
    write_preset(tmp_path, "config = 1")
    with pytest.raises(UserError, match="docstring"):
        preset_description(tmp_path / "own_try.py")
