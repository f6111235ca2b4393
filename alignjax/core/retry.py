"""Operations on storage that other hosts serve: what fails in passing is done again."""

import time
from collections.abc import Callable
from typing import TypeVar

TRIES = 3
WAIT = 0.5  # seconds before the second try; twice as many before each further one
# What no waiting mends: a name, a permission, an argument, a package.
LASTING = (
    FileNotFoundError,
    FileExistsError,
    PermissionError,
    IsADirectoryError,
    NotADirectoryError,
    ImportError,
    ValueError,
    TypeError,
    NotImplementedError,
)
T = TypeVar("T")


def again(act: Callable[[], T]) -> T:
    """What `act` returns, which is called up to `TRIES` times.

    Raises:
      Exception: of the last try, or one that no waiting mends.
    """
    for number in range(TRIES - 1):
        try:
            return act()
        except LASTING:
            raise
        except Exception:
            time.sleep(WAIT * 2**number)
    return act()
