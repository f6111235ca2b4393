"""Rounds of feedback: a policy answers, raters judge, and what they say trains the next policy."""

import dataclasses
import json
import pathlib
from collections.abc import Sequence
from typing import Any, NamedTuple

import numpy as np

from alignjax.algorithms import dpo, ppo, pretrain, reward, sft
from alignjax.core import keys, shapes
from alignjax.data import tables
from alignjax.evals import estimate, preferences
from alignjax.experiments.common import labelling
from alignjax.experiments.common.human import trained_by
from alignjax.feedback import database, harvest, project, raters
from alignjax.lifecycles import lifecycle
from alignjax.parallel import processes
from alignjax.runs.experiment import Training
from alignjax.worlds import corpus as corpora

ONLINE, OFFLINE = "online", "offline"  # who answers in a round: the latest policy, or SFT
SEATS = ("careful", "careless", "first")
JOINED = ("weighted", "majority")


@dataclasses.dataclass(kw_only=True)
class FeedbackLifecycle(lifecycle.Lifecycle):
    """pretrain -> SFT -> rounds of collect, annotate, harvest, reward model, policy -> report."""

    data: corpora.ReviewConfig = dataclasses.field(default_factory=corpora.ReviewConfig)
    pretrain: Training = trained_by(pretrain.PretrainConfig)
    sft: Training = trained_by(sft.SftConfig)
    reward: Training = trained_by(reward.RewardConfig)
    policy: Training = trained_by(dpo.DpoConfig)  # or of PPO, on the round's reward model
    rounds: int = 3
    prompts: int = 800  # of a round, others in each
    candidates: int = 4  # answers to a prompt
    temperature: float = 1.0  # of all raters' choices, reward units
    careless: float = 0.3  # share of the careless rater's judgements that are random
    position_bias: float = 0.3  # share of one rater's judgements that take the first unread
    overlap: float = 0.2  # share of items that two raters judge
    seat: str = ""  # of SEATS: a person judges in this one's place, by the page
    eval_batch: int = 2048
    gates: bool = True  # whether a missed gate fails the run

    def validate(self) -> None:
        super().validate()
        shapes.check_number("rounds", self.rounds, minimum=1)
        shapes.check_number("prompts", self.prompts, minimum=1)
        shapes.check_number("candidates", self.candidates, minimum=2, maximum=9)
        if self.seat:
            shapes.check_choice("seat", self.seat, SEATS)
        for seat in self.seats:
            raters.check(seat.rater)
        if self.rounds * self.prompts > self.data.prompts:
            raise ValueError(
                f"rounds x prompts must be at most data.prompts; got {self.rounds} x "
                f"{self.prompts} of {self.data.prompts}. Raise data.prompts."
            )
        database.check_extra()

    @property
    def seats(self) -> tuple[labelling.Seat, ...]:
        """The raters: one careful, one that does not always look, one that likes what is first."""
        plain = raters.Rater(temperature=self.temperature)
        kinds = (
            plain,
            plain._replace(careless=self.careless),
            plain._replace(position_bias=self.position_bias),
        )
        return tuple(
            labelling.Seat(name, rater, name == self.seat)
            for name, rater in zip(SEATS, kinds, strict=True)
        )

    def course(self, space: lifecycle.Workspace) -> lifecycle.Course:
        return _Course(self, space)


class _Round(NamedTuple):
    """A round of an arm. Both arms share the first, in which SFT answers."""

    arm: str
    number: int

    @property
    def name(self) -> str:
        """Of its folder."""
        return f"{self.arm}-{self.number}"

    @property
    def before(self) -> str:
        """The stage whose policy it goes on from."""
        if self.number == 1:
            return "sft"
        return _Round(self.arm if self.number > 2 else ONLINE, self.number - 1).name


