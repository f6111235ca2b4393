"""The reward of a configuration: a reward model, the data's own, rules of texts, or their sum."""

from collections.abc import Callable, Mapping, Sequence
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np

from alignjax.core import errors
from alignjax.data import step_ends
from alignjax.models import model as models
from alignjax.parallel import axes, hosts
from alignjax.rewards import combine, hosted, learned, process, rules, scores
from alignjax.rollouts import rollouts, settings
from alignjax.sampling import generate
from alignjax.training import algorithm, method


def ruled(
    score: combine.Scorer,
    *,
    text: Callable[[np.ndarray], str],
    rows: Sequence[Mapping[str, Any]],
    eos: Sequence[int],
    limit: int,
) -> learned.RewardFn:
    """Rules of the text of each completion, without the token that ended it, and of its row.

    Every process scores the rows that its devices hold. text: ids -> text. rows: of the split, by
    number. eos: ids that end a row. limit: tokens a completion may have.
    """

    def reward(
        frozen: models.Frozen, samples: generate.Samples, columns: algorithm.Batch
    ) -> scores.Scores:
        named = (samples.tokens, samples.mask, columns["index"])
        tokens, mask, index = (hosts.to_local(x) for x in named)
        own = [rows[int(row)] for row in index]
        texts, tasks = read(tokens, mask, own, text=text, eos=eos, limit=limit)
        found = score(texts, tasks)
        arrays = {f"part/{name}": np.asarray(x, np.float32) for name, x in found.parts.items()}
        arrays |= {"reward": np.asarray(found.reward, np.float32), "failed": found.failed}
        whole = hosts.to_global(arrays, samples.tokens.shape[0])
        parts = {name: whole[f"part/{name}"] for name in found.parts}
        return scores.Scores(whole["reward"], parts, whole["failed"], tuple(found.problems))

    return reward


def read(
    tokens: np.ndarray,
    mask: np.ndarray,
    rows: Sequence[Mapping[str, Any]],
    *,
    text: Callable[[np.ndarray], str],
    eos: Sequence[int],
    limit: int,
) -> tuple[list[str], list[dict[str, Any]]]:
    """(completions as texts, without the token that ended them; what rules read beside each).

    Args:
      tokens: [N, T]. mask: [N, T] bool, true on what was sampled. rows: the columns of each prompt.
        text: ids -> text. eos, limit: as for `ruled`.
    """
    texts, tasks = [], []
    for ids, counted, row in zip(tokens, mask, rows, strict=True):
        own = ids[counted]
        ended = len(own) and own[-1] in tuple(eos)
        texts.append(text(own[:-1] if ended else own))
        tasks.append({**row, rules.TOKENS: len(own), rules.LIMIT: limit})
    return texts, tasks


def returned(
    frozen: models.Frozen, samples: generate.Samples, columns: algorithm.Batch
) -> jax.Array:
    """What the environment paid for each row."""
    if not isinstance(samples, rollouts.Rollouts):
        raise TypeError(f"returns are those of Rollouts; got {type(samples).__name__} (reward).")
    return samples.returns


def weighted(name: str, weight: float, reward: learned.RewardFn) -> learned.RewardFn:
    """A reward times its weight, as the part `name`."""

    def run(
        frozen: models.Frozen, samples: generate.Samples, columns: algorithm.Batch
    ) -> scores.Scores:
        found = scores.as_scores(reward(frozen, samples, columns), samples.tokens.shape[0])
        return found._replace(reward=weight * found.reward, parts={name: found.reward})

    return run


def summed(rewards: Sequence[learned.RewardFn]) -> learned.RewardFn:
    """The sum of several rewards; NaN where any of them is."""

    def run(
        frozen: models.Frozen, samples: generate.Samples, columns: algorithm.Batch
    ) -> scores.Scores:
        found = [
            scores.as_scores(reward(frozen, samples, columns), samples.tokens.shape[0])
            for reward in rewards
        ]
        total, failed = found[0].reward, found[0].failed
        for one in found[1:]:
            total, failed = total + one.reward, failed | one.failed
        parts = {name: part for one in found for name, part in one.parts.items()}
        problems = tuple(line for one in found for line in one.problems)
        return scores.Scores(total, parts, failed, problems)

    return run


