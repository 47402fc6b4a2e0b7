"""Datasets that others wrote: several episodes per file, any codec, axes and types, and what is not supported."""

import io
import json
from collections.abc import Callable
from fractions import Fraction
from pathlib import Path
from typing import Any

import av
import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq
import pytest
from PIL import Image

from imf_jax.data.inspection import inspect_folder
from imf_jax.data.lerobot.features import feature_from_json
from imf_jax.data.lerobot.maintenance import rewrite_statistics
from imf_jax.data.lerobot.reader import Dataset, open_dataset
from imf_jax.data.playback import open_episode, write_video
from imf_jax.errors import UserError

EPISODES, STEPS, FPS = 3, 8, 20
CAMERA = "observation.images.top"
HEIGHT, WIDTH, STEP = 48, 64, 10
"""Pictures; frame n of a video has the brightness n * STEP."""

QUIET = "log-level=none:"


def encode(
    path: Path, codec: str = "libx264", options: dict[str, str] | None = None, container: dict[str, str] | None = None,
    fps: Fraction = Fraction(FPS), shown_at: Callable[[int], int] = lambda frame: frame,
) -> None:  # fmt: skip
    """Write a video of all episodes; `shown_at` tells the time stamp of a frame in units of 1/fps."""
    path.parent.mkdir(parents=True, exist_ok=True)
    with av.open(str(path), "w", format="mp4", options=container or {}) as file:
        stream = file.add_stream(codec, rate=fps, options=options or {"g": "2"})
        stream.height, stream.width, stream.pix_fmt = HEIGHT, WIDTH, "yuv420p"
        for number in range(EPISODES * STEPS):
            picture = np.full((HEIGHT, WIDTH, 3), STEP * number, np.uint8)
            frame = av.VideoFrame.from_ndarray(picture, format="rgb24")
            frame.pts, frame.time_base = shown_at(number), 1 / fps
            file.mux(stream.encode(frame))
        file.mux(stream.encode(None))


def png(brightness: int) -> bytes:
    stream = io.BytesIO()
    Image.fromarray(np.full((HEIGHT, WIDTH, 3), brightness, np.uint8)).save(stream, "PNG")
    return stream.getvalue()


@pytest.fixture
def write(tmp_path: Path) -> Callable[..., Path]:
    """`write(...)`: a dataset with one file of rows and one video, as LeRobot writes it; returns its folder."""

    def write(
        *, camera: dict[str, Any] | None = None, features: dict[str, Any] | None = None,
        columns: dict[str, Any] | None = None, info: dict[str, Any] | None = None, fps: float = FPS, began: float = 0.0,
        timestamps: np.ndarray | None = None, **video: Any,
    ) -> Path:  # fmt: skip
        folder, count = tmp_path / "foreign", EPISODES * STEPS
        camera = {"dtype": "video", "shape": [HEIGHT, WIDTH, 3], "names": ["height", "width", "channels"]} | (
            camera or {}
        )
        declared = {
            CAMERA: camera,
            "action": {"dtype": "float32", "shape": [2], "names": {"motors": ["a", "b"]}},
            "timestamp": {"dtype": "float32", "shape": [1], "names": None},
            **(features or {}),
        }
        rows = {
            "action": pa.array([[n, -n] for n in range(count)], pa.list_(pa.float32())),
            "timestamp": np.tile(np.arange(STEPS) / fps if timestamps is None else timestamps, EPISODES).astype("f4"),
            "episode_index": np.repeat(np.arange(EPISODES), STEPS),
            **(columns or {}),
        }
        places = {f"{prefix}/{kind}_index": 0 for prefix in ("data", "meta/episodes") for kind in ("chunk", "file")}
        table = []
        for number in range(EPISODES):
            row = {"episode_index": number, "tasks": ["pick"], "length": STEPS, "dataset_from_index": number * STEPS}
            if camera["dtype"] == "video":
                row |= {f"videos/{CAMERA}/{kind}_index": 0 for kind in ("chunk", "file")}
                row |= {f"videos/{CAMERA}/from_timestamp": began + number * STEPS / fps}
            table.append(row | places)
        for part in ("data", "meta/episodes"):
            (folder / part / "chunk-000").mkdir(parents=True)
        pq.write_table(pa.table(rows), folder / "data/chunk-000/file-000.parquet")
        pq.write_table(pa.Table.from_pylist(table), folder / "meta/episodes/chunk-000/file-000.parquet")
        pq.write_table(pa.table({"task_index": [0], "task": ["pick"]}), folder / "meta/tasks.parquet")
        about = {
            "codebase_version": "v3.0",
            "robot_type": None,
            "total_episodes": EPISODES,
            "fps": fps,
            "data_path": "data/chunk-{chunk_index:03d}/file-{file_index:03d}.parquet",
            "video_path": "videos/{video_key}/chunk-{chunk_index:03d}/file-{file_index:03d}.mp4",
            "features": declared,
        }
        (folder / "meta/info.json").write_text(json.dumps(about | (info or {})))
        if camera["dtype"] == "video":
            encode(folder / "videos" / CAMERA / "chunk-000/file-000.mp4", **video)
        return folder

    return write


