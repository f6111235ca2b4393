"""Places of the KL penalty on ChainWorld, against the exact optimum of the penalised reward."""

import dataclasses
from collections.abc import Sequence
from typing import Any

import numpy as np

from alignjax.algorithms.grpo import GrpoConfig
from alignjax.algorithms.policy_gradient import PolicyGradientConfig
from alignjax.core import shapes
from alignjax.evals import estimate
from alignjax.experiments.common.critic_free import POLICY, CriticFree
from alignjax.lifecycles import lifecycle
from alignjax.sampling.transforms import SamplingConfig

PLACES = ("reward", "k2", "k3")  # in the reward, or in the loss by that estimator


@dataclasses.dataclass(kw_only=True)
class KlControl(CriticFree):
    """Policies that maximise E r - beta KL, r 1 for a right answer; scale and update are alike.

    The rewards of a group are centred by their mean, its own sample's included, which shrinks the
    gradient of the reward by (G - 1) / G: a penalty in the loss weighs G / (G - 1) as much.
    """

    place: str = "reward"  # reward | k2 | k3
    beta: float = 0.5  # reward units per nat
    draws: int = 128  # answers a prompt in the evaluation

    def validate(self) -> None:
        super().validate()
        shapes.check_choice("place", self.place, PLACES)
        shapes.check_number("beta", self.beta, above=0)
        shapes.check_number("draws", self.draws, minimum=2)

    def method(self) -> PolicyGradientConfig:
        inside = self.place == "reward"
        return GrpoConfig(
            method="grpo",
            compat="tunix-0.1.7",  # whose estimator of the KL is an option
            scale="none",
            group=self.group,
            reward="gold",
            eval_samples=4,
            sampling=SamplingConfig(max_new_tokens=self.data.longest + 1),
            kl_in_reward=self.beta if inside else 0.0,
            kl_weight=0.0 if inside else self.beta,
            estimator="k2" if inside else self.place,
        )

    def course(self, space: lifecycle.Workspace) -> lifecycle.Course:
        return _Measured(self, space, super().course(space))


class _Measured:
    """The report, with the policy's KL and its distance from the optimum's pass rate."""

    def __init__(self, config: KlControl, space: lifecycle.Workspace, inner: lifecycle.Course):
        self.config, self.space, self.inner = config, space, inner

    @property
    def stages(self) -> Sequence[lifecycle.Stage]:
        return self.inner.stages

    def _draw(self, stage: str) -> tuple[np.ndarray, np.ndarray]:
        """(right answers, KL to the base) of a stage, [prompts, draws]."""
        table = self.space.corpus.read("prompts", "eval")
        own = {n: np.repeat(table[n], self.config.draws, axis=0) for n in ("prompts", "lengths")}
        drawn = self.space.sampler()(
            self.space.policy(stage), self.space.policy("base"), own, self.config.seed + 7
        )
        right = self.space.corpus.gold(drawn.tokens, drawn.lengths)
        shape = (-1, self.config.draws)
        return right.reshape(shape), drawn.kl.reshape(shape)

    def _numbers(self) -> dict[str, Any]:
        def make() -> dict[str, Any]:
            right, kl = self._draw(POLICY)
            before = self._draw("base")[0].mean(axis=1)
            best = optimum(before, self.config.beta)
            found = {
                "pass": estimate.clustered(right),
                "kl": estimate.clustered(kl),
                "optimum": estimate.mean(best),
                "lead": estimate.mean(right.mean(axis=1) - best),
            }
            return {name: own.as_dict() for name, own in found.items()}

        return self.space.remember(POLICY, "kl", make)

    def report(self) -> tuple[dict[str, Any], list[lifecycle.Gate]]:
        results, gates = self.inner.report()
        (row,) = [row for row in results["rows"] if row["stage"] == POLICY]
        row["metrics"] |= self._numbers()
        results["columns"] += [
            {"key": "pass", "label": "pass rate", "digits": 3},
            {"key": "kl", "label": "KL to base", "digits": 3},
            {"key": "optimum", "label": "optimum's pass rate", "digits": 3},
            {"key": "lead", "label": "beyond the optimum", "digits": 3},
        ]
        return results, gates


def optimum(base: np.ndarray, beta: float) -> np.ndarray:
    """Pass rates [n] of base exp(r / beta) / Z, the best policy at beta, from those of the base.

    Reference: Ziegler et al. 2019, eq. 2, whose maximum it is; r is 0 or 1.
    """
    up = np.asarray(base, np.float64) * np.exp(1 / beta)
    return up / (1 - base + up)
