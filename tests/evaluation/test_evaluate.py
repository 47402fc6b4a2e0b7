"""An evaluation from start to report: files, figures, exit codes, and what is kept when it stops early."""

import json
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest

from imf_jax.config import CaptureConfig
from imf_jax.errors import ArgumentError, UserError
from imf_jax.evaluation.evaluate import EvaluationSettings, Hooks, Summary, evaluate
from imf_jax.evaluation.evaluated_policy import EvaluatedPolicy
from imf_jax.evaluation.folder import read_records
from imf_jax.evaluation.setup import Setup
from imf_jax.evaluation.statistics import wilson_interval
from imf_jax.files import read_json, write_bytes
from imf_jax.rollout.recorders.base import EpisodeBuffer, Recorder, episode_folder

PIXEL = bytes.fromhex(
    "89504e470d0a1a0a0000000d4948445200000001000000010802000000907753de0000000c49444154789c63606060000000040001f61738"
    "550000000049454e44ae426082"
)


class PixelRecorder(Recorder):
    """Stands for a renderer: leaves a picture of one pixel."""

    name = "pixel"

    def __init__(self, folder: Path) -> None:
        self.folder, self.buffer = folder, EpisodeBuffer()

    def finish(self, record: Any) -> dict[str, str]:
        path = f"{episode_folder(record.episode)}/trajectory.png"
        write_bytes(self.folder / path, PIXEL)
        return {"path_image": path}


@pytest.fixture
def run(tmp_path: Path, chunk_backend: Any, straight_planner: Any) -> Callable[..., Summary]:
    def run(name: str = "run", faults: dict[int, float] | None = None, **options: Any) -> Summary:
        settings = EvaluationSettings(**({"episodes": 10, "num_envs": 4} | options.pop("settings", {})))
        policy = EvaluatedPolicy(straight_planner(faults), "point", "straight <planner>", {"checkpoint": {"step": 7}})
        return evaluate(Setup(policy, chunk_backend), settings, tmp_path / name, **options)

    return run


def test_files_and_figures(run: Callable[..., Summary]) -> None:
    summary = run(about={"reference": None})
    names = sorted(path.name for path in summary.folder.iterdir())
    assert names == ["episodes.jsonl", "manifest.json", "metrics.json", "report.html"], "captures are off by default"
    manifest, metrics = (read_json(summary.folder / name) for name in ("manifest.json", "metrics.json"))
    assert metrics == json.loads(json.dumps(summary.metrics))
    assert (metrics["n_episodes"], metrics["n_success"], metrics["n_timeout"]) == (10, 9, 1)
    assert metrics["pc_success"] == 90
    assert metrics["pc_success_ci95"] == [100 * bound for bound in wilson_interval(9, 10)]
    assert metrics["control_steps"] == sum(record.steps for record in summary.records)
    assert metrics["wall_s"] > 0
    assert read_records(summary.folder) == (list(summary.records), [])
    assert manifest["policy"] == "straight <planner>"
    assert (manifest["checkpoint"], manifest["reference"]) == ({"step": 7}, None)
    assert manifest["seeds"] == {"split": "test", "seed": 0, "episodes": [0, 9]}
    assert {"jax", "mujoco", "imf_jax", "python"} <= manifest["versions"].keys()
    assert summary.exit_code == 0
    assert summary.headline.startswith("success 9/10 = 90.0 %")


def test_validation_scenes_are_other_scenes(run: Callable[..., Summary]) -> None:
    test, validation = run("a"), run("b", settings={"split": "validation"})
    for first, second in zip(test.records, validation.records, strict=True):
        assert first.seed != second.seed
        assert first.return_ != second.return_


def test_some_errors_exit_3_and_keep_the_rest(run: Callable[..., Summary]) -> None:
    summary = run(faults={2: 99.0})
    assert summary.exit_code == 3
    assert (summary.metrics["n_error"], summary.metrics["n_success"]) == (1, 8)
    assert summary.records[2].error == "the physics is not finite after step 9"
    assert "the physics is not finite after step 9" in (summary.folder / "report.html").read_text()


def test_interrupted_keeps_partial_results(run: Callable[..., Summary]) -> None:
    asked = iter([False] * 6 + [True] * 99)
    summary = run(hooks=Hooks(should_stop=lambda: next(asked)))
    assert summary.exit_code == 130
    assert 0 < summary.metrics["n_episodes"] < 10
    assert read_records(summary.folder)[0] == list(summary.records)
    assert "interrupted" in (summary.folder / "report.html").read_text()
    assert run("nothing", hooks=Hooks(should_stop=lambda: True)).exit_code == 130


def test_a_crash_keeps_the_records_written_so_far(
    run: Callable[..., Summary], tmp_path: Path, chunk_backend: Any, monkeypatch: pytest.MonkeyPatch
) -> None:
    calls = iter(range(99))
    step = chunk_backend.run_chunk

    def broken(*arguments: Any) -> Any:
        if next(calls) == 8:
            raise RuntimeError("power failure")
        return step(*arguments)

    monkeypatch.setattr(chunk_backend, "run_chunk", broken)
    with pytest.raises(RuntimeError, match="power failure"):
        run()
    assert len(read_records(tmp_path / "run")[0]) > 0
    assert not (tmp_path / "run/metrics.json").exists()


def test_bad_settings_leave_nothing_behind(run: Callable[..., Summary], tmp_path: Path) -> None:
    with pytest.raises(ArgumentError, match="0 episodes leave nothing to evaluate"):
        run(settings={"episodes": 0})
    with pytest.raises(ArgumentError, match="seed -1 must be in"):
        run(settings={"seed": -1})
    assert not any(tmp_path.iterdir())
    run()
    with pytest.raises(UserError, match="already holds a run"):
        run()
    assert run(existing="replace").metrics["n_episodes"] == 10


def test_a_scene_without_the_usual_camera_is_evaluated_where_nothing_is_captured(
    run: Callable[..., Summary], chunk_backend: Any, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(chunk_backend, "cameras", ("wrist",), raising=False)
    assert run().exit_code == 0
    for captures in ({"save_images": True}, {"record_video": "all"}):
        with pytest.raises(ArgumentError, match="camera 'front' is not in the scene; choose from: wrist"):
            run("captured", settings={"capture": CaptureConfig(**captures)})


def test_unknown_camera_is_refused_before_anything_is_written(
    transfer_backend: Any, straight_planner: Any, tmp_path: Path
) -> None:
    settings = EvaluationSettings(episodes=1, num_envs=1, capture=CaptureConfig(save_images=True, camera="back"))
    with pytest.raises(ArgumentError, match=r"camera 'back' is not in the scene; choose from: .*front"):
        evaluate(
            Setup(EvaluatedPolicy(straight_planner(), "transfer", "straight", {}), transfer_backend),
            settings,
            tmp_path / "run",
        )
    assert not (tmp_path / "run").exists()
