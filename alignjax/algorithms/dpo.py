"""Direct preference optimization and the other losses on pairs of answers."""

import dataclasses
from collections.abc import Callable, Collection, Mapping
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np

from alignjax import losses
from alignjax.algorithms import preset, votes
from alignjax.algorithms import shift as shifts
from alignjax.core import shapes
from alignjax.data import pipeline
from alignjax.evals import estimate, evaluator, policy
from alignjax.models import model as models
from alignjax.models import scoring
from alignjax.parallel import hosts
from alignjax.training import algorithm, method, program

SIDES = ("chosen", "rejected")
DEMONSTRATION = "demonstration"  # column of the answer to imitate


@dataclasses.dataclass(kw_only=True)
class DpoConfig(preset.PresetConfig):
    """A loss on pairs, as a paper or a release of another code base computes it.

    The numbers are those of the recipe (`alignjax.compat`): None is the preset's own value, and a
    number that the recipe does not have is an error.
    """

    TABLE = "pairs"
    WITHOUT = frozenset({"scores", "other"})

    method: str = "dpo"  # a loss on pairs of the preset: dpo, ipo, hinge, simpo, orpo, ...
    compat: str = "paper"  # whose formula, reduction and defaults
    beta: float | None = None  # strength of the pull to the reference, per nat of log-ratio
    label_smoothing: float | None = None  # chance that a label is wrong (conservative DPO)
    flip_rate: float | None = None  # the same, for the unbiased loss (robust DPO)
    divergence: str | None = None  # reverse_kl | forward_kl | js | alpha
    alpha: float | None = None  # of the alpha divergence, of AlphaPO, of R-DPO's length term
    temperature: float | None = None  # of DiscoPOP's blend
    target_margin: float | None = None  # of hinge, SimPO, reward units
    penalty: float | None = None  # of a chosen answer that loses likelihood (DPOP)
    ratio_weight: float | None = None  # of ORPO's odds ratio
    nll_weight: float | None = None  # of the chosen answer's NLL beside the preference
    ld_alpha: float | None = None  # weight of tokens beyond a pair's common length (LD-DPO)
    tie_strength: float | None = None  # Davidson's nu: how often equal answers tie
    threshold: float | None = None  # Rao and Kupper's, reward units: gaps that are not noticed
    accuracy: float | None = None  # of labels without the column accuracies, in (0.5, 1]
    wpo: bool | None = None  # weigh pairs by how on-policy they are (WPO)

    def validate(self) -> None:
        """Traces the loss on two pairs, so that every name and number is checked.

        Raises:
          ValueError: an unknown name, an option that the recipe does not have, or out of range.
        """
        if self.beta is not None:
            shapes.check_number("algorithm.beta", self.beta, above=0)
        try:
            jax.eval_shape(self.terms, {**same_policies(seed=0), "shift": np.zeros((), np.float32)})
        except ValueError as error:
            raise ValueError(f"{error} (algorithm)") from None

    @property
    def has_reference(self) -> bool:
        """Whether the loss compares with a reference."""
        return "reference" in self.needs


def same_policies(seed: int) -> dict[str, np.ndarray]:
    """Arrays of two pairs of random lengths on which the policy is its own reference."""
    rng = np.random.default_rng(seed)
    arrays: dict[str, np.ndarray] = {}
    for side in (*SIDES, "gold"):
        logprobs = -rng.exponential(1.0, (2, 8)).astype(np.float32)
        mask = np.arange(8) < rng.integers(1, 9, (2, 1))
        arrays |= {
            f"{side}_logprobs": logprobs,
            f"reference_{side}_logprobs": logprobs,
            f"{side}_sum_p2": np.exp(logprobs),
            f"{side}_mask": mask,
            f"{side}_sequence_mask": mask,
        }
    return {**arrays, "pair_mask": np.ones(2, bool)}


