"""Episodes recorded by others: every form that is known comes in, everything else is refused with a reason."""

import fcntl
import io
import json
import struct
import zlib

import h5py
import numpy as np
import pytest
from PIL import Image
from transfer_task import SPACES

from imf_jax.data import act_import
from imf_jax.data.act_import import import_episodes
from imf_jax.data.act_reader import ImportSettings
from imf_jax.data.episodes import list_episodes, read_episode, write_episode
from imf_jax.data.statistics import read_statistics
from imf_jax.errors import ArgumentError, UserError
from imf_jax.sim.tasks import get_task

STEPS = 9
SETTINGS = ImportSettings("transfer", SPACES)


def smooth_pictures(height: int = 24, width: int = 32) -> np.ndarray:
    """A gradient in which the channels differ, uint8 (T, H, W, 3)."""
    rows, columns = np.mgrid[:height, :width]
    picture = np.stack([6 * rows, 2 * columns, 0 * rows + 30], axis=-1)
    return np.stack([picture + 5 * step for step in range(STEPS)]).astype(np.uint8)


def encode(picture: np.ndarray, kind: str = "JPEG") -> np.ndarray:
    stream = io.BytesIO()
    Image.fromarray(picture).save(stream, kind, **({"quality": 95} if kind == "JPEG" else {}))
    return np.frombuffer(stream.getvalue(), np.uint8)


def actions() -> np.ndarray:
    values = np.random.default_rng(0).normal(size=(STEPS, 16))
    for start in (3, 11):
        values[:, start : start + 4] /= np.linalg.norm(values[:, start : start + 4], axis=1, keepdims=True)
    return values


@pytest.fixture
def write_foreign(tmp_path):
    """`write_foreign(name, **datasets)`: a file in ACT's layout; None leaves a dataset out."""

    def write(name: str = "episode_0.hdf5", compression: str | None = None, **changes: object) -> str:
        datasets = {
            "action": actions(),
            "observations/qpos": np.ones((STEPS, 16)),
            "observations/qvel": np.ones((STEPS, 16)),
        }
        datasets |= {key.replace("__", "/"): value for key, value in changes.items()}
        (tmp_path / "foreign").mkdir(exist_ok=True)
        with h5py.File(tmp_path / "foreign" / name, "w") as file:
            file.attrs["sim"] = False
            for key, value in datasets.items():
                if isinstance(value, list):  # files of different length
                    kind = h5py.vlen_dtype(np.uint8)
                    data = file.create_dataset(key, (len(value),), kind)
                    for step, row in enumerate(value):
                        data[step] = row
                elif value is not None:
                    file.create_dataset(key, data=value, compression=compression)
        return name

    return write


def run(tmp_path, settings=SETTINGS):
    return import_episodes(tmp_path / "foreign", tmp_path / "out", settings)


@pytest.mark.parametrize("compression", [None, "gzip", "lzf"])
def test_raw_pictures_and_float64(tmp_path, write_foreign, compression):
    write_foreign("episode_12.hdf5", compression, observations__images__top=smooth_pictures())
    report = run(tmp_path)
    assert report.exit_code == 0
    episode = read_episode(tmp_path / "out" / "episode_000012.hdf5", images=True)
    np.testing.assert_allclose(episode.action, actions(), atol=1e-6)
    np.testing.assert_array_equal(episode.images["top"], smooth_pictures())
    assert (episode.task, episode.control_hz, episode.success) == ("transfer", 50.0, True)
    assert episode.env_state.shape == (STEPS, 0)
    assert report.files[0].notes == ["no 'observations/env_state'", "no 'reward'"]
    assert report.files[0].cameras == {"top": (24, 32)}
    assert read_statistics(tmp_path / "out").num_steps == STEPS


def padded(rows: list[np.ndarray]) -> np.ndarray:
    longest = max(map(len, rows))
    return np.stack([np.pad(row, (0, longest - len(row))) for row in rows])


