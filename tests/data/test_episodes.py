"""Demonstration files: round trip, damage that is named, writers that are killed."""

import fcntl
import json
import signal
import subprocess
import sys
import textwrap
import time

import h5py
import numpy as np
import pytest

from imf_jax import files
from imf_jax.data.episodes import (
    collected_episodes,
    episode_number,
    episode_path,
    list_episodes,
    read_episode,
    write_episode,
    write_episodes,
)
from imf_jax.data.inspection import inspect_folder
from imf_jax.data.lerobot.export import export_demonstrations
from imf_jax.data.pictures import find_pictures
from imf_jax.data.playback import open_episode
from imf_jax.errors import UnavailableError, UserError, one_line

ARRAYS = ("action", "state", "env_state", "reward", "noise")


def test_round_trip(tmp_path, make_episode):
    images = {"front": np.random.default_rng(0).integers(0, 256, (20, 6, 8, 3), np.uint8)}
    written = make_episode(7, images=images)
    path = write_episode(tmp_path, written)
    assert path.name == "episode_000007.hdf5"
    read = read_episode(path, images=True)
    for name in ARRAYS:
        np.testing.assert_array_equal(getattr(read, name), getattr(written, name))
        assert getattr(read, name).dtype == np.float32
    np.testing.assert_array_equal(read.images["front"], images["front"])
    for name in ("seed", "episode", "task", "control_hz", "success", "spaces"):
        assert getattr(read, name) == getattr(written, name)
    assert read_episode(path).images == {}


def test_layout_is_the_one_of_act_tools(tmp_path, make_episode):
    images = {"top": np.zeros((20, 4, 4, 3), np.uint8)}
    with h5py.File(write_episode(tmp_path, make_episode(images=images))) as file:
        assert file["/action"].shape == (20, 16)
        assert file["/observations/qpos"].shape == (20, 16)
        assert file["/observations/images/top"][3].shape == (4, 4, 3)
        assert file.attrs["sim"]
        assert "wxyz" in json.loads(file.attrs["units"])["action"]


def test_files_of_older_versions_do_not_describe_their_robot(tmp_path, make_episode):
    path = write_episode(tmp_path, make_episode(spaces=None))
    with h5py.File(path) as file:
        assert "robot" not in file.attrs
    read = read_episode(path)
    assert (read.spaces, read.action.shape) == (None, (20, 16))


def test_list_is_ordered_by_number_and_ignores_other_files(tmp_path, make_episode):
    write_episodes(tmp_path / "made", [make_episode(number) for number in (1_000_000, 2, 11)])
    (tmp_path / "made" / "notes.txt").write_text("x")
    numbers = [episode_number(path) for path in list_episodes(tmp_path / "made")]
    assert numbers == [2, 11, 1_000_000]


def test_missing_and_empty_folders(tmp_path):
    for folder in (tmp_path, tmp_path / "nowhere"):
        with pytest.raises(UserError, match=r"collect\.py") as error:
            list_episodes(folder)
        assert str(folder) in str(error.value)


def damaged(key, change):
    """A damage that replaces a dataset by `change` of its content; None removes it."""

    def damage(path):
        with h5py.File(path, "r+") as file:
            values = file[key][()]
            del file[key]
            if change is not None:
                file[key] = change(values)

    return damage


def not_finite(values):
    values[4] = np.inf
    return values


def without_attribute(name):
    def damage(path):
        with h5py.File(path, "r+") as file:
            del file.attrs[name]

    return damage


def with_robot(text):
    def damage(path):
        with h5py.File(path, "r+") as file:
            file.attrs["robot"] = text

    return damage


def cut_off(path):
    path.write_bytes(path.read_bytes()[:1000])


