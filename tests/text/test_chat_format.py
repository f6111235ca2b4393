"""A tokenizer with its template, where our own tokenizer stands: tables, pads, ends."""

import dataclasses
import json

import numpy as np
import pytest

from alignjax.data import examples
from alignjax.text import chat, chat_format, template_families, templates
from alignjax.text.tokenizers import load
from tests.text import small_tokenizers, test_tokenizer_loading
from tests.text import template_cases as cases

T = chat.Turn


@pytest.fixture(scope="module")
def formats():
    byte = load.load_tokenizer(cases.TOKENIZERS["bytes"]).with_pad("<eos>")
    space = load.load_tokenizer(cases.TOKENIZERS["spaces"]).with_pad("</s>")
    made = {}
    for name, template in template_families.FAMILIES.items():
        tokenizer = space if name in ("llama2", "mistral-v1") else byte  # [INST] is text there
        made[name] = chat_format.ChatFormat(
            tokenizer=tokenizer, template=template, date="03 Feb 2025"
        )
    return made


def pair(prompt, chosen, rejected):
    return chat.Pair(tuple(prompt), (T("assistant", chosen),), (T("assistant", rejected),), False)


PROMPT = [T("human", "Bread?"), T("assistant", "Flour."), T("human", "And then?")]


@pytest.mark.parametrize("family", sorted(template_families.FAMILIES))
def test_pairs_hold_prompt_and_answers_exactly(formats, family):
    talk = formats[family]
    rows = [pair(PROMPT, "Salt and time.", "No."), pair(PROMPT[:1], "Yes", "Wait")]
    table, counts = examples.pair_table(talk, rows, 400, 390)
    assert (counts.kept, counts.truncated) == (2, 0)
    for row, given in zip(rows, range(2), strict=True):
        prompt, _ = chat.encode_chat(talk, row.prompt, generation_prompt=True)
        assert table["prompt_lengths"][given] == len(prompt)
        for side, answer in enumerate((row.chosen, row.rejected)):
            ids, mask = chat.encode_chat(talk, [*row.prompt, *answer])
            length = table["lengths"][given, side]
            assert table["tokens"][given, side, :length].tolist() == ids
            counted = np.flatnonzero(table["loss_mask"][given, side])
            # earlier answers of the prompt are not counted, the last one with its end is
            assert counted[0] == len(prompt)
            assert table["tokens"][given, side, counted[-1]] == talk.eos_id
            assert len(counted) == sum(mask[len(prompt) :])


def test_a_pad_that_is_the_end_changes_no_mask(formats):
    talk = formats["smollm2"]
    rows = [pair(PROMPT, "Salt and time.", "No.")]
    other = dataclasses.replace(talk, tokenizer=talk.tokenizer.with_pad("<|im_end|>"))
    assert other.pad_id == other.eos_id
    first, _ = examples.pair_table(talk, rows, 400, 300)
    second, _ = examples.pair_table(other, rows, 400, 300)
    for name in first:
        if name != "tokens":
            np.testing.assert_array_equal(first[name], second[name])
    assert second["loss_mask"][0, 0].sum() == first["loss_mask"][0, 0].sum() > 1


def test_conversations_and_texts(formats):
    talk = formats["qwen2.5"]
    turns = [*PROMPT, T("assistant", "Salt.")]
    table, _ = examples.language_table(talk, [turns], 400)
    ids, mask = chat.encode_chat(talk, turns)
    assert table["tokens"][0, : len(ids)].tolist() == ids
    np.testing.assert_array_equal(np.flatnonzero(table["loss_mask"][0]), np.flatnonzero(mask))
    last = dataclasses.replace(talk, trained="last")
    one, _ = examples.language_table(last, [turns], 400)
    assert one["loss_mask"].sum() == len(talk.encode("Salt.", "special")) + 1
    texts, _ = examples.text_table(talk, ["Bread needs flour."], 64, pack=False)
    row = [*talk.encode("Bread needs flour."), talk.eos_id]  # this tokenizer states no BOS
    assert texts["tokens"][0, : len(row)].tolist() == row


@pytest.mark.parametrize("family", ["gemma", "llama3.1", "smollm2", "llama2"])
def test_long_prompts_lose_old_turns_then_the_beginning_of_the_last(formats, family):
    talk = formats[family]
    whole, _ = chat.encode_chat(talk, PROMPT, generation_prompt=True)
    short, _ = chat.encode_chat(talk, PROMPT[2:], generation_prompt=True)
    rows = [pair(PROMPT, "a", "b")]
    table, counts = examples.prompt_table(talk, rows, len(whole) - 1, max_truncated_share=1.0)
    assert table["prompts"][0, : len(short)].tolist() == short
    assert counts.truncated_prompts == 1
    long = [pair([T("human", "x" * 300 + " the end?")], "a", "b")]
    bare, _ = chat.encode_chat(talk, [T("human", "")], generation_prompt=True)
    table, _ = examples.prompt_table(talk, long, len(bare) + 12, max_truncated_share=1.0)
    shown = talk.decode(table["prompts"][0, : table["lengths"][0]].tolist())
    assert "the end?" in shown
    assert table["lengths"][0] <= len(bare) + 12
    pairs, _ = examples.pair_table(
        talk, long, len(bare) + 40, len(bare) + 12, max_truncated_share=1
    )
    length = table["lengths"][0]
    np.testing.assert_array_equal(pairs["tokens"][0, 0, :length], table["prompts"][0, :length])
    with pytest.raises(ValueError, match=r"must hold the template's own \d+ tokens"):
        examples.prompt_table(talk, long, max(len(bare) - 1, 4), max_truncated_share=1.0)


