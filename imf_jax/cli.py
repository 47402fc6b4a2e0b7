"""Shared entry of all scripts: errors as one line, exit codes, quiet libraries, compiled code kept between runs."""

import logging
import os
import signal
import sys
import threading
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from types import FrameType
from typing import NoReturn

from imf_jax.cache import cache_dir
from imf_jax.errors import EXIT_INTERRUPTED, EXIT_OK, UserError
from imf_jax.terminal import make_console

SMALLEST_CACHED_COMPILATION = 0.3
"""Compilations shorter than this [s] are not worth a file."""


def run_main(main: Callable[[], int | None]) -> NoReturn:
    """Run a script and exit with its code.

    A `UserError` becomes one red line and its exit code, Ctrl-C becomes 130; any other exception is a bug and shows its
    traceback. Arguments that tyro refuses exit with 2 by themselves.

    Args:
        main: the script; returns an exit code, None for success.
    """
    # Warp allocates outside JAX's memory pool: JAX must not take most of a GPU for itself at the start.
    os.environ.setdefault("XLA_PYTHON_CLIENT_PREALLOCATE", "false")
    try:
        keep_compiled_code()
        silence_libraries()
        code = main()
    except UserError as error:
        print_error(str(error))
        code = error.exit_code
    except KeyboardInterrupt:
        print_error("interrupted")
        code = EXIT_INTERRUPTED
    sys.exit(EXIT_OK if code is None else code)


def print_error(message: str) -> None:
    """One line on stderr, red on a terminal."""
    line = " ".join(f"error: {message}".split())
    make_console(stderr=True).print(line, style="red")


def keep_compiled_code() -> None:
    """Let JAX keep compiled code in the user's cache folder, unless the user has chosen a folder for it already."""
    import jax  # not at the top: a script may set JAX's environment variables first

    if jax.config.values["jax_compilation_cache_dir"] is None:
        jax.config.update("jax_compilation_cache_dir", str(cache_dir("xla")))
        jax.config.update("jax_persistent_cache_min_compile_time_secs", SMALLEST_CACHED_COMPILATION)


def silence_libraries() -> None:
    """Keep the chatter of libraries (checkpoint timings, platform probes) off the terminal.

    Errors of JAX still show. Those of Orbax are raised as well, and it logs each of them as pages of tracebacks.
    """
    logging.getLogger("jax").setLevel(logging.ERROR)
    for name in ("absl", "orbax"):
        logging.getLogger(name).setLevel(logging.CRITICAL)


@contextmanager
def stop_on_interrupt() -> Iterator[Callable[[], bool]]:
    """Let the first Ctrl-C ask the run to stop at the next opportunity; the second one interrupts at once."""
    asked = threading.Event()
    if threading.current_thread() is not threading.main_thread():
        yield asked.is_set
        return
    previous = signal.getsignal(signal.SIGINT)

    def on_interrupt(number: int, frame: FrameType | None) -> None:
        asked.set()
        # Not `previous`: shells start background jobs with SIGINT ignored, and a second one must work there too.
        signal.signal(signal.SIGINT, signal.default_int_handler)

    signal.signal(signal.SIGINT, on_interrupt)
    try:
        yield asked.is_set
    finally:
        signal.signal(signal.SIGINT, previous)
