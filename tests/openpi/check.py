"""Serve two policies, and let the real openpi-client of another environment drive them.

One is untrained and for a robot with a scene here: chunks are compared to the bit. The other one learns from a LeRobot
dataset of a robot that has none, all through the commands that a user types: its chunks lead where its camera says.

python tests/openpi/check.py PYTHON      # what `make serve-check` runs; PYTHON has openpi-client and pytest
"""

import os
import re
import signal
import subprocess
import sys
import tempfile
from pathlib import Path

import jax.numpy as jnp
import numpy as np
import six_joints

from imf_jax.checkpoints import CheckpointMeta
from imf_jax.config import ServeConfig, TrainConfig
from imf_jax.config.networks import AttnResConfig
from imf_jax.config.policy import PolicyConfig
from imf_jax.jax_settings import pin_settings, set_precision
from imf_jax.models.policy import build_policy
from imf_jax.serving.observations import PlanRequest
from imf_jax.serving.policy import load_served
from imf_jax.sim.tasks import get_task
from imf_jax.training.saved_state import save_checkpoint
from imf_jax.training.state import initial_state

REPOSITORY = Path(__file__).resolve().parents[2]
TOKEN = "for-this-check-only"


def write_run(run: Path) -> None:
    """A run folder with a checkpoint of a tiny policy that was never trained."""
    task = get_task("transfer")
    config = TrainConfig(policy=PolicyConfig(head=AttnResConfig(n_emb=16, n_layer=1, n_head=2, n_kv_head=1)))
    policy = build_policy(config, task.robot.spaces, task.env_state_dim)
    widths = {"action": 16, "qpos": 16, "env_state": task.env_state_dim}
    ones = {name: np.ones(width) for name, width in widths.items()}
    policy.set_statistics({name: {"min": -one, "max": one, "mean": 0 * one, "std": one} for name, one in ones.items()})
    state, frozen = initial_state(policy, config)
    robot = task.robot.spaces.to_json()
    meta = CheckpointMeta(1, "transfer", task.env_state_dim, "average", "00", None, {}, robot=robot)
    save_checkpoint(run, state._replace(step=jnp.int32(1)), frozen, config, meta)


def write_expected(run: Path, path: Path) -> None:
    """An observation, its keys, and the chunk that the policy plans without a server."""
    pin_settings()
    set_precision("highest")
    rng = np.random.default_rng(0)
    seen = {
        "state": rng.normal(size=(2, 16)).astype(np.float32),
        "env_state": rng.normal(size=(2, 7)).astype(np.float32),
    }
    (chunk,) = load_served(ServeConfig(run)).plan([PlanRequest(seen, 3, 14, 2)])
    np.savez(path, actions=chunk, **seen)


def train_other_robot(there: Path) -> Path:
    """Train on a LeRobot dataset of a robot of six joints, which is written first; the run folder."""
    data, run = there / "so100", there / "run-so100"
    six_joints.write_dataset(data)
    arguments = (
        "resnet-small --policy.encoder.cameras wrist --policy.encoder.image-size 48 --policy.encoder.crop-size 48 "
        "--policy.encoder.keypoints 8 --policy.head.n-emb 64 --policy.head.n-layer 2 --policy.obs-horizon 1 "
        "--policy.objective.prediction data --max-steps 1000 --save-every 1000 --validation.every 1000 "
        "--optimizer.warmup-steps 50"
    )
    command = [sys.executable, REPOSITORY / "scripts/train.py", *arguments.split(), "--data", data, "--out", run]
    subprocess.run(command, check=True)
    return run


def drive(python: str, run: Path, tests: str, expected: Path) -> int:
    """Serve a run, let the client's tests drive it, stop; the exit code of the tests."""
    token = run.parent / "token"
    token.write_text(TOKEN + "\n")
    command = [sys.executable, REPOSITORY / "scripts/serve.py", "--checkpoint", run, "--port", "0"]
    server = subprocess.Popen([*command, "--token-file", token], stdout=subprocess.PIPE, text=True)
    assert server.stdout is not None
    found = next((match for line in server.stdout if (match := re.search(r"ready: (ws://\S+)", line))), None)
    if found is None:
        return server.wait() or 1
    environment = os.environ | {"OPENPI_SERVER": found[1], "OPENPI_TOKEN": TOKEN, "OPENPI_EXPECTED": str(expected)}
    environment.pop("PYTHONPATH", None)
    options = ["-o", "addopts=-q", "-o", "filterwarnings=default", "--confcutdir=tests/openpi", "-rs"]
    done = subprocess.run(
        [python, "-m", "pytest", f"tests/openpi/{tests}", *options], cwd=REPOSITORY, env=environment, check=False
    )
    server.send_signal(signal.SIGTERM)
    print(server.communicate(timeout=60)[0])
    return done.returncode or server.returncode


def main() -> int:
    """The exit code of the first tests that fail, or 0."""
    python = sys.argv[1]
    with tempfile.TemporaryDirectory(prefix="imf_jax_serve_") as folder:
        there = Path(folder)
        run, expected = there / "run", there / "expected.npz"
        write_run(run)
        write_expected(run, expected)
        code = drive(python, run, "test_openpi_client.py", expected)
        if code == 0:
            unseen = there / "unseen.npz"
            six_joints.write_expected(unseen)
            code = drive(python, train_other_robot(there), "test_other_robot.py", unseen)
        return code


if __name__ == "__main__":
    sys.exit(main())
