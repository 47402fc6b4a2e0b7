"""Equality that holds to the bit on a CPU, and up to a tolerance on CUDA.

MuJoCo Warp sorts contacts there by atomic counters, so two runs add the same numbers in another order, and physics
amplifies the difference.
"""

import jax
import numpy as np

ON_CPU = jax.default_backend() == "cpu"


def assert_same(found: object, expected: object, *, atol: float = 2e-3, err_msg: str = "") -> None:
    """Equal arrays on a CPU; on CUDA within `atol`."""
    if ON_CPU:
        np.testing.assert_array_equal(found, expected, err_msg=err_msg)
    else:
        np.testing.assert_allclose(found, expected, atol=atol, err_msg=err_msg)  # type: ignore[arg-type]


def tolerance(on_cpu: float, on_cuda: float) -> float:
    """A tolerance of the device that runs the tests."""
    return on_cpu if ON_CPU else on_cuda
