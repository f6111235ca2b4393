"""DPO and its family, robust over groups: the groups that lose most weigh most."""

import dataclasses
from collections.abc import Mapping

import jax
import jax.numpy as jnp
import numpy as np

from alignjax import losses
from alignjax.algorithms import dpo, votes
from alignjax.core import mean, shapes
from alignjax.evals import policy
from alignjax.models import model as models
from alignjax.parallel import axes
from alignjax.training import algorithm, method, program, update

GROUP = "group"  # column: the number of the group whose judgement a row is


@dataclasses.dataclass(kw_only=True)
class GroupDpoConfig(dpo.DpoConfig):
    """A loss on pairs, its mean over groups weighed by how badly each fares.

    With one group it is the loss itself.
    """

    OWN = ("groups", "step_size", "decay")

    groups: int = 2  # G; the column group holds 0 .. G - 1
    step_size: float = 0.01  # of a group's weight, per unit of its loss
    decay: float = 0.9  # of the running mean of a group's loss, per batch that holds it

    def validate(self) -> None:
        shapes.check_number("algorithm.groups", self.groups, minimum=1)
        shapes.check_number("algorithm.step_size", self.step_size, above=0)
        shapes.check_number("algorithm.decay", self.decay, minimum=0, below=1)
        super().validate()
        if self.recipe.coupled:
            raise ValueError(
                f"algorithm.method must not sort a batch, where groups have no weights; got "
                f"{self.method} (algorithm). Take another loss."
            )

    def formula(self) -> str:
        numbers = f"groups={self.groups}, step_size={self.step_size}, decay={self.decay}"
        return f"{super().formula()}; sum_g q_g mean_g, q up where a group loses most [{numbers}]"


def group_dpo(
    model: models.Model,
    config: GroupDpoConfig,
    *,
    reference: models.Model | None = None,
    micro_batches: int = 1,
) -> algorithm.Algorithm:
    """Minimises sum_g q_g mean_g over groups, q moved towards the groups that lose most.

    Batch: as for `dpo.dpo`, with the column group. `collect` scores it under the policy and moves q
    by the running mean of each group's loss; a group that the batch lacks keeps its q and its mean.
    Weights of rows are known before the update, so micro-batches change nothing. Where groups
    conflict on a pair the robust policy is the reference there.
    Reference: Ramesh et al. 2024; Sagawa et al. 2020.
    """
    plain = dpo.dpo(model, config, reference=reference)
    names = ["logprob", *(["sum_p2"] if "sum_p2" in config.needs else [])]

    @jax.jit
    def statistics(
        params: models.Params, frozen: models.Frozen, batch: algorithm.Batch
    ) -> list[jax.Array]:
        bound = model.bind(params, frozen)

        def one(part: algorithm.Batch) -> list[jax.Array]:
            stats, _ = dpo.answer_stats(model, bound, part, config.needs)
            return [getattr(stats, name) for name in names]

        return update.in_chunks(one, dict(batch), micro_batches)

    @jax.jit
    def moved(
        carry: Mapping[str, jax.Array], batch: algorithm.Batch, stats: list[jax.Array]
    ) -> tuple[dict[str, jax.Array], jax.Array]:
        arrays = dpo.paired(batch, _columns(config, batch, stats))
        mask = arrays["pair_mask"] != 0
        shape = (len(batch[GROUP]), mask.shape[0] // len(batch[GROUP]))
        groups = jnp.broadcast_to(batch[GROUP][:, None], shape).reshape(-1)
        means = [_mean(config, arrays, mask & (groups == g)) for g in range(config.groups)]
        found = jnp.stack([own.value for own in means])
        present = jnp.stack([own.weight > 0 for own in means])
        kept = jnp.where(carry["seen"] > 0, config.decay, 0.0)
        running = jnp.where(present, kept * carry["loss"] + (1 - kept) * found, carry["loss"])
        q = losses.maximin_weights(carry["q"], -running, present, step_size=config.step_size)
        weights = axes.reshape(losses.group_weights(groups, q, mask), shape, "batch choice")
        rows = jnp.max(weights, axis=1)
        new = {"q": q, "loss": running, "seen": carry["seen"] + present}
        return new, rows * batch.get("weight", jnp.ones_like(rows))

    def collect(
        state: algorithm.TrainState, frozen: models.Frozen, batch: algorithm.Batch, key: jax.Array
    ) -> tuple[algorithm.Batch, algorithm.Carry, algorithm.Metrics]:
        stats = statistics(state.params, frozen, batch)
        carry, weight = moved(state.carry, batch, stats)
        told = {f"group {g} weight": mean.single(carry["q"][g]) for g in range(config.groups)}
        told |= {f"group {g} loss": mean.single(carry["loss"][g]) for g in range(config.groups)}
        return {**batch, "weight": weight}, carry, told

    return plain._replace(
        collect=collect,
        carry=start_carry(config.groups),
        columns=(*plain.columns, GROUP),
        prepare=_both(plain.prepare, lambda table: check_groups(table, config.groups)),
        collect_passes=(program.Pass("policy"),),
    )


def start_carry(groups: int) -> dict[str, np.ndarray]:
    """Equal weights, and no loss seen of any group: q, loss and seen, [G] each."""
    zeros = np.zeros(groups, np.float32)
    return {"q": np.full(groups, 1.0 / groups, np.float32), "loss": zeros, "seen": zeros.copy()}


def _columns(
    config: GroupDpoConfig, batch: algorithm.Batch, stats: list[jax.Array]
) -> dict[str, jax.Array]:
    columns = {"{}_logprobs": stats[0]}
    if config.has_reference:
        columns["reference_{}_logprobs"] = batch["reference_logprobs"]
    if len(stats) > 1:
        columns["{}_sum_p2"] = stats[1]
    return columns


def _mean(config: GroupDpoConfig, arrays: votes.Arrays, mask: jax.Array) -> mean.Mean:
    """The loss's mean over some of the pairs."""
    return config.terms({**arrays, "pair_mask": mask})[config.method]


def check_groups(table: Mapping[str, np.ndarray], groups: int) -> dict[str, np.ndarray]:
    """No further column.

    Raises:
      ValueError: the table has no groups, or others than 0 .. groups - 1.
    """
    found = np.unique(np.asarray(table[GROUP])) if GROUP in table else np.zeros(0, int)
    if not len(found) or found[0] < 0 or found[-1] >= groups:
        got = f"{found[0]} to {found[-1]}" if len(found) else f"the columns {', '.join(table)}"
        raise ValueError(
            f"a table of pairs must have the column {GROUP} with numbers from 0 to {groups - 1} "
            f"for this method; got {got} (data). Number the groups, or set algorithm.groups."
        )
    return {}


def _both(
    first: algorithm.TableColumns | None, second: algorithm.TableColumns
) -> algorithm.TableColumns:
    def columns(table: algorithm.Table) -> Mapping[str, np.ndarray | None]:
        return {**(first(table) if first is not None else {}), **second(table)}

    return columns


GroupDpoConfig.METHOD = method.Method(
    name="group_dpo",
    make=lambda networks, config, task: group_dpo(
        networks["policy"],
        config,
        reference=method.another(networks, "reference", task),
        micro_batches=task.micro_batches,
    ),
    table=lambda config: "pairs",
    roles=dpo.DpoConfig.METHOD.roles,
    evaluators=lambda config: (dpo.ACCURACY, policy.SAMPLES),
    formula=GroupDpoConfig.formula,
    curves=("loss", "margin"),
)
