"""What cannot work is refused in one line that names the flag, before anything is built."""

import json
import subprocess
import sys
from dataclasses import replace
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import pytest
from transfer_task import SPACES

from imf_jax.config import from_dict, to_dict
from imf_jax.config.recording import (
    DaggerConfig,
    DatasetConfig,
    HighlightConfig,
    RolloutConfig,
    SentryConfig,
)
from imf_jax.data.lerobot import checks
from imf_jax.data.lerobot.features import robot_features
from imf_jax.data.lerobot.writer import LeRobotWriter
from imf_jax.errors import ArgumentError, UserError
from imf_jax.recording.assembly import open_recording
from imf_jax.recording.run import BLOCK_SCENES, run_strategy, wanted_scenes
from imf_jax.recording.session import Session, check_dataset_folder
from imf_jax.sim.tasks import get_task

DATA = DatasetConfig(dataset=Path("rollout_x"))


def config(strategy: Any, **groups: Any) -> RolloutConfig:
    acting: dict[str, Any] = {"checkpoint": Path("run")} if strategy == "dagger" else {"expert": True}
    return RolloutConfig(strategy=strategy, **(acting | groups))


@pytest.mark.parametrize("strategy", ["episodic", "sentry", "highlight", "dagger"])
def test_what_records_needs_a_dataset(strategy: str) -> None:
    with pytest.raises(ArgumentError, match=f"--strategy {strategy} records; say where with --dataset"):
        config(strategy)
    made = config(strategy, recording=DATA)
    assert from_dict(RolloutConfig, to_dict(made)) == made


@pytest.mark.parametrize(
    ("build", "message"),
    [
        (lambda: config("base", recording=DATA), "--dataset rollout_x would do nothing: --strategy base"),
        (lambda: config("base", recording=DatasetConfig(resume=True)), "--resume would do nothing"),
        (lambda: config("base", recording=DatasetConfig(cameras=("top",))), "--cameras top would do nothing"),
        (lambda: config("guess"), "--strategy guess is not known; choose from: base, episodic"),
        (lambda: RolloutConfig(), "either --checkpoint FOLDER or --expert"),
        (lambda: RolloutConfig(strategy="dagger", expert=True, recording=DATA), "corrects? a policy|correct a policy"),
        (lambda: config("episodic", recording=DATA, episodes=0), "--episodes is 0"),
        (
            lambda: config("episodic", recording=DATA, sentry=SentryConfig(max_bytes=9)),
            "--max-bytes 9 would do nothing: it is for --strategy sentry",
        ),
        (
            lambda: config("sentry", recording=DATA, highlight=HighlightConfig(events=("drop",))),
            "--events drop would do nothing: it is for --strategy highlight",
        ),
        (lambda: DatasetConfig(cameras=("top", "top")), "names one twice"),
        (lambda: DatasetConfig(image_size=97), "--image-size is 97"),
        (
            lambda: config("episodic", recording=DatasetConfig(dataset=Path("rollout_x"), image_size=64)),
            "--image-size 64 would do nothing: no --cameras",
        ),
        (lambda: SentryConfig(duration_s=0), "--duration-s is 0"),
        (lambda: HighlightConfig(events=("party",)), "--events party is not known; choose from: success, failure"),  # type: ignore[arg-type]
        (lambda: HighlightConfig(events=()), "--events is empty"),
        (lambda: HighlightConfig(pre_s=0), "--pre-s is 0"),
        (lambda: HighlightConfig(ring_bytes=10), "--ring-bytes is 10"),
        (lambda: HighlightConfig(reward_jump=1.0), "--reward-jump 1.0 would do nothing: reward_jump is not among"),
        (lambda: DaggerConfig(rounds=0), "--rounds is 0; it must be at least 1"),
        (lambda: DaggerConfig(intervene=("beta",), beta=1.5), r"--beta is 1.5; it must be in \[0, 1\]"),
        (lambda: DaggerConfig(intervene=("beta",), beta=-0.1), r"--beta is -0.1; it must be in \[0, 1\]"),
        (lambda: DaggerConfig(beta=0.3), "--beta 0.3 would do nothing: beta is not among --intervene"),
        (lambda: DaggerConfig(intervene=("mood",)), "--intervene mood is not known"),  # type: ignore[arg-type]
        (lambda: DaggerConfig(save="all"), "--save all is not known; choose from: corrections, episodes"),  # type: ignore[arg-type]
        (lambda: DaggerConfig(train_steps=10), "--train-steps 10 would do nothing: nothing is trained without"),
    ],
)  # fmt: skip
def test_bad_settings(build: Any, message: str) -> None:
    with pytest.raises(ArgumentError, match=message) as told:
        build()
    assert "\n" not in str(told.value)


