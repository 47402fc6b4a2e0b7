"""Shapes in signatures are checked in tests, also where broadcasting would hide a wrong one, and only in tests."""

import pkgutil
import re
from collections.abc import Callable
from importlib import import_module
from pathlib import Path
from typing import Any

import jax
import jax.numpy as jnp
import pytest
from flax import nnx
from jaxtyping import TypeCheckError
from shape_checks import CHECKED

import imf_jax
from imf_jax.models.normalizer import Normalizer
from imf_jax.models.objectives.paths import interpolate
from imf_jax.rollout.loop_program import EpisodeBatch, LoopProgram
from imf_jax.sim.kinematics import quaternion_to_matrix

CHUNK, ONE_TIME = jnp.zeros((2, 4, 16)), jnp.zeros(1)
BATCH = EpisodeBatch(*(None for _ in EpisodeBatch._fields))


def mix(time: jax.Array) -> jax.Array:
    return interpolate(CHUNK, CHUNK, time)


def scan_over_times() -> Any:
    return jax.lax.scan(lambda _, time: (None, mix(time)), None, jnp.zeros((3, 1)))


WRONG: dict[str, Callable[[], Any]] = {
    "eager": lambda: mix(ONE_TIME),
    "jit": lambda: jax.jit(mix)(ONE_TIME),
    "vmap": lambda: jax.vmap(mix)(jnp.zeros((3, 1))),
    "scan": scan_over_times,
    "jvp": lambda: jax.jvp(mix, (ONE_TIME,), (ONE_TIME,)),
    "module": lambda: Normalizer(16, "min_max").normalize(jnp.zeros((2, 1))),
    "module under jit": lambda: nnx.jit(Normalizer.normalize)(Normalizer(16, "min_max"), jnp.zeros((2, 1))),
    "kinematics": lambda: quaternion_to_matrix(jnp.zeros((2, 7))),
    "loop": lambda: LoopProgram._control_step(None, None, (None, BATCH), jnp.zeros((2, 1, 16))),
    "dtype": lambda: mix(jnp.zeros(2, jnp.int32)),
}


@pytest.mark.parametrize("call", WRONG.values(), ids=WRONG)
def test_a_wrong_shape_is_refused(call: Callable[[], Any]) -> None:
    with pytest.raises(TypeCheckError):
        call()


def test_the_right_shape_is_not() -> None:
    assert mix(jnp.zeros(2)).shape == CHUNK.shape


def test_every_module_that_has_shapes_in_signatures_is_checked() -> None:
    for module in pkgutil.walk_packages(imf_jax.__path__, "imf_jax."):
        path = Path(imf_jax.__path__[0]).parent / (module.name.replace(".", "/") + ".py")
        if path.is_file() and "from jaxtyping import" in path.read_text():
            assert module.name.startswith(CHECKED), f"add {module.name} to CHECKED in tests/shape_checks.py"
            loader = import_module(module.name).__spec__.loader
            assert type(loader).__name__ == "_JaxtypingLoader", f"{module.name} was imported before the hook"


def test_the_package_does_not_need_the_checker() -> None:
    sources = Path(imf_jax.__path__[0]).rglob("*.py")
    assert not [path for path in sources if re.search(r"\b(import|from) beartype", path.read_text())]
