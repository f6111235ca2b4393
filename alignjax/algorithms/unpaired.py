"""Preference optimization on single answers marked desirable or not: KTO, BCO, APO-zero."""

import dataclasses
from collections.abc import Callable, Mapping
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np

from alignjax import losses
from alignjax.algorithms import preset
from alignjax.core import mean, shapes
from alignjax.data import pipeline
from alignjax.data import unpaired as columns_of
from alignjax.data.unpaired import MISMATCHED
from alignjax.evals import estimate, evaluator, policy
from alignjax.models import model as models
from alignjax.models import scoring
from alignjax.parallel import hosts
from alignjax.training import algorithm, method, program, update

ROWS = ("tokens", "loss_mask", "segments", "positions")


@dataclasses.dataclass(kw_only=True)
class UnpairedConfig(preset.PresetConfig):
    """A loss on single answers, as a paper or a release of another code base computes it.

    Where neither of KTO's weights is set they come from the counts n_D, n_U of both classes in all
    training rows: w_D n_D = w_U n_U, and the weight of the larger class is 1.
    """

    TABLE = "unpaired"

    method: str = "kto"  # a loss on single answers of the preset: kto, bco, apo_zero_unpaired
    compat: str = "paper"  # whose formula, reduction and defaults
    beta: float | None = None  # strength of the pull to the reference, per nat of log-ratio
    desirable_weight: float | None = None  # of desirable answers (KTO)
    undesirable_weight: float | None = None  # of undesirable ones (KTO)
    udm: bool | None = None  # weigh undesirable answers by P(desirable | prompt) (BCO)
    minimum_weight: float | None = None  # bounds of that weight
    maximum_weight: float | None = None

    def validate(self) -> None:
        """Traces the loss on two answers, so that every name and number is checked.

        Raises:
          ValueError: an unknown name, an option that the recipe does not have, or out of range.
        """
        if self.beta is not None:
            shapes.check_number("algorithm.beta", self.beta, above=0)
        zeros = np.zeros((2, 4), np.float32)
        arrays = {
            "logprobs": zeros,
            "reference_logprobs": zeros,
            "mask": np.ones((2, 4), bool),
            "desirable": np.array([True, False]),
            "reference_point": np.float32(0),
            "shift": np.float32(0),
            "desirable_probability": np.full(2, 0.5, np.float32),
        }
        try:
            jax.eval_shape(self.terms, arrays)
        except ValueError as error:
            raise ValueError(f"{error} (algorithm)") from None

    @property
    def counts_classes(self) -> bool:
        """Whether the weights of both classes come from their counts."""
        named = "desirable_weight" in self.recipe.defaults
        return named and self.desirable_weight is None and self.undesirable_weight is None

    def formula(self) -> str:
        counted = "; w_D n_D = w_U n_U by counts" if self.counts_classes else ""
        return f"{super().formula()}{counted}"


def rows_of(batch: algorithm.Batch, prefix: str = "") -> dict[str, jax.Array]:
    """The columns [B, T] that scoring reads; prefix: MISMATCHED for the mismatched answers."""
    return {name: batch[f"{prefix}{name}"] for name in ROWS}


def prompt_states(model: models.Model, params: models.Params, batch: algorithm.Batch) -> jax.Array:
    """[B, D]: the mean hidden state of each row's prompt, the features of UDM's classifier."""
    hidden = scoring.hidden_states(model, params, batch)
    slot = jnp.arange(batch["tokens"].shape[1])[None]
    starts = jnp.argmax(batch["loss_mask"], axis=1)[:, None]
    prompt = ((slot < starts) & (batch["segments"] > 0))[..., None]
    total = jnp.sum(jnp.where(prompt, hidden.astype(jnp.float32), 0.0), axis=1)
    return total / jnp.maximum(jnp.sum(prompt, axis=1), 1)


def _sums(logprobs: jax.Array, rows: algorithm.Batch) -> jax.Array:
    """[B]: log-probability of each answer, nats."""
    return jnp.sum(jnp.where(scoring.counted(rows), logprobs, 0.0), axis=1)


