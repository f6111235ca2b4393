"""Groups who differ judge answers that were sampled in several ways, and several methods learn."""

import dataclasses
import pathlib
from collections.abc import Sequence
from typing import Any, NamedTuple

import numpy as np
from scipy import special

from alignjax.algorithms import dpo, group_dpo, pretrain
from alignjax.core import keys, shapes
from alignjax.data import tables
from alignjax.evals import estimate, likelihood, pluralism
from alignjax.evals import policy as policies
from alignjax.experiments.common.human import trained_by
from alignjax.feedback import social_choice
from alignjax.lifecycles import lifecycle
from alignjax.parallel import processes
from alignjax.runs.experiment import Training
from alignjax.sampling import diverse, transforms
from alignjax.worlds import corpus as review_corpus
from alignjax.worlds import value_optima, values

INDEPENDENT, HOTTER, STRATIFIED = "independent", "hotter", "nc"
SAMPLINGS = (INDEPENDENT, HOTTER, STRATIFIED)
POOLED, ROBUST, MAXIMIN = "pooled", "robust", "maximin"


@dataclasses.dataclass(kw_only=True)
class CommunityLifecycle(lifecycle.Lifecycle):
    """pretrain -> for each way to sample: label, a policy of each method -> report."""

    data: values.ValueConfig = dataclasses.field(default_factory=values.ValueConfig)
    pretrain: Training = trained_by(pretrain.PretrainConfig)
    policy: Training = trained_by(dpo.DpoConfig)
    robust: Training = trained_by(group_dpo.GroupDpoConfig)
    comparisons: int = 1200  # one a prompt
    candidates: int = 4  # answers to a prompt, of which two are compared
    drawn: int = 16  # answers of which the NC arm keeps the candidates
    temperature: float = 1.5  # of the hotter arm
    eval_batch: int = 2048
    gates: bool = True  # whether a missed gate fails the run

    def validate(self) -> None:
        super().validate()
        shapes.check_number("comparisons", self.comparisons, minimum=2, maximum=self.data.prompts)
        shapes.check_number("candidates", self.candidates, minimum=2, maximum=self.drawn)
        shapes.check_number("temperature", self.temperature, above=0)
        if self.candidates % 2:
            raise ValueError(
                f"candidates must be even, for as many of each kind; got {self.candidates}."
            )
        beta = self.policy.algorithm.beta
        if beta is None or self.robust.algorithm.beta != beta:
            raise ValueError(
                "policy.algorithm.beta must be a number and that of robust; got "
                f"{beta} and {self.robust.algorithm.beta}. Methods are compared at one strength."
            )
        if self.robust.algorithm.groups != self.data.groups:
            raise ValueError(
                f"robust.algorithm.groups must be the world's {self.data.groups}; got "
                f"{self.robust.algorithm.groups}."
            )

    def course(self, space: lifecycle.Workspace) -> lifecycle.Course:
        return _Course(self, space)


class _Arm(NamedTuple):
    """A way to sample the answers, and a method that learns from their comparisons."""

    sampling: str
    method: str

    @property
    def name(self) -> str:
        """Of its folder."""
        return f"{self.sampling}-{self.method}"


