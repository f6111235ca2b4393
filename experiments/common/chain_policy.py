"""ChainWorld with an exact policy: each step is right with a probability that is known."""

import dataclasses
import functools

import numpy as np

from alignjax.core import shapes, values
from alignjax.data import corpus, tables
from alignjax.search import labels, solutions
from alignjax.worlds import chain

EXACT, ROLLOUTS = "exact", "rollouts"


def make_draw(config: chain.ChainConfig, seed: int, *, one_step: bool = False) -> solutions.Draw:
    """Draws of the policy that errs with probability `document_error` at each step.

    A wrong step is another number, all alike; what follows goes on from it. one_step: a token only.
    """

    def draw(prompts: np.ndarray, lengths: np.ndarray, round: int = 0) -> solutions.Rows:
        rng = np.random.default_rng([seed, round])
        prompts, lengths = np.asarray(prompts), np.asarray(lengths)
        count, width = prompts.shape
        new = 1 if one_step else config.longest + 1
        tokens = np.full((count, width + new), chain.PAD, np.int32)
        tokens[:, :width] = np.where(np.arange(width) < lengths[:, None], prompts, chain.PAD)
        every, own, ended = np.arange(count), lengths.copy(), np.zeros(count, bool)
        starts = np.argmax(prompts == chain.EQUALS, axis=1) + 1
        for _ in range(new):
            place = own - starts
            number = np.where(place > 0, tokens[every, own - 1], tokens[:, 0])
            at = np.minimum(1 + 2 * place, width - 2)
            right = chain.applied(config, number, tokens[every, at], tokens[every, at + 1])
            shift = rng.integers(1, config.modulus, count)
            wrong = chain.FIRST + (right - chain.FIRST + shift) % config.modulus
            errs = rng.random(count) < config.document_error
            ends = place >= (starts - 2) // 2
            said = np.where(ends, chain.EOS, np.where(errs, wrong, right))
            live = ~ended
            tokens[every[live], own[live]] = said[live]
            own = np.where(live, own + 1, own)
            ended |= ends
        return solutions.Rows(tokens, lengths, own.astype(np.int32), ended)

    return draw


def last_numbers(config: chain.ChainConfig, tokens: np.ndarray, lengths: np.ndarray) -> np.ndarray:
    """[B]: the tokens before the end of rows that have ended."""
    return np.asarray(tokens)[np.arange(len(lengths)), np.asarray(lengths) - 2]


def right_numbers(
    config: chain.ChainConfig, prompts: np.ndarray, lengths: np.ndarray
) -> np.ndarray:
    """[P]: the token of the last result of each prompt."""
    answers, _ = chain.solve(config, prompts, lengths)
    return answers[np.arange(len(lengths)), (lengths - 2) // 2 - 1]


@dataclasses.dataclass(kw_only=True)
class LabelledChainConfig(chain.ChainConfig):
    """Labelled solutions of the exact policy: the same ones for steps and for outcomes.

    labels: exact, whether each step follows from the one before; or rollouts, the share of answers
    going on behind it that end in the right number. Outcomes are whether the last number is right,
    by luck or not.
    """

    labelled: int = 400  # solutions that are labelled for training
    labels: str = EXACT
    rollouts: int = 8

    def validate(self) -> None:
        super().validate()
        values.check_choice("data.labels", self.labels, (EXACT, ROLLOUTS))
        shapes.check_number("data.rollouts", self.rollouts, minimum=1)
        shapes.check_number("data.labelled", self.labelled, minimum=1, maximum=self.demonstrations)

    def make(self, log: corpus.Log) -> corpus.Corpus:
        self.validate()
        world = chain.make_corpus(self)

        @functools.cache
        def table(kind: str, split: str) -> corpus.Table:
            if kind not in ("steps", "scored"):
                return world.table(kind, split)
            columns = world.table("steps", split)
            if split == "train":
                columns = tables.take(columns, np.arange(self.labelled))
            rows = rows_of(columns)
            prompts = np.where(rows.sampled, chain.PAD, rows.tokens)[:, : self.prompt_length]
            right = right_numbers(self, prompts, rows.prompt_lengths)
            if kind == "scored":
                names = ("tokens", "loss_mask", "segments", "positions")
                outcome = last_numbers(self, rows.tokens, rows.lengths) == right
                return {
                    **{name: columns[name] for name in names},
                    "scores": outcome.astype(np.float32),
                }
            if self.labels == ROLLOUTS:
                found = labels.by_rollouts(
                    make_draw(self, self.seed + 1), rows, columns["step_mask"],
                    np.arange(len(rows.lengths)),
                    lambda own, owner: last_numbers(self, own.tokens, own.lengths) == right[owner],
                    rollouts=self.rollouts,
                )  # fmt: skip
                columns = {**columns, "step_labels": found.labels.astype(np.float32)}
            return columns

        return world._replace(table=table)


def rows_of(columns: corpus.Table) -> solutions.Rows:
    """The rows of a table of ended answers."""
    lengths = (columns["segments"] > 0).sum(axis=1).astype(np.int32)
    prompts = np.argmax(columns["loss_mask"], axis=1).astype(np.int32)
    return solutions.Rows(columns["tokens"], prompts, lengths, np.ones(len(lengths), bool))
