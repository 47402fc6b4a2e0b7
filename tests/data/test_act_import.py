"""Episodes recorded by others: every form that is known comes in, everything else is refused with a reason."""

import io
import json

import h5py
import numpy as np
import pytest
from PIL import Image

from imf_jax.data.act_import import ImportSettings, import_episodes
from imf_jax.data.episodes import list_episodes, read_episode, write_episode
from imf_jax.data.statistics import read_statistics
from imf_jax.errors import ArgumentError

STEPS = 9
SETTINGS = ImportSettings(task="transfer")


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
    run(tmp_path, ImportSettings(task="transfer", jpeg_order="rgb"))
    images = read_episode(tmp_path / "out" / "episode_000000.hdf5", images=True).images["top"]
    np.testing.assert_array_equal(images, smooth_pictures())


def test_pictures_are_cut_to_a_square_and_resized(tmp_path, write_foreign):
    pictures = np.zeros((STEPS, 20, 40, 3), np.uint8)
    pictures[:, :, 10:30] = 200
    write_foreign(observations__images__top=pictures, observations__images__side=pictures)
    run(tmp_path, ImportSettings(task="transfer", image_size=16, cameras=("top",)))
    images = read_episode(tmp_path / "out" / "episode_000000.hdf5", images=True).images
    assert list(images) == ["top"]
    np.testing.assert_array_equal(images["top"], np.full((STEPS, 16, 16, 3), 200))


def test_files_of_this_project_come_back_as_they_were(tmp_path, make_episode):
    (tmp_path / "foreign").mkdir()
    written = make_episode(4, success=False)
    write_episode(tmp_path / "foreign", written)
    run(tmp_path)
    read = read_episode(list_episodes(tmp_path / "out")[0])
    for name in ("action", "qpos", "env_state", "reward", "noise"):
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
        ({"reward": np.full(STEPS, np.inf)}, "'reward' is not finite at step 0"),
        ({"observations__images__top": smooth_pictures()[:4]}, "'observations/images/top' has 4 steps, but"),
        ({"observations__images__top": smooth_pictures() / 255}, "'observations/images/top' is float64 (9, 24, 32, 3)"),
        ({"observations__images__top": np.zeros((STEPS, 50), np.uint8)}, "at step 0 is no picture in JPEG or PNG"),
        ({"observations__images": np.zeros(3)}, "'observations/images' is not a group of cameras"),
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
    assert list((tmp_path / "out").iterdir()) == [tmp_path / "out" / "import.json"]


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
    assert "no unit quaternion of the left hand at 9 of 9 steps" in " ".join(report.files[0].notes)
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
        ImportSettings(task="transfer", image_size=0)
