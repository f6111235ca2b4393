"""Typed rows to examples to tables: every kind, by hand, and row by row."""

import dataclasses

import numpy as np
import pytest

from alignjax.data import comparisons, encoding, makers, packing, padding, records, rows, tables
from alignjax.text import chat, chat_format, template_tools
from alignjax.text.tokenizers import interface

OPTIONS = encoding.Options(length=64, prompt_length=32)


def human(text):
    return (chat.Turn(chat.HUMAN, text),)


def said(text):
    return (chat.Turn(chat.ASSISTANT, text),)


def answers(*texts, **fields):
    count = len(texts)
    given = {"prompt": human("Bread needs"), "ranks": tuple(map(float, range(count))), **fields}
    return rows.Answers(answers=tuple(map(said, texts)), file="f", line=1, **given)


ROWS = (
    rows.Text(text="The river runs."),
    rows.Conversation(turns=(*human("How do I?"), *said("Water early."))),
    rows.Prompt(prompt=human("Thank you")),
    answers("flour", "salt"),
    rows.Judged(prompt=human("Bread needs"), answer=said("time"), desirable=True),
    rows.Scored(prompt=human("Bread needs"), answer=said("water"), scores={"taste": 2.5}),
    rows.Steps(prompt=human("How?"), steps=("Water.", "Salt.\n", "Time."), labels=(1.0, 0.0, 0.5)),
)


def table_of(given, kind, tok, options=OPTIONS, **layout):
    examples, counts = encoding.encode(given, kind, tok, options)
    made = padding.table(
        examples, kind, length=options.length, prompt_length=options.prompt_length,
        pad_id=tok.pad_id, **layout,
    )  # fmt: skip
    return tables.check(made, kind), counts


CASES = [(row, kind) for row in ROWS for kind in encoding.KINDS_OF[type(row)]]


@pytest.mark.parametrize(("row", "kind"), CASES)
def test_every_row_gives_every_kind_that_it_says(row, kind, tok):
    if kind == "scored" and isinstance(row, rows.Answers):
        row = dataclasses.replace(row, scores={"taste": (1.0, 0.0)})
    table, counts = table_of([row], kind, tok)
    assert counts.read == counts.kept == 1
    assert len(next(iter(table.values()))) >= 1
    assert counts.tokens == (table["segments"] > 0).sum() if "segments" in table else True
    if "loss_mask" in table:
        assert counts.loss_tokens == table["loss_mask"].sum() > 0


@pytest.mark.parametrize("kind", makers.MAKERS)
def test_other_rows_are_left_out_and_counted(kind, tok):
    lacking = [row for row in ROWS if kind not in encoding.KINDS_OF[type(row)]]
    lacking = [row for row in lacking if not (kind == "prompts" and isinstance(row, rows.Text))]
    examples, counts = encoding.encode(lacking, kind, tok, OPTIONS)
    assert examples == []
    assert counts.left_out == counts.read == len(lacking)


@pytest.mark.parametrize("kind", makers.MAKERS)
def test_rows_are_encoded_one_by_one(kind, tok):
    """In chunks as in one go: so workers may share the rows."""
    given = [row for row in ROWS * 3 if kind in encoding.KINDS_OF[type(row)]]
    given = [
        dataclasses.replace(row, scores={"taste": (1.0, 0.0)}) if kind == "scored"
        and isinstance(row, rows.Answers) else row for row in given
    ]  # fmt: skip
    whole, counts = encoding.encode(given, kind, tok, OPTIONS)
    apart, total = [], encoding.Counts()
    for place, row in enumerate(given):
        made, own = encoding.encode([row], kind, tok, OPTIONS)
        for example in made:
            example["row"] += place
        apart += made
        total += own
    assert total == counts
    assert len(whole) == len(apart)
    for one, two in zip(whole, apart, strict=True):
        assert one.keys() == two.keys()
        for name, x in one.items():
            assert x.ndim == 1
            np.testing.assert_array_equal(x, two[name])


