"""Captures that can be attached to a rollout; none of them changes what happens in it."""

import importlib

from imf_jax.config import CaptureConfig
from imf_jax.rollout.recorders.base import OnlyEpisodes, Recorder, RecorderContext


def make_recorders(capture: CaptureConfig, context: RecorderContext) -> list[Recorder]:
    """Make the requested recorders. Nothing is compiled or written yet.

    Raises:
        ArgumentError: a camera is not in the scene, or so many videos at once cannot be open.
        UserError: a package is not installed.
    """
    # Imported only if requested: some need packages that others can do without.
    modules = [importlib.import_module(f"{__name__}.{name}") for name in capture.recorders]
    recorders = [module.make_recorder(capture, context) for module in modules]
    if context.num_episodes is None:
        return recorders
    return [OnlyEpisodes(recorder, range(context.num_episodes)) for recorder in recorders]
