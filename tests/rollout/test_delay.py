"""Plans that come late: which action of which chunk is executed when, on both loops, and what is refused."""

from collections.abc import Callable
from dataclasses import dataclass, replace
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from flax import nnx
from point_world import PointBackend
from test_compiled import what_happened
from transfer_task import SPACES

from imf_jax.chunks import advance, join
from imf_jax.config import AttnResConfig, DiffusionConfig, ExecutionConfig, PolicyConfig
from imf_jax.errors import ArgumentError
from imf_jax.models.policy import Policy
from imf_jax.rollout.compiled import CompiledRollout
from imf_jax.rollout.delay import (
    DelayedProgram,
    DelayedWeights,
    guide_weights,
    longest_delay,
    policy_planner,
    require_execution,
)
from imf_jax.rollout.engine import Rollout
from imf_jax.rollout.episode import EpisodeRecord
from imf_jax.rollout.plan_program import CHUNK, CHUNK_BEGIN, ChunkProgram
from imf_jax.rollout.planner import PolicyPlanner, ProgramPlanner
from imf_jax.rollout.recorders.trajectory import TrajectoryRecorder
from imf_jax.seeds import noise_keys
from imf_jax.sim.backends.base import StepOutput
from imf_jax.sim.robots.base import hold
from imf_jax.spaces import RobotSpaces

SIZES = PolicyConfig(AttnResConfig(n_emb=32, n_layer=2, n_head=4, n_kv_head=2), pred_horizon=8, num_action_steps=4)
USABLE = 7
"""Actions of a chunk for now and later: indices obs_horizon - 1 .. pred_horizon - 1."""


@dataclass(frozen=True)
class Chunks(ChunkProgram):
    """A policy of which plan n has 100 n + i + d as the first entry of action i, d late; plan `broken` is not finite.

    The second entry says how many steps of the chunk were given.
    """

    pred_horizon: int = SIZES.pred_horizon
    spaces: RobotSpaces = SPACES
    broken: int = -1
    keep_chunks: bool = False
    delay_training: int = 0
    obs_horizon: int = 2
    cameras: tuple[str, ...] = ()

    def chunk(
        self,
        weights: Any,
        observations: Any,
        seed: Any,
        episodes: Any,
        replans: Any,
        prefix: Any,
        delay: Any = None,
        guide: Any = None,
    ) -> jax.Array:
        values = 100.0 * replans[:, None] + jnp.arange(self.pred_horizon) + (0 if delay is None else delay[:, None])
        values = jnp.where((replans == self.broken)[:, None], jnp.nan, values)
        given = jnp.zeros_like(values) if prefix is None else prefix.is_given.sum(axis=1, keepdims=True) + 0 * values
        identity = jnp.zeros((*values.shape, 16)).at[..., [3, 11]].set(1)
        return identity.at[..., 0].set(values).at[..., 1].set(given)


def at_rest(count: int) -> StepOutput:
    """Scenes whose left hand is at x = -1, with the quaternion of no rotation in its other sign."""
    pose = np.zeros((count, 2, 7), np.float32)
    pose[:, 0, 0], pose[..., 3] = -1, -1
    blank = dict.fromkeys(StepOutput._fields)
    return StepOutput(**blank)._replace(state=np.zeros((count, 16), np.float32), end_effector=pose)


def executed(plans: int, delay: int, every: int, **options: Any) -> np.ndarray:
    """Actions (plans * every, 16) of one scene."""
    program = DelayedProgram(options.pop("policy", Chunks()), every, **options)
    weights = DelayedWeights(None, np.int32(delay))
    memory, actions = program.start(at_rest(1)), []
    for replan in range(plans):
        chunk, memory = program.plan(weights, memory, {}, at_rest(1), 0, np.zeros(1), np.array([replan]))
        actions.append(chunk[0])
    return np.concatenate(actions)


