"""The shared hh-rlhf files, whole. Messages of these tests never show a row."""

import pytest

from alignjax.data import baselines, examples, sources
from alignjax.text import chat, tokenizer


@pytest.fixture(scope="module")
def splits(hh_rlhf):
    return {name: sources.read_preferences(hh_rlhf, split=name) for name in ("train", "eval")}


@pytest.fixture(scope="module")
def real_tok(splits):
    texts = (turn.text for row in splits["train"].rows for turn in row.prompt + row.chosen)
    return tokenizer.train_tokenizer(texts, 2048)


def test_counts_by_default(splits):
    train, held = splits["train"], splits["eval"]
    assert (len(train), train.read, len(held), held.read) == (5962, 5996, 779, 784)
    assert train.dropped == {
        chat.EQUAL: 23,
        chat.EMPTY_ANSWER: 9,
        chat.NO_ANSWER: 2,
    }
    assert held.dropped == {chat.EQUAL: 3, chat.EMPTY_ANSWER: 2}
    assert not {row.prompt for row in train.rows} & {row.prompt for row in held.rows}


def test_strict_reading_refuses_without_quoting(hh_rlhf):
    with pytest.raises(sources.DataError, match="max_unusable_share") as error:
        sources.read_preferences(hh_rlhf, split="train", max_unusable_share=0)
    assert len(str(error.value)) < 500


def test_the_whole_train_set_becomes_a_table(splits, real_tok):
    rows = splits["train"].rows
    table, counts = examples.pair_table(real_tok, rows, 640, 512)
    assert table["tokens"].shape == (counts.kept, 2, 640)
    assert counts.read == len(rows)
    assert counts.kept >= len(rows) - 5
    assert table["loss_mask"].any(-1).all()
    assert (table["tokens"] != table["tokens"][:, ::-1]).any((1, 2)).all()
    assert ((table["tokens"] == real_tok.bos_id).sum(-1) == 1).all()
    prompt = table["prompt_lengths"]
    for number in range(0, counts.kept, 97):
        size = prompt[number]
        sides = table["tokens"][number, :, :size]
        assert (sides[0] == sides[1]).all(), number
        assert sides[0, -1] == real_tok.control["<|assistant|>"], number


def test_tokenizer_is_lossless_on_real_text(splits, real_tok):
    texts = [turn.text for row in splits["eval"].rows for turn in row.prompt + row.rejected]
    wrong = [
        number
        for number, ids in enumerate(real_tok.encode_many(texts))
        if real_tok.decode(ids) != texts[number]
    ]
    assert wrong == []


@pytest.mark.parametrize(
    ("names", "longer"), [("helpful-base*", 0.585), ("helpful-online*", 0.430)]
)
def test_longer_answer_baseline(hh_rlhf, names, longer):
    held = sources.read_preferences(hh_rlhf, split="eval", names=names)
    assert baselines.longer_answer_accuracy(held.rows).accuracy == pytest.approx(longer, abs=0.001)


def test_bag_of_words_beats_chance_on_helpful(hh_rlhf):
    train, held = (
        sources.read_preferences(hh_rlhf, split=split, names="helpful-*").rows
        for split in ("train", "eval")
    )
    result = baselines.bag_of_words_accuracy(train, held)
    assert result.accuracy - 0.5 > 3 * result.standard_error
    assert result.n == 572
