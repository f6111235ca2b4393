"""Where the prepared tables of a run's data are kept."""

import os
import pathlib

from etils import epath

from alignjax.data import prepare

CACHE = "data_cache"  # folder of prepared tables, beside the folders of runs


def default_cache(workdir: pathlib.Path) -> prepare.Cache:
    """The cache of prepared tables beside a run's folder, which the runs there share."""
    return prepare.Cache(folder=epath.Path(workdir.absolute().parent / CACHE))


def cache_beside(workdir: pathlib.Path) -> prepare.Cache | None:
    """The same where it is there and can be written; None reads the data in memory."""
    cache = default_cache(workdir)
    return cache if os.access(os.fspath(cache.folder), os.W_OK) else None
