"""Processor cores of this machine."""

import os
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from itertools import pairwise


def usable_cores() -> int:
    """Number of cores that this process may use."""
    return len(os.sched_getaffinity(0)) if hasattr(os, "sched_getaffinity") else os.cpu_count() or 1


def share_cores(shares: int) -> list[list[int]]:
    """The cores that this process may use, divided: the numbers of those of each share.

    Empty where there is nothing to divide: one share, fewer cores than shares, or a system that cannot set them.
    """
    if not hasattr(os, "sched_getaffinity") or not 1 < shares <= usable_cores():
        return []
    cores = sorted(os.sched_getaffinity(0))
    bounds = [len(cores) * share // shares for share in range(shares + 1)]
    return [cores[low:high] for low, high in pairwise(bounds)]


@contextmanager
def confined_to(cores: Sequence[int] | None) -> Iterator[None]:
    """Within, this thread may use these cores only, and so may for good every process that it starts; None: all."""
    if cores is None:
        yield
        return
    before = os.sched_getaffinity(0)
    os.sched_setaffinity(0, cores)
    try:
        yield
    finally:
        os.sched_setaffinity(0, before)
