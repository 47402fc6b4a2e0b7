"""JAX's settings in the scripts: those that change random streams or refuse correct programs have their default values.

Matrix products are exact to float32 unless `--precision` says otherwise, also on accelerators.
Whatever the environment says; random numbers of this package do not depend on it anyway, see `imf_jax.seeds`.
"""

import os
from typing import Any

from imf_jax.errors import UserError

PINNED: dict[str, Any] = {
    "jax_threefry_partitionable": True,
    "jax_default_prng_impl": "threefry2x32",
    "jax_random_seed_offset": 0,
    "jax_enable_custom_prng": False,
    "jax_legacy_prng_key": "allow",
    "jax_debug_key_reuse": False,
    "jax_enable_x64": False,
    "jax_disable_jit": False,
    "jax_numpy_dtype_promotion": "standard",
    "jax_numpy_rank_promotion": "allow",
    "jax_default_matmul_precision": "highest",
    "jax_transfer_guard": None,
    "jax_transfer_guard_host_to_device": None,
    "jax_transfer_guard_device_to_device": None,
    "jax_transfer_guard_device_to_host": None,
}

_SPELLINGS = {"True": ("1", "true", "t", "yes", "y", "on"), "False": ("0", "false", "f", "no", "n", "off")}


def pin_settings() -> list[str]:
    """Set `PINNED`, also where the environment has set something else.

    Returns:
        one line for each variable of the environment that has no effect because of it.

    Raises:
        UserError: another variable of the environment has a value that JAX refuses.
    """
    unused = []
    for name, value in PINNED.items():
        asked = os.environ.pop(name.upper(), "")  # before JAX reads it, which refuses values that it does not know
        if asked and asked.lower() not in (str(value).lower(), *_SPELLINGS.get(str(value), ())):
            unused.append(f"{name.upper()}={asked} has no effect: this program sets it to {value}")
    try:
        import jax
    except ValueError as error:
        raise UserError(f"JAX cannot start: {error}; unset that variable") from None
    for name, value in PINNED.items():
        if jax.config.values.get(name, value) != value:
            jax.config.update(name, value)
    return unused


def set_precision(precision: str) -> None:
    """Set the precision of matrix products in this process; `--precision` of the scripts, see `imf_jax.config`."""
    import jax

    jax.config.update("jax_default_matmul_precision", None if precision == "default" else precision)


def matmul_precision() -> str:
    """The precision of matrix products in this process; "default" is what JAX chooses for the device."""
    import jax

    return str(jax.config.values["jax_default_matmul_precision"] or "default")


def platform_problem() -> str | None:
    """Why JAX finds no device, in one line; None if it finds one."""
    import jax

    try:
        jax.local_devices()
    except Exception as error:  # an AssertionError without any text where the plugin of a platform is not installed
        reason = " ".join(str(error).split()) or f"JAX_PLATFORMS={jax.config.values['jax_platforms']}"
        return f"JAX found no usable device ({reason}); unset JAX_PLATFORMS, or install the extra for your accelerator"
    return None
