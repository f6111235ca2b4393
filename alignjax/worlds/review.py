"""ReviewWorld: short synthetic reviews from a known generator, with 48 tokens and no download.

A document is `BOS TOPIC` and then sentences
    DET NOUN COP [NOT] ADV* ADJ (CONJ [NOT] ADV* ADJ)* WOW* DOT
until EOS follows a DOT, or until `length` tokens are reached (then it has no EOS). A latent
sentiment tilts the choice between positive and negative adjectives; the next token depends on
(topic, sentiment, last token) only, so every likelihood below is exact. Use it to measure the
excess loss of a language model in nats, and with `gold` and `oracle` to score any policy against
the best one possible.
"""

import dataclasses
from collections.abc import Mapping

import numpy as np

KINDS = {
    "pad": 1, "bos": 1, "eos": 1, "topic": 4, "det": 2, "noun": 8, "cop": 2, "not": 1, "adv": 3,
    "pos": 6, "neg": 6, "conj": 2, "wow": 2, "dot": 1, "noise": 8,
}  # fmt: skip
WORDS = (
    "<pad>", "<bos>", "<eos>", "film:", "book:", "hotel:", "game:", "the", "this", "story",
    "ending", "price", "style", "pace", "service", "setting", "design", "is", "was", "not", "very",
    "really", "truly", "fine", "good", "nice", "great", "superb", "perfect", "meh", "bad", "weak",
    "awful", "dreadful", "terrible", "and", "but", "wow", "amazing", ".", "zq", "xj", "vk", "qw",
    "jx", "kz", "wv", "fq",
)  # fmt: skip
# Probabilities of the next token's kind by the last one's; "adj" is split by sentiment.
GRAMMAR = {
    "bos": {"topic": 1.0},
    "topic": {"det": 1.0},
    "det": {"noun": 1.0},
    "noun": {"cop": 1.0},
    "cop": {"not": 0.20, "adv": 0.32, "adj": 0.48},
    "not": {"adv": 0.25, "adj": 0.75},
    "adv": {"adv": 0.05, "adj": 0.95},
    "pos": {"conj": 0.30, "wow": 0.09, "dot": 0.61},
    "neg": {"conj": 0.30, "wow": 0.09, "dot": 0.61},
    "conj": {"not": 0.10, "adv": 0.15, "adj": 0.75},
    "wow": {"wow": 0.15, "dot": 0.85},
    "dot": {"eos": 0.55, "det": 0.45},
}
PRIOR = (0.3, 0.4, 0.3)  # negative, neutral, positive
POSITIVE_SHARE = (0.13, 0.46, 0.83)  # of adjectives, by sentiment; mirrored right after NOT
MILDNESS = 1.5  # log-odds that an adjective loses per unit of valence: strong words are rare
JITTER = {"last": 0.3, "topic": 0.2, "sentiment": 0.15}  # sd of the random log-odds of a token
LOW_AFFINITY = 0.3


@dataclasses.dataclass(kw_only=True)
class ReviewWorldConfig:
    """Which of the random ReviewWorlds."""

    seed: int = 0  # of valences, affinities and bigram tables; difficulty is alike across seeds

    def validate(self) -> None:
        """Raises ValueError if the seed is not a non-negative integer."""
        if isinstance(self.seed, bool) or not isinstance(self.seed, int) or self.seed < 0:
            raise ValueError(
                f"seed must be a non-negative integer; got {self.seed!r} (ReviewWorldConfig). "
                "Choose one of 0, 1, 2, ..."
            )


@dataclasses.dataclass(frozen=True, kw_only=True, eq=False)
class ReviewWorld:
    """The tables of one world; token ids are grouped by kind, in the order of KINDS."""

    seed: int
    vocab_size: int
    length: int  # T, most tokens in a document, BOS and EOS included
    prompt_length: int  # tokens: BOS TOPIC DET NOUN COP and one of NOT, ADV, ADJ
    pad: int
    bos: int
    eos: int
    kinds: Mapping[str, np.ndarray]  # token ids of each kind
    words: tuple[str, ...]  # V readable strings
    prior: np.ndarray  # [3], of the sentiment
    transition: np.ndarray  # [4, 3, V, V]: topic, sentiment, last, next; no row after EOS or noise
    legal: np.ndarray  # [V, V] bool: possible under some topic and sentiment
    valence: np.ndarray  # [V], signed; 0 for all but adjectives
    affinity: np.ndarray  # [4, V] in {.3, 1}: how much an adjective matters for a topic


