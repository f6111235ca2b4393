"""Collecting a batch of samples that are compared: prompts -> samples -> scores -> rows."""

from collections.abc import Callable, Sequence
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np

from alignjax.core import errors, mean
from alignjax.models import model as models
from alignjax.rewards import scores
from alignjax.rollouts import collection, compared, experience, reward, rollouts, select
from alignjax.rollouts import programs as common
from alignjax.sampling import generate, plan
from alignjax.training import algorithm, method, program

# (params, frozen, batch, key, step) -> (samples [P G], their scores)
Drawing = Callable[..., tuple[rollouts.Rollouts, scores.Scores]]
# (params, frozen, samples, rewards [P, G], valid [P, G]) -> (rows, [P] which have a pair, metrics)
Rows = Callable[..., tuple[dict[str, jax.Array], jax.Array, dict[str, mean.Mean]]]


def make_duel(draw: collection.Draw, rival: Any, rival_params: Callable[..., Any]) -> Drawing:
    """A sample of the policy and one of a rival for each prompt, in this order: G = 2.

    rival: its model. rival_params: (params, frozen) of the policy -> its parameters, bound.
    """
    sample, other = (
        generate.make_generate(model, draw.sampling, eos=draw.eos, pad=draw.pad)
        for model in (draw.model, rival)
    )

    @jax.jit
    def joined(
        batch: algorithm.Batch, left: Any, right: Any, version: jax.Array
    ) -> tuple[rollouts.Rollouts, algorithm.Batch]:
        def two(a: jax.Array, b: jax.Array) -> jax.Array:
            wide = jnp.stack([a, b], axis=1)
            return wide.reshape(2 * a.shape[0], *a.shape[1:])

        samples = rollouts.of_samples(jax.tree.map(two, left, right), batch, 2, version)
        return samples, jax.tree.map(lambda x: rollouts.repeated(x, 2), dict(batch))

    def run(
        params: models.Params,
        frozen: models.Frozen,
        batch: algorithm.Batch,
        key: jax.Array,
        version: jax.Array,
    ) -> tuple[rollouts.Rollouts, scores.Scores]:
        # Under one key two equal policies would say the same.
        own, others = jax.random.split(key)
        asked = (batch["prompts"], batch["lengths"])
        left = sample(draw.model.bind(params, frozen), *asked, own)
        right = other(rival_params(params, frozen), *asked, others)
        samples, columns = joined(batch, left, right, version)
        found = draw.reward(frozen, samples, columns)
        return samples, reward.placed(scores.as_scores(found, samples.tokens.shape[0]))

    return run


def start_carry() -> dict[str, Any]:
    """The method's own state before the first step."""
    return {"barren": np.int32(0)}  # steps in a row without one pair


class Collector:
    """The `collect` of methods on samples compared with one another.

    draw: samples with their scores. rows: what is trained on; it is jitted.
    """

    def __init__(
        self,
        draw: Drawing,
        rows: Rows,
        config: compared.ComparedConfig,
        size: int,
        task: method.Task | None,
    ):
        self._draw, self._config = draw, config
        self._text = str if task is None else task.text or str
        self._journal = None if task is None else task.journal
        self._rows = jax.jit(make_rows(rows, size))

    def __call__(
        self,
        state: algorithm.TrainState,
        frozen: models.Frozen,
        batch: algorithm.Batch,
        key: jax.Array,
    ) -> tuple[algorithm.Batch, algorithm.Carry, algorithm.Metrics]:
        samples, found = self._draw(state.params, frozen, batch, key, state.step)
        reward.check_failures(found, self._config.max_failures)
        found = found._replace(problems=())
        rows, told, metrics = self._rows(state.params, frozen, samples, found)
        barren = 0 if bool(told["some"]) else int(state.carry["barren"]) + 1
        self._check(barren, metrics)
        if self._journal is not None:
            shown = collection.journal_rows(told["shown"], self._text)
            self._journal(int(state.step), shown)
        return rows, {**state.carry, "barren": np.int32(barren)}, metrics

    def _check(self, barren: int, metrics: algorithm.Metrics) -> None:
        """Stops a run whose samples are all tied.

        Raises:
          errors.Failure: `patience` steps in a row had no pair.
        """
        if barren < self._config.patience:
            return
        numbers = {name: float(metrics[name].value) for name in ("reward", "unscored", "length")}
        raise errors.Failure(
            f"a step must have two samples of a prompt whose rewards differ; {barren} steps in a "
            f"row had ties only: mean reward {numbers['reward']:.3g}, {numbers['unscored']:.0%} "
            f"without a score, {numbers['length']:.3g} tokens a sample (rollouts). Use a graded "
            "reward, more samples of a prompt or a higher temperature; or raise "
            "algorithm.patience."
        )


