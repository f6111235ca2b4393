"""A language model as a suite's candidate: likelihoods of options and documents, and answers."""

from collections.abc import Iterable, Mapping, Sequence
from typing import Any, NamedTuple

import jax
import jax.numpy as jnp
import numpy as np

from alignjax.core import keys, shapes
from alignjax.evals.suites import layout, record
from alignjax.models import model as models
from alignjax.models import scoring
from alignjax.parallel import axes, hosts
from alignjax.rewards import option_judge
from alignjax.sampling import generate, transforms
from alignjax.text.tokenizers import interface

Ids = Sequence[int]


class Limits(NamedTuple):
    """rows: of a batch. length: tokens of a prompt with its answer at most. seed: of samples."""

    rows: int = 16
    length: int = 2048
    seed: int = 0


class Scores(NamedTuple):
    """[N] log-probabilities in nats, NaN: too long; [N] whether each token is the likeliest."""

    logprobs: np.ndarray
    greedy: np.ndarray


class Scorer:
    """Log-probabilities of continuations behind prefixes, each with a length of its own."""

    def __init__(self, model: models.Model, params: Any, limits: Limits) -> None:
        """params: bound.

        Raises:
          ValueError: rows below 1, or length below 2.
        """
        shapes.check_number("rows", limits.rows, minimum=1)
        shapes.check_number("length", limits.length, minimum=2)
        self._params, self._limits = params, limits
        size = axes.axis_size("batch")
        self._rows = -(-limits.rows // size) * size  # rows lie on all devices of the mesh

        @jax.jit
        def score(params: Any, batch: scoring.Batch) -> tuple[jax.Array, jax.Array]:
            mask = scoring.counted(batch)
            stats = scoring.token_stats(model, params, batch, want=("logprob", "top1"), mask=mask)
            total = jnp.sum(jnp.where(mask, stats.logprob, 0.0), axis=1)
            return total, jnp.all((stats.top1 == batch["tokens"]) | ~mask, axis=1)

        self._score = score

    def __call__(self, pairs: Sequence[tuple[Ids, Ids]]) -> Scores:
        """The scores of (prefix, continuation); a prefix has a token at least."""
        found = np.full(len(pairs), np.nan)
        greedy = np.zeros(len(pairs), bool)
        lengths = [len(prefix) + len(rest) for prefix, rest in pairs]
        for part, length in batches(lengths, self._rows, self._limits.length):
            chosen = [pairs[i] for i in part]
            batch, _ = option_judge.batch_of(chosen, self._rows, length)
            total, best = hosts.to_host(self._score(self._params, batch))
            found[part], greedy[part] = total[: len(part)], best[: len(part)]
        return Scores(found, greedy)


def batches(lengths: Sequence[int], rows: int, most: int) -> Iterable[tuple[list[int], int]]:
    """(row numbers, their batch's length) of rows that fit in, the longest first."""
    fitting = [i for i in np.argsort(-np.asarray(lengths, int), kind="stable") if
               lengths[i] <= most]  # fmt: skip
    for start in range(0, len(fitting), rows):
        part = [int(i) for i in fitting[start : start + rows]]
        yield part, layout.bucket(lengths[part[0]], most)


class Sampler:
    """Answers of a model; that to a prompt depends on its number alone, not on its neighbours."""

    def __init__(
        self,
        model: models.Model,
        params: Any,
        config: transforms.SamplingConfig,
        limits: Limits,
        own: layout.Layout,
    ) -> None:
        self._params, self._config, self._limits, self._layout = params, config, limits, own
        size = axes.axis_size("batch")
        self._rows = -(-limits.rows // size) * size
        self._draw = generate.make_generate(model, config, eos=own.ends, pad=own.pad)
        self._key = keys.stream(limits.seed, "suite")

    def __call__(self, prompts: Sequence[Ids]) -> list[record.Answer]:
        """The answer to each prompt."""
        answers = [record.Answer(None, False)] * len(prompts)
        room = self._limits.length - self._config.max_new_tokens
        for part, width in batches([len(p) for p in prompts], self._rows, room):
            wide = np.full((self._rows, width), self._layout.pad, np.int32)
            numbers = [part[min(i, len(part) - 1)] for i in range(self._rows)]
            for row, number in zip(wide, numbers, strict=True):
                row[: len(prompts[number])] = prompts[number]
            lengths = np.array([len(prompts[i]) for i in numbers], np.int32)
            columns = hosts.to_global({"prompts": wide, "lengths": lengths, "rows": np.array(
                numbers, np.int32)})  # fmt: skip
            drawn = hosts.to_host(
                self._draw(
                    self._params, columns["prompts"], columns["lengths"], self._key,
                    rows=columns["rows"],
                )
            )  # fmt: skip
            for i, number in enumerate(part):
                ids = drawn.tokens[i, drawn.prompt_lengths[i] : drawn.lengths[i]]
                answers[number] = record.Answer(self._layout.answer(ids), bool(drawn.ended[i]))
        return answers


def windows(ids: Ids, first: int, length: int) -> list[tuple[list[int], list[int]]]:
    """(context, tokens to be scored) of a document's windows of `length` tokens, each scored once.

    The first token follows `first`; a later window's first follows the token before it; the last
    window begins earlier, so that its tokens have all the context that fits.
    """
    whole = [first, *ids]
    parts = []
    for start in range(0, len(ids), length):
        end = min(start + length, len(ids))
        begin = start if end - start == length else max(end - length, 0)
        parts.append((whole[begin : start + 1], list(ids[start:end])))
    return parts


def make(
    model: models.Model,
    params: Any,
    own: layout.Layout,
    *,
    sampling: transforms.SamplingConfig,
    limits: Limits,
    identity: Mapping[str, str],
) -> record.Candidate:
    """The candidate of a language model.

    Args:
      params: bound. identity: of the weights; the hashes of the layout are added.

    Raises:
      ValueError: answers leave no room for prompts.
    """
    sampling.validate()
    if sampling.max_new_tokens >= limits.length:
        raise ValueError(
            f"--length must be above --max_new_tokens; got {limits.length} and "
            f"{sampling.max_new_tokens} (evaluate)."
        )
    scorer = Scorer(model, params, limits)
    sampler = Sampler(model, params, sampling, limits, own)

    def options(
        prompts: Sequence[record.Turns], options: Sequence[Sequence[str]]
    ) -> list[list[record.Likelihood]]:
        pairs, texts = [], []
        for turns, some in zip(prompts, options, strict=True):
            before = own.prompt(turns)
            texts += list(some)
            pairs += [(before, own.continuation(text, before)) for text in some]
        every = iter(_likelihoods(scorer(pairs), pairs, texts))
        return [[next(every) for _ in some] for some in options]

    def answers(conversations: Sequence[record.Turns]) -> list[record.Answer]:
        return sampler([own.prompt(turns) for turns in conversations])

    def documents(texts: Sequence[str]) -> list[record.Likelihood]:
        pairs, owners = [], []
        for number, text in enumerate(texts):
            parts = windows(*document_ids(own, text), limits.length - 1)
            pairs += parts
            owners += [number] * len(parts)
        found, sizes = scorer(pairs), [len(rest) for _, rest in pairs]
        totals = np.bincount(owners, found.logprobs, len(texts))
        tokens = np.bincount(owners, sizes, len(texts)).astype(int)
        greedy = np.bincount(owners, ~found.greedy, len(texts)) == 0
        return [
            record.Likelihood(float(totals[i]), int(tokens[i]), len(text.encode()), bool(greedy[i]))
            for i, text in enumerate(texts)
        ]

    return record.Candidate(options, answers, documents, {**identity, **own.hashes})


def document_ids(own: layout.Layout, text: str) -> tuple[list[int], int]:
    """(the ids of a document, the id that stands before it: BOS, or EOS where there is none)."""
    bos = own.tokenizer.bos_id
    if bos is None:
        return own.start(text), max(own.eos, 0)
    starts = own.tokenizer.starts_with_bos
    return own.tokenizer.encode(text, interface.SPECIAL if starts else interface.NOTHING), bos


def _likelihoods(
    scores: Scores, pairs: Sequence[tuple[Ids, Ids]], texts: Sequence[str]
) -> list[record.Likelihood]:
    columns = zip(scores.logprobs, scores.greedy, pairs, texts, strict=True)
    return [
        record.Likelihood(float(logprob), len(rest), len(text.encode()), bool(best))
        for logprob, best, (_, rest), text in columns
    ]