def frame_numbers(dataset: Dataset, episode: int, **which: int) -> list[int]:
    """Which frames of the video are given for the frames of an episode."""
    pictures = dataset.pictures(dataset.episodes[episode], CAMERA, **which)
    return [round(picture.mean() / STEP) for picture in pictures]


def require_own_frames(folder: Path) -> None:
    """Every episode gives its own frames, from its beginning and from its middle, and nothing is wrong with it."""
    dataset = open_dataset(folder)
    for number in range(EPISODES):
        own = list(range(number * STEPS, (number + 1) * STEPS))
        assert frame_numbers(dataset, number) == own
        for start in range(STEPS):
            assert frame_numbers(dataset, number, start=start, count=2) == own[start : start + 2]
    found = inspect_folder(folder)
    assert found.exit_code == 0, (found.problems, [episode.problems for episode in found.episodes])


CODECS = {
    "H.264": ("libx264", {"g": "2"}),
    "H.264, B frames": ("libx264", {"g": "10", "bf": "3"}),
    "H.264, open groups": ("libx264", {"g": "6", "bf": "3", "x264-params": "open-gop=1"}),
    "H.264, no key frames": ("libx264", {"g": "100", "x264-params": "intra-refresh=1"}),
    "HEVC as LeRobot writes it": ("libx265", {"g": "2", "crf": "30", "x265-params": QUIET}),
    "HEVC, open groups": ("libx265", {"g": "6", "x265-params": QUIET + "bframes=4:open-gop=1"}),
    "HEVC, closed groups": ("libx265", {"g": "6", "x265-params": QUIET + "bframes=4:open-gop=0"}),
    "AV1": ("libsvtav1", {"g": "2", "crf": "30", "preset": "12"}),
    "VP9": ("libvpx-vp9", {"g": "6", "deadline": "realtime", "cpu-used": "8"}),
    "MPEG-4": ("mpeg4", {"g": "6", "bf": "2", "qmin": "1", "qmax": "1"}),
}


@pytest.mark.parametrize("codec", CODECS)
def test_every_frame_is_that_of_its_time_stamp(write: Callable[..., Path], codec: str) -> None:
    name, options = CODECS[codec]
    try:
        av.codec.Codec(name, "w")
    except ValueError:
        pytest.skip(f"this build of PyAV cannot encode with {name}")
    require_own_frames(write(codec=name, options=options))


@pytest.mark.parametrize("form", [{"use_editlist": "0"}, {"movflags": "frag_keyframe+empty_moov"}])
def test_containers_whose_first_frame_is_late(write: Callable[..., Path], form: dict[str, str]) -> None:
    """Without an edit list, the delay of B frames stays in the time stamps."""
    require_own_frames(write(options={"g": "6", "bf": "2"}, container=form))


@pytest.mark.parametrize("codec", ["libx264", "libx265"])
@pytest.mark.parametrize("counted_from", ["first frame", "zero"])
def test_a_clock_that_does_not_start_at_zero(write: Callable[..., Path], codec: str, counted_from: str) -> None:
    began = 0.0 if counted_from == "first frame" else 7 / FPS
    options = {"g": "4", "bf": "2"} | ({"x265-params": QUIET} if codec == "libx265" else {})
    require_own_frames(write(codec=codec, options=options, began=began, shown_at=lambda frame: frame + 7))


