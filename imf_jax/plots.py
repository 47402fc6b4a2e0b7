"""Check for matplotlib, which draws the plots and is an extra."""

from imf_jax.errors import UserError


def require_matplotlib(otherwise: str) -> None:
    """Make sure that plots can be drawn.

    Args:
        otherwise: what to do without one.

    Raises:
        UserError: matplotlib is not installed.
    """
    try:
        import matplotlib  # noqa: F401
    except ImportError:
        raise UserError(
            "matplotlib, which draws the plot, is not installed; install the extra: pip install 'imf_jax[plots]', "
            f"or {otherwise}"
        ) from None
