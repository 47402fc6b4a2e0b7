"""Shared by all tests: compiled code is kept between runs, and the demonstration scene is built once."""

import pytest

from imf_jax.cli import keep_compiled_code
from imf_jax.sim.backends.native import NativeBackend

keep_compiled_code()


@pytest.fixture(scope="session")
def transfer_backend() -> NativeBackend:
    """The transfer scene on C MuJoCo; stateless between calls, so all tests share it."""
    return NativeBackend("transfer", image_size=96)