def test_a_clock_that_fits_neither_is_not_guessed(write: Callable[..., Path]) -> None:
    folder = write(began=3 / FPS, shown_at=lambda frame: frame + 7)
    with pytest.raises(UserError, match=r"the first frame is at 0\.350 s, the first episode begins at 0\.150 s"):
        frame_numbers(open_dataset(folder), 0)
    assert inspect_folder(folder).exit_code == 1


def test_a_frame_that_is_absent_is_named_and_not_replaced_by_its_neighbour(write: Callable[..., Path]) -> None:
    """From frame 11 on everything is shown one step later."""
    folder = write(shown_at=lambda frame: frame + (frame > 10))
    dataset = open_dataset(folder)
    assert frame_numbers(dataset, 0) == list(range(STEPS))
    with pytest.raises(UserError, match=r"file-000\.mp4: no frame at 0\.5500 s, the nearest is at"):
        frame_numbers(dataset, 1)


def test_an_episode_behind_the_end_of_its_video_is_named(write: Callable[..., Path]) -> None:
    folder = write(began=2 / FPS)
    assert [bool(episode.problems) for episode in inspect_folder(folder).episodes] == [False, False, True]
    assert "ends at 1.200 s, but the episode needs a frame at 1.250 s" in inspect_folder(folder).episodes[2].problems[0]
    with pytest.raises(UserError, match=r"no frame at 1\.2000 s, the nearest is at 1\.1500 s"):
        frame_numbers(open_dataset(folder), 2)


@pytest.mark.parametrize(
    ("fps", "rate"), [(29.97, Fraction(30000, 1001)), (59.94, Fraction(5994, 100)), (12.5, Fraction(25, 2))]
)
def test_fractions_of_frames_per_second_are_kept(
    write: Callable[..., Path], tmp_path: Path, fps: float, rate: Fraction
) -> None:
    folder = write(fps=fps)
    encode(folder / "videos" / CAMERA / "chunk-000/file-000.mp4", fps=rate)
    require_own_frames(folder)
    found = inspect_folder(folder)
    assert (found.hz, found.notes) == (fps, [])
    write_video(tmp_path / "v.mp4", open_episode(folder, 1))
    with av.open(str(tmp_path / "v.mp4")) as played:
        assert float(played.streams.video[0].average_rate) == pytest.approx(fps, abs=1e-4)
    assert rewrite_statistics(folder)["action"]["count"] == [EPISODES * STEPS]


def test_frames_per_second_that_the_rows_contradict_are_noted(write: Callable[..., Path]) -> None:
    folder = write(info={"fps": 29.97})
    assert inspect_folder(folder).hz == 29.97
    assert "29.97 frames per second, but the time stamps of 3 episodes" in inspect_folder(folder).notes[0]
    assert frame_numbers(open_dataset(folder), 1) == list(range(STEPS, 2 * STEPS))


@pytest.mark.parametrize("form", ["bytes", "path", "plain"])
def test_pictures_in_the_rows(write: Callable[..., Path], form: str) -> None:
    pictures = [png(STEP * number) for number in range(EPISODES * STEPS)]
    cells: list[Any] = [{"bytes": picture, "path": None} for picture in pictures]
    if form == "path":
        cells = [{"bytes": None, "path": f"images/{number}.png"} for number in range(len(pictures))]
    folder = write(camera={"dtype": "image"}, columns={CAMERA: pa.array(pictures if form == "plain" else cells)})
    (folder / "images").mkdir()
    for number, picture in enumerate(pictures):
        (folder / "images" / f"{number}.png").write_bytes(picture)
    require_own_frames(folder)
    assert inspect_folder(folder).episodes[0].cameras == {"top": (HEIGHT, WIDTH)}
    assert open_episode(folder, 2).cameras == ("top",)
    rewrite_statistics(folder)
    stats = json.loads((folder / "meta/stats.json").read_text())
    assert stats[CAMERA]["max"] == [[[pytest.approx(STEP * (EPISODES * STEPS - 1) / 255)]]] * 3


