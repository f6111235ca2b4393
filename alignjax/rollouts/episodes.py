"""Episodes: a policy and an environment in turn, until the environment says that it is done.

Token in, token out: what was sampled stays in the row as it is, and nothing is decoded and encoded
again. Turn t samples behind a prompt of P + opening + t (N + O) tokens at most, N of an answer and
O of an observation: one compilation a turn.
"""

from collections.abc import Callable, Mapping, Sequence
from typing import Any, NamedTuple

import jax
import numpy as np

from alignjax.envs import env as envs
from alignjax.models import model as models
from alignjax.parallel import hosts
from alignjax.sampling import generate, transforms
from alignjax.training import algorithm, method

STREAM = 0x656E76  # of an environment's keys: no row of a batch has that number


class Play(NamedTuple):
    """An environment at work, its sizes, and the rows of the data that it is told of, by number."""

    config: envs.EnvConfig
    env: envs.Env
    tasks: Sequence[Mapping[str, Any]] | None = None


class Episodes(NamedTuple):
    """Samples whose mask is true on answers alone; turns, returns: [R]."""

    samples: generate.Samples
    turns: jax.Array
    returns: jax.Array


# (bound params, columns of R rows, key, rows of each prompt) -> Episodes.
Run = Callable[[models.Params, algorithm.Batch, jax.Array, int], Episodes]


def of_config(config: envs.EnvConfig | None, task: method.Task | None, *, eos: int) -> Play | None:
    """The environment of a configuration over the data of a task; None where there is none.

    Raises:
      ValueError: an option is wrong, or the data do not fit.
    """
    if config is None:
        return None
    config.validate()
    speaker, rows = (None, None) if task is None else (task.speaker, task.rows)
    return Play(config, config.opened(envs.Setting(eos, speaker)), rows)


def env_keys(key: jax.Array, groups: np.ndarray) -> np.ndarray:
    """Keys [N, K] uint32 of the episodes of these groups of a batch drawn by `key`."""
    own = jax.random.fold_in(key, STREAM)
    found = jax.vmap(lambda group: jax.random.fold_in(own, group))(np.asarray(groups, np.int32))
    return np.asarray(hosts.to_host(jax.random.key_data(found)), np.uint32)


class Transcripts:
    """Rows that grow on the host, T tokens at most."""

    def __init__(self, prompts: np.ndarray, lengths: np.ndarray, width: int, pad: int):
        count, before = prompts.shape
        self.tokens = np.full((count, width), pad, np.int32)
        self.tokens[:, :before] = prompts
        self.mask = np.zeros((count, width), bool)
        self.logprobs = np.zeros((count, width), np.float32)
        self.lengths = np.array(lengths, np.int32)
        self.live = np.ones(count, bool)
        self.ended = np.zeros(count, bool)
        self.turns = np.zeros(count, np.int32)
        self.returns = np.zeros(count, np.float64)

    def observe(self, row: int, ids: envs.Ids, room: int) -> None:
        """Adds what the environment said; a row that has no room for it is cut."""
        if len(ids) > room:
            self.live[row] = False
            return
        begin = self.lengths[row]
        self.tokens[row, begin : begin + len(ids)] = ids
        self.lengths[row] += len(ids)

    def answer(self, row: int, ids: np.ndarray, logprobs: np.ndarray) -> None:
        """Adds what was sampled, with the log-probabilities it was sampled by."""
        there = slice(self.lengths[row], self.lengths[row] + len(ids))
        self.tokens[row, there] = ids
        self.mask[row, there] = True
        self.logprobs[row, there] = logprobs
        self.lengths[row] += len(ids)
        self.turns[row] += 1


