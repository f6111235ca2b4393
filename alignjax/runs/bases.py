"""Where the frozen weights under a run's adapters lie now."""

import pathlib

_STAND_IN: list[str] = []  # a folder in place of those that are gone


def stand_in(folder: str) -> None:
    """Names a folder that is read in place of recorded ones that are not there any more."""
    _STAND_IN[:] = [folder]


def place(recorded: str) -> str:
    """The folder or file of a record; where it is gone, the one that stands in for it.

    Whether it holds the same weights is for the reader to compare.

    Raises:
      ValueError: it is gone, and none stands in for it.
    """
    if pathlib.Path(recorded).exists():
        return recorded
    if _STAND_IN:
        return _STAND_IN[0]
    raise ValueError(
        f"the frozen weights under adapters must be where the run was trained over them; got "
        f"{recorded}, which is not there any more. Put them back, or name where they are with "
        "--base=FOLDER of sample, chat, serve, evaluate, export or train."
    )
