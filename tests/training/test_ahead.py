"""Training from pictures that fit neither in memory nor on the disk."""

import re
import threading
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import replace
from pathlib import Path
from types import SimpleNamespace
from typing import Any, cast

import jax.numpy as jnp
import numpy as np
import pytest
from flax import nnx

from imf_jax import checkpoints
from imf_jax.checkpoints import CheckpointMeta
from imf_jax.config import ResNetEncoderConfig, TrainConfig
from imf_jax.data import picture_cache
from imf_jax.data.lerobot.features import Feature, picture_feature
from imf_jax.data.lerobot.writer import LeRobotWriter
from imf_jax.data.picture_cache import cached_pictures, decoded_pictures
from imf_jax.data.pictures import PictureFolder, find_pictures
from imf_jax.data.stretches import Schedule, cut_stretches, pool_size
from imf_jax.data.windows import Demonstrations, load_demonstrations, observed_steps, take_steps
from imf_jax.errors import ArgumentError, UserError
from imf_jax.models.policy import Policy
from imf_jax.training import ahead, loop
from imf_jax.training.source import find_source, hold_out
from imf_jax.training.state import TrainState
from imf_jax.training.trainer import Trainer
from imf_jax.training.vision import with_vision

SIZE, EPISODES, STEPS, BATCH = 40, 8, 60, 4
ROOM = 166
"""Steps whose pictures may be held, a third of all."""

SEES = cast(Policy, SimpleNamespace(frozen_encoder=None))


