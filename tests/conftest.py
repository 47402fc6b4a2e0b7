"""Shared by all tests: what is compiled how, and the demonstration scene, which is built once."""

import gc
import os

import jax
import pytest
from jaxtyping import install_import_hook
from shape_checks import CHECKED

# Before anything imports these modules: their functions then check the shapes of arrays at every call. Users do not pay
# for it, and the scripts that tests start do not either.
install_import_hook(CHECKED, "shape_checks.check_arrays")

from imf_jax.cli import keep_compiled_code
from imf_jax.sim.backends.native import NativeBackend

gc.set_threshold(100_000, 50, 100)  # tracing makes many objects and hardly any cycles: 4 % of the time

pytest_plugins = ["rollout_fixtures"]

keep_compiled_code()
# Compiled code is kept however short its compilation was: modules and workers compile much of the same.
jax.config.update("jax_persistent_cache_min_compile_time_secs", 0.0)
jax.config.update("jax_default_matmul_precision", "highest")  # as in the scripts
QUICK = jax.default_backend() == "cpu"
"""Most tests compile far longer than they compute; on a GPU they are about what it compiles."""

if QUICK:
    os.environ["JAX_DISABLE_MOST_OPTIMIZATIONS"] = "1"  # for the scripts that tests start


SAME_KERNELS = {"test_compiled", "test_backend_agreement"}
"""Files whose first test compiles Warp's kernels of the physics: on one worker they are compiled once."""

LONGEST_FIRST = (
    "test_compiled",
    "test_backend_agreement",
    "test_rounds",
    "test_vision",
    "test_loop",
    "test_delay",
    "test_torch_parity",
    "test_cluster",
    "test_rollouts_benchmark",
)
"""Files that would keep one worker busy after the other is done."""


@pytest.hookimpl(tryfirst=True)
def pytest_collection_modifyitems(items: list[pytest.Item]) -> None:
    """Share the tests between workers file by file, the longest files first."""
    rank = {name: number for number, name in enumerate(LONGEST_FIRST)}
    items.sort(key=lambda item: rank.get(item.path.stem, len(rank)))
    for item in items:
        if "IMF_LONG_TESTS" not in os.environ and item.get_closest_marker("long"):
            item.add_marker(pytest.mark.skip(reason="takes long; make test-long runs it"))
        stem = item.path.stem
        item.add_marker(pytest.mark.xdist_group("kernels" if stem in SAME_KERNELS else stem))


@pytest.fixture(autouse=True, scope="module")
def compile_as(request: pytest.FixtureRequest) -> None:
    """Compile quickly, but as users do in modules marked `optimized`: vectorised code is what parity is claimed for."""
    quickly = QUICK and request.node.get_closest_marker("optimized") is None
    if jax.config.values["jax_disable_most_optimizations"] != quickly:
        jax.clear_caches()
        jax.config.update("jax_disable_most_optimizations", quickly)


@pytest.fixture(scope="session")
def transfer_backend() -> NativeBackend:
    """The transfer scene on C MuJoCo; stateless between calls, so all tests share it."""
    return NativeBackend("transfer", image_size=96)