def expected(step: int, delay: int, every: int, trained: int = 0) -> float:
    """The newest plan that has come by then, and its action for this step; -1 before the first one.

    The first one begins when it comes, and plans until then are not executed.
    """
    plan = (step - delay) // every
    if step < delay:
        return -1.0
    if plan * every < delay:
        return min(1 + step - delay, 7)
    return 100 * plan + min(1 + step - plan * every, 7 + min(delay, trained))


@pytest.mark.parametrize("every", [1, 2, 4, USABLE])
@pytest.mark.parametrize("delay", range(USABLE))
def test_every_step_executes_the_newest_plan_that_has_come(delay: int, every: int) -> None:
    """Also where several plans are under way at once, and where chunks run out: then the last action stays."""
    actions = executed(6, delay, every)
    assert actions[:, 0].tolist() == [expected(step, delay, every) for step in range(6 * every)]
    np.testing.assert_array_equal(actions[:, 3], 1)


@pytest.mark.parametrize(("delay", "every"), [(0, 4), (2, 4), (4, USABLE), (7, 2), (9, 4)])
def test_chunks_that_begin_late_last_longer(delay: int, every: int) -> None:
    """By up to 4 steps; what is later than that they do without."""
    actions = executed(6, delay, every, policy=Chunks(delay_training=4))
    assert actions[:, 0].tolist() == [expected(step, delay, every, 4) for step in range(6 * every)]


def test_a_chunk_that_begins_late_goes_on_by_its_last_increment() -> None:
    """Delay 7, every 4: plan 2 begins 2 steps late and has actions for the steps 10 .. 16, plan 3 comes at step 19."""
    late = Chunks(delay_training=2)
    assert executed(5, 7, 4, policy=late)[15:20, 0].tolist() == [208, 209, 209, 209, 308]
    assert executed(5, 7, 4, policy=late, extrapolate=True)[15:20, 0].tolist() == [208, 209, 210, 211, 308]


def test_the_newest_plan_by_hand() -> None:
    """Delay 2, every 4: two steps at rest; then plan 0 from its beginning (index 1); plan 1 from step 6 on."""
    assert executed(3, 2, 4)[:, 0].tolist() == [-1, -1, 1, 2, 3, 4, 103, 104, 105, 106, 203, 204]


def test_plans_made_at_rest_would_begin_the_motion_again() -> None:
    """Delay 5, every 2: the plans 1 and 2 see the hands at rest and are not executed; plan 3 comes at step 11."""
    assert executed(7, 5, 2)[:12, 0].tolist() == [-1] * 5 + [1, 2, 3, 4, 5, 6, 306]


def test_a_chunk_that_runs_out_goes_on_by_its_last_increment() -> None:
    """Delay 6, every 4: plan 2 has actions for the steps 8 .. 14, plan 3 comes at step 18."""
    assert executed(5, 6, 4)[14:19, 0].tolist() == [207, 207, 207, 207, 307]
    assert executed(5, 6, 4, extrapolate=True)[14:19, 0].tolist() == [207, 208, 209, 210, 307]


def test_chunks_blend_linearly_on_their_overlap() -> None:
    """Delay 1, every 2: at step 3 plan 1 takes over from plan 0, which has 3, 4 for the steps 3 and 4."""
    assert executed(2, 1, 2)[3, 0] == 102
    blended = executed(3, 1, 2, blend_steps=2)[:, 0]
    assert blended[3] == pytest.approx(3 + (102 - 3) / 3)


def test_quaternions_blend_to_unit_length_whatever_their_sign() -> None:
    half_turn = np.array([np.cos(np.pi / 4), 0, 0, np.sin(np.pi / 4)])
    old, new = np.zeros((2, 1, 3, 16), np.float32)
    old[..., [3, 11]] = 1
    new[..., 3:7], new[..., 11] = -half_turn, 1
    mixed = np.asarray(join(jnp.asarray(old), jnp.asarray(new), 0, SPACES, blend_steps=1))[0]
    half_way = -np.array([np.cos(np.pi / 8), 0, 0, np.sin(np.pi / 8)])
    np.testing.assert_allclose(mixed[0, 3:7], half_way, atol=1e-6)
    np.testing.assert_array_equal(mixed[1:], new[0, 1:])


