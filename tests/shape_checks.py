"""What jaxtyping's import hook does to the functions of the package in tests, see `conftest.py`."""

from collections.abc import Callable
from typing import Any, get_args

from beartype import beartype
from jaxtyping import AbstractArray

CHECKED = (
    "imf_jax.models",
    "imf_jax.sim.kinematics",
    "imf_jax.sim.robots.diana.control",
    "imf_jax.rollout.loop_program",
)
"""Modules and packages whose signatures have shapes."""


def check_arrays(function: Callable[..., Any]) -> Callable[..., Any]:
    """Check the arguments and results that an annotation gives a shape, and no others: tests may pass stand-ins."""
    hints = {name: hint for name, hint in function.__annotations__.items() if _holds_arrays(hint)}
    function.__annotations__ = hints
    return beartype(function)


def _holds_arrays(hint: Any) -> bool:
    return (isinstance(hint, type) and issubclass(hint, AbstractArray)) or any(map(_holds_arrays, get_args(hint)))
