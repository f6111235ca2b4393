"""How far policies on ReviewWorld are from the best one, which is known exactly."""

import dataclasses
from collections.abc import Sequence
from typing import Any

import numpy as np

from alignjax.core import shapes
from alignjax.evals import estimate
from alignjax.experiments.common.arms import ArmsLifecycle
from alignjax.lifecycles import lifecycle
from alignjax.worlds import oracle

DISTANCE = "distance"


@dataclasses.dataclass(kw_only=True)
class OptimumLifecycle(ArmsLifecycle):
    """Arms that maximise E r - beta KL(policy || SFT), measured against the exact optimum."""

    beta: float = 2.0  # reward units per nat, of every arm
    limit: float = 0.0  # nats to the optimum that no arm may exceed; 0 asks for nothing
    optimum_prompts: int = 256
    optimum_draws: int = 128  # completions a prompt

    def validate(self) -> None:
        super().validate()
        shapes.check_number("beta", self.beta, above=0)
        shapes.check_number("limit", self.limit, minimum=0)
        for name in ("optimum_prompts", "optimum_draws"):
            shapes.check_number(name, getattr(self, name), minimum=2)

    def course(self, space: lifecycle.Workspace) -> lifecycle.Course:
        return _Optimum(self, space, super().course(space))


class _Optimum:
    """The report of the arms, with their distance from the optimum."""

    def __init__(
        self, config: OptimumLifecycle, space: lifecycle.Workspace, inner: lifecycle.Course
    ):
        self.config, self.space, self.inner = config, space, inner

    @property
    def stages(self) -> Sequence[lifecycle.Stage]:
        return self.inner.stages

    def _draw(self, stage: str) -> tuple[np.ndarray, np.ndarray]:
        """(gold reward, KL to SFT) of a stage's completions, [prompts, draws]."""
        config, corpus = self.config, self.space.corpus
        sample = self.space.sampler()
        prompts = np.repeat(self._prompts(), config.optimum_draws, axis=0)
        widths = np.full(len(prompts), prompts.shape[1], np.int32)
        policy, reference = self.space.policy(stage), self.space.policy("sft")
        table = {"prompts": prompts, "lengths": widths}
        drawn = sample(policy, reference, table, config.seed + 5)
        gold = corpus.gold(drawn.tokens, drawn.lengths)
        return gold.reshape(-1, config.optimum_draws), drawn.kl.reshape(-1, config.optimum_draws)

    def _prompts(self) -> np.ndarray:
        table = self.space.corpus.read("prompts", "eval")
        return table["prompts"][: self.config.optimum_prompts]

    def _reference(self) -> dict[str, Any]:
        """log Z of SFT by its own completions, and the generator's, exactly."""

        def make() -> dict[str, Any]:
            exact = oracle.exact_optimum(
                self.space.corpus.world, self._prompts(), (self.config.beta,)
            )
            gold, _ = self._draw("sft")
            return {
                "log_z": log_mean_exp(gold / self.config.beta).tolist(),
                "exact_log_z": float(exact.log_z[0]),
                "exact_gold": float(exact.reward[0]),
                "exact_kl": float(exact.kl[0]),
            }

        return self.space.remember("sft", "optimum", make)

    def _distance(self, stage: str) -> dict[str, Any]:
        """KL(policy || optimum) = log Z - E r / beta + KL(policy || SFT), nats a completion."""

        def make() -> dict[str, Any]:
            log_z = np.asarray(self._reference()["log_z"])
            gold, kl = self._draw(stage)
            return estimate.mean(log_z - gold.mean(1) / self.config.beta + kl.mean(1)).as_dict()

        return self.space.remember(stage, "optimum", make)

    def report(self) -> tuple[dict[str, Any], list[lifecycle.Gate]]:
        results, gates = self.inner.report()
        by_name = {row["stage"]: row["metrics"] for row in results["rows"]}
        for name in self.config.arms:
            found = by_name[name][DISTANCE] = self._distance(name)
            if self.config.limit:
                label = f"{name}: KL to the optimum, nats"
                gates.append(lifecycle.Gate(label, found["value"], "<=", self.config.limit))
                # Closer than 0 is a bug, not a success.
                gates.append(lifecycle.Gate(label, found["value"], ">=", -3 * found["se"]))
        results["columns"].append(
            {"key": DISTANCE, "label": "KL to the optimum, nats", "digits": 3}
        )
        reference = self._reference()
        results["notes"].append(
            f"log Z of SFT {np.mean(reference['log_z']):.3f}, of the generator "
            f"{reference['exact_log_z']:.3f}; the generator's optimum at beta {self.config.beta:g} "
            f"has reward {reference['exact_gold']:.2f} at {reference['exact_kl']:.2f} nats."
        )
        results["gates"] = [gate.as_dict() for gate in gates]
        return results, gates


def log_mean_exp(x: np.ndarray) -> np.ndarray:
    """log mean exp over draws [P, n], with the first-order bias of the logarithm taken off."""
    top = x.max(axis=1, keepdims=True)
    weight = np.exp(x - top)
    mean = weight.mean(axis=1)
    return np.log(mean) + top[:, 0] + 0.5 * weight.var(axis=1, ddof=1) / mean**2 / x.shape[1]
