"""Direct preference optimization and the other losses on pairs of answers."""

import dataclasses
import math
from collections.abc import Callable, Mapping
from typing import Any

import jax
import numpy as np

from alignjax import compat as presets
from alignjax import losses
from alignjax.core import mean, shapes
from alignjax.models import model as models
from alignjax.models import scoring
from alignjax.training import algorithm

SIDES = ("chosen", "rejected")
LOG_2 = math.log(2)


@dataclasses.dataclass(kw_only=True)
class DpoConfig:
    """A loss on pairs, as a paper or a release of another code base computes it.

    The numbers are those of the recipe (`alignjax.compat`): None is the preset's own value, and a
    number that the recipe does not have is an error.
    """

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
    wpo: bool | None = None  # weigh pairs by how on-policy they are (WPO)

    def validate(self) -> None:
        """Traces the loss on two pairs, so that every name and number is checked.

        Raises:
          ValueError: an unknown name, an option that the recipe does not have, or out of range.
        """
        if self.beta is not None:
            shapes.check_number("algorithm.beta", self.beta, above=0)
        try:
            jax.eval_shape(self.loss, same_policies(seed=0))
        except ValueError as error:
            raise ValueError(f"{error} (algorithm)") from None

    @property
    def recipe(self) -> presets.Recipe:
        return presets.recipe(self.compat, self.method)

    @property
    def options(self) -> dict[str, Any]:
        """The numbers that are set."""
        given = dataclasses.asdict(self)
        return {k: v for k, v in given.items() if v is not None and k not in ("method", "compat")}

    def loss(self, arrays: Mapping[str, Any]) -> dict[str, mean.Mean]:
        """{term: Mean} of the pairs, the main term under the method's name."""
        terms = self.recipe(arrays, **self.options)
        return {self.method if name == "loss" else name: term for name, term in terms.items()}

    def formula(self) -> str:
        """One line for the log: the preset, what is averaged over what, every number."""
        return self.recipe.echo(**self.options)


def same_policies(seed: int) -> dict[str, Any]:
    """Arrays of two pairs of random lengths on which the policy is its own reference."""
    rng = np.random.default_rng(seed)
    arrays: dict[str, Any] = {}
    for side in SIDES:
        logprobs = -rng.exponential(1.0, (2, 8)).astype(np.float32)
        mask = np.arange(8) < rng.integers(1, 9, (2, 1))
        arrays |= {
            f"{side}_logprobs": logprobs,
            f"reference_{side}_logprobs": logprobs,
            f"{side}_sum_p2": np.exp(logprobs),
            f"{side}_mask": mask,
        }
    return {**arrays, "pair_mask": np.ones(2, bool)}


# The loss where policy and reference agree, whatever the data, from the recipe's numbers.
FIRST: dict[str, Callable[..., float]] = {
    **dict.fromkeys(("dpo", "dpo_norm", "robust_dpo", "aot", "aot_unpaired"), lambda **_: LOG_2),
    "ipo": lambda beta, **_: 0.25 / beta**2,
    "hinge": lambda target_margin=1.0, **_: target_margin,
    "sppo_hard": lambda beta, **_: 0.5 / beta**2,
    "nca_pair": lambda **_: 2.0 * LOG_2,
    "bco_pair": lambda **_: 2.0 * LOG_2,
    "apo_zero": lambda **_: 1.0,
    "apo_down": lambda **_: 1.0,
    "discopop": lambda **_: 0.5 * LOG_2 + 0.5,
}


def first_loss(config: DpoConfig) -> float | None:
    """The first update's loss, if it is known in advance."""
    numbers = config.recipe.options(**config.options)
    if config.method not in FIRST or numbers.get("wpo") or numbers.get("nll_weight"):
        return None
    return FIRST[config.method](**numbers)


def dpo(model: models.Model, config: DpoConfig) -> algorithm.Algorithm:
    """Minimises a loss on pairs: -log sigmoid(beta (log pi/ref (chosen) - log pi/ref (rejected))).

    Batch: tokens, loss_mask, segments, positions [B, K, T], and what is compared as
    `scoring.compared` reads it.
    Frozen: "reference", read once for all rows by `annotate`. The policy starts as the reference,
    so DPO's first loss is log 2.
    Reference: Rafailov et al. 2023, equation 7; `compat` names those of the other methods.
    """
    config.validate()
    scale = config.options.get("beta", config.recipe.defaults.get("beta", 1.0))

    def token_stats(params, batch):
        """(of every token of every answer: [B, K, T], the model's own losses)."""
        rows = scoring.flatten_choices(batch)
        states, penalties = scoring.hidden_and_penalties(model, params, rows)
        stats = scoring.stats_of(model, params, states, rows["tokens"])
        return jax.tree.map(lambda x: x.reshape(batch["tokens"].shape), stats), penalties

    def init(key, start):
        return algorithm.copy(start["policy"])

    def annotate(frozen, batch):
        stats, _ = token_stats(model.bind(frozen["reference"], frozen), batch)
        return {"reference_logprobs": stats.logprob}

    def paired(params, frozen, batch, key):
        """(the recipe's arrays, one row for each comparison; the model's own losses)."""
        stats, penalties = token_stats(model.bind(params, frozen, key), batch)
        counted = scoring.counted(scoring.flatten_choices(batch)).reshape(batch["tokens"].shape)
        columns = {
            "{}_logprobs": stats.logprob,
            "reference_{}_logprobs": batch["reference_logprobs"],
            "{}_sum_p2": stats.sum_p2,
            "{}_mask": counted,
        }
        arrays = {}
        for name, column in columns.items():
            *both, mask = scoring.compared(column, batch)
            for side, rows in zip(SIDES, both, strict=True):
                arrays[name.format(side)] = rows.reshape(-1, rows.shape[-1])
        return {**arrays, "pair_mask": mask.reshape(-1)}, penalties

    def loss(params, frozen, batch, key):
        arrays, penalties = paired(params, frozen, batch, key)
        terms, mask = {**config.loss(arrays), **penalties}, arrays["pair_mask"]
        chosen, rejected = (
            losses.score_sum(
                arrays[f"{side}_logprobs"] - arrays[f"reference_{side}_logprobs"],
                arrays[f"{side}_mask"],
            )
            for side in SIDES
        )
        return terms, {
            **terms,
            "accuracy": mean.masked(losses.preference_accuracy(chosen, rejected), mask),
            "chosen_reward": mean.masked(scale * chosen, mask),
            "rejected_reward": mean.masked(scale * rejected, mask),
            "margin": mean.masked(scale * (chosen - rejected), mask),
        }

    # Two programs compute the same log-probabilities (annotate and loss): rounding is what remains.
    value = first_loss(config)
    tolerance = 10 * model.rounding * max(scale, value or 0.0, 1.0)
    if value is None or model.drops_out:  # adapters that were trained before drop out too
        first = {}
    else:
        first = {config.method: algorithm.Expected(value, tolerance)}
    return algorithm.Algorithm(
        init=init, loss=loss, annotate=annotate, only_annotate=("reference",), first=first
    )
