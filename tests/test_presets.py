"""Presets: every file in configs/ is one, all of them work, and broken ones are named."""

import dataclasses
import os
from pathlib import Path

import pytest
from flax import nnx
from parameters import count_parameters

from imf_jax.config import (
    EfficientNetEncoderConfig,
    LewmEncoderConfig,
    PretrainConfig,
    TrainConfig,
    from_dict,
    to_dict,
)
from imf_jax.errors import ArgumentError, UserError
from imf_jax.models.encoders import efficientnet
from imf_jax.models.encoders.lewm import LewmSizes
from imf_jax.models.encoders.vit import VitSizes
from imf_jax.models.policy import Policy, unloaded_encoder
from imf_jax.models.world_model import sizes_of
from imf_jax.presets import PRETRAIN_DIRECTORY, load_preset, preset_description, preset_paths
from imf_jax.sim.tasks import get_task

LEWM = LewmSizes(VitSizes(hidden=192, layers=12, heads=3, mlp=768, patch=14, image_size=224), 2048, output=192)


def policy_of(config: TrainConfig) -> Policy:
    """The policy of a configuration, with shapes in place of arrays; a frozen encoder has the sizes of its source."""
    encoder, task = config.policy.encoder, get_task(config.task)
    identity = None
    if isinstance(encoder, LewmEncoderConfig):
        identity = {"sizes": dataclasses.asdict(LEWM), "weights_sha256": ""}
    elif isinstance(encoder, EfficientNetEncoderConfig):
        identity = efficientnet.config_dict(efficientnet.lite0_sizes(encoder.stride), "")

    def build() -> Policy:
        frozen = unloaded_encoder(config.policy, identity) if identity else None
        return Policy(config.policy, task.robot.spaces, task.env_state_dim, rngs=nnx.Rngs(0), frozen_encoder=frozen)

    return nnx.eval_shape(build)


def test_names_are_file_names_with_dashes():
    assert {"debug", "transfer-state"} <= set(preset_paths())


@pytest.mark.parametrize("name", preset_paths())
def test_every_preset_loads_and_builds_a_policy(name):
    config = load_preset(name)
    assert isinstance(config, TrainConfig)
    assert preset_description(preset_paths()[name]).splitlines()[0].endswith(".")
    assert from_dict(TrainConfig, to_dict(config)) == config
    policy_of(config)


def test_presets_that_the_source_prescribes():
    configs = {name: load_preset(name) for name in preset_paths()}
    policies = {name: config.policy for name, config in configs.items()}
    for name, n_emb, horizons in [
        ("lewm-384", 384, (16, 8)),
        ("lewm-256", 256, (16, 8)),
        ("short-horizon", 384, (8, 4)),
    ]:
        assert (policies[name].head.n_emb, policies[name].head.n_layer, policies[name].obs_horizon) == (n_emb, 12, 2)
        assert (policies[name].pred_horizon, policies[name].num_action_steps) == horizons
        assert configs[name].max_steps == 50_000
    episodes = {name: configs[name].validation.num_episodes for name in ("lewm-384", "lewm-256", "short-horizon")}
    assert episodes == {"lewm-384": 10, "lewm-256": 10, "short-horizon": 5}
    assert configs["short-horizon"].validation.num_images == 5


@pytest.mark.parametrize(
    ("name", "condition_dim", "tokens", "joint"),
    [
        ("lewm-384", 208, 1, 192),
        ("lewm-256", 208, 1, 192),
        ("resnet", 208, 1, None),
        ("resnet-multitoken", 80, 3, None),
        ("efficientnet", 208, 1, None),
    ],
)
def test_conditions_of_policies_that_see(name, condition_dim, tokens, joint):
    policy = policy_of(load_preset(name))
    assert (policy.head.condition_dim, policy.conditioning.tokens_per_step) == (condition_dim, tokens)
    assert policy.joint_output_dim == joint
    if name == "lewm-384":
        assert count_parameters(policy) == count_parameters(policy.head) == 21_493_264


@pytest.mark.parametrize("name", preset_paths(PRETRAIN_DIRECTORY))
def test_presets_of_pretraining_load(name):
    config = load_preset(name, PRETRAIN_DIRECTORY, PretrainConfig)
    assert from_dict(PretrainConfig, to_dict(config)) == config
    assert preset_description(preset_paths(PRETRAIN_DIRECTORY)[name]).splitlines()[0].endswith(".")
    assert (config.model.history, config.model.frameskip, config.model.sigreg_weight) == (3, 5, 0.09)
    if name == "lewm-pretrain":
        assert sizes_of(config.model, 16).encoder == LEWM
        assert (config.batch_size, config.optimizer.learning_rate, config.optimizer.clip_norm) == (128, 5e-5, 1.0)


def test_presets_of_one_script_are_not_those_of_another():
    with pytest.raises(ArgumentError, match="unknown preset 'lewm-pretrain'"):
        load_preset("lewm-pretrain")
    with pytest.raises(UserError, match="config = PretrainConfig"):
        load_preset("debug", kind=PretrainConfig)


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
        ("from imf_jax.config import TrainConfig\nconfig = TrainConfig(max_steps=5e4)", ArgumentError, "whole number"),
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
