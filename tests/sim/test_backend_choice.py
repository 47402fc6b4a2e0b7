"""Names of backends and devices: what is not there is refused in one line before anything compiles."""

from pathlib import Path
from types import SimpleNamespace
from typing import Any

import jax
import numpy as np
import pytest

from imf_jax.benchmark.lewm import SIZES
from imf_jax.config import VIEWS
from imf_jax.errors import ArgumentError, UserError
from imf_jax.evaluation.manifest import environment
from imf_jax.memory import free_device_memory
from imf_jax.models.encoders.lewm import LewmEncoder
from imf_jax.rollout.capacity import capture_bytes, default_num_envs, require_fit
from imf_jax.rollout.plan_program import PolicyProgram
from imf_jax.sim.backends import choice, warp
from imf_jax.sim.backends.choice import make_backend, resolve_backend, resolve_devices
from imf_jax.sim.rendering import warp_runtime


def devices(monkeypatch: pytest.MonkeyPatch, platform: str, count: int, *, warp_cuda: bool = True) -> None:
    there = [SimpleNamespace(platform=platform, device_kind=platform.upper(), id=i) for i in range(count)]
    monkeypatch.setattr(choice.jax, "local_devices", lambda: there)
    monkeypatch.setattr(choice, "_warp_sees_cuda", lambda: warp_cuda)


def test_auto_is_native_on_a_cpu_and_warp_on_cuda(
    monkeypatch: pytest.MonkeyPatch, caplog: pytest.LogCaptureFixture
) -> None:
    devices(monkeypatch, "cpu", 1)
    assert resolve_backend("auto") == "native"
    devices(monkeypatch, "gpu", 1)
    assert resolve_backend("auto") == "warp"
    devices(monkeypatch, "gpu", 1, warp_cuda=False)
    with caplog.at_level("WARNING"):
        assert resolve_backend("auto") == "native"
    assert "update the NVIDIA driver to R580 or newer; --backend auto takes native" in caplog.text
    assert [resolve_backend(name) for name in ("mjx", "native")] == ["mjx", "native"]
    with pytest.raises(UserError, match="update the NVIDIA driver"):
        resolve_backend("warp")


