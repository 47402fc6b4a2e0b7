"""Where compiled code is kept, also for users without a home."""

import tempfile
from pathlib import Path

import pytest

from imf_jax.cache import cache_dir
from imf_jax.errors import UserError


def test_cache_folder_follows_the_environment(monkeypatch: pytest.MonkeyPatch, tmp_path) -> None:
    monkeypatch.setenv("IMF_JAX_CACHE", str(tmp_path / "mine"))
    assert cache_dir("warp") == tmp_path / "mine" / "warp"
    assert cache_dir("warp").is_dir()
    monkeypatch.delenv("IMF_JAX_CACHE")
    monkeypatch.setenv("XDG_CACHE_HOME", str(tmp_path))
    assert cache_dir("xla") == tmp_path / "imf_jax" / "xla"
    (tmp_path / "file").write_text("")
    monkeypatch.setenv("IMF_JAX_CACHE", str(tmp_path / "file"))
    with pytest.raises(UserError, match="set IMF_JAX_CACHE to a writable folder"):
        cache_dir("warp")


def test_a_user_without_a_home_has_a_folder_of_its_own(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    def homeless() -> Path:
        raise RuntimeError("Could not determine home directory.")

    monkeypatch.setattr(Path, "home", homeless)
    monkeypatch.setattr(tempfile, "tempdir", str(tmp_path))
    monkeypatch.delenv("XDG_CACHE_HOME", raising=False)
    monkeypatch.setenv("IMF_JAX_CACHE", str(tmp_path / "mine"))
    assert cache_dir("xla") == tmp_path / "mine" / "xla"
    monkeypatch.setenv("IMF_JAX_CACHE", "~nobody-of-this-name/cache")
    with pytest.raises(UserError, match="names no folder"):
        cache_dir("xla")
    monkeypatch.delenv("IMF_JAX_CACHE")
    folder = cache_dir("xla").parent
    assert folder.parent == tmp_path
    assert folder.stat().st_mode & 0o777 == 0o700
    folder.chmod(0o777)
    with pytest.raises(UserError, match="is not private to this user; set IMF_JAX_CACHE"):
        cache_dir("xla")
