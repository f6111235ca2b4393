"""FactWorld: facts that a model has read often, facts that it never saw, and an exact verifier.

    entity 7, relation 2           ->  value 31 EOS             or  idk EOS
    entity 7, tell                 ->  relation 0 value 5  filler  relation 2 value 31  EOS
    entity 7, chat 1               ->  filler  filler  filler  EOS

Each entity has one value for each relation. Documents tell those of the known entities, each fact
equally often, or only the covered ones; the unknown entities appear in no document. So what a model
can know is known. Prompts to chat need no fact.
"""

import dataclasses
from collections.abc import Sequence
from typing import NamedTuple

import numpy as np

from alignjax.core import shapes
from alignjax.data import corpus

KINDS = ("documents", "demonstrations", "prompts")
LABEL = "needs_facts"  # category of labelled prompts
PAD, EOS, IDK, TELL = range(4)
FIRST = 4  # the token of relation 0; then fillers, values, entities


@dataclasses.dataclass(kw_only=True)
class FactConfig(corpus.DataConfig):
    """A FactWorld, and how often its facts are read."""

    seed: int = 0
    entities: int = 512
    known: int = 384  # entities of the documents
    relations: int = 4
    values: int = 64
    fillers: int = 4  # tokens that claim nothing
    mentions: int = 30  # of each known fact in the documents
    demonstrations: int = 4096
    unknown_share: float = 0.0  # of demonstrations, about entities that no document names
    told_share: float = 0.25  # of demonstrations and prompts, that ask for all that is known
    prompts: int = 4096
    eval_rows: int = 512
    coverage: float = 1.0  # chance that documents tell a known entity's fact; the first they do
    chats: int = 0  # kinds of prompts that need no facts
    chat_share: float = 0.0  # of documents, demonstrations and prompts
    idk_share: float = 0.0  # of documents and demonstrations about facts, whose writer says idk
    held_out: float = 0.0  # share of entities that only prompts of the eval split are about
    labels: int = 512  # prompts that are labelled whether they need facts
    label_noise: float = 0.0  # share of those with the wrong label
    demonstrated: str = ""  # file of demonstrations in place of people's, written by a lifecycle
    pairs: str = ""  # file of pairs, written by a lifecycle

    def validate(self) -> None:
        for name in ("entities", "relations", "fillers", "mentions", "demonstrations", "prompts"):
            shapes.check_number(f"data.{name}", getattr(self, name), minimum=1)
        shapes.check_number("data.eval_rows", self.eval_rows, minimum=1)
        shapes.check_number("data.values", self.values, minimum=2)
        shapes.check_number("data.seed", self.seed, minimum=0)
        shapes.check_number("data.known", self.known, minimum=1, maximum=self.entities)
        shapes.check_number("data.labels", self.labels, minimum=2)
        shapes.check_number("data.chats", self.chats, minimum=0)
        shares = ("unknown_share", "told_share", "coverage")
        for name in (*shares, "held_out", "label_noise"):
            shapes.check_number(f"data.{name}", getattr(self, name), minimum=0, maximum=1)
        for name in ("chat_share", "idk_share"):
            shapes.check_number(f"data.{name}", getattr(self, name), minimum=0, below=1)
        if self.chat_share and not self.chats:
            raise ValueError(
                f"data.chat_share must be 0 without chats; got {self.chat_share} (data). Raise "
                "data.chats."
            )
        if self.chats and self.relations < 2:
            raise ValueError(
                f"data.relations must be 2 at least with chats; got {self.relations} (data)."
            )
        if self.held_out and not 0 < self.held_out_of(self.known) < self.known:
            raise ValueError(
                f"data.held_out must leave known entities on both sides; got {self.held_out} of "
                f"{self.known} (data)."
            )
        if self.unknown_share and self.known == self.entities:
            raise ValueError(
                f"data.unknown_share must be 0 where all entities are known; got "
                f"{self.unknown_share} (data). Lower data.known."
            )

    @property
    def first_filler(self) -> int:
        return FIRST + self.relations

    @property
    def first_value(self) -> int:
        return self.first_filler + self.fillers

    @property
    def first_entity(self) -> int:
        return self.first_value + self.values

    @property
    def first_chat(self) -> int:
        return self.first_entity + self.entities

    @property
    def vocab_size(self) -> int:
        return self.first_chat + self.chats

    @property
    def length(self) -> int:
        """Tokens of the longest row: the question, a relation, a value and a filler each, EOS."""
        return 2 + 3 * self.relations + 1

    def held_out_of(self, count: int) -> int:
        """How many of `count` entities are held out: the last ones."""
        return round(self.held_out * count)

    def make(self, log: corpus.Log) -> corpus.Corpus:
        from alignjax.worlds import fact_corpus  # which reads this module

        return fact_corpus.make_corpus(self)

    def where(self) -> tuple[str, ...]:
        return ("demonstrated", "pairs")


