"""Tokenizers that differ: refused where a network reads tokens, read anew where it may be text."""

import dataclasses
import json
import pathlib

import jax
import numpy as np
import pytest

from alignjax.algorithms import distill, dpo, ppo
from alignjax.core import keys
from alignjax.data import hh, pipeline, retokenise
from alignjax.parallel import mesh as meshes
from alignjax.runs import evaluation, train
from alignjax.sampling import generate, transforms
from alignjax.text import chat
from tests.runs import starts

SENTENCES = (
    "The river runs past the old mill and on to the sea.",
    "Bread needs flour, water, salt and a little time.",
    "How do I keep a garden green in a dry summer?",
    "Water early in the morning, and cover the soil with straw.",
)
OTHERS = ("A train leaves at noon.", "Number nine is an odd number.", "Snow, again: so be it.")
SCORER = dataclasses.replace(starts.POLICY, width=16, heads=4, kv_heads=2, head_dim=4)
PPO = ppo.PpoConfig(
    sampling=transforms.SamplingConfig(max_new_tokens=8), epochs=1, minibatches=1
)  # fmt: skip


def write(folder: pathlib.Path, sentences, rows=24) -> str:
    """A folder of comparisons, both splits with prompts of their own."""
    folder.mkdir()
    for split, first in (("train", 0), ("eval", 500)):
        lines = []
        for n in range(rows):
            words = [sentences[(n + k) % len(sentences)] for k in range(3)]
            prompt = f"\n\nHuman: {first + n} {words[0]}\n\nAssistant:"
            sides = {"chosen": f"{prompt} {words[1]}", "rejected": f"{prompt} {words[2]}"}
            lines.append(json.dumps(sides))
        (folder / f"made.{split}.jsonl").write_text("\n".join(lines) + "\n")
    return str(folder)


@pytest.fixture(scope="module")
def texts(tmp_path_factory):
    """(the policy's data, the others' data, with a tokenizer of their own and longer rows)."""
    root = tmp_path_factory.mktemp("texts")
    own = hh.HhConfig(path=write(root / "own", SENTENCES), vocab_size=340, length=96,
                      prompt_length=48, max_truncated_share=1.0)  # fmt: skip
    other = hh.HhConfig(path=write(root / "other", OTHERS), vocab_size=330, length=128,
                        prompt_length=80, max_truncated_share=1.0)  # fmt: skip
    return own, other


@pytest.fixture(scope="module")
def runs(tmp_path_factory, texts):
    """Folders of a policy, and of a policy and a reward model with another tokenizer."""
    root, whole = tmp_path_factory.mktemp("runs"), meshes.make_mesh
    configs = {
        "policy": starts.make(starts.PullConfig(), data=texts[0]),
        "stranger": starts.make(starts.PullConfig(), data=texts[1]),
        "scorer": starts.make(starts.PullConfig(head=True), SCORER, data=texts[1]),
    }
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(meshes, "make_mesh", lambda config: whole(config, jax.devices()[:1]))
        for name, config in configs.items():
            train.train(config, root / name, name=name, log=starts.quiet)
        yield {name: str(root / name) for name in configs}


def refused(config, folder):
    with pytest.raises(ValueError, match="must") as caught:
        train.train(config, folder, name="refused", log=starts.quiet)
    assert "\n" not in str(caught.value)
    assert not folder.exists()
    return str(caught.value)


def first_difference(texts):
    one, other = (config.make(starts.quiet).speaker for config in texts)
    for token in range(other.vocab_size):
        if one.decode([token]) != other.decode([token]):
            return token, one.decode([token]), other.decode([token])
    raise AssertionError("the two tokenizers are one")


@pytest.mark.parametrize("role", ["policy", "reference", "critic", "reference of dpo", "teacher"])
def test_networks_that_read_tokens_are_refused_by_the_first_one_that_differs(
    tmp_path, texts, runs, role
):
    names = {"policy": runs["policy"]}
    if role == "reference of dpo":
        config = starts.make(dpo.DpoConfig(), data=texts[0], reference=runs["stranger"], **names)
    elif role == "teacher":
        config = starts.make(distill.DistillConfig(), data=texts[0], teacher=runs["stranger"])
    elif role == "policy":
        config = starts.make(PPO, data=texts[0], policy=runs["stranger"], reward=runs["scorer"])
    else:
        other = {role: runs["scorer" if role == "critic" else "stranger"]}
        config = starts.make(PPO, data=texts[0], reward=runs["scorer"], **names, **other)
    message = refused(config, tmp_path / "refused")
    token, here, there = first_difference(texts)
    assert f"token {token} is {here!r} here and {there!r} there" in message
    assert role.split()[0] in message or {"critic": "value"}[role] in message


