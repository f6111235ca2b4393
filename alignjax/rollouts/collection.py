"""Collecting a batch: prompts -> samples -> scores -> selected groups -> rows to train on."""

import dataclasses
from collections.abc import Callable, Sequence
from typing import Any, NamedTuple

import jax
import jax.numpy as jnp
import numpy as np

from alignjax.core import errors
from alignjax.losses import inputs
from alignjax.models import model as models
from alignjax.parallel import axes, hosts
from alignjax.rewards import learned, scores
from alignjax.rollouts import episodes, experience, replay, reward, rollouts, select, settings
from alignjax.sampling import generate, transforms
from alignjax.training import algorithm

BUCKETS = 1 << 16  # running pass rates of prompts, by their row number modulo this
Journal = Callable[[int, list[dict[str, Any]]], None]
CONSTANT = 20  # steps after which a part of the reward that never moves is told


class Draw(NamedTuple):
    """How samples are drawn: the policy's model, its sampling, the reward.

    play: the environment that answers them; None where there is one turn.
    """

    model: models.Model
    sampling: transforms.SamplingConfig
    reward: learned.RewardFn
    eos: int | Sequence[int]
    pad: int
    play: episodes.Play | None = None


def make_draw(draw: Draw, size: int = 1) -> Callable[..., tuple[rollouts.Rollouts, scores.Scores]]:
    """(params, frozen, batch, key, version) -> (samples of each prompt, their scores). On the host.

    params: of the policy, not bound yet. size: samples of each prompt.
    """
    play = draw.play
    sample = generate.make_generate(
        draw.model,
        draw.sampling,
        eos=draw.eos,
        pad=draw.pad,
        samples_per_prompt=size if play is None else 1,
    )
    played = None if play is None else episodes.make_episodes(sample, draw.sampling, play, draw.pad)

    @jax.jit
    def wide(batch: algorithm.Batch) -> algorithm.Batch:
        return jax.tree.map(lambda x: rollouts.repeated(x, size), batch)

    def run(
        params: models.Params,
        frozen: models.Frozen,
        batch: algorithm.Batch,
        key: jax.Array,
        version: jax.Array,
    ) -> tuple[rollouts.Rollouts, scores.Scores]:
        columns = wide(batch)
        bound = draw.model.bind(params, frozen)
        if played is None:
            drawn = sample(bound, batch["prompts"], batch["lengths"], key)
            samples = rollouts.of_samples(drawn, batch, size, version)
        else:  # rows differ after a turn, so that their prompts are read row by row
            told = played(bound, columns, key, size)
            samples = rollouts.of_samples(told.samples, batch, size, version, *told[1:])
        found = draw.reward(frozen, samples, columns)
        found = scores.as_scores(found, samples.tokens.shape[0])
        return samples, reward.placed(found)

    return run


def start_carry(config: settings.GroupConfig, width: int = 0) -> dict[str, Any]:
    """The method's own state before the first step; the sampling policy comes with its first.

    width: tokens of a row at most, where groups are kept for later steps.
    """
    names = config.part_names
    carry: dict[str, Any] = {
        "barren": np.int32(0),  # steps in a row without an informative group
        "part_value": np.full(len(names), np.nan, np.float32),
        "part_steps": np.zeros(len(names), np.int32),  # in which each part had that one value
    }
    if config.replay:
        carry["replay"] = replay.empty(config, width)
    if config.curriculum > 1:
        carry["pass_rate"] = np.full(BUCKETS, 0.5, np.float32)
    return carry