@pytest.mark.parametrize("form", [padded, list])
@pytest.mark.parametrize("kind", ["JPEG", "PNG"])
def test_compressed_pictures_in_opencv_order(tmp_path, write_foreign, form, kind):
    """OpenCV takes the first channel for blue, so the file on disk has its channels swapped."""
    rows = [encode(picture[..., ::-1], kind) for picture in smooth_pictures()]
    write_foreign(observations__images__top=form(rows), compress_len=np.array([[float(len(row)) for row in rows]]))
    assert run(tmp_path).exit_code == 0
    images = read_episode(tmp_path / "out" / "episode_000000.hdf5", images=True).images["top"]
    assert np.abs(images.astype(int) - smooth_pictures()).max() <= (0 if kind == "PNG" else 8)


def test_compressed_pictures_in_rgb_order(tmp_path, write_foreign):
    write_foreign(observations__images__top=padded([encode(picture, "PNG") for picture in smooth_pictures()]))
    run(tmp_path, ImportSettings("transfer", SPACES, jpeg_order="rgb"))
    images = read_episode(tmp_path / "out" / "episode_000000.hdf5", images=True).images["top"]
    np.testing.assert_array_equal(images, smooth_pictures())


def test_pictures_are_cut_to_a_square_and_resized(tmp_path, write_foreign):
    pictures = np.zeros((STEPS, 20, 40, 3), np.uint8)
    pictures[:, :, 10:30] = 200
    write_foreign(observations__images__top=pictures, observations__images__side=pictures)
    run(tmp_path, ImportSettings("transfer", SPACES, image_size=16, cameras=("top",)))
    images = read_episode(tmp_path / "out" / "episode_000000.hdf5", images=True).images
    assert list(images) == ["top"]
    np.testing.assert_array_equal(images["top"], np.full((STEPS, 16, 16, 3), 200))


def test_files_of_this_project_come_back_as_they_were(tmp_path, make_episode):
    (tmp_path / "foreign").mkdir()
    written = make_episode(4, success=False)
    write_episode(tmp_path / "foreign", written)
    run(tmp_path)
    read = read_episode(list_episodes(tmp_path / "out")[0])
    for name in ("action", "state", "env_state", "reward", "noise"):
        np.testing.assert_array_equal(getattr(read, name), getattr(written, name))
    assert read.success is False


def spoiled(key: str, step: int = 5, shape: tuple[int, ...] = (STEPS, 16)) -> np.ndarray:
    values = actions() if key == "action" else np.zeros(shape)
    values[step] = np.nan
    return values


@pytest.mark.parametrize(
    ("datasets", "reason"),
    [
        ({"action": None}, "'action' is missing"),
        ({"action": actions()[:, :14]}, r"'action' is float64 (9, 14), expected float (T, 16)"),
        ({"action": spoiled("action")}, "'action' is not finite at step 5"),
        ({"action": np.full((STEPS, 16), 1e300)}, "'action' is not finite at step 0"),
        ({"action": np.zeros((0, 16))}, "'action' has no steps"),
        ({"action": np.zeros((STEPS, 16), int)}, "'action' is int64 (9, 16), expected float"),
        ({"observations__qpos": None}, "'observations/qpos' is missing"),
        ({"observations__qpos": np.ones((STEPS - 1, 16))}, "'observations/qpos' has 8 steps, but 'action' has 9"),
    ],
)  # fmt: skip
def test_a_bad_file_is_named_and_the_others_go_on(tmp_path, write_foreign, datasets, reason):
    write_foreign("episode_0.hdf5", **datasets)
    write_foreign("episode_1.hdf5")
    report = run(tmp_path)
    assert report.exit_code == 3
    assert reason in report.files[0].refused
    assert "\n" not in report.files[0].refused
    assert report.files[1].episode == 1
    saved = json.loads((tmp_path / "out" / "import.json").read_text())
    assert [file["refused"] for file in saved["files"]] == [report.files[0].refused, None]
    assert read_statistics(tmp_path / "out").num_episodes == 1


