"""A guard: a probability of each category at the last token of a conversation."""

import dataclasses

import jax
import jax.numpy as jnp
import numpy as np

from alignjax import losses
from alignjax.core import mean
from alignjax.data import groups, pipeline
from alignjax.evals import estimate, evaluator, ranks
from alignjax.models import model as models
from alignjax.models import scoring
from alignjax.parallel import hosts
from alignjax.rewards import learned
from alignjax.training import algorithm, method, program


@dataclasses.dataclass(kw_only=True)
class GuardConfig(method.MethodConfig):
    """Cross-entropy of every label that there is, averaged over labels at their rows' weights."""

    categories: str = "unsafe"  # names by comma, as data.categories: one output each

    def validate(self) -> None:
        if not self.names:
            raise ValueError(
                "algorithm.categories must name a category; got '' (algorithm). Write those of "
                "data.categories."
            )

    @property
    def names(self) -> tuple[str, ...]:
        """The categories, in the order of the head's outputs."""
        return groups.names(self.categories, "categories")


def guard(
    model: models.Model, config: GuardConfig, categories: tuple[str, ...] = ()
) -> algorithm.Algorithm:
    """Minimises the logistic loss of each label, averaged over the labels of all rows.

    Batch: a table of labelled conversations. A missing label has no part in the loss, and a row of
    weight w counts as w rows. The head starts at zero, so the first loss is log 2.

    categories: of the data, where they are known.

    Raises:
      ValueError: the data's categories are others, or stand in another order.
    """
    config.validate()
    if categories and categories != config.names:
        raise ValueError(
            f"algorithm.categories must be those of the data, in their order; got "
            f"{','.join(config.names)} and {','.join(categories)} (algorithm). Set both alike."
        )

    def terms_of(batch: algorithm.Batch, logits: jax.Array) -> mean.Mean:
        known = ~jnp.isnan(batch["labels"])
        rows = losses.multilabel(logits, jnp.where(known, batch["labels"], 0.0), known)
        return mean.weighted(rows, jnp.where(known, batch["weight"][:, None], 0.0))

    def loss(
        params: models.Params, frozen: models.Frozen, batch: algorithm.Batch, key: jax.Array
    ) -> tuple[algorithm.Terms, algorithm.Metrics]:
        bound = model.bind(params, frozen, key)
        logits, penalties = scoring.scores_and_penalties(model, bound, batch)
        terms = {"guard": terms_of(batch, logits), **penalties}
        known = ~jnp.isnan(batch["labels"])
        right = (logits > 0) == (batch["labels"] > 0.5)
        return terms, {**terms, "accuracy": mean.masked(right, known)}

    def prepare(table: algorithm.Table) -> algorithm.Table:
        labels = np.asarray(table["labels"])
        known = labels[np.isfinite(labels)]
        if labels.shape[1] != len(config.names) or not len(known):
            raise ValueError(
                f"labels must be of {len(config.names)} categories, and some known; got "
                f"{labels.shape[1]} columns with {len(known)} labels (data)."
            )
        if known.min() < 0 or known.max() > 1:
            got = f"{known.min():g} to {known.max():g}"
            raise ValueError(f"labels must lie in [0, 1]; got {got} (data). Write shares of votes.")
        return {}

    return algorithm.Algorithm(
        init=algorithm.from_policy(model, head=True, heads=len(config.names)),
        loss=loss,
        prepare=prepare,
        first=lambda batch: {"guard": algorithm.Expected(float(np.log(2.0)), 1e-5)},
        passes=(program.Pass("policy", head=False, trained=True),),
    )


def _detection(subject: evaluator.Subject) -> evaluator.Numbers:
    """How held-out labels are told: area under the ROC curve and nats a label, by category."""
    table, parts = subject.corpus.read("labelled", "eval"), []
    model = subject.networks["scorer"]
    score = subject.once("logits of categories", lambda: learned.make_score(model))
    for batch, real in pipeline.in_order(table, subject.rows):
        logits = score(subject.trees["scorer"], hosts.to_global(batch))
        parts.append(hosts.to_host(logits)[:real])
    logits, labels = np.concatenate(parts), np.asarray(table["labels"])
    numbers: evaluator.Numbers = {}
    for place, name in enumerate(subject.config.names):
        known = np.isfinite(labels[:, place])
        z, y = logits[known, place].astype(np.float64), labels[known, place]
        numbers[f"nats of {name}"] = estimate.mean(np.logaddexp(0.0, z) - y * z)
        if 0 < np.sum(y > 0.5) < len(y):
            numbers[f"AUC of {name}"] = ranks.auc(z[y > 0.5], z[y <= 0.5])
    return numbers


DETECTION = evaluator.Evaluator("detection", _detection, reads=("scorer",))


def _roles(config: GuardConfig) -> dict[str, method.Role]:
    return {
        "policy": method.Role(trained=True, source="policy", head=True, heads=len(config.names))
    }


GuardConfig.METHOD = method.Method(
    name="guard",
    make=lambda networks, config, task: guard(networks["policy"], config, task.categories),
    table=lambda config: "labelled",
    roles=_roles,
    product=lambda config: {method.SCORER: method.whole()},
    evaluators=lambda config: (DETECTION,),
    curves=("loss", "accuracy"),
    scores=method.LABELS,
)