def unpaired(
    model: models.Model,
    config: UnpairedConfig,
    *,
    reference: models.Model | None = None,
    micro_batches: int = 1,
) -> algorithm.Algorithm:
    """Minimises KTO's w_D sig(beta (z0 - u)) or w_U sig(beta (u - z0)), u = log pi/ref (answer).

    Batch: a table of unpaired answers. Frozen: "reference", read once for all rows.
    z0 (KTO) is the mean log-ratio of the batch's mismatched answers, and BCO's shift the running
    mean of rewards: `collect` computes both over the whole batch, so that micro-batches change
    nothing.
    Reference: Ethayarajh et al. 2024, equation 8; BCO: Jung et al. 2024; APO: D'Oosterlinck 2024.
    """
    config.validate()
    needs, reads = config.needs, config.recipe.reads
    second = model if reference is None else reference
    weighs_prompts = "desirable_probability" in needs
    has_point, has_shift = "mismatched" in reads, "shift" in reads
    by_class = config.recipe.reduction == "mean over each kind"

    def annotate(frozen: models.Frozen, batch: algorithm.Batch) -> dict[str, jax.Array]:
        params = second.bind(frozen["reference"], frozen)
        columns = {"reference_logprobs": scoring.answer_logprobs(second, params, rows_of(batch))}
        if has_point:
            rows = rows_of(batch, MISMATCHED)
            sums = _sums(scoring.answer_logprobs(second, params, rows), rows)
            columns["reference_mismatched_sum"] = sums
        if weighs_prompts:
            columns["prompt_state"] = prompt_states(second, params, rows_of(batch))
        return columns

    def over_table(table: algorithm.Table) -> dict[str, np.ndarray | None]:
        desirable = np.asarray(table["desirable"])
        columns: dict[str, np.ndarray | None] = {}
        if config.counts_classes:
            good, bad = columns_of.class_weights(desirable)
            for name, weight in (("desirable_weight", good), ("undesirable_weight", bad)):
                columns[name] = np.full(len(desirable), weight, np.float32)
        if weighs_prompts:
            probability = columns_of.desirable_probability(
                np.asarray(table["prompt_state"]), desirable
            )
            columns |= {"desirable_probability": probability, "prompt_state": None}
        return columns

    @jax.jit
    def log_ratios(
        params: models.Params, frozen: models.Frozen, batch: algorithm.Batch
    ) -> jax.Array:
        """[B]: log pi/ref of the mismatched answers if z0 needs them, else of the rows' own."""
        bound = model.bind(params, frozen)

        def ratio(part: algorithm.Batch) -> jax.Array:
            rows = rows_of(part, MISMATCHED if has_point else "")
            own = _sums(scoring.answer_logprobs(model, bound, rows), rows)
            if has_point:
                return own - part["reference_mismatched_sum"]
            return own - _sums(part["reference_logprobs"], part)

        return update.in_chunks(ratio, dict(batch), micro_batches)

    def collect(
        state: algorithm.TrainState, frozen: models.Frozen, batch: algorithm.Batch, key: jax.Array
    ) -> tuple[algorithm.Batch, algorithm.Carry, algorithm.Metrics]:
        ratio = log_ratios(state.params, frozen, batch)
        carry, like = state.carry, batch["reference_logprobs"][:, 0] * 0.0
        if has_point:
            point = losses.kto_reference_point(ratio)
            metrics = {"reference_point": mean.single(point)}
            return {**batch, "reference_point": like + point}, carry, metrics
        rewards = config.options.get("beta", config.recipe.defaults["beta"]) * ratio
        carry, shift = running_shift(carry, rewards, batch["desirable"], by_class=by_class)
        return {**batch, "shift": like + shift}, carry, {"shift": mean.single(shift)}

    def arrays_of(batch: algorithm.Batch, own: jax.Array) -> dict[str, jax.Array]:
        arrays = {
            "logprobs": own,
            "reference_logprobs": batch["reference_logprobs"],
            "mask": scoring.counted(batch),
            "desirable": batch["desirable"],
        }
        for name in ("reference_point", "shift"):
            if name in batch:  # the same number in every row
                arrays[name] = jax.lax.stop_gradient(jnp.max(batch[name]))
        if weighs_prompts:
            arrays["desirable_probability"] = batch["desirable_probability"]
        return arrays

    def terms_of(batch: algorithm.Batch, arrays: Mapping[str, jax.Array]) -> algorithm.Terms:
        options = dict(config.options)
        if config.counts_classes:
            names = ("desirable_weight", "undesirable_weight")
            options |= {name: jnp.max(batch[name]) for name in names}
        terms = config.recipe(arrays, **options)
        return {config.method if name == "loss" else name: term for name, term in terms.items()}

    def loss(
        params: models.Params, frozen: models.Frozen, batch: algorithm.Batch, key: jax.Array
    ) -> tuple[algorithm.Terms, algorithm.Metrics]:
        bound = model.bind(params, frozen, key)
        rows = rows_of(batch)
        states, penalties = scoring.hidden_and_penalties(model, bound, rows)
        options: Any = {"want": ("logprob",), "mask": scoring.counted(rows)}
        stats = scoring.stats_of(model, bound, states, rows["tokens"], **options)
        arrays = arrays_of(batch, stats.logprob)
        terms = {**terms_of(batch, arrays), **penalties}
        rewards = config.recipe.rewards(arrays, **config.options)
        good = batch["desirable"] != 0
        return terms, {
            **terms,
            "desirable_reward": mean.masked(rewards, good),
            "undesirable_reward": mean.masked(rewards, ~good),
        }

    def first(batch: algorithm.Batch) -> Mapping[str, algorithm.Expected]:
        if reference is not None or model.drops_out:
            return {}

        @jax.jit
        def run(batch: algorithm.Batch) -> tuple[dict[str, jax.Array], dict[str, jax.Array]]:
            def value(own: jax.Array) -> dict[str, jax.Array]:
                terms = terms_of(batch, arrays_of(batch, own))
                return {name: term.value for name, term in terms.items()}

            own = batch["reference_logprobs"]
            norms = jax.tree.map(lambda g: jnp.sqrt(jnp.sum(g**2)), jax.jacrev(value)(own))
            return value(own), norms

        values, norms = jax.device_get(run(dict(batch)))
        return {
            name: algorithm.Expected(
                float(value), 4.0 * model.rounding * float(norms[name]) + 1e-5 * max(value, 1.0)
            )
            for name, value in values.items()
        }

    reference_passes = (program.Pass("reference"),) * (2 if has_point else 1)
    if weighs_prompts:
        reference_passes += (program.Pass("reference", head=False),)
    collects = has_point or has_shift
    return algorithm.Algorithm(
        init=algorithm.from_policy(model),
        loss=loss,
        prepare=columns_of.mismatched if has_point else None,
        annotate=annotate,
        over_table=over_table if config.counts_classes or weighs_prompts else None,
        only_annotate=("reference",),
        collect=collect if collects else algorithm.as_is,
        carry=no_rewards() if has_shift else (),
        first=first,
        passes=(program.Pass("policy", trained=True),),
        annotate_passes=reference_passes,
        collect_passes=(program.Pass("policy"),),
    )