@pytest.mark.parametrize(
    ("damage", "named"),
    [
        (damaged("action", None), "action"),
        (damaged("observations/qpos", None), "observations/qpos"),
        (damaged("action", lambda x: x[:0]), "action"),
        (damaged("action", lambda x: x[:, :14]), "action"),
        (damaged("action", lambda x: x.astype(np.int32)), "action"),
        (damaged("observations/qpos", lambda x: x[:-1]), "observations/qpos"),
        (damaged("observations/qpos", not_finite), r"observations/qpos.* at step 4"),
        (damaged("observations/env_state", lambda x: x[:, 0]), "observations/env_state"),
        (damaged("observations/env_state", not_finite), "observations/env_state"),
        (damaged("reward", lambda x: x[:, None]), "reward"),
        (damaged("noise", not_finite), "noise"),
        (damaged("observations/images/front", lambda x: x[:5]), "observations/images/front"),
        (damaged("observations/images/front", lambda x: x.astype(np.float32)), "observations/images/front"),
        (damaged("observations/qpos", lambda x: x[:, :14]), "observations/qpos"),
        (damaged("noise", lambda x: x[:, :14]), "noise"),
        (with_robot("{"), "attribute 'robot' does not describe a robot"),
        (with_robot('{"name": "arm"}'), "attribute 'robot' does not describe a robot"),
        (without_attribute("task"), "task"),
        (without_attribute("control_hz"), "control_hz"),
        (cut_off, "cannot be read"),
    ],
)
def test_damage_is_named_in_one_line(tmp_path, make_episode, damage, named):
    path = write_episode(tmp_path, make_episode(images={"front": np.zeros((20, 4, 4, 3), np.uint8)}))
    damage(path)
    with pytest.raises(UserError, match=named) as error:
        read_episode(path, images=True)
    assert str(path) in str(error.value)
    assert "\n" not in str(error.value)


def test_writer_refuses_what_the_reader_would(tmp_path, make_episode):
    bad = make_episode()
    bad.state[3, 2] = np.nan
    with pytest.raises(UserError, match="observations/qpos"):
        write_episode(tmp_path, bad)
    assert list(tmp_path.iterdir()) == []


def test_unwritable_folder_is_named(tmp_path, make_episode):
    with pytest.raises(UserError, match="cannot write"):
        write_episode(tmp_path / "absent", make_episode())


def test_failed_write_keeps_the_old_file(tmp_path, make_episode, monkeypatch):
    path = write_episode(tmp_path, make_episode(0))

    def disk_full(*_):
        raise OSError(28, "No space left on device")

    monkeypatch.setattr(files, "flush_to_disk", disk_full)
    with pytest.raises(UserError, match="No space left"):
        write_episode(tmp_path, make_episode(0, steps=9))
    assert len(read_episode(path)) == 20
    assert list(tmp_path.iterdir()) == [path]


def test_killed_writer_leaves_only_complete_episodes(tmp_path):
    script = textwrap.dedent("""
        import sys
        from itertools import count
        from pathlib import Path
        import numpy as np
        from imf_jax.data.episodes import Episode, write_episodes
        ones = lambda width: np.ones((2000, width), np.float32)
        for start in count(step=8):
            write_episodes(Path(sys.argv[1]), [
                Episode(ones(16), ones(16), ones(7), ones(1)[:, 0], ones(16), 3, number, "transfer", 50.0, True)
                for number in range(start, start + 8)
            ])
    """)
    with subprocess.Popen([sys.executable, "-c", script, str(tmp_path)]) as writer:
        while len(list(tmp_path.glob("episode_*.hdf5"))) < 8:
            assert writer.poll() is None
            time.sleep(0.01)
        writer.send_signal(signal.SIGKILL)
    valid, bad = collected_episodes(tmp_path, task="transfer", seed=3)
    assert len(valid) >= 8
    assert bad == []
    assert sorted(path.name for path in tmp_path.iterdir()) == [episode_path(tmp_path, n).name for n in sorted(valid)]


def test_unfinished_files_are_removed(tmp_path, make_episode):
    path = write_episode(tmp_path, make_episode(0))
    (tmp_path / ".episode_000001.hdf5.0123abcd.partial").write_bytes(b"half")
    assert list_episodes(tmp_path) == [path]
    assert collected_episodes(tmp_path, task="transfer", seed=3) == ({0}, [])
    assert list(tmp_path.iterdir()) == [path]


def test_collected_episodes_tells_valid_from_damaged(tmp_path, make_episode):
    assert collected_episodes(tmp_path / "nowhere", task="transfer", seed=3) == (set(), [])
    assert collected_episodes(tmp_path, task="transfer", seed=3) == (set(), [])
    write_episodes(tmp_path, [make_episode(number) for number in range(4)])
    cut_off(episode_path(tmp_path, 2))
    valid, bad = collected_episodes(tmp_path, task="transfer", seed=3)
    assert valid == {0, 1, 3}
    assert len(bad) == 1
    assert "episode_000002" in bad[0]


