"""A judge by a language model's own probabilities of a few options: no text is parsed.

The options are continuations of a prompt. Where each is one token, and all differ, one pass gives
all their log-probabilities; else every prompt is scored with every option behind it, whole.
"""

import string
from collections.abc import Callable, Sequence
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np
from scipy import special

from alignjax.core import shapes
from alignjax.losses import logprobs
from alignjax.models import model as models
from alignjax.models import scoring
from alignjax.parallel import hosts
from alignjax.rewards import judge
from alignjax.text.tokenizers import interface

PAIR = (
    "Which of two answers to a request is better?\n\nRequest: {prompt}\n\nAnswer 1: {first}\n\n"
    "Answer 2: {second}\n\nThe better one is answer "
)
SCORE = (
    "How good is an answer to a request, from 1, bad, to 5, very good?\n\nRequest: {prompt}\n\n"
    "Answer: {answer}\n\nIts score is "
)
Ids = Sequence[int]
# (prefixes, options) -> [N, M] log-probabilities of the options, nats; NaN: too long to be read.
Options = Callable[[Sequence[Ids], Sequence[Ids]], np.ndarray]


def option_logprobs(model: models.Model, params: Any, *, rows: int, length: int) -> Options:
    """The log-probabilities of options behind prefixes, `rows` rows of `length` tokens at once.

    params: bound. A prefix that does not fit with its longest option is NaN for all.

    Raises:
      ValueError: rows or length below 1; from the function: an option without tokens.
    """
    shapes.check_number("rows", rows, minimum=1)
    shapes.check_number("length", length, minimum=2)

    @jax.jit
    def last(params: Any, batch: scoring.Batch, ends: jax.Array, ids: jax.Array) -> jax.Array:
        hidden = scoring.hidden_states(model, params, batch)
        state = jnp.take_along_axis(hidden, ends[:, None, None], axis=1)  # [B, 1, D]
        count = ids.shape[0]
        return logprobs.token_logprobs(
            jnp.repeat(state, count, axis=1),
            model.unembedding(params),
            jnp.broadcast_to(ids[None], (state.shape[0], count)),
            softcap=model.logit_softcap,
            tile=model.logit_tile,
        )

    @jax.jit
    def whole(params: Any, batch: scoring.Batch) -> jax.Array:
        found = scoring.answer_logprobs(model, params, batch)
        return jnp.sum(jnp.where(scoring.counted(batch), found, 0.0), axis=1)

    def score(prefixes: Sequence[Ids], options: Sequence[Ids]) -> np.ndarray:
        if not options or not all(len(option) for option in options):
            raise ValueError("options must have a token each at least; got one without (judge).")
        found = np.full((len(prefixes), len(options)), np.nan)
        widest = max(map(len, options))
        fitting = [i for i, p in enumerate(prefixes) if 0 < len(p) <= length - widest]
        if is_single(options):
            ids = jnp.asarray([option[0] for option in options], jnp.int32)
            for part in _parts(fitting, rows):
                chosen = [list(prefixes[i]) for i in part]
                batch, ends = batch_of([(p, []) for p in chosen], rows, length)
                found[part] = hosts.to_host(last(params, batch, ends - 1, ids))[: len(part)]
            return found
        cells = [(i, m) for i in fitting for m in range(len(options))]
        for group in _parts(cells, rows):
            texts = [(list(prefixes[i]), list(options[m])) for i, m in group]
            values = hosts.to_host(whole(params, batch_of(texts, rows, length)[0]))
            for (i, m), value in zip(group, values, strict=False):
                found[i, m] = value
        return found

    return score


def is_single(options: Sequence[Ids]) -> bool:
    """Whether each option is one token of its own."""
    return all(len(option) == 1 for option in options) and len(set(map(tuple, options))) == len(
        options
    )


def _parts(items: Sequence[Any], size: int) -> list[list[Any]]:
    return [list(items[start : start + size]) for start in range(0, len(items), size)]


