"""The small tokenizer and the rows of the data tests, here too."""

from tests.data.conftest import hh_rlhf, pair, tok

__all__ = ["hh_rlhf", "pair", "tok"]