def test_extrapolated_quaternions_are_of_unit_length() -> None:
    turning = np.zeros((1, 2, 16), np.float32)
    turning[..., [3, 11]] = 1
    turning[0, 1, 3:7] = -np.cos(0.1), 0, 0, -np.sin(0.1)
    further = np.asarray(advance(jnp.asarray(turning), 2, SPACES, extrapolate=True))[0]
    np.testing.assert_allclose(np.linalg.norm(further[:, 3:7], axis=-1), 1, atol=1e-6)
    assert np.arctan2(-further[0, 6], -further[0, 3]) == pytest.approx(0.2, abs=0.01)


def test_what_is_held_is_said_in_the_sign_of_the_demonstrations() -> None:
    output = at_rest(2)
    held = np.asarray(hold(SPACES, output.state, output.end_effector))
    np.testing.assert_array_equal(held[:, [0, 3, 11]], [[-1, 1, 1]] * 2)


def test_a_plan_that_is_not_finite_ends_the_episode_when_it_is_made() -> None:
    actions = executed(3, 4, 4, policy=Chunks(broken=1))
    assert np.isfinite(actions[:4]).all()
    assert not np.isfinite(actions[4:8]).any()


def test_a_prefix_is_what_is_executed_until_the_plan_takes_over() -> None:
    """Not for the first plan; then delay actions, and the one before the newest observation."""
    given = []

    @dataclass(frozen=True)
    class Remembering(Chunks):
        def chunk(
            self, weights: Any, observations: Any, seed: Any, episodes: Any, replans: Any, prefix: Any, **others: Any
        ) -> Any:
            given.append(np.asarray(prefix.actions)[0, np.asarray(prefix.is_given)[0], 0].tolist())
            return super().chunk(weights, observations, seed, episodes, replans, prefix, **others)

    actions = executed(3, 2, 4, policy=Remembering(), prefix=True)[:, 0].tolist()
    assert given == [[], actions[3:6], actions[7:10]]


def test_guidance_weighs_what_the_plan_before_knows() -> None:
    """At steps -1 .. 6 with a delay of 1, of a plan that knows the steps 0 .. 4."""
    weights = np.asarray(guide_weights(jnp.arange(-1, 7), 1, 5))
    np.testing.assert_array_equal(weights[:2], 1)
    assert (np.diff(weights[1:7]) < 0).all()
    np.testing.assert_array_equal(weights[6:], 0)
    assert weights[2] == pytest.approx(0.8 * (np.exp(0.8) - 1) / (np.e - 1), rel=1e-5)


@pytest.mark.parametrize("trained", [0, 1])
def test_a_plan_is_drawn_to_the_plan_before(trained: int) -> None:
    """Not the first one; then with all its weight to what is executed until it takes over, and less to the rest."""
    guides = []

    @dataclass(frozen=True)
    class Remembering(Chunks):
        def chunk(self, *args: Any, guide: Any = None, **others: Any) -> jax.Array:
            guides.append(jax.tree.map(np.asarray, guide))
            return super().chunk(*args, **others)

    actions = executed(3, 2, 4, policy=Remembering(delay_training=trained), guidance=5.0)[:, 0]
    assert not guides[0].weight.any()
    for replan in (1, 2):
        guide, past = guides[replan], 4 * replan - 1 + trained
        full = int((guide.weight[0] == 1).sum())
        assert full == 3 - trained
        assert guide.chunk[0, :full, 0].tolist() == actions[past : past + full].tolist()
        assert (guide.weight[0] > 0).sum() == 4  # of 8 actions 4 are over; where they begin later, so does the guide
        assert guide.limit == 5.0


# Both loops, with a policy that goes towards the target.


