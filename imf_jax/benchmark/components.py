"""Parts of a closed loop, timed one at a time: physics, rendering and planning on their own.

Each part repeats exactly what it did in one recorded batch of the loop: the same actions from the same scenes, the
frames that plans read and no others, plans of the same batch. The sum of the parts bounds what any loop around them
can reach on a machine that does one after the other.

- physics: control steps of the backend, that is inverse kinematics, servo commands, physics steps and the reading of
  the scene with the task's outcome; no reset.
- rendering: all cameras, at the start and at the newest `obs_horizon` moments before every other plan.
- planning: noise, normalisation, vision encoder, network, with inputs that are ready.
"""

from collections.abc import Callable
from functools import partial
from typing import Any, NamedTuple

import jax
import jax.numpy as jnp
import numpy as np
from typing_extensions import override

from imf_jax import seeds
from imf_jax.config import require
from imf_jax.evaluation.setup import make_rollout
from imf_jax.rollout.episode import EpisodeRecord
from imf_jax.rollout.planner import PolicyPlanner
from imf_jax.rollout.recorders.base import Recorder, ResetBatch, StepBatch
from imf_jax.seeds import scene_keys
from imf_jax.sim.backends.base import SimState, StepOutput
from imf_jax.sim.backends.mjx_base import Constants, DeviceBackend

SEED = 0


class Work(NamedTuple):
    """Work of one batch of B episodes: R plans of K control steps.

    Attributes:
        actions: float32 (R, B, K, A) commanded actions.
        frames: float32 (B, nq) generalised positions at the start, then R - 1 times (B, To, nq) (or (B, K, nq) if K is
            smaller) of the moments that the next plan reads; empty without cameras.
        observations: what each of the R plans reads, without pictures.
    """

    actions: np.ndarray
    frames: tuple[np.ndarray, ...]
    observations: tuple[dict[str, np.ndarray], ...]


class Notes(Recorder):
    """A capture that keeps everything in memory. A batch with missing rows is detected by their number."""

    name = "benchmark"

    def __init__(self) -> None:
        self.starts: dict[int, StepOutput] = {}
        self.chunks: dict[int, list[tuple[np.ndarray, StepOutput]]] = {}

    @override
    def bytes_per_episode(self, max_steps: int) -> int:
        """Some hundred numbers per step."""
        return 1000 * max_steps

    @override
    def on_reset(self, reset: ResetBatch) -> None:
        """Keep the starts. Recorders get a few scenes at a time, so everything is kept by its episode."""
        for row, episode in enumerate(reset.episodes.tolist()):
            self.starts[episode] = jax.tree.map(lambda leaf, row=row: leaf[row], reset.output)
            self.chunks[episode] = []

    @override
    def on_steps(self, steps: StepBatch) -> None:
        """Keep the chunks."""
        for row, episode in enumerate(steps.episodes.tolist()):
            self.chunks[episode].append(jax.tree.map(lambda leaf, row=row: leaf[row], (steps.actions, steps.output)))


def record_work(backend: Any, planner: PolicyPlanner, *, batch: int, steps: int) -> Work:
    """Roll out one batch of episodes 0 .. batch - 1 and record its work.

    Args:
        backend: the simulator.
        planner: what plans.
        batch: scenes B.
        steps: control steps of an episode, a multiple of the actions per plan.
    """
    notes = Notes()
    records: list[EpisodeRecord] = []
    make_rollout(
        backend,
        planner,
        range(batch),
        devices=jax.local_devices()[:1],
        seed=SEED,
        max_steps=steps,
        num_envs=batch,
        on_record=records.append,
        recorders=[notes],
    ).run()
    require_full_length(records, steps)
    together = partial(jax.tree.map, lambda *leaves: np.stack(leaves))
    first = together(*(notes.starts[episode] for episode in range(batch)))
    chunks = [together(*plans) for plans in zip(*(notes.chunks[episode] for episode in range(batch)), strict=True)]
    horizon = planner.obs_horizon
    seen = {
        name: [np.repeat(getattr(first, name)[:, None], horizon, axis=1)]
        + [getattr(output, name) for _, output in chunks]
        for name in ("state", "env_state")
    }
    past = {name: np.concatenate(parts, axis=1) for name, parts in seen.items()}
    length = planner.num_action_steps
    observations = tuple(
        {name: values[:, plan * length : plan * length + horizon] for name, values in past.items()}
        for plan in range(len(chunks))
    )
    frames: tuple[np.ndarray, ...] = ()
    if planner.cameras:
        later = (output.qpos[:, -horizon:] for _, output in chunks[:-1])
        frames = (np.asarray(first.qpos), *later)
    return Work(np.stack([actions for actions, _ in chunks]), frames, observations)