def test_a_picture_that_is_cut_off_or_of_another_size_is_named(tmp_path, write_foreign):
    rows = [encode(picture) for picture in smooth_pictures()]
    write_foreign("episode_0.hdf5", observations__images__top=[*rows[:3], rows[3][:200], *rows[4:]])
    write_foreign("episode_1.hdf5", observations__images__top=[*rows[:7], *[encode(smooth_pictures(30, 30)[0])] * 2])
    report = run(tmp_path)
    assert report.exit_code == 1
    assert "'observations/images/top' at step 3 is no picture in JPEG or PNG" in report.files[0].refused
    assert "at step 7 has shape (30, 30, 3), but (24, 32, 3) before" in report.files[1].refused
    assert "--image-size brings all to one size" in report.files[1].refused
    assert list((tmp_path / "out").iterdir()) == [tmp_path / "out" / "import.json"]


def bytes_per_step(form: str, rows: list[np.ndarray]) -> np.ndarray:
    """Compressed pictures in one of the forms in which HDF5 holds strings of bytes."""
    longest = max(map(len, rows))
    fixed = np.array([row.tobytes() for row in rows], f"S{longest + 5}")
    if form == "opaque":
        return np.array([np.void(row.tobytes().ljust(longest, b"\0")) for row in rows])
    if form in ("signed rows", "padded rows"):
        return padded(rows).astype(np.int8 if form == "signed rows" else np.uint8)
    return fixed[:, None] if form == "fixed length (T, 1)" else fixed


@pytest.mark.parametrize("form", ["fixed length", "fixed length (T, 1)", "opaque", "signed rows", "padded rows"])
@pytest.mark.parametrize("kind", ["JPEG", "PNG"])
def test_compressed_pictures_as_strings_of_bytes(tmp_path, write_foreign, form, kind):
    rows = [encode(picture[..., ::-1], kind) for picture in smooth_pictures()]
    write_foreign(observations__images__top=bytes_per_step(form, rows))
    report = run(tmp_path)
    assert report.exit_code == 0, report.files[0].refused
    images = read_episode(tmp_path / "out" / "episode_000000.hdf5", images=True).images["top"]
    assert np.abs(images.astype(int) - smooth_pictures()).max() <= (0 if kind == "PNG" else 8)


@pytest.mark.parametrize("sign", [np.uint8, np.int8])
def test_compressed_pictures_of_any_length(tmp_path, write_foreign, sign):
    write_foreign()
    with h5py.File(tmp_path / "foreign" / "episode_0.hdf5", "a") as file:
        data = file.create_dataset("observations/images/top", (STEPS, 1), h5py.vlen_dtype(sign))
        for step, picture in enumerate(smooth_pictures()):
            data[step, 0] = encode(picture, "PNG").view(sign)
    assert run(tmp_path, ImportSettings("transfer", SPACES, jpeg_order="rgb")).exit_code == 0
    images = read_episode(tmp_path / "out" / "episode_000000.hdf5", images=True).images["top"]
    np.testing.assert_array_equal(images, smooth_pictures())


def test_a_string_that_is_too_short_for_its_picture_is_named(tmp_path, write_foreign):
    rows = [encode(picture).tobytes() for picture in smooth_pictures()]
    write_foreign(observations__images__top=np.array(rows, f"S{max(map(len, rows)) - 20}"))
    assert "is no picture in JPEG or PNG (image file is truncated" in run(tmp_path).files[0].refused


def png_of_size(width: int, height: int) -> np.ndarray:
    """A small file that says it is a large picture."""

    def chunk(kind: bytes, content: bytes) -> bytes:
        return struct.pack(">I", len(content)) + kind + content + struct.pack(">I", zlib.crc32(kind + content))

    header = chunk(b"IHDR", struct.pack(">IIBBBBB", width, height, 8, 2, 0, 0, 0))
    content = b"\x89PNG\r\n\x1a\n" + header + chunk(b"IDAT", zlib.compress(bytes(100))) + chunk(b"IEND", b"")
    return np.frombuffer(content, np.uint8)