@pytest.fixture(scope="module")
def recorded(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A LeRobot dataset of a robot without a scene here."""
    folder = tmp_path_factory.mktemp("lerobot") / "recorded"
    features = {
        "observation.state": Feature("float32", (2,), ("a", "b")),
        "action": Feature("float32", (2,), ("a", "b")),
        "observation.images.top": picture_feature(SIZE, SIZE),
    }
    random = np.random.default_rng(0)
    with LeRobotWriter.create(folder, features, 30, robot_type="other") as writer:
        for _ in range(EPISODES):
            frames = [
                {
                    "observation.state": random.normal(size=2),
                    "action": random.normal(size=2),
                    "observation.images.top": random.integers(0, 256, (SIZE, SIZE, 3), np.uint8),
                }
                for _ in range(STEPS)
            ]
            writer.add_episode("move", frames)
    return folder


@pytest.fixture
def seeing(config: TrainConfig, recorded: Path) -> TrainConfig:
    """A run for whose pictures there is room neither in memory nor on the disk."""
    encoder = ResNetEncoderConfig(cameras=("top",), image_size=SIZE, crop_size=33, width=16, keypoints=2)
    sees = replace(config.policy, encoder=encoder)
    room = ROOM * SIZE * SIZE * 3 / 1e9
    return replace(config, data=recorded, policy=sees, batch_size=BATCH, picture_memory=room, picture_disk=0.0)


@pytest.fixture(scope="module")
def found(recorded: Path) -> PictureFolder:
    return find_pictures(recorded, ("top",), SIZE)


@pytest.fixture(scope="module")
def data(recorded: Path) -> Demonstrations:
    return load_demonstrations(recorded)[0]


def test_batches_follow_from_seed_and_step(
    seeing: TrainConfig, found: PictureFolder, data: Demonstrations, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Neither the number of threads nor where a run was resumed matters; pictures are those of the windows."""
    rows = np.r_[0:STEPS, 2 * STEPS : EPISODES * STEPS]  # an episode is held out
    part, whole = take_steps(data, rows), decoded_pictures(found)[rows]
    config, said = replace(seeing, max_steps=130), list[str]()

    def batches(first: int, threads: int) -> list[tuple[np.ndarray, np.ndarray]]:
        monkeypatch.setattr(ahead, "usable_cores", lambda: threads)
        with ahead.decoding_ahead(config, part, found, rows, ROOM + 9, 9, first, said.append) as how:
            return [(np.asarray(steps), np.asarray(images)) for steps, images in how["pictures"]]

    monkeypatch.setattr("imf_jax.data.stretches.AHEAD", 0.4)  # room for several threads
    drawn = batches(0, threads=3)
    assert len(drawn) == 130
    for steps, images in drawn:
        np.testing.assert_array_equal(images, whole[np.asarray(observed_steps(part, steps, 2))])
    for (steps, images), (again, pictures) in zip(drawn[100:], batches(100, threads=1), strict=True):
        np.testing.assert_array_equal(steps, again)
        np.testing.assert_array_equal(images, pictures)
    assert "decoded ahead by 3 threads," in said[0]
    assert "decoded ahead by 1 thread," in said[1]
    assert not [thread.name for thread in threading.enumerate() if thread.name.startswith(("decode", "prefetch"))]


def test_pictures_are_decoded_ahead_where_there_is_room_neither_in_memory_nor_on_the_disk(
    seeing: TrainConfig, found: PictureFolder, monkeypatch: pytest.MonkeyPatch
) -> None:
    whole = found.num_bytes / 1e9

    def room(resumed: CheckpointMeta | None = None, **budgets: float | None) -> int | None:
        return ahead.room_ahead(replace(seeing, **cast(Any, budgets)), found, SEES, resumed)

    meta = CheckpointMeta(1, "none", 0, "newest", "", None, {})
    assert room() == ROOM
    assert room(picture_memory=whole + 1e-6) is None
    assert room(picture_disk=whole + 1e-6) is None
    assert room(picture_disk=None) is None
    assert room(replace(meta, picture_room=70), picture_memory=None, picture_disk=None) == 70, "as the run began"
    with pytest.raises(UserError, match=r"began with all pictures in memory or in a cache, and there is no room"):
        room(meta)
    monkeypatch.setattr(picture_cache, "HEADROOM", 0.0)  # the disk is full
    assert room(picture_disk=None) == room(picture_disk=1.0) == ROOM
    monkeypatch.setattr(ahead, "free_main_memory", lambda: 100_000)
    monkeypatch.setattr("imf_jax.data.pictures.free_main_memory", lambda: 100_000)
    assert room(picture_memory=None) == int(0.8 * 100_000) // (SIZE * SIZE * 3)
    with pytest.raises(UserError, match=r"decoded pictures take up to 0\.0 GB .* has 0\.0 GB free"):
        room()
    assert ahead.room_ahead(seeing, None, SEES, None) is None
    assert ahead.room_ahead(seeing, found, cast(Policy, SimpleNamespace(frozen_encoder=1)), None) is None
    monkeypatch.undo()
    _, path = cached_pictures(found)
    monkeypatch.setattr(picture_cache, "HEADROOM", 0.0)
    assert room(picture_disk=None) is None, "a cache that is there needs no more disk"
    assert room() == ROOM
    path.unlink()


def test_pictures_that_fit_in_memory_need_no_cache(found: PictureFolder, data: Demonstrations) -> None:
    stored, path = cached_pictures(found)
    whole = stored[np.arange(found.num_steps)]
    path.unlink()
    said: list[str] = []
    _, images = with_vision(data, found, SEES, said.append, disk=0)
    np.testing.assert_array_equal(images, whole)
    assert "pictures of top in main memory, without a cache on the disk" in said[0]
    assert not path.exists()


def test_memory_that_is_too_small_for_any_pool_is_refused(
    seeing: TrainConfig, found: PictureFolder, data: Demonstrations
) -> None:
    small, rows = replace(seeing, picture_memory=1e-4), np.arange(EPISODES * STEPS)
    room = ahead.room_ahead(small, found, SEES, None)
    assert room == 20
    with (
        pytest.raises(ArgumentError, match=r"room for those of 20 steps, but batches of 4 need \d+") as refused,
        ahead.decoding_ahead(small, data, found, rows, room, 5, 0, print),
    ):
        pytest.fail("there is no room")
    (enough,) = re.findall(r"--picture-memory ([\d.]+)", str(refused.value))
    room = ahead.room_ahead(replace(small, picture_memory=float(enough)), found, SEES, None)
    assert room is not None
    assert pool_size(room - 5, 1, BATCH, len(rows)) is not None
    assert pool_size(room // 2 - 5, 1, BATCH, len(rows)) is None


@contextmanager
def damaged(found: PictureFolder, episode: int) -> Iterator[None]:
    """The middle of the video of an episode is overwritten for a while; its size stays."""
    video = sorted(found.directory.rglob("*.mp4"))[episode]
    sound = video.read_bytes()
    quarter = len(sound) // 4
    video.write_bytes(sound[:quarter] + bytes(2 * quarter) + sound[3 * quarter :])
    try:
        yield
    finally:
        video.write_bytes(sound)


def test_a_video_that_fails_is_named(seeing: TrainConfig, found: PictureFolder, data: Demonstrations) -> None:
    config, rows, before = replace(seeing, max_steps=130), np.arange(EPISODES * STEPS), list[Any]()
    with (
        damaged(found, 2),
        pytest.raises(UserError, match=r"frame \d+ of episode 2, camera 'top': .*\.mp4: "),
        ahead.decoding_ahead(config, data, found, rows, ROOM, 0, 0, before.append) as how,
    ):
        before.extend(how["pictures"])
    assert not [thread.name for thread in threading.enumerate() if thread.name.startswith(("decode", "prefetch"))]


def test_the_state_is_kept_when_a_picture_cannot_be_decoded(seeing: TrainConfig) -> None:
    def pictures() -> Iterator[int]:
        yield from range(3)
        raise UserError("frame 5 of episode 2 cannot be decoded")

    def step(state: TrainState, variables: Any, data: Any, given: int) -> TrainState:
        assert given == int(state.step)
        return state._replace(step=state.step + 1)

    saved = []
    nothing = cast(Any, SimpleNamespace(variables=None, update=lambda *line: None))
    state = TrainState(jnp.int32(0), *cast(Any, (None,) * 4), sums={"loss": jnp.ones(()), "count": jnp.ones(())})
    config = replace(seeing, max_steps=9, log_every=100)
    trainer = Trainer(
        config, nothing, None, ("loss",), lambda *what: saved.append(what), nothing, nothing,
        compile=lambda *what: step, pictures=pictures(),
    )  # fmt: skip
    with pytest.raises(UserError, match=r"frame 5 of episode 2 .*; the state of step 3 is kept for --resume$"):
        trainer.run(state)
    assert [(int(kept.step), figures) for kept, figures in saved] == [(3, None)]


@pytest.mark.long
def test_a_run_whose_video_was_restored_ends_as_one_that_never_failed(
    seeing: TrainConfig, found: PictureFolder, data: Demonstrations, capsys: pytest.CaptureFixture
) -> None:
    kept = 2 * STEPS  # the windows of the held-out episode
    seeing = replace(seeing, picture_memory=(ROOM + kept) * found.step_bytes / 1e9, max_steps=40)
    _, source = find_source(seeing)
    split = hold_out(source, data, seeing.validation.held_out, seeing.seed)
    assert split is not None
    part, size = take_steps(data, split[0]), pool_size(ROOM, 1, BATCH, len(split[0]))
    assert size is not None
    stretches = cut_stretches(np.asarray(part.first), np.asarray(part.last), size.stretch, 1)
    schedule = Schedule(stretches, size.window, BATCH, seeing.seed)
    episode_of = split[0][stretches.first] // STEPS
    held = [{int(episode_of[schedule.stretch(number)]) for number in schedule.held(step)} for step in range(40)]
    looked_at = {0, EPISODES // 2, EPISODES - 1}  # before training, by the fingerprint
    episode = min(set.union(*held) - held[0] - looked_at)
    with damaged(found, episode), pytest.raises(UserError, match=rf"frame \d+ of episode {episode}, .*\.mp4") as ended:
        loop.train(seeing)
    said = " ".join(capsys.readouterr().out.split())
    assert "are decoded ahead by" in said
    (step,) = map(int, re.findall(r"the state of step (\d+) is kept for --resume$", str(ended.value)))
    newest = checkpoints.newest_checkpoint(seeing.out)
    assert newest is not None
    assert 0 < step == int(newest.name) < 40
    assert checkpoints.read_meta(newest).picture_room == ROOM + kept

    assert loop.train(replace(seeing, resume=True)) == 0
    whole = replace(seeing, out=seeing.out.with_name("whole"))
    assert loop.train(whole) == 0
    assert "held-out action error" in " ".join(capsys.readouterr().out.split())
    ends = [nnx.state(checkpoints.load_policy(run.out).policy) for run in (seeing, whole)]
    for one, other in zip(*map(nnx.to_flat_state, ends), strict=True):
        np.testing.assert_array_equal(one[1][...], other[1][...])
    assert not list(found.directory.glob("pictures_*"))
    assert not [thread.name for thread in threading.enumerate() if thread.name.startswith(("decode", "prefetch"))]