@pytest.mark.parametrize("changes", [{"task": "insert"}, {"seed": 4}])
def test_collected_episodes_refuses_another_collection(tmp_path, make_episode, changes):
    write_episode(tmp_path, make_episode(0, **changes))
    with pytest.raises(UserError, match="another folder"):
        collected_episodes(tmp_path, task="transfer", seed=3)


LFS_POINTER = b"version https://git-lfs.github.com/spec/v1\noid sha256:4d7a\nsize 12345\n"


@pytest.fixture(params=["locked", "no permission", "marked as open", "Git LFS pointer"])
def unavailable(request, tmp_path, make_episode, monkeypatch):
    """A folder of two demonstrations, the second of which cannot be read now; and what the message says."""
    path = write_episodes(tmp_path / "demos", [make_episode(number) for number in range(2)])[1]
    if request.param == "locked":
        with path.open("r+b") as holder:
            fcntl.flock(holder, fcntl.LOCK_EX)
            yield path, "Resource temporarily unavailable"
    elif request.param == "no permission":  # by hand, because the super-user may read everything
        opened = h5py.File.__init__

        def refuse(self, name, *arguments, **options):
            if name == path:
                raise PermissionError(13, "Unable to synchronously open file (... errno = 13 ...)")
            opened(self, name, *arguments, **options)

        monkeypatch.setattr(h5py.File, "__init__", refuse)
        yield path, "Permission denied"
    elif request.param == "marked as open":
        script = "import h5py, os, sys; f = h5py.File(sys.argv[1], 'w', libver='latest'); f.flush(); os._exit(0)"
        subprocess.run([sys.executable, "-c", script, str(path)], check=True)
        yield path, "h5clear"
    else:
        path.write_bytes(LFS_POINTER)
        yield path, "git lfs pull"


def test_a_file_that_cannot_be_opened_now_is_not_damaged(unavailable, tmp_path):
    path, reason = unavailable
    before = path.stat().st_mtime_ns, path.stat().st_size
    for read in (
        lambda: read_episode(path),
        lambda: collected_episodes(path.parent, task="transfer", seed=3),
        lambda: find_pictures(path.parent, (), 8),
        lambda: open_episode(path.parent, 1),
    ):
        with pytest.raises(UnavailableError, match=reason) as error:
            read()
        assert str(path) in str(error.value)
        assert "remove" not in str(error.value)
    problem = inspect_folder(path.parent).episodes[1].problems[0]
    assert reason in problem
    assert "remove" not in problem
    left_out = export_demonstrations(path.parent, tmp_path / "export").refused[0]
    assert reason in left_out
    assert "remove" not in left_out
    assert before == (path.stat().st_mtime_ns, path.stat().st_size)


@pytest.mark.parametrize(("label", "success"), [("False", False), (b"true", True), (0.0, False), (np.array([1]), True)])
def test_success_is_what_its_label_says(tmp_path, make_episode, label, success):
    path = write_episode(tmp_path, make_episode(0))
    with h5py.File(path, "r+") as file:
        file.attrs["success"] = label
    assert read_episode(path).success is success


def test_a_score_is_no_label_of_success(tmp_path, make_episode):
    path = write_episode(tmp_path, make_episode(0))
    with h5py.File(path, "r+") as file:
        file.attrs["success"] = 0.6
    with pytest.raises(UserError, match="attribute 'success' is neither true nor false"):
        read_episode(path)


def test_hidden_files_are_no_demonstrations(tmp_path, make_episode):
    path = write_episode(tmp_path, make_episode(0))
    for name in ("._episode_000000.hdf5", ".episode_000001.hdf5"):
        (tmp_path / name).write_bytes(b"\0\5\x16\7Mac OS X")
    assert list_episodes(tmp_path) == [path]
    assert len(inspect_folder(tmp_path).episodes) == 1


def test_files_of_others_are_to_be_imported(tmp_path):
    (tmp_path / "episode_0.HDF5").write_bytes(b"x")
    with pytest.raises(UserError, match=r"data\.py import"):
        list_episodes(tmp_path)


def test_messages_of_libraries_hold_no_address():
    assert one_line(OSError("cannot\n read <_io.BytesIO object at 0x7f12ab>")) == "cannot read <_io.BytesIO object>"
    assert one_line(OSError("read failed: errno = 5, buf = 0x55aa, offset = 0")) == "read failed: errno = 5, offset = 0"
    assert one_line(KeyError()) == "KeyError"
