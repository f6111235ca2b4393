"""Rounds of preferences on ReviewWorld: answers, labels, the next policy, and again."""

import dataclasses
import pathlib
from collections.abc import Sequence
from typing import Any, NamedTuple

import numpy as np

from alignjax.algorithms import dpo, online_dpo, pretrain, reward, sft
from alignjax.core import keys, shapes
from alignjax.data import tables
from alignjax.evals import estimate
from alignjax.experiments.common.human import trained_by
from alignjax.experiments.common.review import label_pairs
from alignjax.lifecycles import lifecycle
from alignjax.parallel import processes
from alignjax.runs.experiment import Training
from alignjax.sampling import rejection
from alignjax.worlds import corpus as corpora

OFFLINE, DPO, SPIN, SPPO, RSO, ONLINE = "offline", "dpo", "spin", "sppo", "rso", "online"
ARMS = (OFFLINE, DPO, SPIN, SPPO, RSO, ONLINE)
BY_SFT = (OFFLINE, RSO)  # arms whose answers are SFT's in every round
FRESH = (SPIN, SPPO)  # arms whose reference is the policy of the round before


@dataclasses.dataclass(kw_only=True)
class RoundsLifecycle(lifecycle.Lifecycle):
    """pretrain -> SFT -> rounds of answers, labels and a policy, in several arms -> report.

    offline: SFT answers in every round. dpo: the latest policy does (iterative DPO). spin: its
    answers lose to demonstrations, without labels (Chen et al. 2024). sppo: the answer that won
    most against the one that won least, by SPPO's loss (Wu et al. 2024). rso: SFT's answers, kept
    by statistical rejection on a reward model (Liu et al. 2023). online: one stage of online DPO,
    whose labels have no noise. The reference is SFT; of spin and sppo it is the policy of the round
    before. All but spin have as many labels a round.
    """

    data: corpora.ReviewConfig = dataclasses.field(default_factory=corpora.ReviewConfig)
    pretrain: Training = trained_by(pretrain.PretrainConfig)
    sft: Training = trained_by(sft.SftConfig)
    reward: Training = trained_by(reward.RewardConfig)  # of rso, on the labels of round 1
    policy: Training = trained_by(dpo.DpoConfig)  # of a round
    online: Training = trained_by(online_dpo.OnlineDpoConfig)  # of all rounds at once
    losses: dict[str, str] = dataclasses.field(
        default_factory=lambda: {SPPO: "sppo_hard", RSO: "hinge"}
    )  # by arm, where it is not that of `policy`
    arms: tuple[str, ...] = (OFFLINE, DPO)
    rounds: int = 4
    prompts: int = 1000  # of a round, others in each
    candidates: int = 4  # answers to a prompt, of which every two are labelled
    temperature: float = 1.0  # of labels, reward units; 0 takes the truly better one
    draws: int = 32  # of a prompt, of which rso keeps `candidates`
    keep_beta: float = 0.5  # of rso's rejection, reward units per nat
    eval_batch: int = 2048
    ratio: float = 0.0  # least gain of dpo over that of offline; 0 asks for none

    def validate(self) -> None:
        super().validate()
        for name in ("rounds", "prompts"):
            shapes.check_number(name, getattr(self, name), minimum=1)
        shapes.check_number("candidates", self.candidates, minimum=2)
        shapes.check_number("temperature", self.temperature, minimum=0)
        shapes.check_number("draws", self.draws, minimum=self.candidates)
        shapes.check_number("keep_beta", self.keep_beta, above=0)
        for name in self.arms:
            shapes.check_choice("arms", name, ARMS)
        needs = {name for name in (RSO, *([OFFLINE] if self.ratio else ())) if name in self.arms}
        if needs and DPO not in self.arms:
            raise ValueError(
                f"arms must hold dpo, with whose first round {', '.join(sorted(needs))} shares its "
                f"labels; got {', '.join(self.arms)}. Add it."
            )
        most = min(self.data.prompts, self.data.demonstrations if SPIN in self.arms else 1 << 62)
        if self.rounds * self.prompts > most:
            raise ValueError(
                f"rounds x prompts must be at most the rows of the data; got {self.rounds} x "
                f"{self.prompts} of {most}. Raise data.prompts and data.demonstrations."
            )

    def course(self, space: lifecycle.Workspace) -> lifecycle.Course:
        return _Course(self, space)


