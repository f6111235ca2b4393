"""FactWorld as a corpus: documents, demonstrations, prompts, their labels, and pairs of a file."""

import dataclasses
import hashlib
import json
import pathlib
from collections.abc import Mapping, Sequence
from typing import Any, NamedTuple

import numpy as np

from alignjax.core import untrusted
from alignjax.data import corpus, tables
from alignjax.worlds import corpus as review_corpus
from alignjax.worlds import facts

ALL = -1  # in place of a relation: all that is known; below it are the kinds of chats


class Questions(NamedTuple):
    """entity: [N]. asked: [N], a relation's number, ALL, or ALL - 1 - k for chats of kind k."""

    entity: np.ndarray
    asked: np.ndarray


def pools(config: facts.FactConfig, held_out: bool) -> tuple[np.ndarray, np.ndarray]:
    """(known entities, unknown ones) that are asked about, either of them those held out or not.

    Without `data.held_out` they are all entities on both sides.
    """
    parts = np.split(np.arange(config.entities), [config.known])
    if not config.held_out:
        return parts[0], parts[1]
    cuts = [len(part) - config.held_out_of(len(part)) for part in parts]
    both = [np.split(part, [cut])[int(held_out)] for part, cut in zip(parts, cuts, strict=True)]
    return both[0], both[1]


def questions(
    config: facts.FactConfig, kind: str, split: str
) -> tuple[np.random.Generator, Questions]:
    """What a split's demonstrations, prompts or labels are about, and further random numbers."""
    rng = np.random.default_rng([config.seed, *f"{kind}/{split}".encode()])
    count = config.eval_rows if split == "eval" else getattr(config, kind)
    known, unknown = pools(config, held_out=split == "eval" and kind != "demonstrations")
    entity = known[rng.integers(0, len(known), count)]
    if len(unknown):
        # Prompts are about all entities alike; demonstrations as often about unknown as told.
        natural = 1 - config.known / config.entities
        share = config.unknown_share if kind == "demonstrations" else natural
        other = unknown[rng.integers(0, len(unknown), count)]
        entity = np.where(rng.random(count) < share, other, entity)
    told = rng.random(count) < config.told_share
    asked = np.where(told, ALL, rng.integers(0, config.relations, count))
    if config.chats:
        chat = ALL - 1 - rng.integers(0, config.chats, count)
        asked = np.where(rng.random(count) < config.chat_share, chat, asked)
    return rng, Questions(entity, asked)


def answered(
    config: facts.FactConfig, rng: np.random.Generator, own: Questions, told: np.ndarray
) -> tuple[np.ndarray, np.ndarray]:
    """(tokens [N, T], lengths) of true answers; told: [E, R] bool, which facts lists hold."""
    truth, entity = facts.facts(config), own.entity
    relation = np.maximum(own.asked, 0)
    parts = [
        facts.short_rows(config, entity, relation, truth[entity, relation]),
        facts.long_rows(config, entity, np.where(told[entity], truth[entity], -1), rng),
    ]
    kinds = np.minimum(np.maximum(-own.asked, 0), 2)  # 0 a relation, 1 all, 2 chats
    if config.chats:
        chat = np.maximum(ALL - 1 - own.asked, 0)
        parts.append(facts.chat_rows(config, entity, chat, rng))
    tokens, lengths = (np.stack(columns) for columns in zip(*parts, strict=True))
    rows = np.arange(len(entity))
    return tokens[kinds, rows], lengths[kinds, rows]


def documents(
    config: facts.FactConfig, rng: np.random.Generator, split: str
) -> tuple[np.ndarray, np.ndarray]:
    """Rows of all documents, in random order; eval has `eval_rows` of them.

    Each covered fact stands alone in half of its mentions, rounded up, and in a list of all covered
    ones of its entity in the others. Beside those stand chats and questions that are answered by
    idk, as large a share as of demonstrations, so that a model has read both before it is tuned.
    """
    alone, told = (config.mentions + 1) // 2, facts.covered(config)
    entity, relation = np.nonzero(told)
    lists = np.repeat(np.arange(config.known), config.mentions - alone)
    every = np.concatenate([np.repeat(entity, alone), lists])
    kinds = np.concatenate([np.repeat(relation, alone), np.full(len(lists), ALL)])
    facts_told = len(every)
    if config.idk_share:
        more = rng.integers(0, facts_told, _beside(facts_told, config.idk_share))
        every, kinds = np.append(every, every[more]), np.append(kinds, kinds[more])
    silent = np.arange(len(every)) >= facts_told
    if config.chat_share:
        count = _beside(len(every), config.chat_share)
        every = np.append(every, rng.integers(0, config.known, count))
        kinds = np.append(kinds, ALL - 1 - rng.integers(0, config.chats, count))
        silent = np.append(silent, np.zeros(count, bool))
    order = rng.permutation(len(every))
    order = order[: config.eval_rows] if split == "eval" else order
    rows = answered(config, rng, Questions(every[order], kinds[order]), told)
    return silenced(*rows, silent[order]) if config.idk_share else rows


