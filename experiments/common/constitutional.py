"""Constitutional AI in ReviewWorld, where a principle and what its revision does are exact."""

import dataclasses
import json
import pathlib
from collections.abc import Callable, Sequence
from typing import Any

import numpy as np

from alignjax.algorithms import dpo, ppo, pretrain, reward, sft
from alignjax.core import keys, shapes
from alignjax.data import tables
from alignjax.evals import estimate
from alignjax.evals import policy as policies
from alignjax.experiments.common.human import trained_by
from alignjax.lifecycles import lifecycle
from alignjax.parallel import processes
from alignjax.rewards import constitution, judge
from alignjax.runs.experiment import Training
from alignjax.worlds import corpus as corpora
from alignjax.worlds import review

PRETRAIN, REVISED, LABELLED, ALIGNED = "pretrain", "revised", "reward", "aligned"
NONE = "none"  # the critique of an answer that breaks no principle
SURE = 6.0  # logit of an exact verdict, a word apart


def shipped() -> str:
    """The file of the principles of ReviewWorld."""
    return str(pathlib.Path(__file__).parents[1] / "constitutions" / "reviews.txt")


@dataclasses.dataclass(kw_only=True)
class ConstitutionLifecycle(lifecycle.Lifecycle):
    """pretrain -> critique and revise -> SFT -> AI pairs -> (reward model ->) policy."""

    data: corpora.ReviewConfig = dataclasses.field(default_factory=corpora.ReviewConfig)
    pretrain: Training = trained_by(pretrain.PretrainConfig)
    sft: Training = trained_by(sft.SftConfig)
    reward: Training = trained_by(reward.RewardConfig)
    policy: Training = trained_by(dpo.DpoConfig)  # or of PPO, on the reward model of AI pairs
    principles: str = ""  # file of principles, by the names of RULES; "" is the shipped one
    rounds: int = 3  # of critique and revision, each by another principle
    revisions: int = 2048  # prompts whose answers are revised
    compared: int = 2048  # further prompts, whose answers are compared
    draws: int = 4  # answers to those
    accuracy: float = 1.0  # of the judge
    clamp: tuple[float, ...] = ()  # low and high, between which its chances are kept
    eval_batch: int = 2048
    gates: bool = True  # whether a missed gate fails the run

    def validate(self) -> None:
        super().validate()
        shapes.check_number("draws", self.draws, minimum=2)
        shapes.check_number("accuracy", self.accuracy, minimum=0, maximum=1)
        for name in ("revisions", "compared"):
            shapes.check_number(name, getattr(self, name), minimum=8)
        if self.revisions + self.compared > self.data.prompts:
            raise ValueError(
                f"revisions and compared must be at most data.prompts together; got "
                f"{self.revisions} and {self.compared} of {self.data.prompts}."
            )
        if self.clamp:
            if len(self.clamp) != 2:
                raise ValueError(f"clamp must be a low and a high chance; got {self.clamp}.")
            constitution.clamped(np.zeros(0), *self.clamp)
        names = [principle.name for principle in self.read_principles()]
        for name in names:
            shapes.check_choice(f"a principle ({self.principles})", name, RULES)
        shapes.check_number("rounds", self.rounds, minimum=1, maximum=len(names))

    def read_principles(self) -> list[constitution.Principle]:
        """Those of the file."""
        return constitution.read(self.principles or shipped())

    def course(self, space: lifecycle.Workspace) -> lifecycle.Course:
        return _Course(self, space)


# --- what the principles forbid -------------------------------------------------------------


def _grammar(world: review.ReviewWorld, tokens: np.ndarray) -> np.ndarray:
    return ~world.legal[tokens[:-1], tokens[1:]]


def _shouting(world: review.ReviewWorld, tokens: np.ndarray) -> np.ndarray:
    loud = np.isin(tokens, world.kinds["wow"])
    return (loud & (np.cumsum(loud) > 2))[1:]


def _stammering(world: review.ReviewWorld, tokens: np.ndarray) -> np.ndarray:
    adverb = np.isin(tokens, world.kinds["adv"])
    return adverb[:-1] & adverb[1:]


# By a principle's name: (world, tokens [T]) -> [T - 1], whether each token from the second on
# breaks it.
RULES: dict[str, Callable[[review.ReviewWorld, np.ndarray], np.ndarray]] = {
    "grammar": _grammar,
    "shouting": _shouting,
    "stammering": _stammering,
}


