"""Errors for the user: one line that says what is wrong and how to mend it."""

import re

EXIT_OK = 0
EXIT_FAILED = 1
EXIT_BAD_ARGUMENTS = 2
EXIT_SOME_ERRORED = 3
EXIT_INTERRUPTED = 130


class UserError(Exception):
    """A failure the user can mend; scripts print its one line and exit with `exit_code`."""

    exit_code = EXIT_FAILED


class ArgumentError(UserError):
    """An argument, flag or configuration value that cannot be used."""

    exit_code = EXIT_BAD_ARGUMENTS


class UnavailableError(UserError):
    """A file that cannot be read now, though its content may be sound; it must not be replaced or removed."""


_ADDRESS = re.compile(r"(,? buf =| at)? 0x[0-9a-fA-F]+")


def one_line(error: Exception) -> str:
    """The message of a library's exception in one line, without memory addresses, which differ from run to run."""
    return " ".join(_ADDRESS.sub("", str(error)).split()) or type(error).__name__
