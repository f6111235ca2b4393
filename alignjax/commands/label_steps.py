"""alignjax label-steps: a policy's solutions with labels of their steps, made by rollouts."""

import hashlib
import json
import os
import pathlib
from collections.abc import Iterator, Mapping, Sequence
from typing import Any

import numpy as np

from alignjax.cli import flags
from alignjax.commands import common, search
from alignjax.core import shapes, untrusted, values
from alignjax.data import step_ends
from alignjax.feedback import harvest
from alignjax.runs import searching
from alignjax.search import extract, labels, solutions
from alignjax.text import chat

STEPS, OUTCOMES = "steps", "outcomes"
OPTIONS = (
    *search.QUESTIONS,
    flags.Option("to", str, "", "file to write, .jsonl; the same command goes on with it"),
    flags.Option("kind", str, STEPS, f"{STEPS} (stepwise rows) | {OUTCOMES} (scored rows)"),
    flags.Option("solutions", int, 4, "answers to a question"),
    flags.Option("rollouts", int, 8, "answers that go on behind each step"),
    flags.Option("labels", str, labels.SOFT, "soft: the share that is right | hard: whether any"),
    *common.SAMPLING,
    common.BEST,
    common.DEFINITIONS,
    common.DEBUG,
)
NEEDS_CONFIG = False
# Options that change no row: what the policy and the questions hold counts, not where they lie.
FREE = ("to", "debug", "definitions", "workdir", "model", "prompts")


def main(parsed: flags.Parsed) -> None:
    """Writes rows question by question, reads them back, and prints what they hold."""
    options = parsed.options
    config, file = search.sampling_of(options), _file(options)
    for name in ("solutions", "rollouts"):
        shapes.check_number(f"--{name}", options[name], minimum=1)
    values.check_choice("--kind", options["kind"], (STEPS, OUTCOMES))
    values.check_choice("--labels", options["labels"], labels.LABELS)
    with searching.opened(search.asked_of(options)) as policy:
        searching.check_rows(options["rows"])
        if policy.speaker is None or policy.ends is None:
            raise ValueError(
                "a run whose steps are labelled must have data with a tokenizer; got a world "
                f"without text ({options['workdir']}, label-steps)."
            )
        extract.golds(extract.extractor(options["extract"]), policy.right)
        shared = {"eos": policy.ends_at, "pad": policy.pad, "rows": options["rows"]}
        draw = solutions.make_draw(
            policy.model, policy.params, config, seed=options["seed"], **shared
        )
        writer = _Writer(file, _settings(options, policy))
        if writer.done:
            common.log(f"goes on behind {writer.done} of {len(policy.lengths)} questions")
        for number in range(writer.done, len(policy.lengths)):
            writer.add(list(_rows(options, policy, draw, number)))
    told = writer.finish()
    harvest.check_back(file, told["rows"])
    print(json.dumps(told))
    print(f"written: {file}")


def _file(options: Mapping[str, Any]) -> pathlib.Path:
    file = pathlib.Path(options["to"])
    if file.suffix != ".jsonl" or file.is_dir():
        raise ValueError(f"--to must be a file that ends in .jsonl; got {options['to']!r}.")
    return file


def _settings(options: Mapping[str, Any], policy: searching.Opened) -> dict[str, Any]:
    """All on which the rows depend."""
    own = {name: value for name, value in options.items() if name not in FREE}
    content = hashlib.sha256(repr([policy.prompts.tolist(), list(policy.right)]).encode())
    return {**own, "policy": policy.identity["weights"], "questions": content.hexdigest()}


