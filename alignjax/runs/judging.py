"""Evaluation of a run by its method's evaluators, in the loop and afterwards."""

import functools
from collections.abc import Callable, Iterator, Mapping
from typing import Any

from alignjax.evals import evaluator
from alignjax.models import model as models
from alignjax.rewards import learned, process
from alignjax.rollouts import reward, settings
from alignjax.runs import assembly
from alignjax.training import algorithm as algorithms
from alignjax.training import evaluators as loop_evaluators
from alignjax.training import method as methods


class Trees(Mapping[str, Any]):
    """Parameters by name, read on first access."""

    def __init__(self, makers: Mapping[str, Callable[[], Any]]) -> None:
        self._makers, self._trees = dict(makers), dict[str, Any]()

    def __getitem__(self, name: str) -> Any:
        if name not in self._trees:
            self._trees[name] = self._makers[name]()
        return self._trees[name]

    def __iter__(self) -> Iterator[str]:
        return iter(self._makers)

    def __len__(self) -> int:
        return len(self._makers)


def parts_of(
    parts: assembly.Assembly, params: Any, frozen: models.Frozen, *, bind: Any = None
) -> dict[str, tuple[models.Model, Any]]:
    """The parts of a run's product by name: (model, bound tree).

    bind: (model, tree, frozen) -> the bound tree; plans pass one for shapes.
    """
    bind = bind or (lambda model, tree, frozen: model.bind(tree, frozen))
    product = parts.record.product(parts.config.algorithm)
    networks = {}
    for name, part in product.items():
        model = parts.network(part.role).model
        networks[name] = (model, bind(model, part.take(model, params), frozen))
    return networks


def rewards_of(parts: assembly.Assembly) -> dict[str, learned.RewardFn]:
    """Reward functions, by role, of frozen roles with a scalar head, for the eval split."""
    rewards = {}
    for name, role in parts.roles.items():
        if role.part == methods.SCORER and not role.trained and parts.is_there(name):
            reader, method = parts.network(name).reader, parts.config.algorithm
            how = method.steps if isinstance(method, settings.ScoringConfig) else process.LOWEST
            rewards[name] = reward.scored_by(
                parts.judged_model(name), name, parts.scores(name),
                ends=parts.step_ends, eos=parts.corpus.ends,
                how=how,
                reader=reader and reader("eval"),
            )  # fmt: skip
    return rewards


def subject(
    parts: assembly.Assembly,
    networks: Mapping[str, models.Model],
    trees: Mapping[str, Any],
    *,
    rows: int,
    seed: int,
    programs: dict[str, Any] | None = None,
    allow_code: bool = False,
) -> evaluator.Subject:
    """The subject of the evaluators of an experiment's method."""
    return evaluator.Subject(
        networks=networks,
        trees=trees,
        corpus=parts.corpus,
        config=parts.config.algorithm,
        sampling=parts.record.sampling(parts.config.algorithm),
        rewards=rewards_of(parts),
        rows=rows,
        seed=seed,
        programs={} if programs is None else programs,
        allow_code=allow_code,
    )


def judges(parts: assembly.Assembly, names: Mapping[str, Any]) -> list[evaluator.Evaluator]:
    """The method's evaluators whose networks are among `names`."""
    every = parts.record.evaluators(parts.config.algorithm)
    return [judge for judge in every if all(name in names for name in judge.reads)]


def in_loop(
    parts: assembly.Assembly, frozen: models.Frozen, *, allow_code: bool = False
) -> tuple[loop_evaluators.Evaluator, ...]:
    """The method's evaluators for the loop; none if loop.evaluate_every is 0.

    They hold every frozen tree, those too that else only `annotate` reads.
    """
    config = parts.config
    every = config.loop.evaluate_every
    if not every:
        return ()
    bases = {name: tree for name, tree in frozen.items() if name != "base"}
    held = {
        name: (parts.network(name).model, parts.network(name).model.bind(tree, frozen))
        for name, tree in bases.items()
    }
    base = {"base": frozen["base"]} if "base" in frozen else {}
    programs: dict[str, Any] = {}

    def run(judge: evaluator.Evaluator, state: algorithms.TrainState) -> evaluator.Numbers:
        named = {**held, **parts_of(parts, state.params, base)}
        networks = {name: model for name, (model, _) in named.items()}
        trees = {name: tree for name, (_, tree) in named.items()}
        rows = config.loop.evaluate_rows
        judged = subject(
            parts,
            networks,
            trees,
            rows=rows,
            seed=config.seed,
            programs=programs,
            allow_code=allow_code,
        )
        return judge.run(judged)

    product = parts.record.product(config.algorithm)
    judging = judges(parts, {**held, **product})
    return tuple(
        loop_evaluators.Evaluator(judge.name, judge.every or every, functools.partial(run, judge))
        for judge in judging
    )
