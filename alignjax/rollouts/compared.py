"""Samples of a prompt compared with one another: by a reward, or by a judge that reads them."""

import dataclasses
from collections.abc import Callable, Mapping, Sequence
from typing import ClassVar, NamedTuple

import jax
import jax.numpy as jnp
import numpy as np

from alignjax.core import shapes
from alignjax.models import model as models
from alignjax.parallel import hosts
from alignjax.rewards import described, judge, judge_settings, learned, scores
from alignjax.rollouts import reward, rollouts, settings
from alignjax.sampling import generate, transforms
from alignjax.training import algorithm, method

JUDGE = "judge"
UNREAD = "the judge said nothing that can be read of a prompt's samples"


@dataclasses.dataclass(kw_only=True)
class ComparedConfig(settings.ScoringConfig):
    """What says which of a prompt's samples is better: a reward, or a judge of pairs.

    A judge is a file of JSON as `alignjax judge` takes it: a rule, or what an address answers. It
    reads every pair of a prompt's samples in both orders; a sample's reward is then how often it
    wins.
    """

    REWARDS: ClassVar[tuple[str, ...]] = (*settings.ScoringConfig.REWARDS, JUDGE)

    judge: str = ""  # file that describes it, for reward=judge
    patience: int = 5  # steps in a row without one pair before the run stops
    sampling: transforms.SamplingConfig = dataclasses.field(
        default_factory=lambda: transforms.SamplingConfig(max_new_tokens=128)
    )

    def validate_compared(self) -> None:
        """Raises ValueError where an option is wrong, or a judge can't be read."""
        self.validate_reward()
        self.sampling.validate()
        shapes.check_number("algorithm.patience", self.patience, minimum=1)
        if self.sampling.temperature == 0:
            raise ValueError(
                "algorithm.sampling.temperature must be above 0: greedy samples of a prompt are "
                "all the same, and no pair is left; got 0 (algorithm). Set 1."
            )
        if self.judge and self.reward != JUDGE:
            raise ValueError(
                f"algorithm.judge must be empty unless reward=judge; got {self.judge!r} with "
                f"reward={self.reward} (algorithm). Set --config.algorithm.reward=judge."
            )
        if self.reward == JUDGE:
            if self.rules:
                raise ValueError(
                    f"algorithm.rules must be empty where reward=judge; got "
                    f"{', '.join(self.rules)} (algorithm). Leave them out."
                )
            judge_of(self.judge)

    def check_whole_distribution(self, reads: str) -> None:
        """Raises ValueError where tokens are cut off from the policy, whose law `reads` is of."""
        if self.sampling.is_truncated:
            raise ValueError(
                f"algorithm.sampling must not cut tokens off (top_k, top_p): {reads} is of the "
                f"whole distribution; got top_k={self.sampling.top_k}, "
                f"top_p={self.sampling.top_p} (algorithm). Set top_k=0, top_p=1."
            )

    def echo_compared(self) -> str:
        """What of this is not seen in the loss's formula, for the log."""
        parts = "+".join(
            f"{weight:g} {name}"
            for name, weight in zip(self.part_names, self.part_weights, strict=True)
        )
        numbers = f"patience={self.patience}, sampling={self.sampling}"
        return f"reward {parts}{f' {self.judge}' if self.judge else ''}; {numbers}"


def judge_of(path: str) -> judge.Judge:
    """The judge that a file describes.

    Raises:
      ValueError: it can't be read, breaks a rule, or names weights, which no method opens.
    """
    asked = described.read(path, "algorithm.judge")
    if isinstance(asked, described.Rule):
        return described.rule_judge(asked)[0]
    by = asked.asked() if isinstance(asked, described.Asking) else asked
    if isinstance(by, judge_settings.Remote):
        return asked.build(judge_settings.remote_asker(by))
    raise ValueError(
        f"algorithm.judge must be of kind rule, or one that an address answers; got "
        f"{asked.kind} ({path}). Serve the model (alignjax serve) and give its address."
    )