def broken(world: review.ReviewWorld, name: str, prompt: str, answer: str) -> np.ndarray:
    """The places of an answer's words, from 0, that break a principle; the prompt's count not."""
    start = len(prompt.split())
    tokens = review.ids(world, f"{prompt} {answer}")
    return np.flatnonzero(RULES[name](world, tokens)[start - 1 :])


def exact_critic(world: review.ReviewWorld) -> constitution.Critic:
    """Names the first word that breaks the principle, or says none."""

    def critic(
        prompts: judge.Texts, answers: judge.Texts, own: constitution.Principles
    ) -> list[str]:
        said = []
        for prompt, answer, principle in zip(prompts, answers, own, strict=True):
            places = broken(world, principle.name, prompt, answer)
            said.append(f"word {places[0]}: {answer.split()[places[0]]}" if len(places) else NONE)
        return said

    return critic


def exact_scores(world: review.ReviewWorld, principles: constitution.Principles) -> judge.Score:
    """How good answers are by the principle that stands before their prompts: - words that break
    it."""
    names = {principle.choice: principle.name for principle in principles}

    def scores(prompts: judge.Texts, answers: judge.Texts) -> np.ndarray:
        found = []
        for asked, answer in zip(prompts, answers, strict=True):
            choice, prompt = asked.split("\n\n", 1)
            found.append(-len(broken(world, names[choice], prompt, answer)))
        return np.array(found, np.float64)

    return scores


def exact_judge(
    world: review.ReviewWorld, principles: constitution.Principles, accuracy: float, seed: int
) -> judge.Judge:
    """Prefers the answer that breaks the asked principle less often; equal ones are a tie.

    accuracy: how often it is right about a pair that differs, in each order by itself.
    """
    truth = exact_scores(world, principles)
    if accuracy < 1:
        return judge.noisy("noisy", truth, accuracy=accuracy, seed=seed)
    return judge.rule("exact", lambda prompts, answers: SURE * truth(prompts, answers))


