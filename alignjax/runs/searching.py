"""What a search needs, opened: a policy with questions and their answers, and a scorer."""

import contextlib
import pathlib
from collections.abc import Iterator, Sequence
from typing import Any, NamedTuple

import numpy as np

from alignjax.data import containers, retokenise, step_ends
from alignjax.parallel import hosts
from alignjax.runs import answers, evaluation, targets
from alignjax.search import scorer as scorers
from alignjax.text import chat
from alignjax.training import method as methods

QUESTIONS = ("prompt", "question")  # columns of a file that may hold the question


class Asked(NamedTuple):
    """A policy, or open weights, and its questions. workdir: a run. model: open weights instead.
    prompts: file of rows with a question and an answer; "" is the run's eval split. answer: column
    of the right answer. limit: so many questions, 0 is all."""

    workdir: str = ""
    model: str = ""
    template: str = ""
    date: str = ""
    prompts: str = ""
    answer: str = "answer"
    limit: int = 0
    best: bool = False
    definitions: str = ""


class Opened(NamedTuple):
    """model, params: the policy, bound. text: ids -> text. speaker: None in worlds without text.
    prompts [P, W], lengths [P]: right-padded. questions: as turns, or as a text of the world.
    ends_at: ids at which answers end. right: the answer of each. ends: of steps, None where there
    are none. world: the fingerprint of a world. identity: what the policy is."""

    model: Any
    params: Any
    text: Any
    speaker: Any
    ends_at: tuple[int, ...]
    pad: int
    prompts: np.ndarray
    lengths: np.ndarray
    questions: Sequence[Any]
    right: Sequence[Any]
    ends: step_ends.StepEnds | None
    world: str
    identity: dict[str, str]


@contextlib.contextmanager
def opened(asked: Asked) -> Iterator[Opened]:
    """The policy with its questions; for a run, inside its mesh.

    Raises:
      ValueError: both or none of workdir and model, a run without a policy or without questions
        that have answers, a file without them.
    """
    if bool(asked.workdir) == bool(asked.model):
        raise ValueError(
            "--workdir or --model must be given, and not both; got "
            f"{asked.workdir!r} and {asked.model!r}. Name the policy."
        )
    if asked.workdir and not pathlib.Path(asked.workdir).is_dir():
        raise ValueError(f"--workdir must be the folder of a run; got {asked.workdir!r}.")
    if asked.model and not asked.prompts:
        raise ValueError("--prompts must come with --model; got ''. Name a file of questions.")
    rows = read(asked.prompts, asked.answer, asked.limit) if asked.prompts else []
    if asked.model:
        with targets.opened("", asked.model, template=asked.template, date=asked.date) as own:
            ends = step_ends.of_text(own.speaker)
            ids, lengths = _encoded(own.speaker, [q for q, _ in rows], own.pad)
            yield Opened(
                own.model, own.params, lambda x: chat.sampled_text(own.speaker, x), own.speaker,
                own.ends, own.pad, ids, lengths, [q for q, _ in rows], [a for _, a in rows], ends,
                "", own.identity,
            )  # fmt: skip
        return
    place = pathlib.Path(asked.workdir)
    with evaluation.language_model(place, best=asked.best, definitions=asked.definitions) as run:
        yield _of_run(run, asked, rows)


def _of_run(run: evaluation.Run, asked: Asked, rows: list[tuple[Any, Any]]) -> Opened:
    corpus = run.corpus
    if rows:
        if corpus.speaker is None:
            raise ValueError(
                "--prompts needs data with a tokenizer; this run's world has fixed prompts. Leave "
                "it out."
            )
        ids, lengths = _encoded(corpus.speaker, [q for q, _ in rows], corpus.pad)
    else:
        rows, ids, lengths = _held_out(run, asked)
    told = {"run": asked.workdir, "weights": answers.fingerprint(run.where)}
    return Opened(
        run.model(methods.POLICY), run.joined(methods.POLICY), corpus.text, corpus.speaker,
        corpus.ends, corpus.pad, ids, lengths, [q for q, _ in rows], [a for _, a in rows],
        step_ends.of_corpus(corpus), corpus.fingerprints.get("world", ""), told,
    )  # fmt: skip


