"""Perturbed scenes: what is changed, by how much, on what it depends, and what it cannot be."""

from types import SimpleNamespace
from typing import Any

import jax
import mujoco
import numpy as np
import pytest
from device_tolerance import assert_same

from imf_jax.config.perturbation import PERTURBATIONS, active, perturbation_text, require_perturbations
from imf_jax.errors import ArgumentError
from imf_jax.seeds import scene_keys
from imf_jax.sim.backends.choice import make_backend
from imf_jax.sim.backends.native import NativeBackend
from imf_jax.sim.perturbations.base import ScenePerturbations
from imf_jax.sim.perturbations.object_pose import start_range
from imf_jax.sim.robots.base import hold
from imf_jax.sim.tasks import get_task
from imf_jax.sim.tasks.insert import Insert
from imf_jax.sim.tasks.transfer import BOX_HALF_SIZE, START_X, START_Y, START_YAW, Transfer

OF_SCENES = [name for name, kind in PERTURBATIONS.items() if kind.of_scene]
EPISODES = range(40)
DERIVED = (
    "body_mass", "body_inertia", "body_invweight0", "dof_invweight0", "geom_size", "geom_rbound", "geom_aabb",
    "body_ipos", "geom_pos",
)  # fmt: skip


def native(**perturb: float) -> NativeBackend:
    names = {name.replace("_", "-"): level for name, level in perturb.items()}
    return NativeBackend("transfer", visual="primitive", perturb=names)


def still(backend: Any, steps: int, keys: Any) -> Any:
    """Start scenes and leave the robot where it is; the outputs, of the start first."""
    state, output = backend.reset(keys)
    action = np.asarray(hold(backend.task.robot.spaces, output.state, output.end_effector))
    outputs = [output]
    for _ in range(steps):
        state, output = backend.step(state, action)
        outputs.append(output)
    return state, outputs


@pytest.mark.parametrize("name", OF_SCENES)
def test_a_scene_does_not_depend_on_the_others_and_level_0_is_none(name: str) -> None:
    backend = NativeBackend("transfer", visual="primitive", perturb={name: 1.0})
    state, together = still(backend, 2, scene_keys(5, range(4)))
    alone, single = still(backend, 2, scene_keys(5, [2]))
    jax.tree.map(lambda a, b: np.testing.assert_array_equal(a[2], b[0]), (state, together), (alone, single))
    plain, level_0 = native(), NativeBackend("transfer", visual="primitive", perturb={name: 0.0})
    first, second = still(plain, 2, scene_keys(5, range(4))), still(level_0, 2, scene_keys(5, range(4)))
    jax.tree.map(np.testing.assert_array_equal, first, second)
    assert first[0].changes == ()


def test_other_draws_of_the_scene_stay() -> None:
    plain, changed = native(), native(object_mass=1, friction=1, servo_gain=1, push=1)
    jax.tree.map(
        np.testing.assert_array_equal, plain.reset(scene_keys(0, [0, 1]))[1], changed.reset(scene_keys(0, [0, 1]))[1]
    )


def test_objects_start_outside_of_the_range() -> None:
    middle, half = start_range(get_task("transfer"))
    bounds = np.array([START_X, START_Y, START_YAW])
    np.testing.assert_allclose(middle[0], bounds.mean(axis=1), atol=1e-3)
    np.testing.assert_allclose(half[0], np.diff(bounds)[:, 0] / 2, rtol=0.01)

    def starts(level: float) -> np.ndarray:
        pose = native(object_pose=level).reset(scene_keys(0, EPISODES))[1].env_state
        yaw = 2 * np.arctan2(pose[:, 6], pose[:, 3])
        assert np.allclose(np.linalg.norm(pose[:, 3:7], axis=1), 1, atol=1e-6)
        assert np.allclose(pose[:, 2], BOX_HALF_SIZE[2])
        return (np.stack([pose[:, 0], pose[:, 1], yaw], axis=1) - middle[0]) / half[0]

    usual, outside = starts(0.0), starts(1.0)
    assert (np.abs(usual) <= 1.01).all()
    np.testing.assert_allclose(outside, usual + np.sign(usual), atol=1e-3)
    np.testing.assert_allclose(starts(0.5), usual + 0.5 * np.sign(usual), atol=1e-3)


def test_derived_constants_are_those_of_mujoco() -> None:
    backend = native(object_mass=1, object_size=1)
    state, _ = backend.reset(scene_keys(0, range(3)))
    box = backend.model.body("box").id
    for scene in range(3):
        ours = backend._batch.get_model(scene)
        mass = ours.body_mass[box] / backend.model.body_mass[box]
        size = ours.geom_size[backend.model.geom("box").id] / backend.model.geom_size[backend.model.geom("box").id]
        assert 0.5 <= mass <= 2
        assert 0.8 <= size[0] <= 1.25
        assert abs(size[0] - 1) > 1e-3
        np.testing.assert_allclose(size, size[0])
        spec, _ = backend.task.make_spec("primitive")
        spec.geom("box").size = np.array(BOX_HALF_SIZE) * size[0]
        spec.geom("box").mass *= mass
        theirs = spec.compile()
        for field in DERIVED:
            np.testing.assert_allclose(getattr(ours, field), getattr(theirs, field), rtol=1e-5, atol=1e-7)
    assert len({float(value) for value in state.changes.factors["body_mass"][:, box]}) == 3