def no_rewards() -> dict[str, np.ndarray]:
    """The carry at the start: (mean, count) of the rewards of both classes, and of all."""
    return {name: np.zeros(2, np.float32) for name in ("desirable", "undesirable", "all")}


def running_shift(
    carry: Mapping[str, jax.Array], rewards: jax.Array, desirable: jax.Array, *, by_class: bool
) -> tuple[dict[str, jax.Array], jax.Array]:
    """(the carry updated with a batch's rewards [B], BCO's shift in reward units).

    The shift is half the sum of the running means of both classes (Jung et al. 2024), or without
    `by_class` the running mean over all answers, as in TRL.
    """
    good = desirable != 0
    masks = {"desirable": good, "undesirable": ~good, "all": jnp.ones_like(good)}
    new = {
        name: jnp.stack(losses.running_mean(carry[name][0], carry[name][1], rewards, mask))
        for name, mask in masks.items()
    }
    middle = 0.5 * (new["desirable"][0] + new["undesirable"][0])
    return new, middle if by_class else new["all"][0]


# --- the record -------------------------------------------------------------------------------


def _make_log_ratios(
    subject: evaluator.Subject,
) -> Callable[[models.Params, models.Params, algorithm.Batch], jax.Array]:
    """Jitted (policy, reference, batch) -> [B]: the log-ratio of each answer, nats."""
    networks = subject.networks

    @jax.jit
    def ratio(
        policy_params: models.Params, reference_params: models.Params, batch: algorithm.Batch
    ) -> jax.Array:
        both = ((networks["policy"], policy_params), (networks["reference"], reference_params))
        own, other = (
            _sums(scoring.answer_logprobs(model, params, batch), batch) for model, params in both
        )
        return own - other

    return ratio