def test_an_old_driver_is_named(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    devices(monkeypatch, "gpu", 1, warp_cuda=False)
    driver = tmp_path / "version"
    monkeypatch.setattr(warp_runtime, "DRIVER", driver)
    assert warp_runtime.driver_version() is None
    driver.write_text(
        "NVRM version: NVIDIA UNIX Open Kernel Module for x86_64  550.54.15  Release Build  (dvs-builder@U16)\n"
        "GCC version:  gcc version 12.2.0\n"
    )
    with pytest.raises(UserError, match=r"Warp \d[\d.]+ finds no such device with driver 550.54.15; update") as caught:
        resolve_backend("warp")
    assert str(caught.value).count("\n") == 0


def test_a_missing_library_is_named(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(choice.importlib.util, "find_spec", lambda name: None)
    with pytest.raises(UserError, match=r"pip install 'mujoco-mjx\[warp\]"):
        resolve_backend("warp")


def test_a_platform_that_is_not_there_is_named(monkeypatch: pytest.MonkeyPatch) -> None:
    def broken() -> None:
        raise RuntimeError("Unable to initialize backend 'cuda'")

    monkeypatch.setattr(choice.jax, "local_devices", broken)
    with pytest.raises(UserError, match="unset JAX_PLATFORMS"):
        resolve_backend("auto")


def test_devices(monkeypatch: pytest.MonkeyPatch) -> None:
    devices(monkeypatch, "gpu", 4)
    assert [device.id for device in resolve_devices("warp", "all", 8)] == [0, 1, 2, 3]
    assert len(resolve_devices("mjx", 2, 8)) == 2
    for count, scenes, message in (
        (8, 8, "--devices 8 is more than there are: 4"),
        (0, 8, "--devices 0 is more than there are"),
        (3, 8, "8 scenes cannot be shared by 3 devices; .* for example 9"),
        ("all", 6, "6 scenes cannot be shared by 4 devices"),
    ):
        with pytest.raises(ArgumentError, match=message):
            resolve_devices("warp", count, scenes)
    with pytest.raises(ArgumentError, match="--devices 2 would do nothing"):
        resolve_devices("native", 2, 8)


def test_devices_of_a_cluster_are_those_of_one_process(monkeypatch: pytest.MonkeyPatch) -> None:
    devices(monkeypatch, "gpu", 4)
    monkeypatch.setattr(choice.jax, "process_count", lambda: 2)
    assert len(resolve_devices("warp", "all", 8)) == 4
    with pytest.raises(ArgumentError, match=r"there are: 4 .* in this one of 2 processes; --devices counts"):
        resolve_devices("warp", 8, 8)


def test_warp_cannot_render_with_opengl() -> None:
    with pytest.raises(ArgumentError, match="--renderer opengl cannot be part of --backend warp"):
        make_backend("warp", "transfer", image_size=32, renderer="opengl")


@pytest.fixture
def one_of_several_processes(monkeypatch: pytest.MonkeyPatch) -> None:
    """JAX's first device belongs to another process: it is listed and of no use."""

    def unreachable() -> None:
        raise RuntimeError("MemoryStats is only supported for addressable devices")

    elsewhere = SimpleNamespace(platform="cpu", device_kind="of another process", memory_stats=unreachable)
    reachable = jax.devices
    monkeypatch.setattr(jax, "devices", lambda *backend: [elsewhere, *reachable(*backend)])


@pytest.mark.usefixtures("one_of_several_processes")
def test_devices_of_other_processes_are_left_alone(monkeypatch: pytest.MonkeyPatch) -> None:
    here = jax.local_devices()[0]
    for name in ("mjx", "warp"):
        backend = make_backend(name, "transfer", image_size=32, renderer="warp")
        assert backend.bytes_per_scene(()) > 0
        placed = [leaf for leaf in jax.tree.leaves(backend._mjx_model) if isinstance(leaf, jax.Array)]
        assert placed
        assert all(leaf.devices() == {here} for leaf in placed)
    traced_on = []
    monkeypatch.setattr(warp.mjx, "create_render_context", lambda model, devices, **rest: traced_on.append(devices))
    backend._context(2, ("front",))
    assert traced_on == [["cpu" if here.platform == "cpu" else "cuda:0"]]
    free_device_memory()
    assert environment()["device"]["kind"] == here.device_kind


def test_warp_counts_the_devices_that_the_process_sees() -> None:
    assert warp.warp_device(SimpleNamespace(platform="gpu", id=5, local_hardware_id=1)) == "cuda:1"


def seeing(cameras: tuple[str, ...] = ("top", "front")) -> Any:
    return SimpleNamespace(cameras=cameras, obs_horizon=2, weights=())


@pytest.mark.parametrize("free_gb", [1, 8])
def test_what_does_not_fit_is_refused_with_the_largest_that_does(
    monkeypatch: pytest.MonkeyPatch, transfer_backend: Any, free_gb: int
) -> None:
    monkeypatch.setattr("imf_jax.rollout.capacity.free_main_memory", lambda: free_gb * 10**9)
    with pytest.raises(ArgumentError, match="10000000 scenes at once need about") as caught:
        require_fit(transfer_backend, seeing(), 10_000_000)
    largest = int(str(caught.value).rsplit(" ", 1)[1])
    require_fit(transfer_backend, seeing(), largest)
    with pytest.raises(ArgumentError):
        require_fit(transfer_backend, seeing(), largest + 1)
    # At least the pictures of two moments of two cameras, and no more than a hundred times as much.
    pictures = 2 * 2 * 3 * transfer_backend.image_size**2
    assert free_gb * 10**9 / (100 * pictures) < largest < free_gb * 10**9 / pictures


def test_devices_share_what_must_fit(monkeypatch: pytest.MonkeyPatch, transfer_backend: Any) -> None:
    monkeypatch.setattr("imf_jax.rollout.capacity.free_device_memory", lambda: 10**9)
    there = [SimpleNamespace(platform="gpu", local_hardware_id=0)] * 4

    def largest(count: int) -> int:
        with pytest.raises(ArgumentError) as caught:
            require_fit(transfer_backend, seeing(), 10**9, there[:count])
        return int(str(caught.value).rsplit(" ", 1)[1])

    assert largest(4) == 4 * largest(1)


def test_scenes_at_once_follow_from_episodes_and_memory(monkeypatch: pytest.MonkeyPatch, transfer_backend: Any) -> None:
    gpus = [SimpleNamespace(platform="gpu", local_hardware_id=0)] * 3

    def chosen(episodes: int, count: int) -> int:
        return default_num_envs(transfer_backend, seeing(), episodes, gpus[:count])

    monkeypatch.setattr("imf_jax.rollout.capacity.free_main_memory", lambda: None)
    monkeypatch.setattr("imf_jax.rollout.capacity.free_device_memory", lambda: None)
    assert [chosen(episodes, 0) for episodes in (1, 30, 4096)] == [1, 30, 50]
    assert [chosen(episodes, 1) for episodes in (30, 4096)] == [30, 512]
    assert [chosen(episodes, 3) for episodes in (1, 31, 4096)] == [3, 33, 1536]
    monkeypatch.setattr("imf_jax.rollout.capacity.free_device_memory", lambda: 10**8)
    fitting = chosen(4096, 1)
    assert fitting < 512
    require_fit(transfer_backend, seeing(), fitting, gpus[:1])
    monkeypatch.setattr("imf_jax.rollout.capacity.free_device_memory", lambda: 0)
    assert chosen(4096, 1) == 1  # which `require_fit` refuses


def test_an_encoder_needs_the_memory_of_its_layout_for_one_block() -> None:
    """The attention of `row`, 769 tokens, holds some seven times as much as that of `grid`, 257 tokens."""
    weights = {name: np.zeros(()) for name in SIZES.weight_shapes()}
    per_picture = {}
    for fusion in ("row", "grid"):
        per_picture[fusion], at_once = LewmEncoder(weights, SIZES, fusion=fusion).block_memory(256)
        program = PolicyProgram(Any, 2, 16, 0, 8, Any, VIEWS, 0, per_picture[fusion], at_once)  # type: ignore[arg-type]
        assert program.encoder_bytes(4) == 8 * per_picture[fusion]
        assert program.encoder_bytes(1024) == program.encoder_bytes(4096) == at_once * per_picture[fusion] < 2e9
    assert 5 < per_picture["row"] / per_picture["grid"] < 9


@pytest.mark.parametrize(
    ("free_gb", "others", "gb"), [(60, False, "50.0"), (3, True, "13.0")], ids=["empty", "filled by others"]
)
def test_what_other_processes_have_taken_of_a_gpu_is_not_free(
    free_gb: int, others: bool, gb: str, monkeypatch: pytest.MonkeyPatch, transfer_backend: Any
) -> None:
    """JAX counts 60 of the 80 GB as its own; 10 are in use, and its pool holds 20."""
    statistics = {"bytes_limit": 60 * 10**9, "bytes_in_use": 10 * 10**9, "pool_bytes": 20 * 10**9}
    gpu = SimpleNamespace(platform="gpu", local_hardware_id=1, memory_stats=lambda: statistics)
    monkeypatch.setattr("imf_jax.memory.jax.local_devices", lambda: [gpu])
    asked: list[int] = []

    def memory(ordinal: int) -> tuple[int, int]:
        asked.append(ordinal)
        return free_gb * 10**9, 80 * 10**9

    monkeypatch.setattr("imf_jax.rollout.capacity.cuda_memory", memory)
    with pytest.raises(ArgumentError, match=f"the device has {gb} GB free") as caught:
        require_fit(transfer_backend, seeing(), 10**9, [gpu])
    assert ("(other processes use 57.0 GB of it)" in str(caught.value)) == others
    assert asked == [1]


def test_nothing_is_captured_nothing_is_held() -> None:
    assert capture_bytes([], 64, 700, 2**28) == 0
    recorder = SimpleNamespace(bytes_per_episode=lambda steps: 10 * steps)
    assert capture_bytes([recorder], 4, 700, 1000) == 1000 + 4 * 7000
    assert jax.local_devices()