def _held_out(
    run: evaluation.Run, asked: Asked
) -> tuple[list[tuple[Any, Any]], np.ndarray, np.ndarray]:
    """(question and right answer of each prompt of the eval split, their ids, lengths)."""
    corpus = run.corpus
    if corpus.tasks is None:
        raise ValueError(
            "a run to search must have questions with answers; got data that have none "
            f"({asked.workdir}). Give --prompts."
        )
    table, tasks = corpus.read("prompts", "eval"), corpus.tasks("eval")
    size = min(asked.limit or len(table["lengths"]), len(table["lengths"]))
    index = table.get("index", np.arange(len(table["lengths"])))[:size]
    own = [tasks[int(i)] for i in index]
    missing = next((task for task in own if asked.answer not in task), None)
    if missing is not None:
        raise ValueError(
            f"--answer must be a column of every question; got {asked.answer!r}, and rows with "
            f"{', '.join(sorted(missing)) or 'none'}. Name the column of the right answer."
        )
    turns = corpus.conversation
    questions = [
        tuple(turns("eval", int(i))) if turns is not None else task.get("prompt", "")
        for i, task in zip(index, own, strict=True)
    ]
    rows = [(q, task[asked.answer]) for q, task in zip(questions, own, strict=True)]
    return rows, np.asarray(table["prompts"][:size]), np.asarray(table["lengths"][:size])


def read(path: str, answer: str, count: int = 0) -> list[tuple[tuple[chat.Turn, ...], Any]]:
    """(question as turns, right answer) of a file's rows.

    Raises:
      ValueError: a row without a question as text, or without the column `answer`; no rows.
    """
    found = list[tuple[tuple[chat.Turn, ...], Any]]()
    for part in containers.parts(path):
        for number, fields in part.rows():
            row = fields if isinstance(fields, dict) else {}
            name = next((n for n in QUESTIONS if isinstance(row.get(n), str)), "")
            if not name or row.get(answer) in (None, ""):
                raise ValueError(
                    f"rows of --prompts must have {' or '.join(QUESTIONS)} as text, and {answer}; "
                    f"got {', '.join(map(str, row)) or 'none'} ({path}, row {number})."
                )
            found.append(((chat.Turn(chat.HUMAN, row[name]),), row[answer]))
            if len(found) == count:
                return found
    if not found:
        raise ValueError(f"--prompts must have rows; got none ({path}).")
    return found


def _encoded(speaker: Any, questions: Sequence[Any], pad: int) -> tuple[np.ndarray, np.ndarray]:
    ids = [chat.encode_chat(speaker, own, generation_prompt=True)[0] for own in questions]
    lengths = np.array([len(own) for own in ids], np.int32)
    tokens = np.full((len(ids), int(lengths.max())), pad, np.int32)
    for row, own in zip(tokens, ids, strict=True):
        row[: len(own)] = own
    return tokens, lengths


def scorer(path: str, policy: Opened, *, how: str, rows: int) -> scorers.Scorer:
    """The scorer of a run's folder, on the mesh that is set. how: steps are joined so.

    Raises:
      ValueError: no run, one without a reward or process model, or of another tokenizer or world.
    """
    place = pathlib.Path(path)
    if not place.is_dir():
        raise ValueError(f"--scorer must be the folder of a run; got {path!r} (search).")
    run = evaluation.Run(place, evaluation.open_record(place))
    record = run.parts.record
    if methods.SCORER not in run.product or record.scores == methods.LABELS:
        raise ValueError(
            f"--scorer must be the run of a reward model or a process reward model; got {path}, a "
            f"run of {record.name} (search)."
        )
    _check_tokens(run, policy, path)
    model, params = run.model(methods.SCORER), run.joined(methods.SCORER)
    if record.scores != methods.STEPS:
        return scorers.of_answers(model, params, rows=rows)
    if policy.ends is None:
        raise ValueError(
            f"a process reward model must have answers in steps; got data without any ({path})."
        )
    return scorers.of_steps(model, params, policy.ends, eos=policy.ends_at, rows=rows, how=how)


def _check_tokens(run: evaluation.Run, policy: Opened, path: str) -> None:
    """Raises ValueError where a scorer reads other tokens than the policy writes."""
    own, other = run.corpus.speaker, policy.speaker
    if own is None or other is None:
        same = own is other and run.corpus.fingerprints.get("world", "") == policy.world
        why = "another world"
    else:
        same = own.fingerprint == other.fingerprint
        why = retokenise.first_difference(other, own) or "the same tokens in another layout"
    if not same:
        raise ValueError(
            f"--scorer must read the policy's tokens; got {why} ({path}, search). Train it on the "
            "policy's tokenizer and template."
        )


def check_rows(rows: int) -> None:
    """Raises ValueError where so many rows don't fit the mesh that is set."""
    hosts.check_rows("--rows", rows)
