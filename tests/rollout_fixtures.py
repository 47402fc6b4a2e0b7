"""A tiny analytic simulator and planners for it: what is tested here is the loop, not the physics."""

import runpy
import sys
from collections.abc import Callable, Iterator
from importlib.metadata import EntryPoint
from pathlib import Path
from types import SimpleNamespace
from typing import Any, NamedTuple

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from point_world import PointTask, Straight
from transfer_task import SPACES

from imf_jax.checkpoints import CheckpointMeta
from imf_jax.config import AttnResConfig, PolicyConfig, TrainConfig
from imf_jax.models.policy import build_policy
from imf_jax.rollout.engine import Rollout
from imf_jax.rollout.episode import EpisodeRecord
from imf_jax.rollout.planner import ProgramPlanner
from imf_jax.sim.backends.base import SimState, StepOutput
from imf_jax.sim.tasks import get_task, registry
from imf_jax.sim.tasks.transfer import Transfer
from imf_jax.training.saved_state import save_checkpoint
from imf_jax.training.state import initial_state

MAX_STEPS = 40
TINY = PolicyConfig(head=AttnResConfig(n_emb=16, n_layer=1, n_head=2, n_kv_head=1))
SCRIPTS = Path(__file__).resolve().parents[1] / "scripts"


class NearTask(PointTask):
    """The same with one stage and its own length."""

    max_steps = MAX_STEPS
    stages = ("near",)


class PointBackend:
    """The left end effector goes to the commanded position at once; it succeeds within 5 cm of its target.

    A command above x = 10 m diverges, one above x = 5 m loses the object. Physics: float64 (B, 6) position, target.
    """

    name = "native"
    compiled = False
    image_size = 32
    cameras = NearTask.cameras
    control_dt = 0.02
    task = NearTask()
    model = SimpleNamespace(nq=6)
    renderer, visual = "warp", "mesh"

    def __init__(self) -> None:
        self.batch_sizes: list[int] = []

    def reset(self, keys: np.ndarray) -> tuple[SimState, StepOutput]:
        target = np.array([np.random.default_rng(np.asarray(key)).uniform(0.2, 1.0, 3) for key in keys])
        physics = np.concatenate([np.zeros_like(target), target], axis=1)
        count = len(keys)
        state = SimState(physics, np.zeros((count, 14), np.float32), {}, np.zeros(count, np.int32))
        return state, self._read(physics, np.ones(count, bool))

    def step(self, state: SimState, action: np.ndarray) -> tuple[SimState, StepOutput]:
        self.batch_sizes.append(len(action))
        finite = action[:, 0] < 10
        position = np.where(finite[:, None], action[:, :3], state.physics[:, :3])
        physics = np.concatenate([position, state.physics[:, 3:]], axis=1)
        return state._replace(physics=physics, step=state.step + 1), self._read(physics, finite)

    def render(self, qpos: np.ndarray, cameras: tuple[str, ...]) -> np.ndarray:
        """A picture whose colour says where the end effector is."""
        colour = (255 * np.clip(qpos[:, None, None, None, :3], 0, 1)).astype(np.uint8)
        return np.broadcast_to(colour, (len(colour), len(cameras), 32, 32, 3)).copy()

    def bytes_per_scene(self, cameras: tuple[str, ...]) -> int:
        return 1000

    def _read(self, physics: np.ndarray, finite: np.ndarray) -> StepOutput:
        position, target = physics[:, :3], physics[:, 3:]
        distance = np.linalg.norm(position - target, axis=1)
        count = len(physics)
        pose = np.zeros((count, 2, 7), np.float32)
        pose[:, 0, :3] = position
        pose[:, :, 3] = 1
        state = np.zeros((count, 16), np.float32)
        state[:, :3] = position
        return StepOutput(
            state=state,
            env_state=target.astype(np.float32),
            end_effector=pose,
            reward=np.exp(-distance).astype(np.float32),
            stage=np.zeros(count, np.int32),
            success=distance < 0.05,
            failure=position[:, 0] > 5,
            finite=finite,
            ik_error=np.zeros((count, 2), np.float32),
            qpos=physics.astype(np.float32),
            overflow=position[:, 1] > 5,
        )


class ChunkBackend(PointBackend):
    """The same with the fast path."""

    def run_chunk(self, state: SimState, actions: np.ndarray) -> tuple[SimState, StepOutput]:
        outputs = []
        for k in range(actions.shape[1]):
            state, output = self.step(state, actions[:, k])
            outputs.append(output)
        return state, jax.tree.map(lambda *leaves: np.stack(leaves, axis=1), *outputs)


