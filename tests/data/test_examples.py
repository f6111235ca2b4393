import numpy as np
import pytest

from alignjax.data import examples, packing
from alignjax.text import chat

CONVERSATIONS = [
    [chat.Turn("human", "zq"), chat.Turn("assistant", "zq")],
    [chat.Turn("human", "Bread needs"), chat.Turn("assistant", "flour, water and salt.")],
    [
        chat.Turn("human", "How?"),
        chat.Turn("assistant", "zq"),
        chat.Turn("human", "zq"),
        chat.Turn("assistant", "Thank you."),
    ],
]


def bits(row) -> str:
    return "".join("01"[int(value)] for value in row)


def check_form(table, length, pad_id):
    """Asserts what holds in every table, by a second and slower reading of its definition."""
    arrays = [table[name].reshape(-1, length) for name in ("tokens", "segments", "positions")]
    mask = table["loss_mask"].reshape(-1, length)
    assert [a.dtype for a in arrays] == [np.int32] * 3
    assert mask.dtype == bool
    for tokens, segments, positions, counted in zip(*arrays, mask, strict=True):
        position = 0
        for place in range(length):
            starts = place == 0 or segments[place] != segments[place - 1]
            position = 0 if starts or segments[place] == 0 else position + 1
            assert positions[place] == position
            if starts or segments[place] == 0:
                assert not counted[place]
            if segments[place] == 0:
                assert tokens[place] == pad_id
                assert not segments[place:].any()


def test_language_table_golden(tok):
    table, counts = examples.language_table(tok, CONVERSATIONS[:1], 11)
    # bos human z q assistant z q eos, then padding
    assert bits(table["loss_mask"][0]) == "00000111000"
    assert table["segments"].tolist() == [[1] * 8 + [0] * 3]
    assert table["positions"].tolist() == [[*range(8), 0, 0, 0]]
    z, q = tok.encode("zq")
    human, assistant = tok.control["<|human|>"], tok.control["<|assistant|>"]
    assert table["tokens"].tolist() == [
        [tok.bos_id, human, z, q, assistant, z, q, tok.eos_id, 0, 0, 0]
    ]
    assert (counts.read, counts.kept, counts.tokens, counts.loss_tokens) == (1, 1, 8, 3)


def test_packed_content_equals_unpacked(tok):
    many = CONVERSATIONS * 5
    flat, plain = examples.language_table(tok, many, 64)
    packed, counts = examples.language_table(tok, many, 64, pack=True)
    assert len(packed["tokens"]) < len(flat["tokens"])
    assert (counts.tokens, counts.loss_tokens) == (plain.tokens, plain.loss_tokens)

    def content(table):
        return sorted((ids.tolist(), mask.tolist()) for ids, mask in packing.unpack(table))

    assert content(flat) == content(packed)
    for table in (flat, packed):
        check_form(table, 64, tok.pad_id)
        assert (table["tokens"] == tok.bos_id).sum() == len(many)
        answers = sum(turn.role == "assistant" for turns in many for turn in turns)
        assert ((table["tokens"] == tok.eos_id) & table["loss_mask"]).sum() == answers


def test_language_truncation_is_counted_and_limited(tok):
    table, counts = examples.language_table(tok, CONVERSATIONS[:1], 6, max_truncated_share=1)
    assert bits(table["loss_mask"][0]) == "000001"
    assert (counts.truncated, counts.truncated_answers) == (1, 1)
    assert (table["tokens"] == tok.eos_id).sum() == 0
    with pytest.raises(ValueError, match="got 1 of 1"):
        examples.language_table(tok, CONVERSATIONS[:1], 6, max_truncated_share=0.5)
    with pytest.raises(ValueError, match="none of 1"):
        examples.language_table(tok, CONVERSATIONS[:1], 5, max_truncated_share=1)
    _, counts = examples.language_table(
        tok, [CONVERSATIONS[0], [chat.Turn("human", "z" * 20), chat.Turn("assistant", "a")]], 8,
        max_truncated_share=1,
    )  # fmt: skip
    assert (counts.kept, counts.dropped_empty) == (1, 1)


def test_text_table_counts_every_token_but_the_first_and_loses_none(tok):
    documents = ["zq", CONVERSATIONS[1], "", "water " * 30]
    table, counts = examples.text_table(tok, documents, 16, pack=True)
    check_form(table, 16, tok.pad_id)
    pieces = packing.unpack(table)
    assert all(bits(mask) == "0" + "1" * (len(ids) - 1) for ids, mask in pieces)
    expected = [tok.bos_id, *tok.encode("zq"), tok.eos_id]
    assert expected in [ids.tolist() for ids, _ in pieces]
    long = [tok.bos_id, *tok.encode("water " * 30), tok.eos_id]
    cut = [long[i : i + 16] for i in range(0, len(long), 16)]
    assert all(len(piece) > 1 for piece in cut)  # else the last is dropped by rule
    assert all(piece in [ids.tolist() for ids, _ in pieces] for piece in cut)
    assert (counts.read, counts.kept, counts.dropped_empty) == (4, 3, 1)
    assert counts.split >= 1
    assert counts.loss_tokens == counts.tokens - len(pieces)


def test_text_table_drops_a_piece_without_target(tok):
    table, counts = examples.text_table(tok, ["zqz"], 4)  # bos z q z | eos
    assert bits(table["loss_mask"][0]) == "0111"
    assert len(table["tokens"]) == 1
    assert (counts.kept, counts.split, counts.tokens) == (1, 1, 4)