@dataclass(frozen=True)
class Towards(Chunks):
    """A chunk towards the target from where the hand was seen, with noise of its keys."""

    def chunk(
        self, weights: Any, observations: Any, seed: Any, episodes: Any, replans: Any, prefix: Any, **others: Any
    ) -> jax.Array:
        here, target = observations["state"][:, -1, :3], observations["env_state"][:, -1]
        noise = jax.vmap(lambda key: jax.random.normal(key, (3,)))(noise_keys(seed, episodes, replans))
        steps = jnp.arange(self.pred_horizon) / self.pred_horizon
        way = here[:, None] + 0.3 * steps[:, None] * (target - here)[:, None] + 1e-2 * noise[:, None]
        quaternion = jnp.broadcast_to(jnp.array([1.0, 0, 0, 0]), (*way.shape[:2], 4))
        return jnp.concatenate([way, quaternion, jnp.zeros((*way.shape[:2], 9))], axis=-1)


def towards(delay: int, rows: int = 4, **options: Any) -> ProgramPlanner:
    program = DelayedProgram(Towards(), options.pop("every", 4), **options)
    return ProgramPlanner(program, DelayedWeights(None, np.int32(delay)), rows)


def run(
    rollout: Callable[..., Any], planner: Any, episodes: Any = range(10), num_envs: int = 4, **options: Any
) -> dict[int, Any]:
    records: list[EpisodeRecord] = []
    settings = {"seed": 0, "max_steps": 38, "num_envs": num_envs, "on_record": records.append, **options}
    rollout(PointBackend(), planner, list(episodes), **settings).run()
    return what_happened({record.episode: record for record in sorted(records, key=lambda record: record.episode)})


@pytest.mark.parametrize(("delay", "options"), [(0, {}), (3, {"blend_steps": 1}), (6, {"extrapolate": True})])
def test_both_loops_execute_the_same(delay: int, options: dict[str, Any]) -> None:
    on_host, compiled = run(Rollout, towards(delay, **options)), run(CompiledRollout, towards(delay, **options))
    for record, other in zip(on_host.values(), compiled.values(), strict=True):
        for name in ("return_", "max_reward", "max_ik_error"):
            assert getattr(record, name) == pytest.approx(getattr(other, name), rel=1e-5)
        blank = {"return_": 0.0, "max_reward": 0.0, "max_ik_error": 0.0}
        assert replace(record, **blank) == replace(other, **blank)


def test_memories_stay_with_their_episodes() -> None:
    """Whatever runs beside an episode, in whatever order."""
    together = run(Rollout, towards(3))
    assert len({record.return_ for record in together.values()}) == 10
    assert run(Rollout, towards(3), num_envs=1) == together
    assert run(Rollout, towards(3), reversed(range(10)), num_envs=10) == together


def test_one_program_serves_every_delay() -> None:
    assert hash(towards(0).program) == hash(towards(5).program)
    assert towards(0).program == towards(5).program


# A real policy.


def make_policy(prefix_training: int = 0, delay_training: int = 0) -> Policy:
    sizes = replace(SIZES, prefix_training=prefix_training, delay_training=delay_training)
    return Policy(sizes, SPACES, 3, rngs=nnx.Rngs(0))


@pytest.fixture(scope="module")
def policy() -> Policy:
    return make_policy()


def test_no_delay_is_bit_equal_to_sync(policy: Policy, roll: Callable[..., Any], chunk_backend: Any) -> None:
    def outcome(planner: Any) -> dict[int, tuple]:
        records = roll(chunk_backend, planner, range(6))
        return {e: (r.status, r.steps, r.return_, r.max_reward, r.replans) for e, r in sorted(records.items())}

    sync = outcome(PolicyPlanner(policy, 4))
    assert outcome(policy_planner(policy, 4, ExecutionConfig())) == sync
    late = policy_planner(policy, 4, ExecutionConfig(inference="async"))
    assert isinstance(late.program, DelayedProgram)
    assert outcome(late) == sync
    assert outcome(policy_planner(policy, 4, ExecutionConfig(inference="async", delay_steps=1))) != sync