def batch_of(
    texts: Sequence[tuple[Ids, Ids]], rows: int, length: int
) -> tuple[dict[str, jax.Array], jax.Array]:
    """(rows of prefix and option, padded to `rows` of `length`; the rows' lengths)."""
    tokens, counted = np.zeros((rows, length), np.int32), np.zeros((rows, length), bool)
    ends = np.ones(rows, np.int32)
    for row, (prefix, option) in enumerate(texts):
        both = [*prefix, *option]
        tokens[row, : len(both)], ends[row] = both, len(both)
        counted[row, len(prefix) : len(both)] = True
    slot = np.broadcast_to(np.arange(length, dtype=np.int32), tokens.shape)
    batch = {
        "tokens": jnp.asarray(tokens),
        "loss_mask": jnp.asarray(counted),
        "segments": jnp.asarray((slot < ends[:, None]).astype(np.int32)),
        "positions": jnp.asarray(slot),
    }
    return batch, jnp.asarray(ends)


def local(
    model: models.Model,
    params: Any,
    tokenizer: interface.TextTokenizer,
    *,
    name: str = "local",
    pair_template: str = PAIR,
    options: tuple[str, str] = ("1", "2"),
    score_template: str = SCORE,
    levels: Sequence[str] = ("1", "2", "3", "4", "5"),
    rows: int = 8,
    length: int = 1024,
) -> judge.Judge:
    """A judge by the probabilities that a language model gives options behind a template.

    Args:
      params: bound. pair_template: with {prompt}, {first} and {second}; score_template: with
      {prompt} and {answer}. options: what names the first and the second. levels: the scores
      1 .. M in words. rows, length: of a batch, in tokens; longer prompts can't be read: NaN.

    Raises:
      ValueError: a template lacks a field, options are equal, or an option has no tokens.
    """
    for label, template, fields in (
        ("pair_template", pair_template, {"prompt", "first", "second"}),
        ("score_template", score_template, {"prompt", "answer"}),
    ):
        found = {field for _, field, _, _ in string.Formatter().parse(template) if field}
        if found != fields:
            raise ValueError(
                f"{label} must hold {', '.join(sorted(fields))} in braces; got "
                f"{', '.join(sorted(found)) or 'none'} (judge)."
            )
    score = option_logprobs(model, params, rows=rows, length=length)
    choices, scale = (_encoded(tokenizer, texts) for texts in (options, levels))

    def one(prompts: judge.Texts, first: judge.Texts, second: judge.Texts) -> np.ndarray:
        rows = zip(prompts, first, second, strict=True)
        texts = [pair_template.format(prompt=p, first=x, second=y) for p, x, y in rows]
        both = score([interface.document_start(tokenizer, text) for text in texts], choices)
        return np.asarray(both[:, 0] - both[:, 1])

    def distribution(prompts: judge.Texts, answers: judge.Texts) -> np.ndarray:
        rows = zip(prompts, answers, strict=True)
        texts = [score_template.format(prompt=p, answer=x) for p, x in rows]
        levels_of = score([interface.document_start(tokenizer, text) for text in texts], scale)
        return np.asarray(special.softmax(levels_of, axis=1))

    return judge.Judge(name, judge.both_orders(one), distribution)


def asker(
    model: models.Model,
    params: Any,
    tokenizer: interface.TextTokenizer,
    *,
    template: str,
    options: tuple[str, str] = ("yes", "no"),
    rows: int = 8,
    length: int = 1024,
) -> judge.Ask:
    """How a language model answers questions about answers: the logit of the first option.

    template: with {prompt}, {answer} and {question}; else as `local`.

    Raises:
      ValueError: options are equal, or one has no tokens.
    """
    score = option_logprobs(model, params, rows=rows, length=length)
    choices = _encoded(tokenizer, options)

    def ask(prompts: judge.Texts, answers: judge.Texts, question: str) -> np.ndarray:
        texts = [
            template.format(prompt=p, answer=x, question=question)
            for p, x in zip(prompts, answers, strict=True)
        ]
        both = score([interface.document_start(tokenizer, text) for text in texts], choices)
        return np.asarray(both[:, 0] - both[:, 1])

    return ask


def _encoded(tokenizer: interface.TextTokenizer, texts: Sequence[str]) -> list[list[int]]:
    """The ids of options behind a text.

    Raises:
      ValueError: two are equal, or one has no tokens.
    """
    ids = [tokenizer.encode(text, after=interface.TEXT) for text in texts]
    if len(set(map(tuple, ids))) < len(ids) or not all(ids):
        raise ValueError(
            f"options must differ and have a token at least each; got {', '.join(map(repr, texts))}"
            " (judge). Name others."
        )
    return ids