@pytest.mark.parametrize(
    ("cell", "problem"),
    [
        ({"bytes": png(0)[:60], "path": None}, "at frame 0: no picture in JPEG or PNG"),
        ({"bytes": None, "path": "../secret.png"}, "leads out of the dataset"),
        ({"bytes": None, "path": None}, "stored as NoneType are not supported"),
        ([1, 2, 3], "stored as list are not supported"),
    ],
)
def test_pictures_in_the_rows_that_cannot_be_read(write: Callable[..., Path], cell: Any, problem: str) -> None:
    folder = write(camera={"dtype": "image"}, columns={CAMERA: pa.array([cell] * (EPISODES * STEPS))})
    assert problem in inspect_folder(folder).episodes[0].problems[0]


@pytest.mark.parametrize(
    ("dtype", "shape", "kind", "expected"),
    [
        ("float32", [2, 3], pa.list_(pa.list_(pa.float32())), (STEPS, 2, 3)),
        ("float64", [2, 3], pa.list_(pa.list_(pa.float64(), 3), 2), (STEPS, 2, 3)),
        ("float32", [6], pa.list_(pa.list_(pa.float32())), (STEPS, 6)),
        ("float32", [3, 2, 1], pa.list_(pa.list_(pa.list_(pa.float32()))), (STEPS, 3, 2, 1)),
        ("uint8", [2, 3], pa.list_(pa.list_(pa.uint8())), (STEPS, 2, 3)),
        ("int32", [1], pa.int32(), (STEPS, 1)),
        ("float16", [], pa.float32(), (STEPS, 1)),
        ("bool", [1], pa.bool_(), (STEPS, 1)),
    ],
)
def test_features_of_any_shape_and_type(
    write: Callable[..., Path], dtype: str, shape: list[int], kind: pa.DataType, expected: tuple[int, ...]
) -> None:
    count = EPISODES * STEPS
    flat = np.arange(count * int(np.prod(shape))) % 2
    nested = flat.reshape(count, *((2, 3) if shape == [6] else shape if shape != [1] else ()))
    values = nested.astype(bool).tolist() if dtype == "bool" else nested.tolist()
    features = {"observation.pose": {"dtype": dtype, "shape": shape, "names": {"motors": None}}}
    folder = write(features=features, columns={"observation.pose": pa.array(values, kind)})
    dataset = open_dataset(folder)
    read = dataset.columns(dataset.episodes[1])["observation.pose"]
    assert (read.shape, read.dtype) == (expected, np.dtype(dtype))
    np.testing.assert_array_equal(read.ravel(), flat.reshape(EPISODES, -1)[1])
    found = inspect_folder(folder)
    assert (found.exit_code, found.notes) == (0, [])
    rewrite_statistics(folder)
    stats = json.loads((folder / "meta/stats.json").read_text())
    assert np.shape(stats["observation.pose"]["mean"]) == expected[1:]


@pytest.mark.parametrize(
    ("shape", "names"),
    [
        ([3, HEIGHT, WIDTH], ["channels", "height", "width"]),
        ([3, HEIGHT, WIDTH], ["channel", "height", "width"]),
        ([3, WIDTH, HEIGHT], ["c", "w", "h"]),
        ([3, HEIGHT, WIDTH], None),
        ([HEIGHT, WIDTH, 3], None),
        ([3, HEIGHT, WIDTH], ["height", "width", "channels"]),
        ([WIDTH, HEIGHT, 3], ["Width", "Height", "Channels"]),
        ([HEIGHT, WIDTH, 3], {"axes": ["height", "width", "channel"]}),
    ],
)
def test_axes_of_pictures_in_any_order(write: Callable[..., Path], shape: list[int], names: Any) -> None:
    folder = write(camera={"shape": shape, "names": names})
    found = inspect_folder(folder)
    assert found.exit_code == 0, found.episodes[0].problems
    assert found.episodes[0].cameras == {"top": (HEIGHT, WIDTH)}


