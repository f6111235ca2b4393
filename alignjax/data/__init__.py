"""Data of any form to fixed-shape NumPy tables: containers, layouts, typed rows, examples, tables.

This package knows token ids and masks, never parameters: it imports NumPy and the standard
library only. pyarrow, fsspec, zstandard, sentencepiece, scipy and tensorflow_datasets are imported
where they are used.
"""

from typing import TYPE_CHECKING

from alignjax.core import modules

if not TYPE_CHECKING:
    __getattr__ = modules.at_first_use(__name__)