def test_an_object_of_another_size_rests_on_the_table() -> None:
    backend = native(object_size=2)
    state, outputs = still(backend, 10, scene_keys(0, range(8)))
    size = state.changes.factors["geom_size"][:, backend.model.geom("box").id]
    assert size.std() > 0.05
    for output in (outputs[0], outputs[-1]):
        np.testing.assert_allclose(output.env_state[:, 2], size * BOX_HALF_SIZE[2], atol=1e-3)


def test_factors_reach_the_models() -> None:
    backend = native(friction=1, servo_gain=1)
    state, _ = backend.reset(scene_keys(0, range(2)))
    nominal, first, second = backend.model, backend._batch.get_model(0), backend._batch.get_model(1)
    (friction,) = np.unique(np.round(first.pair_friction / nominal.pair_friction, 5))
    assert 0.5 <= friction <= 2
    assert friction != np.round(second.pair_friction / nominal.pair_friction, 5)[0, 0]
    gain = first.actuator_gainprm[:, 0] / nominal.actuator_gainprm[:, 0]
    assert len(np.unique(gain)) == nominal.nu
    np.testing.assert_allclose(first.actuator_biasprm[:, 1], -first.actuator_gainprm[:, 0])
    np.testing.assert_allclose(first.actuator_biasprm[:14, 2], gain[:14] * nominal.actuator_biasprm[:14, 2])
    assert state.changes.kick is None


def test_a_push_happens_once_at_its_time() -> None:
    backend = native(push=1)
    state, _ = backend.reset(scene_keys(0, EPISODES))
    when, velocity = state.changes.kick
    assert (when >= 0).all()
    assert when.max() < Transfer.max_steps / 4
    assert len(np.unique(when)) > 10
    dof = backend.model.body("box").dofadr[0]
    np.testing.assert_allclose(np.linalg.norm(velocity[:, dof : dof + 2], axis=1), 1, rtol=1e-5)
    assert not np.delete(velocity, [dof, dof + 1], axis=1).any()
    first = int(when.min())
    _, outputs = still(backend, first + 12, scene_keys(0, [int(when.argmin())]))
    path = np.stack([output.env_state[0, :2] for output in outputs])
    moved = np.linalg.norm(np.diff(path, axis=0), axis=1)
    assert moved[:first].max(initial=0) < 1e-4
    assert moved[first] > 0.01
    assert 0.03 < np.linalg.norm(path[-1] - path[0]) < 0.2


@pytest.mark.long
@pytest.mark.parametrize("name", ["mjx", "warp"])
def test_backends_perturb_alike(name: str) -> None:
    levels = {
        "object-pose": 0.5,
        "object-size": 1.0,
        "object-mass": 1.0,
        "friction": 1.0,
        "servo-gain": 1.0,
        "push": 1.0,
    }
    keys = scene_keys(2, range(3))
    backends = [
        make_backend(kind, "transfer", image_size=32, renderer="warp", perturb=levels) for kind in ("native", name)
    ]
    when = backends[0].reset(keys)[0].changes.kick.step
    assert when.min() < 60
    (here, ours), (there, theirs) = (still(backend, int(when.min()) + 3, keys) for backend in backends)
    jax.tree.map(lambda a, b: assert_same(a, b), here.changes, there.changes)
    for a, b in zip(ours, theirs, strict=True):
        np.testing.assert_allclose(a.qpos, b.qpos, atol=1e-3)


def test_what_a_task_does_not_have_is_refused() -> None:
    task, model = SimpleNamespace(name="empty", objects=()), mujoco.MjModel.from_xml_string("<mujoco/>")
    for name in OF_SCENES:
        if name.startswith("object") or name == "push":
            with pytest.raises(ArgumentError, match=f"--perturb {name}: task 'empty' has no objects"):
                ScenePerturbations({name: 1.0}, task, model)
    with pytest.raises(ArgumentError, match="the robot of task 'empty' has no servos"):
        ScenePerturbations({"servo-gain": 1.0}, task, model)
    with pytest.raises(ArgumentError, match="success in task 'insert' is measured with the sizes of its objects"):
        NativeBackend(Insert(), visual="primitive", perturb={"object-size": 0.1})

    class Fixed(Transfer):
        def sample(self, key: jax.Array) -> jax.Array:
            return super().sample(jax.random.key(0))

    with pytest.raises(ArgumentError, match="always start at the same pose"):
        NativeBackend(Fixed(), visual="primitive", perturb={"object-pose": 0.1})


@pytest.mark.parametrize(
    ("perturb", "message"),
    [
        ({"mass": 1.0}, "there is no such perturbation; did you mean object-mass"),
        ({"zzz": 1.0}, "choose from: object-pose, "),
        ({"friction": -1.0}, "--perturb friction=-1: the level must be a number at least 0"),
        ({"friction": float("inf")}, "must be a number at least 0"),
        ({"object-pose": 1.5}, r"must be a number in \[0, 1\]"),
        ({"control-delay": 1.5}, r"must be a whole number in \[0, 50\]"),
    ],
)
def test_levels_that_cannot_be(perturb: dict[str, float], message: str) -> None:
    with pytest.raises(ArgumentError, match=message):
        require_perturbations(perturb)


def test_names_and_levels_in_words() -> None:
    levels = {"push": 0.5, "friction": 0.0, "object-mass": 1.0}
    require_perturbations(levels)
    assert list(active(levels)) == ["object-mass", "push"]
    assert perturbation_text(levels) == "object-mass 1, push 0.5"
    assert perturbation_text({}) == ""
