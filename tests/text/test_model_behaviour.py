"""What a model's folder says of answers: where they end, which day it is, what a message is."""

import json

import pytest

from alignjax.text import chat, chat_format, template_tools
from tests.commands import open_model
from tests.text import template_cases as cases

CHATML = (
    "{% for m in messages %}<|im_start|>{{ m.role + '\\n' + m.content }}<|im_end|>"
    "{{ '\\n' }}{% endfor %}"
    "{% if add_generation_prompt %}<|im_start|>assistant{{ '\\n' }}{% endif %}"
)
TURNS = [chat.Turn("human", "Hi"), chat.Turn("assistant", "Yes"), chat.Turn("human", "And?")]


@pytest.fixture
def model(tmp_path):
    """A folder with a tokenizer and ChatML as its own template; answers end with <|im_end|>."""
    (tmp_path / "tokenizer.json").write_bytes(cases.TOKENIZERS["bytes"].read_bytes())
    write(tmp_path, "tokenizer_config.json", chat_template=CHATML, eos_token="<|im_end|>")
    return tmp_path


def write(folder, name, **fields):
    (folder / name).write_text(json.dumps(fields))


@pytest.mark.parametrize("template", ["", "chatml"])
def test_answers_end_wherever_the_folder_says(model, template):
    own = chat_format.load_chat_format(model, template=template)
    assert own.ends == (own.eos_id,)
    other = own.special["<|eot_id|>"]
    for stated in (other, [other], [other, own.eos_id, other]):
        write(model, "generation_config.json", eos_token_id=stated, temperature=0.6)
        form = chat_format.load_chat_format(model, template=template)
        assert form.ends == (own.eos_id, other)
        assert form.eos_id == own.eos_id
        assert form.fingerprint == own.fingerprint


@pytest.mark.parametrize("stated", [-1, 10**9, "2", [True], [0.5], {"a": 1}])
def test_ends_outside_the_vocabulary_are_refused(model, stated):
    write(model, "generation_config.json", eos_token_id=stated)
    with pytest.raises(ValueError, match=r"^eos_token_id must be ids in 0\.\.") as refused:
        chat_format.load_chat_format(model)
    assert "\n" not in str(refused.value)


def test_a_dated_template_takes_a_date_or_the_day_that_it_falls_back_on(model):
    dated = (
        "{% if strftime_now is defined %}{% set day = strftime_now('%d %b %Y') %}"
        "{% else %}{% set day = '1 Jan 2024' %}{% endif %}{{ day }}"
    )
    write(model, "tokenizer_config.json", chat_template=dated + CHATML, eos_token="<|im_end|>")
    shown = [
        chat_format.load_chat_format(model, date=date).template.render([])
        for date in ("", "26 Jul 2024")
    ]
    assert shown == ["1 Jan 2024", "26 Jul 2024"]
    write(model, "tokenizer_config.json", chat_template="{{ strftime_now('%Y') }}")
    with pytest.raises(ValueError, match="today's date, which must be given as date"):
        chat_format.load_chat_format(model).template.render([])


def test_a_familys_template_needs_its_control_tokens_when_it_is_named(model):
    open_model.write_tokenizer(model)
    with pytest.raises(ValueError, match=r"control tokens of template llama3; got none called"):
        chat_format.load_chat_format(model, template="llama3")


def test_ids_beyond_the_models_rows_are_refused_where_a_prompt_can_hold_them(model):
    form = chat_format.load_chat_format(model)
    chat_format.check_rows(form, form.vocab_size, "m")
    used = max(form.ends + tuple(form.encode_chat(TURNS[:1], generation_prompt=True)[0]))
    assert form.special["<|im_end|>"] in form.ends
    with pytest.raises(ValueError, match=r"must lie below the model's \d+ rows; got \d+"):
        chat_format.check_rows(form, used, "m")
    # A control token that no layout writes may lie beyond.
    unused = [i for i in form.special.values() if i > used]
    ordinary = max(set(range(form.vocab_size)) - set(form.special.values()))
    if unused and ordinary < min(unused):
        chat_format.check_rows(form, min(unused), "m")


@pytest.mark.parametrize("template", ["", "chatml"])
def test_messages_may_be_dicts(model, template):
    form = chat_format.load_chat_format(model, template=template)
    names = {"human": "user"}
    dicts = [{"role": names.get(t.role, t.role), "content": t.text} for t in TURNS]
    parts = [{**d, "content": [{"type": "text", "text": d["content"]}]} for d in dicts]
    wanted = form.encode_chat(TURNS, generation_prompt=True)
    for given in (dicts, parts, [tuple(t) for t in TURNS]):
        assert form.encode_chat(given, generation_prompt=True) == wanted


def test_our_own_layout_takes_dicts_too_and_is_a_folders_layout(tok, tmp_path):
    dicts = [{"role": t.role, "content": t.text} for t in TURNS]
    assert chat.encode_chat(tok, dicts) == chat.encode_chat(tok, TURNS)
    tok.save(tmp_path / "tokenizer.model")
    form = chat_format.load_chat_format(tmp_path)
    assert form.encode_chat(TURNS[:2]) == chat.encode_chat(tok, TURNS[:2])
    assert form.ends == tok.ends == (tok.eos_id,)


def test_calls_of_dicts_are_calls():
    function = {"name": "add", "arguments": '{"a": 1}'}
    said = {"role": "assistant", "content": None, "tool_calls": [{"id": "7", "function": function}]}
    answered = {"role": "tool", "content": "2", "tool_call_id": "7"}
    call = template_tools.Call("add", {"a": 1}, "7")
    assert template_tools.message_of(said) == ("assistant", "", (call,), "7"[:0])
    assert template_tools.message_of(answered) == ("tool", "2", (), "7")


@pytest.mark.parametrize(
    "message",
    [
        "Hi",
        3,
        None,
        ("user",),
        ("user", 3),
        {"role": "user"},
        {"content": "Hi"},
        {"role": 3, "content": "Hi"},
        {"role": "user", "content": ["x"]},
        {"role": "user", "content": "x", "image": "y"},
        {"role": "assistant", "content": "x", "tool_calls": 5},
        {"role": "assistant", "content": "x", "tool_calls": [{"function": {"name": "f"}}, 2]},
        {"role": "assistant", "content": "", "tool_calls": [{"function": {"arguments": "{"}}]},
    ],
)  # fmt: skip
def test_anything_else_is_one_line(model, message):
    form = chat_format.load_chat_format(model)
    with pytest.raises(ValueError, match=r"^a message must be a Message, a \(role, text\)") as told:
        form.encode_chat([message])
    assert "\n" not in str(told.value)
