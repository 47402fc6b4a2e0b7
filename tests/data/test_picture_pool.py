"""A pool of decoded pictures: what is in it, and that it stays within its room whatever threads do."""

import threading
import time
import weakref
from collections.abc import Callable, Iterator
from functools import partial

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from imf_jax.data import picture_pool
from imf_jax.data.lerobot import open_episode
from imf_jax.data.lerobot.features import Feature, picture_feature
from imf_jax.data.lerobot.writer import LeRobotWriter
from imf_jax.data.picture_pool import DecodedRows, PicturePool, read_rows
from imf_jax.data.pictures import PictureFolder, find_pictures
from imf_jax.data.stretches import Schedule, cut_stretches, least_room, pool_size
from imf_jax.errors import UserError
from imf_jax.video import VIEWING, VideoEncoder

LENGTHS = (50, 3, 41, 16, 17, 70, 1, 33)
SIZE, SEED, BATCH, HISTORY = 32, 7, 4, 2


def episodes(lengths: tuple[int, ...]) -> tuple[np.ndarray, np.ndarray]:
    """First and last step of the episode of each step."""
    ends = np.cumsum(lengths)
    return np.repeat(ends - lengths, lengths), np.repeat(ends - 1, lengths)


@pytest.fixture(scope="module")
def videos(tmp_path_factory: pytest.TempPathFactory) -> PictureFolder:
    """A LeRobot dataset whose videos have few key frames; pictures are noise, so that no two are alike."""
    folder = tmp_path_factory.mktemp("lerobot") / "videos"
    features = {
        "observation.state": Feature("float32", (2,), ("a", "b")),
        "action": Feature("float32", (2,), ("a", "b")),
        "observation.images.top": picture_feature(SIZE, SIZE + 16),
        "observation.images.side": picture_feature(SIZE, SIZE),
    }
    random = np.random.default_rng(0)
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(open_episode, "VideoEncoder", partial(VideoEncoder, options=VIEWING))
        with LeRobotWriter.create(folder, features, 30, robot_type="other") as writer:
            for length in LENGTHS:
                frames = [
                    {
                        "observation.state": np.zeros(2),
                        "action": np.zeros(2),
                        "observation.images.top": random.integers(0, 256, (SIZE, SIZE + 16, 3), np.uint8),
                        "observation.images.side": random.integers(0, 256, (SIZE, SIZE, 3), np.uint8),
                    }
                    for _ in range(length)
                ]
                writer.add_episode("move", frames)
    return find_pictures(folder, ("top", "side"), SIZE)


@pytest.fixture(scope="module")
def whole(videos: PictureFolder) -> np.ndarray:
    """All pictures, as they are read in order."""
    return np.concatenate([videos.read(index) for index in range(len(LENGTHS))])


@pytest.fixture
def make_pool(videos: PictureFolder) -> Callable[..., PicturePool]:
    def make(room: int, threads: int = 2) -> PicturePool:
        first, last = episodes(LENGTHS)
        size = pool_size(room, HISTORY, BATCH, len(first))
        assert size is not None
        schedule = Schedule(cut_stretches(first, last, size.stretch, HISTORY), size.window, BATCH, SEED)
        return PicturePool(schedule, videos, np.arange(len(first)), room, threads)

    return make


def observed(steps: np.ndarray) -> np.ndarray:
    first, _ = episodes(LENGTHS)
    return np.maximum(steps[:, None] + np.arange(-HISTORY, 1), first[steps][:, None])


def batches(pool: PicturePool, first: int, end: int) -> Iterator[tuple[np.ndarray, np.ndarray]]:
    window = pool._schedule.window
    for step in range(first, end):
        pool.move_to(step)
        yield pool.take(step, np.random.default_rng(step).integers(0, window, BATCH), observed)