def test_pair_table_golden(tok, pair):
    table, counts = examples.pair_table(tok, [pair("zq", "zq", "z")], 10, 6)
    z, q = tok.encode("zq")
    head = [tok.bos_id, tok.control["<|human|>"], z, q, tok.control["<|assistant|>"]]
    assert table["tokens"].tolist() == [
        [[*head, z, q, tok.eos_id, 0, 0], [*head, z, tok.eos_id, 0, 0, 0]]
    ]
    assert [bits(side) for side in table["loss_mask"][0]] == ["0000011100", "0000011000"]
    assert table["lengths"].tolist() == [[8, 7]]
    assert table["prompt_lengths"].tolist() == [5]
    assert table["index"].tolist() == [0]
    assert table["segments"].sum(-1).tolist() == [[8, 7]]
    assert counts.truncated == 0
    assert counts.loss_tokens == 5
    check_form(table, 10, tok.pad_id)


def test_pair_prompt_equals_prompt_table(tok, pair):
    rows = [pair("How do I keep a garden?", "Water it.", "No."), pair("zq", "a", "b")]
    table, _ = examples.pair_table(tok, rows, 64, 40)
    prompts, _ = examples.prompt_table(tok, rows, 40)
    for number, size in enumerate(prompts["lengths"]):
        assert size == table["prompt_lengths"][number]
        for side in (0, 1):
            assert (table["tokens"][number, side, :size] == prompts["prompts"][number, :size]).all()
        assert (prompts["prompts"][number, size:] == tok.pad_id).all()


def test_pairs_that_cannot_be_compared_are_dropped_and_counted(tok, pair):
    rows = [
        pair("zq", "zzzz", "zzqq"),  # equal once cut to two tokens
        pair("zq", "", "z"),
        pair("zq", "z", ""),
        pair("zq", "q", "z"),
    ]
    table, counts = examples.pair_table(tok, rows, 7, 6, max_truncated_share=1)
    assert table["index"].tolist() == [3]
    assert (counts.dropped_identical, counts.dropped_empty, counts.kept) == (1, 2, 1)
    assert counts.truncated_answers == 1
    assert table["tokens"].shape == (1, 2, 7)
    with pytest.raises(ValueError, match="none of 3"):
        examples.pair_table(tok, rows[:3], 7, 6, max_truncated_share=1)
    with pytest.raises(ValueError, match=r"at most the share 0\.1"):
        examples.pair_table(tok, rows, 7, 6, max_truncated_share=0.1)


def test_several_turns_after_the_prompt_count_assistant_tokens_only(tok):
    chosen = (chat.Turn("assistant", "z"), chat.Turn("human", "q"), chat.Turn("assistant", "z"))
    row = chat.Pair((chat.Turn("human", "q"),), chosen, (chat.Turn("assistant", "q"),), True)
    table, _ = examples.pair_table(tok, [row], 12, 6)
    # bos human q assistant | z eos human q assistant z eos
    assert [bits(side) for side in table["loss_mask"][0]] == ["000011000110", "000011000000"]


def test_prompts_are_cut_from_the_left_by_whole_turns(tok):
    h, a, s = (lambda text, role=role: chat.Turn(role, text) for role in chat._MARKERS)
    turns = (h("zz"), a("qq"), h("zq"))  # 1 + 3 + 4 + 3 + 1 = 12 tokens
    human, assistant = tok.control["<|human|>"], tok.control["<|assistant|>"]
    z, q = tok.encode("zq")

    def cut(turns, limit):
        row = chat.Pair(turns, (a("y"),), (a("n"),), False)
        table, counts = examples.prompt_table(tok, [row], limit, max_truncated_share=1)
        return table["prompts"][0, : table["lengths"][0]].tolist(), counts.truncated

    whole, truncated = cut(turns, 12)
    assert (len(whole), truncated) == (12, 0)
    assert cut(turns, 11) == ([tok.bos_id, human, z, q, assistant], 1)
    assert cut(turns, 5) == ([tok.bos_id, human, z, q, assistant], 1)
    assert cut(turns, 4) == ([tok.bos_id, human, q, assistant], 1)
    with_system = [tok.bos_id, tok.control["<|system|>"], z, human, z, q, assistant]
    assert cut((s("z"), *turns), 11) == (with_system, 1)
    assert cut((s("z"), *turns), 6) == ([tok.bos_id, human, z, q, assistant], 1)


def test_lengths_that_leave_no_room_are_refused(tok, pair):
    rows = [pair("zq", "q", "z")]
    for prompt_length in (8, 9):
        with pytest.raises(ValueError, match="prompt_length must be below length 8"):
            examples.pair_table(tok, rows, 8, prompt_length)
    with pytest.raises(ValueError, match="at least 4"):
        examples.prompt_table(tok, rows, 3)
    with pytest.raises(ValueError, match="at least 2"):
        examples.text_table(tok, ["zq"], 1)
    for make in (examples.prompt_table, lambda *a: examples.pair_table(*a, 4)):
        with pytest.raises(ValueError, match="none of 0"):
            make(tok, [], 8)


def test_counts_print_in_one_line(tok, pair):
    _, counts = examples.pair_table(tok, [pair("zq", "q", "z")], 10, 6)
    assert "\n" not in str(counts)
    assert str(counts).startswith("read 1, kept 1, truncated_prompts 0")
    assert str(counts).endswith("truncated share 0.0000")
