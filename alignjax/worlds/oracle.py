"""The exact optimum of KL-regularised reward on ReviewWorld, by dynamic programming.

For a prompt x the best policy at temperature beta, against the generator, is
    pi_beta(y | x) = p(y | x) exp(r(x, y) / beta) / Z_beta(x)
with p marginal over the latent sentiment s. The reward is a walk through a transducer and p is a
Markov chain given s, so Z is a sum over (s, last token, transducer state), taken backwards in
time. E r = d log Z / d(1/beta) is carried along, and KL = E r / beta - log Z. No policy has more
reward at the same KL: a method above `Frontier` has a bug in its KL, reward or sampling.
Reference: Korbak et al. 2022, RL with KL penalties is better viewed as Bayesian inference, eq. 5.
"""

import dataclasses
from collections.abc import Sequence
from typing import NamedTuple

import numpy as np

from alignjax.worlds import gold, review

DEFAULT_BETAS = tuple(np.geomspace(64.0, 0.05, 40).tolist())


@dataclasses.dataclass(frozen=True, eq=False)
class Frontier:
    """Reward and KL of the exact optimum; arrays run over betas, from the largest to the smallest.

    The means are over prompts: `reward` is the highest mean reward at mean KL `kl`.
    """

    beta: np.ndarray  # [K]
    log_z: np.ndarray  # [K] nats
    reward: np.ndarray  # [K] gold reward, prompt included
    kl: np.ndarray  # [K] nats per response, to the generator
    reference_reward: float  # mean reward of the generator, beta = inf
    prompt_log_z: np.ndarray  # [K, n]
    prompt_reward: np.ndarray  # [K, n]
    prompt_kl: np.ndarray  # [K, n]
    prompt_reference_reward: np.ndarray  # [n]

    def reward_at(self, kl: float | np.ndarray) -> np.ndarray:
        """Returns the highest mean reward at this mean KL, float64 in the shape of `kl`.

        Interpolates the reward as a cubic in sqrt(kl), between the points of the grid and the
        generator at kl = 0, with the exact slopes d reward / d kl = beta.

        Args:
            kl: nats, in [0, largest KL of the grid].

        Raises:
            ValueError: if a KL lies outside the grid; there is no extrapolation.
        """
        kl = np.asarray(kl, float)
        finite = self.beta < np.inf
        x = np.sqrt(np.maximum(np.append(0.0, self.kl[finite]), 0.0))
        if not ((kl >= 0) & (kl <= x[-1] ** 2)).all():
            raise ValueError(
                f"kl must lie in [0, {x[-1] ** 2:.4g}] nats, the range of this frontier down to "
                f"beta={self.beta[-1]:.3g}; got {kl.min():.4g} to {kl.max():.4g} (Frontier). "
                "Compute the frontier with smaller betas, or compare at the end of the grid, "
                "`frontier.kl[-1]`, and state that."
            )
        y = np.append(self.reference_reward, self.reward[finite])
        slope = 2.0 * x * np.append(0.0, self.beta[finite])
        slope[0] = slope[1]  # reward is linear in sqrt(kl) near 0
        k = np.clip(np.searchsorted(x, np.sqrt(kl)) - 1, 0, len(x) - 2)
        width = x[k + 1] - x[k]
        u = (np.sqrt(kl) - x[k]) / width
        rise = y[k + 1] - y[k]
        a, b = slope[k] * width - rise, slope[k + 1] * width - rise
        return y[k] + u * rise + u * (1 - u) * (a * (1 - u) - b * u)

    def gain_at(self, kl: float | np.ndarray) -> np.ndarray:
        """Returns the highest mean gain over the generator at this mean KL; see `reward_at`."""
        return self.reward_at(kl) - self.reference_reward


class _Chain(NamedTuple):
    """The legal bigrams after a prompt, sorted by last token, as columns of the recursion."""

    last: np.ndarray  # [L] tokens that can be followed
    group: np.ndarray  # [P] index into `last`
    starts: np.ndarray  # [L] first bigram of each group
    token: np.ndarray  # [P]
    source: np.ndarray  # [P * S] row of the flat [V * S] value table that each bigram leads to
    logp: np.ndarray  # [P, 1, 4, 3]
    reward: np.ndarray  # [P, S, 4, 1]


