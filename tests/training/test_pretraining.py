"""Pre-training: exact resume, the folder that policies read, the report, and what is refused."""

import json
import shutil
from collections.abc import Callable
from contextlib import nullcontext
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from transfer_task import SPACES

from imf_jax import checkpoints
from imf_jax.config import (
    HeldOutConfig,
    LewmEncoderConfig,
    OptimizerConfig,
    PretrainConfig,
    TrainConfig,
    WorldModelConfig,
)
from imf_jax.data.episodes import write_episodes
from imf_jax.data.statistics import write_statistics
from imf_jax.errors import EXIT_INTERRUPTED, EXIT_OK, ArgumentError, UserError
from imf_jax.files import read_metrics
from imf_jax.models.encoders.lewm import load
from imf_jax.models.policy import build_policy
from imf_jax.models.world_model_file import WORLD_MODEL_FILE, read_world_model
from imf_jax.training import loop, pretraining
from imf_jax.training.pretraining import pretrain

SIZE = 12
MODEL = WorldModelConfig(
    cameras=("top", "front"), image_size=SIZE, resolution=8, patch=4, hidden=8, layers=1, heads=2, mlp=12, embedding=6,
    projector_hidden=10, predictor_layers=1, predictor_heads=2, predictor_head_dim=4, predictor_mlp=10, frameskip=2,
    sketches=8,
)  # fmt: skip


def pictures(episode: int, steps: int, size: int = SIZE) -> dict[str, np.ndarray]:
    random = np.random.default_rng(episode)
    return {camera: random.integers(0, 256, (steps, size, size, 3), np.uint8) for camera in ("top", "front")}


@pytest.fixture(scope="module")
def seen(tmp_path_factory: pytest.TempPathFactory, make_demonstration: Callable[..., Any]) -> Path:
    """Three demonstrations with pictures of two cameras."""
    folder = tmp_path_factory.mktemp("seen")
    write_episodes(folder, [replace(make_demonstration(e, 20), images=pictures(e, 20)) for e in range(3)])
    write_statistics(folder)
    return folder


@pytest.fixture(scope="module")
def settings(seen: Path, tmp_path_factory: pytest.TempPathFactory) -> PretrainConfig:
    return PretrainConfig(
        data=seen,
        out=tmp_path_factory.mktemp("runs") / "whole",
        max_steps=4,
        batch_size=4,
        save_every=2,
        log_every=2,
        model=MODEL,
        optimizer=OptimizerConfig(learning_rate=1e-2, warmup_steps=1, decay_steps=6, ema_decay=0.0),
        validation=HeldOutConfig(frames=24),
    )


@pytest.fixture(scope="module")
def whole(settings: PretrainConfig) -> PretrainConfig:
    """A finished run."""
    assert pretrain(settings) == EXIT_OK
    return settings


def test_what_a_run_leaves_behind(whole: PretrainConfig) -> None:
    out = whole.out
    assert {path.name for path in out.iterdir()} == {
        "checkpoints", "config.json", "diagnostics.json", "encoder", "metrics.jsonl", "report.html", "summary.json",
    }  # fmt: skip
    lines = read_metrics(out)
    assert [line["step"] for line in lines if "loss" in line] == [2, 4]
    for line in lines:
        if "loss" in line:
            np.testing.assert_allclose(line["loss"], line["mse"] + 0.09 * line["sigreg"], rtol=1e-5)
    (held_out,) = [line for line in lines if "validation/variance" in line]
    assert {"validation/probe/box_cm", "validation/probe/joint_rad", "validation/effective_rank"} <= set(held_out)
    found = json.loads((out / "diagnostics.json").read_text())
    assert (found["step"], found["training_episodes"], found["held_out_episodes"], found["dim"]) == (4, 2, 1, 6)
    page = (out / "report.html").read_text()
    assert page.count("data:image/jpeg") == 4 * len(found["neighbours"])
    assert "http" not in page.replace("http://www.w3.org", ""), "the page needs no network"
    assert ("has collapsed" in page) == (found["warning"] is not None)