def jpeg_of_size(width: int, height: int) -> np.ndarray:
    content = bytearray(encode(smooth_pictures()[0]).tobytes())
    place = content.find(b"\xff\xc0") + 5
    content[place : place + 4] = struct.pack(">HH", height, width)
    return np.frombuffer(bytes(content), np.uint8)


@pytest.mark.parametrize("form", [padded, list])
@pytest.mark.parametrize("picture", [png_of_size, jpeg_of_size])
@pytest.mark.parametrize("size", [(30000, 30000), (12000, 12000), (60000, 16), (4097, 4096)])
def test_a_picture_that_claims_to_be_huge_refuses_its_episode_only(tmp_path, write_foreign, form, picture, size):
    write_foreign("episode_0.hdf5", observations__images__top=form([picture(*size)] * STEPS))
    write_foreign("episode_1.hdf5")
    report = run(tmp_path)
    assert report.exit_code == 3
    assert "more than 4096" in report.files[0].refused
    assert json.loads((tmp_path / "out" / "import.json").read_text())["files"][1]["episode"] == 1


def test_raw_pictures_can_be_too_large_too(tmp_path, write_foreign):
    write_foreign()
    with h5py.File(tmp_path / "foreign" / "episode_0.hdf5", "a") as file:
        file.create_dataset("observations/images/top", (STEPS, 16, 5000, 3), "u1", chunks=(1, 16, 5000, 3))
    assert "more than 4096 pixels" in run(tmp_path).files[0].refused


def depth_png() -> list[np.ndarray]:
    stream = io.BytesIO()
    Image.fromarray(np.full((24, 32), 3000, np.uint16)).save(stream, "PNG")
    return [np.frombuffer(stream.getvalue(), np.uint8)] * STEPS


@pytest.mark.parametrize(
    ("datasets", "note"),
    [
        ({"observations__images__depth": np.zeros((STEPS, 24, 32), np.uint16)}, "/depth' is uint16"),
        ({"observations__images__depth": np.zeros((STEPS, 24, 32, 1), np.uint8)}, "is uint8 (9, 24, 32, 1)"),
        ({"observations__images__depth": smooth_pictures() / 255}, "is float64 (9, 24, 32, 3)"),
        ({"observations__images__depth": smooth_pictures()[:4]}, "has 4 steps, but 'action' has 9"),
        ({"observations__images__depth": depth_png()}, "at step 0 is a picture of mode 'I;16', which holds no colours"),
        ({"observations__images__depth": [np.arange(50, dtype=np.uint8)] * STEPS}, "is no picture in JPEG or PNG"),
        ({"observations__images__depth/left": np.zeros(3)}, "'observations/images/depth' is not a dataset"),
    ],
)  # fmt: skip
def test_a_camera_without_colours_is_left_out(tmp_path, write_foreign, datasets, note):
    write_foreign(observations__images__top=smooth_pictures(), **datasets)
    report = run(tmp_path)
    assert report.exit_code == 0
    assert list(report.files[0].cameras) == ["top"]
    assert any(line.startswith("left out: ") and note in line for line in report.files[0].notes)


def test_a_camera_without_colours_can_be_asked_for_in_vain(tmp_path, write_foreign):
    write_foreign(observations__images__depth=np.zeros((STEPS, 24, 32), np.uint16))
    report = run(tmp_path, ImportSettings("transfer", SPACES, cameras=("depth",)))
    assert "'observations/images/depth' is uint16 (9, 24, 32)" in report.files[0].refused