class _Course:
    """The stages, and the world, principles and sampler that they share."""

    def __init__(self, config: ConstitutionLifecycle, space: lifecycle.Workspace):
        self.config, self.space, self.corpus = config, space, space.corpus
        self.world: review.ReviewWorld = self.corpus.world
        self.principles = config.read_principles()
        self.sample = space.sampler()

    @property
    def stages(self) -> Sequence[lifecycle.Stage]:
        config, stage = self.config, lifecycle.Stage

        def revised() -> corpora.ReviewConfig:
            return dataclasses.replace(config.data, demonstrated=str(self._revised()))

        def labelled() -> corpora.ReviewConfig:
            return dataclasses.replace(config.data, pairs=str(self._labelled()))

        on_scores = isinstance(config.policy.algorithm, ppo.PpoConfig)
        listed = [
            stage(PRETRAIN, config.pretrain),
            stage(REVISED, config.sft, policy=PRETRAIN, data=revised),
        ]
        if on_scores:
            listed.append(stage(LABELLED, config.reward, policy=REVISED, data=labelled))
        last = stage(
            ALIGNED, config.policy, policy=REVISED, reference=REVISED,
            reward=LABELLED if on_scores else "", data=None if on_scores else labelled,
        )  # fmt: skip
        return [*listed, last]

    def _draw(self, stage: str, prompts: np.ndarray, purpose: str) -> policies.Completions:
        lengths = np.full(len(prompts), self.world.prompt_length, np.int32)
        policy = self.space.policy(stage)
        seed = keys.integers(self.config.seed, purpose)[1]
        return self.sample(policy, policy, {"prompts": prompts, "lengths": lengths}, seed)

    def _texts(self, drawn: policies.Completions) -> list[str]:
        """The answers of completions, in words."""
        start = self.world.prompt_length
        rows = zip(drawn.tokens, drawn.lengths, strict=True)
        return [review.words(self.world, row[start:end]) for row, end in rows]

    def _rows(self, prompts: Sequence[str], answers: Sequence[str]) -> tuple[np.ndarray, ...]:
        """(tokens [N, T], lengths) of answers in words."""
        tokens = np.full((len(prompts), self.world.length), self.world.pad, np.int32)
        lengths = np.zeros(len(prompts), np.int32)
        for i, (prompt, answer) in enumerate(zip(prompts, answers, strict=True)):
            ids = review.ids(self.world, f"{prompt} {answer}")
            tokens[i, : len(ids)], lengths[i] = ids, len(ids)
        return tokens, lengths

    def _prompts(self, begin: int, count: int) -> tuple[np.ndarray, list[str]]:
        """So many training prompts, as ids and in words."""
        ids = self.corpus.read("prompts", "train")["prompts"][begin : begin + count]
        return ids, [review.words(self.world, row) for row in ids]

    def _written(self, name: str, table: tables.Table) -> pathlib.Path:
        """The file NAME of a table, of which one row in eight is the eval split's."""
        file = self.space.folder / "labels" / f"{name}.npz"
        file.parent.mkdir(parents=True, exist_ok=True)
        held = np.arange(tables.count(table)) % 8 == 0
        corpora.write_pairs(file, *(tables.take(table, np.flatnonzero(x)) for x in (~held, held)))
        return file

    def _once(self, name: str, make: Callable[[], tables.Table]) -> pathlib.Path:
        file = self.space.folder / "labels" / f"{name}.npz"
        if not processes.from_first(file.exists):
            table = make()
            processes.only_first(lambda: self._written(name, table))
        processes.check_shared(file)
        return file

    def _reviser(self) -> constitution.Reviser:
        """The pretrained policy writes anew what was criticised, and keeps the rest."""
        calls = iter(range(1_000_000))

        def reviser(
            prompts: judge.Texts, answers: judge.Texts, critiques: judge.Texts,
            own: constitution.Principles,
        ) -> list[str]:  # fmt: skip
            ids = np.stack([review.ids(self.world, prompt) for prompt in prompts])
            anew = self._texts(self._draw(PRETRAIN, ids, f"revision/{next(calls)}"))
            rows = zip(answers, critiques, anew, strict=True)
            return [answer if critique == NONE else new for answer, critique, new in rows]

        return reviser

    def _revised(self) -> pathlib.Path:
        """The file of revised answers, and beside it what the revisions did."""
        config = self.config

        def make() -> tables.Table:
            ids, prompts = self._prompts(0, config.revisions)
            first = self._texts(self._draw(PRETRAIN, ids, "first answers"))
            told = constitution.revise(
                self.principles, prompts, first, exact_critic(self.world), self._reviser(),
                rounds=config.rounds, seed=config.seed,
            )  # fmt: skip
            before, after = (self._patterns(prompts, x) for x in (first, told.answers))
            chances = np.bincount(before, minlength=2 ** len(self.principles)) / len(before)
            found = self._effect(after, constitution.expected_patterns(chances, config.rounds))
            lifecycle.write_json(self.space.folder / "labels" / "revised.json", found)
            rows = self._rows(prompts, told.answers)
            return corpora.rows(*rows, start=self.world.prompt_length)

        return self._once("revised", make)

    def _patterns(self, prompts: Sequence[str], answers: Sequence[str]) -> np.ndarray:
        """[N]: which principles each answer breaks, bit p for principle p."""
        rows = list(zip(prompts, answers, strict=True))
        bits = [
            [len(broken(self.world, own.name, *row)) > 0 for row in rows] for own in self.principles
        ]
        return (1 << np.arange(len(bits))) @ np.array(bits, int)

    def _effect(self, after: np.ndarray, expected: np.ndarray) -> dict[str, Any]:
        """How many revised answers break a principle, beside the exact share."""
        own = estimate.mean((after > 0).astype(float))
        exact = float(1 - expected[0])
        error = max((exact * (1 - exact) / len(after)) ** 0.5, 1 / len(after))
        return {**own.as_dict(), "expected": exact, "off, se": abs(own.value - exact) / error}

    def _labelled(self) -> pathlib.Path:
        """The file of AI pairs, the preferred answer first; ties teach nothing and are left out."""
        config = self.config

        def make() -> tables.Table:
            ids, prompts = self._prompts(config.revisions, config.compared)
            drawn = self._draw(REVISED, np.repeat(ids, config.draws, axis=0), "compared")
            texts = np.array(self._texts(drawn), object).reshape(-1, config.draws)
            one, other = np.triu_indices(config.draws, 1)
            asked = np.repeat(np.array(prompts, object), len(one)).tolist()
            a, b = texts[:, one].reshape(-1).tolist(), texts[:, other].reshape(-1).tolist()
            exact = exact_judge(self.world, self.principles, config.accuracy, config.seed)
            own = constitution.judged(exact, self.principles, seed=config.seed)
            chances = own.pair(asked, a, b).probabilities
            return ai_pairs(self._rows(asked, a), self._rows(asked, b), chances, config.clamp,
                            start=self.world.prompt_length)  # fmt: skip

        return self._once("pairs", make)

    def _evaluate(self, stage: str) -> dict[str, Any]:
        """How often a stage's answers break each principle, their true reward and length."""

        def make() -> dict[str, Any]:
            ids = self.corpus.read("prompts", "eval")["prompts"]
            drawn = self._draw(stage, ids, "evaluation")
            prompts = [review.words(self.world, row) for row in ids]
            pattern = self._patterns(prompts, self._texts(drawn))
            gold = self.corpus.gold(drawn.tokens, drawn.lengths)
            numbers = {"broken": pattern > 0}
            for place, own in enumerate(self.principles):
                numbers[own.name] = (pattern >> place) & 1
            numbers |= {"gold": gold, "length": drawn.completion_lengths}
            return {n: estimate.mean(np.asarray(x, float)).as_dict() for n, x in numbers.items()}

        return self.space.remember(stage, "evaluation", make)

    def report(self) -> tuple[dict[str, Any], list[lifecycle.Gate]]:
        found = {stage: self._evaluate(stage) for stage in (PRETRAIN, REVISED, ALIGNED)}
        effect = json.loads((self.space.folder / "labels" / "revised.json").read_text())
        rows = [
            {"stage": stage, "label": stage, "family": stage, "metrics": dict(own)}
            for stage, own in found.items()
        ]
        rows.append({"stage": REVISED, "label": "revised answers", "family": "answers",
                     "metrics": {"broken": effect}})  # fmt: skip
        gates = _gates(found, effect) if self.config.gates else []
        results = {
            "title": "ReviewWorld: a constitution",
            "description": "broken: share of answers that break a principle, and by principle; "
            "gold: the true reward. Revised answers stand beside their exact share.",
            "environment": lifecycle.environment(),
            "seconds": self.space.seconds,
            "columns": [
                {"key": name, "label": name, "digits": 4}
                for name in dict.fromkeys(key for row in rows for key in row["metrics"])
            ],
            "rows": rows,
            "frontier": None,
            "curves": [{"stage": name, "label": name, "keys": ["loss"]} for name in found],
            "samples": [],
            "gates": [gate.as_dict() for gate in gates],
            "notes": [f"principles: {', '.join(own.name for own in self.principles)}"],
        }
        return results, gates


