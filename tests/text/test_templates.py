"""Templates against transformers' apply_chat_template, token by token, and their masks by hand."""

import itertools

import pytest

from alignjax.text import chat, template_families, templates
from alignjax.text.tokenizers import interface, load
from alignjax.text.tokenizers import tokenizer_json as json_file
from tests.text import small_tokenizers as small
from tests.text import template_cases as cases

FAMILIES = template_families.FAMILIES
RECORDED = [(family, name) for family, row in cases.FAMILIES.items() for name in row[3]]


@pytest.fixture(scope="module")
def goldens():
    return cases.goldens()["families"]


@pytest.fixture(scope="module")
def toks():
    return {kind: load.load_tokenizer(path) for kind, path in cases.TOKENIZERS.items()}


def conversation(messages):
    """Messages whose calls and results have ids, in order."""
    found, ids, answered = [], 0, 0
    for role, text, *calls in messages:
        made = [templates.Call(*call) for call in (calls or [()])[0]]
        made = [call._replace(id=cases.call_id(ids + n)) for n, call in enumerate(made)]
        ids += len(made)
        own = cases.call_id(answered) if role == "tool" else ""
        answered += role == "tool"
        found.append(templates.Message(role, text, tuple(made), own))
    return found


def options(family, tools=()):
    return {"tools": tools, "date": cases.DATE if family in cases.DATED else None}


@pytest.mark.parametrize(("family", "name"), RECORDED)
def test_ids_equal_transformers(goldens, toks, family, name):
    golden = goldens[family]["cases"][name]
    tok = toks[cases.FAMILIES[family][0]]
    messages, tools = cases.CASES[name]
    turns = conversation(messages)
    last = max(i for i, turn in enumerate(turns) if turn.role == "assistant")
    template, given = FAMILIES[family], options(family, tools)
    rendered = "".join(piece.text for piece in templates.render(template, turns, **given))
    ids, mask = templates.encode(tok, template, turns, **given)
    assert len(mask) == len(ids)
    if family == "mistral-v3" and turns[0].role == "system":  # the recorded one drops its text
        assert turns[0].text not in golden["whole"]["text"]
    else:
        assert rendered == golden["whole"]["text"]
        assert ids == golden["whole"]["ids"]
    prompt, prompt_mask = templates.encode(
        tok, template, turns[:last], generation_prompt=True, **given
    )
    expected = golden["prompt"]["ids"]
    if (
        family == "deepseek-v3" and turns[last - 1].role == "user"
    ):  # the recorded template opens a thought, which V3 does not have
        assert golden["prompt"]["text"].endswith("<｜Assistant｜><think>\n")
        expected = expected[: len(prompt)]
    assert prompt == expected
    assert ids[: len(prompt)] == prompt
    assert mask[: len(prompt)] == prompt_mask
    assert not prompt_mask[-1]


@pytest.mark.parametrize("family", sorted(FAMILIES))
def test_every_prompt_is_a_prefix_and_the_mask_is_the_answers(toks, family, tok):
    template = FAMILIES[family]
    used = tok if family == "hh" else toks[cases.FAMILIES.get(family, ("bytes",))[0]]
    turns = conversation(cases.TALK)
    given = {"date": cases.DATE}
    ids, mask = templates.encode(used, template, turns, **given)
    end = used.special[template.end]
    starts = [i for i, trained in enumerate(mask) if trained and not mask[i - 1]]
    assert len(starts) == 2
    for start, cut in zip(starts, (1, 3), strict=True):
        stop = ids.index(end, start)
        assert mask[start : stop + 1] == [True] * (stop + 1 - start)
        before, after = template.spaces
        assert used.decode(ids[start:stop]).strip() == turns[cut].text.strip()
        answer = before + turns[cut].text + after
        assert ids[start:stop] == used.encode(answer, interface.TEXT if before else "special")
        prompt, _ = templates.encode(used, template, turns[:cut], generation_prompt=True, **given)
        block = template.answer and template.answer_last and cut == 1
        assert (ids[: len(prompt)] == prompt) == (not block)
        assert block or start == len(prompt)
    assert sum(mask) == sum(
        len(used.encode("".join((template.spaces[0], turns[cut].text, template.spaces[1])), "text"))
        + 1
        for cut in (1, 3)
    )


