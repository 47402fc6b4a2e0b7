"""Clients of policy servers, for robots and evaluations: nothing here needs JAX or a simulator.

`PolicyClient` asks a server for chunks, `ChunkExecutor` says which action of which chunk is executed when, by the rules
and the arithmetic of `eval.py --inference async`, and `RobotRunner` joins both for a robot: one call per control step.

Needs the extra `serve` for connections.
"""

from imf_jax.client.connection import PolicyClient, PolicyServerError
from imf_jax.client.execution import ChunkExecutor
from imf_jax.client.runner import RobotRunner

__all__ = ["ChunkExecutor", "PolicyClient", "PolicyServerError", "RobotRunner"]