class _Round(NamedTuple):
    """A round of an arm; dpo and offline share the first, in which SFT answers both."""

    arm: str
    number: int

    @property
    def name(self) -> str:
        """Of its folder."""
        return f"{self.arm}-{self.number}"


class _Course:
    """The stages, and the sampler that they share."""

    def __init__(self, config: RoundsLifecycle, space: lifecycle.Workspace):
        self.config, self.space, self.corpus = config, space, space.corpus
        self.world = self.corpus.world
        self.sample = space.sampler()

    @property
    def played(self) -> list[_Round]:
        """All rounds, in the order in which they are played."""
        shared = DPO in self.config.arms
        arms = sorted(set(self.config.arms) - {ONLINE}, key=lambda arm: (arm != DPO, arm))
        return [
            _Round(arm, number)
            for number in range(1, self.config.rounds + 1)
            for arm in arms
            if not (shared and (arm, number) == (OFFLINE, 1))
        ]

    def _before(self, own: _Round) -> str:
        """The stage whose policy a round goes on from."""
        if own.number == 1:
            return "sft"
        before = _Round(own.arm, own.number - 1)
        return before.name if before in self.played else _Round(DPO, 1).name

    def _training(self, own: _Round) -> Training:
        method = self.config.losses.get(own.arm)
        return (
            self.config.policy
            if method is None
            else lifecycle.changed(self.config.policy, method=method)
        )

    @property
    def stages(self) -> Sequence[lifecycle.Stage]:
        config = self.config

        def labelled(own: _Round) -> Any:
            return lambda: dataclasses.replace(config.data, pairs=str(self._labels(own)))

        listed = [
            lifecycle.Stage("pretrain", config.pretrain),
            lifecycle.Stage("sft", config.sft, policy="pretrain"),
        ]
        for own in self.played:
            if own == _Round(RSO, 1):
                judged = labelled(_Round(DPO, 1))
                listed.append(lifecycle.Stage("reward", config.reward, policy="sft", data=judged))
            before = self._before(own)
            listed.append(
                lifecycle.Stage(
                    own.name,
                    self._training(own),
                    policy=before,
                    reference=before if own.arm in FRESH else "sft",
                    data=labelled(own),
                )
            )
        if ONLINE in config.arms:
            listed.append(lifecycle.Stage(ONLINE, config.online, policy="sft", reference="sft"))
        return listed

    def _labels(self, own: _Round) -> pathlib.Path:
        """The file of a round's pairs: answered and labelled, once."""
        file = self.space.folder / "labels" / f"{own.name}.npz"
        if not processes.from_first(file.exists):
            table = self._demonstrated(own) if own.arm == SPIN else self._judged(own)
            held = max(len(table["tokens"]) // 10, 1)
            parts = (
                {k: x[held:] for k, x in table.items()},
                {k: x[:held] for k, x in table.items()},
            )
            file.parent.mkdir(parents=True, exist_ok=True)
            processes.only_first(lambda: corpora.write_pairs(file, *parts))
        processes.check_shared(file)
        return file

    def _answers(self, own: _Round, prompts: np.ndarray, draws: int, score: Any = None) -> Any:
        """Completions of prompts [P, W], `draws` of each, by the policy that answers in a round."""
        name = "sft" if own.arm in BY_SFT else self._before(own)
        policy = self.space.policy(name)
        repeated = np.repeat(prompts, draws, axis=0)
        lengths = np.full(len(repeated), self.world.prompt_length, np.int32)
        seed = keys.integers(self.config.seed, f"answers/{own.name}")[1]
        table = {"prompts": repeated, "lengths": lengths}
        return self.sample(policy, policy, table, seed, reward=score)

    def _rows(self, own: _Round, table: np.ndarray) -> np.ndarray:
        begin = (own.number - 1) * self.config.prompts
        return table[begin : begin + self.config.prompts]

    def _judged(self, own: _Round) -> tables.Table:
        """Answers of a round's prompts, every two of them labelled by Bradley and Terry."""
        config, count = self.config, self.config.candidates
        prompts = self._rows(own, self.corpus.read("prompts", "train")["prompts"])
        rng = np.random.default_rng(keys.integers(config.seed, f"labels/{own.name}"))
        score = self.space.scorer("reward") if own.arm == RSO else None
        draws = config.draws if own.arm == RSO else count
        drawn = self._answers(own, prompts, draws, score)
        shape = (len(prompts), draws)
        tokens, lengths = drawn.tokens.reshape(*shape, -1), drawn.lengths.reshape(shape)
        if own.arm == RSO:
            kept = rejection.accepted(
                drawn.score.reshape(shape), count, beta=config.keep_beta, rng=rng
            )
            tokens = np.take_along_axis(tokens, kept[..., None], axis=1)
            lengths = np.take_along_axis(lengths, kept, axis=1)
        golds = self.corpus.gold(tokens.reshape(-1, tokens.shape[-1]), lengths.reshape(-1))
        golds = golds.reshape(lengths.shape)
        start, temperature = self.world.prompt_length, config.temperature
        table = label_pairs(rng, tokens, lengths, golds, temperature, start=start)
        return most_against_least(table) if own.arm == SPPO else table

    def _demonstrated(self, own: _Round) -> tables.Table:
        """Demonstrations that win against the policy's answers to their prompts."""
        start = self.world.prompt_length
        table = self.corpus.read("demonstrations", "train")
        shown, real = (self._rows(own, table[name]) for name in ("tokens", "segments"))
        drawn = self._answers(own, shown[:, :start], 1)
        tokens = np.stack([shown, drawn.tokens], axis=1)
        lengths = np.stack([(real > 0).sum(axis=1), drawn.lengths], axis=1)
        golds = self.corpus.gold(tokens.reshape(-1, tokens.shape[-1]), lengths.reshape(-1))
        order = np.tile(np.arange(2, dtype=np.int32), (len(tokens), 1, 1))
        return {
            **corpora.rows(tokens, lengths, start=start),
            "gold": golds.reshape(lengths.shape),
            "preferred": order,
            "pair_mask": np.any(tokens[:, 0] != tokens[:, 1], axis=1)[:, None],
        }

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

    def report(self) -> tuple[dict[str, Any], list[lifecycle.Gate]]:
        names = ["sft", *(own.name for own in self.played)]
        names += [ONLINE] if ONLINE in self.config.arms else []
        evaluated = {name: self._evaluate(name) for name in names}
        start = evaluated["sft"]["gold"]["value"]
        rows = [
            {"stage": name, "label": name, "family": name.partition("-")[0], "metrics": numbers}
            for name, numbers in evaluated.items()
        ]
        for row in rows:
            row["metrics"]["gain"] = {"value": row["metrics"]["gold"]["value"] - start}
        gates = []
        if self.config.ratio:
            last = self.config.rounds
            gains = [evaluated[f"{arm}-{last}"]["gain"]["value"] for arm in (DPO, OFFLINE)]
            ratio = gains[0] / gains[1]
            gates.append(lifecycle.Gate("dpo gain / offline gain", ratio, ">=", self.config.ratio))
        results = {
            "title": "ReviewWorld: rounds of preferences",
            "description": "Each round has other prompts and as many labels. Gain: reward above "
            "that of SFT. dpo and offline share round 1.",
            "environment": lifecycle.environment(),
            "seconds": self.space.seconds,
            "columns": [
                {"key": name, "label": name, "digits": 3}
                for name in ("gold", "gain", "kl", "length")
            ],
            "rows": rows,
            "frontier": None,
            "curves": [
                {"stage": own.name, "label": own.name, "keys": ["loss"]} for own in self.played
            ],
            "samples": [],
            "gates": [gate.as_dict() for gate in gates],
            "notes": [],
        }
        return results, gates


def most_against_least(table: tables.Table) -> tables.Table:
    """The answer of each prompt that won most of its comparisons against the one that won least.

    Ties between them go to the earlier answer; a prompt whose answers won as often is left out.
    """
    preferred, mask = table["preferred"], table["pair_mask"]
    count = table["tokens"].shape[1]
    wins = np.stack([((preferred[:, :, 0] == k) & mask).sum(axis=1) for k in range(count)], axis=1)
    best, worst = wins.argmax(axis=1), wins.argmin(axis=1)
    order = np.stack([best, worst], axis=1)[:, None].astype(np.int32)
    kept = wins.max(axis=1) > wins.min(axis=1)
    return {**table, "preferred": order, "pair_mask": kept[:, None]}
