"""The pictures that plans read: rendered when the next plan needs them, and no others."""

import numpy as np

from imf_jax.rollout.scenes import join_rows
from imf_jax.sim.backends.base import Backend, SimState


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

    def first(self, sim: SimState) -> np.ndarray:
        """Pictures of scenes after their reset, repeated for the missing history: uint8 (A, To, C, H, W, 3)."""
        return np.repeat(self._render([sim]), self._horizon, axis=1)

    def next(self, past: np.ndarray, states: list[SimState]) -> np.ndarray:
        """Pictures of scenes after a chunk.

        Args:
            past: what the last plan read, uint8 (A, To, C, H, W, 3).
            states: the newest states of the A scenes, oldest first, at most To of them.

        Returns:
            what the next plan reads, uint8 (A, To, C, H, W, 3).
        """
        return np.concatenate([past[:, len(states) :], self._render(states)], axis=1)

    def _render(self, states: list[SimState]) -> np.ndarray:
        """uint8 (A, len(states), C, H, W, 3), in one call of the renderer."""
        joined = states[0]
        for state in states[1:]:
            joined = join_rows(joined, state)
        images = np.asarray(self._backend.images(joined, self._cameras))
        self.rendered += images.shape[0] * images.shape[1]
        return np.moveaxis(images.reshape(len(states), -1, *images.shape[1:]), 0, 1)
