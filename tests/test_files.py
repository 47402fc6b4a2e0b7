"""Atomic writing: complete and on the disk, or not at all; files that only stand for others."""

import errno
import os
import stat
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path

import pytest

from imf_jax import files
from imf_jax.errors import UserError
from imf_jax.files import (
    atomic_folder,
    atomic_write,
    new_folders,
    partial_path,
    remove_partials,
    require_no_lfs_pointer,
    write_bytes,
    write_json,
)

LFS_POINTER = b"version https://git-lfs.github.com/spec/v1\noid sha256:4d7a2146\nsize 12345\n"


def test_git_lfs_pointers_are_named(tmp_path: Path) -> None:
    path = tmp_path / "episode_0.hdf5"
    path.write_bytes(LFS_POINTER)
    with pytest.raises(UserError, match=r"episode_0\.hdf5 is a Git LFS pointer.* `git lfs pull`"):
        require_no_lfs_pointer(path)
    for content in (b"", b"\x89HDF\r\n\x1a\n", b"version 2"):
        path.write_bytes(content)
        require_no_lfs_pointer(path)
    require_no_lfs_pointer(tmp_path / "absent")
    require_no_lfs_pointer(tmp_path)


@pytest.fixture
def calls(monkeypatch: pytest.MonkeyPatch) -> list[tuple[str, str]]:
    """What reaches the disk, in order: ("fsync" or "replace", name)."""
    made: list[tuple[str, str]] = []
    fsync, replace = os.fsync, os.replace

    def noted_fsync(descriptor: int) -> None:
        made.append(("fsync", Path(os.readlink(f"/proc/self/fd/{descriptor}")).name))
        fsync(descriptor)

    def noted_replace(source: Path, target: Path) -> None:
        made.append(("replace", Path(target).name))
        replace(source, target)

    monkeypatch.setattr(os, "fsync", noted_fsync)
    monkeypatch.setattr(os, "replace", noted_replace)
    return made


def test_a_file_is_flushed_before_it_has_its_name_and_the_name_after(calls, tmp_path: Path) -> None:
    path = tmp_path / "run" / "a.json"
    write_bytes(path, b"old")
    partial = partial_path(path).name
    assert calls == [("fsync", partial), ("replace", "a.json"), ("fsync", "run")]
    calls.clear()
    write_json(path, {"a": 1})
    assert calls == [("fsync", partial), ("replace", "a.json"), ("fsync", "run")]
    assert path.read_text() == '{\n  "a": 1\n}\n'
    assert os.listdir(path.parent) == ["a.json"]


def test_a_folder_is_flushed_whole(calls, tmp_path: Path) -> None:
    with atomic_folder(tmp_path / "new" / "run") as folder:
        (folder / "deep").mkdir()
        (folder / "deep" / "file").write_text("x")
        assert not (tmp_path / "new" / "run").exists()
    names = [name for _, name in calls]
    assert names == ["file", "deep", folder.name, "run", "new"]
    with atomic_folder(tmp_path / "new" / "run") as again:
        assert again == tmp_path / "new" / "run", "a folder that is there may be a mounted volume"


def test_a_folder_takes_the_place_of_another(tmp_path: Path) -> None:
    for content in ("first", "second"):
        with atomic_write(tmp_path / "4") as partial:
            partial.mkdir()
            (partial / content).touch()
    assert os.listdir(tmp_path) == ["4"]
    assert os.listdir(tmp_path / "4") == ["second"]


@pytest.mark.parametrize("kind", ["file", "folder"])
def test_a_block_that_fails_changes_nothing(tmp_path: Path, kind: str) -> None:
    path = tmp_path / "a"
    path.write_text("old")

    def fail() -> None:
        with atomic_write(path) as partial:
            partial.mkdir() if kind == "folder" else partial.write_text("half")
            raise ZeroDivisionError

    with pytest.raises(ZeroDivisionError):
        fail()
    assert os.listdir(tmp_path) == ["a"]
    assert path.read_text() == "old"


def test_remains_of_killed_writers_are_removed(tmp_path: Path) -> None:
    for name in ("a.json", "episode_000001.hdf5"):
        partial_path(tmp_path / name).write_text("half")
    partial_path(tmp_path / "4").mkdir()
    (tmp_path / ".hidden").touch()
    remove_partials(tmp_path, "episode_*")
    assert len(os.listdir(tmp_path)) == 3
    remove_partials(tmp_path)
    assert os.listdir(tmp_path) == [".hidden"]


@pytest.mark.parametrize("name", ["EINVAL", "ENOTSUP", "EBADF", "EACCES", "ENOSYS"])
def test_a_folder_that_cannot_be_flushed_is_said_once(tmp_path, monkeypatch, caplog, name: str) -> None:
    files._say_unsupported.cache_clear()
    fsync = os.fsync

    def files_only(descriptor: int) -> None:
        if stat.S_ISDIR(os.fstat(descriptor).st_mode):
            number = getattr(errno, name)
            raise OSError(number, os.strerror(number))
        fsync(descriptor)

    monkeypatch.setattr(os, "fsync", files_only)
    for content in (b"first", b"second"):
        write_bytes(tmp_path / "a", content)
    assert (tmp_path / "a").read_bytes() == b"second"
    assert len(caplog.messages) == 1
    assert "cannot flush to disk" in caplog.messages[0]


def test_a_disk_that_fails_is_no_missing_feature(tmp_path, monkeypatch) -> None:
    def broken(descriptor: int) -> None:
        raise OSError(errno.EIO, os.strerror(errno.EIO))

    monkeypatch.setattr(os, "fsync", broken)
    with pytest.raises(OSError, match="Input/output error"):
        write_bytes(tmp_path / "a", b"x")
    assert os.listdir(tmp_path) == []


def test_processes_that_start_in_the_same_second_have_folders_of_their_own(tmp_path, monkeypatch) -> None:
    monkeypatch.setattr(files, "timestamp", lambda: "20261121-143233")

    def work(number: int) -> Path:
        with new_folders(tmp_path / "evals", ["expert"]) as (folder,):
            (folder / str(number)).touch()
            return folder

    with ThreadPoolExecutor(8) as pool:
        made = list(pool.map(work, range(8)))
    assert len(set(made)) == 8
    assert {"20261121-143233_expert", "20261121-143233-2_expert"} <= {path.name for path in made}
    assert all(len(os.listdir(path)) == 1 for path in made)


def test_a_folder_that_stays_empty_is_removed(tmp_path) -> None:
    with pytest.raises(ZeroDivisionError), new_folders(tmp_path, ["a", "b"]):
        raise ZeroDivisionError
    with pytest.raises(ZeroDivisionError), new_folders(tmp_path / "evals", ["a"]):
        raise ZeroDivisionError
    assert os.listdir(tmp_path) == []
    (tmp_path / "evals").symlink_to("nowhere")
    with pytest.raises(UserError, match=r"cannot make a folder in .*; choose one with --out"):
        new_folders(tmp_path / "evals", ["a"]).__enter__()