def make_rows(rows: Rows, size: int) -> Callable[..., Any]:
    """(params, frozen, samples [P G], scores) -> (rows, what the host keeps or shows, metrics)."""

    def run(
        params: models.Params,
        frozen: models.Frozen,
        samples: rollouts.Rollouts,
        found: scores.Scores,
    ) -> tuple[dict[str, jax.Array], dict[str, Any], dict[str, mean.Mean]]:
        valid = select.is_scored(found, samples, "keep")
        rewards = jnp.where(valid, found.reward, 0.0)
        grouped, there = (rollouts.in_groups(x, size) for x in (rewards, valid))
        table, paired, more = rows(params, frozen, samples, grouped, there)
        metrics = {
            **select.of_samples(samples, found, rewards, valid),
            "tied": mean.masked(~paired, jnp.all(there, axis=1)),
            **more,
        }
        chosen = rollouts.Groups(samples, rewards, valid, found.parts, None)
        middle = jnp.sum(grouped, axis=1, keepdims=True) / jnp.maximum(
            jnp.sum(there, axis=1, keepdims=True), 1
        )
        above = jnp.where(there, grouped - middle, 0.0).reshape(-1)
        told = {"some": jnp.any(paired), "shown": experience.shown(chosen, above, size)}
        return table, told, metrics

    return run


def generations(
    shapes: program.Shapes, draw: collection.Draw, rival: Any, tree: Any, parts: Any
) -> list[program.Program]:
    """The programs that sample a duel; tree: of the rival, bound. parts: of its arguments."""
    count, width = shapes.batch["prompts"].shape
    other = plan.generation(
        rival,
        draw.sampling,
        tree,
        parts=parts,
        rows=count,
        prompt_length=width,
        eos=draw.eos,
        pad=draw.pad,
        key=shapes.key,
        name="generate the rival",
    )
    # The rival may be two models: there is no formula of one role.
    return [common.generation(shapes, draw, shapes.params, count), other._replace(generation=None)]


def make_programs(
    before: Callable[[program.Shapes], Sequence[program.Program]],
    config: compared.ComparedConfig,
    rows: Rows,
    size: int,
    passes: Sequence[program.Pass],
    *,
    chunks: int,
) -> Callable[[program.Shapes], program.Collected]:
    """The programs of `collect`, in shapes: generate, score, compare.

    before: those that sample. passes: of networks, in `rows`.
    """

    def programs(shapes: program.Shapes) -> program.Collected:
        prompts, width = shapes.batch["prompts"].shape
        count, length = prompts * size, width + config.sampling.max_new_tokens
        calls, one = list(before(shapes)), plan.samples(count, length)
        if config.reward == "model":
            calls.append(common.scoring(shapes, one, chunks))
        columns: Any = program.rows(
            {
                **{name: ((count,), np.int32) for name in ("task", "version", "turns")},
                **{name: ((count,), np.float32) for name in ("returns", "reward")},
                "failed": ((count,), np.bool_),
            }
        )
        own = {name: columns[name] for name in ("task", "version", "turns", "returns")}
        samples = rollouts.Rollouts(**vars(one), **own)
        parts = dict.fromkeys(config.part_names, columns["reward"])
        found = scores.Scores(columns["reward"], parts, columns["failed"])
        run = jax.jit(make_rows(rows, size))
        arguments = (shapes.params, shapes.frozen, samples, found)
        kinds = (
            ("parameters", shapes.params), ("frozen", shapes.frozen), ("batch", (samples, found))
        )  # fmt: skip
        calls.append(
            program.Program("compare", run, arguments, kinds, count, length, tuple(passes))
        )
        table = jax.eval_shape(run, *arguments)[0]
        return program.Collected(
            tuple(calls), program.rows({name: (x.shape, x.dtype) for name, x in table.items()})
        )

    return programs
