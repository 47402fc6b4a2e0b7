"""Errors meant for the person at the keyboard: one line that says what is wrong and how to mend it."""

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
