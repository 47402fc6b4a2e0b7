"""Training data of policies that see: pictures, or cached features of a frozen encoder."""

import math
import shutil
import time
from collections.abc import Callable
from typing import cast

import jax
import numpy as np
from flax import nnx

from imf_jax.data.features import Embed, FeatureSource, cache_path, compute_features, read_features, write_features
from imf_jax.data.picture_cache import PictureRows, cache_fits, cached_pictures, decoded_pictures
from imf_jax.data.pictures import PictureFolder, fits_in_memory, read_pictures, require_memory
from imf_jax.data.windows import Demonstrations
from imf_jax.errors import UserError
from imf_jax.models.conditioning import FrozenConditioning
from imf_jax.models.policy import Policy
from imf_jax.terminal import stage_progress

CPU_BATCH = 16
ACCELERATOR_BATCH = 128


def with_vision(
    data: Demonstrations,
    pictures: PictureFolder | None,
    policy: Policy,
    say: Callable[[str], None],
    budget: int | None = None,
    disk: int | None = None,
) -> tuple[Demonstrations, PictureRows | None]:
    """What the policy reads besides columns: cached features, which are added to the demonstrations, or pictures.

    Args:
        data: the demonstrations without pictures.
        pictures: their pictures; None for a policy that does not see.
        policy: the policy to train.
        say: receives one line on what was done.
        budget: main memory that pictures may take [bytes]; what does not fit stays in a cache on the disk.
        disk: what that cache may take [bytes]; None for what is free.

    Raises:
        UserError: pictures cannot be read, features do not fit in memory, or a cache cannot be used or written.
    """
    if pictures is None:
        return data, None
    if pictures.resized:
        say(f"pictures are cut to their middle square and resized to {pictures.image_size} pixels")
    if policy.frozen_encoder is not None:
        conditioning = cast(FrozenConditioning, policy.conditioning)
        return data._replace(features=jax.device_put(frozen_features(pictures, conditioning, say))), None
    fits, size = fits_in_memory(pictures, budget), f"{pictures.num_bytes / 1e9:.2f} GB"
    images: PictureRows
    with stage_progress("read pictures", pictures.num_steps) as on_progress:
        if fits and pictures.reader.fixed_size:
            images, where = read_pictures(pictures, on_progress), "in main memory"
        elif fits and not cache_fits(pictures, disk):
            images, where = decoded_pictures(pictures, on_progress), "in main memory, without a cache on the disk"
        else:  # videos and other sizes are decoded once
            images, path = cached_pictures(pictures, on_progress)
            where = f"from the cache {path}"
            if fits:
                images, where = images[np.arange(pictures.num_steps)], f"in main memory, {where}"
    say(f"pictures of {', '.join(pictures.cameras)} {where}: {size}")
    return data, images


def frozen_features(
    pictures: PictureFolder, conditioning: FrozenConditioning, say: Callable[[str], None]
) -> np.ndarray:
    """Load features of all steps, (N, *feature_shape), from the cache beside the demonstrations; make it if missing.

    Raises:
        UserError: they take more memory than there is, or the cache cannot be used or written.
    """
    encoder = conditioning.encoder
    source = FeatureSource(
        encoder.fingerprint,
        str(encoder.fusion),
        pictures.cameras,
        pictures.image_size,
        dtype=str(encoder.dtype),
        output=conditioning.output,
    )
    shape, dtype = conditioning.feature_shape, conditioning.feature_dtype
    step_bytes = dtype.itemsize * math.prod(shape)
    steps = f"{pictures.num_steps} steps x {step_bytes / 1e3:.1f} kB"
    mend = (
        "use fewer demonstrations or cameras, or collect at a smaller --image-size; or train the encoder, too "
        "(--policy.encoder resnet), whose pictures need not fit"
    )
    require_memory(pictures.num_steps * step_bytes, f"frozen features of {pictures.directory}", steps, mend)
    features = read_features(pictures, source, shape, dtype)
    if features is not None:
        say(f"frozen features of {len(features)} steps from the cache {cache_path(pictures.directory, source)}")
        return features
    size, free = pictures.num_steps * step_bytes, shutil.disk_usage(pictures.directory).free
    if size > free:
        raise UserError(
            f"frozen features of {pictures.directory} take {size / 1e9:.1f} GB ({steps}), but its disk has "
            f"{free / 1e9:.1f} GB free; {mend}"
        )
    started = time.perf_counter()
    with stage_progress("frozen features", pictures.num_steps) as on_progress:
        features = compute_features(pictures, embedder(conditioning), embedding_batch(), on_progress)
    path = write_features(pictures, source, features)
    rate = len(features) / (time.perf_counter() - started)
    taken = f"{features.nbytes / 1e9:.2f} GB"
    say(f"frozen features of {len(features)} steps ({taken}, {rate:.0f} steps per second) written to {path}")
    return features


def embedder(conditioning: FrozenConditioning) -> Embed:
    """Make the compiled embedding of a policy; its weights are an argument of the compiled code, not part of it."""
    graph, variables = nnx.split(conditioning)
    embed = jax.jit(lambda variables, images: nnx.merge(graph, variables).embed(images))
    return lambda images: embed(variables, images)


def embedding_batch() -> int:
    """Steps that are embedded at once, enough to keep the default device busy."""
    return CPU_BATCH if jax.default_backend() == "cpu" else ACCELERATOR_BATCH
