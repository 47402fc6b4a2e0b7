"""Which manifests belong to one evaluation."""

from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest

from imf_jax.config import CaptureConfig, EvalConfig, ExecutionConfig, to_dict
from imf_jax.evaluation.resume import differences

CONFIG = EvalConfig(expert=True, num_envs=4)


def manifest(config: EvalConfig) -> dict[str, Any]:
    return {"task": "transfer", "backend": "native", "checkpoint": None, "config": to_dict(config)}


def test_a_manifest_from_before_captures_had_a_group_goes_on() -> None:
    before = manifest(CONFIG)
    capture = before["config"].pop("capture")
    before["config"] |= capture
    assert differences(before, manifest(CONFIG)) == []
    del before["config"]["save_timing"]  # nor when it knew fewer captures
    assert differences(before, manifest(CONFIG)) == []
    timed = replace(CONFIG, capture=CaptureConfig(save_timing=True))
    assert differences(before, manifest(timed)) == ["--save-timing"]


def test_a_manifest_from_before_precision_was_a_flag_goes_on() -> None:
    before = manifest(CONFIG)
    assert before["config"].pop("precision") == "highest"
    assert differences(before, manifest(replace(CONFIG, precision="high"))) == []


def test_the_type_of_the_encoder_stays_what_it_was() -> None:
    config = EvalConfig(checkpoint=Path("run"))
    before = manifest(config)
    assert before["config"].pop("encoder_dtype") is None  # as written before it was a flag
    assert differences(before, manifest(config)) == []
    assert differences(before, manifest(replace(config, encoder_dtype="bfloat16"))) == ["--encoder-dtype"]


@pytest.mark.parametrize(
    ("changed", "named"),
    [
        ({"capture": CaptureConfig(save_images=True, camera="top")}, ["--camera", "--save-images"]),
        ({"execution": ExecutionConfig(action_interpolation=5)}, ["--action-interpolation"]),
        ({"seed": 3}, ["--seed"]),
        ({"precision": "default"}, ["--precision"]),
        ({"num_envs": 9, "resume": True, "reference": None, "devices": "all", "repeat": 2}, []),
    ],
)
def test_differences_are_named_as_flags(changed: dict[str, Any], named: list[str]) -> None:
    changed = changed | ({"out": "x"} if changed.get("resume") else {})
    assert differences(manifest(CONFIG), manifest(replace(CONFIG, **changed))) == named


def test_a_served_policy_is_the_same_at_another_address() -> None:
    config = EvalConfig(policy="ws://first:1")

    def served(address: str, **metadata: Any) -> dict[str, Any]:
        told = {"policy": "mine", "version": "0.2.0", **metadata}
        return manifest(replace(config, policy=address)) | {"served": {"address": address, "metadata": told}}

    before = served("ws://first:1")
    assert differences(before, served("ws://second:2", version="0.3.0")) == []
    assert differences(before, served("ws://first:1", policy="another")) == ["served"]
    assert differences(before, manifest(CONFIG)) == ["--expert", "served"]
