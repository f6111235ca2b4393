"""The lifecycle on human preferences: a folder of chosen and rejected transcripts."""

import dataclasses
from collections.abc import Callable, Sequence
from typing import Any

import numpy as np

from alignjax.algorithms import dpo, ppo, pretrain, reward, sft
from alignjax.core import shapes
from alignjax.data import baselines, hh
from alignjax.evals import estimate, likelihood, preferences
from alignjax.evals import policy as policies
from alignjax.lifecycles import lifecycle
from alignjax.runs.experiment import Training


def trained_by(algorithm: type) -> Any:
    """A field whose default trains with an algorithm's defaults."""
    return dataclasses.field(default_factory=lambda: Training(algorithm=algorithm()))


@dataclasses.dataclass(kw_only=True)
class HumanLifecycle(lifecycle.Lifecycle):
    """pretrain -> SFT -> reward model -> DPO and PPO -> report."""

    data: hh.HhConfig = dataclasses.field(default_factory=hh.HhConfig)
    pretrain: Training = trained_by(pretrain.PretrainConfig)
    sft: Training = trained_by(sft.SftConfig)
    reward: Training = trained_by(reward.RewardConfig)
    dpo: Training = trained_by(dpo.DpoConfig)
    ppo: Training = trained_by(ppo.PpoConfig)
    eval_prompts: int = 256  # prompts on which policies are sampled

    def validate(self) -> None:
        super().validate()
        shapes.check_number("eval_prompts", self.eval_prompts, minimum=1)

    def course(self, space: lifecycle.Workspace) -> lifecycle.Course:
        return _Course(self, space)


