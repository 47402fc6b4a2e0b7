"""Training from pictures that fit neither in memory nor in a cache: they are decoded ahead, in bounded memory.

See `imf_jax.data.stretches` for what a batch is drawn from.
"""

import math
from collections.abc import Callable, Iterator
from contextlib import ExitStack, contextmanager
from functools import partial
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np

from imf_jax import seeds
from imf_jax.checkpoints import CheckpointMeta
from imf_jax.config import TrainConfig
from imf_jax.cores import usable_cores
from imf_jax.data.picture_cache import cache_fits
from imf_jax.data.picture_pool import PicturePool
from imf_jax.data.pictures import MEMORY_SHARE, PictureFolder, fits_in_memory
from imf_jax.data.prefetch import Prefetch, steps_drawn
from imf_jax.data.stretches import PoolSize, Schedule, cut_stretches, least_room, pool_size
from imf_jax.data.windows import Batch, Demonstrations, windows_at
from imf_jax.errors import ArgumentError, UserError
from imf_jax.memory import free_main_memory
from imf_jax.models.policy import Policy
from imf_jax.terminal import stage_progress
from imf_jax.training.state import StreamedDraw, compile_given_step, drawn_rows

Array = jax.Array


def picture_budgets(config: TrainConfig) -> tuple[int | None, int | None]:
    """What pictures may take in main memory and on the disk [bytes]; None for what is free."""
    memory, disk = (
        None if value is None else int(1e9 * value) for value in (config.picture_memory, config.picture_disk)
    )
    return memory, disk


def room_ahead(
    config: TrainConfig, pictures: PictureFolder | None, policy: Policy, resumed: CheckpointMeta | None
) -> int | None:
    """Steps whose pictures may be in memory where they are decoded ahead; None where they need not be.

    A run that is resumed goes on as it began, because its batches depend on it.

    Args:
        config: the run.
        pictures: of the dataset; None for a policy that does not see.
        policy: one with a frozen encoder reads features instead.
        resumed: metadata of the checkpoint that the run goes on from.

    Raises:
        UserError: the run cannot go on as it began, or there is not so much memory.
    """
    if pictures is None or policy.frozen_encoder is not None:
        return None
    memory, disk = picture_budgets(config)
    free = free_main_memory()
    room = None if resumed is None else resumed.picture_room
    if room is None:
        if fits_in_memory(pictures, memory) or cache_fits(pictures, disk):
            return None
        if resumed is not None:
            raise UserError(
                f"{config.out} began with all pictures in memory or in a cache, and there is no room for them now "
                f"({pictures.num_bytes / 1e9:.1f} GB); free memory or disk, or start a run that decodes them ahead"
            )
        room = int(MEMORY_SHARE * (free or 0) if memory is None else memory) // pictures.step_bytes
    if free is not None and room * pictures.step_bytes > free:
        raise UserError(
            f"decoded pictures take up to {room * pictures.step_bytes / 1e9:.1f} GB (--picture-memory, by default most "
            f"of what was free when the run began), but main memory has {free / 1e9:.1f} GB free; free some, or start "
            "a run with less"
        )
    return room


@contextmanager
def decoding_ahead(
    config: TrainConfig,
    data: Demonstrations,
    pictures: PictureFolder,
    rows: np.ndarray,
    room: int,
    kept: int,
    first_step: int,
    say: Callable[[str], None],
) -> Iterator[dict[str, Any]]:
    """Attributes of a `Trainer` whose pictures are decoded ahead; threads have ended when the context ends.

    Args:
        config: the run.
        data: what it is trained on.
        pictures: of the whole dataset.
        rows: int (N,) which of the dataset's steps each of `data` is.
        room: steps whose pictures may be held.
        kept: how many of them are for something else than the pool.
        first_step: number of the first training step.
        say: receives one line on what is done.

    Raises:
        UserError: there is no room for a pool, or a picture in the first one cannot be decoded.
    """
    horizon, steps = config.policy.obs_horizon, len(data.first)
    first, last = np.asarray(data.first), np.asarray(data.last)
    size = pool_size(room - kept, horizon - 1, config.batch_size, steps)
    if size is None:
        raise _too_small(config, pictures, room, kept + least_room(horizon - 1, config.batch_size, steps))
    stretches = cut_stretches(first, last, size.stretch, horizon - 1)
    schedule = Schedule(stretches, size.window, config.batch_size, config.seed)
    threads = min(usable_cores(), size.ahead // (size.stretch + horizon - 1))
    by = f"{threads} thread{'s' * (threads > 1)}"
    say(
        f"pictures of {', '.join(pictures.cameras)} are decoded ahead by {by}, in up to "
        f"{room * pictures.step_bytes / 1e9:.3g} GB of main memory: batches are drawn from a pool of {size.window} of "
        f"{steps} steps, in stretches of {size.stretch} at most, which moves on by {config.batch_size} steps at a time"
    )
    draw = pooled_windows(config, size)
    ago = np.arange(1 - horizon, 1)

    def observed(steps: np.ndarray) -> np.ndarray:
        return np.maximum(steps[:, None] + ago, first[steps][:, None])

    def batches(pool: PicturePool) -> Iterator[tuple[Array, Array]]:
        for step, places in steps_drawn(drawn_rows(config, data, draw), first_step, config.max_steps):
            pool.move_to(step)
            drawn, images = pool.take(step, places, observed)
            yield jax.device_put((drawn.astype(np.int32), images))

    with ExitStack() as stack:
        pool = stack.enter_context(PicturePool(schedule, pictures, rows, room - kept, threads))
        if first_step < config.max_steps:
            with stage_progress("decode pictures", size.window) as on_progress:
                pool.move_to(first_step, on_progress)
        stream = stack.enter_context(Prefetch(batches(pool)))
        stack.callback(pool.close)  # before the thread that waits for its pictures is waited for
        images = (config.batch_size, horizon, *pictures.step_shape)
        given = jax.ShapeDtypeStruct((config.batch_size,), jnp.int32), jax.ShapeDtypeStruct(images, jnp.uint8)
        yield {"pictures": stream, "compile": partial(compile_given_step, draw=draw, given=given)}


def pooled_windows(config: TrainConfig, size: PoolSize) -> StreamedDraw:
    """Draw of a policy's batch from a pool: places in it, uniformly with replacement, then windows at their steps."""
    policy = config.policy

    def places(data: Demonstrations, key: Array) -> Array:
        return seeds.randint(key, (config.batch_size,), 0, size.window)

    def batch(data: Demonstrations, key: Array, given: tuple[Array, Array]) -> Batch:
        steps, images = given
        window = windows_at(data, steps, obs_horizon=policy.obs_horizon, pred_horizon=policy.window_steps)
        window["observation"]["images"] = images
        return window

    return StreamedDraw(places, batch)


def _too_small(config: TrainConfig, pictures: PictureFolder, room: int, least: int) -> UserError:
    """The error where there is no room for a pool; `least`: the smallest room for which there is one."""
    wanted = math.ceil(least * pictures.step_bytes / 1e6) / 1e3
    kind = UserError if config.picture_memory is None else ArgumentError
    return kind(
        f"pictures of {pictures.directory} are decoded ahead, because their cache ({pictures.num_bytes / 1e9:.2f} GB) "
        f"does not fit on the disk or in --picture-disk; memory has room for those of {room} steps, but batches of "
        f"{config.batch_size} need {least}: give --picture-memory {wanted:.3f} or more, or a smaller --batch-size"
    )