def exact_optimum(
    world: review.ReviewWorld,
    prompts: np.ndarray,
    betas: Sequence[float] | np.ndarray = DEFAULT_BETAS,
) -> Frontier:
    """Returns the frontier of reward against KL that no policy can exceed on these prompts.

    Args:
        world: the world; its generator is the reference policy.
        prompts: [n, prompt_length] int, each possible under the generator.
        betas: positive temperatures, in units of reward per nat; inf is the generator itself.

    Raises:
        ValueError: if a beta is not positive, or the generator cannot write a prompt.
    """
    grid = np.sort(np.asarray(betas, float))[::-1]
    if grid.ndim != 1 or not len(grid) or not (grid > 0).all():
        raise ValueError(
            f"betas must be positive and at least one; got {betas} (exact_optimum). "
            "Pass e.g. (4.0, 1.0, 0.25); inf gives the generator."
        )
    begin = _Prompts(world, prompts)
    chain = _chain(world)
    rows = []
    for beta in np.append(grid, np.inf):
        value, slope = _backward(world, chain, 1.0 / beta)[0]
        joint = begin.log_posterior + begin.pick(value)  # [n, 3]
        log_z = _logsumexp(joint)
        reward = (np.exp(joint - log_z[:, None]) * begin.pick(slope)).sum(1)
        # The reward of the prompt is a constant: it shifts log Z and E r, and leaves the KL.
        kl = reward / beta - log_z
        rows.append((log_z + begin.reward / beta, reward + begin.reward, kl))
    log_z, reward, kl = (np.stack(column) for column in zip(*rows, strict=True))
    return Frontier(
        beta=grid,
        log_z=log_z[:-1].mean(1),
        reward=reward[:-1].mean(1),
        kl=kl[:-1].mean(1),
        reference_reward=float(reward[-1].mean()),
        prompt_log_z=log_z[:-1],
        prompt_reward=reward[:-1],
        prompt_kl=kl[:-1],
        prompt_reference_reward=reward[-1],
    )


def sample_optimum(
    world: review.ReviewWorld, prompts: np.ndarray, beta: float, rng: np.random.Generator
) -> tuple[np.ndarray, np.ndarray]:
    """Returns one exact sample of pi_beta per prompt, (tokens [n, T] int32, lengths [n] int32).

    The sentiment is sampled from its posterior under pi_beta, then tokens one at a time by the
    backward values. Repeat a prompt for several samples of it.

    Raises:
        ValueError: if beta is not positive, or the generator cannot write a prompt.
    """
    if not beta > 0:
        raise ValueError(f"beta must be positive; got {beta} (sample_optimum). inf is allowed.")
    begin, tables = _Prompts(world, prompts), gold.gold_tables(world)
    values = [value for value, _ in _backward(world, _chain(world), 1.0 / beta)]
    sentiment = _sample(rng, begin.log_posterior + begin.pick(values[0]))
    n, topic, state = len(prompts), begin.topic, begin.state
    tokens = np.full((n, world.length), world.pad, np.int32)
    tokens[:, : world.prompt_length] = prompts
    lengths = np.full(n, world.length, np.int32)
    with np.errstate(divide="ignore"):
        log_transition = np.log(world.transition)
    live = np.arange(n)
    every = np.arange(world.vocab_size)
    for t, value in enumerate(values[1:], world.prompt_length):
        last, where = tokens[live, t - 1], (topic[live, None], sentiment[live, None])
        after = value[every, tables.next_state[state[live]], *where]
        logits = log_transition[topic[live], sentiment[live], last] + after
        logits += tables.reward[topic[live], state[live], last] / beta
        token = _sample(rng, logits)
        tokens[live, t] = token
        state[live] = tables.next_state[state[live], token]
        lengths[live[token == world.eos]] = t + 1
        live = live[token != world.eos]
    return tokens, lengths