def require_full_length(records: list[EpisodeRecord], steps: int) -> None:
    """Refuse to compare batches in which an episode ended early: the sides would not do the same work.

    Raises:
        ArgumentError: names the episode.
    """
    for record in records:
        require(
            record.steps == steps,
            f"episode {record.episode} ended as {record.status} after {record.steps} of {steps} control steps, so the "
            "sides would not do the same work; choose fewer --steps",
        )


def bare_physics(backend: Any, work: Work) -> Callable[[], Any]:
    """The control steps of `work` on their own; the call returns when the last one is done."""
    count = work.actions.shape[1]
    keys = np.asarray(seeds.key_data(scene_keys(SEED, range(count))))
    if not backend.compiled:
        start, _ = backend.reset(keys)

        def simulate() -> SimState:
            state = start
            for actions in work.actions:
                state, _ = backend.run_chunk(state, actions)
            return state

        return simulate
    program = jax.jit(partial(_compiled_steps, backend))
    state, output = backend.reset(keys)
    by_step = np.swapaxes(work.actions, 1, 2).reshape(-1, count, work.actions.shape[-1])
    arguments = jax.device_put((backend.constants(count), state, output, by_step))
    return lambda: jax.block_until_ready(program(*arguments))


def _compiled_steps(
    backend: DeviceBackend, constants: Constants, state: SimState, output: StepOutput, actions: jax.Array
) -> tuple[SimState, StepOutput]:
    """Control steps under `actions` (steps, B, A) as one scan; the output is returned so that it is computed."""

    def step(
        carry: tuple[Any, SimState, StepOutput], action: jax.Array
    ) -> tuple[tuple[Any, SimState, StepOutput], None]:
        return backend.advance(constants, *carry[:2], action), None

    data = backend.allocate(constants, actions.shape[1])
    return jax.lax.scan(step, (data, state, output), actions)[0][1:]


def bare_rendering(backend: Any, planner: PolicyPlanner, work: Work) -> Callable[[], Any]:
    """The frames of `work` on their own; the call returns when the last one is there."""
    cameras = planner.cameras
    if not backend.compiled:

        def render() -> list[np.ndarray]:
            return [backend.render(qpos.reshape(-1, qpos.shape[-1]), cameras) for qpos in work.frames]

        return render
    first, *later = work.frames
    moments = [first, *(qpos[:, moment] for qpos in later for moment in range(qpos.shape[1]))]

    shape = first.shape[0], len(cameras), backend.image_size, backend.image_size, 3

    def trace(constants: Constants, moments: jax.Array) -> jax.Array:
        data = backend.allocate(constants, moments.shape[1])

        def one(_: jax.Array, qpos: jax.Array) -> tuple[jax.Array, None]:
            return backend.pictures(constants, data, qpos, cameras), None

        return jax.lax.scan(one, jnp.zeros(shape, jnp.uint8), moments)[0]

    program = jax.jit(trace)
    arguments = jax.device_put((backend.constants(len(first)), np.stack(moments)))
    return lambda: jax.block_until_ready(program(*arguments))


def bare_planning(backend: Any, planner: PolicyPlanner, work: Work) -> Callable[[], Any]:
    """The plans of `work` on their own; the call returns when the last one is there.

    Pictures are random: what a plan costs does not depend on them.
    """
    count = work.actions.shape[1]
    rows = count if backend.compiled else planner.rows
    blocks = [np.arange(first, first + rows) % count for first in range(0, count, rows)]
    pictures = {}
    if planner.cameras:
        size = planner.image_size
        shape = rows, planner.obs_horizon, len(planner.cameras), size, size, 3
        pictures["images"] = np.random.default_rng(0).integers(0, 256, shape, np.uint8)
    pictures = jax.device_put(pictures)
    calls = [
        jax.device_put(
            (
                {name: values[block] for name, values in observations.items()},
                block.astype(np.uint32),
                np.full(rows, plan, np.uint32),
            )
        )
        for plan, observations in enumerate(work.observations)
        for block in blocks
    ]
    # A GPU works off what is dispatched in order; a CPU could plan several at once, which no closed loop can.
    one_by_one = jax.default_backend() == "cpu"

    def plan() -> Any:
        actions = None
        for observations, episodes, replans in calls:
            actions, _ = planner.plan_rows((), observations | pictures, None, np.uint32(SEED), episodes, replans)
            if one_by_one:
                actions.block_until_ready()
        return jax.block_until_ready(actions)

    return plan
