"""Open weights as a run of their own: a policy that nothing here has trained."""

import dataclasses

import jax

from alignjax.evals import policy
from alignjax.models import model as models
from alignjax.training import algorithm, method


@dataclasses.dataclass(kw_only=True)
class ImportedConfig(method.MethodConfig):
    """Weights of other code, as a run that later stages start from."""


def imported(model: models.Model) -> algorithm.Algorithm:
    """An algorithm without a loss: its policy is what it starts from."""

    def loss(
        params: models.Params, frozen: models.Frozen, batch: algorithm.Batch, key: jax.Array
    ) -> tuple[algorithm.Terms, algorithm.Metrics]:
        raise ValueError("imported weights are not trained (imported). Start another run of them.")

    return algorithm.Algorithm(init=algorithm.from_policy(model), loss=loss)


ImportedConfig.METHOD = method.Method(
    name="import",
    make=lambda networks, config, task: imported(networks["policy"]),
    table=lambda config: "documents",
    roles=lambda config: {"policy": method.Role(trained=True, source="policy")},
    evaluators=lambda config: (policy.SAMPLES,),
)