def _ranking(subject: evaluator.Subject) -> evaluator.Numbers:
    """Probability that a desirable held-out answer has a larger log-ratio than an undesirable one.

    The area under the ROC curve, with the error of DeLong et al. 1988.
    """
    trees, table = subject.trees, subject.corpus.read("unpaired", "eval")
    score = subject.once("log-ratios of answers", lambda: _make_log_ratios(subject))
    parts = [
        hosts.to_host(score(trees["policy"], trees["reference"], hosts.to_global(batch)))[:real]
        for batch, real in pipeline.in_order(table, subject.rows)
    ]
    return {"ranking of kinds": area(np.concatenate(parts), np.asarray(table["desirable"]))}


def area(scores: np.ndarray, desirable: np.ndarray) -> estimate.Estimate:
    """The area under the ROC curve of scores [N]; ties count half."""
    good, bad = scores[desirable], scores[~desirable]
    wins = (good[:, None] > bad[None]) + 0.5 * (good[:, None] == bad[None])
    by_good, by_bad = wins.mean(axis=1), wins.mean(axis=0)
    variance = by_good.var() / max(len(good) - 1, 1) + by_bad.var() / max(len(bad) - 1, 1)
    return estimate.Estimate(float(wins.mean()), float(np.sqrt(variance)), len(scores))


def _ranking_programs(subject: evaluator.Subject) -> tuple[program.Program, ...]:
    policy_tree, reference = subject.trees["policy"], subject.trees["reference"]
    batch = program.batch("unpaired", subject.rows, subject.corpus)
    return (
        program.Program(
            "evaluate answers",
            _make_log_ratios(subject),
            (policy_tree, reference, batch),
            (("parameters", policy_tree), ("frozen", reference), ("batch", batch)),
            rows=subject.rows,
            length=subject.corpus.length,
            passes=(program.Pass("policy"), program.Pass("reference")),
        ),
    )


RANKING = evaluator.Evaluator(
    "ranking of kinds", _ranking, reads=("policy", "reference"), programs=_ranking_programs
)


def _make(
    networks: Mapping[str, models.Model], config: UnpairedConfig, task: method.Task
) -> algorithm.Algorithm:
    if task.batch_size == 1:
        raise ValueError(
            "loop.batch_size must be at least 2 for losses on single answers, which are compared "
            "with the batch's mean; got 1 (loop). Raise it."
        )
    return unpaired(
        networks["policy"],
        config,
        reference=method.another(networks, "reference", task),
        micro_batches=task.micro_batches,
    )


UnpairedConfig.METHOD = method.Method(
    name="unpaired",
    make=_make,
    table=lambda config: "unpaired",
    roles=lambda config: {
        "policy": method.Role(trained=True, source="policy", required=True),
        "reference": method.Role(source="reference", otherwise=("policy",)),
    },
    evaluators=lambda config: (RANKING, policy.SAMPLES),
    formula=UnpairedConfig.formula,
    curves=("loss", "desirable_reward", "undesirable_reward"),
)
