"""Tokens of policy servers, from a file or the environment: never from a command line, which others can list."""

import os
from pathlib import Path

from imf_jax.config import require
from imf_jax.errors import ArgumentError

VARIABLE = "IMF_SERVE_TOKEN"


def read_token(path: Path | None, flag: str) -> str | None:
    """The token in a file, or of the environment; None for none.

    Args:
        path: the file, one line; by default the variable IMF_SERVE_TOKEN is read.
        flag: that names the file, for messages.

    Raises:
        ArgumentError: the file cannot be read, is empty, or holds no single word.
    """
    if path is None:
        token = os.environ.get(VARIABLE, "")
        _require_word(token, VARIABLE)
        return token or None
    try:
        token = path.read_text(encoding="utf-8").strip()
    except (OSError, ValueError) as error:
        reason = getattr(error, "strerror", None) or "it is no text"
        raise ArgumentError(f"{flag} {path} cannot be read ({reason}); name a file that holds a token") from None
    require(bool(token), f"{flag} {path} is empty; write a token to it")
    _require_word(token, f"{flag} {path}")
    return token


def _require_word(token: str, where: str) -> None:
    """Refuse what a header of HTTP cannot hold as one word."""
    require(
        token.isascii() and token.isprintable() and " " not in token,
        f"{where} holds characters that cannot be sent; let it be one word of letters and digits",
    )