def test_steps_are_labelled_at_their_last_token(tok):
    row = ROWS[-1]
    table, _ = table_of([row], "steps", tok)
    (places,) = np.nonzero(table["step_mask"][0])
    assert table["step_labels"][0, places].tolist() == [1.0, 0.0, 0.5]
    tokens = table["tokens"][0]
    prompt, _ = chat.encode_chat(tok, row.prompt, generation_prompt=True)
    starts = [len(prompt), *(places[:-1] + 1)]
    texts = [tok.decode(tokens[a : b + 1].tolist()) for a, b in zip(starts, places, strict=True)]
    assert texts == ["Water.\n", "Salt.\n", "Time."]
    assert tokens[places[-1] + 1] == tok.eos_id
    assert (table["segments"][0] > 0).sum() == places[-1] + 2
    short, counts = table_of([row], "steps", tok, encoding.Options(length=13, prompt_length=10))
    assert 0 < short["step_mask"].sum() < 3
    assert counts.truncated_answers == 1


RANKED = answers("flour", "salt", "water", "time", ranks=(2.0, 1.0, 0.0, 2.0))


def test_best_worst_best_random_and_all(tok):
    table, _ = table_of([RANKED], "pairs", tok)
    shown = [tok.decode(table["tokens"][0, side].tolist()) for side in (0, 1)]
    assert [text.endswith(word) for text, word in zip(shown, ("water", "time"), strict=True)]
    assert table["tokens"].shape == (1, 2, 64)
    assert not {"preferred", "preference", "weight"} & table.keys()
    every = dataclasses.replace(OPTIONS, pairs="all")
    table, _ = table_of([RANKED, answers("a", "b", "c")], "pairs", tok, every)
    assert table["tokens"].shape == (2, 4, 64)
    first = table["preferred"][0][table["pair_mask"][0]].tolist()
    assert first == [[1, 0], [1, 3], [2, 0], [2, 1], [2, 3]]
    assert table["preferred"][1][table["pair_mask"][1]].tolist() == [[0, 1], [0, 2], [1, 2]]
    assert not table["segments"][1, 3].any()  # no fourth answer


def test_best_random_depends_on_the_row_alone():
    chosen = {}
    for number in range(60):
        row = dataclasses.replace(RANKED, prompt=human(f"Bread {number}"))
        own = comparisons.choose(row, "best-random")
        moved = dataclasses.replace(row, line=99, columns={"a": 1}, weight=3.0)
        assert own == comparisons.choose(moved, "best-random")
        assert own.answers[0] == 2
        chosen.setdefault(own.answers[1], 0)
        chosen[own.answers[1]] += 1
    assert chosen.keys() == {0, 1, 3}
    assert min(chosen.values()) >= 8


def test_ties_are_dropped_and_counted_but_a_stated_half_is_kept(tok):
    _, counts = encoding.encode([answers("a", "b", ranks=(0.0, 0.0))], "pairs", tok, OPTIONS)
    assert (counts.kept, counts.dropped_tied) == (0, 1)
    table, _ = table_of([answers("a", "b", preference=0.5)], "pairs", tok)
    assert table["preference"].tolist() == [[0.5]]


def test_preference_weight_and_margin_are_columns_and_the_likelier_answer_comes_first(tok):
    row = answers("flour", "salt", preference=0.25, ranks=(1.0, 0.0), weight=4.0,
                  scores={"margin": (1.0, 3.5)})  # fmt: skip
    table, _ = table_of([row, answers("x", "y")], "pairs", tok)
    assert table["preference"].tolist() == [[0.75], [1.0]]
    assert table["weight"].tolist() == [4.0, 1.0]
    assert table["margin"].tolist() == [[2.5], [0.0]]
    assert tok.decode(table["tokens"][0, 0].tolist()).endswith("salt")


def test_rankings_keep_ranks_ties_and_padding(tok):
    table, _ = table_of([RANKED, answers("a", "b")], "rankings", tok)
    assert table["ranks"].tolist() == [[2, 1, 0, 2], [0, 1, 0, 0]]
    assert table["answer_mask"].tolist() == [[True] * 4, [True, True, False, False]]


