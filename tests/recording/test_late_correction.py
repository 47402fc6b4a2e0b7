"""Corrections of a policy whose plans come late: what it planned for steps in which the expert acts never happened."""

from dataclasses import dataclass
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from point_world import MAX_STEPS, PointBackend
from transfer_task import SPACES

from imf_jax.recording.correction import CorrectedPlanner, CorrectedProgram, InterventionRules
from imf_jax.rollout.delay import DelayedProgram, DelayedWeights
from imf_jax.rollout.plan_program import ChunkProgram
from imf_jax.rollout.planner import ProgramPlanner
from imf_jax.seeds import scene_keys
from imf_jax.spaces import RobotSpaces

pytestmark = pytest.mark.usefixtures("point_expert")

EVERY = 4
HORIZON = 8
RULES = InterventionRules(beta=0.5, correction_steps=7)


@dataclass(frozen=True)
class Marked(ChunkProgram):
    """A policy whose actions say where they are from: x is 1 % of the plan's number plus a tenth of its place in the
    chunk, y how many actions the plan was given. All are far from every target, and grip what is not measured."""

    pred_horizon: int = HORIZON
    spaces: RobotSpaces = SPACES
    obs_horizon: int = 2
    delay_training: int = 0
    keep_chunks: bool = False
    cameras: tuple[str, ...] = ()

    def chunk(
        self, weights: Any, observations: Any, seed: Any, episodes: Any, plans: Any, prefix: Any, **others: Any
    ) -> jax.Array:
        place = jnp.arange(self.pred_horizon) / 10
        x = (plans[:, None] + place) / 100
        given = 0 * x if prefix is None else prefix.is_given.sum(axis=1, keepdims=True) + 0 * x
        return (
            jnp.zeros((*x.shape, 16))
            .at[..., 0]
            .set(x)
            .at[..., 1]
            .set(given)
            .at[..., [3, 11]]
            .set(1)
            .at[..., [7, 15]]
            .set(0.03)
        )

    def bytes_per_scene(self) -> int:
        return 1000


def late(delay: int, *, prefix: bool = False, policy: Any = None) -> ProgramPlanner:
    program = DelayedProgram(policy or Marked(), EVERY, prefix=prefix)
    return ProgramPlanner(program, DelayedWeights(None, np.int32(delay)), 4)


@pytest.mark.parametrize("compiled", [False, True])
@pytest.mark.parametrize(("delay", "prefix"), [(2, False), (2, True), (6, False)])
def test_after_a_correction_the_hands_rest_until_a_plan_made_since_then_takes_over(
    roll: Any, listener: Any, compiled: bool, delay: int, prefix: bool
) -> None:
    planner = CorrectedPlanner(late(delay, prefix=prefix), "point", RULES)
    roll(listener, compiled=compiled, planner=planner, episodes=range(20))
    resumed = 0
    for scene in range(20):
        frames = [frame for frame in listener.frames if frame.scene == scene]
        by_expert = np.array([frame.intervention for frame in frames])
        actions = np.array([frame.action for frame in frames])
        # The last action of the expert, a pause, then the policy.
        for start in [k + 2 for k in np.flatnonzero(by_expert[:-3]) if not by_expert[k + 1 : k + 3].any()]:
            later = np.flatnonzero(by_expert[start:])
            end = start + later[0] - 1 if len(later) else len(frames)  # before the next pause
            if end - start <= delay:
                np.testing.assert_array_equal(actions[start:end], actions[[start - 1] * (end - start)])
                continue
            resumed += 1
            np.testing.assert_array_equal(actions[start : start + delay], actions[[start - 1] * delay])
            first_plan = int(np.floor(100 * actions[start + delay, 0] + 1e-3))
            for step in range(delay, end - start):
                number = (step - delay) // EVERY
                place = min(1 + step - number * EVERY, 7)
                if number * EVERY < delay:  # the hands have rested: what is planned first begins when it comes
                    number, place = 0, min(1 + step - delay, 7)
                assert actions[start + step, 0] == pytest.approx((first_plan + number + place / 10) / 100)
                assert actions[start + step, 1] == (delay + 1 if prefix and number else 0)
    assert resumed >= 5


def test_a_policy_is_told_no_action_that_is_not_executed() -> None:
    """Plan by plan, those included that are only compared with the expert."""
    delay, told = 2, []

    def note(actions: np.ndarray, is_given: np.ndarray) -> None:
        told.append((len(commands), np.asarray(actions)[0, np.asarray(is_given)[0]]))

    @dataclass(frozen=True)
    class Remembering(Marked):
        def chunk(
            self, weights: Any, observations: Any, seed: Any, episodes: Any, plans: Any, prefix: Any, **others: Any
        ) -> Any:
            jax.debug.callback(note, prefix.actions, prefix.is_given)
            return super().chunk(weights, observations, seed, episodes, plans, prefix)

    planner = late(delay, prefix=True, policy=Remembering())
    program = CorrectedProgram(planner.program, "point", RULES)
    backend, commands, modes = PointBackend(), [], ""
    sim, output = backend.reset(np.asarray(jax.random.key_data(scene_keys(7, [1]))))
    memory, plan = program.start(output), jax.jit(program.plan)
    for step in range(MAX_STEPS):
        action, memory = plan(planner.weights, memory, {}, output, jnp.uint32(7), np.uint32([1]), np.uint32([step]))
        jax.effects_barrier()
        commands.append(np.asarray(action)[0, 0])
        modes += "APC"[int(memory.mode[0])]
        sim, output = backend.step(sim, commands[-1][None])
    assert {"APC", "CPA"} <= {modes[k : k + 3] for k in range(MAX_STEPS)}, modes
    given = [(step, actions) for step, actions in told if len(actions)]
    assert len(given) >= 2
    for step, actions in given:
        assert modes[step] in "AP", "while the expert acts nothing of the policy's is executed"
        known = [commands[step - 1], *commands[step : step + delay]]
        until = 1 + (modes[step : step + delay] + "P").index("P")  # nobody can know that the expert will step in
        np.testing.assert_array_equal(actions[:until], known[:until])
    assert any(not len(actions) and modes[step] == "C" for step, actions in told)
