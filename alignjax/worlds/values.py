"""ValueWorld: groups of opposing tastes and languages of equal meaning, with an exact optimum.

A response is a number of words, then EOS. A word has a quality and two values; a group's utility is

    u_g(y) = sum over words w of quality_w + taste_g . values_w

A prompt is a language, whose words are its own but mean the same in all. The reference draws words
independently and ends with probability `stop` after each; so policies that are best for any sum of
utilities, and their expectations, are exact by a recursion over positions.
"""

import dataclasses
import hashlib
import json
import pathlib
from collections.abc import Callable, Sequence
from typing import NamedTuple

import numpy as np
from scipy import optimize, special

from alignjax.core import shapes, untrusted
from alignjax.data import corpus
from alignjax.worlds import corpus as review_corpus

KINDS = ("documents", "prompts", "pairs")
PAD, EOS = 0, 1
FIRST = 2  # the token of language 0


@dataclasses.dataclass(kw_only=True)
class ValueConfig(corpus.DataConfig):
    """A ValueWorld, and how many rows are drawn from it."""

    seed: int = 0
    groups: int = 2
    languages: int = 2
    words: int = 8  # of each language
    longest: int = 4  # words of a response, at most
    stop: float = 0.3  # chance that the reference ends after a word
    quality: float = 0.5  # standard deviation of a word's quality, reward units
    taste: float = 1.0  # length of a group's taste; 0: all groups agree
    lean: float = 0.0  # log-odds of a word under the reference, per unit of group 0's taste for it
    shares: tuple[float, ...] = ()  # of groups among raters; () is equal shares
    documents: int = 8192
    prompts: int = 4096
    pairs: int = 4096
    eval_rows: int = 512  # of each kind
    labels: str = ""  # file of labelled comparisons in place of drawn ones

    def where(self) -> tuple[str, ...]:
        return ("labels",)

    def validate(self) -> None:
        for name in ("groups", "languages", "longest", "documents", "prompts", "pairs"):
            shapes.check_number(f"data.{name}", getattr(self, name), minimum=1)
        shapes.check_number("data.eval_rows", self.eval_rows, minimum=1)
        shapes.check_number("data.words", self.words, minimum=2)
        shapes.check_number("data.seed", self.seed, minimum=0)
        shapes.check_number("data.stop", self.stop, above=0, below=1)
        for name in ("quality", "taste"):
            shapes.check_number(f"data.{name}", getattr(self, name), minimum=0)
        shapes.check_number("data.lean", self.lean)
        if self.shares and (
            len(self.shares) != self.groups
            or min(self.shares) < 0
            or abs(sum(self.shares) - 1) > 1e-6
        ):
            raise ValueError(
                f"data.shares must be {self.groups} numbers >= 0 with sum 1, one a group; got "
                f"{self.shares} (data)."
            )

    @property
    def vocab_size(self) -> int:
        return FIRST + self.languages * (1 + self.words)

    @property
    def length(self) -> int:
        """Tokens of the longest row: the language, words, EOS."""
        return self.longest + 2

    def make(self, log: corpus.Log) -> corpus.Corpus:
        return make_corpus(self)


class ValueWorld(NamedTuple):
    """The numbers of a world.

    chances: [W] of words under the reference. quality: [W]. values: [W, 2]. tastes: [G, 2], unit
    vectors times `taste`, spread evenly: two groups are opposed. utilities: [G, W]. shares: [G].
    """

    config: ValueConfig
    chances: np.ndarray
    quality: np.ndarray
    values: np.ndarray
    tastes: np.ndarray
    utilities: np.ndarray
    shares: np.ndarray


def make_world(config: ValueConfig) -> ValueWorld:
    """The world of a configuration; its seed decides all numbers.

    Raises:
      ValueError: an option is out of range.
    """
    config.validate()
    rng = np.random.default_rng([config.seed, *b"value world"])
    chances = rng.dirichlet(np.full(config.words, 2.0))
    quality = config.quality * rng.normal(size=config.words)
    values = rng.normal(size=(config.words, 2))
    angles = 2 * np.pi * np.arange(config.groups) / config.groups
    tastes = config.taste * np.stack([np.cos(angles), np.sin(angles)], axis=1)
    shares = np.array(config.shares or [1 / config.groups] * config.groups)
    utilities = quality[None] + tastes @ values.T
    if config.lean:
        chances = chances * np.exp(config.lean * tastes[0] @ values.T)
        chances /= chances.sum()
    return ValueWorld(config, chances, quality, values, tastes, utilities, shares)


class Policy(NamedTuple):
    """A policy by position t = 0 .. longest - 1 of a word, the same in every language.

    words: [T, W] chances of the next word. stop: [T] of ending after it; 1 at the last. log_z: the
    logarithm of E_ref exp(r / beta).
    """

    words: np.ndarray
    stop: np.ndarray
    log_z: float