def make_review_world(config: ReviewWorldConfig) -> ReviewWorld:
    """Returns the random world of `config.seed`; equal seeds give equal worlds.

    The magnitudes of the valences are a permutation of .5, .7, ..., 1.5 and each topic cares about
    half of the positive and half of the negative adjectives, halves being balanced in valence.
    """
    config.validate()
    rng = np.random.default_rng([config.seed, 22])
    ends = np.cumsum(list(KINDS.values()))
    kinds = {k: np.arange(e - c, e) for (k, c), e in zip(KINDS.items(), ends, strict=True)}
    words = np.array(WORDS)
    valence, affinity = np.zeros(len(WORDS)), np.ones((4, len(WORDS)))
    for kind, sign in (("pos", 1.0), ("neg", -1.0)):
        order = rng.permutation(6)
        valence[kinds[kind]] = sign * (0.5 + 0.2 * order)
        words[kinds[kind]] = words[kinds[kind]][order]  # milder words for milder valences
        affinity[:, kinds[kind]] = _affinity(rng, order)
    transition = _transition(rng, kinds, valence)
    return ReviewWorld(
        seed=config.seed, vocab_size=len(WORDS), length=24, prompt_length=6, pad=0, bos=1, eos=2,
        kinds=kinds, words=tuple(words.tolist()), prior=np.array(PRIOR), transition=transition,
        legal=np.any(transition > 0, axis=(0, 1)), valence=valence, affinity=affinity,
    )  # fmt: skip


def _affinity(rng: np.random.Generator, order: np.ndarray) -> np.ndarray:
    """Affinity [4, 6]: topics 0, 1 and topics 2, 3 care about complementary halves."""
    # The splits of ranks 0..5 (valence .5 + .2 rank) whose halves are as equal as can be.
    splits = np.array([[0, 2, 5], [0, 3, 4], [1, 2, 4]])
    first, second = splits[rng.permutation(3)[:2]]
    cares = np.stack([np.isin(order, half) for half in (first, second)])
    if rng.random() < 0.5:
        cares = ~cares
    cares = np.stack([cares[0], ~cares[0], cares[1], ~cares[1]])
    return np.where(cares, 1.0, LOW_AFFINITY)


def _transition(
    rng: np.random.Generator, kinds: Mapping[str, np.ndarray], valence: np.ndarray
) -> np.ndarray:
    """Bigram probabilities [4, 3, V, V]: fixed over kinds, random over the tokens of a kind."""
    v = len(WORDS)
    weight = np.exp(
        rng.normal(0.0, JITTER["last"], (1, 1, v, v))
        + rng.normal(0.0, JITTER["topic"], (4, 1, 1, v))
        + rng.normal(0.0, JITTER["sentiment"], (1, 3, 1, v))
        - MILDNESS * np.abs(valence)
    )
    weight[..., kinds["topic"]] = 1.0  # topics are uniform
    share = np.array(POSITIVE_SHARE)
    table = np.zeros((4, 3, v, v))
    for last, followers in GRAMMAR.items():
        mass = {k: np.full(3, p) for k, p in followers.items() if k != "adj"}
        if "adj" in followers:  # "not bad" belongs to a positive review
            positive = share[::-1] if last == "not" else share
            mass |= {"pos": followers["adj"] * positive, "neg": followers["adj"] * (1 - positive)}
        for kind, p in mass.items():
            block = np.ix_(np.arange(4), np.arange(3), kinds[last], kinds[kind])
            within = weight[block] / weight[block].sum(-1, keepdims=True)
            table[block] = p[None, :, None, None] * within
    return table


def sample_documents(
    world: ReviewWorld, rng: np.random.Generator, n: int
) -> tuple[np.ndarray, np.ndarray]:
    """Returns n documents, (tokens [n, T] int32 padded on the right, lengths [n] int32)."""
    cdf = np.cumsum(world.transition, -1)
    cdf /= np.where(cdf[..., -1:] > 0, cdf[..., -1:], 1.0)  # ends at exactly 1: no overrun
    topic = rng.integers(4, size=n)
    sentiment = rng.choice(3, size=n, p=world.prior)
    tokens = np.full((n, world.length), world.pad, np.int32)
    tokens[:, 0], tokens[:, 1] = world.bos, world.kinds["topic"][topic]
    lengths = np.full(n, world.length, np.int32)
    live = np.arange(n)
    for t in range(2, world.length):
        row = cdf[topic[live], sentiment[live], tokens[live, t - 1]]
        token = (rng.random((live.size, 1)) >= row).sum(1)
        tokens[live, t] = token
        lengths[live[token == world.eos]] = t + 1
        live = live[token != world.eos]
    return tokens, lengths


def corrupt(
    world: ReviewWorld,
    rng: np.random.Generator,
    tokens: np.ndarray,
    lengths: np.ndarray,
    document_rate: float = 0.2,
    token_rate: float = 0.3,
) -> np.ndarray:
    """Returns tokens [n, T] with noise, the imperfect text of pretraining.

    A document is hit with probability `document_rate`; in it each token from position 2 on, bar
    EOS and padding, becomes a uniform noise token with probability `token_rate`.
    """
    _check_rates(document_rate, token_rate)
    tokens, lengths = np.asarray(tokens), np.asarray(lengths)
    inside = (np.arange(tokens.shape[1]) >= 2) & (np.arange(tokens.shape[1]) < lengths[:, None])
    hit = inside & (tokens != world.eos) & (rng.random((tokens.shape[0], 1)) < document_rate)
    hit &= rng.random(tokens.shape) < token_rate
    return np.where(hit, rng.choice(world.kinds["noise"], tokens.shape), tokens).astype(np.int32)


