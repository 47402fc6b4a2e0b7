"""Stored dataclasses: what is written is read again, and what does not fit is one line that names the field."""

import json
from pathlib import Path
from typing import Any

import pytest

from imf_jax.config import (
    CaptureConfig,
    EfficientNetEncoderConfig,
    EvalConfig,
    FlowConfig,
    LewmEncoderConfig,
    OptimizerConfig,
    PolicyConfig,
    ResNetEncoderConfig,
    StateEncoderConfig,
    TrainConfig,
    from_dict,
    to_dict,
)
from imf_jax.errors import ArgumentError, UserError


@pytest.mark.parametrize(
    "config",
    [
        TrainConfig(
            policy=PolicyConfig(encoder=ResNetEncoderConfig(cameras=("top", "front"))),
            optimizer=OptimizerConfig(clip_norm=5, decay_steps=100),  # a whole number where a float is allowed
            tracker=("wandb",),
        ),
        TrainConfig(policy=PolicyConfig(encoder=LewmEncoderConfig(Path("encoders/other")))),
        TrainConfig(policy=PolicyConfig(objective=FlowConfig(prediction="data"))),
        TrainConfig(policy=PolicyConfig(encoder=EfficientNetEncoderConfig(("top",), stride=8))),
        EvalConfig(expert=True, devices="all", capture=CaptureConfig(record_video=3), out=Path("evals/x")),
    ],
)
def test_what_is_written_is_read_again(config: Any) -> None:
    text = json.dumps(to_dict(config))
    assert from_dict(type(config), json.loads(text)) == config
    assert json.dumps(to_dict(from_dict(type(config), json.loads(text)))) == text


def test_the_form_of_what_is_stored() -> None:
    values = to_dict(TrainConfig(policy=PolicyConfig(encoder=LewmEncoderConfig()), tracker=("swanlab", "wandb")))
    assert list(values["policy"]["encoder"].items()) == [
        ("type", "LewmEncoderConfig"), ("weights", "encoders/lewm"), ("fusion", "row"), ("image_size", 256),
        ("dtype", "float32"),
        ("cameras", ["r_vis", "top", "front"]), ("features", "embedding"), ("keypoints", 32),
    ]  # fmt: skip
    assert (values["data"], values["tracker"], values["optimizer"]["decay_steps"]) == (
        "demos/transfer",
        ["swanlab", "wandb"],
        None,
    )


def test_older_files_have_fewer_fields_and_no_types() -> None:
    assert from_dict(TrainConfig, {}) == TrainConfig()
    assert from_dict(TrainConfig, {"policy": {"encoder": {}}}).policy.encoder == StateEncoderConfig()


OLDER: dict[str, Any] = {
    "policy": {
        "head": {"action_dim": 16, "obs_horizon": 3, "pred_horizon": 12, "num_action_steps": 5, "n_emb": 32},
        "objective": {"loss": "mse", "prefix_training": 4},
    }
}
"""As stored when horizons belonged to the network, and prefixes to the objective."""


def test_older_files_have_the_horizons_in_the_head() -> None:
    policy = from_dict(TrainConfig, OLDER).policy
    assert (policy.action_dim, policy.obs_horizon, policy.pred_horizon, policy.num_action_steps) == (16, 3, 12, 5)
    assert (policy.head.n_emb, policy.objective.loss, policy.prefix_training) == (32, "mse", 4)
    assert from_dict(TrainConfig, to_dict(from_dict(TrainConfig, OLDER))).policy == policy


@pytest.mark.parametrize(
    ("values", "message"),
    [
        ({"policy": {"head": {"pred_horizon": "x"}}}, "field policy.pred_horizon is 'x'; it must be a whole number"),
        (
            {"policy": {"head": {"pred_horizon": 8}, "pred_horizon": 9}},
            "field policy.head.pred_horizon is not known; it was written by another version",
        ),
        ({"max_steps": 2.5}, "field max_steps is 2.5; it must be a whole number"),
        ({"max_steps": True}, "field max_steps is True; it must be a whole number"),
        ({"max_steps": "ten"}, "field max_steps is 'ten'; it must be a whole number"),
        ({"max_steps": None}, "field max_steps is None; it must be a whole number"),
        ({"resume": "yes"}, "field resume is 'yes'; it must be true or false"),
        ({"resume": 1}, "field resume is 1; it must be true or false"),
        ({"task": 3}, "field task is 3; it must be a text"),
        ({"data": 3}, "field data is 3; it must be a path"),
        ({"tracker": "wandb"}, "field tracker is 'wandb'; it must be a list"),
        (
            {"tracker": ["wandb", "mail"]},
            "field tracker[1] is 'mail'; it must be 'swanlab' or 'wandb' or 'tensorboard' or 'trackio'",
        ),
        ({"optimizer": {"beta1": float("nan")}}, "field optimizer.beta1 is nan; it must be a finite number"),
        ({"optimizer": {"beta1": False}}, "field optimizer.beta1 is False; it must be a finite number"),
        (
            {"optimizer": {"decay_steps": 1.5}},
            "field optimizer.decay_steps is 1.5; it must be a whole number or null",
        ),
        ({"optimizer": [3]}, "field optimizer is [3]; it must be a mapping"),
        (
            {"policy": {"head": [3]}},
            "field policy.head is [3]; it must be a mapping with type 'AttnResConfig' or 'TransformerConfig' or "
            "'UnetConfig'",
        ),
        ({"policy": {"head": {"n_embd": 3}}}, "field policy.head.n_embd is not known; did you mean n_emb?"),
        ({"policy": {"head": {"x": 3}}}, "field policy.head.x is not known; it was written by another version"),
        ({"resume": "yes", "polcy": {}}, "field polcy is not known; did you mean policy?"),
        (
            {"policy": {"encoder": {"type": "CnnConfig"}}},
            "field policy.encoder is {'type': 'CnnConfig'}; it must be a mapping with type 'StateEncoderConfig' or "
            "'LewmEncoderConfig' or 'ResNetEncoderConfig' or 'EfficientNetEncoderConfig'",
        ),
        (
            {"policy": {"encoder": {"type": "ResNetEncoderConfig", "cameras": [1]}}},
            "field policy.encoder.cameras[0] is 1; it must be a text",
        ),
        ([1], "TrainConfig is [1]; it must be a mapping"),
    ],
)
def test_what_does_not_fit_is_one_line_with_the_path_of_the_field(values: Any, message: str) -> None:
    with pytest.raises(UserError) as raised:
        from_dict(TrainConfig, values)
    assert str(raised.value) == message


def test_a_choice_of_types_is_named() -> None:
    for value in ("some", True, 1.5):
        with pytest.raises(UserError, match=r"record_video is .*; it must be a whole number or 'all' or 'failures'"):
            from_dict(EvalConfig, {"expert": True, "capture": {"record_video": value}})


def test_what_contradicts_itself_is_refused_as_ever() -> None:
    with pytest.raises(ArgumentError, match="max_steps is 0; it must be at least 1"):
        from_dict(TrainConfig, {"max_steps": 0})
    with pytest.raises(ArgumentError, match=r"head\.n_emb 7 must be a multiple"):
        from_dict(TrainConfig, {"policy": {"head": {"n_emb": 7}}})
