"""Choice of how pictures are drawn: the faster renderer, what demonstrations were drawn with, one line about it."""

import json
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import numpy as np
import pytest

from imf_jax.config import EvalConfig, PictureStyle
from imf_jax.data.readers.hdf5 import recorded_style
from imf_jax.errors import ArgumentError
from imf_jax.evaluation.evaluated_policy import EvaluatedPolicy
from imf_jax.evaluation.resume import differences
from imf_jax.evaluation.setup import choose_style
from imf_jax.sim.backends import picture_choice
from imf_jax.sim.backends.picture_choice import resolve_renderer

OPENGL = PictureStyle("opengl", "decimated")


@pytest.fixture
def opengl(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(picture_choice, "find_opengl", lambda: "egl")


def timed(monkeypatch: pytest.MonkeyPatch, **seconds: float) -> list[str]:
    """Renderers that take these times for a call; returns the list of those that are made."""
    made: list[str] = []

    class Scene:
        def __init__(self, task: str, visual: str, size: int, renderer: str) -> None:
            self.name, self.model = renderer, SimpleNamespace(qpos0=np.zeros(3))

        def renderer(self, cameras: tuple[str, ...]) -> Any:
            made.append(self.name)
            return SimpleNamespace(name=self.name, close=lambda: None)

    monkeypatch.setattr(picture_choice, "TaskScene", Scene)
    monkeypatch.setattr(picture_choice, "_time", lambda renderer, qpos: seconds[renderer.name])
    picture_choice._faster.cache_clear()
    return made


def resolve(name: str = "auto", cameras: tuple[str, ...] = ("top",), backend: str = "native") -> str:
    return resolve_renderer(name, "transfer", cameras, backend=backend, image_size=64, scenes=50)  # type: ignore[arg-type]


@pytest.mark.usefixtures("opengl")
def test_auto_is_the_faster_one_tried_out_once(
    monkeypatch: pytest.MonkeyPatch, caplog: pytest.LogCaptureFixture
) -> None:
    made = timed(monkeypatch, warp=0.2, opengl=0.1)
    with caplog.at_level("WARNING"):
        assert [resolve(), resolve()] == ["opengl", "opengl"]
    assert made == ["warp", "opengl"]
    assert caplog.messages == [
        "--renderer auto takes opengl: 80 pictures/s against 40 of warp (1 cameras at 64x64, 8 scenes at once)"
    ]
    timed(monkeypatch, warp=0.1, opengl=0.2)
    assert resolve() == "warp"
    picture_choice._faster.cache_clear()


def test_auto_tries_nothing_where_there_is_no_choice(
    monkeypatch: pytest.MonkeyPatch, caplog: pytest.LogCaptureFixture
) -> None:
    made = timed(monkeypatch)
    monkeypatch.setattr(picture_choice, "find_opengl", lambda: None)
    with caplog.at_level("WARNING"):
        assert resolve() == "warp"
    assert caplog.messages == ["--renderer auto takes warp: no off-screen OpenGL works here"]
    monkeypatch.setattr(picture_choice, "find_opengl", lambda: "egl")
    assert resolve(cameras=()) == resolve(backend="warp") == resolve("warp") == "warp"
    assert resolve("opengl") == "opengl"
    monkeypatch.setattr(picture_choice, "local_devices", lambda: [SimpleNamespace(platform="gpu")])
    assert resolve() == "warp"
    assert made == []


def policy(pictures: PictureStyle | None, cameras: tuple[str, ...] = ("top",)) -> EvaluatedPolicy:
    return EvaluatedPolicy(SimpleNamespace(cameras=cameras), "transfer", "", image_size=64, pictures=pictures)


def flags(**how: Any) -> EvalConfig:
    return EvalConfig(checkpoint=Path("run"), **how)


@pytest.mark.usefixtures("opengl")
def test_a_policy_sees_what_it_learned_from(caplog: pytest.LogCaptureFixture) -> None:
    with caplog.at_level("WARNING"):
        assert choose_style(flags(), policy(OPENGL), "native") == OPENGL
        assert choose_style(flags(), policy(None), "native") == PictureStyle()
        assert choose_style(flags(renderer="opengl"), policy(None), "native") == PictureStyle("opengl")
        assert choose_style(flags(), policy(None, ()), "native") == PictureStyle()
    assert caplog.messages == []
    with caplog.at_level("WARNING"):
        assert choose_style(flags(renderer="warp"), policy(OPENGL), "native") == PictureStyle("warp", "decimated")
        assert choose_style(flags(), policy(OPENGL), "warp") == PictureStyle("warp", "decimated")
    learned = "the policy learned from pictures of opengl with decimated meshes and now sees those of warp"
    assert caplog.messages == [
        f"{learned} with decimated meshes", f"{learned} with decimated meshes: --backend warp cannot draw so",
    ]  # fmt: skip


def test_what_does_not_work_here_is_said(monkeypatch: pytest.MonkeyPatch, caplog: pytest.LogCaptureFixture) -> None:
    monkeypatch.setattr(picture_choice, "find_opengl", lambda: None)
    with caplog.at_level("WARNING"):
        assert choose_style(flags(), policy(OPENGL), "native") == PictureStyle("warp", "decimated")
    assert caplog.messages[0].endswith("sees those of warp with decimated meshes: no off-screen OpenGL works here")


@pytest.mark.parametrize("how", [{"renderer": "auto"}, {"renderer": "opengl"}, {"visual": "decimated"}])
def test_a_flag_about_pictures_that_nobody_sees_is_refused(how: dict[str, Any]) -> None:
    with pytest.raises(ArgumentError, match=f"--{next(iter(how))} .* would do nothing: this policy sees no pictures"):
        choose_style(flags(**how), policy(None, ()), "native")


def test_demonstrations_say_how_they_were_drawn(tmp_path: Path) -> None:
    assert recorded_style(tmp_path) is None
    file = tmp_path / "collection.json"
    file.write_text(json.dumps({"renderer": "opengl", "visual": "decimated", "seed": 0}))
    assert recorded_style(tmp_path) == OPENGL
    file.write_text(json.dumps({"renderer": "opengl"}))  # an older version
    assert recorded_style(tmp_path) == PictureStyle("opengl")
    for damaged in ("{", "[]", '{"renderer": "crayons"}'):
        file.write_text(damaged)
        assert recorded_style(tmp_path) is None


def test_an_evaluation_of_an_older_version_can_be_resumed() -> None:
    before = {"renderer": "warp", "config": {"renderer": "warp"}}
    now = {"renderer": "warp", "visual": "mesh", "config": {"renderer": "warp", "visual": "mesh"}}
    assert differences(before, now) == []
    assert differences(before, now | {"visual": "decimated"}) == ["visual"]
    assert differences({"config": {}}, {"visual": None, "config": {"visual": "mesh"}}) == []
