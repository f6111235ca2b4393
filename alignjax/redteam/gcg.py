"""GCG: a suffix of tokens by the gradient of how likely a complying answer begins.

The gradient is that of the loss in the one-hot rows of the suffix's tokens; it proposes, and the
loss itself decides. What stands before the suffix is read once and its keys and values shared by
all candidates. A candidate that the tokenizer would read otherwise, once it is text between the
goal and the template, is dropped and counted: nobody could send it.

Reference: Zou et al. (2023), arXiv 2307.15043, algorithm 1; defaults as of nanoGCG.
"""

import dataclasses
import functools
from collections.abc import Callable, Sequence
from typing import Any, NamedTuple

import jax
import jax.numpy as jnp
import numpy as np

from alignjax.core import shapes, struct
from alignjax.losses import logprobs
from alignjax.models import model as models
from alignjax.sampling import prefill


@dataclasses.dataclass(frozen=True, kw_only=True)
class GcgConfig:
    """How a suffix is searched for."""

    steps: int = 250
    width: int = 512  # candidates of a step
    top: int = 256  # tokens of the gradient that a place chooses from
    replaced: int = 1  # places that a candidate changes
    tokens: int = 20  # of the suffix
    buffer: int = 1  # suffixes kept; the best one is changed
    rows: int = 64  # candidates read at once
    seed: int = 0

    def validate(self) -> None:
        for name in ("steps", "width", "top", "replaced", "tokens", "buffer", "rows"):
            shapes.check_number(f"gcg.{name}", getattr(self, name), minimum=1)
        if self.replaced > self.tokens:
            raise ValueError(
                f"gcg.replaced must be at most gcg.tokens; got {self.replaced} and {self.tokens}."
            )


class Task(NamedTuple):
    """before, after: ids around the suffix. wanted: ids of how a complying answer begins."""

    before: tuple[int, ...]
    after: tuple[int, ...]
    wanted: tuple[int, ...]


class Suffix(NamedTuple):
    """suffix: the best ids. loss: its mean, nats a token. losses: the buffer's best after every
    step. evaluations: losses computed. tokens: that the target read. dropped: candidates that do
    not re-tokenise to themselves."""

    suffix: tuple[int, ...]
    loss: float
    losses: tuple[float, ...]
    evaluations: int
    tokens: int
    dropped: int


Keeps = Callable[[Sequence[int]], bool]  # whether a suffix re-tokenises to itself


class Searcher:
    """Losses and gradients of suffixes, compiled once for a shape.

    params: bound and without adapters (`merge.whole`); the embedding is a plain array.
    """

    def __init__(self, model: models.Model, params: Any, rows: int = 64) -> None:
        self._model, self._params, self._rows = model, params, rows
        self._losses = jax.jit(functools.partial(_losses, model), static_argnums=(4,))
        self._prefix = jax.jit(functools.partial(_read_before, model), static_argnums=(2, 3))
        self._gradient = jax.jit(functools.partial(_gradient, model), static_argnums=(4,))

    def losses(self, task: Task, suffixes: np.ndarray, cache: Any = None) -> np.ndarray:
        """[N]: mean -log p of the wanted ids behind suffixes [N, S], nats a token."""
        cache = self.read(task, suffixes.shape[1]) if cache is None else cache
        wanted, found = np.array(task.wanted, np.int32), []
        for start in range(0, len(suffixes), self._rows):
            part = suffixes[start : start + self._rows]
            padded = np.concatenate([part, np.repeat(part[-1:], self._rows - len(part), axis=0)])
            own = self._losses(self._params, cache, padded, self._tail(task), len(wanted))
            found.append(np.asarray(own)[: len(part)])
        return np.concatenate(found)

    def read(self, task: Task, size: int) -> Any:
        """The cache of what stands before a suffix of `size` tokens, for all rows."""
        slots = len(task.before) + size + len(task.after) + len(task.wanted)
        before = np.array([task.before], np.int32)
        return self._prefix(self._params, before, slots, self._rows)

    def gradient(self, task: Task, suffix: np.ndarray) -> np.ndarray:
        """[S, V]: of the loss in the one-hot rows of a suffix [S]."""
        ids = np.array([*task.before, *suffix, *task.after, *task.wanted], np.int32)
        return np.asarray(
            self._gradient(self._params, ids, len(task.before), suffix, len(task.wanted))
        )

    def _tail(self, task: Task) -> np.ndarray:
        return np.array([*task.after, *task.wanted], np.int32)


def _places(count: int, first: int, rows: int) -> tuple[jax.Array, jax.Array]:
    positions = jnp.broadcast_to(first + jnp.arange(count, dtype=jnp.int32), (rows, count))
    return positions, jnp.ones_like(positions)


def _read_before(model: models.Model, params: Any, before: jax.Array, slots: int, rows: int) -> Any:
    lengths = jnp.full((1,), before.shape[1], jnp.int32)
    return prefill.read_prompts(model, params, before, lengths, slots, rows)[1]


def _nats(
    model: models.Model, params: Any, hidden: jax.Array, ids: jax.Array, wanted: int
) -> jax.Array:
    """[B]: mean -log p of the last `wanted` ids of rows [B, T] with states [B, T, D]."""
    found = logprobs.token_logprobs(
        hidden[:, -wanted - 1 : -1], model.unembedding(params), ids[:, -wanted:],
        softcap=model.logit_softcap, tile=model.logit_tile,
    )  # fmt: skip
    return -jnp.mean(found, axis=1)