def test_unpaired_takes_the_best_and_the_worst_and_demonstrations_the_best(tok):
    table, _ = table_of([RANKED], "unpaired", tok)
    assert table["desirable"].tolist() == [True, False]
    texts = [tok.decode(row.tolist()) for row in table["tokens"]]
    assert texts[0].endswith("water")
    assert texts[1].endswith("time")
    table, _ = table_of([RANKED], "demonstrations", tok)
    assert tok.decode(table["tokens"][0].tolist()).endswith("water")
    unwanted = rows.Judged(prompt=human("a"), answer=said("b"), desirable=False)
    _, counts = encoding.encode([unwanted], "demonstrations", tok, OPTIONS)
    assert counts.left_out == 1


def test_a_score_is_chosen_by_name_and_a_missing_one_is_named(tok):
    row = answers("a", "b", scores={"taste": (1.0, 2.0), "look": (3.0, 4.0)})
    table, _ = table_of([row], "scored", tok, dataclasses.replace(OPTIONS, score="look"))
    assert table["scores"].tolist() == [3.0, 4.0]
    with pytest.raises(records.DataError, match=r"name a scale of the row; got taste, look \(f"):
        encoding.encode([row], "scored", tok, dataclasses.replace(OPTIONS, score="smell"))


def test_packing_is_layout_alone(tok):
    given = [rows.Text(text=text) for text in ("The river.", "Bread.", "Water early.")]
    packed, counts = table_of(given, "documents", tok, pack=True)
    flat, _ = table_of(given, "documents", tok)
    assert len(packed["tokens"]) == 1 < len(flat["tokens"])
    for one, two in zip(packing.unpack(packed), packing.unpack(flat), strict=True):
        np.testing.assert_array_equal(one[0], two[0])
    assert counts.tokens == (packed["segments"] > 0).sum()


def test_calls_need_a_template_and_the_row_is_named(tok):
    call = template_tools.Message(chat.ASSISTANT, "", (template_tools.Call("f", {}),))
    row = rows.Conversation(turns=(*human("Go"), call), file="rows.jsonl", line=8)
    with pytest.raises(records.DataError, match=r"no tools or calls.*\(rows.jsonl, line 8\)"):
        encoding.encode([row], "demonstrations", tok, OPTIONS)


def test_text_never_becomes_a_control_token(tok):
    """R31: markup of our layout and of others stays characters, in every kind of text."""
    markup = "<|assistant|> <|eos|> <|im_start|>"
    document, _ = encoding.encode([rows.Text(text=markup)], "documents", tok, OPTIONS)
    ids = document[0]["ids"].tolist()
    assert ids == [tok.bos_id, *tok.encode(markup, interface.SPECIAL), tok.eos_id]
    special = set(tok.special.values())
    assert not special & set(ids[1:-1])
    pair, _ = encoding.encode([answers(markup, "salt")], "pairs", tok, OPTIONS)
    assert sum(int(i) in special for i in pair[0]["answers"]) == 2  # an end each


def votes(*rows_):
    return comparisons.merged(rows_)


def test_votes_on_the_same_answers_are_merged_in_either_order():
    one = answers("flour", "salt", columns={"rater": 1})
    other = answers("salt", "flour")
    merged, count = votes(one, one, other, answers("water", "salt"), one)
    assert count == 3
    assert len(merged) == 2
    assert merged[0].preference == 0.75
    assert merged[0].weight == 4.0
    assert merged[0].ranks == (0.0, 1.0)
    assert merged[0].columns == {"rater": 1}
    assert merged[1].preference is None


def test_votes_weigh_what_they_say():
    one = answers("flour", "salt", preference=0.9, weight=2.0)
    other = answers("salt", "flour", weight=6.0)
    (merged,), _ = votes(one, other)
    assert merged.weight == 8.0
    np.testing.assert_allclose(merged.preference, (2 * 0.9 + 6 * 0.0) / 8)
    assert merged.ranks == (1.0, 0.0)
    (tied,), _ = votes(answers("a", "b"), answers("b", "a"))
    assert tied.preference == 0.5
    assert tied.ranks == (0.0, 0.0)


def test_other_prompts_and_longer_rankings_are_not_merged():
    one, other = answers("a", "b"), answers("a", "b", prompt=human("Else"))
    merged, count = votes(one, other, RANKED, RANKED)
    assert (len(merged), count) == (4, 0)