def best_policy(world: ValueWorld, rewards: np.ndarray, beta: float) -> Policy:
    """ref(y) exp(r(y) / beta) / Z for a reward that is a sum over words of `rewards` [W].

    beta: > 0; infinity is the reference.

    Raises:
      ValueError: beta is not above 0.
    """
    if not beta > 0:
        raise ValueError(f"beta must be > 0; got {beta} (best_policy).")
    steps, stop = world.config.longest, world.config.stop
    scores = np.log(world.chances) + np.asarray(rewards) / beta
    log_word = float(special.logsumexp(scores))
    words = np.broadcast_to(np.exp(scores - log_word), (steps, len(scores))).copy()
    ends, behind = np.ones(steps), 0.0  # log of what may follow the last word: only the end
    for t in range(steps - 2, -1, -1):
        goes_on = np.log1p(-stop) + log_word + behind
        behind = float(np.logaddexp(np.log(stop), goes_on))
        ends[t] = np.exp(np.log(stop) - behind)
    return Policy(words, ends, log_word + behind)


def _alive(policy: Policy) -> np.ndarray:
    """[T]: the chance that there is a word at each position."""
    return np.concatenate([[1.0], np.cumprod(1 - policy.stop[:-1])])


def expected(world: ValueWorld, policy: Policy, rewards: np.ndarray) -> float:
    """E r(y) under a policy, r a sum over words of `rewards` [W]."""
    return float(_alive(policy) @ (policy.words @ np.asarray(rewards)))


def kl(world: ValueWorld, policy: Policy) -> float:
    """KL(policy || reference) of whole responses, nats."""
    stop = np.append(np.full(len(policy.stop) - 1, world.config.stop), 1.0)
    by_word = special.rel_entr(policy.words, world.chances[None]).sum(axis=1)
    by_end = special.rel_entr(policy.stop, stop) + special.rel_entr(1 - policy.stop, 1 - stop)
    return float(_alive(policy) @ (by_word + by_end))


class Maximin(NamedTuple):
    """policy: the best for the worst-off group. weights: [G], lambda. utilities: [G], expected.
    value: min_g E u_g - beta KL."""

    policy: Policy
    weights: np.ndarray
    utilities: np.ndarray
    value: float


def simplex_minimum(
    loss: Callable[[np.ndarray], tuple[float, np.ndarray]], count: int, precision: float = 1e-14
) -> np.ndarray:
    """[count] weights >= 0 with sum 1 that minimise a convex loss, given with its slope."""
    own = optimize.minimize(
        loss, np.full(count, 1 / count), jac=True, method="SLSQP", bounds=[(0, 1)] * count,
        constraints={"type": "eq", "fun": lambda w: w.sum() - 1, "jac": lambda w: np.ones(count)},
        options={"ftol": precision, "maxiter": 500},
    ).x  # fmt: skip
    weights = np.clip(own, 0, 1)
    return np.asarray(weights / weights.sum())


def maximin_policy(world: ValueWorld, beta: float) -> Maximin:
    """max over policies of min_g E u_g - beta KL: ref exp(sum_g lambda_g u_g / beta) / Z.

    lambda minimises the convex beta log Z(lambda) over the simplex, whose slope is E u_g.
    """
    groups = world.config.groups

    def loss(weights: np.ndarray) -> tuple[float, np.ndarray]:
        policy = best_policy(world, weights @ world.utilities, beta)
        return beta * policy.log_z, np.array([expected(world, policy, u) for u in world.utilities])

    weights = simplex_minimum(loss, groups)
    policy = best_policy(world, weights @ world.utilities, beta)
    utilities = np.array([expected(world, policy, u) for u in world.utilities])
    return Maximin(policy, weights, utilities, float(utilities.min() - beta * kl(world, policy)))


def win_rates(world: ValueWorld, responses: np.ndarray) -> np.ndarray:
    """[G, n, n]: how often each group prefers response i to j, by Bradley-Terry on its utility.

    responses: [n, T] numbers of words, -1 where there is none.
    """
    utilities = utility(world, responses)
    return np.asarray(special.expit(utilities[:, :, None] - utilities[:, None, :]))


def utility(world: ValueWorld, responses: np.ndarray) -> np.ndarray:
    """[G, n]: the groups' utilities of responses [n, T]: numbers of words, -1 for none."""
    real = np.asarray(responses) >= 0
    return np.where(real[None], world.utilities[:, np.maximum(responses, 0)], 0.0).sum(axis=-1)


def draw(world: ValueWorld, rng: np.random.Generator, count: int) -> np.ndarray:
    """[count, longest] responses of the reference: numbers of words, -1 behind the end."""
    steps = world.config.longest
    words = rng.choice(len(world.chances), size=(count, steps), p=world.chances)
    ends = rng.random((count, steps)) < world.config.stop
    alive = np.cumprod(np.concatenate([np.ones((count, 1), bool), ~ends[:, :-1]], axis=1), axis=1)
    return np.where(alive > 0, words, -1)