def of_config(
    config: settings.ScoringConfig,
    networks: Mapping[str, models.Model],
    task: method.Task,
    *,
    limit: int,
    chunks: int,
) -> learned.RewardFn:
    """The reward that a configuration names.

    Raises:
      ValueError: the data have no reward of their own, or no texts, or not the columns of a rule.
    """
    found: list[learned.RewardFn] = []
    if config.reward == "gold":
        if task.gold is None:
            raise ValueError(
                "algorithm.reward='gold' needs data with a known reward; this data has none "
                "(data). Use algorithm.reward='model', or rules."
            )
        found.append(weighted("gold", config.reward_weight, hosted.hosted(task.gold)))
    if config.reward == "model":
        model = scored_by(
            networks["reward"], "reward", task.scores.get("reward", method.ANSWERS),
            ends=task.steps, eos=task.ends, how=config.steps, reader=task.readers.get("reward"),
            chunks=chunks,
        )  # fmt: skip
        found.append(weighted("model", config.reward_weight, model))
    if config.reward == "env":
        found.append(weighted("env", config.reward_weight, returned))
    if config.rules:
        found.append(_ruled_of(config.rules, task, limit))
    return found[0] if len(found) == 1 else summed(found)


def scored_by(
    model: models.Model,
    name: str,
    scores: str,
    *,
    ends: step_ends.StepEnds | None,
    eos: int | Sequence[int],
    how: str,
    reader: learned.Reader | None = None,
    chunks: int = 1,
) -> learned.RewardFn:
    """The score of the scorer frozen[name]: its head at the last token, or its steps joined.

    scores: what its head is of (`training.method`). ends: of the data's steps. how: of process.

    Raises:
      ValueError: a head of steps for data without steps or with another tokenizer, or of labels.
    """
    if scores == method.LABELS:
        raise ValueError(
            f"{name} must be the run of a reward model; got one that labels categories (reward). "
            "Train a reward model."
        )
    if scores != method.STEPS:
        return learned.learned(model, name, reader=reader, chunks=chunks)
    if ends is None or reader is not None:
        why = "data without steps" if ends is None else "a tokenizer of its own"
        raise ValueError(
            f"a process reward model must read the policy's own steps; got {why} ({name}). Train "
            "it on the policy's tokenizer, or use a reward model of whole answers."
        )
    return process.process(model, ends, eos=eos, how=how, name=name, chunks=chunks)


def _ruled_of(
    configs: Mapping[str, rules.RuleConfig], task: method.Task, limit: int
) -> learned.RewardFn:
    """Rules over the data of a task, after a look at its rows."""
    if task.text is None or task.rows is None:
        raise ValueError(
            "algorithm.rules need data whose rows have texts and columns; this data has none "
            "(data). Use question-and-answer rows, or reward=gold or model."
        )
    score = combine.combined(configs, allow_code=task.allow_code)
    if len(task.rows):
        unread = combine.check_tasks(configs, task.rows)
        combine.probe(configs, task.rows, score, limit=limit)
        if unread.any():
            task.tell(
                f"{int(unread.sum())} of {len(unread)} prompts have an answer that a rule can't "
                "read: their samples count for nothing."
            )
    return ruled(score, text=task.text, rows=task.rows, eos=task.ends, limit=limit)


def check_failures(scored: scores.Scores, share: float) -> None:
    """Stops the run where verifiers fail on too many rows.

    Raises:
      errors.Failure: the share is above `share`.
    """
    failed = float(jnp.mean(jnp.asarray(scored.failed, jnp.float32)))
    if failed > share:
        examples = "; ".join(scored.problems[:3]) or "no message"
        raise errors.Failure(
            f"rewards must be computed for all but {share:.0%} of a step's rows; {failed:.0%} "
            f"failed: {examples} (reward). Repair the rule or the data, or raise "
            "algorithm.max_failures."
        )


def placed(scored: scores.Scores) -> scores.Scores:
    """The same on the mesh that is set: what a host computed comes without a layout."""

    def put(x: jax.Array) -> jax.Array:
        return axes.shard(jnp.asarray(x), "batch")

    parts = {name: put(x) for name, x in scored.parts.items()}
    return scores.Scores(put(scored.reward), parts, put(scored.failed), scored.problems)
