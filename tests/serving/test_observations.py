"""Observations under every name that clients use, histories, and what is refused with its reason."""

from typing import Any

import numpy as np
import pytest

from imf_jax.images import fit_square
from imf_jax.serving.observations import ObservationError, ObservationSpec, Session

SPEC = ObservationSpec(("state", "env_state"), 2, 3, 2, (), 8)
SEEING = ObservationSpec(("state", "images"), 2, 3, 0, ("top", "front"), 4)
STATE, ENV = np.arange(3.0), np.arange(2.0)


def pictures(*shape: int) -> np.ndarray:
    return np.random.default_rng(0).integers(0, 256, shape, np.uint8)


@pytest.mark.parametrize(
    "message",
    [
        {"state": STATE, "env_state": ENV, "prompt": "anything"},
        {"observation.state": STATE, "observation.environment_state": ENV},
        {"observation/state": STATE.tolist(), "observation/environment_state": ENV.astype(int)},
    ],
)
def test_states_under_their_names(message: dict[str, Any]) -> None:
    found = SPEC.read(message)
    assert {name: (values.shape, values.dtype) for name, values in found.items()} == {
        "state": ((1, 3), np.float32),
        "env_state": ((1, 2), np.float32),
    }


def test_pictures_under_their_names_are_the_same() -> None:
    top, front = pictures(4, 4, 3), pictures(3, 4, 4)
    whole = np.stack([top, np.moveaxis(front, 0, -1)])
    for message in (
        {"images": whole},
        {"images": {"top": top, "front": front}},
        {"observation.images.front": front, "observation.images.top": top},
        {"observation/images/front": front, "observation/top": top},
    ):
        np.testing.assert_array_equal(SEEING.read({"state": STATE, **message})["images"], whole[None])
    history = np.stack([whole, whole[::-1]])
    both = {"state": np.zeros((2, 3))}
    np.testing.assert_array_equal(SEEING.read({**both, "images": history})["images"], history)
    named = {"top": history[:, 0], "front": np.moveaxis(history[:, 1], -1, 1)}
    np.testing.assert_array_equal(SEEING.read({**both, "images": named})["images"], history)


@pytest.mark.parametrize(
    ("message", "reason"),
    [
        ({"env_state": ENV}, "state is missing or holds no numbers"),
        ({"state": "abc", "env_state": ENV}, "state is missing or holds no numbers"),
        ({"state": [[1.0], [1.0, 2.0]], "env_state": ENV}, "state is missing or holds no numbers"),
        ({"state": STATE[:2], "env_state": ENV}, r"state has shape \(2,\); send \(3,\), or \(2, 3\) with"),
        ({"state": np.zeros((3, 3)), "env_state": ENV}, r"state has shape \(3, 3\)"),
        ({"state": np.array([0, np.nan, 0]), "env_state": ENV}, "state holds a value that is not finite"),
        ({"state": STATE * 1e300, "env_state": ENV}, "not finite"),
        ({"state": np.zeros((2, 3)), "env_state": ENV}, "different numbers of observations"),
        ([1, 2], "a map of names"),
        ({"state": STATE, "env_state": ENV, "replan": -1}, "replan must be a whole number in 0..4294967295"),
        ({"state": STATE, "env_state": ENV, "seed": 0.5}, "seed must be a whole number"),
        ({"state": STATE, "env_state": ENV, "episode": True}, "episode must be a whole number"),
    ],
)
def test_what_cannot_be_read_is_refused_with_its_reason(message: Any, reason: str) -> None:
    with pytest.raises(ObservationError, match=reason):
        Session(SPEC, 0, 0).request(message)


def test_pictures_of_another_size_are_resized_as_in_training() -> None:
    large, tall = pictures(12, 16, 3), pictures(9, 6, 3)
    expected = np.stack([fit_square(large, 4), fit_square(tall, 4)])
    for images in ({"top": large, "front": tall}, {"top": np.moveaxis(large, -1, 0), "front": tall}):
        np.testing.assert_array_equal(SEEING.read({"state": STATE, "images": images})["images"], expected[None])
    history = pictures(2, 2, 12, 16, 3)
    found = SEEING.read({"state": np.stack([STATE, STATE]), "images": history})["images"]
    assert found.shape == (2, 2, 4, 4, 3)
    np.testing.assert_array_equal(found[1, 0], fit_square(history[1, 0], 4))


LATE = ObservationSpec(("state",), 2, 3, 0, (), 4, action_dim=5, delay_training=6)
CONTINUING = ObservationSpec(("state",), 2, 3, 0, (), 4, action_dim=5, prefix_training=6)


