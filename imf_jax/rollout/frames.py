"""Pictures that plans read: rendered when the next plan needs them, and no others."""

import numpy as np

from imf_jax.sim.backends.base import Array, Backend


class FrameReader:
    """Renders the observations of a planner that sees.

    A plan reads the newest `horizon` observations, and a chunk of actions passes between two plans: only the last
    `horizon` states of a chunk are rendered, and only of scenes that go on.

    Args:
        backend: the simulator.
        cameras: names of the cameras C.
        horizon: observations To that a plan reads.

    Attributes:
        rendered: pictures made so far.
    """

    def __init__(self, backend: Backend, cameras: tuple[str, ...], horizon: int) -> None:
        self._backend = backend
        self._cameras = cameras
        self._horizon = horizon
        self.rendered = 0

    def first(self, qpos: Array) -> np.ndarray:
        """Pictures of scenes after their reset, repeated for the missing history: uint8 (A, To, C, H, W, 3).

        Args:
            qpos: generalised positions (A, nq).
        """
        return np.repeat(self._render(qpos[:, None]), self._horizon, axis=1)

    def next(self, past: np.ndarray, qpos: Array) -> np.ndarray:
        """Pictures of scenes after a chunk.

        Args:
            past: pictures that the last plan read, uint8 (A, To, C, H, W, 3).
            qpos: generalised positions (A, K, nq) after each of its steps, oldest first.

        Returns:
            pictures that the next plan reads, uint8 (A, To, C, H, W, 3).
        """
        newest = qpos[:, -self._horizon :]
        return np.concatenate([past[:, newest.shape[1] :], self._render(newest)], axis=1)

    def _render(self, qpos: Array) -> np.ndarray:
        """Render uint8 (A, K, C, H, W, 3) of scenes at (A, K, nq), in one call of the renderer."""
        images = self._backend.render(qpos.reshape(-1, qpos.shape[-1]), self._cameras)
        self.rendered += images.shape[0] * images.shape[1]
        return images.reshape(*qpos.shape[:2], *images.shape[1:])