def same_files(first: Path, second: Path) -> None:
    for name in ("weights.safetensors", "config.json", WORLD_MODEL_FILE):
        assert (first / "encoder" / name).read_bytes() == (second / "encoder" / name).read_bytes(), name


@pytest.mark.long
def test_two_and_two_steps_equal_four(whole: PretrainConfig, tmp_path: Path) -> None:
    halves = replace(whole, out=tmp_path / "halves", max_steps=2)
    assert pretrain(halves) == EXIT_OK
    assert pretrain(replace(halves, max_steps=4, resume=True)) == EXIT_OK
    same_files(halves.out, whole.out)
    timing = ("steps_per_s", "step_share")
    losses = [
        [{k: v for k, v in line.items() if k not in timing} for line in read_metrics(run.out) if "loss" in line]
        for run in (halves, whole)
    ]
    assert losses[0] == losses[1]


def test_an_interrupted_run_goes_on(whole: PretrainConfig, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    stopped = replace(whole, out=tmp_path / "stopped")
    with monkeypatch.context() as patch:
        patch.setattr(loop.Trainer, "_steps_of_call", lambda self, step: 1)
        asked = iter([False, False, True, True, True, True])
        patch.setattr(loop, "stop_on_interrupt", lambda: nullcontext(lambda: next(asked)))
        assert pretrain(stopped) == EXIT_INTERRUPTED
    assert checkpoints.newest_checkpoint(stopped.out).name == "2"
    assert pretrain(replace(stopped, resume=True)) == EXIT_OK
    same_files(stopped.out, whole.out)


@pytest.fixture
def policy_config(config: TrainConfig, whole: PretrainConfig, tmp_path: Path) -> TrainConfig:
    """A policy that reads the encoder; the demonstrations are copied, because features are cached beside them."""
    own = shutil.copytree(whole.data, tmp_path / "seen")
    encoder = LewmEncoderConfig(whole.out / "encoder", "row", SIZE, cameras=("top", "front"))
    return replace(config, data=own, max_steps=2, policy=replace(config.policy, encoder=encoder))


def test_a_policy_trains_on_the_encoder(policy_config: TrainConfig, whole: PretrainConfig) -> None:
    assert loop.train(policy_config) == EXIT_OK
    (cache,) = policy_config.data.glob("features_*.npz")
    model_encoder = load(whole.out / "encoder", fusion="row", cameras=("top", "front"), image_size=SIZE)
    views = {name: values[:3] for name, values in pictures(0, 20).items()}
    with np.load(cache) as stored:
        np.testing.assert_allclose(stored["features"][:3], model_encoder(views), rtol=1e-4, atol=1e-5)
    policy = checkpoints.load_policy(policy_config.out).policy
    assert policy.frozen_encoder.cameras == ("top", "front")
    assert policy.joint_output_dim == 6


@pytest.mark.parametrize(
    "change", [{"fusion": "grid"}, {"image_size": 24}, {"cameras": ("front", "top")}, {"cameras": ("top",)}]
)
def test_an_encoder_for_other_pictures_is_refused(change: dict[str, Any], policy_config: TrainConfig) -> None:
    encoder = replace(policy_config.policy.encoder, **change)
    wrong = replace(policy_config, policy=replace(policy_config.policy, encoder=encoder))
    with pytest.raises(UserError, match=r"was pre-trained on cameras top front, fusion row, 12 pixels, not"):
        build_policy(wrong, SPACES, 7)


def test_a_run_can_start_from_whole_weights(whole: PretrainConfig, tmp_path: Path) -> None:
    again = replace(whole, out=tmp_path / "again", max_steps=1, init=whole.out / "encoder", optimizer=OptimizerConfig(
        learning_rate=1e-9, warmup_steps=0, ema_decay=0.0
    ))  # fmt: skip
    pretrain(again)
    first, _ = read_world_model(whole.out / "encoder")
    second, _ = read_world_model(again.out / "encoder")
    np.testing.assert_allclose(second["positions"], first["positions"], atol=1e-6)
    other = replace(again, out=tmp_path / "other", model=replace(MODEL, mlp=16))
    with pytest.raises(ArgumentError, match="set the --model flags to match"):
        pretrain(other)


def test_a_collapse_is_said(whole: PretrainConfig, tmp_path: Path, monkeypatch: Any, capsys: Any) -> None:
    monkeypatch.setattr("imf_jax.training.diagnostics.COLLAPSED_VARIANCE", 1e9)
    collapsed = replace(whole, out=tmp_path / "collapsed", max_steps=1)
    assert pretrain(collapsed) == EXIT_OK
    assert "warning: the encoder has collapsed: variance" in capsys.readouterr().out
    assert "has collapsed" in (collapsed.out / "report.html").read_text()
    assert "has collapsed" in json.loads((collapsed.out / "diagnostics.json").read_text())["warning"]


def folder_of(path: Path, make_demonstration: Callable[..., Any], count: int, steps: int = 20, **kind: Any) -> Path:
    images = kind.pop("images", pictures)
    write_episodes(path, [replace(make_demonstration(e, steps), images=images(e, steps)) for e in range(count)])
    write_statistics(path)
    return path


@pytest.mark.parametrize(
    ("count", "steps", "images", "named"),
    [
        (1, 20, pictures, "one demonstration only"),
        (2, 5, pictures, "longer than 6 control steps"),
        (2, 20, lambda e, n: {}, "no pictures of camera 'top'"),
        (2, 20, lambda e, n: {"top": pictures(e, n)["top"]}, "no pictures of camera 'front'"),
        (2, 20, lambda e, n: pictures(e, n, 16), "16x16, but model.image_size is 12.*or set --model.image-size"),
    ],
)
def test_demonstrations_that_cannot_be_used(
    count: int, steps: int, images: Any, named: str, settings: PretrainConfig, make_demonstration: Any, tmp_path: Path
) -> None:
    data = folder_of(tmp_path / "demos", make_demonstration, count, steps, images=images)
    wrong = replace(settings, data=data, out=tmp_path / "run")
    with pytest.raises(UserError, match=named) as caught:
        pretrain(wrong)
    assert "\n" not in str(caught.value)
    assert not wrong.out.exists(), "nothing half written"


def test_another_task_and_a_taken_folder_are_refused(whole: PretrainConfig, tmp_path: Path) -> None:
    with pytest.raises(ArgumentError, match="already holds a run"):
        pretrain(whole)
    with pytest.raises(ArgumentError, match=r"model\.mlp 12 -> 14"):
        pretrain(replace(whole, resume=True, model=replace(MODEL, mlp=14)))
    with pytest.raises(ArgumentError, match="of task 'transfer', not of --task 'insert'"):
        pretrain(replace(whole, task="insert", out=tmp_path / "run"))


def test_a_full_disk_leaves_no_half_encoder(whole: PretrainConfig, tmp_path: Path, monkeypatch: Any) -> None:
    full = replace(whole, out=tmp_path / "full", max_steps=1)

    def fail(path: Path, content: bytes) -> None:
        raise OSError(28, "No space left on device")

    monkeypatch.setattr(pretraining, "write_bytes", fail)
    with pytest.raises(UserError, match=r"cannot write the encoder and report to .* \(No space left on device\)"):
        pretrain(full)
    assert not (full.out / "encoder").exists()
    assert checkpoints.newest_checkpoint(full.out).name == "1"
    monkeypatch.undo()
    assert pretrain(replace(full, resume=True)) == EXIT_OK
    assert (full.out / "encoder" / WORLD_MODEL_FILE).is_file()