class _Course:
    """The stages and their evaluations. There are no gates: no number on real preferences is known
    in advance for a model of this size."""

    def __init__(self, config: HumanLifecycle, space: lifecycle.Workspace):
        self.config, self.space, self.corpus = config, space, space.corpus
        table = self.corpus.read("prompts", "eval")
        self.prompts = {name: x[: config.eval_prompts] for name, x in table.items()}
        sampling: Any = config.ppo.algorithm
        self.sample = policies.make_sampler(
            self.space.model,
            sampling.sampling,
            eos=self.corpus.ends,
            pad=self.corpus.pad,
            rows=config.eval_batch,
            max_drift=sampling.max_drift,
        )

    @property
    def stages(self) -> Sequence[lifecycle.Stage]:
        config, stage = self.config, lifecycle.Stage
        return (
            stage("pretrain", config.pretrain),
            stage("sft", config.sft, policy="pretrain"),
            stage("reward", config.reward, policy="sft"),
            stage("dpo", config.dpo, policy="sft"),
            stage("ppo", config.ppo, policy="sft", reward="reward"),
        )

    def report(self) -> tuple[dict[str, Any], list[lifecycle.Gate]]:
        return self.results(), []

    def _likelihood(self, stage: str, kind: str) -> dict[str, Any]:
        """Held-out negative log-likelihood of a stage, nats a token."""

        def make() -> dict[str, Any]:
            table = self.corpus.read(kind, "eval")
            rows = self.config.eval_batch
            policy = self.space.policy(stage)
            return likelihood.token_nll(self.space.model, policy, table, rows).as_dict()

        return self.space.remember(stage, kind, make)

    def _policy(self, stage: str) -> dict[str, Any]:
        """Learned reward, exact KL to SFT, length and texts of a stage's completions."""

        def make() -> dict[str, Any]:
            completions = self.sample(
                self.space.policy(stage),
                self.space.policy("sft"),
                self.prompts,
                self.config.seed,
                reward=self.space.scorer("reward"),
            )
            texts = [
                self.corpus.text(row[start:end])
                for row, start, end in zip(
                    completions.tokens[:4],
                    completions.prompt_lengths,
                    completions.lengths,
                    strict=False,
                )
            ]
            return {
                "score": estimate.mean(completions.score).as_dict(),
                "kl": estimate.mean(completions.kl).as_dict(),
                "length": estimate.mean(completions.completion_lengths).as_dict(),
                "ended": estimate.mean(completions.ended).as_dict(),
                "texts": texts,
                "scores": [float(s) for s in completions.score[:4]],
            }

        return self.space.remember(stage, "samples", make)

    def _accuracy(self, stage: str, score: Any, trees: Callable[[], Any]) -> dict[str, Any]:
        """Share of held-out pairs whose chosen answer a stage scores higher."""

        def make() -> dict[str, Any]:
            table = self.corpus.read("pairs", "eval")
            scores = preferences.answer_scores(score, trees(), table, self.config.eval_batch)
            return preferences.accuracy(preferences.in_pairs(scores, table)).as_dict()

        return self.space.remember(stage, "accuracy", make)

    def _baselines(self) -> dict[str, Any]:
        """Accuracy of two rules on the rows that the reward model is evaluated on."""

        def make() -> dict[str, Any]:
            splits = hh.read(self.config.data)
            kept = self.corpus.read("pairs", "eval")["index"]
            rows = [splits["eval"].rows[i] for i in kept]
            words = baselines.bag_of_words_accuracy(splits["train"].rows, rows)
            return {
                name: {"value": rule.accuracy, "se": rule.standard_error, "n": rule.n}
                for name, rule in (
                    ("longer answer wins", baselines.longer_answer_accuracy(rows)),
                    ("bag of words, logistic", words),
                )
            }

        return self.space.remember("reward", "baselines", make)

    def results(self) -> dict[str, Any]:
        """The contents of results.json."""
        space = self.space
        reward = self._accuracy(
            "reward", preferences.reward_scores(space.model), lambda: space.scorer("reward")
        )
        implicit = self._accuracy(
            "dpo",
            preferences.implicit_scores(space.model),
            lambda: (space.policy("dpo"), space.policy("sft")),
        )
        rows = [
            _row("pretrain", "pretrained", {"nll": self._likelihood("pretrain", "documents")}),
            _row("sft", "SFT", {"nll": self._likelihood("sft", "demonstrations")}),
            _row("reward", "reward model", {"accuracy": reward}),
            *(
                _row("reward", f"baseline: {name}", {"accuracy": accuracy})
                for name, accuracy in self._baselines().items()
            ),
            _row("dpo", "DPO", {"accuracy": implicit}),
            _row("ppo", "PPO on RM", {}),
        ]
        samples = {stage: self._policy(stage) for stage in ("sft", "dpo", "ppo")}
        for row in rows:
            if row["stage"] in samples:
                numbers = samples[row["stage"]]
                row["metrics"] |= {k: numbers[k] for k in ("score", "kl", "length", "ended")}
        return {
            "title": "Human preferences: from pretraining to alignment",
            "description": "Accuracies are on the eval split; SFT, DPO and PPO are sampled on its "
            "prompts; RM score is the trained reward model's; KL is exact, to SFT.",
            "environment": lifecycle.environment(),
            "seconds": space.seconds,
            "columns": [
                {"key": "nll", "label": "eval nats/token", "digits": 3},
                {"key": "accuracy", "label": "pair accuracy", "digits": 3},
                {"key": "score", "label": "RM score", "digits": 3},
                {"key": "kl", "label": "KL", "digits": 2},
                {"key": "length", "label": "length", "digits": 1},
                {"key": "ended", "label": "ended", "digits": 2},
            ],
            "rows": rows,
            "frontier": None,
            "curves": [
                {"stage": "pretrain", "label": "pretrain", "keys": ["nll"]},
                {"stage": "sft", "label": "sft", "keys": ["nll"]},
                {"stage": "reward", "label": "reward", "keys": ["bradley_terry", "accuracy"]},
                {"stage": "dpo", "label": "dpo", "keys": ["dpo", "margin"]},
                {"stage": "ppo", "label": "ppo", "keys": ["score", "kl"]},
            ],
            "samples": [
                self._sample(samples, number) for number in range(len(samples["sft"]["texts"]))
            ],
            "gates": [],
            "notes": list(self.corpus.summary),
        }

    def _sample(self, samples: dict[str, Any], number: int) -> dict[str, Any]:
        ids = self.prompts["prompts"][number, : int(self.prompts["lengths"][number])]
        answers = [
            {"label": stage, "text": own["texts"][number], "score": own["scores"][number]}
            for stage, own in samples.items()
        ]
        return {"prompt": self.corpus.text(np.asarray(ids)), "answers": answers}


def _row(stage: str, label: str, metrics: dict[str, Any]) -> dict[str, Any]:
    return {"stage": stage, "label": label, "family": label, "metrics": dict(metrics)}
