"""The client is small: it imports neither JAX nor a simulator."""

import subprocess
import sys


def test_the_client_imports_neither_jax_nor_a_simulator() -> None:
    heavy = ["jax", "jaxlib", "flax", "optax", "orbax", "mujoco", "warp", "scipy", "h5py"]
    show = f"import sys, imf_jax.client; print([name for name in {heavy} if name in sys.modules])"
    done = subprocess.run([sys.executable, "-c", show], capture_output=True, text=True, check=True)
    assert done.stdout.strip() == "[]"