@pytest.mark.parametrize(
    ("names", "expected"),
    [
        (None, ()),
        (["a", "b"], ("a", "b")),
        ({"motors": ["a", "b"]}, ("a", "b")),
        ({"motors": None}, ()),
        ({"a": 0, "b": 1}, ("a", "b")),
        ({"left": ["a"], "right": ["b"]}, ("a", "b")),
        ([], ()),
        (3, ()),
    ],
)
def test_names_in_any_form(names: Any, expected: tuple[str, ...]) -> None:
    assert feature_from_json("action", {"dtype": "float32", "shape": [2], "names": names}).names == expected


DEPTH = "observation.images.depth"


@pytest.mark.parametrize(
    ("name", "feature", "column", "note"),
    [
        ("language", {"dtype": "string", "shape": [1]}, pa.array(["pick"] * 24), "values of type 'string'"),
        ("audio", {"dtype": "audio", "shape": [2], "names": None}, None, "values of type 'audio'"),
        ("points", {"dtype": "float32", "shape": [None, 3]}, None, "values of shape (-1, 3)"),
        (DEPTH, {"dtype": "video", "shape": [48, 64, 1], "names": None}, None, "pictures of shape (48, 64, 1)"),
        (DEPTH, {"dtype": "video", "shape": [48, 64, 3], "info": {"is_depth_map": True}}, None, "pictures of depth"),
        (DEPTH, {"dtype": "image", "shape": [48, 64], "names": ["h", "w"]}, None, "pictures of shape (48, 64)"),
    ],
)  # fmt: skip
def test_what_is_not_supported_is_named_and_the_rest_is_read(
    write: Callable[..., Path], name: str, feature: dict[str, Any], column: Any, note: str
) -> None:
    folder = write(features={name: feature}, columns={} if column is None else {name: column})
    (folder / "meta/stats.json").write_text(json.dumps({name: {"mean": [3.0]}}))
    require_own_frames(folder)
    assert inspect_folder(folder).notes == [f"not supported and left out: {name}, {note}"]
    assert open_episode(folder, 0).cameras == ("top",)
    assert name not in rewrite_statistics(folder)
    assert json.loads((folder / "meta/stats.json").read_text())[name] == {"mean": [3.0]}


@pytest.mark.parametrize(
    ("column", "expected"),
    [
        (pa.array(([False] * (STEPS - 1) + [True]) * EPISODES), True),
        (pa.array([False] * STEPS * EPISODES), False),
        (pa.array([0.7] * STEPS * EPISODES), None),
        (pa.array(([True] + [False] * (STEPS - 1)) * EPISODES), None),
    ],
)
def test_success_is_said_only_where_it_is_known(write: Callable[..., Path], column: pa.Array, expected: Any) -> None:
    dtype = "bool" if column.type == pa.bool_() else "float32"
    feature = {"next.success": {"dtype": dtype, "shape": [1], "names": None}}
    folder = write(features=feature, columns={"next.success": column})
    assert inspect_folder(folder).episodes[0].success is expected


def test_hidden_files_are_not_read(write: Callable[..., Path]) -> None:
    folder = write()
    for path in list(folder.rglob("*.parquet")):
        path.with_name(f"._{path.name}").write_bytes(b"\0\5\x16\7Mac OS X")
    require_own_frames(folder)


@pytest.mark.parametrize("pattern", ["data/*/*.parquet", "videos/*/*/*.mp4", "meta/episodes/*/*", "meta/*.parquet"])
def test_git_lfs_pointers_are_named(write: Callable[..., Path], pattern: str) -> None:
    folder = write()
    for path in folder.glob(pattern):
        path.write_bytes(b"version https://git-lfs.github.com/spec/v1\noid sha256:4d7a\nsize 12345\n")
    with pytest.raises(UserError, match="git lfs pull") as error:
        frame_numbers(open_dataset(folder), 0)
    assert "damaged" not in str(error.value)


def test_a_byte_order_mark_does_no_harm(write: Callable[..., Path]) -> None:
    folder = write()
    info = folder / "meta/info.json"
    info.write_bytes(b"\xef\xbb\xbf" + info.read_bytes())
    assert inspect_folder(folder).exit_code == 0