def _beside(count: int, share: float) -> int:
    """How many rows beside `count` others are a share of all."""
    return round(count * share / (1 - share))


def make_corpus(config: facts.FactConfig) -> corpus.Corpus:
    """The corpus of one world.

    Documents are all covered facts, `mentions` times each, half of the times in a list.
    Demonstrations answer truly, those about unknown entities too, as people who know would. The
    known reward is the share of true claims: NaN for a row without any.
    """
    config.validate()
    every = np.ones((config.entities, config.relations), bool)

    def table(kind: str, split: str) -> corpus.Table:
        if kind == "pairs":
            return review_corpus.read_pairs(config.pairs, split)
        if kind == "documents":
            rng = np.random.default_rng([config.seed, *f"documents/{split}".encode()])
            return review_corpus.rows(*documents(config, rng, split), start=1)
        if kind == "demonstrations" and config.demonstrated:
            return review_corpus.read_pairs(config.demonstrated, split)
        rng, own = questions(config, "labels" if kind == "labelled" else kind, split)
        tokens, lengths = answered(config, rng, own, every)
        both = np.full(len(tokens), 2, np.int32)
        if kind == "prompts":
            index = np.arange(len(tokens), dtype=np.int32)
            return {"prompts": tokens[:, :2], "lengths": both, "index": index}
        if kind == "labelled":
            needs = own.asked >= ALL
            if split == "train":
                needs = needs ^ (rng.random(len(needs)) < config.label_noise)
            return labelled(config, tokens[:, :2], needs)
        if config.idk_share:
            silent = rng.random(len(tokens)) < config.idk_share
            tokens, lengths = silenced(tokens, lengths, silent & (own.asked >= ALL))
        return review_corpus.rows(tokens, lengths, start=2)

    def gold(tokens: np.ndarray, lengths: np.ndarray) -> np.ndarray:
        found = facts.verify(config, tokens, lengths)
        return np.where(found.facts > 0, found.supported / np.maximum(found.facts, 1), np.nan)

    def tasks(split: str) -> Sequence[Mapping[str, Any]]:
        _, own = questions(config, "prompts", split)
        return [
            {"entity": int(e), "relation": int(r), "known": bool(e < config.known)}
            for e, r in zip(own.entity, own.asked, strict=True)
        ]

    kinds = facts.KINDS + (("labelled",) if config.chats else ())
    return corpus.Corpus(
        vocab_size=config.vocab_size,
        pad=facts.PAD,
        eos=facts.EOS,
        length=config.length,
        prompt_length=2,
        kinds=kinds + (("pairs",) if config.pairs else ()),
        table=table,
        text=lambda ids: facts.text(config, ids),
        fingerprints=fingerprints(config),
        gold=gold,
        tasks=tasks,
        categories=(facts.LABEL,) if config.chats else (),
        world=config,
    )


def labelled(config: facts.FactConfig, prompts: np.ndarray, needs: np.ndarray) -> tables.Table:
    """Prompts [N, 2] with labels whether they need facts."""
    tokens = np.full((len(prompts), config.length), facts.PAD, np.int32)
    tokens[:, :2] = prompts
    columns = review_corpus.rows(tokens, np.full(len(tokens), 2), start=1)
    labels = np.asarray(needs, np.float32)[:, None]
    return {**columns, "labels": labels, "weight": np.ones(len(tokens), np.float32)}


def silenced(
    tokens: np.ndarray, lengths: np.ndarray, silent: np.ndarray
) -> tuple[np.ndarray, np.ndarray]:
    """Rows whose answers are idk where `silent`, [N] bool, says so."""
    idk = np.full_like(tokens, facts.PAD)
    idk[:, :2], idk[:, 2], idk[:, 3] = tokens[:, :2], facts.IDK, facts.EOS
    return np.where(silent[:, None], idk, tokens), np.where(silent, 4, lengths).astype(np.int32)


def fingerprints(config: facts.FactConfig) -> dict[str, str]:
    """Hashes of the world, whatever the number of its rows, and of the files beside it."""
    counts = ("demonstrations", "prompts", "eval_rows", "labels", *config.where())
    fields = {field.name: field.default for field in dataclasses.fields(config)}
    # Options that came later count where they are used, so that older runs stay what they were.
    later = ("coverage", "chats", "chat_share", "idk_share", "held_out", "label_noise")
    named = {
        name: value
        for name, value in dataclasses.asdict(config).items()
        if name not in counts and not (name in later and value == fields[name])
    }
    identity = json.dumps({"world": "facts", **named})
    found = {"world": hashlib.sha256(identity.encode()).hexdigest()}
    for name in config.where():
        file = pathlib.Path(getattr(config, name))
        if file.is_file():
            found[name] = untrusted.digest(file)
    return found