class _Course:
    """The stages, and the sampler that they share."""

    def __init__(self, config: FeedbackLifecycle, space: lifecycle.Workspace):
        self.config, self.space, self.corpus = config, space, space.corpus
        self.world = self.corpus.world
        self.sample = space.sampler()

    @property
    def played(self) -> list[_Round]:
        """All rounds, in the order in which they are played."""
        return [
            _Round(arm, number)
            for number in range(1, self.config.rounds + 1)
            for arm in (ONLINE, OFFLINE)
            if (arm, number) != (OFFLINE, 1)
        ]

    @property
    def stages(self) -> Sequence[lifecycle.Stage]:
        config = self.config
        listed = [
            lifecycle.Stage("pretrain", config.pretrain),
            lifecycle.Stage("sft", config.sft, policy="pretrain"),
        ]
        on_scores = isinstance(config.policy.algorithm, ppo.PpoConfig)
        for own in self.played:

            def labelled(own: _Round = own) -> corpora.ReviewConfig:
                return dataclasses.replace(config.data, pairs=str(self._labels(own)))

            scorer = f"reward-{own.name}"
            if on_scores or own.arm == ONLINE:
                listed.append(lifecycle.Stage(scorer, config.reward, policy="sft", data=labelled))
            listed.append(
                lifecycle.Stage(
                    own.name,
                    config.policy,
                    policy=own.before,
                    reference="sft",
                    reward=scorer if on_scores else "",
                    data=None if on_scores else labelled,
                )
            )
        return listed

    def _folder(self, own: _Round) -> pathlib.Path:
        return self.space.folder / "labels" / own.name

    def _labels(self, own: _Round) -> pathlib.Path:
        """The file of a round's labelled pairs: collected, judged and harvested, once."""
        folder = self._folder(own)
        file = folder / "pairs.npz"
        if not processes.from_first(file.exists):
            answers = self._answers(own)
            processes.only_first(lambda: self._judged(own, folder, answers))
        processes.check_shared(file)
        return file

    def _answers(self, own: _Round) -> np.ndarray:
        """[P, K, T]: completions of the round's prompts."""
        config, begin = self.config, (own.number - 1) * self.config.prompts
        prompts = self.corpus.read("prompts", "train")["prompts"][begin : begin + config.prompts]
        repeated = np.repeat(prompts, config.candidates, axis=0)
        policy = self.space.policy(own.before if own.arm == ONLINE else "sft")
        table = {
            "prompts": repeated,
            "lengths": np.full(len(repeated), self.world.prompt_length, np.int32),
        }
        seed = keys.integers(config.seed, f"answers/{own.name}")[1]
        drawn = self.sample(policy, policy, table, seed)
        return drawn.tokens.reshape(len(prompts), config.candidates, -1)

    def _judged(self, own: _Round, folder: pathlib.Path, answers: np.ndarray) -> None:
        config, place = self.config, folder / "feedback.db"
        folder.mkdir(parents=True, exist_ok=True)
        source = {"run": str(self.space.folder.name), "stage": own.name}
        settings = project.Project(
            name="ReviewWorld",
            guideline="The better review is the happier one.",
            overlap=config.overlap,
            seed=config.seed,
        )
        items = labelling.items_of(self.world, answers, source)
        tokens = labelling.store(place, items, config.seats, settings)
        seed = keys.integers(config.seed, f"raters/{own.name}")[1]
        done = labelling.annotate(
            place, self.world, config.seats, tokens, len(items), seed, self.space.log
        )
        joined = {}
        with database.opened(str(place)) as db:
            for join in JOINED:
                harvest.harvest(db.read, folder / join, ("comparisons",), join=join)
                files = {s: folder / join / f"comparisons.{s}.jsonl" for s in ("train", "eval")}
                joined[join] = {s: labelling.labels(files[s], self.world) for s in files}
        report = {"judged": done, "labels": label_quality(joined, config.temperature)}
        (folder / "report.json").write_text(json.dumps(report))
        corpora.write_pairs(folder / "pairs.npz", *joined[JOINED[0]].values())

    def _evaluate(self, stage: str) -> dict[str, Any]:
        """Reward, KL to SFT and length of a stage's policy on the evaluation prompts."""

        def make() -> dict[str, Any]:
            prompts = self.corpus.read("prompts", "eval")
            drawn = self.sample(
                self.space.policy(stage), self.space.policy("sft"), prompts, self.config.seed
            )
            golds = self.corpus.gold(drawn.tokens, drawn.lengths)
            numbers = {"gold": golds, "kl": drawn.kl, "length": drawn.completion_lengths}
            return {name: estimate.mean(x).as_dict() for name, x in numbers.items()}

        return self.space.remember(stage, "evaluation", make)

    def _accuracy(self, own: _Round) -> dict[str, Any]:
        """How often a round's reward model agrees with the true order of held-out pairs."""

        def make() -> dict[str, Any]:
            table = corpora.read_pairs(str(self._labels(own)), "eval")
            score = preferences.reward_scores(self.space.model)
            params = self.space.scorer(f"reward-{own.name}")
            prompts = preferences.prompts_at_once(self.config.eval_batch, answers=2)
            scores = preferences.answer_scores(score, params, table, prompts)
            order = np.sign(table["gold"][:, :1] - table["gold"][:, 1:])
            return preferences.accuracy((scores * order)[order[:, 0] != 0]).as_dict()

        return self.space.remember(f"reward-{own.name}", "accuracy", make)

    def report(self) -> tuple[dict[str, Any], list[lifecycle.Gate]]:
        evaluated = {name: self._evaluate(name) for name in ("sft", *(r.name for r in self.played))}
        rows = [
            {"stage": name, "label": name, "family": name.partition("-")[0], "metrics": metrics}
            for name, metrics in evaluated.items()
        ]
        notes = []
        for own, row in zip(self.played, rows[1:], strict=True):
            told = json.loads((self._folder(own) / "report.json").read_text())
            row["metrics"] |= {f"labels {join}": told["labels"][join] for join in JOINED}
            row["metrics"]["weighted better by, se"] = {"value": told["labels"]["z"]}
            if own.arm == ONLINE:
                row["metrics"]["reward model"] = self._accuracy(own)
            judged = ", ".join(f"{name} {count}" for name, count in told["judged"].items())
            notes.append(f"{own.name}: items judged by {judged}")
        gates = self._gates(evaluated, rows) if self.config.gates else []
        results = {
            "title": "ReviewWorld: rounds of feedback",
            "description": "Each round's answers are judged over HTTP; online the latest policy "
            "answers, offline SFT does, with as many judgements. labels: squared distance of a "
            "pair's label from the true preference; reward model: agreement with the true order.",
            "environment": lifecycle.environment(),
            "seconds": self.space.seconds,
            "columns": [
                {"key": name, "label": name, "digits": 3}
                for name in dict.fromkeys(key for row in rows for key in row["metrics"])
            ],
            "rows": rows,
            "frontier": None,
            "curves": [
                {"stage": own.name, "label": own.name, "keys": ["loss"]} for own in self.played
            ],
            "samples": [],
            "gates": [gate.as_dict() for gate in gates],
            "notes": notes,
        }
        return results, gates

    def _gates(
        self, evaluated: dict[str, Any], rows: Sequence[dict[str, Any]]
    ) -> list[lifecycle.Gate]:
        """What more labels of the policy's own answers must bring, and weighing raters."""
        start = evaluated["sft"]["gold"]["value"]
        last = self.config.rounds
        online, offline = (evaluated[f"{arm}-{last}"]["gold"]["value"] for arm in (ONLINE, OFFLINE))
        better = min(row["metrics"]["weighted better by, se"]["value"] for row in rows[1:])
        return [
            lifecycle.Gate(
                "online gain / offline gain", (online - start) / (offline - start), ">=", 1.4
            ),
            lifecycle.Gate("weighted labels better than votes, se", better, ">=", 3.0),
        ]


