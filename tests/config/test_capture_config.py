"""Captures: what is asked for, and where its recorder is."""

import dataclasses
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import pytest

from imf_jax.config import CaptureConfig
from imf_jax.config.capture import RECORDERS
from imf_jax.rollout.recorders import make_recorders
from imf_jax.rollout.recorders.base import RecorderContext


@pytest.mark.parametrize(
    ("asked", "recorders", "cameras"),
    [
        ({}, [], ()),
        ({"save_timing": True, "record_video": 0, "camera": "top"}, [], ()),
        ({"save_trajectory": True}, ["trajectory"], ()),
        ({"save_images": True, "camera": "top"}, ["path_image"], ("top",)),
        (
            {
                "record_video": "failures",
                "save_images": True,
                "save_trajectory": True,
                "video_cameras": ("top", "r_vis"),
            },
            ["trajectory", "path_image", "video"],
            ("front", "top", "r_vis"),
        ),
    ],
)
def test_flags_make_recorders(
    transfer_backend: Any, tmp_path: Path, asked: dict[str, Any], recorders: list[str], cameras: tuple[str, ...]
) -> None:
    capture = CaptureConfig(**asked).with_default("front")
    made = make_recorders(capture, RecorderContext(tmp_path, transfer_backend, num_envs=2))
    assert [recorder.name for recorder in made] == recorders
    assert capture.cameras == cameras
    assert not any(tmp_path.iterdir()), "nothing is written yet"


def test_cameras_that_are_named_stay() -> None:
    named = CaptureConfig(camera="top", video_cameras=("top", "r_vis"))
    assert named.with_default("front") == named
    assert CaptureConfig().with_default("front") == CaptureConfig(camera="front", video_cameras=("front",))


def test_every_flag_of_a_recorder_is_one() -> None:
    assert RECORDERS.keys() < {field.name for field in dataclasses.fields(CaptureConfig)}


def test_captures_of_the_first_episodes_only(transfer_backend: Any, tmp_path: Path) -> None:
    context = RecorderContext(tmp_path, transfer_backend, num_envs=2, num_episodes=1)
    (recorder,) = make_recorders(CaptureConfig(save_trajectory=True), context)
    assert recorder.finish(SimpleNamespace(episode=1, steps=0)) == {}, "it has seen nothing of this episode"
