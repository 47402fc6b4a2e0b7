"""Read labels of success from other programs, in whatever form they are."""

from typing import Any

import numpy as np

WORDS = {
    **dict.fromkeys(("true", "yes", "y", "t", "success", "successful", "succeeded", "succeed"), True),
    **dict.fromkeys(("false", "no", "n", "f", "failure", "failed", "fail", "unsuccessful"), False),
}


def read_label(value: Any) -> bool | None:
    """Whether a label says that an episode succeeded.

    Args:
        value: a truth value, 0 or 1, a word, or an array of one of these per episode or per step.

    Returns:
        None if it is unknown: a score between 0 and 1, an unknown word, a success that was lost at the end.
    """
    try:
        array = np.asarray(value).ravel()
        labels = [_single(entry) for entry in array.tolist()]
    except (TypeError, ValueError):
        return None
    if not labels or None in labels:
        return None
    if any(labels) and not labels[-1]:
        return None
    return labels[-1]


def _single(entry: Any) -> bool | None:
    if isinstance(entry, bytes):
        entry = entry.decode("utf-8", "replace")
    if isinstance(entry, str):
        word = entry.strip().lower()
        if word in WORDS:
            return WORDS[word]
        entry = float(word)
    return bool(entry) if isinstance(entry, bool | int | float) and entry in (0, 1) else None