class _Course:
    """The stages, and what they share: the world's responses and the sampler."""

    def __init__(self, config: CommunityLifecycle, space: lifecycle.Workspace):
        self.config, self.space, self.corpus = config, space, space.corpus
        self.world: values.ValueWorld = self.corpus.world
        self.every = value_optima.every(self.world)
        self.beta = float(config.policy.algorithm.beta)
        self.score = likelihood.make_score(space.model)
        self.own = tuple(f"group{number}" for number in range(config.data.groups))

    @property
    def arms(self) -> list[_Arm]:
        methods = (*self.own, POOLED, ROBUST, MAXIMIN)
        return [_Arm(sampling, method) for sampling in SAMPLINGS for method in methods]

    @property
    def stages(self) -> Sequence[lifecycle.Stage]:
        config = self.config
        listed = [lifecycle.Stage("pretrain", config.pretrain)]
        for arm in self.arms:

            def labelled(arm: _Arm = arm) -> values.ValueConfig:
                return dataclasses.replace(config.data, labels=str(self._labels(arm)))

            training = config.robust if arm.method == ROBUST else config.policy
            listed.append(
                lifecycle.Stage(
                    arm.name, training, policy="pretrain", reference="pretrain", data=labelled
                )
            )
        return listed

    def _labels(self, arm: _Arm) -> pathlib.Path:
        """The file of an arm's comparisons, made once."""
        file = self.space.folder / "labels" / f"{arm.name}.npz"
        if not processes.from_first(file.exists):
            splits = [self._rows(arm, split) for split in ("train", "eval")]
            processes.only_first(lambda: self._write(file, splits))
        processes.check_shared(file)
        return file

    def _write(self, file: pathlib.Path, splits: Sequence[tables.Table]) -> None:
        file.parent.mkdir(parents=True, exist_ok=True)
        review_corpus.write_pairs(file, *splits)

    def _rows(self, arm: _Arm, split: str) -> tables.Table:
        """Comparisons as one method reads them: all, a group's, or with the maximin's labels."""
        judged = self._judged(arm.sampling, split)
        if arm.method in self.own:
            return _chosen(judged, judged[group_dpo.GROUP] == self.own.index(arm.method))
        if arm.method != MAXIMIN:
            return judged
        rewards = self._rewards(arm.sampling, judged["tokens"], judged["loss_mask"])
        gaps = self._weights(arm.sampling) @ (rewards[..., 0] - rewards[..., 1])
        return _chosen({**judged, "preference": special.expit(gaps)[:, None].astype(np.float32)})

    def _judged(self, sampling: str, split: str) -> dict[str, np.ndarray]:
        """Pairs, the preferred answer first; a prompt whose pair is equal twice is left out."""
        config = self.config
        language, answers = self._answers(sampling, split)
        rng = np.random.default_rng([config.seed, *f"raters/{sampling}/{split}".encode()])
        rows = np.arange(len(answers))[:, None]
        pair = rng.permuted(np.tile(np.arange(answers.shape[1]), (len(answers), 1)), axis=1)[:, :2]
        compared = answers[rows, pair]
        group = rng.choice(config.data.groups, size=len(answers), p=self.world.shares)
        utility = np.stack([values.utility(self.world, compared[:, side]) for side in (0, 1)], -1)
        own = utility[group, rows[:, 0]]
        swap = rng.random(len(own)) >= special.expit(own[:, 0] - own[:, 1])
        compared = np.where(swap[:, None, None], compared[:, ::-1], compared)
        sides = [values.tokens_of(config.data, language, compared[:, side]) for side in (0, 1)]
        tokens, lengths = (np.stack(parts, axis=1) for parts in zip(*sides, strict=True))
        table = review_corpus.rows(tokens, lengths, start=1)
        table |= {group_dpo.GROUP: group.astype(np.int32)}
        return _chosen(table, (compared[:, 0] != compared[:, 1]).any(axis=1))

    def _answers(self, sampling: str, split: str) -> tuple[np.ndarray, np.ndarray]:
        """(language [P], words [P, K, longest]) of the pretrained policy's answers to prompts."""
        config = self.config
        prompts = self.corpus.read("prompts", split)["prompts"][: config.comparisons]
        count = config.drawn if sampling == STRATIFIED else config.candidates
        table = {
            "prompts": np.repeat(prompts, count, axis=0),
            "lengths": np.ones(len(prompts) * count, np.int32),
        }
        options = transforms.SamplingConfig(
            max_new_tokens=config.data.longest + 1,
            temperature=config.temperature if sampling == HOTTER else 1.0,
        )
        sample = policies.make_sampler(
            self.space.model, options, eos=self.corpus.ends, pad=self.corpus.pad,
            rows=config.eval_batch,
        )  # fmt: skip
        policy = self.space.policy("pretrain")
        seed = keys.integers(config.seed, f"answers/{sampling}/{split}")[1]
        drawn = sample(policy, policy, table, seed)
        words = _answered(config.data, drawn.tokens).reshape(len(prompts), count, -1)
        if sampling == STRATIFIED:
            kept = diverse.stratified(self._kinds(words), config.candidates)
            words = words[np.arange(len(words))[:, None], kept]
        return prompts[:, 0] - values.FIRST, words

    def _kinds(self, words: np.ndarray) -> np.ndarray:
        """1 where the last group likes an answer better than the first does, else 0."""
        utilities = values.utility(self.world, words)
        return np.asarray(utilities[-1] > utilities[0]).astype(int)

    def _rewards(self, sampling: str, tokens: np.ndarray, mask: np.ndarray) -> np.ndarray:
        """[G, ...]: beta (log pi_g - log ref) of rows [..., T], what the groups' own policies say.

        Rafailov et al. (2023), equation 5, but for a constant of the prompt.
        """
        flat = tokens.reshape(-1, tokens.shape[-1])
        table = review_corpus.rows(flat, (flat != values.PAD).sum(axis=1), start=1)
        table["loss_mask"] = mask.reshape(flat.shape)
        named = ["pretrain", *(_Arm(sampling, own).name for own in self.own)]
        logs = np.stack([self._logs(stage, table) for stage in named])
        return self.beta * (logs[1:] - logs[:1]).reshape(-1, *tokens.shape[:-1])

    def _logs(self, stage: str, table: tables.Table) -> np.ndarray:
        model, params = self.space.model, self.space.policy(stage)
        return -likelihood.row_nll(model, params, table, self.config.eval_batch, self.score)[0]

    def _weights(self, sampling: str) -> np.ndarray:
        """[G]: the maximin's lambda, from the groups' own policies on draws of the pretrained."""

        def make() -> dict[str, Any]:
            language, words = self._answers(INDEPENDENT, "eval")
            flat = words.reshape(-1, words.shape[-1])
            told = np.repeat(language, words.shape[1])
            tokens, lengths = values.tokens_of(self.config.data, told, flat)
            mask = review_corpus.rows(tokens, lengths, start=1)["loss_mask"]
            rewards = self._rewards(sampling, tokens, mask)
            chances = np.full(len(flat), 1 / len(flat))
            return {"weights": value_optima.maximin(chances, rewards, self.beta).tolist()}

        kept = self.space.remember(_Arm(sampling, self.own[-1]).name, "maximin", make)
        return np.array(kept["weights"])

    def _chances(self, stage: str) -> np.ndarray:
        """[L, n]: a stage's chances of all responses, in each language."""
        config, count = self.config.data, len(self.every.words)
        language = np.repeat(np.arange(config.languages), count)
        words = np.tile(self.every.words, (config.languages, 1))
        tokens, lengths = values.tokens_of(config, language, words)
        table = review_corpus.rows(tokens, lengths, start=1)
        return np.exp(self._logs(stage, table)).reshape(config.languages, count)

    def _evaluate(self, stage: str) -> dict[str, Any]:
        """Win rates over the reference by group, from the chances of all responses."""

        def make() -> dict[str, Any]:
            chances = self._chances(stage)
            inside = chances.sum(axis=1)
            wins = np.stack([value_optima.win_rates(self.every, c) for c in chances])
            wins /= inside[:, None]
            by_group = wins.mean(axis=0)
            numbers = {f"win, group {g}": float(x) for g, x in enumerate(by_group)}
            return numbers | {
                "win, worst group": float(by_group.min()),
                "win, worst group and language": float(wins.min()),
                "no response of the world": float(1 - inside.mean()),
            }

        return self.space.remember(stage, "evaluation", make)

    def _exact(self, sampling: str) -> dict[str, np.ndarray]:
        """{method: win rates [G]} in the limit of many comparisons."""

        def make() -> dict[str, Any]:
            every, pairs = self.every, self._pairs(sampling)
            joined = np.tensordot(self.world.shares, every.wins, 1)
            rewards = {
                **dict(zip(self.own, every.utilities, strict=True)),
                POOLED: value_optima.fitted(pairs, joined),
                ROBUST: value_optima.robust(pairs, every.wins).h,
                MAXIMIN: value_optima.maximin(every.chances, every.utilities, self.beta)
                @ every.utilities,
            }
            return {
                name: value_optima.win_rates(
                    every, value_optima.tilted(every.chances, h, self.beta)
                ).tolist()
                for name, h in rewards.items()
            }

        found = self.space.remember(_Arm(sampling, POOLED).name, "exact", make)
        return {name: np.array(wins) for name, wins in found.items()}

    def _pairs(self, sampling: str) -> np.ndarray:
        """[n, n]: how often two responses are compared."""
        every = self.every
        if sampling == STRATIFIED:
            kinds = self._kinds(every.words)
            return value_optima.stratified(
                every.chances, kinds, self.config.drawn, self.config.candidates
            )
        heat = self.config.temperature if sampling == HOTTER else 1.0
        return value_optima.independent(value_optima.hotter(self.world, every.words, heat))

    def _coverage(self, sampling: str) -> dict[str, Any]:
        """How often the candidates hold both kinds, and how often they would by formula."""

        def make() -> dict[str, Any]:
            _, words = self._answers(sampling, "train")
            measured = estimate.mean(diverse.coverage(self._kinds(words)).astype(float))
            # Of the pretrained policy's own rate; when it is hotter, of the world's.
            chances = self._chances("pretrain")
            if sampling == HOTTER:
                hot = value_optima.hotter(self.world, self.every.words, self.config.temperature)
                chances = hot[None]
            rates = chances @ self._kinds(self.every.words) / chances.sum(axis=1)
            draws = self.config.drawn if sampling == STRATIFIED else self.config.candidates
            expected = float(np.mean([pluralism.coverage(rate, draws) for rate in rates]))
            return {**measured.as_dict(), "expected": expected}

        return self.space.remember(_Arm(sampling, POOLED).name, "coverage", make)

    def report(self) -> tuple[dict[str, Any], list[lifecycle.Gate]]:
        exact = {sampling: self._exact(sampling) for sampling in SAMPLINGS}
        covered = {sampling: self._coverage(sampling) for sampling in SAMPLINGS}
        found = {arm: self._evaluate(arm.name) for arm in self.arms}
        rows = [_row("pretrain", self._evaluate("pretrain"))]
        for arm, numbers in found.items():
            row = _row(arm.name, numbers)
            for group, win in enumerate(exact[arm.sampling][arm.method]):
                row["metrics"][f"win, group {group}"]["expected"] = float(win)
            worst = float(exact[arm.sampling][arm.method].min())
            row["metrics"]["win, worst group"]["expected"] = worst
            if arm.method == POOLED:
                row["metrics"]["both kinds shown"] = covered[arm.sampling]
            rows.append(row)
        gates = self._gates(found, exact, covered) if self.config.gates else []
        conflict = social_choice.conflict_share(self.every.wins)
        results = {
            "title": "ValueWorld: whose preferences a policy learns",
            "description": "Win rates over the pretrained policy by group, from the chances of all "
            "responses; expected: in the limit of many comparisons, exact. Rows are the way to "
            "sample the compared answers, and the method.",
            "environment": lifecycle.environment(),
            "seconds": self.space.seconds,
            "columns": [
                {"key": name, "label": name, "digits": 3}
                for name in dict.fromkeys(key for row in rows for key in row["metrics"])
            ],
            "rows": rows,
            "frontier": None,
            "curves": [
                {"stage": arm.name, "label": arm.name, "keys": ["loss"]} for arm in self.arms
            ],
            "samples": [],
            "gates": [gate.as_dict() for gate in gates],
            "notes": [f"groups differ on {conflict:.0%} of pairs of responses"],
        }
        return results, gates

    def _gates(
        self,
        found: dict[_Arm, dict[str, Any]],
        exact: dict[str, dict[str, np.ndarray]],
        covered: dict[str, dict[str, Any]],
    ) -> list[lifecycle.Gate]:
        """What groups' own policies gain, what the maximin lifts, how near the limit all are."""

        def worst(method: str) -> float:
            return float(found[_Arm(STRATIFIED, method)]["win, worst group"])

        own = min(
            found[_Arm(STRATIFIED, name)][f"win, group {group}"]
            for group, name in enumerate(self.own)
        )
        off = [
            abs(numbers[f"win, group {group}"] - win)
            for arm, numbers in found.items()
            for group, win in enumerate(exact[arm.sampling][arm.method])
        ]
        shown = covered[STRATIFIED]
        formula = abs(shown["value"] - shown["expected"]) / max(shown["se"], 1e-9)
        return [
            lifecycle.Gate("NC: own policies over pooled, worst", own - worst(POOLED), ">=", 0.05),
            lifecycle.Gate(
                "NC: maximin over pooled, worst", worst(MAXIMIN) - worst(POOLED), ">", 0
            ),
            lifecycle.Gate("win rates off their limit, mean", float(np.mean(off)), "<=", 0.03),
            lifecycle.Gate("NC: both kinds shown, off the formula, se", formula, "<=", 4.0),
        ]


def _row(name: str, numbers: dict[str, Any]) -> dict[str, Any]:
    metrics = {key: {"value": value} for key, value in numbers.items()}
    return {"stage": name, "label": name, "family": name.partition("-")[0], "metrics": metrics}


def _chosen(table: tables.Table, rows: np.ndarray | slice = slice(None)) -> tables.Table:
    return {name: column[rows] for name, column in table.items()}


def _answered(config: values.ValueConfig, tokens: np.ndarray) -> np.ndarray:
    """[N, longest]: the words of sampled rows as far as the first token that is none; -1 after."""
    words = values.words_of(config, tokens)[:, : config.longest]
    return np.where(np.cumprod(words >= 0, axis=1) > 0, words, -1)