def label_quality(joined: dict[str, dict[str, tables.Table]], temperature: float) -> dict[str, Any]:
    """Errors of each way to join votes, and how many standard errors the first is better by.

    The pairs of a prompt are not independent: the error is of means over prompts.
    """
    own = {
        join: [(table, labelling.errors(table, temperature)) for table in splits.values()]
        for join, splits in joined.items()
    }
    means = {join: _by_pair(parts) for join, parts in own.items()}
    better, worse = (means[join] for join in JOINED)
    prompts: dict[bytes, list[float]] = {}
    for pair, error in better.items():
        prompts.setdefault(pair[0], []).append(worse[pair] - error)
    mean = estimate.mean(np.array([np.mean(values) for values in prompts.values()]))
    found: dict[str, Any] = {
        join: estimate.mean(np.array(list(values.values()))).as_dict()
        for join, values in means.items()
    }
    return {**found, "z": mean.value / mean.se if mean.se else 0.0}


def _by_pair(
    parts: Sequence[tuple[tables.Table, np.ndarray]],
) -> dict[tuple[bytes, frozenset], float]:
    """{(prompt, the two answers): error}."""
    found = {}
    for table, errors in parts:
        width = int(np.argmax(table["loss_mask"][0, 0]))
        for tokens, error in zip(table["tokens"], errors, strict=True):
            pair = frozenset(row[width:].tobytes() for row in tokens)
            found[tokens[0, :width].tobytes(), pair] = float(error)
    return found
