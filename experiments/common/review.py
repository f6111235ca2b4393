"""The lifecycle of ReviewWorld, whose KL-regularised optimum is known exactly."""

import dataclasses
import pathlib
from collections.abc import Sequence
from typing import Any

import numpy as np

from alignjax import losses
from alignjax.algorithms import dpo, ppo, pretrain, reward, sft
from alignjax.core import keys, shapes
from alignjax.evals import best_of_n, estimate, likelihood, preferences, tilted
from alignjax.experiments.common import review_gates
from alignjax.experiments.common.human import trained_by
from alignjax.lifecycles import lifecycle
from alignjax.parallel import processes
from alignjax.runs.experiment import Training
from alignjax.worlds import corpus as corpora
from alignjax.worlds import oracle, review


@dataclasses.dataclass(kw_only=True)
class ReviewLifecycle(lifecycle.Lifecycle):
    """pretrain -> SFT -> pairs -> reward model -> best-of-n, DPO, PPO -> report."""

    data: corpora.ReviewConfig = dataclasses.field(default_factory=corpora.ReviewConfig)
    pretrain: Training = trained_by(pretrain.PretrainConfig)
    sft: Training = trained_by(sft.SftConfig)
    reward: Training = trained_by(reward.RewardConfig)
    dpo: Training = trained_by(dpo.DpoConfig)
    ppo: Training = trained_by(ppo.PpoConfig)
    pair_prompts: int = 4096  # prompts whose completions are compared
    pair_draws: int = 4  # completions a prompt; all their pairs are labelled
    label_temperature: float = 1.0  # of the Bradley-Terry labels; 0 labels by the larger reward
    label_flip: float = 0.0  # chance that a label of the training pairs is then turned round
    dpo_betas: tuple[float, ...] = (1.0, 0.3, 0.1)
    ppo_betas: tuple[float, ...] = (0.3, 0.1)  # KL coefficients of PPO on the reward model
    gold_betas: tuple[float, ...] = (1.0, 0.5)  # of PPO on the true reward
    best_of: int = 64  # draws a prompt for best-of-n
    best_of_prompts: int = 512
    eval_batch: int = 2048  # rows scored or sampled at once
    gates: bool = True  # whether a missed gate fails the run

    def validate(self) -> None:
        super().validate()
        for name in ("pair_prompts", "best_of_prompts"):
            shapes.check_number(name, getattr(self, name), minimum=1)
        for name in ("pair_draws", "best_of"):
            shapes.check_number(name, getattr(self, name), minimum=2)
        if self.pair_prompts > self.data.prompts:
            raise ValueError(
                f"pair_prompts must be at most data.prompts; got {self.pair_prompts} of "
                f"{self.data.prompts}. Raise data.prompts."
            )
        shapes.check_number("label_temperature", self.label_temperature, minimum=0)
        shapes.check_number("label_flip", self.label_flip, minimum=0, maximum=1)
        for name in ("dpo_betas", "ppo_betas", "gold_betas"):
            for value in getattr(self, name):
                shapes.check_number(name, value, above=0)

    def measured(self) -> tuple[tuple[str, str], ...]:
        """True reward and KL of every policy."""
        return tuple((name, key) for name in policy_stages(self) for key in ("gold", "kl"))

    def course(self, space: lifecycle.Workspace) -> lifecycle.Course:
        return _Course(self, space)


