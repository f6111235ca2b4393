"""How a run may end other than by finishing, and the exit code of each.

0 finished; 1 failure; 2 usage, data or configuration (any ValueError of ours); 3 stopped by the
non-finite policy; 143 stopped by a signal with everything saved.
"""


class Failure(RuntimeError):
    """The run can't go on. Exit code 1."""

    code = 1


class Stalled(Failure):
    """Storage hangs, and with it threads that nobody can end but with the process. Exit code 1."""


class NonFinite(Failure):
    """Too many updates in a row had a non-finite loss or gradient. Exit code 3."""

    code = 3


class Preempted(Failure):
    """A signal asked the run to stop; its state is saved. Exit code 143."""

    code = 143