def test_replanning_more_often_needs_no_latency(policy: Policy) -> None:
    planner = policy_planner(policy, 4, ExecutionConfig(replan_every=2))
    assert (planner.num_action_steps, planner.program.num_action_steps) == (2, 2)


def test_a_policy_with_prefix_runs_on_both_loops() -> None:
    execution = ExecutionConfig(inference="async", delay_steps=2, prefix=True)
    planner = policy_planner(make_policy(prefix_training=2), 4, execution)
    on_host, compiled = run(Rollout, planner, range(3)), run(CompiledRollout, planner, range(3))
    for record, other in zip(on_host.values(), compiled.values(), strict=True):
        assert record.return_ == pytest.approx(other.return_, rel=1e-4)


@pytest.mark.parametrize("options", [{"delay_steps": 9, "on_empty": "continue"}, {"delay_steps": 3, "guidance": 5.0}])
def test_a_policy_that_plans_for_later_runs_on_both_loops(options: dict[str, Any]) -> None:
    planner = policy_planner(make_policy(delay_training=4), 4, ExecutionConfig(inference="async", **options))
    on_host, compiled = run(Rollout, planner, range(3)), run(CompiledRollout, planner, range(3))
    for record, other in zip(on_host.values(), compiled.values(), strict=True):
        assert record.return_ == pytest.approx(other.return_, rel=1e-4)


@pytest.mark.parametrize(
    ("options", "message"),
    [
        ({"guidance": 5.0}, "--guidance 5 would do nothing with --inference sync"),
        ({"inference": "async", "guidance": -1.0}, "--guidance -1 must not be negative"),
        (
            {"inference": "async", "delay_steps": 1, "prefix": True, "guidance": 1.0},
            "--prefix and --guidance both say",
        ),
        ({"delay_steps": 2}, "--delay-steps 2 would do nothing with --inference sync"),
        ({"blend_steps": 2}, "--blend-steps 2 would do nothing with --inference sync"),
        ({"on_empty": "continue"}, "--on-empty continue would do nothing with --inference sync"),
        ({"prefix": True}, "--prefix would do nothing without a delay"),
        ({"inference": "async", "prefix": True}, "--prefix would do nothing without a delay"),
        ({"inference": "async", "delay_steps": -1}, "--delay-steps -1 must not be negative"),
        ({"replan_every": 0}, "--replan-every 0 must be at least 1"),
        ({"action_interpolation": 0}, "--action-interpolation 0 must be at least 1"),
    ],
)
def test_contradictions_are_refused(options: dict[str, Any], message: str) -> None:
    with pytest.raises(ArgumentError, match=message):
        ExecutionConfig(**options)


@pytest.mark.parametrize(
    ("options", "trained", "message"),
    [
        ({"delay_steps": 7}, 0, r"--delay-steps 7 is beyond the chunk; this policy allows 0\.\.6"),
        ({"replan_every": 8}, 0, r"--replan-every 8 is more actions than a chunk has; choose 1\.\.7"),
        ({"delay_steps": 2, "blend_steps": 2}, 0, "--blend-steps 2 is longer than two chunks overlap: 1 actions"),
        ({"delay_steps": 6, "blend_steps": 1}, 0, "--blend-steps 1 is longer than two chunks overlap: 0 actions"),
        ({"delay_steps": 2, "prefix": True}, 0, "--prefix needs a policy trained for it"),
        (
            {"delay_steps": 3, "prefix": True},
            2,
            "trained for delays up to --prefix-training 2, not for --delay-steps 3",
        ),
        ({"delay_steps": 3, "replan_every": 2, "prefix": True}, 4, "before the actions it is given are known"),
    ],
)
def test_what_a_policy_cannot_execute_is_refused(options: dict[str, Any], trained: int, message: str) -> None:
    policy = SimpleNamespace(config=replace(SIZES, prefix_training=trained))
    with pytest.raises(ArgumentError, match=message):
        policy_planner(policy, 4, ExecutionConfig(inference="async", **options))


