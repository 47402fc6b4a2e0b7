"""The closed loop beside what people would build without this package, all sides in turns in one process.

The peer is a gymnasium `SyncVectorEnv` or `AsyncVectorEnv` of plain MuJoCo environments of the same scene
(`imf_jax.benchmark.plain_env`) and the same head in eager PyTorch (`imf_jax.benchmark.torch_head`), which plans for all
scenes at once. All sides execute the same recorded actions in the same scenes, in free air or with the box in the
hands, and evaluate the network for every plan. The peer gets servo commands: it is spared the inverse kinematics.

Needs the extra `peers` (gymnasium, PyTorch), which the environment of `make parity` has.
"""

import multiprocessing
import statistics
import time
from collections.abc import Callable, Iterator, Sequence
from contextlib import closing, contextmanager
from dataclasses import asdict, dataclass
from functools import partial
from typing import Any, NamedTuple

import jax
import numpy as np

from imf_jax.benchmark.components import SEED, record_work
from imf_jax.benchmark.replay import actions_in_contact, replaying
from imf_jax.benchmark.rollouts import PLAN_ROWS, MeasuredPolicy, require_whole_plans, run_batches
from imf_jax.cores import usable_cores
from imf_jax.errors import UserError
from imf_jax.models.encoders.torch_names import torch_state
from imf_jax.models.networks.attnres import AttnResHead
from imf_jax.models.policy import Policy
from imf_jax.seeds import scene_keys
from imf_jax.sim.backends.native import NativeBackend
from imf_jax.sim.backends.task_scene import TaskScene
from imf_jax.sim.batching import in_blocks
from imf_jax.sim.robots.diana.model import SIDES
from imf_jax.sim.tasks import transfer

TASK = "transfer"

OURS = "imf_jax, native"

THREAD_TRIALS = 20
"""Plans whose median decides how many threads suit the peer."""


@dataclass(frozen=True)
class PeerFigures:
    """One side of the comparison.

    Attributes:
        condition: "free air" or "in contact".
        side: this package, or the peer.
        batch: scenes at once.
        steps: control steps of an episode.
        steps_per_s: control steps, median over the rounds [1/s].
        ratio: median over the rounds of (time of this side / time of imf_jax); above 1 means that imf_jax is faster.
        threads: threads of the policy.
    """

    condition: str
    side: str
    batch: int
    steps: int
    steps_per_s: float
    ratio: float
    threads: int


class Recording(NamedTuple):
    """Actions of the episodes 0 .. E - 1 in one condition.

    Attributes:
        actions: float32 (E, T, A), for the closed loop.
        commands: float32 (E, T, nu), the servo commands that follow from them.
    """

    actions: np.ndarray
    commands: np.ndarray


def require_peers() -> None:
    """Refuse to start without the packages of the peer.

    Raises:
        UserError: says which one is not installed.
    """
    try:
        import gymnasium  # noqa: F401
        import torch  # noqa: F401
    except ImportError as error:
        raise UserError(
            f"{error.name} is not installed; run `make parity` and use .venv-parity/bin/python, or install the extra: "
            "pip install 'imf_jax[peers]'"
        ) from None


def measure_peers(
    measured_policy: MeasuredPolicy,
    *,
    batch: int,
    steps: int,
    repeats: int,
    on_figures: Callable[[Sequence[PeerFigures]], None] = lambda rows: None,
) -> list[PeerFigures]:
    """Time all sides in free air, then in contact.

    Args:
        measured_policy: a policy of `transfer` without cameras.
        batch: scenes at once.
        steps: control steps of an episode, a multiple of the actions per plan.
        repeats: rounds in which the sides take turns, each with other scenes.
        on_figures: receives all rows so far after each condition.

    Raises:
        ArgumentError: `steps` does not suit.
        UserError: a package is not installed, or an episode of a side ended early.
    """
    require_peers()
    require_whole_plans(steps, measured_policy.plan_with(1), "native")
    count = batch * repeats
    backend = NativeBackend(TASK, visual="primitive")
    parts = TaskScene(TASK, "primitive")
    wandering = record_work(backend, measured_policy.plan_with(PLAN_ROWS), batch=count, steps=steps).actions
    recorded = {
        "free air": np.swapaxes(wandering, 0, 1).reshape(count, steps, -1),
        "in contact": actions_in_contact(TASK, count, steps),
    }
    scene = plain_scene(parts, count)
    rows: list[PeerFigures] = []
    with vector_envs(scene, batch) as envs:
        for condition, actions in recorded.items():
            recording = Recording(actions, servo_commands(parts, actions))
            policy = replaying(measured_policy, actions, condition)
            rows += _measure_condition(condition, policy, backend, envs, recording, batch=batch, repeats=repeats)
            on_figures(rows)
    return rows