@pytest.mark.parametrize(
    ("datasets", "note"),
    [
        ({"reward": np.array(["a"] * STEPS, "S1")}, "'reward' is |S1 (9,)"),
        ({"reward": np.full(STEPS, np.inf)}, "'reward' is not finite at step 0"),
        ({"rewards": np.ones((STEPS, 3))}, "'rewards' is float64 (9, 3)"),
        ({"reward": np.ones(STEPS + 1)}, "'reward' has 10 steps"),
        ({"reward": np.float64(3)}, "'reward' is float64 ()"),
        ({"reward/total": np.ones(STEPS)}, "'reward' is not a dataset"),
        ({"noise": np.ones((STEPS, 14))}, "'noise' is float64 (9, 14)"),
        ({"observations__env_state": np.ones((STEPS, 2, 3))}, "'observations/env_state' is float64 (9, 2, 3)"),
        ({"observations__images": np.zeros(3)}, "'observations/images' is not a group of cameras"),
        ({"observations__effort": np.zeros((2, 2)), "observations__qvel": None}, None),
    ],
)
def test_what_is_not_needed_is_left_out_if_it_does_not_fit(tmp_path, write_foreign, datasets, note):
    write_foreign(**datasets)
    report = run(tmp_path)
    assert report.exit_code == 0
    left_out = [line for line in report.files[0].notes if line.startswith("left out: ")]
    assert (note in left_out[0]) if note else not left_out
    read = read_episode(tmp_path / "out" / "episode_000000.hdf5")
    assert not read.reward.any()
    assert not read.noise.any()


@pytest.mark.parametrize("kind", [int, bool, np.uint8, np.float16])
def test_rewards_may_be_whole_numbers(tmp_path, write_foreign, kind):
    reward = np.arange(STEPS) > 4
    write_foreign(rewards=reward.astype(kind), observations__env_state=np.ones((STEPS, 7), int))
    assert run(tmp_path).exit_code == 0
    read = read_episode(tmp_path / "out" / "episode_000000.hdf5")
    np.testing.assert_array_equal(read.reward, reward.astype(np.float32))
    assert read.env_state.shape == (STEPS, 7)


STEPWISE = np.arange(STEPS) == STEPS - 1


@pytest.mark.parametrize(
    ("label", "expected"),
    [
        *(
            (value, True)
            for value in (True, 1, 1.0, np.array([True]), np.array([[1.0]]), "True", b"true", "yes", "1.0")
        ),
        *((value, False) for value in (False, 0, 0.0, np.array([False]), np.array([0]), "False", b"false", "no", "0")),
        *((value, True) for value in (STEPWISE, STEPWISE.astype(float), STEPWISE[:, None])),
        (np.zeros(STEPS), False),
        *((value, None) for value in (0.7, 2, np.nan, "maybe", np.array([0.5]), STEPWISE[::-1].copy())),
        *((value, None) for value in (np.array([]), h5py.Empty("f"), np.array(["True", "no"], "S4"))),
    ],
)
@pytest.mark.parametrize("place", ["attribute", "dataset", "group"])
def test_labels_of_success(tmp_path, write_foreign, label, expected, place):
    write_foreign()
    with h5py.File(tmp_path / "foreign" / "episode_0.hdf5", "a") as file:
        if place == "attribute":
            file.attrs["success"] = label
        elif place == "dataset":
            file.create_dataset("Success", data=label)
        else:
            file.create_group("info").attrs["is_success"] = label
    report = run(tmp_path)
    assert report.exit_code == 0
    assert read_episode(tmp_path / "out" / "episode_000000.hdf5").success is (expected or False)
    noted = any("is not understood as a label of success" in note for note in report.files[0].notes)
    assert noted is (expected is None)


@pytest.mark.parametrize(
    ("attributes", "expected"),
    [
        ({"failed": True}, False),
        ({"failure": 0}, True),
        ({"success": True, "failed": True}, False),
        ({"success": True, "is_success": "maybe"}, False),
        ({"success_threshold": 0.2}, True),
        ({}, True),
    ],
)
def test_several_labels_of_success(tmp_path, write_foreign, attributes, expected):
    write_foreign()
    with h5py.File(tmp_path / "foreign" / "episode_0.hdf5", "a") as file:
        file.attrs.update(attributes)
    run(tmp_path)
    assert read_episode(tmp_path / "out" / "episode_000000.hdf5").success is expected


