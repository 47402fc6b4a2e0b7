"""Rollout validation with the real simulator, shortened episodes and a stand-in for the camera."""

import json
from dataclasses import replace
from types import SimpleNamespace

import numpy as np
import pytest
from transfer_task import SPACES

from imf_jax.config import ValidationConfig
from imf_jax.models.policy import build_policy
from imf_jax.rollout.recorders import path_image
from imf_jax.rollout.recorders.path_image import RenderedScene
from imf_jax.seeds import split_seed
from imf_jax.sim.rendering.camera import camera_view
from imf_jax.training import validation


@pytest.fixture
def validate(config, monkeypatch):
    class Camera:
        def __init__(self, model, camera):
            self.model, self.camera = model, camera

        def __call__(self, qpos):
            views = [camera_view(self.model, scene, self.camera, 64, 64) for scene in qpos]
            black, far = np.zeros((64, 64, 3), np.uint8), np.full((64, 64), 9.0, np.float32)
            return [RenderedScene(black, far, view) for view in views]

    monkeypatch.setattr(path_image, "SceneRenderer", Camera)
    config = replace(config, validation=ValidationConfig(num_episodes=3, num_images=2))

    def build(**options):
        made = validation.RolloutValidation(config, **options)
        made._backend.task.max_steps = 16
        return made

    return SimpleNamespace(build=build, policy=build_policy(config, SPACES, 7), out=config.out)


def test_leaves_records_and_pictures_of_validation_scenes(validate):
    figures, images = validate.build()(validate.policy, 20)
    assert {"success": 0.0, "n_success": 0, "n_episodes": 3, "n_error": 0}.items() <= figures.items()
    folder = validate.out / "validation" / "step_20"
    assert sorted(path.parent.name for path in folder.rglob("trajectory.png")) == ["ep_000000", "ep_000001"]
    assert images == tuple(folder / "episodes" / name / "trajectory.png" for name in ("ep_000000", "ep_000001"))
    assert not list(folder.rglob("*.mp4"))
    records = [json.loads(line) for line in (folder / "episodes.jsonl").read_text().splitlines()]
    assert len(records) == 3
    assert {record["seed"] for record in records} == {split_seed("validation", 0)}
    again = validate.build()(validate.policy, 40).figures
    assert again | {"wall_s": 0} == figures | {"wall_s": 0}


def test_gives_nothing_when_asked_to_stop(validate):
    assert validate.build(should_stop=lambda: True)(validate.policy, 20) is None
    metrics = json.loads((validate.out / "validation" / "step_20" / "metrics.json").read_text())
    assert metrics["interrupted"]


def test_line_names_errors():
    figures = {"success": 0.5, "n_success": 2, "n_episodes": 4, "n_error": 1, "return": 3.25}
    assert validation.validation_line(figures) == "2/4 = 50 % success, mean return 3.2, 1 ended in an error"
