"""The insert task: its geometry on hand-made poses, stages, success, failure, resets, and the expert on `native`."""

import itertools
from collections.abc import Sequence

import jax
import jax.numpy as jnp
import numpy as np
import pytest
import transfer_task

from imf_jax.seeds import scene_keys
from imf_jax.sim.backends.native import NativeBackend
from imf_jax.sim.experts.insert import nearest_orientations
from imf_jax.sim.quaternions import compose, multiply, rotate
from imf_jax.sim.tasks import TaskObservation, get_expert, get_task
from imf_jax.sim.tasks.insert import (
    APERTURE,
    BAR_HALF_SIZE,
    BAR_START_Y,
    DEPTH,
    HOLD_STEPS,
    RING_OUTER,
    RING_START_Y,
    RING_THICKNESS,
    START_X,
    insertion,
    lowest_point,
)

TASK = get_task("insert")
PLAY = APERTURE / 2 - BAR_HALF_SIZE[0]
CENTERED = BAR_HALF_SIZE[1] - RING_THICKNESS / 2
"""Depth of a bar whose middle is the ring's [m]."""

AIR = (0.5, 0.0, 0.25)
BOTH, NONE = (True, True), (False, False)


def pose(position: Sequence[float], axis: Sequence[float] = (0, 0, 1), angle: float = 0.0) -> np.ndarray:
    """A pose (7,), rotated by `angle` [rad] about a unit axis."""
    quaternion = [np.cos(angle / 2), *(np.sin(angle / 2) * np.array(axis, float))]
    return np.array([*position, *quaternion], np.float32)


def measure(bar: np.ndarray, ring: np.ndarray | None = None, xp=np) -> tuple[float, float]:
    """Clearance and depth of one bar, given in the frame of the ring."""
    ring = pose((0, 0, 0)) if ring is None else ring
    result = insertion(xp.asarray(ring[None]), xp.asarray(compose(ring, bar)[None]))
    return float(result.clearance[0]), float(result.depth[0])


@pytest.mark.parametrize("xp", [np, jnp])
@pytest.mark.parametrize(
    ("bar", "clearance", "depth"),
    [
        (pose((0, 0, 0)), PLAY, CENTERED),
        (pose((0, 0.01, 0)), PLAY, CENTERED - 0.01),  # the shorter side counts
        (pose((0, -0.01, 0)), PLAY, CENTERED - 0.01),
        (pose((0, 0, 0), angle=np.pi), PLAY, CENTERED),  # either end may lead
        (pose((0, 0, 0), axis=(0, 1, 0), angle=np.pi / 2), PLAY, CENTERED),
        (pose((0.003, 0, 0)), PLAY - 0.003, CENTERED),
        (pose((0, 0, -0.006)), PLAY - 0.006, CENTERED),  # into a wall
        (pose((0, -0.069, 0)), PLAY, -RING_THICKNESS),  # in line, with its end at the near face
        (pose((0.05, 0, 0)), PLAY - 0.05, CENTERED),  # beside the ring, not in it
        # Rolled by 45 degrees, its corners are too far apart for the aperture.
        (pose((0, 0, 0), axis=(0, 1, 0), angle=np.pi / 4), APERTURE / 2 - np.sqrt(2) * 0.012, CENTERED),
    ],
)
def test_insertion_of_hand_made_poses(bar: np.ndarray, clearance: float, depth: float, xp) -> None:
    np.testing.assert_allclose(measure(bar, xp=xp), (clearance, depth), atol=1e-6)


def test_a_bar_across_the_ring_is_not_inserted() -> None:
    for axis in ((0, 0, 1), (1, 0, 0)):
        clearance, depth = measure(pose((0, 0, 0), axis, np.pi / 2))
        assert clearance < -1.0
        assert depth < 0


def test_a_turned_bar_meets_a_wall_at_one_face() -> None:
    angle = 0.2
    bar = pose((0, 0, 0), (0, 0, 1), angle)
    # By hand: an edge starts 12 mm / cos from the axis where it meets a face, and goes on by tan over half a thickness.
    expected = APERTURE / 2 - BAR_HALF_SIZE[0] / np.cos(angle) - RING_THICKNESS / 2 * np.tan(angle)
    assert measure(bar)[0] == pytest.approx(expected, abs=1e-6)


