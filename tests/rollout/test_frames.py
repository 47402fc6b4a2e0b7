"""Pictures for plans: of the right states, fresh, and no more than plans read."""

from collections.abc import Callable
from typing import Any

import numpy as np
import pytest

from imf_jax.rollout.engine import Rollout
from imf_jax.rollout.episode import EpisodeRecord

CAMERAS = ("top", "front")


@pytest.fixture
def seeing_planner(straight_planner: Callable[..., Any]) -> Callable[[int], Any]:
    """A planner that reads pictures, and checks that they show the states it is told."""

    def build(obs_horizon: int) -> Any:
        planner = straight_planner()
        planner.cameras, planner.obs_horizon = CAMERAS, obs_horizon
        blind_plan = planner.plan

        def plan(observations: Any, *others: Any) -> np.ndarray:
            images = observations["images"]
            position = observations["state"][..., :3]
            assert images.dtype == np.uint8
            assert images.shape == (len(position), obs_horizon, len(CAMERAS), 32, 32, 3)
            shown = np.floor(255 * np.clip(position, 0, 1))
            for camera in range(len(CAMERAS)):
                np.testing.assert_allclose(images[:, :, camera, 5, 7], shown, atol=1)
            return blind_plan(observations, *others)

        planner.plan = plan
        return planner

    return build


@pytest.fixture
def counting(monkeypatch: pytest.MonkeyPatch) -> Callable[[Any], list[int]]:
    """Makes a backend note how many pictures each call renders."""

    def watch(backend: Any) -> list[int]:
        calls: list[int] = []
        render = backend.render

        def counted(qpos: np.ndarray, cameras: tuple[str, ...]) -> np.ndarray:
            assert cameras == CAMERAS
            pictures = render(qpos, cameras)
            calls.append(pictures.shape[0] * pictures.shape[1])
            return pictures

        monkeypatch.setattr(backend, "render", counted)
        return calls

    return watch


def roll_out(backend: Any, planner: Any, num_envs: int = 4) -> tuple[dict[int, EpisodeRecord], int]:
    records: list[EpisodeRecord] = []
    options = {"seed": 0, "max_steps": 38, "num_envs": num_envs}
    result = Rollout(backend, planner, range(9), on_record=records.append, **options).run()
    return {record.episode: record for record in records}, result.frames_rendered


@pytest.mark.parametrize("obs_horizon", [1, 2, 4, 6])
@pytest.mark.parametrize("backend_name", ["point_backend", "chunk_backend"])
def test_exactly_the_frames_that_plans_read_are_rendered(
    backend_name: str,
    obs_horizon: int,
    request: pytest.FixtureRequest,
    seeing_planner: Callable[[int], Any],
    counting: Callable[[Any], list[int]],
) -> None:
    backend = request.getfixturevalue(backend_name)
    calls = counting(backend)
    planner = seeing_planner(obs_horizon)
    records, rendered = roll_out(backend, planner)
    assert {record.status for record in records.values()} == {"success", "timeout"}
    # One at the reset, then the new ones among the newest obs_horizon states of each chunk but the last.
    per_replan = min(obs_horizon, planner.num_action_steps)
    expected = len(CAMERAS) * sum(1 + per_replan * (record.replans - 1) for record in records.values())
    assert rendered == expected
    warm_up = len(CAMERAS)
    assert sum(calls) == expected + warm_up


def test_what_happens_does_not_depend_on_pictures_or_on_scenes_at_once(
    chunk_backend: Any, straight_planner: Callable[..., Any], seeing_planner: Callable[[int], Any]
) -> None:
    def outcome(planner: Any, num_envs: int) -> dict[int, tuple]:
        records, _ = roll_out(chunk_backend, planner, num_envs)
        return {e: (r.status, r.steps, r.return_, r.max_reward, r.replans) for e, r in records.items()}

    blind = outcome(straight_planner(), 4)
    assert outcome(seeing_planner(2), 4) == blind
    assert outcome(seeing_planner(2), 1) == blind


def test_a_planner_without_cameras_renders_nothing(
    chunk_backend: Any, straight_planner: Callable[..., Any], counting: Callable[[Any], list[int]]
) -> None:
    calls = counting(chunk_backend)
    _, rendered = roll_out(chunk_backend, straight_planner())
    assert rendered == 0
    assert calls == []
