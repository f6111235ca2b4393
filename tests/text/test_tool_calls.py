"""Calls of functions are read as templates write them, and what is no call is said to be none."""

import json

import pytest

from alignjax.text import chat_format, template_families, template_tools, tool_calls
from alignjax.text.tokenizers import load
from tests.text import template_cases as cases

Call = template_tools.Call
STYLES = {
    name: family.tools
    for name, family in template_families.FAMILIES.items()
    if family.tools is not None
}
ONE = (
    Call(
        "weather", {"city": "Ål", "text": 'a "}]" of\n<tool_call> {', "days": [1, 2]}, "abcdef012"
    ),
)
TWO = (*ONE, Call("now", {}, "abcdef013"))


def turn(style, calls, text=""):
    """What a template writes between an assistant's header and its end."""
    return "".join(piece.text for piece in template_tools.calls(style, text, calls))


def bare(style, calls):
    return tuple(call if style.ids else call._replace(id="") for call in calls)


@pytest.mark.parametrize("family", STYLES)
@pytest.mark.parametrize("calls", [ONE, TWO], ids=["one", "two"])
@pytest.mark.parametrize("text", ["", "Let me look."])
def test_calls_come_back_as_they_were_written(family, calls, text):
    style = STYLES[family]
    if style.most_calls is not None:
        calls = calls[: style.most_calls]
    found = tool_calls.read(style, turn(style, calls, text))
    assert found == tool_calls.Written("" if style.lead is None else text, bare(style, calls))


@pytest.mark.parametrize("family", STYLES)
def test_plain_answers_hold_no_call(family):
    for text in ("It is -3 °C.", "", "weather(city) -> rain"):
        assert tool_calls.read(STYLES[family], text) == tool_calls.Written(text)


@pytest.mark.parametrize("family", STYLES)
def test_a_cut_call_is_a_problem(family):
    style = STYLES[family]
    whole = turn(style, ONE)
    opening = (style.calls[0] + style.call[0]).strip() or "{"
    first = whole.index(opening) + len(opening)
    for end in range(first, len(whole.rstrip()), 7):
        found = tool_calls.read(style, whole[:end])
        closed = not (style.call[1] + style.calls[1]).strip() and found.calls
        assert found.problem or closed, whole[:end]
        assert "\n" not in found.problem


@pytest.mark.parametrize(
    ("text", "problem"),
    [
        ("<tool_call>\nweather\n</tool_call>", "a call that is no JSON"),
        ("<tool_call>\n[1]\n</tool_call>", "a call that is no JSON object"),
        ('<tool_call>\n{"arguments": {}}\n</tool_call>', "a call without the name of a function"),
        ('<tool_call>\n{"name": "f"}\n</tool_call>', "arguments of f that are no JSON object"),
        ('<tool_call>\n{"name": "f", "arguments": {}}', "no '</tool_call>' behind a call"),
        (
            '<tool_call>\n{"name": "f", "arguments": {}}\n</tool_call> so',
            "text behind the calls",
        ),
        ("<tool_call>\n" + "[" * 100000, "a call that is no JSON"),
    ],
)
def test_what_is_wrong_with_a_call_is_said(text, problem):
    assert tool_calls.read(STYLES["qwen2.5"], text).problem == problem


def test_more_calls_than_the_template_knows():
    style = STYLES["llama3.1"]
    text = json.dumps({"name": "f", "parameters": {}}) * 2
    found = tool_calls.read(style, text)
    assert found.problem == "2 calls, and the template knows 1 at most"
    assert len(found.calls) == 1


def test_control_tokens_are_read_by_name():
    tokenizer = load.load_tokenizer(cases.TOKENIZERS["bytes"])
    family = template_families.FAMILIES["deepseek-v3"]
    speaker = chat_format.ChatFormat(tokenizer=tokenizer, template=family)
    asked = template_tools.Message("assistant", "", (Call("now", {"zone": "ö"}),))
    ids, mask = speaker.encode_chat([("user", "So?"), asked])
    own = [i for i, trained in zip(ids, mask, strict=True) if trained][:-1]
    assert not tool_calls.read(family.tools, speaker.decode(own)).calls
    text = tool_calls.written(speaker, own)
    assert tool_calls.read(family.tools, text).calls == (Call("now", {"zone": "ö"}),)


def test_a_layout_without_a_known_form_is_refused():
    tokenizer = load.load_tokenizer(cases.TOKENIZERS["bytes"])
    speaker = chat_format.ChatFormat(
        tokenizer=tokenizer, template=template_families.FAMILIES["chatml"]
    )
    with pytest.raises(ValueError, match=r"got chatml \(here\). Name the family in data.template"):
        tool_calls.style_of(speaker, "here")