def _rows(
    options: Mapping[str, Any], policy: searching.Opened, draw: solutions.Draw, number: int
) -> Iterator[dict[str, Any]]:
    """The rows of a question's solutions; one without a step gives none."""
    find, size = extract.extractor(options["extract"]), options["solutions"]
    one, gold = slice(number, number + 1), extract.gold(find, policy.right[number])

    def is_right(rows: solutions.Rows, owner: np.ndarray) -> np.ndarray:
        texts = [policy.text(rows.completion(i)) for i in range(len(rows.lengths))]
        found = [find(text) for text in texts]
        return np.array([own is not None and own == gold for own in found])

    prompts, lengths = np.repeat(policy.prompts[one], size, 0), np.repeat(policy.lengths[one], size)
    rows, owner = draw(prompts, lengths, 2 * number), np.full(size, number)
    asked = _asked(policy.questions[number])
    if options["kind"] == OUTCOMES:
        for i, right in enumerate(is_right(rows, owner)):
            text = policy.text(rows.completion(i))
            if text.strip():
                yield {"prompt": asked, "completion": text, "score": float(right)}
        return
    assert policy.ends is not None  # checked before anything is sampled
    ends = np.asarray(step_ends.mask(policy.ends, rows.tokens, rows.sampled, policy.ends_at))
    found = labels.by_rollouts(
        draw, rows, ends, owner, is_right,
        rollouts=options["rollouts"], kind=options["labels"], round=2 * number + 1,
    )  # fmt: skip
    for i, right in enumerate(found.outcome):
        steps = labels.steps_of(rows, ends, i, policy.text)
        own = found.labels[i][ends[i]].tolist()
        if steps and all(step.strip() for step in steps):
            yield {"prompt": asked, "completions": steps, "labels": own, "correct": bool(right)}


def _asked(turns: Sequence[Any]) -> Any:
    """A question as the text of its one turn, or as messages."""
    if len(turns) == 1 and turns[0].role == chat.HUMAN:
        return turns[0].text
    names = {chat.HUMAN: "user"}
    return [{"role": names.get(turn.role, turn.role), "content": turn.text} for turn in turns]


class _Writer:
    """Rows of questions in a file that is whole only when all are there.

    Beside FILE.partial stands FILE.state.json: the settings, how many questions are in it, and its
    bytes by then; what was written behind them is cut off.
    """

    def __init__(self, file: pathlib.Path, settings: Mapping[str, Any]) -> None:
        self._file, self._settings = file, dict(settings)
        self._partial = file.with_suffix(".jsonl.partial")
        self._state = file.with_suffix(".state.json")
        self.done, size = 0, 0
        self._told = {"rows": 0, "steps": 0, "right": 0.0}
        if self._state.exists():
            state = untrusted.read_object(self._state, untrusted.RECORD)
            self._check(state["settings"])
            self.done, size, self._told = state["done"], state["bytes"], state["told"]
        elif file.exists():
            raise ValueError(
                "--to must be a new file, or one that this command wrote; got "
                f"{file} (label-steps)."
            )
        if file.exists():  # finished before
            os.replace(file, self._partial)
        file.parent.mkdir(parents=True, exist_ok=True)
        with self._partial.open("ab") as out:
            out.truncate(size)

    def _check(self, stored: Mapping[str, Any]) -> None:
        """Raises ValueError where the file was begun with other settings."""
        for name, value in self._settings.items():
            if stored.get(name) != value:
                raise ValueError(
                    f"--to must have been begun with the same settings; got {name} {value!r:.60}, "
                    f"and {stored.get(name)!r:.60} in {self._file} (label-steps). Use another file."
                )

    def add(self, rows: Sequence[Mapping[str, Any]]) -> None:
        """Adds the rows of the next question, whole or not at all."""
        text = "".join(json.dumps(row, ensure_ascii=False) + "\n" for row in rows)
        with self._partial.open("ab") as out:
            out.write(text.encode("utf-8"))
            out.flush()
            os.fsync(out.fileno())
        numbers = [n for row in rows for n in row.get("labels", [row.get("score")])]
        self._told["rows"] += len(rows)
        self._told["steps"] += len(numbers)
        self._told["right"] += float(sum(numbers))
        self.done += 1
        self._save()

    def _save(self) -> None:
        state = {
            "settings": self._settings, "done": self.done, "told": self._told,
            "bytes": self._partial.stat().st_size,
        }  # fmt: skip
        new = self._state.with_suffix(".new")
        new.write_text(json.dumps(state))
        os.replace(new, self._state)

    def finish(self) -> dict[str, Any]:
        """Puts the file in its place; what it holds: rows, steps, and the share of right ones.

        Raises:
          ValueError: there is no row.
        """
        if not self._told["rows"]:
            raise ValueError(
                f"solutions must have steps; got none of {self.done} questions (label-steps). Let "
                "answers be longer by --max_new_tokens."
            )
        self._save()
        os.replace(self._partial, self._file)
        steps = self._told["steps"]
        if self._told["right"] in (0.0, float(steps)):
            common.log(
                f"all {steps} labels are the same: no reward model learns from them. Take a policy "
                "that is right sometimes, or other questions."
            )
        return {**self._told, "right": self._told["right"] / max(steps, 1)}