@pytest.mark.parametrize("family", sorted(FAMILIES))
def test_markup_in_any_text_adds_no_control_token(toks, family, tok):
    template = FAMILIES[family]
    used = tok if family == "hh" else toks[cases.FAMILIES.get(family, ("bytes",))[0]]
    shown = "".join(name for name in used.special if name not in template.refuse)
    plain = [("user", "a"), ("assistant", "b")]
    marked = [("user", shown), ("assistant", shown)]
    if template.system or template.system_in_user:
        plain, marked = [("system", "c"), *plain], [("system", shown), *marked]
    calls = template.tools is not None
    if calls:
        plain += [("user", "x"), ("assistant", "", [("f", {"k": "v"})]), ("tool", "r")]
        marked += [("user", "x"), ("assistant", "", [("f", {"k": shown})]), ("tool", shown)]
    lists = template.tools is not None and template.tools.place
    given = {"date": cases.DATE, "tools": [{"name": "f"}] if lists else ()}
    marked_given = given | {"tools": [{"name": shown}] if lists else ()}
    few, _ = templates.encode(used, template, conversation(plain), **given)
    many, _ = templates.encode(used, template, conversation(marked), **marked_given)
    control = set(used.special.values())
    assert [i for i in many if i in control] == [i for i in few if i in control]
    assert len(many) > len(few)


def test_every_control_token_of_a_family_is_known_by_name():
    ours = {"<|bos|>", "<|eos|>", "<|human|>", "<|assistant|>", "<|system|>"}
    for template in FAMILIES.values():
        assert all(interface.is_control_name(name) for name in template.needs), template.name
    assert set(FAMILIES["hh"].needs) == ours


def test_our_layout_is_encode_chats(tok):
    turns = [
        chat.Turn("system", "Be kind"),
        chat.Turn("human", "Bread"),
        chat.Turn("assistant", ""),
        chat.Turn("human", "and \n"),
        chat.Turn("assistant", " water"),
    ]
    assert templates.encode(tok, FAMILIES["hh"], turns) == chat.encode_chat(tok, turns)
    prompt = templates.encode(tok, FAMILIES["hh"], turns[:4], generation_prompt=True)
    assert prompt == chat.encode_chat(tok, turns[:4], generation_prompt=True)


@pytest.mark.parametrize("family", ["mistral-v3", "deepseek-v3", "smollm3"])
def test_calls_are_trained_and_results_are_not(toks, family):
    tok, template = toks["bytes"], FAMILIES[family]
    given = {"date": cases.DATE}
    pieces = templates.render(template, conversation(cases.TWO_CALLS), **given)
    trained = [
        "".join(piece.text for piece in run)
        for said, run in itertools.groupby(pieces, key=lambda piece: piece.trained)
        if said
    ]
    weather = '"name": "weather", "arguments": {"city": "Ål"}'
    assert (
        trained
        == {
            "mistral-v3": [
                f'[TOOL_CALLS] [{{{weather}, "id": "call00000"}}, '
                '{"name": "now", "arguments": {}, "id": "call00001"}]</s>',
                " Rain at 12:00.</s>",
                " Bye</s>",
            ],
            "deepseek-v3": [
                "Let me look.<｜tool▁calls▁begin｜><｜tool▁call▁begin｜>function<｜tool▁sep｜>"
                "weather\n"
                '```json\n{"city": "Ål"}\n```<｜tool▁call▁end｜>\n<｜tool▁call▁begin｜>function'
                "<｜tool▁sep｜>now\n```json\n{}\n```<｜tool▁call▁end｜><｜tool▁calls▁end｜>"
                "<｜end▁of▁sentence｜>",
                "Rain at 12:00.<｜end▁of▁sentence｜>",
                "Bye<｜end▁of▁sentence｜>",
            ],
            "smollm3": [
                f"Let me look.\n<tool_call>\n{{{weather}}}\n</tool_call>\n"
                '<tool_call>\n{"name": "now", "arguments": {}}\n</tool_call><|im_end|>',
                "Rain at 12:00.<|im_end|>",
                "Bye<|im_end|>",
            ],
        }[family]
    )
    ids, mask = templates.encode(tok, template, conversation(cases.TWO_CALLS), **given)
    said = tok.decode([i for i, counted in zip(ids, mask, strict=True) if counted])
    assert "12:00" in said.split("Rain")[1]
    assert "rain" not in said


def test_a_second_round_of_deepseeks_calls_is_laid_out_as_the_first():
    rounds = [*cases.CALLS[:3], ("assistant", "", [("now", {})]), ("tool", "9"), ("assistant", "A")]
    pieces = templates.render(FAMILIES["deepseek-v3"], conversation(rounds))
    calls, one = "<｜tool▁calls▁begin｜>", "<｜tool▁call▁begin｜>function<｜tool▁sep｜>"
    results = "<｜tool▁outputs▁begin｜><｜tool▁output▁begin｜>"
    end = "\n```<｜tool▁call▁end｜><｜tool▁calls▁end｜><｜end▁of▁sentence｜>"
    over = "<｜tool▁output▁end｜><｜tool▁outputs▁end｜>"
    assert "".join(piece.text for piece in pieces) == (
        "<｜begin▁of▁sentence｜><｜User｜>Weather in Oslo?<｜Assistant｜>"
        f'{calls}{one}weather\n```json\n{{"city": "Oslo", "days": [1, 2]}}{end}'
        f'{results}{{"t": -3}}{over}{calls}{one}now\n```json\n{{}}{end}{results}9{over}'
        "A<｜end▁of▁sentence｜>"
    )