def test_a_link_is_no_label(tmp_path, write_foreign):
    write_foreign("episode_0.hdf5", success=True)
    write_foreign("episode_1.hdf5")
    with h5py.File(tmp_path / "foreign" / "episode_1.hdf5", "a") as file:
        file["success"] = h5py.ExternalLink(str(tmp_path / "foreign" / "episode_0.hdf5"), "/success")
        file["info"] = h5py.ExternalLink(str(tmp_path / "foreign" / "episode_0.hdf5"), "/")
    run(tmp_path)
    assert not read_episode(tmp_path / "out" / "episode_000001.hdf5").success


def test_hidden_files_are_no_episodes_and_endings_are_of_any_case(tmp_path, write_foreign):
    for name in ("episode_0.hdf5", "episode_1.HDF5", "episode_2.h5", "episode_3.H5"):
        write_foreign(name)
        (tmp_path / "foreign" / f"._{name}").write_bytes(b"\0\5\x16\7\0\2\0\0Mac OS X")
    (tmp_path / "foreign" / ".episode_9.hdf5").write_bytes(b"")
    report = run(tmp_path)
    assert [(file.episode, file.refused) for file in report.files] == [(number, None) for number in range(4)]


def test_the_report_is_written_whatever_happens(tmp_path, write_foreign, monkeypatch):
    write_foreign("episode_0.hdf5")
    write_foreign("episode_1.hdf5")
    write_foreign("episode_2.hdf5")

    def write_until_full(folder, episode):
        if episode.episode == 1:
            raise UserError("no space left")
        return write_episode(folder, episode)

    monkeypatch.setattr(act_import, "write_episode", write_until_full)
    with pytest.raises(UserError, match="no space left"):
        run(tmp_path)
    saved = json.loads((tmp_path / "out" / "import.json").read_text())
    assert [file["episode"] for file in saved["files"]] == [0]


def test_the_report_is_the_same_every_time(tmp_path, write_foreign):
    rows = [encode(smooth_pictures()[0])] * STEPS
    write_foreign("episode_0.hdf5", observations__images__top=[*rows[:4], np.ones(9, np.uint8), *rows[5:]])
    (tmp_path / "foreign" / "episode_1.hdf5").mkdir()
    run(tmp_path)
    first = (tmp_path / "out" / "import.json").read_text()
    assert "0x" not in first
    assert "at step 4 is no picture in JPEG or PNG" in first


def test_a_file_that_cannot_be_opened_now_is_called_so(tmp_path, write_foreign):
    path = tmp_path / "foreign" / write_foreign("episode_0.hdf5")
    write_foreign("episode_1.hdf5")
    (tmp_path / "foreign" / "episode_2.hdf5").write_bytes(b"version https://git-lfs.github.com/spec/v1\n")
    with path.open("r+b") as holder:
        fcntl.flock(holder, fcntl.LOCK_EX)
        report = run(tmp_path)
    assert report.files[0].refused.startswith("cannot be opened now (Resource temporarily unavailable)")
    assert report.files[1].refused is None
    assert "git lfs pull" in report.files[2].refused


def test_data_from_other_files_is_not_followed(tmp_path, write_foreign):
    secret = tmp_path / "secret.bin"
    secret.write_bytes(np.ones((STEPS, 16)).tobytes())
    for number in range(3):
        write_foreign(f"episode_{number}.hdf5", observations__qpos=None)
    folder = tmp_path / "foreign"
    with h5py.File(folder / "episode_0.hdf5", "a") as file:
        file["observations"].create_dataset("qpos", (STEPS, 16), "f8", external=[(str(secret), 0, h5py.h5f.UNLIMITED)])
    with h5py.File(folder / "episode_1.hdf5", "a") as file:
        file["observations/qpos"] = h5py.ExternalLink(str(folder / "episode_0.hdf5"), "/action")
    with h5py.File(folder / "episode_2.hdf5", "a") as file:
        layout = h5py.VirtualLayout((STEPS, 16), "f8")
        layout[:] = h5py.VirtualSource(folder / "episode_0.hdf5", "action", (STEPS, 16))
        file.create_virtual_dataset("observations/qpos", layout)
    reasons = [file.refused for file in run(tmp_path).files]
    assert reasons == [
        "'observations/qpos' takes its data from another file",
        "'observations/qpos' is a link and not data",
        "'observations/qpos' takes its data from another file",
    ]


