"""Errors that end a run, and their exit codes.

0 finished; 1 failure; 2 usage, data or configuration (any ValueError of ours); 3 stopped by the
non-finite policy; 141 whoever read the output has left; 143 stopped by a signal with everything
saved.
"""

import errno

FULL = (errno.ENOSPC, errno.EFBIG, errno.EDQUOT)


class Failure(RuntimeError):
    """The run can't go on. Exit code 1."""

    code = 1


class Alone(Failure):
    """One process failed at what the others did not, and can't go on with them. Exit code 1."""


class Stalled(Failure):
    """Storage hangs, and with it threads that nobody can end but with the process. Exit code 1."""


class NonFinite(Failure):
    """Too many updates in a row had a non-finite loss or gradient. Exit code 3."""

    code = 3


class Preempted(BaseException):
    """A signal asked the run to stop; its state is saved. Exit code 143.

    No failure, as KeyboardInterrupt is none: it may arise anywhere, and who handles the failures of
    a library or of a file must not take it for one.
    """

    code = 143


def condense(error: BaseException) -> str:
    """The first line of a library's message, shortened."""
    lines = str(error).strip().splitlines()
    return f"{type(error).__name__}: {lines[0][:160] if lines else 'no message'}"


def is_no_room(error: BaseException) -> bool:
    """Whether a file system took no more: full, over a quota or over a file's size."""
    return isinstance(error, OSError) and error.errno in FULL
