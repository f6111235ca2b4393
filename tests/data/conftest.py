"""Fixtures of the data tests: a small tokenizer and harmless rows made up for them."""

import os
import pathlib

import pytest

from alignjax.text import chat, tokenizer

SENTENCES = (
    "The river runs past the old mill and on to the sea.",
    "Bread needs flour, water, salt and a little time.",
    "How do I keep a garden green in a dry summer?",
    "Water early in the morning, and cover the soil with straw.",
    "Thank you, that is a great help!\nI will try it 12 times.",
)


@pytest.fixture(scope="session")
def tok():
    return tokenizer.train_tokenizer([*SENTENCES] * 4, 400)


@pytest.fixture
def pair():
    """Returns a maker of pairs: one human turn, two answers."""

    def make(prompt: str, chosen: str, rejected: str) -> chat.Pair:
        return chat.Pair(
            (chat.Turn("human", prompt),),
            (chat.Turn("assistant", chosen),),
            (chat.Turn("assistant", rejected),),
            False,
        )

    return make


@pytest.fixture(scope="session")
def hh_rlhf():
    """Returns the folder of the shared hh-rlhf files; skips where it is absent."""
    beside = pathlib.Path(__file__).parents[3] / "shared"
    folder = pathlib.Path(os.environ.get("ALIGNJAX_SHARED", beside)) / "data" / "hh-rlhf"
    if not folder.is_dir():
        pytest.skip(f"no hh-rlhf data at {folder}; set ALIGNJAX_SHARED to the shared folder")
    return folder