def test_insertion_depends_on_the_relative_pose_only() -> None:
    random = np.random.default_rng(0)
    for _ in range(20):
        axis = random.normal(size=3)
        ring = pose(random.normal(size=3), axis / np.linalg.norm(axis), random.uniform(-3, 3))
        bar = pose(random.uniform(-0.01, 0.01, 3), (0.6, 0, 0.8), random.uniform(-0.2, 0.2))
        np.testing.assert_allclose(measure(bar, ring), measure(bar), atol=2e-5)


def test_insertion_agrees_with_points_of_the_bar() -> None:
    """Brute force: a dense cloud on the bar's surface, cut at the ring's faces."""
    random = np.random.default_rng(1)
    grid = np.array(list(itertools.product((-1, 1), np.linspace(-1, 1, 20001), (-1, 1))))
    for _ in range(10):
        axis = random.normal(size=3)
        bar = pose(random.uniform(-0.006, 0.006, 3), axis / np.linalg.norm(axis), random.uniform(-0.3, 0.3))
        points = bar[:3] + rotate(bar[3:], (grid * BAR_HALF_SIZE).astype(np.float32))
        between = points[np.abs(points[:, 1]) <= RING_THICKNESS / 2]
        ends = points[np.abs(grid[:, 1]) == 1][:, 1]
        clearance = APERTURE / 2 - np.abs(between[:, [0, 2]]).max()
        depth = min(ends[ends > 0].min(), -ends[ends < 0].max()) - RING_THICKNESS / 2
        np.testing.assert_allclose(measure(bar), (clearance, depth), atol=2e-5)


def test_lowest_point_of_a_turned_box() -> None:
    boxes = np.stack([pose((0, 0, 0.1)), pose((0, 0, 0.1), (1, 0, 0), np.pi / 2), pose((0, 0, 0.1), (1, 0, 0), 0.3)])
    tilted = 0.1 - 0.06 * np.sin(0.3) - 0.012 * np.cos(0.3)
    np.testing.assert_allclose(lowest_point(boxes, BAR_HALF_SIZE), [0.088, 0.04, tilted], atol=1e-6)


def observe(
    bar: np.ndarray | None = None,
    ring: np.ndarray | None = None,
    left: tuple[bool, bool] = BOTH,
    right: tuple[bool, bool] = BOTH,
    xp=np,
) -> TaskObservation:
    """Ring and bar, inserted and held by default. `left` touches the ring, `right` the bar (finger 1, finger 2)."""
    ring = pose(AIR) if ring is None else ring
    bar = pose(AIR) if bar is None else bar
    touch = [[left, NONE], [NONE, right]]
    return transfer_task.observe(xp.asarray(np.stack([ring, bar])[None]), xp.asarray([touch]))


@pytest.mark.parametrize("xp", [np, jnp])
@pytest.mark.parametrize(
    ("stage", "arguments"),
    [
        (0, {"left": NONE, "right": NONE}),
        (0, {"left": NONE}),
        (0, {"right": NONE}),
        (1, {"left": (True, False)}),  # one finger is no grasp
        (1, {"ring": pose((0.5, 0.0, RING_OUTER / 2))}),
        (1, {"bar": pose((0.5, 0.0, BAR_HALF_SIZE[2]))}),
        (2, {"bar": pose((0.5, -0.1, 0.2))}),
        (2, {"bar": pose((0.506, 0.0, 0.25))}),  # through a wall
        (3, {"bar": pose((0.5, -0.1, 0.25))}),
        (3, {"bar": pose((0.5, -(CENTERED - DEPTH + 0.001), 0.25))}),  # not deep enough
        (4, {"bar": pose((0.5, -(CENTERED - DEPTH - 0.001), 0.25))}),
        (4, {}),
    ],
)
def test_stages(stage: int, arguments: dict, xp) -> None:
    _, result = TASK.evaluate(TASK.start(1, xp), observe(**arguments, xp=xp))
    assert int(result.stage[0]) == stage
    assert float(result.reward[0]) == stage
    assert not bool(result.success[0])
    assert not bool(result.failure[0])


def test_the_other_hands_do_not_count() -> None:
    held = observe()
    swapped = held._replace(touch=held.touch[:, :, ::-1])
    assert TASK.evaluate(TASK.start(1, np), swapped)[1].stage[0] == 0


def test_success_needs_the_insertion_without_a_break() -> None:
    progress = TASK.start(1, np)
    for _ in range(HOLD_STEPS - 1):
        progress, result = TASK.evaluate(progress, observe())
        assert not result.success[0]
    progress, _ = TASK.evaluate(progress, observe(right=(True, False)))  # a finger lets go: count again
    for step in range(HOLD_STEPS):
        progress, result = TASK.evaluate(progress, observe())
        assert result.success[0] == (step == HOLD_STEPS - 1)


