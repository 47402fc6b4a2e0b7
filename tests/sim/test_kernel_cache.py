"""Torn files of Warp's kernel cache are compiled again; Warp itself is played by a module that counts."""

import os
import sys
import threading
import time
from collections.abc import Callable
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import pytest

from imf_jax.errors import UserError
from imf_jax.sim.rendering import warp_runtime
from imf_jax.sim.rendering.kernel_cache import CHECKSUMS, LOCK, guard_kernel_cache

FILES = {"wp_a.o": b"code" * 100, "wp_a.meta": b'{"smem": 0}'}


@pytest.fixture
def start(tmp_path: Path) -> Callable[[], Any]:
    """Start a process that loads the module `wp_a`; returns it, with a list of what was compiled."""

    def start() -> Any:
        class Module:
            def __init__(self) -> None:
                self.options = {"block_dim": 256}
                self.execs: dict[tuple[None, int], object] = {}

            def get_module_identifier(self, block_dim: int) -> str:
                return "wp_a"

            def load(self, device: str, block_dim: int | None = None, binary_path: str | None = None) -> str:
                folder = tmp_path / self.get_module_identifier(block_dim or 256)
                folder.mkdir(exist_ok=True)
                for name, content in FILES.items():
                    if not (folder / name).exists():
                        time.sleep(0.01)
                        (folder / name).write_bytes(content)
                        compiled.append(name)
                assert all((folder / name).read_bytes() == content for name, content in FILES.items()), "torn"
                self.execs[None, block_dim or 256] = object()
                return "loaded"

        compiled: list[str] = []
        warp: Any = SimpleNamespace(
            Module=Module,
            config=SimpleNamespace(kernel_cache_dir=str(tmp_path)),
            get_device=lambda name: SimpleNamespace(context=None),
        )
        guard_kernel_cache(warp)
        guard_kernel_cache(warp)
        module = warp.Module()
        return SimpleNamespace(load=module.load, compiled=compiled)

    return start


def test_sound_kernels_are_compiled_once(start: Callable[[], Any], tmp_path: Path) -> None:
    first, second = start(), start()
    assert (first.load("cpu"), second.load("cpu"), second.load("cpu")) == ("loaded",) * 3
    assert (first.compiled, second.compiled) == (list(FILES), [])
    assert sorted(os.listdir(tmp_path)) == sorted([LOCK, "wp_a"])


@pytest.mark.parametrize("name", FILES)
@pytest.mark.parametrize("damage", [b"", b"co", b"\0" * 400])
def test_torn_kernels_are_compiled_again(start: Callable[[], Any], tmp_path: Path, name: str, damage: bytes) -> None:
    start().load("cpu")
    (tmp_path / "wp_a" / name).write_bytes(damage)
    second, third = start(), start()
    assert second.load("cpu") == third.load("cpu") == "loaded"
    assert (second.compiled, third.compiled) == ([name], [])


@pytest.mark.parametrize("listed", [None, b"", b"[]", b'{"wp_a.o": 3}'])
def test_kernels_without_a_list_are_not_trusted(start: Callable[[], Any], tmp_path: Path, listed: bytes | None) -> None:
    start().load("cpu")
    path = tmp_path / "wp_a" / CHECKSUMS
    path.unlink() if listed is None else path.write_bytes(listed)
    second, third = start(), start()
    second.load("cpu")
    third.load("cpu")
    assert (second.compiled, third.compiled) == (list(FILES), [])


def test_processes_that_start_together_compile_once(start: Callable[[], Any]) -> None:
    processes = [start() for _ in range(4)]
    threads = [threading.Thread(target=process.load, args=("cpu",)) for process in processes]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    assert [name for process in processes for name in process.compiled] == list(FILES)


def test_a_cache_without_locks_and_files_named_by_the_caller_pass(start: Callable[[], Any], tmp_path: Path) -> None:
    (tmp_path / LOCK).mkdir()
    process = start()
    assert process.load("cpu", 32) == "loaded"
    assert process.load("cpu", binary_path="elsewhere.o") == "loaded"


def test_a_folder_of_kernels_that_cannot_be_written_is_refused_before_warp_starts(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    def start() -> None:
        raise AssertionError("Warp must not start")

    config = SimpleNamespace(log_level=20, kernel_cache_dir=None)
    warp: Any = SimpleNamespace(LOG_INFO=20, LOG_WARNING=30, config=config, init=start)
    monkeypatch.setitem(sys.modules, "warp", warp)
    (tmp_path / "file").write_text("")
    monkeypatch.setenv("WARP_CACHE_PATH", str(tmp_path / "file" / "kernels"))
    with pytest.raises(UserError, match=r"cannot write the cache folder .*kernels .*; set WARP_CACHE_PATH"):
        warp_runtime.start_warp()
    monkeypatch.delenv("WARP_CACHE_PATH")
    monkeypatch.setenv("IMF_JAX_CACHE", str(tmp_path / "file"))
    with pytest.raises(UserError, match="set IMF_JAX_CACHE to a writable folder"):
        warp_runtime.start_warp()