def document_logprobs(
    world: ReviewWorld,
    tokens: np.ndarray,
    lengths: np.ndarray,
    *,
    start: int,
    document_rate: float = 0.0,
    token_rate: float = 0.0,
) -> np.ndarray:
    """Returns log p(tokens[start:length] | tokens[:start]) [n] in nats, exactly.

    Marginal over the sentiment and, at a positive `document_rate`, over the process of `corrupt`:
    the clean token is then hidden, and a forward pass sums over it.

    Args:
        world: the generator.
        tokens: [n, T'] int, row i counted up to lengths[i]. A row need not end with EOS: it is the
            probability of this beginning of a document.
        lengths: [n] int, at most T'.
        start: first position that is scored; 0 scores all, the uniform topic included.
        document_rate: share of corrupted documents, in [0, 1].
        token_rate: chance of noise per token of a corrupted document, in [0, 1].

    Returns:
        [n] float64; -inf where the generator cannot write the row.
    """
    _check_rates(document_rate, token_rate)
    tokens, lengths = np.asarray(tokens), np.asarray(lengths)
    # Rows without a topic have probability 0 whatever the tables.
    topic = np.clip(tokens[:, 1] - world.kinds["topic"][0], 0, 3)
    out = np.empty(len(tokens))
    for k in range(4):
        rows = np.flatnonzero(topic == k)
        for block in np.array_split(rows, len(rows) // 8192 + 1):
            logs = _token_logprobs(world, k, tokens[block], document_rate, token_rate)
            t = np.arange(tokens.shape[1])
            counted = (t >= start) & (t < lengths[block][:, None])
            out[block] = np.where(counted, logs, 0.0).sum(1)
    return out


def _token_logprobs(
    world: ReviewWorld, topic: int, tokens: np.ndarray, document_rate: float, token_rate: float
) -> np.ndarray:
    """log p(token t | tokens before t) [n, T] of rows that share a topic."""
    n, width = tokens.shape
    table = world.transition[topic]
    first = (tokens[:, 0] == world.bos).astype(float)
    # Weights of (clean document, s) and of (corrupted document, s, hidden token); they sum to 1.
    clean = (1 - document_rate) * world.prior[:, None] * first  # [3, n]
    noisy = np.zeros((3, n, world.vocab_size))
    noisy[..., world.bos] = document_rate * world.prior[:, None] * first
    evidence = np.zeros((width, n))
    evidence[0] = first
    for t in range(1, width):
        clean = clean * table[:, tokens[:, t - 1], tokens[:, t]]
        evidence[t] = clean.sum(0)
        if document_rate:
            noisy = (noisy @ table) * _emission(world, tokens[:, t], token_rate if t > 1 else 0.0)
            evidence[t] += noisy.sum((0, 2))
        scale = np.where(evidence[t] > 0, evidence[t], 1.0)
        clean, noisy = clean / scale, (noisy / scale[:, None] if document_rate else noisy)
    with np.errstate(divide="ignore"):
        return np.log(evidence.T)


def _emission(world: ReviewWorld, seen: np.ndarray, rate: float) -> np.ndarray:
    """p(seen | clean token) [n, V]: itself, or one of the noise tokens; EOS is always itself."""
    noise = world.kinds["noise"]
    table = np.diag(np.full(world.vocab_size, 1 - rate))  # clean, seen
    table[:, noise] = rate / len(noise)
    table[world.eos] = np.eye(world.vocab_size)[world.eos]
    return table.T[seen]


def illegal_rate(world: ReviewWorld, tokens: np.ndarray, lengths: np.ndarray, start: int) -> float:
    """Returns the share of bigrams (t-1, t), start <= t < length, that no document can contain."""
    tokens, lengths = np.asarray(tokens), np.asarray(lengths)
    t = np.arange(max(start, 1), tokens.shape[1])
    counted = t < lengths[:, None]
    illegal = ~world.legal[tokens[:, t - 1], tokens[:, t]]
    return float((illegal & counted).sum() / max(counted.sum(), 1))


def words(world: ReviewWorld, tokens_row: np.ndarray) -> str:
    """Returns the row as readable text, without padding."""
    return " ".join(world.words[token] for token in tokens_row if token != world.pad)


def ids(world: ReviewWorld, text: str) -> np.ndarray:
    """Returns the token ids of a text of `words`.

    Raises:
      ValueError: a word is none of the world's.
    """
    numbers = {word: token for token, word in enumerate(world.words)}
    unknown = [word for word in text.split() if word not in numbers]
    if unknown:
        raise ValueError(
            f"a text must be words of the world; got {unknown[0]!r} (ReviewWorld). Use its words."
        )
    return np.array([numbers[word] for word in text.split()], np.int32)


def _check_rates(document_rate: float, token_rate: float) -> None:
    """Raises ValueError unless both rates are probabilities."""
    for name, rate in (("document_rate", document_rate), ("token_rate", token_rate)):
        if not 0.0 <= rate <= 1.0:
            raise ValueError(
                f"{name} must lie in [0, 1]; got {rate} (ReviewWorld). Pass a probability."
            )
