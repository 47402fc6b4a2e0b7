"""Files that are written whole, and files that only stand for others."""

from pathlib import Path

import pytest

from imf_jax.errors import UserError
from imf_jax.files import require_no_lfs_pointer

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
