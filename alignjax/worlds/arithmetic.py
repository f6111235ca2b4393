"""Arithmetic in words: questions with exact answers, for a tokenizer of open weights.

Rungs of a ladder, so that a model of any skill finds one that it solves sometimes:

    ones      3 + 8            two numbers of one digit
    tens      27 + 58          two numbers of two digits
    products  7 * 8 + 5        a product, then a sum

Every problem of a rung is known: the eval split is a part of them that training never sees.
"""

import dataclasses
import hashlib
import itertools
import json
from collections.abc import Iterator

import numpy as np

from alignjax.core import shapes
from alignjax.data import corpus, instructions
from alignjax.text import chat

RUNGS = ("ones", "tens", "products")


@dataclasses.dataclass(kw_only=True)
class ArithmeticConfig(instructions.RowsConfig, corpus.DataConfig):
    """A rung of the ladder, how its problems are asked, and how many are held out."""

    rung: str = "tens"  # ones | tens | products
    question: str = "What is {problem}? Answer with the number only."  # with {problem}
    answer: str = "{answer}"  # of demonstrations, with {answer}
    seed: int = 0  # of the order of problems, and so of what is held out
    train_rows: int = 0  # use only so many problems for training; 0 is all
    eval_rows: int = 0  # problems held out; 0 is a fifth of them, at most 512
    length: int = 64  # tokens of a row: question and answer
    prompt_length: int = 48  # most tokens of a question
    max_truncated_share: float = 0.0  # a question that is cut is another one

    def validate(self) -> None:
        self.validate_rows()
        shapes.check_choice("data.rung", self.rung, RUNGS)
        for name in ("seed", "train_rows", "eval_rows"):
            shapes.check_number(f"data.{name}", getattr(self, name), minimum=0)
        for name, part in (("question", "{problem}"), ("answer", "{answer}")):
            if getattr(self, name).count(part) != 1:
                raise ValueError(
                    f"data.{name} must hold {part} once; got {getattr(self, name)!r} (data)."
                )
        total = len(list(problems(self.rung)))
        if self.held_out + max(self.train_rows, 1) > total:
            raise ValueError(
                f"data.eval_rows and train_rows must be at most {total} together, the problems of "
                f"the rung {self.rung}; got {self.held_out} and {self.train_rows} (data). Lower "
                "them, or take another rung."
            )

    @property
    def held_out(self) -> int:
        """Problems of the eval split."""
        return self.eval_rows or min(len(list(problems(self.rung))) // 5, 512)

    def make(self, log: corpus.Log) -> corpus.Corpus:
        self.validate()
        splits = {split: draw(self, split) for split in ("train", "eval")}
        return instructions.make_corpus(self, self.make_format(), splits, log)

    def outline(self) -> corpus.Corpus:
        return instructions.outline(self)

    def where(self) -> tuple[str, ...]:
        return ("tokenizer",)


def problems(rung: str) -> Iterator[tuple[str, int]]:
    """(problem, its value) of every problem of a rung, in order."""
    if rung == "products":
        for a, b, c in itertools.product(range(2, 13), range(2, 13), range(1, 21)):
            yield f"{a} * {b} + {c}", a * b + c
        return
    numbers = range(10) if rung == "ones" else range(10, 100)
    for a, b in itertools.product(numbers, numbers):
        yield f"{a} + {b}", a + b


def draw(config: ArithmeticConfig, split: str) -> instructions.Split:
    """The rows of a split: the problems of the rung in an order that the seed tells."""
    every = list(problems(config.rung))
    order = np.random.default_rng([config.seed, *config.rung.encode()]).permutation(len(every))
    held = config.held_out
    chosen = order[:held] if split == "eval" else order[held:]
    if split == "train" and config.train_rows:
        chosen = chosen[: config.train_rows]
    rows = [_row(config, *every[i]) for i in chosen]
    identity = json.dumps([[row.columns["question"], row.turns[1].text] for row in rows])
    return instructions.Split(rows, hashlib.sha256(identity.encode()).hexdigest())


def _row(config: ArithmeticConfig, problem: str, value: int) -> instructions.Row:
    question = config.question.replace("{problem}", problem)
    told = config.answer.replace("{answer}", str(value))
    turns = (chat.Turn(chat.HUMAN, question), chat.Turn(chat.ASSISTANT, told))
    return instructions.Row(turns, {"question": question, "problem": problem, "answer": value})
