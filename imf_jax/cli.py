"""Shared entry of all scripts: errors as one line, exit codes, quiet libraries, compiled code kept between runs."""

import logging
import os
import sys
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from typing import NoReturn

from imf_jax.cache import cache_dir
from imf_jax.errors import EXIT_FAILED, EXIT_INTERRUPTED, EXIT_OK, UserError
from imf_jax.interrupts import exit_code, signals_interrupt
from imf_jax.jax_settings import pin_settings, platform_problem
from imf_jax.streams import lasting_streams
from imf_jax.terminal import make_console

SMALLEST_CACHED_COMPILATION = 0.3
"""Compilations shorter than this [s] are not worth a file."""


def run_main(main: Callable[[], int | None]) -> NoReturn:
    """Run a script and exit with its code.

    A `UserError` becomes one red line and its exit code, Ctrl-C becomes 130 and SIGTERM 143; any other exception is a
    bug and shows its traceback. Arguments that tyro refuses exit with 2 by themselves. Output that cannot be written
    never stops the work, but success becomes 1.

    Args:
        main: the script; returns an exit code, None for success.
    """
    # Warp allocates outside JAX's memory pool: JAX must not take most of a GPU for itself at the start.
    os.environ.setdefault("XLA_PYTHON_CLIENT_PREALLOCATE", "false")
    with lasting_streams() as lost, signals_interrupt(), _warnings_as_notes():
        code = _exit_code(main)
    if lost:
        print_error(f"output could not be written ({lost[0].strerror}); everything else was done")
    sys.exit(EXIT_FAILED if lost and code == EXIT_OK else code)


def _exit_code(main: Callable[[], int | None]) -> int:
    try:
        for line in pin_settings():
            print_note(line)
        keep_compiled_code()
        silence_libraries()
        code = main()
    except UserError as error:
        print_error(str(error))
        return error.exit_code
    except SystemExit as stopped:  # tyro has shown its help, or refused an argument
        if not isinstance(stopped.code, int):
            raise
        return stopped.code
    except KeyboardInterrupt:
        print_error("interrupted")
        return exit_code()
    except (RuntimeError, AssertionError):
        problem = platform_problem()
        if problem is None:
            raise
        print_error(problem)
        return EXIT_FAILED
    return exit_code() if code == EXIT_INTERRUPTED else code or EXIT_OK


def print_error(message: str) -> None:
    """One line on stderr, red on a terminal."""
    _print(f"error: {message}", "red")


def print_note(message: str) -> None:
    """One line on stderr about something that does not stop the script."""
    _print(f"note: {message}", "dim")


class _NoteHandler(logging.Handler):
    def emit(self, record: logging.LogRecord) -> None:
        print_note(record.getMessage())


@contextmanager
def _warnings_as_notes() -> Iterator[None]:
    """Show what this package logs as lines of the script, however the libraries have set up logging."""
    logger, handler = logging.getLogger("imf_jax"), _NoteHandler(logging.WARNING)
    logger.addHandler(handler)
    logger.propagate = False
    try:
        yield
    finally:
        logger.removeHandler(handler)
        logger.propagate = True


def _print(message: str, style: str) -> None:
    make_console(stderr=True).print(" ".join(message.split()), style=style)


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
