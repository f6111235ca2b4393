"""Replies laid out by chat templates, and templates that rewrite what was said."""

import dataclasses

import numpy as np
import pytest

from alignjax.envs import env
from alignjax.text import chat, chat_format, template_families
from alignjax.text.tokenizers import load
from tests.data.conftest import hh_rlhf, pair, tok  # noqa: F401
from tests.envs import own_env
from tests.text import template_cases as cases

T = chat.Turn


def talk(family):
    tokenizer = load.load_tokenizer(cases.TOKENIZERS["bytes"]).with_pad("<eos>")
    template = template_families.FAMILIES[family]
    return chat_format.ChatFormat(tokenizer=tokenizer, template=template, date="03 Feb 2025")


def opened(speaker, **options):
    return own_env.Parrot(**options).opened(env.Setting(speaker.eos_id, speaker))


def in_turns(speaker, game, answers):
    """Ids of a conversation as sampler and environment exchange them."""
    ids, _ = chat.encode_chat(speaker, [T("human", "Bread?")], generation_prompt=True)
    _, states = game.start([{}], np.zeros((1, 2), np.uint32))
    for text in answers:
        own = chat.continue_chat(speaker, [T("human", "Bread?")], [T("assistant", text)])[0]
        own = own[: own.index(speaker.eos_id) + 1]
        step = env.step(game, states, [own])
        states = step.states
        ids = [*ids, *own, *step.observations[0]]
    return ids


@pytest.mark.parametrize("family", ["smollm2", "qwen2.5", "llama3.1", "gemma", "qwen3-instruct"])
def test_a_conversation_in_turns_is_that_of_the_template(family):
    speaker = talk(family)
    found = in_turns(speaker, opened(speaker), ["Flour.", "Salt, time"])
    turns = [T("human", "Bread?"), T("assistant", "Flour."), T("human", "Flour. (0)")]
    turns += [T("assistant", "Salt, time"), T("human", "Salt, time (1)")]
    assert found == chat.encode_chat(speaker, turns, generation_prompt=True)[0]


def test_our_own_layout(tok):  # noqa: F811
    found = in_turns(tok, opened(tok), ["yes", "no"])
    turns = [T("human", "Bread?"), T("assistant", "yes"), T("human", "yes (0)")]
    turns += [T("assistant", "no"), T("human", "no (1)")]
    assert found == chat.encode_chat(tok, turns, generation_prompt=True)[0]


def test_an_answer_without_its_end_gets_it_from_the_environment():
    speaker = talk("smollm2")
    game = opened(speaker)
    whole, cut = (game.bridge("So?", ended=ended) for ended in (True, False))
    assert cut == [speaker.eos_id, *whole]
    ids = speaker.encode("Flour")
    (said,) = env.step(game, [0], [ids]).observations
    assert said == game.bridge("Flour (0)", ended=False)


def test_results_of_tools_are_laid_out_as_such():
    speaker = talk("qwen2.5")
    ids = opened(speaker, role="tool").bridge("42", ended=True)
    shown = speaker.decode(ids)
    assert "42" in shown
    assert ids != opened(speaker).bridge("42", ended=True)


def test_a_template_that_rewrites_earlier_answers_is_refused():
    speaker = talk("qwen3")
    with pytest.raises(ValueError, match="lay out a conversation that goes on as it did") as found:
        opened(speaker)
    line = str(found.value)
    assert "\n" not in line
    first, _ = chat.encode_chat(speaker, [T("human", "One?")], generation_prompt=True)
    bare = talk("qwen3-instruct")
    plain, _ = chat.encode_chat(bare, [T("human", "One?")], generation_prompt=True)
    assert f"in place of '<think>' ({first[len(plain)]}) at token {len(plain)}" in line


def test_what_does_not_fit_is_refused():
    speaker = talk("smollm2")
    with pytest.raises(ValueError, match="Parrot needs data with a tokenizer; this data has none"):
        own_env.Parrot().opened(env.Setting(0))
    with pytest.raises(ValueError, match=r"Parrot.room must be above the template's own \d+"):
        opened(speaker, room=3)
    with pytest.raises(ValueError, match="at which sampling stops, 9999"):
        own_env.Parrot().opened(env.Setting(9999, speaker))
    with pytest.raises(ValueError, match=r"Parrot\.role"):
        dataclasses.replace(own_env.Parrot(), role="system").validate()