def scores_of(scorer, texts, conversations):
    """Scores of whole conversations, laid out and padded for one pass; ended says if with EOS."""
    speaker = texts[1].make(starts.quiet).speaker
    rows = []
    for turns, answer, ended in conversations:
        ids, _ = chat.encode_chat(speaker, [*turns, chat.Turn("assistant", answer)])
        rows.append(ids if ended else ids[:-1])
    width = max(map(len, rows))
    tokens = np.array([row + [speaker.pad_id] * (width - len(row)) for row in rows], np.int32)
    lengths = np.array([len(row) for row in rows])
    return starts.heads(scorer, tokens, lengths)[np.arange(len(rows)), lengths - 1]


def conversations_of(corpus, split, tokens, lengths, prompt_lengths, index):
    """(turns of the prompt, answer, whether it ended) of completions."""
    kept = []
    for row, end, start, number in zip(tokens, lengths, prompt_lengths, index, strict=True):
        answer = [int(token) for token in row[start:end]]
        ended = answer[-1:] == [corpus.eos]
        text = corpus.speaker.decode(answer[: len(answer) - ended])
        kept.append((corpus.conversation(split, int(number)), text, ended))
    return kept


def test_a_reward_model_with_another_tokenizer_reads_text(tmp_path, texts, runs):
    config = starts.make(PPO, data=texts[0], policy=runs["policy"], reward=runs["scorer"])
    config.loop.evaluate_every, config.loop.evaluate_rows = 1, starts.ROWS
    lines = []
    train.train(config, tmp_path / "ppo", name="ppo", log=lines.append)
    assert any("reward has a tokenizer of its own and is given text" in line for line in lines)
    (row,) = starts.rows_of(tmp_path / "ppo")
    # The first step's samples, drawn again and scored as text.
    corpus = texts[0].make(starts.quiet)
    batch = pipeline.Batches(corpus.read("prompts", "train"), batch_size=starts.ROWS, seed=0).batch(
        0
    )
    model, policy = starts.opened(runs["policy"], "policy")
    run = generate.make_generate(model, PPO.sampling, eos=corpus.eos, pad=corpus.pad)
    key = keys.at(keys.stream(0, "collect"), 0)
    samples = jax.device_get(run(policy, batch["prompts"], batch["lengths"], key))
    named = (samples.tokens, samples.lengths, samples.prompt_lengths, batch["index"])
    scorer = starts.opened(runs["scorer"], "scorer")
    direct = scores_of(scorer, texts, conversations_of(corpus, "train", *named))
    assert np.ptp(direct) > 1e-2
    np.testing.assert_allclose(row["score"], direct.mean(), rtol=1e-4, atol=1e-5)
    # In the loop as afterwards it reads the prompts of the eval split.
    after = evaluation.evaluate(tmp_path / "ppo", rows=starts.ROWS, seed=0)
    for name in ("reward model score", "KL to the reference, nats"):
        np.testing.assert_allclose(row[f"eval/{name}"], after[name].value, rtol=1e-4, atol=1e-5)


def test_answers_are_laid_out_anew_ended_or_cut(texts, runs):
    own, other = (config.make(starts.quiet) for config in texts)
    read = retokenise.reader(own, other.speaker, other.length, other.prompt_length, "eval")
    answers = ["Bread and water.", "", "\u00e9t\u00e9 <|eos|> 12", "straw " * 60]
    rows, prompts = [], own.read("prompts", "eval")
    for number, answer in enumerate(answers):
        prompt = [int(x) for x in prompts["prompts"][number][: prompts["lengths"][number]]]
        ids = own.speaker.encode(answer)
        rows.append((prompt, [*ids, own.eos] if number != 2 else ids))
    lengths = np.array([len(prompt) + len(ids) for prompt, ids in rows])
    starts_at = np.array([len(prompt) for prompt, _ in rows])
    tokens = np.zeros((4, lengths.max()), np.int32)
    for row, (prompt, ids) in zip(tokens, rows, strict=True):
        row[: len(prompt) + len(ids)] = [*prompt, *ids]
    table = read(tokens, lengths, starts_at, np.arange(4))
    for number, answer in enumerate(answers):
        turns = [*own.conversation("eval", number), chat.Turn("assistant", answer)]
        ids, _ = chat.encode_chat(other.speaker, turns)
        ids = (ids[:-1] if number == 2 else ids)[: other.length]
        real = table["segments"][number].sum()
        assert table["tokens"][number, :real].tolist() == ids
        assert table["positions"][number, :real].tolist() == list(range(real))