def test_a_policy_that_has_learned_it_is_told_of_its_delay() -> None:
    session = Session(LATE, 0, 0)
    assert session.request({"state": STATE}).delay is None
    assert session.request({"state": STATE, "delay": 6}).delay == 6
    assert session.request({"state": STATE, "delay": 0}).group == (0, True, False)
    assert Session(CONTINUING, 0, 0).request({"state": STATE, "delay": 0}).delay is None, "it begins at once anyway"


def test_a_policy_that_has_learned_it_is_given_a_prefix() -> None:
    given = np.arange(35).reshape(7, 5)
    request = Session(CONTINUING, 0, 0).request({"state": STATE, "prefix": given})
    assert request.prefix is not None
    assert request.prefix.dtype == np.float32
    np.testing.assert_array_equal(request.prefix, given)
    assert request.group == (0, False, True)
    assert Session(CONTINUING, 0, 0).request({"state": STATE, "prefix": np.zeros((0, 5))}).prefix is not None


@pytest.mark.parametrize(
    ("spec", "told", "reason"),
    [
        (LATE, {"delay": 7}, "delay is 7; the policy was trained with --delay-training 6"),
        (LATE, {"delay": -1}, "delay must be a whole number"),
        (CONTINUING, {"delay": 1}, "trained with --delay-training 0"),
        (LATE, {"prefix": np.zeros((1, 5))}, "the policy takes no prefix"),
        (CONTINUING, {"prefix": np.zeros((8, 5))}, r"prefix has shape \(8, 5\); send numbers \(0..7, 5\)"),
        (CONTINUING, {"prefix": np.zeros(5)}, r"prefix has shape \(5,\)"),
        (CONTINUING, {"prefix": np.full((1, 5), np.nan)}, "prefix holds a value that is not finite"),
        (CONTINUING, {"prefix": [["a"] * 5]}, "send numbers"),
        (CONTINUING, {"prefix": [[1.0], [1.0, 2.0]]}, "send numbers"),
    ],
)
def test_what_cannot_be_told(spec: ObservationSpec, told: dict[str, Any], reason: str) -> None:
    with pytest.raises(ObservationError, match=reason):
        Session(spec, 0, 0).request({"state": STATE, **told})


@pytest.mark.parametrize(
    ("images", "reason"),
    [
        (None, "picture of camera top is missing or no array of uint8"),
        ({"top": pictures(4, 4, 3)}, "picture of camera front is missing"),
        (
            {"top": pictures(4, 4, 3), "front": pictures(4, 4)},
            r"camera front has shape \(4, 4\); send \(4, 4, 3\)",
        ),
        ({"top": pictures(4, 4, 3), "front": pictures(2, 4, 4, 3)}, "cameras are of different numbers"),
        ({"top": pictures(4, 4, 3), "front": pictures(0, 4, 3)}, r"camera front has shape \(0, 4, 3\)"),
        (pictures(2, 4, 4, 3).astype(float), "images is missing or no array of uint8"),
    ],
)
def test_pictures_that_cannot_be_read(images: Any, reason: str) -> None:
    with pytest.raises(ObservationError, match=reason):
        SEEING.read({"state": STATE, "images": images})


def test_single_observations_become_a_history_per_connection() -> None:
    session = Session(SPEC, 7, 3)

    def states(state: float, **keys: Any) -> tuple[list[float], tuple[int, int, int]]:
        found = session.request({"state": np.full(3, state), "env_state": ENV, **keys})
        return found.observations["state"][:, 0].tolist(), (found.seed, found.episode, found.replan)

    assert states(1) == ([1, 1], (7, 3, 0))
    assert states(2) == ([1, 2], (7, 3, 1))
    assert states(3) == ([2, 3], (7, 3, 2))
    assert states(4, reset=True) == ([4, 4], (7, 3, 0))
    assert states(5, episode=9) == ([5, 5], (7, 9, 0))
    assert states(6, seed=1, replan=np.int64(5)) == ([5, 6], (1, 9, 5))
    assert states(7) == ([6, 7], (1, 9, 6))


def test_a_refused_observation_leaves_the_history_as_it_was() -> None:
    session = Session(SPEC, 0, 0)
    session.request({"state": np.full(3, 1.0), "env_state": ENV})
    with pytest.raises(ObservationError):
        session.request({"state": np.full(3, np.inf), "env_state": ENV, "reset": True})
    found = session.request({"state": np.full(3, 2.0), "env_state": ENV})
    assert (found.observations["state"][:, 0].tolist(), found.replan) == ([1, 2], 1)
