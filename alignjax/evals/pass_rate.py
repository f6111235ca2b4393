"""A policy's reward on held-out prompts by the rules that it was trained on, and pass@k."""

import math
from typing import Any

import numpy as np
from scipy import special

from alignjax.evals import estimate, evaluator
from alignjax.evals import policy as policies
from alignjax.rewards import combine
from alignjax.rollouts import reward as rewards
from alignjax.rollouts import settings


def pass_at_k(solved: np.ndarray, draws: np.ndarray, k: int) -> np.ndarray:
    """[P]: the chance that one at least of k draws of a prompt is solved, without bias.

        1 - C(n - c, k) / C(n, k)

    NaN where fewer than k were drawn.

    Args:
      solved: [P], c of the n draws of each prompt. draws: [P], n. k: >= 1.

    Raises:
      ValueError: k is below 1, or more were solved than drawn.

    Reference: Chen et al. (2021, Codex), arXiv 2107.03374, equation 1.
    """
    solved, draws = np.broadcast_arrays(np.asarray(solved, float), np.asarray(draws, float))
    if k < 1 or (solved > draws).any() or (solved < 0).any():
        raise ValueError(
            f"pass@k must have k >= 1 and 0 <= solved <= drawn; got k={k}, solved "
            f"{solved.tolist()!s:.60} of {draws.tolist()!s:.60}."
        )
    failed = draws - solved
    chance = np.where(failed >= k, np.exp(_log_choose(failed, k) - _log_choose(draws, k)), 0.0)
    return np.where(draws >= k, 1.0 - chance, np.nan)


def _log_choose(total: np.ndarray, taken: int) -> np.ndarray:
    total = np.maximum(total, taken)
    return (
        special.gammaln(total + 1) - special.gammaln(taken + 1) - special.gammaln(total - taken + 1)
    )


def sizes(samples: int) -> list[int]:
    """1, 2, 4, ... up to the number of samples, and that number."""
    powers = [2**i for i in range(samples.bit_length()) if 2**i <= samples]
    return sorted({*powers, samples})


def passes(reward: np.ndarray, threshold: float) -> evaluator.Numbers:
    """pass@k of rewards [P, n], k = 1, 2, 4, ..., n: solved is a reward >= threshold.

    The standard error is over prompts. A sample whose reward is NaN is none.
    """
    drawn = np.isfinite(reward).sum(axis=1)
    solved = (np.nan_to_num(reward, nan=-math.inf) >= threshold).sum(axis=1)
    return {
        f"pass@{k}": estimate.clustered(pass_at_k(solved, drawn, k)[:, None])
        for k in sizes(reward.shape[1])
    }


def _scores(
    subject: evaluator.Subject, completions: policies.Completions, index: np.ndarray
) -> tuple[np.ndarray, dict[str, np.ndarray]]:
    """(reward [N], its parts [N] by name) of completions of the prompts with these numbers."""
    config, corpus = subject.config, subject.corpus
    parts: dict[str, np.ndarray] = {}
    if config.reward == "gold":
        assert corpus.gold is not None  # training refuses such data
        parts["gold"] = np.asarray(corpus.gold(completions.tokens, completions.lengths))
    elif config.reward == "model":
        parts["model"] = np.asarray(completions.score)
    reward = sum((config.reward_weight * part for part in parts.values()), np.zeros(len(index)))
    if config.rules:
        rows, score = _rules(subject)
        slot = np.arange(completions.tokens.shape[1])
        sampled = slot >= completions.prompt_lengths[:, None]
        texts, tasks = rewards.read(
            completions.tokens,
            sampled & (slot < completions.lengths[:, None]),
            [rows[int(row)] for row in index],
            text=corpus.text,
            eos=corpus.ends,
            limit=policies.sampling_of(subject).max_new_tokens,
        )
        found = score(texts, tasks)
        parts |= found.parts
        reward = reward + found.reward
    return reward, parts


def _rules(subject: evaluator.Subject) -> tuple[Any, combine.Scorer]:
    """(columns of the eval prompts, their rules), compared with one another once."""

    def make() -> tuple[Any, combine.Scorer]:
        rules, corpus = subject.config.rules, subject.corpus
        assert corpus.tasks is not None  # training refuses such data
        score = combine.combined(rules, allow_code=subject.allow_code)
        rows = corpus.tasks("eval")
        combine.check_tasks(rules, rows)
        return rows, score

    return subject.once("rules", make)


def _evaluate(subject: evaluator.Subject) -> evaluator.Numbers:
    config, corpus = subject.config, subject.corpus
    samples = config.eval_samples
    if config.rules:
        _rules(subject)  # refused before anything is sampled
    prompts = policies.prompts_of(corpus)
    completions = policies.completions_of(subject, prompts, samples)
    numbers = policies.numbers_of(subject, completions, samples)
    index = prompts.get("index", np.arange(len(prompts["lengths"])))
    reward, parts = _scores(subject, completions, np.repeat(index, samples))
    grouped = reward.reshape(-1, samples)
    if config.part_names != ("gold",):  # which is there already
        numbers["reward"] = estimate.clustered(grouped)
    if len(parts) > 1:
        numbers |= {
            f"reward {name}": estimate.clustered(part.reshape(-1, samples))
            for name, part in parts.items()
        }
    numbers["unscored"] = estimate.clustered(np.isnan(grouped))
    if corpus.tasks is not None:  # questions that are solved or not
        numbers |= passes(grouped, config.solved_from)
    return numbers


# What SAMPLES says, of several completions a prompt; the method's own reward, and pass@k.
PASSES = evaluator.Evaluator(
    "passes",
    _evaluate,
    reads=("policy",),
    optional=("reference", "reward"),
    programs=policies.programs_of,
)


def of_config(config: settings.ScoringConfig) -> tuple[evaluator.Evaluator, ...]:
    """What judges a policy that was trained on this reward."""
    return (policies.SAMPLES,) if config.reward == "model" and not config.rules else (PASSES,)
