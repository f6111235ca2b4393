"""A conversation: what a model is asked turn by turn, and the command around it."""

import io
import json
import sys

import pytest

from alignjax import main
from alignjax.commands import common
from alignjax.serving import conversation, requests
from alignjax.text import chat

GREEDY = requests.Options(temperature=0, max_tokens=3)


def said(talk, text):
    return "".join(talk.answer(text))


def asked(running, turns, model="", tokens=3):
    """The greedy answer to turns, without a conversation."""
    speaker = running.served.speaker
    prompt = chat.encode_chat(speaker, turns, generation_prompt=True)[0]
    options = requests.Options(temperature=0, max_tokens=tokens)
    request = requests.Request(prompt=tuple(prompt), options=options, model=model)
    return "".join(event.text for event in running.stream(request))


def test_every_answer_is_that_to_all_turns_before_it(running):
    talk = conversation.Conversation(running, GREEDY, system="b")
    turns = [chat.Turn(chat.SYSTEM, "b")]
    for text in ("a", "c"):
        turns.append(chat.Turn(chat.HUMAN, text))
        expected = asked(running, turns)
        assert said(talk, text) == expected
        turns.append(chat.Turn(chat.ASSISTANT, expected))
    assert talk.undo() == "c"
    talk.choose("wide")
    assert said(talk, "c") == asked(running, turns[:-1], "wide")
    with pytest.raises(requests.UnknownModel, match="must be one of"):
        talk.choose("none")
    assert talk.model == "wide"
    roles = [message["role"] for message in talk.messages()]
    assert roles == ["system", "user", "assistant", "user", "assistant"]


def test_the_oldest_exchanges_give_way_and_the_system_prompt_stays(running):
    talk = conversation.Conversation(running, GREEDY, system="be brief")
    for number in range(6):
        said(talk, f"{number} and again")
    assert talk.forgotten >= 2
    assert talk.forgotten % 2 == 0
    kept = [chat.Turn(chat.SYSTEM, "be brief"), *talk.turns[talk.forgotten : -1]]
    assert talk.turns[-1].text == asked(running, kept)
    assert len(talk.turns) == 12  # what is said is kept, though the model no longer reads it


def test_a_turn_that_does_not_fit_is_refused_and_leaves_no_trace(running):
    talk = conversation.Conversation(running, GREEDY)
    first = said(talk, "hi")
    with pytest.raises(requests.Refusal, match="room for an answer in a context of 64 tokens"):
        said(talk, "long " * 60)
    assert talk.turns == [chat.Turn(chat.HUMAN, "hi"), chat.Turn(chat.ASSISTANT, first)]


def test_an_answer_that_is_stopped_keeps_what_was_said(running):
    talk = conversation.Conversation(running, requests.Options(seed=3, max_tokens=20))
    pieces = talk.answer("hi")
    first = next(pieces)
    pieces.close()
    assert talk.turns[-1] == chat.Turn(chat.ASSISTANT, first)
    assert talk.undo() == "hi"
    assert talk.undo() == ""


def test_two_answers_to_one_turn_have_seeds_of_their_own(running):
    options = requests.Options(seed=3, max_tokens=20, temperature=2.0)
    talk = conversation.Conversation(running, options)
    first = said(talk, "hi")
    assert said(talk, talk.undo()) != first
    again = conversation.Conversation(running, options)
    assert said(again, "hi") == first


def test_the_command_answers_lines_and_saves_rows(place, tmp_path, monkeypatch, capsys):
    file = tmp_path / "said.jsonl"
    words = ["what is\\", "the answer", "/again", "/bogus", f"/save {file}", "/reset", "hi"]
    monkeypatch.setattr(sys, "stdin", io.StringIO("\n".join(words) + "\n"))
    told = main.main(
        ["chat", str(place / "model"), "--template=chatml", "--temperature=0", "--context=64",
         "--max_new_tokens=4", "--system=be brief"]
    )  # fmt: skip
    out, err = capsys.readouterr()
    assert told == 0
    assert "/bogus is not known" in err
    row = json.loads(file.read_text())
    assert [m["role"] for m in row["messages"]] == ["system", "user", "assistant"]
    assert row["messages"][1]["content"] == "what is\nthe answer"
    answer = row["messages"][2]["content"]
    assert out.startswith(f"{answer}\n{answer}\n")


@pytest.mark.parametrize(
    ("option", "rule"),
    [("--temperature=-1", "temperature must be"), ("--context=0", "context must be"),
     ("--model=none", "model must be a folder")],
)  # fmt: skip
def test_bad_options_are_one_line(option, rule, place, capsys):
    words = [option] if option.startswith("--model") else [str(place / "model"), option]
    assert main.main(["chat", *words]) == 2
    err = capsys.readouterr().err
    assert rule in err
    assert len(err.strip().splitlines()) == 1


def test_a_terminal_gets_no_control_characters_of_a_model(monkeypatch):
    text = "one\n\ttwo \x1b]0;name\x07 \x9b2J é\u200f می\u200cخواهم"
    assert common.shown(text) == text  # a file or pipe has what was said
    monkeypatch.setattr(sys.stdout, "isatty", lambda: True)
    assert common.shown(text) == "one\n\ttwo \\x1b]0;name\\x07 \\x9b2J é\u200f می\u200cخواهم"
