"""The transfer task on hand-made observations: stages, success, failure, and the reset distribution."""

import jax
import jax.numpy as jnp
import numpy as np
import pytest
import transfer_task

from imf_jax.sim.tasks import TaskObservation, get_task
from imf_jax.sim.tasks.transfer import BOX_HALF_SIZE, HOLD_STEPS, START_X, START_Y, START_YAW

TASK = get_task("transfer")
LIFTED = BOX_HALF_SIZE[2] + 0.1


def observe(
    height: float, left: tuple[bool, bool], right: tuple[bool, bool], x: float = 0.45, xp=np
) -> TaskObservation:
    pose = [x, 0.0, height, 1.0, 0.0, 0.0, 0.0]
    return transfer_task.observe(xp.array([[pose]], xp.float32), xp.array([[[left, right]]]))


@pytest.mark.parametrize("xp", [np, jnp])
@pytest.mark.parametrize(
    ("stage", "arguments"),
    [
        (0, (BOX_HALF_SIZE[2], (False, False), (False, False))),
        (0, (LIFTED, (False, False), (False, False))),  # thrown up: nobody touches it
        (1, (BOX_HALF_SIZE[2], (False, False), (True, False))),
        (2, (LIFTED, (False, False), (True, True))),
        (3, (LIFTED, (True, False), (True, True))),
        (3, (LIFTED, (True, False), (False, False))),  # one finger is no grasp
        (0, (BOX_HALF_SIZE[2], (True, True), (False, False))),  # held on the table
        (4, (LIFTED, (True, True), (False, False))),
    ],
)
def test_stages(stage: int, arguments: tuple, xp) -> None:
    _, result = TASK.evaluate(TASK.start(1, xp), observe(*arguments, xp=xp))
    assert int(result.stage[0]) == stage
    assert float(result.reward[0]) == stage
    assert not bool(result.success[0])


def test_success_needs_the_hold_without_a_break() -> None:
    held = observe(LIFTED, (True, True), (False, False))
    both = observe(LIFTED, (True, True), (True, False))
    progress = TASK.start(1, np)
    for _ in range(HOLD_STEPS - 1):
        progress, result = TASK.evaluate(progress, held)
        assert not result.success[0]
    progress, result = TASK.evaluate(progress, both)  # the right hand comes back: count again
    for step in range(HOLD_STEPS):
        progress, result = TASK.evaluate(progress, held)
        assert result.success[0] == (step == HOLD_STEPS - 1)


def test_a_box_off_the_table_is_a_failure() -> None:
    _, result = TASK.evaluate(TASK.start(1, np), observe(0.02, (False, False), (False, False), x=1.2))
    assert result.failure[0]


def test_reset_is_a_pure_function_of_the_key_within_its_region() -> None:
    keys = jax.random.split(jax.random.key(0), 500)
    poses = np.asarray(jax.jit(jax.vmap(TASK.sample))(keys))[:, 0]
    np.testing.assert_array_equal(poses[7], np.asarray(jax.jit(TASK.sample)(keys[7]))[0])
    yaw = 2 * np.arctan2(poses[:, 6], poses[:, 3])
    for values, (low, high) in ((poses[:, 0], START_X), (poses[:, 1], START_Y), (yaw, START_YAW)):
        assert low - 1e-6 <= values.min() < low + 0.05 * (high - low)
        assert high - 0.05 * (high - low) < values.max() <= high + 1e-6
    np.testing.assert_allclose(np.linalg.norm(poses[:, 3:], axis=1), 1.0, atol=1e-6)
