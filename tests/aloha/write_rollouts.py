"""Roll out the experts of both ALOHA tasks here, for `test_gym_aloha.py`. Run: python write_rollouts.py FOLDER"""

import sys
from pathlib import Path

import jax
import numpy as np

from imf_jax.seeds import scene_keys
from imf_jax.sim.backends.native import NativeBackend
from imf_jax.sim.tasks import get_expert

EPISODES, STEPS = 10, 300


def write(task: str, folder: Path) -> None:
    backend, expert = NativeBackend(task), get_expert(task)
    state, output = backend.reset(scene_keys(0, range(EPISODES)))
    start = np.asarray(output.env_state)
    memory, act = expert.start(output), jax.jit(expert.act)
    actions, states, rewards = [], [], []
    for _ in range(STEPS):
        memory, action = act(memory, output)
        actions.append(np.asarray(action, np.float32))
        state, output = backend.step(state, actions[-1])
        states.append(np.asarray(output.state))
        rewards.append(np.asarray(output.reward))
    arrays = {"objects": start, "actions": actions, "states": states, "rewards": rewards}
    np.savez(folder / f"{task}.npz", **{name: np.asarray(array) for name, array in arrays.items()})


if __name__ == "__main__":
    for task in ("aloha-transfer", "aloha-insertion"):
        write(task, Path(sys.argv[1]))