class _Course:
    """The stages, and the world, frontier and sampler that they share."""

    def __init__(self, config: ReviewLifecycle, space: lifecycle.Workspace):
        self.config, self.space, self.corpus = config, space, space.corpus
        self.world = self.corpus.world
        self.prompts = self.corpus.read("prompts", "eval")
        self.frontier = oracle.exact_optimum(self.world, self.prompts["prompts"])
        self.sample = self.space.sampler()

    @property
    def stages(self) -> Sequence[lifecycle.Stage]:
        config, stage = self.config, lifecycle.Stage

        def labelled() -> corpora.ReviewConfig:
            return dataclasses.replace(config.data, pairs=str(self._pairs()))

        listed = [
            stage("pretrain", config.pretrain),
            stage("sft", config.sft, policy="pretrain"),
            stage("reward", config.reward, policy="sft", data=labelled),
        ]
        for name, (kind, beta) in policy_stages(config).items():
            if kind == "dpo":
                training = lifecycle.changed(config.dpo, beta=beta)
                listed.append(stage(name, training, policy="sft", data=labelled))
            else:
                source = "gold" if kind == "ppo-gold" else "model"
                training = lifecycle.changed(config.ppo, kl_coefficient=beta, reward=source)
                listed.append(stage(name, training, policy="sft", reward="reward"))
        return listed

    def _completions(
        self, prompts: np.ndarray, draws: int, purpose: str, reward: Any = None
    ) -> Any:
        """(tokens, lengths, gold, score) of SFT's completions, [P, draws, ...] of P prompts."""
        repeated = np.repeat(prompts, draws, axis=0)
        width = np.full(len(repeated), self.world.prompt_length, np.int32)
        seed = keys.integers(self.config.seed, purpose)[1] ^ self.config.seed
        completions = self.sample(
            self.space.policy("sft"),
            self.space.policy("sft"),
            {"prompts": repeated, "lengths": width},
            seed,
            reward=reward,
        )
        gold = self.corpus.gold(completions.tokens, completions.lengths)
        columns = (completions.tokens, completions.lengths, gold, completions.score)
        return [x.reshape(-1, draws, *x.shape[1:]) for x in columns]

    def _pairs(self) -> pathlib.Path:
        """The file of labelled pairs: all pairs of a prompt's completions, chosen first."""
        file = self.space.folder / "pairs.npz"
        if not processes.from_first(file.exists):
            parts = []
            for split, count in (("train", self.config.pair_prompts), ("eval", 512)):
                prompts = self.corpus.read("prompts", split)["prompts"][:count]
                tokens, lengths, gold, _ = self._completions(
                    prompts, self.config.pair_draws, f"pairs/{split}"
                )
                rng = np.random.default_rng(keys.integers(self.config.seed, f"labels/{split}"))
                parts.append(
                    label_pairs(
                        rng,
                        tokens,
                        lengths,
                        gold,
                        self.config.label_temperature,
                        start=self.world.prompt_length,
                        flip=self.config.label_flip if split == "train" else 0.0,
                    )
                )
            processes.only_first(lambda: corpora.write_pairs(file, *parts))
        processes.check_shared(file)
        return file

    def _evaluate(self, stage: str) -> dict[str, Any]:
        """Reward, exact KL and length of a stage's policy on the evaluation prompts."""

        def make() -> dict[str, Any]:
            completions = self.sample(
                self.space.policy(stage),
                self.space.policy("sft"),
                self.prompts,
                self.config.seed,
                reward=self.space.scorer("reward"),
            )
            gold = self.corpus.gold(completions.tokens, completions.lengths)
            start = self.world.prompt_length
            illegal = review.illegal_rate(
                self.world, completions.tokens, completions.lengths, start
            )
            bigrams = int(completions.completion_lengths.sum())
            estimates = {
                "gold": estimate.mean(gold),
                "kl": estimate.mean(completions.kl),
                "proxy": estimate.mean(completions.score),
                "length": estimate.mean(completions.completion_lengths),
                "illegal": estimate.Estimate(
                    illegal, float(np.sqrt(illegal * (1 - illegal) / bigrams)), bigrams
                ),
            }
            result: dict[str, Any] = {name: value.as_dict() for name, value in estimates.items()}
            result |= self._shown(completions)
            result["golds"] = [float(g) for g in gold[:8]]
            if stage == "sft":
                result["correlation"] = estimate.correlation(completions.score, gold).as_dict()
            return result

        return self.space.remember(stage, "evaluation", make)

    def _shown(self, completions: Any) -> dict[str, list[str]]:
        """The first prompts and answers as text."""
        columns = (completions.tokens, completions.prompt_lengths, completions.lengths)
        rows = [*zip(*(x[:8] for x in columns), strict=True)]
        return {
            "prompts": [self.corpus.text(row[:start]) for row, start, _ in rows],
            "texts": [self.corpus.text(row[start:end]) for row, start, end in rows],
        }

    def _excess(self, stage: str) -> dict[str, Any]:
        """Cross-entropy above the generator's own on held-out rows, nats a token."""

        def make() -> dict[str, Any]:
            kind = "documents" if stage == "pretrain" else "demonstrations"
            table = self.corpus.read(kind, "eval")
            nll, tokens = likelihood.row_nll(
                self.space.model, self.space.policy(stage), table, self.config.eval_batch
            )
            data = self.config.data
            noisy = stage == "pretrain"
            own = review.document_logprobs(
                self.world,
                table["tokens"],
                table["segments"].sum(axis=1).astype(np.int32),
                start=1 if noisy else self.world.prompt_length,
                document_rate=data.document_noise if noisy else 0.0,
                token_rate=data.token_noise if noisy else 0.0,
            )
            return estimate.ratio(nll + own, tokens).as_dict()

        return self.space.remember(stage, "excess", make)

    def _reward_accuracy(self) -> dict[str, Any]:
        """Agreement of the reward model with the true order and the labels of held-out pairs."""

        def make() -> dict[str, Any]:
            table = corpora.read_pairs(str(self.space.folder / "pairs.npz"), "eval")
            score, params = preferences.reward_scores(self.space.model), self.space.scorer("reward")
            prompts = preferences.prompts_at_once(self.config.eval_batch, self.config.pair_draws)
            scores = preferences.answer_scores(score, params, table, prompts)
            scores, gold = (preferences.in_pairs(x, table) for x in (scores, table["gold"]))
            by_gold = np.sign(gold[:, :1] - gold[:, 1:])
            differ = by_gold[:, 0] != 0
            return {
                "accuracy": preferences.accuracy((scores * by_gold)[differ]).as_dict(),
                "label_accuracy": preferences.accuracy(scores).as_dict(),
            }

        return self.space.remember("reward", "accuracy", make)

    def _best_of_n(self) -> dict[str, Any]:
        """Best-of-n by the reward model and by the true reward, for n = 1, 2, 4, ..."""

        def make() -> dict[str, Any]:
            prompts = self.prompts["prompts"][: self.config.best_of_prompts]
            _, _, gold, score = self._completions(
                prompts, self.config.best_of, "best-of-n", self.space.scorer("reward")
            )
            rows = []
            for name, by in (("rm", score), ("gold", gold)):
                n = 2
                while n <= self.config.best_of:
                    rows.append(
                        {
                            "by": name,
                            "n": n,
                            "gold": best_of_n.expected_best(by, gold, n).as_dict(),
                            "proxy": best_of_n.expected_best(by, score, n).as_dict(),
                            "kl": best_of_n.kl(by, n).as_dict(),
                            "bound": losses.best_of_n_kl(n),
                        }
                    )
                    n *= 2
            own = tilted.optimum(gold)
            drawn = {"draws": gold.shape[1], "prompts": gold.shape[0]}
            curve = {name: column.tolist() for name, column in own._asdict().items()}
            return {"rows": rows, "own": {**curve, "beta": curve["beta"][1:], **drawn}}

        return self.space.remember("best-of-n", "evaluation", make)

    def report(self) -> tuple[dict[str, Any], list[lifecycle.Gate]]:
        names = ["pretrain", "sft", *policy_stages(self.config)]
        drawn = self._best_of_n()
        findings = review_gates.Findings(
            excess={stage: self._excess(stage) for stage in ("pretrain", "sft")},
            reward=self._reward_accuracy(),
            evaluations={stage: self._evaluate(stage) for stage in names},
            best_of_n=drawn["rows"],
            frontier=self.frontier,
            own=drawn.get("own"),
        )
        gates = review_gates.gates(self.config, findings) if self.config.gates else []
        results = review_gates.results(self.config, findings, gates, self.space)
        return results, gates


