"""Supervised fine-tuning: cross-entropy on the answer's tokens only."""

import dataclasses

from alignjax import losses
from alignjax.core import mean, shapes
from alignjax.models import model as models
from alignjax.models import scoring
from alignjax.training import algorithm


@dataclasses.dataclass(kw_only=True)
class SftConfig:
    """Cross-entropy on demonstrations."""

    label_smoothing: float = 0.0  # mass spread evenly over the vocabulary

    def validate(self) -> None:
        shapes.check_number("algorithm.label_smoothing", self.label_smoothing, minimum=0, below=1)


def sft(model: models.Model, config: SftConfig) -> algorithm.Algorithm:
    """Minimises -log p(answer token | prompt, answer before), averaged over all answer tokens.

    Batch: tokens, loss_mask (true on answers), segments, positions, each [B, T].
    Reference: Ouyang et al. 2022, section 3.1.
    """
    config.validate()

    def loss(params, frozen, batch, key):
        mask = scoring.counted(batch)
        bound = model.bind(params, frozen, key)
        states, penalties = scoring.hidden_and_penalties(model, bound, batch)
        stats = scoring.stats_of(model, bound, states, batch["tokens"])
        nll = losses.token_nll(stats.logprob, mask)
        target = nll
        if config.label_smoothing:
            target = losses.smoothed_nll(
                stats.logprob,
                stats.logsumexp,
                stats.mean_logit,
                mask,
                label_smoothing=config.label_smoothing,
            )
        return {"target": mean.masked(target, mask), **penalties}, {
            **penalties,
            "nll": mean.masked(nll, mask),
            "entropy": mean.masked(stats.entropy, mask),
        }

    return algorithm.Algorithm(init=algorithm.from_policy(model), loss=loss)