class StraightPlanner(ProgramPlanner):
    """Goes towards the target at a speed that depends on the episode; `faults` replaces x of chosen episodes."""

    def __init__(self, faults: dict[int, float] | None = None) -> None:
        super().__init__(Straight(), (), rows=4)
        self.faults = faults or {}
        self.seen: dict[int, list[np.ndarray]] = {}

    def plan(
        self, observations: Any, output: StepOutput, seed: int, episodes: np.ndarray, replans: np.ndarray
    ) -> np.ndarray:
        actions = np.zeros((len(episodes), self.num_action_steps, 16), np.float32)
        for row, (episode, replan) in enumerate(zip(episodes.tolist(), replans.tolist(), strict=True)):
            self.seen.setdefault(episode, []).append(observations["state"][row, :, 0].copy())
            here, target = observations["state"][row, -1, :3], observations["env_state"][row, -1]
            speed = 0.0 if episode % 7 == 5 else 0.03 + 0.01 * (episode % 5)
            gap = target - here
            length = np.linalg.norm(gap)
            for k in range(self.num_action_steps):
                actions[row, k, :3] = here + gap * min(1.0, speed * (k + 1) / length)
            if episode in self.faults and replan == 2:
                actions[row, 1, 0] = self.faults[episode]
        return actions

    def notes(self, episodes: np.ndarray) -> dict[str, np.ndarray]:
        return {}


@pytest.fixture
def point_backend() -> PointBackend:
    return PointBackend()


@pytest.fixture
def chunk_backend() -> ChunkBackend:
    return ChunkBackend()


@pytest.fixture
def straight_planner() -> Callable[..., StraightPlanner]:
    return StraightPlanner


@pytest.fixture
def roll() -> Callable[..., dict[int, EpisodeRecord]]:
    """Run a rollout and return its records by episode."""

    def run(backend: Any, planner: Any, episodes: Any = range(10), **options: Any) -> dict[int, EpisodeRecord]:
        records: list[EpisodeRecord] = []
        settings = {"seed": 0, "max_steps": MAX_STEPS, "num_envs": 4} | options
        result = Rollout(backend, planner, list(episodes), on_record=records.append, **settings).run()
        assert result.control_steps == sum(record.steps for record in records)
        assert not result.capture_errors
        assert len({record.episode for record in records}) == len(records)
        return {record.episode: record for record in records}

    return run


@pytest.fixture(scope="session")
def write_run() -> Callable[..., Path]:
    """Write a run folder with checkpoints of a tiny untrained policy for `transfer`."""

    def write(folder: Path, *, sizes: PolicyConfig = TINY, steps: tuple[int, ...] = (1,)) -> Path:
        config = TrainConfig(policy=sizes)
        policy = build_policy(config, SPACES, 7)
        reach = np.tile([0.5, 0.3, 0.3, 1, 0.1, 0.1, 0.1, 0.05], 2)
        widths = {"action": reach, "qpos": np.ones(16), "env_state": np.ones(7)}
        policy.set_statistics({name: {"min": -w, "max": w, "mean": 0 * w, "std": w} for name, w in widths.items()})
        state, frozen = initial_state(policy, config)
        for step in steps:
            meta = CheckpointMeta(step, "transfer", 7, "average", "00", None, {}, robot=SPACES.to_json())
            save_checkpoint(folder, state._replace(step=jnp.int32(step)), frozen, config, meta)
        return folder

    return write


@pytest.fixture
def install_task(monkeypatch: pytest.MonkeyPatch) -> Iterator[Callable[[str, str], None]]:
    """Let an installed package offer a task: its name and its class, "module:Class"."""
    get_task.cache_clear()

    def install(name: str, reference: str) -> None:
        point = EntryPoint(name, reference, registry.GROUP)
        monkeypatch.setattr(registry, "_entry_points", lambda: {name: point})

    yield install
    get_task.cache_clear()


class ScriptRun(NamedTuple):
    """What a script left: its exit code and what it said."""

    code: int
    out: str
    err: str


@pytest.fixture
def script(capsys: pytest.CaptureFixture, monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> Callable[..., ScriptRun]:
    """Run a script as a command line would, in an empty folder, with episodes of 20 steps."""
    monkeypatch.chdir(tmp_path)
    monkeypatch.setattr(Transfer, "max_steps", 20)

    def run(name: str, *arguments: object) -> ScriptRun:
        monkeypatch.setattr(sys, "argv", [name, *map(str, arguments)])
        with pytest.raises(SystemExit) as stopped:
            runpy.run_path(str(SCRIPTS / name), run_name="__main__")
        output = capsys.readouterr()
        return ScriptRun(stopped.value.code, output.out, output.err)

    return run