def test_a_prompt_that_its_template_rewrites_is_refused(formats):
    talk = formats["qwen3"]
    turns = [T("assistant", "a"), T("human", "b"), T("assistant", "c")]
    with pytest.raises(ValueError, match="a prompt must be a prefix of its conversation"):
        chat.continue_chat(talk, [T("human", "x")], turns)
    ids, mask = chat.continue_chat(talk, [T("human", "x")], turns[:1])
    assert len(ids) == len(mask) == sum(mask) + 1


def test_the_end_is_the_templates_and_the_fingerprint_holds_both(formats):
    prints = {name: talk.fingerprint for name, talk in formats.items()}
    assert len(set(prints.values())) == len(prints)
    talk = formats["llama3"]
    assert talk.eos_id == talk.special["<|eot_id|>"]
    assert dataclasses.replace(talk, date="04 Feb 2025").fingerprint != talk.fingerprint
    assert (talk.vocab_size, talk.bos_id) == (talk.tokenizer.vocab_size, None)
    assert talk.encode_many(["a"]) == [talk.encode("a")]


def test_loading_with_a_named_template_or_the_folders_own(tmp_path):
    source = cases.TOKENIZERS["bytes"].read_bytes()
    (tmp_path / "tokenizer.json").write_bytes(source)
    named = chat_format.load_chat_format(tmp_path, template="chatml", pad="<|im_end|>")
    turns = [T("human", "a"), T("assistant", "b")]
    with pytest.raises(ValueError, match="a chat needs a template; got none"):
        chat_format.load_chat_format(tmp_path)
    jinja = (
        "{% for m in messages %}<|im_start|>{{ m.role + '\\n' + m.content }}<|im_end|>"
        "{{ '\\n' }}{% endfor %}{% if add_generation_prompt %}<|im_start|>assistant{{ '\\n' }}"
        "{% endif %}{% if day %}{{ strftime_now('%Y') }}{% endif %}"
    )
    config = {"chat_template": jinja, "eos_token": "<|im_end|>"}
    (tmp_path / "tokenizer_config.json").write_text(json.dumps(config))
    own = chat_format.load_chat_format(tmp_path, date="03 Feb 2025")
    assert own.encode_chat(turns) == named.encode_chat(turns)
    assert own.eos_id == named.eos_id == named.pad_id
    with pytest.raises(ValueError, match="must have a pad; got none"):
        own.pad_id  # noqa: B018 - the property is what raises
    with pytest.raises(ValueError, match="date must read like"):
        chat_format.load_chat_format(tmp_path, date="2025-02-03")
    unnamed = dataclasses.replace(own, tokenizer=dataclasses.replace(own.tokenizer, eos_id=None))
    with pytest.raises(ValueError, match="must name its eos"):
        unnamed.eos_id  # noqa: B018


def test_a_gguf_brings_its_template(tmp_path):
    test_tokenizer_loading.gguf_file(tmp_path / "model.gguf", small_tokenizers.gguf_fields())
    for path in (tmp_path, tmp_path / "model.gguf"):
        talk = chat_format.load_chat_format(path)
        assert talk.template.source == "{{ 1 }}"
        assert talk.encode_chat([T("human", "a")])[0] == talk.encode("1")


def test_our_own_tokenizer_keeps_its_pad(tok, tmp_path):
    tok.save(tmp_path / "tokenizer.model")
    with pytest.raises(ValueError, match="for tokenizers of other models only"):
        chat_format.load_chat_format(tmp_path, template="hh", pad="<|eos|>")
    talk = chat_format.load_chat_format(tmp_path, template="hh")
    assert chat.encode_chat(talk, PROMPT) == chat.encode_chat(tok, PROMPT)
    assert isinstance(talk.template, templates.Template)


def test_a_prompt_one_token_short_of_the_limit_is_whole(tok):
    """A system turn is dropped; what is left is not cut, and no marker doubles."""
    human = T("human", "zq zq zq")
    alone, _ = chat.encode_chat(tok, [human], generation_prompt=True)
    rows = [pair([T("system", "x" * 50), human], "a", "b")]
    for room in (0, 1, 2, 5):
        table, _ = examples.prompt_table(tok, rows, len(alone) + room, max_truncated_share=1.0)
        assert table["prompts"][0, : table["lengths"][0]].tolist() == alone