def test_what_a_policy_that_plans_for_later_can_execute() -> None:
    policy = SimpleNamespace(config=replace(SIZES, delay_training=4))
    assert longest_delay(policy.config) == 10
    with pytest.raises(ArgumentError, match=r"--delay-steps 11 is beyond the chunk; this policy allows 0\.\.10"):
        policy_planner(policy, 4, ExecutionConfig(inference="async", delay_steps=11))
    require_execution(ExecutionConfig(inference="async", delay_steps=10), policy.config)
    # The chunk begins as late as it comes, so two of them overlap as without a delay.
    require_execution(ExecutionConfig(inference="async", delay_steps=3, blend_steps=3), policy.config)
    diffusion = SimpleNamespace(config=replace(SIZES, objective=DiffusionConfig()))
    with pytest.raises(ArgumentError, match="--guidance needs a velocity to guide: objective imf, meanflow or flow"):
        policy_planner(diffusion, 4, ExecutionConfig(inference="async", guidance=5.0))


def test_kept_chunks_say_when_they_begin() -> None:
    """Seen from the observation of their plan: chunks hold past actions, the first one of an episode begins when it
    takes over, and those trained to begin late begin late."""
    for trained, begins in ((0, [2, -1]), (2, [2, 1])):
        program = DelayedProgram(Chunks(delay_training=trained, keep_chunks=True), 2)
        memory = program.start(at_rest(1))
        for replan, begin in enumerate(begins):
            _, memory = program.plan(
                DelayedWeights(None, np.int32(3)), memory, {}, at_rest(1), 0, np.zeros(1), np.array([replan])
            )
            notes = program.notes(memory)
            assert notes[CHUNK_BEGIN].tolist() == [begin]
            told = trained if replan else 0
            assert notes[CHUNK][0, :, 0].tolist() == [100 * replan + step + told for step in range(8)]
    assert program.policy.notes(program.policy.start(at_rest(1))).keys() == {CHUNK, CHUNK_BEGIN}
    nothing = DelayedProgram(Chunks(), 2)
    assert nothing.notes(nothing.start(at_rest(1))) == {}


def test_both_loops_keep_chunks_and_execute_the_same(policy: Policy, tmp_path: Path) -> None:
    execution = ExecutionConfig(inference="async", delay_steps=2)
    plain, keeping = (policy_planner(policy, 4, execution, keep_chunks=keep) for keep in (False, True))
    delay, chunks = execution.delay_steps, {}
    bound = TrajectoryRecorder(tmp_path, SPACES, 4 * 6 + keeping.program.chunk_bytes() / 4).bytes_per_episode(38)
    for loop in (Rollout, CompiledRollout):
        folder = tmp_path / loop.__name__
        kept = run(loop, keeping, range(3), recorders=[TrajectoryRecorder(folder, SPACES)])
        records = run(loop, plain, range(3))
        for episode, record in records.items():
            assert kept[episode] == record
            with np.load(folder / f"episodes/ep_{episode:06d}/trajectory.npz") as file:
                arrays = {name: file[name] for name in file.files}
            assert 2 * sum(array.nbytes for array in arrays.values()) < bound
            assert arrays["chunk_step"].tolist() == list(range(0, record.steps, 4))
            assert arrays["chunk_begin"].tolist() == [delay - 1 if step == 0 else -1 for step in arrays["chunk_step"]]
            for step, chunk in zip(arrays["chunk_step"][1:], arrays["chunk"][1:], strict=True):
                executed = arrays["raw_action"][step + delay : step + delay + 4]
                np.testing.assert_array_equal(executed, chunk[1 + delay : 1 + delay + len(executed)])
            chunks[loop, episode] = arrays["chunk"]
    for episode in range(3):
        np.testing.assert_allclose(chunks[Rollout, episode], chunks[CompiledRollout, episode], atol=1e-5)