def make_episodes(
    sample: Callable[..., generate.Samples],
    sampling: transforms.SamplingConfig,
    play: Play,
    pad: int,
) -> Run:
    """(bound params, columns of R rows, key, size) -> Episodes of R rows. On the host.

    columns: prompts [R, P], lengths, and index where the data have numbers of rows. size: rows of
    each prompt, one after the other: they play in the same world. A token is drawn by key, row and
    its place in the row, as in a single turn: no place is drawn twice.

    sample: of `generate.make_generate`. Each process plays the rows that its devices hold; an
    observation longer than its room cuts the row, which is then not `ended`.
    """
    config, answer = play.config, sampling.max_new_tokens

    def run(params: models.Params, columns: algorithm.Batch, key: jax.Array, size: int) -> Episodes:
        count, width = columns["prompts"].shape
        own = hosts.own_rows(count)
        prompts, lengths = (hosts.to_local(columns[x]) for x in ("prompts", "lengths"))
        rows = Transcripts(prompts, lengths, width + config.new_tokens(answer), pad)
        observations, given = envs.start(
            play.env, _tasks(play, columns, own, size), env_keys(key, own // size)
        )
        states: list[Any] = list(given)
        for row, ids in enumerate(observations):
            rows.observe(row, ids, config.opening)
        rows.returns[~rows.live] = np.nan  # there is nothing to score
        begin = rows.lengths.copy()
        for turn in range(config.limit):
            before = width + config.turn_width(turn, answer)
            said = _turn(sample, params, key, rows, count, before, answer)
            if said:
                _told(play, rows, states, said, last=turn == config.limit - 1)
            going = hosts.to_global({"live": rows.live}, count)["live"]
            if not np.any(hosts.to_host(going)):  # on any process: they sample together
                break
        return _joined(rows, begin, count)

    return run


def _tasks(
    play: Play, columns: algorithm.Batch, own: np.ndarray, size: int
) -> list[Mapping[str, Any]]:
    """The rows of the data that this process plays; empty ones where there are none."""
    if not play.tasks or "index" not in columns:
        return [{} for _ in own]
    return [play.tasks[int(index)] for index in hosts.to_local(columns["index"])]


def _turn(
    sample: Callable[..., generate.Samples],
    params: models.Params,
    key: jax.Array,
    rows: Transcripts,
    count: int,
    width: int,
    answer: int,
) -> dict[int, list[int]]:
    """{row: ids of its answer} of the rows that go on; the others stop after a token, unread."""
    batch = {
        "prompts": rows.tokens[:, :width],
        "lengths": np.minimum(rows.lengths, width),
        "limit": np.where(rows.live, answer, 1).astype(np.int32),
    }
    given = hosts.to_global(batch, count)
    options = transforms.RowOptions(limit=given["limit"])
    drawn = sample(params, given["prompts"], given["lengths"], key, options=options)
    named = (drawn.tokens, drawn.logprobs, drawn.lengths)
    tokens, logprobs, lengths = (hosts.to_local(x) for x in named)
    said = {}
    for row in np.flatnonzero(rows.live).tolist():
        there = slice(rows.lengths[row], lengths[row])
        said[row] = tokens[row, there].tolist()
        rows.answer(row, tokens[row, there], logprobs[row, there])
    return said


def _told(
    play: Play, rows: Transcripts, states: list[Any], said: dict[int, list[int]], *, last: bool
) -> None:
    """Lets the environment answer rows, in their transcripts, and pay them."""
    found = envs.step(play.env, [states[row] for row in said], list(said.values()))
    for place, row in enumerate(said):
        states[row] = found.states[place]
        rows.returns[row] += found.rewards[place]
        if found.done[place] or last:
            rows.ended[row], rows.live[row] = found.done[place], False
        else:
            rows.observe(row, found.observations[place], play.config.room)


def _joined(rows: Transcripts, begin: np.ndarray, count: int) -> Episodes:
    """The rows on the mesh; begin: tokens before the first answer."""
    arrays = {
        "tokens": rows.tokens,
        "mask": rows.mask,
        "logprobs": rows.logprobs,
        "lengths": rows.lengths,
        "prompt_lengths": begin,
        "ended": rows.ended,
        "turns": rows.turns,
        "returns": rows.returns.astype(np.float32),
    }
    whole = hosts.to_global(arrays, count)
    turns, returns = whole.pop("turns"), whole.pop("returns")
    return Episodes(generate.Samples(**whole), turns, returns)
