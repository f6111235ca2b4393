"""The lifecycle on human preferences: a folder of chosen and rejected transcripts."""

import dataclasses
import pathlib
from collections.abc import Callable
from typing import Any

import numpy as np

from alignjax import experiment, runs
from alignjax.core import shapes
from alignjax.data import baselines, hh
from alignjax.evals import estimate, likelihood, preferences
from alignjax.evals import policy as policies
from alignjax.lifecycles import stages
from alignjax.parallel import mesh as meshes


@dataclasses.dataclass(kw_only=True)
class HumanLifecycle(stages.Lifecycle):
    """pretrain -> SFT -> reward model -> DPO and PPO -> report."""

    data: hh.HhConfig = dataclasses.field(default_factory=hh.HhConfig)
    eval_prompts: int = 256  # prompts on which policies are sampled

    def validate(self) -> None:
        super().validate()
        shapes.check_number("eval_prompts", self.eval_prompts, minimum=1)


def run(
    config: HumanLifecycle, workdir: pathlib.Path, say: Callable[[str], None]
) -> list[stages.Gate]:
    """Runs every stage that is not finished and writes results.json. There are no gates: what a
    model of this size reaches on real preferences is reported as it is."""
    config.validate()
    with meshes.use(meshes.make_mesh(config.mesh)):
        lifecycle = _Lifecycle(config, workdir, say)
        record = {
            "config": dataclasses.asdict(config),
            "fingerprints": dict(lifecycle.corpus.fingerprints),
        }
        runs.claim(workdir, record, harmless=stages.HARMLESS)
        train, space = lifecycle.space.train, lifecycle.space
        train("pretrain", config.pretrain)
        train("sft", config.sft, policy="pretrain")
        train("reward", config.reward, policy="sft")
        train("dpo", config.dpo, policy="sft")
        train("ppo", config.ppo, policy="sft", reward="reward")
        stages.write_json(space.folder / "results.json", lifecycle.results())
    return []


class _Lifecycle:
    """One run of the stages; holds what their evaluations share."""

    def __init__(self, config: HumanLifecycle, workdir: pathlib.Path, say: Callable[[str], None]):
        self.config = config
        self.corpus = experiment.make_corpus(config.data, say)
        self.space = stages.Workspace(workdir, config, self.corpus, say)
        table = self.corpus.table("prompts", "eval")
        self.prompts = {name: x[: config.eval_prompts] for name, x in table.items()}
        sampling: Any = config.ppo.algorithm
        self.sample = policies.make_sampler(
            self.space.model,
            sampling.sampling,
            eos=self.corpus.eos,
            pad=self.corpus.pad,
            rows=config.eval_batch,
            max_drift=sampling.max_drift,
        )

    def _likelihood(self, stage: str, kind: str) -> dict[str, Any]:
        """Held-out negative log-likelihood of a stage, nats a token."""

        def make() -> dict[str, Any]:
            table = self.corpus.table(kind, "eval")
            rows = self.config.eval_batch
            policy = self.space.policy(stage)
            return likelihood.token_nll(self.space.model, policy, table, rows).as_dict()

        return self.space.remember(stage, kind, make)

    def _policy(self, stage: str) -> dict[str, Any]:
        """Learned reward, exact KL to SFT, length and texts of a stage's completions."""

        def make() -> dict[str, Any]:
            drawn = self.sample(
                self.space.policy(stage),
                self.space.policy("sft"),
                self.prompts,
                self.config.seed,
                reward=self.space.reward(),
            )
            texts = [
                self.corpus.text(row[start:end])
                for row, start, end in zip(
                    drawn.tokens[:4], drawn.prompt_lengths, drawn.lengths, strict=False
                )
            ]
            return {
                "score": estimate.mean(drawn.score).as_dict(),
                "kl": estimate.mean(drawn.kl).as_dict(),
                "length": estimate.mean(drawn.completion_lengths).as_dict(),
                "ended": estimate.mean(drawn.ended).as_dict(),
                "texts": texts,
                "scores": [float(s) for s in drawn.score[:4]],
            }

        return self.space.remember(stage, "samples", make)

    def _accuracy(self, stage: str, score: Any, trees: Callable[[], Any]) -> dict[str, Any]:
        """Share of held-out pairs that a stage orders as people did."""

        def make() -> dict[str, Any]:
            table = self.corpus.table("pairs", "eval")
            scores = preferences.answer_scores(score, trees(), table, self.config.eval_batch)
            return preferences.accuracy(preferences.in_pairs(scores, table)).as_dict()

        return self.space.remember(stage, "accuracy", make)

    def _baselines(self) -> dict[str, Any]:
        """Accuracy of two rules on the very rows that the reward model is judged on."""

        def make() -> dict[str, Any]:
            splits = hh.read(self.config.data)
            kept = self.corpus.table("pairs", "eval")["index"]
            rows = [splits["eval"].rows[i] for i in kept]
            words = baselines.bag_of_words_accuracy(splits["train"].rows, rows)
            return {
                name: {"value": found.accuracy, "se": found.standard_error, "n": found.n}
                for name, found in (
                    ("longer answer wins", baselines.longer_answer_accuracy(rows)),
                    ("bag of words, logistic", words),
                )
            }

        return self.space.remember("reward", "baselines", make)

    def results(self) -> dict[str, Any]:
        """The contents of results.json."""
        space = self.space
        reward = self._accuracy("reward", preferences.reward_scores(space.model), space.reward)
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
                _row("reward", f"baseline: {name}", {"accuracy": found})
                for name, found in self._baselines().items()
            ),
            _row("dpo", "DPO", {"accuracy": implicit}),
            _row("ppo", "PPO on RM", {}),
        ]
        drawn = {stage: self._policy(stage) for stage in ("sft", "dpo", "ppo")}
        for row in rows:
            if row["stage"] in drawn:
                found = drawn[row["stage"]]
                row["metrics"] |= {k: found[k] for k in ("score", "kl", "length", "ended")}
        return {
            "title": "Human preferences: from pretraining to alignment",
            "description": "Accuracies are on the eval split; SFT, DPO and PPO are sampled on its "
            "prompts; RM score is the trained reward model's; KL is exact, to SFT.",
            "environment": stages.environment(),
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
                self._sample(drawn, number) for number in range(len(drawn["sft"]["texts"]))
            ],
            "gates": [],
            "notes": list(self.corpus.summary),
        }

    def _sample(self, drawn: dict[str, Any], number: int) -> dict[str, Any]:
        ids = self.prompts["prompts"][number, : int(self.prompts["lengths"][number])]
        answers = [
            {"label": stage, "text": found["texts"][number], "score": found["scores"][number]}
            for stage, found in drawn.items()
        ]
        return {"prompt": self.corpus.text(np.asarray(ids)), "answers": answers}


def _row(stage: str, label: str, metrics: dict[str, Any]) -> dict[str, Any]:
    return {"stage": stage, "label": label, "family": label, "metrics": dict(metrics)}
