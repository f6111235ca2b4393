"""Data of any form to fixed-shape NumPy tables: containers, layouts, typed rows, examples, tables.

This package knows token ids and masks, never parameters: it imports NumPy and the standard
library only. pyarrow, fsspec, zstandard, sentencepiece, scipy and tensorflow_datasets are imported
where they are used.
"""
