"""AlignJAX: language models from pretraining to alignment in functional JAX."""

__version__ = "0.1.0"