def facts(config: FactConfig) -> np.ndarray:
    """[entities, relations]: the number of each value; entities below `known` are known."""
    rng = np.random.default_rng([config.seed, *b"facts"])
    return rng.integers(0, config.values, (config.entities, config.relations))


def covered(config: FactConfig) -> np.ndarray:
    """[entities, relations] bool: whether documents tell a fact."""
    rng = np.random.default_rng([config.seed, *b"coverage"])
    told = rng.random((config.entities, config.relations)) < config.coverage
    told[:, 0] = True
    return told & (np.arange(config.entities) < config.known)[:, None]


def short_rows(
    config: FactConfig, entity: np.ndarray, relation: np.ndarray, answer: np.ndarray
) -> tuple[np.ndarray, np.ndarray]:
    """(tokens [N, T], lengths) of questions for one relation; answer: a value's number, -1 idk."""
    tokens = np.full((len(entity), config.length), PAD, np.int32)
    tokens[:, 0], tokens[:, 1] = config.first_entity + entity, FIRST + relation
    tokens[:, 2] = np.where(answer >= 0, config.first_value + answer, IDK)
    tokens[:, 3] = EOS
    return tokens, np.full(len(entity), 4, np.int32)


def long_rows(
    config: FactConfig, entity: np.ndarray, claims: np.ndarray, rng: np.random.Generator
) -> tuple[np.ndarray, np.ndarray]:
    """(tokens [N, T], lengths) of all that is told of entities.

    claims: [N, relations] numbers of values, -1 for a relation that is left out. A filler stands
    before each claim with probability 1/2.
    """
    tokens = np.full((len(entity), config.length), PAD, np.int32)
    tokens[:, 0], tokens[:, 1] = config.first_entity + entity, TELL
    lengths = np.full(len(entity), 2, np.int32)
    row = np.arange(len(entity))
    for relation in range(config.relations):
        told = claims[:, relation] >= 0
        fills = told & (rng.random(len(entity)) < 0.5)
        filler = config.first_filler + rng.integers(0, config.fillers, len(entity))
        name = np.full(len(entity), FIRST + relation)
        value = config.first_value + claims[:, relation]
        for kept, token in ((fills, filler), (told, name), (told, value)):
            tokens[row[kept], lengths[kept]] = token[kept]
            lengths += kept
    tokens[row, lengths] = EOS
    return tokens, lengths + 1


def chat_rows(
    config: FactConfig, entity: np.ndarray, kind: np.ndarray, rng: np.random.Generator
) -> tuple[np.ndarray, np.ndarray]:
    """(tokens [N, T], lengths) of prompts that need no facts, answered by 1 to 4 fillers."""
    tokens = np.full((len(entity), config.length), PAD, np.int32)
    count = rng.integers(1, 5, len(entity))
    words = config.first_filler + rng.integers(0, config.fillers, (len(entity), 4))
    tokens[:, 0], tokens[:, 1] = config.first_entity + entity, config.first_chat + kind
    tokens[:, 2:6] = np.where(np.arange(4) < count[:, None], words, PAD)
    tokens[np.arange(len(entity)), 2 + count] = EOS
    return tokens, (3 + count).astype(np.int32)