def judged(
    own: judge.Judge, size: int, *, text: Callable[[np.ndarray], str], eos: Sequence[int]
) -> learned.RewardFn:
    """How often a sample beats the others of its prompt, [R] in [0, 1]: their mean chance.

    Every process asks for the prompts that its devices hold. A sample of which no verdict can be
    read failed. size: samples of each prompt. text: ids -> text. eos: ids
    that end a sample.
    """

    def score(
        frozen: models.Frozen, samples: generate.Samples, columns: algorithm.Batch
    ) -> scores.Scores:
        named = (samples.tokens, samples.mask, samples.prompt_lengths)
        tokens, mask, starts = (hosts.to_local(x) for x in named)
        rows = [{}] * len(tokens)  # type: ignore[var-annotated]
        texts, _ = reward.read(tokens, mask, rows, text=text, eos=eos, limit=0)
        first = range(0, len(tokens), size)
        prompts = [text(tokens[row][: starts[row]]) for row in first]
        wins = judge.group_rewards(own, prompts, [texts[row : row + size] for row in first])
        wins = wins.reshape(-1).astype(np.float32)
        problems = (UNREAD,) if np.isnan(wins).any() else ()
        arrays = {"reward": wins, "failed": np.isnan(wins)}
        whole = hosts.to_global(arrays, samples.tokens.shape[0])
        return scores.Scores(whole["reward"], {JUDGE: whole["reward"]}, whole["failed"], problems)

    return score


def reward_of(
    config: ComparedConfig,
    networks: Mapping[str, models.Model],
    task: method.Task,
    *,
    size: int,
    chunks: int,
) -> learned.RewardFn:
    """The reward that a configuration names, of `size` samples a prompt.

    Raises:
      ValueError: as of `reward.of_config`, or rows have no texts for a judge.
    """
    if config.reward != JUDGE:
        limit = config.sampling.max_new_tokens
        return reward.of_config(config, networks, task, limit=limit, chunks=chunks)
    if task.text is None:
        raise ValueError(
            "algorithm.judge needs data whose rows have texts; this data has none (data). Use "
            "reward=gold or model."
        )
    return judged(judge_of(config.judge), size, text=task.text, eos=task.ends)


# --- pairs ---


class Pairs(NamedTuple):
    """Which samples of a prompt are compared.

    places: [P, K], numbers in their group of the samples that are trained on. preferred: [P, C, 2],
    which of those K are compared, the better one first. mask: [P, C], false on a tie.
    """

    places: jax.Array
    preferred: jax.Array
    mask: jax.Array


def extremes(rewards: jax.Array, valid: jax.Array) -> Pairs:
    """The best sample of each prompt against its worst, the first of equal ones: K = 2, C = 1.

    rewards: [P, G]. valid: [P, G] bool: samples that count.
    """
    best = jnp.argmax(jnp.where(valid, rewards, -jnp.inf), axis=1)
    worst = jnp.argmin(jnp.where(valid, rewards, jnp.inf), axis=1)
    high = jnp.max(jnp.where(valid, rewards, -jnp.inf), axis=1)
    low = jnp.min(jnp.where(valid, rewards, jnp.inf), axis=1)
    order = jnp.zeros((*rewards.shape[:1], 1, 2), jnp.int32) + jnp.arange(2, dtype=jnp.int32)
    return Pairs(jnp.stack([best, worst], axis=1).astype(jnp.int32), order, (high > low)[:, None])


def every(rewards: jax.Array, valid: jax.Array) -> Pairs:
    """All samples of each prompt against one another: K = G, C = G (G - 1) / 2.

    rewards, valid: as for `extremes`.
    """
    count = rewards.shape[1]
    left, right = np.triu_indices(count, 1)
    both = np.stack([left, right], axis=1).astype(np.int32)
    first, second = rewards[:, left], rewards[:, right]
    ordered = jnp.where((first >= second)[:, :, None], both, both[:, ::-1])
    places = jnp.zeros_like(rewards, jnp.int32) + jnp.arange(count, dtype=jnp.int32)
    mask = valid[:, left] & valid[:, right] & (first != second)
    return Pairs(places, ordered, mask)


PAIRS: Mapping[str, Callable[[jax.Array, jax.Array], Pairs]] = {"extremes": extremes, "all": every}


def as_pairs(samples: rollouts.Rollouts, pairs: Pairs) -> dict[str, jax.Array]:
    """A table of pairs [P, K, T], as data/tables.py has it, of samples [P G]."""
    size = samples.tokens.shape[0] // pairs.places.shape[0]

    def chosen(x: jax.Array) -> jax.Array:
        return jnp.take_along_axis(rollouts.in_groups(x, size), pairs.places[..., None], axis=1)

    columns = {name: chosen(x) for name, x in learned.as_batch(samples).items()}
    return {**columns, "preferred": pairs.preferred, "pair_mask": pairs.mask}


def chances(config: ComparedConfig, rewards: jax.Array) -> jax.Array:
    """[P]: the chance that the first of two samples is better, of their rewards [P, 2].

    sigmoid(r_1 - r_2), by Bradley and Terry 1952; of a judge it is the reward itself.
    """
    if config.reward == JUDGE:
        return rewards[:, 0]
    return jax.nn.sigmoid(rewards[:, 0] - rewards[:, 1])
