"""MJX-JAX: the physics as an XLA program, on any device that JAX runs on."""

import jax
import jax.numpy as jnp
import mujoco
import numpy as np
from mujoco import mjx
from typing_extensions import override

from imf_jax.errors import ArgumentError
from imf_jax.sim.backends.mjx_base import Constants, DeviceBackend, count_colliding_meshes


class MjxBackend(DeviceBackend):
    """Batched scenes of one task on MJX-JAX.

    Contact slots are static there, so that none can overflow. MJX-JAX has no renderer: a program that needs pictures
    calls the one of the host, which reads poses only.
    """

    name = "mjx"

    def _load(self) -> mjx.Model:
        require_no_meshes(self.task.name, self.model)
        self._empty = mjx.make_data(self.model, self._devices[0], impl="jax")
        return mjx.put_model(self.model, self._devices[0], impl="jax")

    def _blank(self, count: int) -> mjx.Data:
        return self._empty

    def _overflow(self, data: mjx.Data) -> jax.Array:
        return jnp.zeros(data.qpos.shape[0], bool)

    @override
    def pictures(self, constants: Constants, data: mjx.Data, qpos: jax.Array, cameras: tuple[str, ...]) -> jax.Array:
        shape = (qpos.shape[0], len(cameras), self.image_size, self.image_size, 3)

        def on_host(qpos: np.ndarray) -> np.ndarray:
            return self.render(np.asarray(qpos), cameras)

        return jax.pure_callback(on_host, jax.ShapeDtypeStruct(shape, jnp.uint8), qpos)

    @override
    def bytes_per_scene(self, cameras: tuple[str, ...]) -> int:
        """The data of a scene thrice (before, after and while it is stepped), and its pictures."""
        data = sum(leaf.nbytes for leaf in jax.tree.leaves(self._empty))
        return 3 * data + 2 * len(cameras) * 3 * self.image_size**2


def require_no_meshes(task: str, model: mujoco.MjModel) -> None:
    """Refuse scenes whose meshes collide: MJX-JAX compiles them for minutes and warns about their faces.

    Raises:
        ArgumentError: names the backends that can.
    """
    meshes = count_colliding_meshes(model)
    if meshes:
        raise ArgumentError(
            f"--backend mjx cannot simulate task {task!r}: {meshes} of its colliding bodies are meshes; take "
            "--backend native or warp"
        )