class _Prompts:
    """The state that responses depend on: topic, transducer state, last token, posterior of s."""

    def __init__(self, world: review.ReviewWorld, prompts: np.ndarray):
        prompts = np.asarray(prompts)
        if prompts.ndim != 2 or prompts.shape[1] != world.prompt_length or not len(prompts):
            raise ValueError(
                f"prompts must have shape [n, {world.prompt_length}], n > 0; got {prompts.shape} "
                "(oracle). Cut documents with tokens[:, :world.prompt_length]."
            )
        self.topic = np.clip(prompts[:, 1] - world.kinds["topic"][0], 0, 3)
        tables = gold.gold_tables(world)
        self.state, self.reward = np.zeros(len(prompts), int), np.zeros(len(prompts))
        weight = world.prior * (prompts[:, :1] == world.bos)  # [n, 3]
        for last, self.last in zip(prompts.T[:-1], prompts.T[1:], strict=True):
            weight = weight * world.transition[self.topic, :, last, self.last]
            self.reward += tables.reward[self.topic, self.state, last, self.last]
            self.state = tables.next_state[self.state, self.last]
        total = weight.sum(1, keepdims=True)
        if not (total > 0).all():
            raise ValueError(
                f"prompts must be possible under the generator; row {int((total <= 0).argmax())} "
                "is not (oracle). Cut clean documents with tokens[:, :world.prompt_length]."
            )
        with np.errstate(divide="ignore"):
            self.log_posterior = np.log(weight / total)

    def pick(self, table: np.ndarray) -> np.ndarray:
        """Entries [n, 3] of a table [V, S, 4, 3] at the end of each prompt."""
        return table[self.last, self.state, self.topic]


def _chain(world: review.ReviewWorld) -> _Chain:
    """The bigrams that a response can contain; every one is possible for each topic and s."""
    tables = gold.gold_tables(world)
    prompt_only = np.isin(np.arange(world.vocab_size), [world.bos, *world.kinds["topic"]])
    pairs = np.argwhere(world.legal & ~prompt_only[:, None])
    before, token = pairs.T
    last, starts, group = np.unique(before, return_index=True, return_inverse=True)
    n_states = len(tables.next_state)
    source = (token[:, None] * n_states + tables.next_state[:, token].T).ravel()
    logp = np.log(world.transition[:, :, before, token]).transpose(2, 0, 1)[:, None]
    reward = tables.reward[:, :, before, token].transpose(2, 1, 0)[..., None]
    return _Chain(last, group, starts, token, source, logp, reward)


def _backward(
    world: review.ReviewWorld, chain: _Chain, inverse_beta: float
) -> list[tuple[np.ndarray, np.ndarray]]:
    """Log Z of the rest of the response and its expected reward, both [V, S, 4, 3], per time.

    Entry i is the situation after prompt_length + i tokens; the axes are last token, transducer
    state, topic and sentiment. After EOS both are 0.
    """
    n_states = chain.reward.shape[1]
    slope = np.full((world.vocab_size, n_states, 4, 3), gold.NO_EOS)
    slope[world.eos] = 0.0
    value = slope * inverse_beta
    steps = [(value, slope)]
    fixed = chain.logp + chain.reward * inverse_beta
    shape = (len(chain.token), n_states, 4, 3)
    for _ in range(world.length - world.prompt_length):
        term = value.reshape(-1, 4, 3)[chain.source].reshape(shape)
        term += fixed
        top = np.maximum.reduceat(term, chain.starts)
        term -= top[chain.group]
        np.exp(term, out=term)
        total = np.add.reduceat(term, chain.starts)
        gain = slope.reshape(-1, 4, 3)[chain.source].reshape(shape)
        gain += chain.reward
        gain *= term
        value, slope = value.copy(), slope.copy()
        value[chain.last] = np.log(total) + top
        slope[chain.last] = np.add.reduceat(gain, chain.starts) / total
        steps.append((value, slope))
    return steps[::-1]


def _logsumexp(x: np.ndarray) -> np.ndarray:
    """Log of the sum of exponentials over the last axis."""
    top = x.max(-1, keepdims=True)
    return (np.log(np.exp(x - top).sum(-1, keepdims=True)) + top)[..., 0]


def _sample(rng: np.random.Generator, logits: np.ndarray) -> np.ndarray:
    """One index per row with probability softmax(logits)."""
    weights = np.exp(logits - logits.max(-1, keepdims=True))
    cdf = np.cumsum(weights, -1)
    cdf /= cdf[..., -1:]  # ends at exactly 1: no overrun
    return (rng.random((len(cdf), 1)) >= cdf).sum(-1)
