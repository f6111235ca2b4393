import pytest

from alignjax.text import chat

H, A, S = "human", "assistant", "system"


def test_parse_two_rounds():
    text = "\n\nHuman: Hi\n\nAssistant: Hello.\n\nHuman: Why?\n\nAssistant: Because.\n\n- it is"
    assert chat.parse_transcript(text) == [
        (H, "Hi"),
        (A, "Hello."),
        (H, "Why?"),
        (A, "Because.\n\n- it is"),
    ]


@pytest.mark.parametrize(
    ("text", "turns"),
    [
        ("Human: a\n\nAssistant: b", [(H, "a"), (A, "b")]),
        ("\n\nHuman: a\nAssistant: x\n\nAssistant: b", [(H, "a\nAssistant: x"), (A, "b")]),
        ("\n\nHuman: a\n\nHuman: b\n\nAssistant: c", [(H, "a\n\nb"), (A, "c")]),
        ("\n\nHuman: a\n\nAssistant:\n\nAssistant: c", [(H, "a"), (A, "c")]),
        ("\n\nHuman:\n\nAssistant: c", [(H, ""), (A, "c")]),
        ("\n\nHuman: say Human: a\n\nAssistant: c", [(H, "say Human: a"), (A, "c")]),
        ("\n\nSystem: be kind\n\nHuman: a\n\nAssistant: b", [(S, "be kind"), (H, "a"), (A, "b")]),
    ],
)
def test_parse_odd_but_usable(text, turns):
    assert chat.parse_transcript(text) == turns


@pytest.mark.parametrize(
    ("text", "reason", "message"),
    [
        ("", chat.NO_HUMAN, "no turn at all"),
        ("hello", chat.NO_HUMAN, "other text first"),
        ("\n\nUser: a\n\nAssistant: b", chat.NO_HUMAN, "other text first"),
        ("\n\nAssistant: b", chat.NO_HUMAN, "'Assistant:' first"),
        ("\n\nHuman: a", chat.NO_ANSWER, "hold an assistant turn"),
        ("\n\nHuman: a\n\nAssistant: b\n\nHuman: c", chat.NO_ANSWER, "a human turn last"),
        ("\n\nHuman: a\n\nAssistant: \n ", chat.EMPTY_ANSWER, "an empty one"),
    ],
)
def test_parse_refuses(text, reason, message):
    with pytest.raises(ValueError, match=message) as error:
        chat.parse_transcript(text)
    assert error.value.reason == reason


def turns(text):
    """Returns turns written as 'h:a a:b'."""
    roles = {"h": H, "a": A}
    return [chat.Turn(roles[part[0]], part[2:]) for part in text.split()]


@pytest.mark.parametrize(
    ("chosen", "rejected", "prompt", "diverged"),
    [
        ("h:1 a:x", "h:1 a:y", "h:1", False),
        ("h:1 a:2 h:3 a:x", "h:1 a:2 h:3 a:y", "h:1 a:2 h:3", False),
        ("h:1 a:x h:3 a:4", "h:1 a:y h:3 a:4", "h:1", True),
        ("h:1 a:x", "h:1 a:y h:3 a:4", "h:1", True),
        ("h:1 a:x", "h:1 a:x h:3 a:4", "h:1", True),
    ],
)
def test_split_pair(chosen, rejected, prompt, diverged):
    pair = chat.split_pair(turns(chosen), turns(rejected))
    assert list(pair.prompt) == turns(prompt)
    assert list(pair.prompt + pair.chosen) == turns(chosen)
    assert list(pair.prompt + pair.rejected) == turns(rejected)
    assert pair.diverged == diverged


@pytest.mark.parametrize(
    ("chosen", "rejected", "reason"),
    [
        ("h:1 a:x", "h:1 a:x", chat.EQUAL),
        ("h:1 a:x", "h:2 a:x", chat.PROMPTS_DIFFER),
        ("a:x", "a:y", chat.PROMPTS_DIFFER),
        ("h:1 a:2 h:3 a:x", "h:1 a:2 h:4 a:x", chat.PROMPTS_DIFFER),
    ],
)
def test_split_pair_refuses(chosen, rejected, reason):
    with pytest.raises(ValueError, match="must") as error:
        chat.split_pair(turns(chosen), turns(rejected))
    assert error.value.reason == reason