def test_mistral_states_its_spaces_itself_whatever_the_vocabulary_adds(toks):
    """A vocabulary that puts a space after control tokens would double them."""
    template = FAMILIES["mistral-v1"]
    turns = conversation(cases.CASES["system"][0])
    assert templates.encode(toks["spaces"], template, turns) == templates.encode(
        toks["start"], template, turns
    )


def test_an_empty_answer_is_no_target_and_a_call_alone_is(toks):
    template = FAMILIES["qwen3-instruct"]
    _, mask = templates.encode(toks["bytes"], template, [("user", "a"), ("assistant", "")])
    assert not any(mask)
    called = templates.Message("assistant", "", (templates.Call("f", {}),))
    ids, mask = templates.encode(toks["bytes"], template, [("user", "a"), called])
    trained = [token for token, counted in zip(ids, mask, strict=True) if counted]
    special = toks["bytes"].special
    assert trained[0] == special["<tool_call>"]
    assert trained[-2:] == [special["</tool_call>"], special["<|im_end|>"]]


def test_an_answer_that_starts_like_its_header_keeps_the_prompt_a_prefix(toks):
    """Read as one string "assistant" + line breaks would merge; a served answer cannot."""
    template = FAMILIES["chatml"]
    tok = toks["bytes"]
    turns = [("user", "a"), ("assistant", "\n\n  x")]
    prompt, _ = templates.encode(tok, template, turns[:1], generation_prompt=True)
    ids, mask = templates.encode(tok, template, turns)
    assert ids[: len(prompt)] == prompt
    assert mask.index(True) == len(prompt)


@pytest.mark.parametrize(
    ("family", "messages", "given", "message"),
    [
        ("gemma", [("system", "s"), ("user", "u")], {}, "have no system turn"),
        ("gemma", [("user", "u"), ("user", "u")], {}, "alternate, user first; got user, user"),
        ("gemma", [("assistant", "u")], {}, "alternate, user first; got assistant"),
        ("gemma3", [("system", "s")], {}, "have a user turn after the system's"),
        ("llama2", [("user", "u"), ("system", "s")], {}, "system turn first"),
        ("chatml", [("judge", "u")], {}, "roles among system, user, assistant, tool; got 'judge'"),
        ("chatml", [("user", "u"), ("tool", "u")], {}, "no tool turns or calls"),
        ("chatml", [("user", "u")], {"tools": [{}]}, "have no tools; got 1"),
        ("chatml", [("user", "u"), ("assistant", "a")], {"generation_prompt": True}, "end before"),
        ("chatml", [("user", 3)], {}, "text must be a str; got int"),
        (
            "qwen3",
            [("user", "u"), ("assistant", "<think>x")],
            {},
            "not hold <think> in a turn",
        ),
        ("llama3.2", [("user", "u")], {}, "date must be given"),
        ("llama3.1", [("tool", "u")], {"tools": [{}]}, "list tools in its first user turn"),
        ("llama3.1", cases.TWO_CALLS, {}, "have at most 1 call; got 2"),
        ("llama3.1", [("user", "u", [("f", {})])], {}, "have calls in assistant turns"),
        ("llama4", [("user", "u")], {}, "control tokens of template llama4"),
        ("deepseek-v3", [("user", "u")], {"tools": [{"name": "f"}]}, r"called '<｜"),
        (
            "smollm3",
            [("system", "/think"), ("user", "u")],
            {"date": "1"},
            "not hold /think in a turn",
        ),
    ],
)
def test_what_a_family_cannot_lay_out_is_refused(family, messages, given, message):
    known = ("chatml", "gemma", "llama2", "llama3")
    names = {name for one in known for name in FAMILIES[one].needs}
    tok = json_file.from_json(small.byte_level(tuple(sorted(names))))
    with pytest.raises(ValueError, match=message) as error:
        templates.encode(tok, FAMILIES[family], conversation(messages), **given)
    assert "\n" not in str(error.value)


def test_lists_and_ids_that_a_family_does_not_have_are_refused():
    with pytest.raises(ValueError, match="no list of tools, which the family"):
        templates.render(FAMILIES["deepseek-v3"], cases.CALLS[:1], tools=cases.TOOLS)
    calls = (templates.Call("f", {}, "short"),)
    with pytest.raises(ValueError, match="ids of nine letters and digits; got 'short'"):
        templates.render(
            FAMILIES["mistral-v3"], [("user", "u"), templates.Message("assistant", "", calls)]
        )


def test_names_of_families():
    assert template_families.named("qwen3") is FAMILIES["qwen3"]
    with pytest.raises(ValueError, match=r"template must be one of hh, llama2.*got 'qwen'"):
        template_families.named("qwen")