def _measure_condition(
    condition: str,
    measured_policy: MeasuredPolicy,
    backend: NativeBackend,
    envs: dict[str, Any],
    recording: Recording,
    *,
    batch: int,
    repeats: int,
) -> list[PeerFigures]:
    steps = recording.actions.shape[1]
    policy = TorchPolicy(measured_policy.policy, batch)
    sides = {f"{name}, PyTorch": partial(run_peer, env, policy, recording.commands) for name, env in envs.items()}
    for run in sides.values():
        run(range(batch), steps=policy.num_action_steps)
    seconds: dict[str, list[float]] = {name: [] for name in sides}

    def others() -> None:
        first = batch * len(seconds[next(iter(sides))])
        for name, run in sides.items():
            start = time.perf_counter()
            run(range(first, first + batch), steps=steps)
            seconds[name].append(time.perf_counter() - start)

    planner = measured_policy.plan_with(min(batch, PLAN_ROWS))
    ours, _ = run_batches(backend, planner, batch=batch, steps=steps, batches=repeats, between=others)
    return [
        PeerFigures(
            condition,
            name,
            batch,
            steps,
            batch * steps / statistics.median(times),
            statistics.median(theirs / own for theirs, own in zip(times, ours, strict=True)),
            threads,
        )
        for name, times, threads in (
            (OURS, ours, usable_cores()),
            *((name, times, policy.threads) for name, times in seconds.items()),
        )
    ]


class TorchPolicy:
    """The head of a policy without cameras in PyTorch, with as many threads as suit it best.

    Args:
        policy: whose weights it takes.
        batch: scenes that it plans for.

    Attributes:
        obs_horizon, num_action_steps: see `PolicyConfig`.
        threads: the number of threads that it was fastest with.
    """

    def __init__(self, policy: Policy, batch: int) -> None:
        import torch

        from imf_jax.benchmark.torch_head import TorchHead

        assert isinstance(policy.head, AttnResHead)
        self.config = policy.config
        self.obs_horizon, self.num_action_steps = self.config.obs_horizon, self.config.num_action_steps
        self._head = TorchHead(asdict(self.config.head), torch_state(policy.head))
        self._torch, self._action_dim = torch, policy.spaces.action_dim
        condition = np.zeros((batch, self.obs_horizon, policy.head.condition_dim), np.float32)
        speed = {}
        for threads in sorted({*(2**power for power in range(8) if 2**power < usable_cores()), usable_cores()}):
            torch.set_num_threads(threads)
            self.plan(condition)
            speed[threads] = statistics.median(_seconds(partial(self.plan, condition)) for _ in range(THREAD_TRIALS))
        self.threads = min(speed, key=lambda threads: speed[threads])
        torch.set_num_threads(self.threads)

    def plan(self, observations: np.ndarray) -> np.ndarray:
        """Plan from observations (B, To, S + E); float32 (B, num_action_steps, A)."""
        with self._torch.inference_mode():
            noise = self._torch.randn(len(observations), self.config.pred_horizon, self._action_dim)
            chunk = self._head.plan(noise, self._torch.from_numpy(observations))
        first = self.obs_horizon - 1
        return chunk[:, first : first + self.num_action_steps].numpy()


