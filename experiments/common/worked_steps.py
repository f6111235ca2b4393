"""Worked answers cut into steps, one of which may hold a wrong result: labels without people."""

import dataclasses
import re

import numpy as np

from alignjax.core import shapes
from alignjax.data import corpus, encoding, examples, instructions, rows

RESULT = re.compile(r"<<[^<>]*=(-?[0-9]+)>>(?=\1(?![0-9.,]))")  # its number stands behind it
MARK = re.compile(r"<<[^<>]*>>")
ANSWER = "####"


@dataclasses.dataclass(kw_only=True)
class WorkedStepsConfig(instructions.InstructConfig):
    """Questions with worked answers, a line a step, whose results stand in <<..=result>>.

    An answer is cut behind a step drawn at random; with probability `wrong` the result of that step
    is replaced by another number, so that it is the first wrong step, and the last of the row.
    Labels of what comes behind a first error are not asked for.
    Reference: labels up to the first error: Lightman et al. 2023, section 2.4.
    """

    wrong: float = 0.5  # chance that the last step of a row is wrong
    longest: int = 0  # characters of a question with its steps; longer rows are left out; 0: none
    steps_seed: int = 0

    def validate(self) -> None:
        super().validate()
        shapes.check_number("data.wrong", self.wrong, minimum=0, maximum=1)
        for name in ("longest", "steps_seed"):
            shapes.check_number(f"data.{name}", getattr(self, name), minimum=0)

    def make(self, log: corpus.Log) -> corpus.Corpus:
        base = super().make(log)
        options = encoding.Options(length=self.length, prompt_length=self.prompt_length)

        def table(kind: str, split: str) -> corpus.Table:
            if kind != "steps":
                return base.table(kind, split)
            columns, counts = examples.table(
                self.labelled(base, split), kind, base.speaker, options,
                max_truncated_share=self.max_truncated_share,
            )  # fmt: skip
            log(f"{kind} of {split}: {counts}")
            return columns

        own = f"{self.wrong} {self.longest} {self.steps_seed}"
        return base._replace(
            kinds=(*base.kinds, "steps"),
            table=table,
            fingerprints={**base.fingerprints, "steps": own},
        )

    def prepared(self, log: corpus.Log, cache) -> corpus.Corpus:
        return self.make(log)

    def labelled(self, base: corpus.Corpus, split: str) -> list[rows.Steps]:
        """The rows of a split that have a result to spoil."""
        rng = np.random.default_rng([self.steps_seed, *split.encode()])
        found = []
        for index, task in enumerate(base.tasks(split)):
            lines = [line for line in task[self.answer].split("\n") if line.strip()]
            lines = [line for line in lines if not line.startswith(ANSWER)]
            places = [i for i, line in enumerate(lines) if RESULT.search(line)]
            if not places:
                continue
            last = int(rng.choice(places))
            spoiled = bool(rng.random() < self.wrong)
            marked = [*lines[:last], spoil(lines[last], rng) if spoiled else lines[last]]
            prompt = tuple(base.conversation(split, index))
            steps = tuple(MARK.sub("", step) for step in marked)
            labels = (*[1.0] * last, float(not spoiled))
            if self.longest and sum(map(len, (prompt[-1].text, *steps))) > self.longest:
                continue
            found.append(rows.Steps(prompt=prompt, steps=steps, labels=labels))
        return found


def spoil(line: str, rng: np.random.Generator) -> str:
    """The line with the number behind its last result replaced by another of about its size."""
    match = list(RESULT.finditer(line))[-1]
    right = int(match[1])
    wrong = right
    while wrong == right:
        wrong = right + int(rng.integers(-max(abs(right) // 2, 5), max(abs(right) // 2, 5) + 1))
        wrong = abs(wrong) if right >= 0 else wrong
    behind = line[match.end() :].removeprefix(match[1])
    return f"{line[: match.start()]}{wrong}{behind}"