def answer_stats(
    model: models.Model,
    params: models.Params,
    batch: algorithm.Batch,
    needs: Collection[str] = (),
) -> tuple[losses.TokenStats, algorithm.Terms]:
    """(log-probabilities of the tokens of every answer [B, K, T], the model's own losses).

    needs: of a recipe; sum_p2 is computed where it is among them, and prompts count too where
    "prompt" is. Statistics of other tokens are 0.
    """
    rows = scoring.flatten_choices(batch)
    states, penalties = scoring.hidden_and_penalties(model, params, rows)
    mask = scoring.counted(_whole(rows) if "prompt" in needs else rows)
    want = ("logprob", *(["sum_p2"] if "sum_p2" in needs else []))
    stats = scoring.stats_of(model, params, states, rows["tokens"], want=want, mask=mask)
    return jax.tree.map(lambda x: x.reshape(batch["tokens"].shape), stats), penalties


def _whole(rows: algorithm.Batch) -> algorithm.Batch:
    """Rows in which the prompt's tokens count too."""
    return {**rows, "loss_mask": rows["segments"] > 0}


def paired(batch: algorithm.Batch, columns: Mapping[str, jax.Array]) -> dict[str, jax.Array]:
    """The recipe's arrays, one row a comparison, and their masks.

    columns: [B, K, T] by "{}_name"; the result has [B P, T] by "chosen_name" and "rejected_name",
    and by "gold_name" of the answer to imitate, where the batch says which that is.
    """
    rows = scoring.flatten_choices(batch)
    masks = {"{}_mask": rows, "{}_sequence_mask": _whole(rows)}
    shape = batch["tokens"].shape
    counted = {name: scoring.counted(own).reshape(shape) for name, own in masks.items()}
    arrays = {}
    for name, column in {**columns, **counted}.items():
        *both, mask = scoring.compared(column, batch)
        sides = dict(zip(SIDES, both, strict=True))
        if DEMONSTRATION in batch:
            sides["gold"] = _gold(column, batch[DEMONSTRATION], both[0].shape)
        for side, values in sides.items():
            arrays[name.format(side)] = values.reshape(-1, values.shape[-1])
    if "shift" in batch:  # the same number in every row
        arrays["shift"] = jax.lax.stop_gradient(jnp.max(batch["shift"]))
    return {**arrays, "pair_mask": mask.reshape(-1), **votes.columns(batch, mask)}


def _gold(column: jax.Array, number: jax.Array, shape: tuple[int, ...]) -> jax.Array:
    """The values [B, K, T] of the answers to imitate, one a comparison [B, P, T]; 0 without one."""
    own = jnp.take_along_axis(column, jnp.maximum(number, 0)[:, None, None], axis=1)
    own = jnp.where((number >= 0)[:, None, None], own, jnp.zeros_like(own))
    return jnp.broadcast_to(own, shape)


def first_loss(
    config: DpoConfig, arrays: Mapping[str, jax.Array], rounding: float
) -> tuple[float, float]:
    """(loss, tolerance) of pairs on which the policy is the reference, from its log-probabilities.

    Policy and reference are scored by two programs, which differ by at most `rounding` nats on a
    token. Such errors are independent, so the loss is off by at most a few times rounding times the
    norm of its gradient over all tokens.
    """

    @jax.jit
    def run(arrays: Mapping[str, jax.Array]) -> tuple[jax.Array, jax.Array]:
        def loss(logprobs: Mapping[str, jax.Array]) -> jax.Array:
            named = {f"{side}_logprobs": x for side, x in logprobs.items()}
            return config.terms({**arrays, **named})[config.method].value

        reference = {side: arrays[f"reference_{side}_logprobs"] for side in SIDES}
        value, gradient = jax.value_and_grad(loss)(reference)
        squares = jax.tree.map(lambda g: jnp.sum(g**2), gradient)
        return value, jnp.sqrt(sum(jax.tree.leaves(squares)))

    value, norm = (float(x) for x in run(arrays))
    return value, 4.0 * rounding * norm + 1e-5 * max(abs(value), 1.0)