def policy_stages(config: ReviewLifecycle) -> dict[str, tuple[str, float]]:
    """The stages that start from SFT, by folder name: (kind, beta), strongest pull first."""
    families = {"dpo": config.dpo_betas, "ppo": config.ppo_betas, "ppo-gold": config.gold_betas}
    return {
        f"{kind}-{beta:g}": (kind, beta)
        for kind, betas in families.items()
        for beta in sorted(betas, reverse=True)
    }


def label_pairs(
    rng: np.random.Generator,
    tokens: np.ndarray,
    lengths: np.ndarray,
    gold: np.ndarray,
    temperature: float,
    *,
    start: int,
    flip: float = 0.0,
) -> dict[str, np.ndarray]:
    """All C(K, 2) comparisons of the K completions of every prompt, labelled.

    P(first preferred) = sigmoid((gold_1 - gold_2) / temperature); temperature 0 takes the larger,
    and leaves equal ones out. Comparisons of equal completions are left out. Each label is then
    turned round with probability `flip`.

    Args:
      tokens: [N, K, T]. lengths, gold: [N, K].

    Returns:
      tokens, loss_mask, segments, positions [N, K, T], gold [N, K], preferred [N, P, 2] (the better
      one first) and pair_mask [N, P].
    """
    left, right = np.triu_indices(tokens.shape[1], 1)
    margin = gold[:, left] - gold[:, right]
    mask = np.any(tokens[:, left] != tokens[:, right], axis=2)
    if temperature > 0:
        swap = rng.random(margin.shape) > 1 / (1 + np.exp(-margin / temperature))
    else:
        swap, mask = margin < 0, mask & (margin != 0)
    if flip > 0:
        swap = swap ^ (rng.random(margin.shape) < flip)
    both = np.stack([left, right], axis=1)
    preferred = np.where(swap[:, :, None], both[:, ::-1], both).astype(np.int32)
    labels = {"gold": gold, "preferred": preferred, "pair_mask": mask}
    return {**corpora.rows(tokens, lengths, start=start), **labels}