@pytest.mark.parametrize("lost", ["ring", "bar"])
def test_an_object_off_the_table_is_a_failure(lost: str) -> None:
    _, result = TASK.evaluate(TASK.start(1, np), observe(**{lost: pose((1.2, 0.0, 0.02))}))
    assert result.failure[0]


def test_reset_is_a_pure_function_of_the_key_within_its_regions() -> None:
    keys = jax.random.split(jax.random.key(0), 500)
    poses = np.asarray(jax.jit(jax.vmap(TASK.sample))(keys))
    np.testing.assert_array_equal(poses[7], np.asarray(jax.jit(TASK.sample)(keys[7])))
    regions = ((poses[:, 0, 0], START_X), (poses[:, 1, 0], START_X), (poses[:, 0, 1], RING_START_Y))
    for values, (low, high) in (*regions, (poses[:, 1, 1], BAR_START_Y)):
        assert low - 1e-6 <= values.min() < low + 0.05 * (high - low)
        assert high - 0.05 * (high - low) < values.max() <= high + 1e-6
    assert abs(np.corrcoef(poses[:, :, :2].reshape(500, 4).T) - np.eye(4)).max() < 0.15
    np.testing.assert_array_equal(poses[..., 3:], np.broadcast_to([1, 0, 0, 0], (500, 2, 4)))


@pytest.fixture(scope="module")
def backend() -> NativeBackend:
    return NativeBackend("insert", threads=2, visual="primitive")


def test_objects_rest_where_they_start(backend: NativeBackend) -> None:
    state, start = backend.reset(scene_keys(0, np.arange(4)))
    hold = np.concatenate([start.end_effector, np.full((4, 2, 1), 0.08, np.float32)], axis=-1).reshape(4, 16)
    for _ in range(25):
        state, output = backend.step(state, hold)
    np.testing.assert_allclose(output.env_state, start.env_state, atol=1e-3)
    assert not output.stage.any()


def test_expert_succeeds_and_passes_every_stage(backend: NativeBackend) -> None:
    expert = get_expert("insert")
    start, act = jax.jit(expert.start), jax.jit(expert.act)
    state, output = backend.reset(scene_keys(0, np.arange(16)))
    memory = start(output)
    solved = np.zeros(16, bool)
    seen: list[set[int]] = [set() for _ in range(16)]
    for _ in range(140):
        memory, action = act(memory, output)
        state, output = backend.step(state, np.asarray(action))
        assert output.finite.all()
        assert not output.overflow.any()
        solved |= output.success
        for stages, stage in zip(seen, output.stage, strict=True):
            stages.add(int(stage))
    assert solved.all()
    assert all(stages >= {0, 1, 2, 3, 4} for stages in seen)


def test_an_anchored_expert_goes_on_from_the_command(backend: NativeBackend) -> None:
    expert = get_expert("insert")
    _, output = backend.reset(scene_keys(0, np.arange(3)))
    memory = expert.start(output)
    command = np.concatenate([output.end_effector, np.full((3, 2, 1), 0.05)], axis=-1).astype(np.float32)
    command[..., :3] += 0.1
    anchored = expert.anchor(memory, command.reshape(3, 16))
    np.testing.assert_allclose(anchored.command, command[..., :7], atol=1e-6)
    np.testing.assert_allclose(anchored.opening, command[..., 7])
    _, action = expert.act(anchored, output)
    assert np.linalg.norm(action.reshape(3, 2, 8)[..., :3] - command[..., :3], axis=-1).max() < 0.01


def test_expert_sees_past_the_symmetries_of_what_was_dropped(backend: NativeBackend) -> None:
    _, output = backend.reset(scene_keys(0, np.arange(8)))
    half = np.sqrt(0.5)
    rolls = [[1, 0, 0, 0], [half, 0, half, 0], [0, 0, 1, 0], [half, 0, -half, 0]]
    same = np.array([multiply(np.array(roll), turn) for roll in rolls for turn in np.eye(4)[[0, 3]]])
    objects = np.repeat(same[:, None], 2, axis=1).astype(np.float32)  # of unrotated objects
    nearest = np.asarray(nearest_orientations(jnp.asarray(objects), jnp.asarray(output.end_effector[..., 3:])))
    np.testing.assert_allclose(np.abs(nearest[..., 0]), 1.0, atol=1e-6)
