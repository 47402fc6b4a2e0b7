"""Training on a LeRobot dataset of a robot that has no scene here, and on recordings of robots that have one."""

import json
from collections.abc import Callable
from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest
from transfer_task import SPACES

from imf_jax import checkpoints
from imf_jax.config import (
    ColumnsConfig,
    HeldOutConfig,
    PretrainConfig,
    ResNetEncoderConfig,
    StateEncoderConfig,
    TrainConfig,
    WorldModelConfig,
)
from imf_jax.data.lerobot.features import Feature, picture_feature, robot_features
from imf_jax.data.lerobot.writer import LeRobotWriter
from imf_jax.data.readers.recognise import open_reader
from imf_jax.data.selection import select
from imf_jax.errors import ArgumentError
from imf_jax.files import read_metrics
from imf_jax.models.encoders.lewm import load
from imf_jax.training import loop
from imf_jax.training.pretraining import pretrain
from imf_jax.training.source import find_source

JOINTS = tuple(f"{name}.pos" for name in ("pan", "lift", "elbow", "wrist", "roll", "gripper"))
HEIGHT, WIDTH, STEPS = 32, 48, 12


@pytest.fixture(scope="module")
def six_joints(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Four episodes of a robot of six joints with one camera."""
    folder = tmp_path_factory.mktemp("lerobot") / "rollout_so100"
    features = {
        "observation.state": Feature("float32", (6,), JOINTS),
        "action": Feature("float32", (6,), JOINTS),
        "effort": Feature("float32", (2,), ("a", "b")),
        "observation.images.wrist": picture_feature(HEIGHT, WIDTH),
    }
    with LeRobotWriter.create(folder, features, 30, robot_type="so100") as writer:
        for number in range(4):
            random = np.random.default_rng(number)
            frames = [
                {
                    "observation.state": np.sin(0.3 * step + np.arange(6)),
                    "action": np.sin(0.3 * (step + 1) + np.arange(6)),
                    "effort": random.normal(size=2),
                    "observation.images.wrist": np.full((HEIGHT, WIDTH, 3), 60 * number + step, np.uint8),
                }
                for step in range(STEPS)
            ]
            writer.add_episode(("pick", "place")[number % 2], frames)
    return folder


@pytest.fixture
def foreign(config: TrainConfig, six_joints: Path) -> TrainConfig:
    return replace(config, data=six_joints)


def test_a_policy_that_sees_trains_loads_and_plans(foreign: TrainConfig, capsys: pytest.CaptureFixture) -> None:
    encoder = ResNetEncoderConfig(cameras=("front",), image_size=40, crop_size=33, width=16, keypoints=2)
    seeing = replace(foreign, policy=replace(foreign.policy, encoder=encoder), picture_memory=0.0)
    seeing = replace(seeing, columns=ColumnsConfig(cameras=("wrist",)))
    assert loop.train(seeing) == 0
    said = " ".join(capsys.readouterr().out.split())
    assert "is of robot 'so100' (6 actions, 6 states), which has no scene here (--task none)" in said
    assert "the dataset has 2 tasks" in said
    assert "cut to their middle square and resized to 40 pixels" in said
    assert "from the cache" in said
    assert "held-out action error" in said
    loaded = checkpoints.load_policy(seeing.out)
    assert loaded.meta.columns == {
        "format": "LeRobot dataset", "action": ["action"], "state": ["observation.state"], "env_state": [],
        "cameras": {"front": "wrist"}, "hz": 30.0, "tasks": ["pick", "place"],
    }  # fmt: skip
    assert (loaded.meta.task, loaded.meta.spaces.name, loaded.meta.spaces.action_names) == ("none", "so100", JOINTS)
    assert set(loaded.meta.validation or {}) == {"action_error", "loss", "n_windows", "wall_s"}
    observation = {"state": np.zeros((1, 2, 6), np.float32), "images": np.zeros((1, 2, 1, 40, 40, 3), np.uint8)}
    assert loaded.policy.plan(observation, np.zeros((1, 16, 6), np.float32)).shape == (1, 16, 6)
    assert [name for name in read_metrics(seeing.out)[-1] if name.startswith("validation/")]
    assert len(list(seeing.data.glob("pictures_*.npy"))) == 1


def test_columns_can_be_named_and_joined(foreign: TrainConfig) -> None:
    columns = ColumnsConfig(state=("observation.state", "effort"), env_state=("effort",))
    config, source = find_source(replace(foreign, columns=columns))
    assert (config.task, source.spaces.state_dim, source.env_state_dim, config.policy.action_dim) == ("none", 8, 2, 6)
    steps = source.selection.read(1)
    np.testing.assert_array_equal(steps.state[:, 6:], steps.env_state)
    with pytest.raises(ArgumentError, match=r"--columns.action: .* has no column 'actoin'; did you mean action\?"):
        find_source(replace(foreign, columns=ColumnsConfig(action=("actoin",))))
    with pytest.raises(ArgumentError, match="names 2 cameras, but 1 are read"):
        select(foreign.data, ColumnsConfig(cameras=("a", "b"))).source_cameras(("front",))


def test_a_recording_of_a_robot_of_ours_is_learned_for_its_task(
    config: TrainConfig, tmp_path: Path, make_demonstration: Callable
) -> None:
    recorded = tmp_path / "rollout_transfer"
    with LeRobotWriter.create(recorded, robot_features(SPACES, {}, 7), 50, robot_type=SPACES.name) as writer:
        for number in range(2):
            demonstration = make_demonstration(number, 10)
            frames = [
                {
                    "observation.state": demonstration.state[step], "action": demonstration.action[step],
                    "observation.environment_state": demonstration.env_state[step], "next.reward": 0.0,
                    "intervention": False,
                }
                for step in range(10)
            ]  # fmt: skip
            writer.add_episode("transfer", frames, {"success": True, "seed": 0, "scene": number})
    _, source = find_source(replace(config, data=recorded))
    assert source.task is not None
    assert (source.task.name, source.spaces, source.notes) == ("transfer", SPACES, ())
    steps = source.selection.read(1)
    np.testing.assert_array_equal(steps.action, make_demonstration(1, 10).action)
    assert open_reader(recorded).info(0).success is True
    with pytest.raises(ArgumentError, match="holds demonstrations of task 'transfer', not of --task 'insert'"):
        find_source(replace(config, data=recorded, task="insert"))


def test_an_evaluation_says_that_there_is_no_scene(foreign: TrainConfig) -> None:
    from imf_jax.evaluation.evaluated_policy import trained_task

    assert isinstance(foreign.policy.encoder, StateEncoderConfig)
    _, source = find_source(foreign)
    meta = checkpoints.CheckpointMeta(
        1, "none", 0, "newest", "", None, {}, robot=json.loads(json.dumps(source.spaces.to_json()))
    )
    with pytest.raises(ArgumentError, match="trained for a robot that has no scene here"):
        trained_task(meta.task)


def test_an_encoder_is_pre_trained_on_it(six_joints: Path, tmp_path: Path, capsys: pytest.CaptureFixture) -> None:
    model = WorldModelConfig(
        cameras=("front",), image_size=24, resolution=8, patch=4, hidden=8, layers=1, heads=2, mlp=12, embedding=6,
        projector_hidden=10, predictor_layers=1, predictor_heads=2, predictor_head_dim=4, predictor_mlp=10, history=2,
        frameskip=2, sketches=8,
    )  # fmt: skip
    config = PretrainConfig(
        data=six_joints, out=tmp_path / "run", max_steps=2, batch_size=4, save_every=2, log_every=1, model=model,
        columns=ColumnsConfig(cameras=("wrist",)), validation=HeldOutConfig(frames=12),
    )  # fmt: skip
    assert pretrain(config) == 0
    said = " ".join(capsys.readouterr().out.split())
    assert "is of robot 'so100' (6 actions, 6 states), which has no scene here (--task none)" in said
    diagnostics = json.loads((config.out / "diagnostics.json").read_text())
    assert [(probe["name"], probe["unit"]) for probe in diagnostics["probes"]] == [("observation.state", "1")]
    assert json.loads((config.out / "config.json").read_text())["task"] == "none"
    encoder = load(config.out / "encoder", fusion="row", cameras=("front",), image_size=24)
    assert encoder({"front": np.zeros((1, 24, 24, 3), np.uint8)}).shape == (1, 6)
    with pytest.raises(ArgumentError, match="names 2 cameras, but 1 are read"):
        pretrain(replace(config, out=tmp_path / "other", columns=ColumnsConfig(cameras=("wrist", "wrist"))))
