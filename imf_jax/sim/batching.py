"""Row-wise compiled functions over batches of any size, in blocks of a fixed number of rows.

One program serves every batch size, and the rounding of a row does not depend on how many rows come with it.
"""

from collections.abc import Callable
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np

BLOCK_ROWS = 16
"""Rows per call; a multiple of the widest vector registers, so that every row takes the same instructions."""


def in_blocks(function: Callable[..., Any], *arguments: Any) -> Any:
    """Call `function` on blocks of `BLOCK_ROWS` rows, the last one padded by repeating the last row.

    Args:
        function: maps pytrees with a leading axis of `BLOCK_ROWS` to a pytree with the same leading axis.
        arguments: pytrees of arrays with a common leading axis B >= 1.

    Returns:
        the results for all B rows, as numpy arrays.
    """
    count = len(jax.tree.leaves(arguments)[0])
    rows = np.minimum(np.arange(-(-count // BLOCK_ROWS) * BLOCK_ROWS), count - 1).reshape(-1, BLOCK_ROWS)
    # All blocks are dispatched before the first result is waited for.
    results = [function(*jax.tree.map(lambda leaf, block=block: leaf[block], arguments)) for block in rows]
    return jax.tree.map(lambda *parts: np.concatenate([np.asarray(part) for part in parts])[:count], *results)


def keep_rows(mask: jax.Array, new: Any, old: Any) -> Any:
    """Rows of the pytree `new` where `mask` (B,), of `old` elsewhere; all leaves (B, ...)."""

    def choose(a: jax.Array, b: jax.Array) -> jax.Array:
        return jnp.where(mask.reshape(-1, *([1] * (a.ndim - 1))), a, b)

    return jax.tree.map(choose, new, old)
