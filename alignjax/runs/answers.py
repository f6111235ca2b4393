"""Several answers of a run's policy to every prompt, as text, with their log-probabilities."""

import hashlib
import json
import pathlib
from collections.abc import Mapping, Sequence
from typing import Any, NamedTuple

import numpy as np

from alignjax.core import keys
from alignjax.data import example, pipeline, tables
from alignjax.parallel import axes, hosts
from alignjax.parallel import mesh as meshes
from alignjax.runs import evaluation
from alignjax.sampling import diverse, generate, transforms
from alignjax.text import chat
from alignjax.training import checkpoint
from alignjax.training import method as methods

Turns = tuple[Any, ...]  # of chat.Turn


class Answers(NamedTuple):
    """prompts: N of them, as turns. texts, logprobs: of each the K answers; logprobs in nats, of
    all tokens of an answer, None where it was asked for otherwise than by the prompt. source: the
    run, a hash of its checkpoint, and how it was sampled. diversity: how far apart they lie."""

    prompts: list[Turns]
    texts: list[list[str]]
    logprobs: list[list[float | None]]
    source: Mapping[str, Any]
    diversity: diverse.Diversity


def answers(
    workdir: pathlib.Path,
    prompts: Sequence[Turns],
    count: int,
    *,
    config: transforms.SamplingConfig,
    seed: int,
    limit: int = 0,
    rows: int = 64,
    best: bool = False,
    definitions: str = "",
    template: str = "",
) -> Answers:
    """`count` answers of a run to each prompt.

    Args:
      prompts: conversations that end before the assistant speaks; none takes those of the run's
        eval split, the first `limit` of them. rows: answers sampled at once. template: of prompts
        in which the earlier answers stand (`diverse.sequential`); empty draws them independently.

    Raises:
      ValueError: the run trained no policy, has no tokenizer for the prompts, or one is too long;
        the template lacks a place.
    """
    record = evaluation.open_record(workdir, definitions=definitions)
    with meshes.use(meshes.make_mesh(record.config.mesh)):
        run = evaluation.Run(workdir, record, best=best)
        evaluation.check_part(run, methods.POLICY, workdir)
        turns, table = _encoded(run, prompts) if prompts else _held_out(run, limit)
        size = axes.axis_size("batch")  # rows lie on all devices of the mesh
        sampler = _Sampler(run, config, -(-rows // size) * size, keys.stream(seed, "collect"))
        sampling: dict[str, Any] = {n: getattr(config, n) for n in SAMPLING}
        logprobs: list[list[float | None]]
        if template:
            texts, other, left_out = _sequential(run, sampler, turns, table, count, template)
            logprobs = [[None] * count for _ in turns]
            # Of the first prompts alone, so that the comparison costs one batch.
            distances = diverse.text_distances(texts)[: len(other)]
            apart = diverse.diversity(distances, diverse.text_distances(other))
            sampling |= {"template": template, "earlier_answers_left_out": left_out}
        else:
            texts, logprobs = sampler.several(table, count)
            apart = diverse.diversity(diverse.text_distances(texts))
        source = {
            "run": str(workdir), "checkpoint": fingerprint(run.where), "seed": seed,
            "sampling": sampling,
        }  # fmt: skip
    return Answers(turns, texts, logprobs, source, apart)


class _Sampler:
    """Draws answers of a run; the n-th batch of all calls has the n-th key."""

    def __init__(
        self, run: evaluation.Run, config: transforms.SamplingConfig, rows: int, key: Any
    ) -> None:
        self._run, self.rows, self._key, self._number = run, rows, key, 0
        self._draw = generate.make_generate(
            run.model(methods.POLICY), config, eos=run.corpus.ends, pad=run.corpus.pad
        )
        self._policy = run.joined(methods.POLICY)

    def sampled(self, table: tables.Table) -> tuple[list[str], list[float]]:
        """(an answer to each prompt of a table, their log-probabilities)."""
        texts, logprobs = list[str](), list[float]()
        for batch, real in pipeline.in_order(table, self.rows):
            columns, key = hosts.to_global(batch), keys.at(self._key, self._number)
            drawn = self._draw(self._policy, columns["prompts"], columns["lengths"], key)
            own, self._number = hosts.to_host(drawn), self._number + 1
            texts += [
                self._run.corpus.text(own.tokens[i, own.prompt_lengths[i] : own.lengths[i]])
                for i in range(real)
            ]
            logprobs += np.where(own.mask, own.logprobs, 0.0).sum(axis=1)[:real].tolist()
        return texts, logprobs

    def several(
        self, table: tables.Table, count: int
    ) -> tuple[list[list[str]], list[list[float | None]]]:
        """(`count` independent answers to each prompt, their log-probabilities)."""
        wide = {name: np.repeat(x, count, axis=0) for name, x in table.items()}
        texts, logprobs = self.sampled(wide)
        starts = range(0, len(texts), count)
        return (
            [texts[i : i + count] for i in starts],
            [list(logprobs[i : i + count]) for i in starts],
        )


def _sequential(
    run: evaluation.Run,
    sampler: _Sampler,
    turns: list[Turns],
    table: tables.Table,
    count: int,
    template: str,
) -> tuple[list[list[str]], list[list[str]], int]:
    """(answers that see the earlier ones, independent ones to the first prompts, answers left
    out of prompts that had no room for them)."""
    speaker, size = run.corpus.speaker, run.corpus.prompt_length
    if speaker is None or any(not isinstance(turn, chat.Turn) for own in turns for turn in own):
        raise ValueError(
            "answers that see the earlier ones need a run with a tokenizer, and prompts without "
            "tools. Take --sampling=independent."
        )

    def ask(asked: Sequence[Turns], number: int) -> list[str]:
        ids = [example.cut_prompt(speaker, own, size)[0] for own in asked]
        return sampler.sampled(_table(ids, run.corpus.pad, size))[0]

    def fits(own: Turns) -> bool:
        return not example.cut_prompt(speaker, own, size)[2]

    texts, left_out = diverse.sequential(ask, turns, count, template=template, fits=fits)
    first = np.arange(min(len(turns), max(sampler.rows // count, 1)))
    other, _ = sampler.several(tables.take(table, first), count)
    return texts, other, left_out


SAMPLING = ("max_new_tokens", "temperature", "top_k", "top_p")


def fingerprint(workdir: pathlib.Path) -> str:
    """sha256 in hex of the checksums of a run's last checkpoint."""
    checkpoints = checkpoint.Checkpoints(workdir, read_only=True)
    try:
        checksums = checkpoints.meta(checkpoints.steps()[-1])["checksums"]
    finally:
        checkpoints.close()
    return hashlib.sha256(json.dumps(checksums, sort_keys=True).encode()).hexdigest()


def _held_out(run: evaluation.Run, limit: int) -> tuple[list[Turns], tables.Table]:
    """The prompts of the eval split; where rows are no text, their ids in words are a turn."""
    corpus = run.corpus
    table = corpus.read("prompts", "eval")
    size = min(limit or tables.count(table), tables.count(table))
    table = tables.take(table, np.arange(size))
    if corpus.conversation is not None and "index" in table:
        return [tuple(corpus.conversation("eval", int(i))) for i in table["index"]], table
    pairs = zip(table["prompts"], table["lengths"], strict=True)
    return [(chat.Turn(chat.HUMAN, corpus.text(ids[:end])),) for ids, end in pairs], table


def _encoded(run: evaluation.Run, prompts: Sequence[Turns]) -> tuple[list[Turns], tables.Table]:
    corpus = run.corpus
    if corpus.speaker is None:
        raise ValueError(
            "--prompts needs data with a tokenizer; this run's world has fixed prompts. Leave it "
            "out."
        )
    encoded = [chat.encode_chat(corpus.speaker, p, generation_prompt=True)[0] for p in prompts]
    for number, ids in enumerate(encoded, 1):
        if len(ids) > corpus.prompt_length:
            raise ValueError(
                f"a prompt must have at most the run's {corpus.prompt_length} tokens; got "
                f"{len(ids)} (prompt {number}). Shorten it."
            )
    return list(prompts), _table(encoded, corpus.pad, max(map(len, encoded)))


def _table(encoded: Sequence[Sequence[int]], pad: int, size: int) -> tables.Table:
    """The table of prompts of at most `size` tokens."""
    lengths = np.array([len(ids) for ids in encoded], np.int32)
    padded = np.full((len(encoded), size), pad, np.int32)
    for row, ids in zip(padded, encoded, strict=True):
        row[: len(ids)] = ids
    return {"prompts": padded, "lengths": lengths}