def test_a_file_that_claims_to_be_huge_is_not_unpacked(tmp_path, write_foreign):
    write_foreign("episode_0.hdf5", action=None)
    with h5py.File(tmp_path / "foreign" / "episode_0.hdf5", "a") as file:
        file.create_dataset("action", (10**12, 16), "f4", chunks=(1000, 16), compression="gzip")
    assert "which is more than 8 GiB" in run(tmp_path).files[0].refused


def test_other_damage_and_odd_quaternions(tmp_path, write_foreign):
    write_foreign("episode_0.hdf5", action=np.ones((STEPS, 16)))
    (tmp_path / "foreign" / "episode_1.hdf5").write_bytes(b"not HDF5")
    report = run(tmp_path)
    assert "no unit quaternion of the left arm at 9 of 9 steps" in " ".join(report.files[0].notes)
    assert "cannot be read" in report.files[1].refused


def test_scene_states_must_be_alike(tmp_path, write_foreign):
    write_foreign("episode_0.hdf5", observations__env_state=np.ones((STEPS, 7)))
    write_foreign("episode_1.hdf5")
    report = run(tmp_path)
    assert report.files[1].refused == "env_state has 0 channels, but 7 in the episodes before"


def test_folders_are_checked_first(tmp_path, write_foreign):
    with pytest.raises(ArgumentError, match="is not a folder"):
        run(tmp_path)
    (tmp_path / "foreign").mkdir()
    with pytest.raises(ArgumentError, match=r"holds no \.hdf5 or .h5 file"):
        run(tmp_path)
    write_foreign()
    run(tmp_path)
    with pytest.raises(ArgumentError, match="is not empty; choose another --out"):
        run(tmp_path)
    with pytest.raises(ArgumentError, match="image_size 0"):
        ImportSettings("transfer", SPACES, image_size=0)


def test_episodes_of_aloha_have_joint_targets(tmp_path, write_foreign):
    """As ACT's own simulation records them: 14 joints, qvel, three cameras of 480x640 and padded JPEG."""
    robot = get_task("aloha-transfer").robot.spaces
    values = np.random.default_rng(0).normal(size=(STEPS, 14))
    joints = {"action": values, "observations__qpos": values + 0.1, "observations__qvel": values}
    pictures = {f"observations__images__{camera}": smooth_pictures(48, 64) for camera in ("top", "angle", "vis")}
    write_foreign("episode_3.hdf5", **joints, **pictures)
    report = run(tmp_path, ImportSettings("aloha-transfer", robot, image_size=32))
    assert [file.refused for file in report.files] == [None]
    (path,) = list_episodes(tmp_path / "out")
    episode = read_episode(path, images=True)
    np.testing.assert_array_equal(episode.action, values.astype(np.float32))
    np.testing.assert_array_equal(episode.state, (values + 0.1).astype(np.float32))
    assert (episode.spaces, episode.env_state.shape) == (robot, (STEPS, 0))
    assert {name: array.shape for name, array in episode.images.items()} == dict.fromkeys(
        ("top", "angle", "vis"), (STEPS, 32, 32, 3)
    )
    assert not any("quaternion" in note for file in report.files for note in file.notes)


def test_the_widths_are_those_of_the_robot_of_the_task(tmp_path, write_foreign):
    write_foreign(action=np.ones((STEPS, 14)), observations__qpos=np.ones((STEPS, 14)))
    report = run(tmp_path)
    assert report.files[0].refused == "'action' is float64 (9, 14), expected float (T, 16)"