@pytest.mark.parametrize(
    ("groups", "message"),
    [
        ({"recording": {"cameras": ("nose",)}}, "'nose' is not in the scene; choose from: .*r_vis"),
        (
            {"highlight": HighlightConfig(events=("out_of_view",))},
            "--events out_of_view needs the camera front, which is off; add it to --cameras",
        ),
        (
            {
                "highlight": HighlightConfig(events=("out_of_view",), event_camera="top"),
                "recording": {"cameras": ("front",)},
            },
            "--events out_of_view needs the camera top, which is off",
        ),
    ],
)
def test_cameras_that_the_scene_does_not_have_or_that_are_off(
    groups: dict[str, Any], message: str, tmp_path: Path
) -> None:
    recording = DatasetConfig(tmp_path / "rollout_x", **groups.pop("recording", {}))
    with pytest.raises(ArgumentError, match=message) as told:
        Session(config("highlight", recording=recording, backend="native", **groups))
    assert "\n" not in str(told.value)
    assert not recording.dataset.exists()


def test_bad_folders(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    with pytest.raises(ArgumentError, match="must have a name that starts with 'rollout_'"):
        check_dataset_folder(tmp_path / "night", resume=False)
    with pytest.raises(ArgumentError, match="holds no dataset; leave --resume away"):
        check_dataset_folder(tmp_path / "rollout_night", resume=True)
    LeRobotWriter.create(tmp_path / "rollout_night", robot_features(SPACES, {}), 50, robot_type=SPACES.name).finish()
    with pytest.raises(ArgumentError, match="holds a dataset already; go on with it by --resume"):
        check_dataset_folder(tmp_path / "rollout_night", resume=False)
    check_dataset_folder(tmp_path / "rollout_night", resume=True)
    monkeypatch.setattr(checks.shutil, "disk_usage", lambda path: SimpleNamespace(free=2**20))
    with pytest.raises(UserError, match="only 1 MiB are free"):
        check_dataset_folder(tmp_path / "rollout_other", resume=False)


def test_resuming_with_other_features_names_both(tmp_path: Path) -> None:
    folder = tmp_path / "rollout_night"
    LeRobotWriter.create(folder, robot_features(SPACES, {"front": (32, 32)}, 7), 50, robot_type=SPACES.name).finish()
    made = config("episodic", recording=DatasetConfig(folder, resume=True, cameras=("front",), image_size=64))
    session: Any = SimpleNamespace(
        config=made, seed=7, fps=lambda: 50, backend=SimpleNamespace(task=get_task("transfer"))
    )
    with pytest.raises(ArgumentError, match=r"video \(32, 32, 3\) in the dataset and video \(64, 64, 3\) in the rec"):
        open_recording(session)


def test_scenes_that_are_wanted() -> None:
    episodic = config("episodic", recording=DATA, episodes=4)
    rows, total = wanted_scenes(episodic, {0, 2, 9})
    assert ([list(row) for row in rows], total) == ([[1, 3]], 2)
    highlight = config("highlight", recording=DATA, episodes=4)
    rows, total = wanted_scenes(highlight, {0, 2, 9})
    assert ([list(row) for row in rows], total) == ([[10, 11, 12, 13]], 4)
    rows, total = wanted_scenes(config("sentry", recording=DATA), {5})
    assert total is None
    first, second = next(rows), next(rows)
    assert (first[0], len(first), second[0]) == (6, BLOCK_SCENES, 6 + BLOCK_SCENES)


def test_real_scenes_are_recorded_once(tmp_path: Path) -> None:
    folder = tmp_path / "rollout_real"
    notes: list[str] = []
    first = config("episodic", recording=DatasetConfig(folder), episodes=1, backend="native")
    summary = run_strategy(first, on_note=notes.append)
    assert (summary.exit_code, len(summary.records), summary.frames) == (0, 1, summary.control_steps)
    again = replace(first, recording=DatasetConfig(folder, resume=True))
    summary = run_strategy(again, on_note=notes.append)
    assert (summary.exit_code, summary.records) == (0, [])
    assert notes[-1] == "all 1 scenes are in the dataset already"
    log = [json.loads(line) for line in (folder / "meta/rollouts.jsonl").read_text().splitlines()]
    assert [(line["n_episodes"], line["n_success"], line["policy"]) for line in log] == [(1, 1, "scripted expert")]
    assert json.loads((folder / "meta/info.json").read_text())["total_episodes"] == 1


def test_the_script_answers_bad_flags_at_once() -> None:
    command = [sys.executable, "scripts/rollout.py", "--strategy", "sentry", "--expert", "--duration-s", "3"]
    done = subprocess.run(command, capture_output=True, text=True, timeout=60)
    assert done.returncode == 2
    assert done.stderr.count("\n") == 1
    assert "--strategy sentry records; say where with --dataset" in done.stderr