@settings(max_examples=25, deadline=None)
@given(
    st.lists(st.integers(1, 90), min_size=1, max_size=12).map(tuple),
    st.integers(0, 4),
    st.integers(1, 9),
    st.integers(0, 3000),
)
def test_every_step_is_in_the_pool_equally_long_and_pictures_always_fit(
    lengths: tuple[int, ...], history: int, batch_size: int, spare: int
) -> None:
    first, last = episodes(lengths)
    room = least_room(history, batch_size, len(first)) + spare
    size = pool_size(room, history, batch_size, len(first))
    assert size is not None
    stretches = cut_stretches(first, last, size.stretch, history)
    assert stretches.length.max() <= size.stretch
    covered = np.concatenate([f + np.arange(n) for f, n in zip(stretches.first, stretches.length, strict=True)])
    np.testing.assert_array_equal(covered, np.arange(len(first)))
    np.testing.assert_array_equal(stretches.history, np.minimum(stretches.first - first[stretches.first], history))

    schedule, count = Schedule(stretches, size.window, batch_size, SEED), len(stretches.first)
    for epoch in range(2):
        entered = [schedule.stretch(number) for number in range(epoch * count, (epoch + 1) * count)]
        assert sorted(entered) == list(range(count))
    epoch = 1 + -(-size.window // len(first))  # one that begins after the pool of the first step
    seen = np.zeros(len(first), int)
    for step in range((epoch + 1) * len(first) // batch_size + 1):
        held = schedule.held(step)
        numbers, steps = schedule.locate(step, np.arange(size.window))
        assert held == range(numbers.min(), numbers.max() + 1)
        np.add.at(seen, steps[numbers // count == epoch], 1)
        chosen = [schedule.stretch(number) for number in held]
        assert (stretches.length[chosen] + stretches.history[chosen]).sum() + size.ahead <= room
        assert schedule.held(step + 1).start <= held.stop, "no stretch is passed over"
    assert set(seen) == {size.window // batch_size}, "each step is drawn as often as any other"


@pytest.mark.parametrize("threads", [1, 4])
def test_pictures_are_those_of_the_reader_within_the_room(
    make_pool: Callable[..., PicturePool],
    videos: PictureFolder,
    whole: np.ndarray,
    threads: int,
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    """At the borders of stretches and at the beginning of episodes, too, and over more than an epoch."""
    room = least_room(HISTORY, BATCH, len(whole))
    assert 1.5 * room * videos.step_bytes < whole.nbytes
    living, most = [0], [0]
    lock = threading.Lock()

    def count(steps: int) -> None:
        with lock:
            living[0] += steps
            most[0] = max(most[0], living[0])

    def counted(pictures: PictureFolder, first: int, steps: int, should_stop: Callable[[], bool]) -> np.ndarray:
        count(steps)
        found = read_rows(pictures, first, steps, should_stop)
        weakref.finalize(found, count, -steps)
        return found

    monkeypatch.setattr(picture_pool, "read_rows", counted)
    drawn: set[int] = set()
    with make_pool(room, threads) as pool:
        for steps, images in batches(pool, 0, 2 * len(whole) // BATCH):
            np.testing.assert_array_equal(images, whole[observed(steps)])
            assert living[0] <= pool.num_bytes / videos.step_bytes <= room
            drawn.update(steps.tolist())
    assert room / 2 < most[0] <= room, "pictures that are in memory at once, those in work included"
    assert len(drawn) > 0.7 * len(whole)


def test_a_run_that_goes_on_later_reads_the_same(make_pool: Callable[..., PicturePool], whole: np.ndarray) -> None:
    room = least_room(HISTORY, BATCH, len(whole))
    with make_pool(room) as one, make_pool(room, 1) as other:
        expected = list(batches(one, 0, 90))[70:]
        for (steps, images), (again, pictures) in zip(expected, batches(other, 70, 90), strict=True):
            np.testing.assert_array_equal(steps, again)
            np.testing.assert_array_equal(images, pictures)


def test_a_pool_that_is_closed_ends_its_threads_and_who_waits_for_it(
    make_pool: Callable[..., PicturePool], videos: PictureFolder, monkeypatch: pytest.MonkeyPatch
) -> None:
    held_up, ended = threading.Event(), []

    def read_camera(*place: int) -> Iterator[np.ndarray]:
        while True:
            held_up.set()
            time.sleep(0.01)
            yield np.zeros((SIZE, SIZE, 3), np.uint8)

    monkeypatch.setattr(PictureFolder, "read_camera", lambda self, *place: read_camera(*place))
    monkeypatch.setattr("imf_jax.data.picture_pool.np.empty", lambda shape, dtype: np.zeros((10**6, 1, 1, 1, 1), dtype))
    before = set(threading.enumerate())
    with make_pool(least_room(HISTORY, BATCH, 231)) as pool:

        def wait() -> None:
            try:
                pool.move_to(0)
            except BaseException as error:
                ended.append(error)

        waiting = threading.Thread(target=wait)
        waiting.start()
        assert held_up.wait(10)
    waiting.join(10)
    assert len(ended) == 1
    assert set(threading.enumerate()) <= before


def test_what_cannot_be_decoded_is_named(
    make_pool: Callable[..., PicturePool], videos: PictureFolder, monkeypatch: pytest.MonkeyPatch
) -> None:
    read = PictureFolder.read_camera

    def read_camera(self: PictureFolder, index: int, camera: int, start: int, stop: int) -> Iterator[np.ndarray]:
        for step, picture in enumerate(read(self, index, camera, start, stop), start):
            if (index, camera, step) == (5, 1, 37):
                raise UserError("file.mp4: cannot be read as a video; restore that file")
            yield picture

    monkeypatch.setattr(PictureFolder, "read_camera", read_camera)
    with (
        make_pool(least_room(HISTORY, BATCH, 231)) as pool,
        pytest.raises(UserError, match=r"frame 37 of episode 5, camera 'side': file\.mp4: cannot be read as a video"),
    ):
        list(batches(pool, 0, 200))


def test_rows_that_are_read_again_are_decoded_once(
    videos: PictureFolder, whole: np.ndarray, monkeypatch: pytest.MonkeyPatch
) -> None:
    rows = np.array([[0, 0, 1], [48, 49, 50], [230, 229, 228]])
    decoded = DecodedRows(videos)
    np.testing.assert_array_equal(decoded[rows], whole[rows])
    monkeypatch.setattr(PictureFolder, "read_camera", None)
    np.testing.assert_array_equal(decoded[rows[::-1]], whole[rows[::-1]])
    assert decoded.shape == whole.shape