class Collector:
    """The `collect` of methods on groups of samples.

    text: ids -> text. tell: takes a line for the log. journal: takes the step and rows to show.
    """

    def __init__(
        self,
        draw: Draw,
        config: settings.GroupConfig,
        run: experience.Experience,
        *,
        text: Callable[[np.ndarray], str] = str,
        tell: Callable[[str], None] = print,
        journal: Journal | None = None,
    ):
        self._config, self._run, self._text = config, run, text
        self._tell, self._journal = tell, journal
        self._draw = make_draw(draw, config.group)
        self._limit = generate.drift_limit(draw.model, config.max_drift)
        self._greedy = None
        if config.reads_greedy:
            best = dataclasses.replace(draw.sampling, temperature=0.0)
            self._greedy = make_draw(draw._replace(sampling=best))

        def pick(
            key: jax.Array, rates: jax.Array, batch: algorithm.Batch, count: int
        ) -> algorithm.Batch:
            own = axes.take(rates, batch["index"] % BUCKETS, "batch")
            chosen = select.by_difficulty(key, own, count, floor=config.curriculum_floor)
            return rollouts.taken(dict(batch), chosen, 1)

        self._pick = jax.jit(pick, static_argnums=3)
        self._after = jax.jit(lambda *args: carried(config, *args))

    def __call__(
        self,
        state: algorithm.TrainState,
        frozen: models.Frozen,
        batch: algorithm.Batch,
        key: jax.Array,
    ) -> tuple[algorithm.Batch, algorithm.Carry, algorithm.Metrics]:
        config, carry = self._config, dict(state.carry)
        pick_key, draw_key = jax.random.split(key)
        sampled, _ = config.prompts_trained(batch["lengths"].shape[0])
        if config.curriculum > 1:
            batch = self._pick(pick_key, carry["pass_rate"], batch, sampled)
        behind = carry.pop("behind", None)
        policy, version = (state.params, state.step) if behind is None else behind
        samples, found = self._draw(policy, frozen, batch, draw_key, version)
        reward.check_failures(found, config.max_failures)
        found = found._replace(problems=())
        greedy = None
        if self._greedy is not None:
            best = self._greedy(policy, frozen, batch, draw_key, version)[1]
            reward.check_failures(best, config.max_failures)
            greedy = best.reward
        sampler = None if behind is None else policy
        scored = (samples, found, greedy, carry.pop("replay", None))
        rows, told, metrics = self._run(state.params, sampler, frozen, *scored)
        if "drift" in told:
            generate.check_drift(told["drift"], self._limit)
        after = self._after(carry, told, found, samples.task)
        self._check(after, told, metrics)
        if self._journal is not None:
            self._journal(int(state.step), journal_rows(told["shown"], self._text))
        if "replay" in told:
            after["replay"] = told["replay"]
        if behind is not None:
            after["behind"] = algorithm.copy((state.params, state.step))
        return rows, after, metrics

    def _check(
        self, carry: dict[str, Any], told: dict[str, Any], metrics: algorithm.Metrics
    ) -> None:
        """Stops without signal for too long; tells of a part of the reward that never moves.

        Raises:
          errors.Failure: `patience` steps in a row had no informative group.
        """
        config, barren = self._config, int(carry["barren"])
        if barren >= config.patience:
            rates = np.asarray(told["pass_rate"])
            low, high = rates.min(), rates.max()
            raise errors.Failure(
                f"a step must have a group whose rewards differ; {barren} steps in a row had none: "
                f"mean reward {float(metrics['reward'].value):.3g}, {np.mean(rates == low):.0%} of "
                f"groups all at {low:.3g}, {np.mean(rates == high):.0%} all at {high:.3g} "
                "(rollouts). Use easier or harder prompts, a larger group, more candidates, or a "
                "graded reward (prompts that are all solved teach no more); or raise "
                "algorithm.patience."
            )
        steps, values = (np.asarray(carry[name]) for name in ("part_steps", "part_value"))
        for name, count, value in zip(config.part_names, steps, values, strict=True):
            if count == CONSTANT:
                self._tell(
                    f"the reward's part {name} was {value:g} on every row of {CONSTANT} steps: it "
                    "teaches nothing. Look at samples.jsonl."
                )


def journal_rows(told: dict[str, Any], text: Callable[[np.ndarray], str]) -> list[dict[str, Any]]:
    """The rows of `experience.shown` as samples.jsonl has them."""
    arrays = hosts.to_host(told)
    rows = []
    for row, ids in enumerate(arrays["tokens"]):
        length = int(arrays["lengths"][row])
        start = int(arrays["prompt_lengths"][row])
        counted = arrays["mask"][row]
        advantage = arrays["advantages"][row]
        if np.ndim(advantage):
            advantage = advantage[counted].mean() if counted.any() else 0.0
        rows.append(
            {
                "task": int(arrays["task"][row]),
                "sample": row,
                "prompt": text(ids[:start]),
                "text": text(ids[start:length]),
                "reward": float(arrays["reward"][row]) if arrays["valid"][row] else None,
                "parts": {name: float(x[row]) for name, x in arrays["parts"].items()},
                "advantage": float(advantage),
                "tokens": int(counted.sum()),
                "cut": not bool(arrays["ended"][row]),
            }
        )
    return rows


def with_behind(carry: dict[str, Any], params: models.Params) -> dict[str, Any]:
    """The carry of a first step under lag: the policy that samples is the policy itself."""
    return {**carry, "behind": (params, jnp.zeros((), jnp.int32))}


def carried(
    config: settings.GroupConfig,
    carry: dict[str, Any],
    told: dict[str, Any],
    found: scores.Scores,
    task: jax.Array,
) -> dict[str, Any]:
    """The method's own state after a step; task: of each sampled row."""
    some = jnp.any(told["informative"])
    after = {**carry, "barren": jnp.where(some, 0, carry["barren"] + 1).astype(jnp.int32)}
    parts = [found.parts.get(name, found.reward) for name in config.part_names]
    low, high = (jnp.stack([f(x) for x in parts]) for f in (jnp.min, jnp.max))
    goes_on = (low == high) & (low == carry["part_value"])
    after["part_value"] = jnp.where(low == high, low, jnp.nan)
    steps = jnp.where(goes_on, carry["part_steps"] + 1, (low == high).astype(jnp.int32))
    after["part_steps"] = steps.astype(jnp.int32)
    if config.curriculum > 1:
        place = rollouts.in_groups(task, config.group)[:, 0] % BUCKETS
        old, decay = carry["pass_rate"], config.curriculum_decay
        named = (place, told["pass_rate"], told["has_scores"])
        place, rates, scored = (inputs.gathered(x) for x in named)
        before = jnp.take(old, place)
        new = jnp.where(scored, decay * before + (1.0 - decay) * rates, before)
        after["pass_rate"] = old.at[place].set(new)
    return after
