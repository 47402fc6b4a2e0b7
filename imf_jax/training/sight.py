"""Whether a trained encoder looks at anything: how far pictures move the keypoints of every camera.

A ResNet whose features became the same everywhere in a picture has keypoints that stand still, and nothing to learn
from any more. Neither the loss nor the action error tells: the policy does what is right on average.
"""

import jax
import jax.numpy as jnp
import numpy as np
from flax import nnx

from imf_jax.data.picture_cache import PictureRows
from imf_jax.models.encoders.resnet import ResNetEncoder
from imf_jax.models.policy import Policy
from imf_jax.training.diagnostics import evenly

FRAMES = 32
"""Frames that are compared, evenly spread over the demonstrations."""

STILL = 2e-3
"""Mean standard deviation of keypoints below which a camera is not looked through [half pictures].

Of thirteen cameras of seven policies the five whose features had died had 8e-7 to 7e-4, the others 7e-3 to 0.2.
"""


def keypoint_spread(encoder: ResNetEncoder, images: PictureRows) -> dict[str, float]:
    """Standard deviation of keypoints over frames of the demonstrations, mean over those of a camera [half pictures].

    Args:
        encoder: the encoder.
        images: the pictures of its cameras.

    Returns:
        camera -> spread.
    """
    rows = evenly(np.arange(images.shape[0]), FRAMES)
    graph, state = nnx.split(encoder)
    look = jax.jit(lambda state, frames: nnx.merge(graph, state)(frames[:, None])[:, 0])
    keypoints = look(state, jnp.asarray(images[rows]))
    spread = np.asarray(jnp.std(keypoints, axis=0).mean(axis=-1))
    return dict(zip(encoder.config.cameras, spread.tolist(), strict=True))


def blind_cameras(policy: Policy, images: PictureRows) -> str | None:
    """What to say of a policy some of whose cameras move no keypoint; None if it looks through all of them."""
    encoder = getattr(policy.conditioning, "encoder", None)
    if not isinstance(encoder, ResNetEncoder):
        return None
    spread = keypoint_spread(encoder, images)
    still = [f"{camera} ({value:.1g} of half a picture)" for camera, value in spread.items() if value < STILL]
    if not still:
        return None
    return (
        f"the encoder does not look through {', '.join(still)}: keypoints stand still there (bound {STILL:g}); unless "
        "its pictures are all the same, lower --optimizer.learning-rate, or choose a frozen encoder (efficientnet)"
    )
