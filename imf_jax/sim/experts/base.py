"""Interface of a scripted expert.

An expert is a pure function of (its own memory, the last output of the simulation), batched over scenes. Its memory is
a named tuple of arrays (B, ...), with `waited` int32 (B,): the control steps for which it has not come forward.
"""

from typing import Any, Protocol

import jax

from imf_jax.sim.backends.base import StepOutput


class Expert(Protocol):
    """A scripted policy: `start` after a reset, then `act` once per control step."""

    def start(self, output: StepOutput) -> Any:
        """Memory of B scenes that have just begun."""
        ...

    def act(self, state: Any, output: StepOutput) -> tuple[Any, jax.Array]:
        """The next memory and the action, float32 (B, A)."""
        ...

    def anchor(self, state: Any, command: jax.Array) -> Any:
        """Memory as if the expert itself had given the last command, float32 (B, A), so that it goes on from there."""
        ...
