"""The real `lerobot-eval` evaluates an untrained ACT in our scenes; run by `make lerobot-check`."""

import json
import os
import subprocess
import sys
from pathlib import Path

import pytest

pytest.importorskip("lerobot", reason="needs the package lerobot; run make lerobot-check")
import av

REPOSITORY = Path(__file__).parents[2]
COMMIT = "0123456789abcdef0123456789abcdef01234567"


def evaluated(out: Path, *arguments: str, hub: Path | None = None) -> dict:
    """What `lerobot-eval` writes about two episodes."""
    command = [
        str(Path(sys.executable).parent / "lerobot-eval"), "--env.discover_packages_path=imf_jax.envs.lerobot",
        "--env.type=imf_jax", "--policy.type=act", "--policy.device=cpu", "--policy.push_to_hub=false",
        "--policy.pretrained_backbone_weights=null", "--seed=3", "--eval.n_episodes=2", "--eval.batch_size=2",
        "--eval.use_async_envs=false", f"--output_dir={out}", *arguments,
    ]  # fmt: skip
    environment = {**os.environ, "HF_HUB_OFFLINE": "1", "JAX_PLATFORMS": "cpu"}
    if hub is not None:
        environment["HF_HOME"] = str(hub)
    done = subprocess.run(command, capture_output=True, text=True, env=environment, check=False)
    assert done.returncode == 0, done.stderr[-3000:]
    return json.loads((out / "eval_info.json").read_text())


def require_videos(info: dict, steps: int, size: int) -> None:
    videos = info["overall"]["video_paths"]
    assert len(videos) == 2
    for video in videos:
        with av.open(video) as container:
            frames = list(container.decode(video=0))
        assert len(frames) == steps
        assert (frames[0].width, frames[0].height) == (size, size)
        assert frames[0].to_ndarray(format="rgb24").std() > 10


@pytest.mark.parametrize(("task", "camera"), [("transfer", "front"), ("aloha-transfer", "top")])
def test_an_untrained_policy_is_evaluated(tmp_path, task, camera):
    info = evaluated(
        tmp_path / "out",
        f"--env.task={task}",
        f"--env.cameras=[{camera}]",
        "--env.image_size=64",
        "--env.episode_length=30",
    )
    metrics = info["per_task"][0]["metrics"]
    assert info["per_task"][0]["task_group"] == "imf_jax"
    assert (metrics["successes"], len(metrics["sum_rewards"])) == ([False, False], 2)
    require_videos(info, steps=30, size=64)


def test_an_environment_of_the_hub_is_evaluated(tmp_path):
    """From its cache, which holds what a download of a repository with our `env.py` leaves there."""
    repository = tmp_path / "hub" / "models--local--scenes"
    snapshot = repository / "snapshots" / COMMIT
    snapshot.mkdir(parents=True)
    (repository / "refs").mkdir()
    (repository / "refs" / "main").write_text(COMMIT)
    text = (REPOSITORY / "examples" / "envhub" / "env.py").read_text()
    shorter = text.replace('"image_size": 128,', '"image_size": 64,\n    "max_episode_steps": 30,')
    assert shorter != text
    (snapshot / "env.py").write_text(shorter)
    info = evaluated(
        tmp_path / "out", "--env.hub_path=local/scenes", "--trust_remote_code=true", "--env.cameras=[top,front]",
        "--env.image_size=64", hub=tmp_path,
    )  # fmt: skip
    assert info["per_task"][0]["task_group"] == "hub_env"
    require_videos(info, steps=30, size=64)