class Verdict(NamedTuple):
    """What rows claim, [N]: counts of true claims and of all; whether they said that they don't
    know; whether they could not be read, as they are no list of claims or have no end."""

    supported: np.ndarray
    facts: np.ndarray
    abstained: np.ndarray
    failed: np.ndarray


def verify(config: FactConfig, tokens: np.ndarray, lengths: np.ndarray) -> Verdict:
    """What rows of tokens (question and answer, [N, T]) claim, and what of it is true.

    A relation that is told twice counts once, by its first value: repeating is not knowing more.
    """
    truth = facts(config)
    rows = zip(np.asarray(tokens), lengths, strict=True)
    found = np.array([_read(config, truth, row[:n]) for row, n in rows], int).reshape(-1, 4)
    return Verdict(found[:, 0], found[:, 1], found[:, 2] > 0, found[:, 3] > 0)


def _read(config: FactConfig, truth: np.ndarray, row: np.ndarray) -> tuple[int, int, bool, bool]:
    """(true claims, claims, abstained, failed) of one row of tokens."""
    entity = int(row[0]) - config.first_entity
    answer = [int(x) for x in row[2:]]
    if not 0 <= entity < config.entities or not answer or answer[-1] != EOS:
        return 0, 0, False, True
    words = answer[:-1]
    if words == [IDK]:
        return 0, 0, True, False
    if int(row[1]) >= config.first_chat:
        fills = all(config.first_filler <= word < config.first_value for word in words)
        return 0, 0, False, not fills
    asked = int(row[1]) - FIRST
    said = _claims(config, words if int(row[1]) == TELL else [FIRST + asked, *words])
    if said is None:
        return 0, 0, False, True
    right = sum(truth[entity, relation] == value for relation, value in said.items())
    return int(right), len(said), False, False


def _claims(config: FactConfig, words: Sequence[int]) -> dict[int, int] | None:
    """The value of each relation that is told; None where the words are no such list."""
    said: dict[int, int] = {}
    place = 0
    while place < len(words):
        if config.first_filler <= words[place] < config.first_value:
            place += 1
            continue
        relation = words[place] - FIRST
        value = words[place + 1] - config.first_value if place + 1 < len(words) else -1
        if not (0 <= relation < config.relations and 0 <= value < config.values):
            return None
        said.setdefault(relation, value)
        place += 2
    return said


def helpfulness(claims: np.ndarray) -> np.ndarray:
    """1 - 2^-n of n claims, true or not: what a rater sees who does not check. It saturates."""
    return np.asarray(1.0 - 2.0 ** -np.asarray(claims, np.float64))


def fillers(config: FactConfig, tokens: np.ndarray, lengths: np.ndarray) -> np.ndarray:
    """[N]: tokens of answers that claim nothing."""
    slot = np.arange(tokens.shape[1])
    own = (tokens >= config.first_filler) & (tokens < config.first_value)
    return np.asarray((own & (slot >= 2) & (slot < np.asarray(lengths)[:, None])).sum(axis=1))


def known_chance(config: FactConfig, entity: np.ndarray) -> np.ndarray:
    """The best chance of a right answer: 1, or 1 / values where no document names the entity."""
    return np.where(np.asarray(entity) < config.known, 1.0, 1.0 / config.values)


def text(config: FactConfig, ids: np.ndarray) -> str:
    """Tokens in words: e7 r2 -> v31."""
    starts = (
        (config.first_chat, "c"), (config.first_entity, "e"), (config.first_value, "v"),
        (config.first_filler, "f"), (FIRST, "r"),
    )  # fmt: skip
    named = []
    for i in (int(x) for x in ids):
        first, letter = next(((s, name) for s, name in starts if i >= s), (0, ""))
        named.append(f"{letter}{i - first}" if letter else ("<pad>", "<eos>", "idk", "tell")[i])
    return " ".join(named)