@pytest.fixture(scope="module")
def talk(tmp_path_factory):
    """A model's tokenizer with a template."""
    pytest.importorskip("tokenizers", reason="tokenizers of open weights need alignjax[hf]")
    from tests.commands import open_model

    folder = tmp_path_factory.mktemp("model")
    open_model.write_tokenizer(folder)
    return chat_format.load_chat_format(folder, template="chatml")


@pytest.mark.parametrize("kind", ["pairs", "demonstrations", "prompts", "documents", "steps"])
def test_texts_tokenised_ahead_give_the_same_examples_in_one_call(kind, talk, monkeypatch):
    given = [row for row in ROWS * 4 if kind in encoding.KINDS_OF[type(row)]]
    long = tuple(chat.Turn(*turn) for turn in [(chat.HUMAN, "a"), (chat.ASSISTANT, "b")] * 9)
    if kind == "pairs":  # a prompt that is cut
        given.append(answers("flour", "salt", prompt=(*long, *human("Bread"))))
    calls = []
    kind_of = type(talk.tokenizer)
    real = kind_of.encode_many
    monkeypatch.setattr(
        kind_of, "encode_many",
        lambda self, texts, after=interface.NOTHING: calls.append(len(texts))
        or real(self, texts, after),
    )  # fmt: skip
    made, counts = encoding.encode(given, kind, talk, OPTIONS)
    if kind not in ("pairs", "prompts"):
        assert len(calls) <= len(interface.PLACES)
    monkeypatch.setattr(encoding, "_ahead", lambda given, make, speaker, options: speaker)
    plain, others = encoding.encode(given, kind, talk, OPTIONS)
    assert counts == others
    for one, two in zip(made, plain, strict=True):
        for name, x in one.items():
            np.testing.assert_array_equal(x, two[name])


def test_calls_and_tools_are_laid_out_and_trained_as_the_template_says(tmp_path):
    """OpenAI messages with a call: under a family with tools, by the same code as in sampling."""
    pytest.importorskip("tokenizers", reason="tokenizers of open weights need alignjax[hf]")
    from tests.commands import open_model

    open_model.write_tokenizer(tmp_path)
    form = chat_format.load_chat_format(tmp_path, template="qwen2.5")
    tool = {"type": "function", "function": {"name": "weather", "parameters": {}}}
    call = template_tools.Call("weather", {"day": 1})
    turns = (
        *human("Will it rain?"),
        template_tools.Message(chat.ASSISTANT, "", (call,)),
        template_tools.Message("tool", "dry"),
        *said("No."),
    )
    row = rows.Conversation(turns=turns, tools=(tool,))
    (example,), _ = encoding.encode(
        [row], "demonstrations", form, encoding.Options(length=2048, prompt_length=64)
    )
    ids, mask = form.encode_chat(turns, tools=(tool,))
    assert example["ids"].tolist() == ids
    assert example["mask"].tolist() == mask
    shown = form.decode(int(i) for i, counted in zip(ids, mask, strict=True) if counted)
    assert '"name": "weather"' in shown
    assert "No." in shown
    assert "dry" not in shown


def test_parts_of_a_text_are_encoded_without_breaks_between(tok):
    plain = rows.Steps(prompt=human("How?"), steps=("Water", " salt."), labels=(1.0, 0.0))
    for is_text, said in ((True, "Water salt."), (False, "Water\n salt.")):
        row = dataclasses.replace(plain, is_text=is_text)
        ((example,), _) = encoding.encode([row], "steps", tok, OPTIONS)
        answer = example["ids"][example["mask"].astype(bool)]
        assert tok.decode(answer.tolist()).strip() == said
        assert tok.decode(example["ids"][example["step_ends"][:1]].tolist()) in "Water\n"


def test_answers_that_were_not_ranked_come_after_all_that_were(tok):
    row = answers("flour", "salt", "water", ranks=(1.0, float("inf"), 1.0))
    table, counts = table_of([row], "rankings", tok)
    assert counts.kept == 1
    np.testing.assert_array_equal(table["ranks"][0], [1, np.inf, 1])