def _losses(
    model: models.Model,
    params: Any,
    cache: Any,
    suffixes: jax.Array,
    tail: jax.Array,
    wanted: int,
) -> jax.Array:
    rows = suffixes.shape[0]
    ids = jnp.concatenate([suffixes, jnp.broadcast_to(tail, (rows, len(tail)))], axis=1)
    positions, segments = _places(ids.shape[1], 0, rows)
    hidden, _ = model.hidden(
        params, ids, positions=positions + cache.index, segments=segments, cache=cache
    )
    return _nats(model, params, hidden, ids, wanted)


def relaxed_loss(
    model: models.Model, params: Any, ids: jax.Array, first: int, onehot: jax.Array, wanted: int
) -> jax.Array:
    """The loss of ids [T] whose places from `first` on read mixtures [S, V] of embeddings.

    The mixtures are rows of their own behind the embedding's, so that any model of ours reads them.
    """
    table = params.embed
    unembed = table.T if params.unembed is None else params.unembed
    own = table.shape[0] + jnp.arange(len(onehot), dtype=ids.dtype)
    read = jax.lax.dynamic_update_slice(ids, own, (first,))[None]
    weights = struct.replace(
        params, embed=jnp.concatenate([table, onehot @ table]), unembed=unembed
    )
    positions, segments = _places(len(ids), 0, 1)
    hidden, _ = model.hidden(weights, read, positions=positions, segments=segments)
    return _nats(model, weights, hidden, ids[None], wanted)[0]


def _gradient(
    model: models.Model, params: Any, ids: jax.Array, first: int, suffix: jax.Array, wanted: int
) -> jax.Array:
    onehot = jax.nn.one_hot(suffix, params.embed.shape[0], dtype=params.embed.dtype)

    def loss(onehot: jax.Array) -> jax.Array:
        return relaxed_loss(model, params, ids, first, onehot, wanted)

    return jax.grad(loss)(onehot)


def candidates(
    suffix: np.ndarray, gradient: np.ndarray, legal: np.ndarray, config: GcgConfig, rng: Any
) -> np.ndarray:
    """[width, S]: the suffix with `replaced` places changed to ids of the steepest descent.

    gradient: [S, V]. legal: [V] bool, the ids that may stand in a suffix.
    """
    steep = np.where(legal, gradient, np.inf)
    count = min(config.top, int(legal.sum()))
    best = np.argsort(steep, axis=1, kind="stable")[:, :count]
    found = np.repeat(suffix[None], config.width, axis=0)
    for row in found:
        places = rng.permutation(len(suffix))[: config.replaced]
        row[places] = best[places, rng.integers(count, size=len(places))]
    return found


def search(
    searcher: Searcher,
    task: Task,
    legal: np.ndarray,
    config: GcgConfig,
    *,
    keeps: Keeps = lambda suffix: True,
    start: np.ndarray | None = None,
) -> Suffix:
    """The best suffix. The best loss of the buffer never rises.

    Args:
      legal: [V] bool. keeps: of a suffix, whether its text is read as its ids. start: [S] ids.

    Raises:
      ValueError: nothing is wanted, no id is legal, or no start re-tokenises to itself.
    """
    config.validate()
    if not task.wanted or not legal.any():
        raise ValueError(
            "gcg must have a wanted answer and legal tokens; got "
            f"{len(task.wanted)} and {int(legal.sum())} (gcg). Give goals a target."
        )
    rng, count = np.random.default_rng(config.seed), _Count(task, config.tokens)
    first = _start(legal, config, rng, keeps) if start is None else np.asarray(start, np.int32)
    cache = searcher.read(task, len(first))
    buffer = [(float(searcher.losses(task, first[None], cache)[0]), first)]
    count.evaluated(1)
    losses = [buffer[0][0]]
    for _ in range(config.steps):
        current = buffer[0][1]
        gradient = searcher.gradient(task, current)
        count.read_whole()
        proposed = candidates(current, gradient, legal, config, rng)
        kept = [row for row in np.unique(proposed, axis=0) if keeps(row)]
        count.dropped += len(np.unique(proposed, axis=0)) - len(kept)
        if kept:
            told = searcher.losses(task, np.stack(kept), cache)
            count.evaluated(len(kept))
            buffer += [(float(loss), row) for loss, row in zip(told, kept, strict=True)]
        buffer = sorted(buffer, key=lambda one: one[0])[: config.buffer]
        losses.append(buffer[0][0])
    best = tuple(int(i) for i in buffer[0][1])
    return Suffix(best, buffer[0][0], tuple(losses), count.losses, count.tokens, count.dropped)


class _Count:
    """What a search costs."""

    def __init__(self, task: Task, size: int) -> None:
        self._tail = size + len(task.after) + len(task.wanted)
        self._before = len(task.before)
        self.losses, self.tokens, self.dropped = 0, self._before, 0

    def evaluated(self, rows: int) -> None:
        self.losses += rows
        self.tokens += rows * self._tail

    def read_whole(self) -> None:
        """For a gradient."""
        self.tokens += self._before + self._tail


def _start(legal: np.ndarray, config: GcgConfig, rng: Any, keeps: Keeps) -> np.ndarray:
    for _ in range(1000):
        own = rng.choice(np.flatnonzero(legal), size=config.tokens).astype(np.int32)
        if keeps(own):
            return own
    raise ValueError(
        f"a suffix of {config.tokens} tokens must re-tokenise to itself; got none in 1000 tries "
        "(gcg). Take fewer tokens."
    )