def run_peer(
    envs: Any, policy: TorchPolicy, commands: np.ndarray, episodes: Sequence[int], *, steps: int
) -> np.ndarray:
    """Roll out one batch of episodes in lockstep; the last observations (B, S + E).

    Args:
        envs: a gymnasium vector environment of B `PlainEnv`.
        policy: plans every `num_action_steps` control steps.
        commands: float32 (E, T, nu) executed servo commands.
        episodes: B consecutive episodes.
        steps: control steps.

    Raises:
        UserError: an episode ended early, or a plan is not finite.
    """
    observation, _ = envs.reset(seed=list(episodes))
    history = [observation.copy()] * policy.obs_horizon
    batch = commands[episodes[0] : episodes[-1] + 1]
    for step in range(steps):
        if step % policy.num_action_steps == 0 and not np.isfinite(policy.plan(np.stack(history, axis=1))).all():
            raise UserError("a plan of the PyTorch policy is not finite, so the sides do not do the same work")
        observation, _, ended, _, _ = envs.step(batch[:, step])
        if ended.any():
            raise UserError(f"an episode of the peer ended after {step + 1} of {steps} control steps; choose fewer")
        history = [*history[1:], observation.copy()]
    return observation


@contextmanager
def vector_envs(scene: Any, batch: int) -> Iterator[dict[str, Any]]:
    """The peer's vector environments by their names: `batch` scenes in this process, and a process for each of them."""
    from gymnasium.vector import AsyncVectorEnv, SyncVectorEnv

    from imf_jax.benchmark import plain_env

    make = [partial(plain_env.PlainEnv, scene)] * batch
    # Workers come from a server without JAX, whose threads do not survive a fork, and share what it has imported.
    multiprocessing.get_context("forkserver").set_forkserver_preload([plain_env.__name__])
    with (
        closing(SyncVectorEnv(make, copy=False)) as sync,
        closing(AsyncVectorEnv(make, copy=False, context="forkserver")) as parallel,
    ):
        yield {"SyncVectorEnv": sync, "AsyncVectorEnv": parallel}


def plain_scene(parts: TaskScene, count: int) -> Any:
    """What the plain environments of the transfer share, with the starts of the episodes 0 .. count - 1."""
    from imf_jax.benchmark.plain_env import PlainScene

    model = parts.model
    joints, objects = _starts(parts, count)
    return PlainScene(
        model=model,
        qpos=np.asarray(parts.start_qpos(joints, objects), np.float64),
        ctrl=np.asarray(parts.controls(joints, parts.start_grippers(joints)), np.float64),
        substeps=parts.task.substeps,
        arms=np.array([[model.joint(f"{side}_j{i + 1}").qposadr[0] for i in range(7)] for side in SIDES]),
        fingers=np.array([[model.joint(f"{side}_finger{i}").qposadr[0] for i in (1, 2)] for side in SIDES]),
        box=int(model.joint("box_joint").qposadr[0]),
        touch=np.array([[model.sensor(f"touch|box|{side}_finger{i}|box").adr[0] for i in (1, 2)] for side in SIDES]),
        lifted_z=transfer.BOX_HALF_SIZE[2] + transfer.LIFT_HEIGHT,
        hold_steps=transfer.HOLD_STEPS,
        workspace=transfer.WORKSPACE,
    )


def servo_commands(parts: TaskScene, actions: np.ndarray) -> np.ndarray:
    """Servo commands (E, T, nu) of actions (E, T, A) from the starts of the episodes 0 .. E - 1."""
    joints, _ = _starts(parts, len(actions))
    targets, grippers, _ = in_blocks(jax.jit(parts.targets), joints, actions)
    flat = [values.reshape(-1, values.shape[-1]) for values in (targets, grippers)]
    return np.asarray(parts.controls(*flat), np.float32).reshape(*actions.shape[:2], -1)


def _starts(parts: TaskScene, count: int) -> tuple[np.ndarray, np.ndarray]:
    joints, objects = jax.jit(jax.vmap(parts.sample))(scene_keys(SEED, range(count)))
    return np.asarray(joints), np.asarray(objects)


def _seconds(call: Callable[[], Any]) -> float:
    start = time.perf_counter()
    call()
    return time.perf_counter() - start