def dpo(
    model: models.Model,
    config: DpoConfig,
    *,
    reference: models.Model | None = None,
    micro_batches: int = 1,
) -> algorithm.Algorithm:
    """Minimises a loss on pairs: -log sigmoid(beta (log pi/ref (chosen) - log pi/ref (rejected))).

    Batch: a table of pairs, and what is compared as `scoring.compared` reads it; its columns
    preference, ties, accuracies and weight are used where they are there.
    Frozen: "reference", read once for all rows by `annotate`, if the loss compares with one. It is
    of `model` and where the policy starts, so that the first loss is known (log 2 for DPO) and
    checked; or else of the model `reference`. BCO's shift is of the whole batch, from `collect`,
    so that micro-batches change nothing.
    Reference: Rafailov et al. 2023, equation 7; `compat` names those of the other methods.
    """
    config.validate()
    needs = config.needs
    has_reference = "reference" in needs
    second = model if reference is None else reference
    of_reference = needs - {"sum_p2"}  # no loss reads more of a reference than log-probabilities

    def annotate(frozen: models.Frozen, batch: algorithm.Batch) -> dict[str, jax.Array]:
        stats, _ = answer_stats(
            second, second.bind(frozen["reference"], frozen), batch, of_reference
        )
        return {"reference_logprobs": stats.logprob}

    def rewards(
        params: models.Params, frozen: models.Frozen, batch: algorithm.Batch
    ) -> dict[str, jax.Array]:
        stats, _ = answer_stats(model, model.bind(params, frozen), batch, of_reference)
        columns = {
            "{}_logprobs": stats.logprob,
            "reference_{}_logprobs": batch["reference_logprobs"],
        }
        arrays = paired(batch, columns)
        both = dict(zip(SIDES, config.recipe.rewards(arrays, **config.options), strict=True))
        both |= {name: arrays[name] for name in ("pair_mask", "pair_weight") if name in arrays}
        return {name: x.reshape(len(batch["tokens"]), -1) for name, x in both.items()}

    def loss(
        params: models.Params, frozen: models.Frozen, batch: algorithm.Batch, key: jax.Array
    ) -> tuple[algorithm.Terms, algorithm.Metrics]:
        stats, penalties = answer_stats(model, model.bind(params, frozen, key), batch, needs)
        columns = {"{}_logprobs": stats.logprob}
        if has_reference:
            columns["reference_{}_logprobs"] = batch["reference_logprobs"]
        if "sum_p2" in needs:
            columns["{}_sum_p2"] = stats.sum_p2
        arrays = paired(batch, columns)
        terms = {**config.terms(arrays), **penalties}
        chosen, rejected = config.recipe.rewards(arrays, **config.options)
        return terms, {
            **terms,
            "accuracy": votes.accuracy(chosen, rejected, arrays),
            "chosen_reward": votes.averaged(chosen, arrays),
            "rejected_reward": votes.averaged(rejected, arrays),
            "margin": votes.averaged(chosen - rejected, arrays),
        }

    def first(batch: algorithm.Batch) -> Mapping[str, algorithm.Expected]:
        # Another reference, sums of squares, and adapters that drop out make it unknown.
        if not has_reference or reference is not None or "sum_p2" in needs or model.drops_out:
            return {}
        column = batch["reference_logprobs"]
        columns = {"{}_logprobs": column, "reference_{}_logprobs": column}
        value, tolerance = first_loss(config, paired(batch, columns), model.rounding)
        return {config.method: algorithm.Expected(value, tolerance)}

    shifted: dict[str, Any] = {}
    if "shift" in needs:
        shifted = {
            "collect": shifts.make_collect(rewards, micro_batches),
            "carry": shifts.no_rewards(),
            "collect_passes": (program.Pass("policy"),),
        }
    return algorithm.Algorithm(
        init=algorithm.from_policy(model),
        loss=loss,
        **shifted,
        annotate=annotate if has_reference else None,
        only_annotate=("reference",) if has_reference else (),
        columns=(DEMONSTRATION,) if "gold" in needs else (),
        first=first,
        coupled=config.recipe.coupled,
        passes=(program.Pass("policy", trained=True),),
        annotate_passes=(program.Pass("reference"),),
    )


