"""Supervised fine-tuning: cross-entropy on the answer's tokens only."""

import dataclasses
from typing import Any

import jax

from alignjax import compat as presets
from alignjax import losses
from alignjax.algorithms import preset
from alignjax.core import mean, shapes
from alignjax.evals import likelihood
from alignjax.models import model as models
from alignjax.models import scoring
from alignjax.training import algorithm, method, program

# Statistics that smoothed losses read, with the recipes' names of them.
SMOOTHED = {"logsumexp": "logsumexp", "mean_logit": "mean_logits"}


@dataclasses.dataclass(kw_only=True)
class SftConfig(preset.PresetConfig):
    """Cross-entropy on demonstrations, as a paper or a release computes it."""

    TABLE = "demonstrations"

    method: str = "token_nll"  # a loss on tokens of the preset: token_nll, smoothed_nll, dft
    compat: str = "paper"  # whose formula, reduction and defaults
    label_smoothing: float = 0.0  # mass spread evenly over the vocabulary; makes it smoothed_nll

    def validate(self) -> None:
        shapes.check_number("algorithm.label_smoothing", self.label_smoothing, minimum=0, below=1)
        self.check()

    @property
    def recipe(self) -> presets.Recipe:
        smoothed = self.label_smoothing and self.method == "token_nll"
        return preset.recipe(self.compat, "smoothed_nll" if smoothed else self.method, self.TABLE)

    @property
    def options(self) -> dict[str, Any]:
        return {"label_smoothing": self.label_smoothing} if self.label_smoothing else {}


def sft(model: models.Model, config: SftConfig) -> algorithm.Algorithm:
    """Minimises -log p(answer token | prompt, answer before), averaged over all answer tokens.

    Batch: a table of demonstrations; the loss mask is true on answers.
    Reference: Ouyang et al. 2022, section 3.1; `compat` names those of the other losses.
    """
    config.validate()
    reads = config.recipe.reads

    def loss(
        params: models.Params, frozen: models.Frozen, batch: algorithm.Batch, key: jax.Array
    ) -> tuple[algorithm.Terms, algorithm.Metrics]:
        mask = scoring.counted(batch)
        bound = model.bind(params, frozen, key)
        states, penalties = scoring.hidden_and_penalties(model, bound, batch)
        want = ("logprob", "entropy", *(name for name in SMOOTHED if name in reads))
        stats = scoring.stats_of(model, bound, states, batch["tokens"], want=want, mask=mask)
        arrays = {"token_logprobs": stats.logprob, "mask": mask}
        arrays |= {SMOOTHED[name]: getattr(stats, name) for name in SMOOTHED if name in reads}
        terms = config.recipe(arrays, **config.options)
        return {**terms, **penalties}, {
            **penalties,
            "nll": mean.masked(losses.token_nll(stats.logprob, mask), mask),
            "entropy": mean.masked(stats.entropy, mask),
        }

    passes = (program.Pass("policy", trained=True),)
    return algorithm.Algorithm(init=algorithm.from_policy(model), loss=loss, passes=passes)


SftConfig.METHOD = method.Method(
    name="sft",
    make=lambda networks, config, task: sft(networks["policy"], config),
    table=lambda config: "demonstrations",
    roles=lambda config: {"policy": method.Role(trained=True, source="policy")},
    evaluators=lambda config: (likelihood.of("demonstrations"),),
    formula=SftConfig.formula,
    curves=("nll",),
)