def tokens_of(
    config: ValueConfig, language: np.ndarray, responses: np.ndarray
) -> tuple[np.ndarray, np.ndarray]:
    """(tokens [n, longest + 2] of language, words and EOS, padded right; lengths [n])."""
    count, steps = responses.shape
    number = (responses >= 0).sum(axis=1)
    tokens = np.full((count, steps + 2), PAD, np.int32)
    tokens[:, 0] = FIRST + language
    base = FIRST + config.languages + language[:, None] * config.words
    tokens[:, 1:-1] = np.where(responses >= 0, base + responses, PAD)
    tokens[np.arange(count), number + 1] = EOS
    return tokens, (number + 2).astype(np.int32)


def words_of(config: ValueConfig, tokens: np.ndarray) -> np.ndarray:
    """[n, T - 1]: the words of rows of tokens as numbers of any language, -1 for all else."""
    place = np.asarray(tokens)[:, 1:] - FIRST - config.languages
    return np.where(place >= 0, place % config.words, -1)


def text(config: ValueConfig, ids: Sequence[int] | np.ndarray) -> str:
    """Tokens in words: l1 for a language, l1.w3 for one of its words."""
    named = []
    for i in (int(x) for x in ids):
        if i < FIRST:
            named.append(("<pad>", "<eos>")[i])
        elif i < FIRST + config.languages:
            named.append(f"l{i - FIRST}")
        else:
            language, word = divmod(i - FIRST - config.languages, config.words)
            named.append(f"l{language}.w{word}")
    return " ".join(named)


def make_corpus(config: ValueConfig) -> corpus.Corpus:
    """The corpus of one world; splits differ by the seed of their draws.

    Pairs are two draws of the reference, judged by a rater of one group at temperature 1; their
    column group tells whose it is. The known reward is the mean over groups, by their shares.
    """
    world = make_world(config)

    def table(kind: str, split: str) -> corpus.Table:
        rng = np.random.default_rng([config.seed, *f"{kind}/{split}".encode()])
        count = config.eval_rows if split == "eval" else getattr(config, kind)
        language = rng.integers(0, config.languages, count)
        if kind == "prompts":
            index = np.arange(count, dtype=np.int32)
            prompts = (FIRST + language)[:, None].astype(np.int32)
            return {"prompts": prompts, "lengths": np.ones(count, np.int32), "index": index}
        if kind == "documents":
            drawn = draw(world, rng, count)
            return review_corpus.rows(*tokens_of(config, language, drawn), start=1)
        if config.labels:
            return review_corpus.read_pairs(config.labels, split)
        return _pairs(world, rng, language)

    def gold(tokens: np.ndarray, lengths: np.ndarray) -> np.ndarray:
        slot = np.arange(tokens.shape[1])
        kept = np.where(slot < np.asarray(lengths)[:, None], tokens, PAD)
        return np.asarray(world.shares @ utility(world, words_of(config, kept)))

    rows = ("documents", "prompts", "pairs", "eval_rows", "labels")
    named = {k: v for k, v in dataclasses.asdict(config).items() if k not in rows}
    if not config.lean:
        del named["lean"]  # worlds from before there was one keep their names
    identity = json.dumps({"world": "values", **named})
    labels = pathlib.Path(config.labels)
    digest = untrusted.digest(labels) if labels.is_file() else ""
    return corpus.Corpus(
        vocab_size=config.vocab_size,
        pad=PAD,
        eos=EOS,
        length=config.length,
        prompt_length=1,
        kinds=KINDS,
        table=table,
        text=lambda ids: text(config, ids),
        fingerprints={
            "world": hashlib.sha256(identity.encode()).hexdigest(),
            **({"pairs": digest} if config.labels else {}),
        },
        gold=gold,
        world=world,
    )


def _pairs(world: ValueWorld, rng: np.random.Generator, language: np.ndarray) -> corpus.Table:
    """Two draws a prompt, the preferred one first, and the group of the rater."""
    count = len(language)
    group = rng.choice(len(world.shares), size=count, p=world.shares)
    sides = [draw(world, rng, count) for _ in range(2)]
    left, right = (utility(world, side)[group, np.arange(count)] for side in sides)
    swap = rng.random(count) >= special.expit(left - right)
    first = np.where(swap[:, None], sides[1], sides[0])
    second = np.where(swap[:, None], sides[0], sides[1])
    both = [tokens_of(world.config, language, side) for side in (first, second)]
    tokens, lengths = (np.stack(x, axis=1) for x in zip(*both, strict=True))
    return {**review_corpus.rows(tokens, lengths, start=1), "group": group.astype(np.int32)}