Rewards = tuple[jax.Array, jax.Array, jax.Array]  # (chosen, rejected, mask), one a comparison


def _make_rewards(
    subject: evaluator.Subject,
) -> Callable[[models.Params, models.Params | None, algorithm.Batch], Rewards]:
    """Jitted (policy, reference or None, batch) -> the method's own rewards of held-out pairs."""
    config, networks = subject.config, subject.networks
    prompts = config.needs & {"prompt"}

    @jax.jit
    def score(
        policy: models.Params, reference: models.Params | None, batch: algorithm.Batch
    ) -> Rewards:
        columns = {
            "{}_logprobs": answer_stats(networks["policy"], policy, batch, prompts)[0].logprob
        }
        if reference is not None:
            stats, _ = answer_stats(networks["reference"], reference, batch, prompts)
            columns["reference_{}_logprobs"] = stats.logprob
        arrays = paired(batch, columns)
        chosen, rejected = config.recipe.rewards(arrays, **config.options)
        return chosen, rejected, arrays["pair_mask"]

    return score


def _compared(subject: evaluator.Subject) -> tuple[models.Params, models.Params | None]:
    """Trees of (policy, reference or None)."""
    has_reference = subject.config.has_reference
    return subject.trees["policy"], subject.trees["reference"] if has_reference else None


def _accuracy(subject: evaluator.Subject) -> evaluator.Numbers:
    """Share of held-out pairs whose chosen answer has the larger reward; ties count half."""
    trees = _compared(subject)
    table, margins = subject.corpus.read("pairs", "eval"), []
    score = subject.once("rewards of pairs", lambda: _make_rewards(subject))
    for batch, real in pipeline.in_order(table, subject.rows):
        chosen, rejected, mask = hosts.to_host(score(*trees, hosts.to_global(batch)))
        kept = np.repeat(np.arange(subject.rows) < real, len(mask) // subject.rows) & mask
        margins.append((chosen - rejected)[kept])
    margin = np.concatenate(margins)
    return {"pair accuracy": estimate.mean((margin > 0) + 0.5 * (margin == 0))}


def _programs(subject: evaluator.Subject) -> tuple[program.Program, ...]:
    trees = _compared(subject)
    batch = program.batch("pairs", subject.rows, subject.corpus)
    passes: tuple[program.Pass, ...] = (program.Pass("policy"),)
    if trees[1] is not None:
        passes = (*passes, program.Pass("reference"))
    return (
        program.Program(
            "evaluate pairs",
            _make_rewards(subject),
            (*trees, batch),
            (("parameters", trees[0]), ("frozen", trees[1]), ("batch", batch)),
            rows=2 * subject.rows,
            length=subject.corpus.length,
            passes=passes,
        ),
    )


def _roles(config: DpoConfig) -> dict[str, method.Role]:
    # Without a reference in the loss the start is still what a policy's KL is measured to.
    return {
        "policy": method.Role(trained=True, source="policy", required=True),
        "reference": method.Role(
            source="reference", otherwise=("policy",), only_evaluated=not config.has_reference
        ),
    }


ACCURACY = evaluator.Evaluator(
    "pair accuracy", _accuracy, reads=("policy",), optional=("reference",), programs=_programs
)
DpoConfig.METHOD = method.Method(
    name="dpo",
    make=lambda networks, config, task: dpo(
        networks["policy"],
        config,
        reference=method.another(networks, "reference", task),
        micro_batches=task.micro_batches,
    ),
    table=lambda config: "pairs",
    roles=_roles,
    evaluators=lambda config: (ACCURACY, policy.SAMPLES),
    formula=DpoConfig.formula,
    curves=("loss", "margin"),
)