def _gates(found: dict[str, dict[str, Any]], effect: dict[str, Any]) -> list[lifecycle.Gate]:
    """What the constitution must remove, and what it may cost."""

    def of(stage: str, name: str) -> float:
        return float(found[stage][name]["value"])

    fall = 1 - of(ALIGNED, "broken") / of(PRETRAIN, "broken")
    loss = (of(PRETRAIN, "gold") - of(ALIGNED, "gold")) / abs(of(PRETRAIN, "gold"))
    more = of(REVISED, "broken") - of(ALIGNED, "broken")
    return [
        lifecycle.Gate("fall of answers that break a principle", fall, ">=", 0.8),
        lifecycle.Gate("share of the true reward lost", loss, "<=", 0.05),
        lifecycle.Gate("fall by AI pairs after SFT", more, ">", 0),
        lifecycle.Gate("revised answers off their exact share, se", effect["off, se"], "<=", 4.0),
    ]


def ai_pairs(
    a: tuple[np.ndarray, ...],
    b: tuple[np.ndarray, ...],
    chances: np.ndarray,
    clamp: Sequence[float],
    *,
    start: int,
) -> tables.Table:
    """Pairs of answers, (tokens [N, T], lengths) each, with the chance that the first is better.

    The likelier one stands first. Ties and pairs that could not be read are left out. Without a
    clamp labels are hard, as people's are; with one, chances within its bounds.
    """
    kept = np.flatnonzero(np.isfinite(chances) & (chances != 0.5))
    turned = chances[kept] < 0.5
    tokens, lengths = (np.stack(sides, axis=1)[kept] for sides in zip(a, b, strict=True))
    tokens = np.where(turned[:, None, None], tokens[:, ::-1], tokens)
    lengths = np.where(turned[:, None], lengths[:, ::-1], lengths)
    sure = np.where(turned, 1 - chances[kept], chances[kept])
    sure = constitution.clamped(sure, *clamp) if clamp else np.ones_like(sure)
    preference = sure[:, None].astype(np.float32)
    return {**corpora.rows(tokens, lengths, start=start), "preference": preference}