def test_golden_layout(tok):
    hi, yes, why, so = (tok.encode(text) for text in ("Hi", "Yes", "Why", "So"))
    conversation = turns("h:Hi a:Yes h:Why a:So")
    human, assistant = tok.control["<|human|>"], tok.control["<|assistant|>"]
    ids, mask = chat.encode_chat(tok, conversation)
    assert ids == [
        tok.bos_id,
        *(human, *hi, assistant, *yes, tok.eos_id),
        *(human, *why, assistant, *so, tok.eos_id),
    ]
    off, on = [False], [True]
    assert mask == (
        off * (1 + 1 + len(hi) + 1) + on * (len(yes) + 1)
        + off * (1 + len(why) + 1) + on * (len(so) + 1)
    )  # fmt: skip


def test_golden_mask_by_hand(tok):
    """ "zq" has no merge in the small vocabulary, so every length here is known."""
    assert len(tok.encode("zq")) == 2
    ids, mask = chat.encode_chat(tok, turns("h:zq a:zq"))
    # bos human z q assistant z q eos
    assert "".join("01"[value] for value in mask) == "00000111"
    assert ids[0] == tok.bos_id
    assert ids[-1] == tok.eos_id
    assert ids.count(tok.bos_id) == ids.count(tok.eos_id) == 1


def test_training_and_serving_ids_are_equal(tok):
    """The prompt's ids are an exact prefix of the whole, at every answer."""
    conversation = turns("h:Bread a:flour, h:and a:water h:then a:salt")
    whole, _ = chat.encode_chat(tok, conversation)
    for cut in (1, 3, 5):
        prompt, mask = chat.encode_chat(tok, conversation[:cut], generation_prompt=True)
        assert whole[: len(prompt)] == prompt
        assert not any(mask[-1:])
        assert prompt[-1] == tok.control["<|assistant|>"]
        answer = tok.encode(conversation[cut].text)
        assert whole[len(prompt) : len(prompt) + len(answer) + 1] == [*answer, tok.eos_id]


def test_markup_in_text_adds_no_control_token(tok):
    text = "<|assistant|> x <|eos|> <|bos|> <|im_start|>"
    ids, _ = chat.encode_chat(tok, [chat.Turn(H, text), chat.Turn(A, text)])
    assert ids.count(tok.bos_id) == 1
    assert ids.count(tok.eos_id) == 1
    assert [ids.count(i) for i in tok.control.values()] == [1, 1, 0]


def test_empty_answer_has_no_target(tok):
    _, mask = chat.encode_chat(tok, [chat.Turn(H, "a"), chat.Turn(A, "")])
    assert not any(mask)


def test_encode_refuses(tok):
    with pytest.raises(ValueError, match="role must be one of human, assistant, system"):
        chat.encode_chat(tok, [chat.Turn("tool", "a")])
    with pytest.raises(ValueError, match="before the assistant speaks"):
        chat.encode_chat(tok, turns("h:a a:b"), generation_prompt=True)


def test_sampled_ids_that_no_tokenizer_has_are_a_mark(tok):
    """The rows of an embedding are often more than the tokenizer's ids."""
    ids = tok.encode("the mill and on to the sea")
    beyond = tok.vocab_size + 3
    assert chat.sampled_text(tok, ids) == "the mill and on to the sea"
    half = len(ids) // 2
    found = chat.sampled_text(tok, [beyond, *ids[:half], beyond, beyond, *ids[half:]])
    assert found.startswith("\ufffd")
    assert found.count("\ufffd") == 3
    assert found.replace("\ufffd", "") == "the mill and on to the sea"
    assert chat.sampled_text(tok, []) == ""
