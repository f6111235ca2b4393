"""Text to fixed-shape NumPy tables: tokenizer, chat layout, sources, examples, packing, checks.

This package knows token ids and masks, never parameters: it imports NumPy and the standard
library only. sentencepiece, scipy and tensorflow_datasets are imported where they are used.
"""
