"""The one exception for a user's mistake."""


class InputError(ValueError):
    """Bad input: one line that names the argument or file, what was expected, and what came.

    The command line prints it without a traceback and exits with status 2.
    """
