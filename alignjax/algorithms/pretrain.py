"""Next-token prediction on every token of a document."""

import dataclasses

import jax

from alignjax import losses
from alignjax.core import mean, shapes
from alignjax.evals import likelihood
from alignjax.models import model as models
from alignjax.models import scoring
from alignjax.training import algorithm, method, program


@dataclasses.dataclass(kw_only=True)
class PretrainConfig(method.MethodConfig):
    """Cross-entropy, token mean."""

    z_loss: float = 0.0  # weight of logsumexp^2, which keeps logits near normalised

    def validate(self) -> None:
        shapes.check_number("algorithm.z_loss", self.z_loss, minimum=0)


def pretrain(model: models.Model, config: PretrainConfig) -> algorithm.Algorithm:
    """Minimises -log p(token | tokens before), averaged over all counted tokens of the batch.

    Batch: a table of documents.
    """
    config.validate()

    def loss(
        params: models.Params, frozen: models.Frozen, batch: algorithm.Batch, key: jax.Array
    ) -> tuple[algorithm.Terms, algorithm.Metrics]:
        mask = scoring.counted(batch)
        bound = model.bind(params, frozen, key)
        states, penalties = scoring.hidden_and_penalties(model, bound, batch)
        want = ("logprob", "entropy", *(["logsumexp"] if config.z_loss else []))
        stats = scoring.stats_of(model, bound, states, batch["tokens"], want=want)
        terms = {"nll": mean.masked(losses.token_nll(stats.logprob, mask), mask), **penalties}
        if config.z_loss:
            penalty = losses.z_loss(stats.logsumexp, mask, coefficient=config.z_loss)
            terms["z_loss"] = mean.masked(penalty, mask)
        metrics = {**terms, "entropy": mean.masked(stats.entropy, mask)}
        return terms, metrics

    passes = (program.Pass("policy", trained=True),)
    return algorithm.Algorithm(init=algorithm.from_policy(model), loss=loss, passes=passes)


PretrainConfig.METHOD = method.Method(
    name="pretrain",
    make=lambda networks, config, task: pretrain(networks["policy"], config),
    table=lambda config: "documents",
    roles=lambda config: {"policy": method.Role(trained=True, source="policy")},
    evaluators=lambda config: (likelihood.of("documents"),),
    formula=lambda config: (
        "Minimises -log p(token | tokens before), averaged over all counted tokens of the batch. "
        f"z_loss={config.z_loss}"
    ),
    curves=("nll",),
)
