"""Labels of ReviewWorld from simulated raters, who judge over HTTP as people do."""

import collections
import contextlib
import pathlib
import re
import secrets
import signal
import subprocess
import sys
import time
from collections.abc import Callable, Iterator, Mapping, Sequence
from typing import Any, NamedTuple

import jax
import jax.numpy as jnp
import numpy as np

from alignjax.data import comparisons, containers, reading, tables
from alignjax.data import rows as typed
from alignjax.feedback import client, content, database, imports, project, raters
from alignjax.text import chat
from alignjax.worlds import corpus as corpora
from alignjax.worlds import gold, review

ADDRESS = re.compile(r"http://\S+")
CHOICES = {raters.FIRST: "first", raters.SECOND: "second", raters.TIE: "tie"}


class Seat(NamedTuple):
    """A place at the table: who judges there, and how well. person: a person does, by the page."""

    name: str
    rater: raters.Rater
    person: bool = False


def items_of(
    world: review.ReviewWorld, tokens: np.ndarray, source: Mapping[str, Any]
) -> list[content.Item]:
    """Items of sampled completions [P, K, T]; prompts without two different ones are left out."""
    width, kept = world.prompt_length, list[content.Item]()
    for rows in tokens:
        asked = ((chat.HUMAN, review.words(world, rows[0, 1:width])),)  # <bos> is not shown
        texts = [content.Candidate(review.words(world, row[width:])) for row in rows]
        item, _ = imports.sampled(asked, [text for text in texts if text.text], "", source)
        if item is not None:
            kept.append(item)
    return kept


def store(
    place: pathlib.Path, items: Sequence[content.Item], seats: Sequence[Seat], own: project.Project
) -> dict[str, str]:
    """The database of items and seats; {seat: token}.

    Programs judge again from the start, so that a run that was killed has the labels of one that
    was not; what a person judged cannot be asked again and stays.
    """
    from alignjax.feedback.store import items as stored
    from alignjax.feedback.store import queries

    tokens = {seat.name: secrets.token_hex(16) for seat in seats}
    if not any(seat.person for seat in seats):
        for part in ("", "-wal", "-shm"):
            pathlib.Path(f"{place}{part}").unlink(missing_ok=True)
    with database.opened(str(place), new=True) as db:
        now = database.Clock(db.read(queries.latest)).now()
        db.write(stored.set_project, own, now)
        for batch in imports.batches(iter(items), stored.BATCH):
            db.write(stored.add_items, batch, own, now)
        for seat in seats:
            kind = "person" if seat.person else "simulated"
            db.write(stored.add_rater, seat.name, now, kind=kind, token=tokens[seat.name])
    return tokens


@contextlib.contextmanager
def serving(place: pathlib.Path) -> Iterator[str]:
    """The address of `alignjax annotate` on a database, a process of its own.

    Raises:
      ValueError: it did not start.
    """
    command = [sys.executable, "-m", "alignjax", "annotate", f"--database={place}", "--port=0"]
    with (place.parent / "annotate.log").open("w+") as file:
        server = subprocess.Popen(command, stderr=file)
        try:
            yield _address(server, pathlib.Path(file.name))
        finally:
            server.send_signal(signal.SIGTERM)
            server.wait()


def _address(server: subprocess.Popen[Any], file: pathlib.Path) -> str:
    while server.poll() is None:
        found = ADDRESS.search(file.read_text())
        if found is not None:
            return found[0]
        time.sleep(0.05)
    raise ValueError(f"the page must be served; got: {file.read_text().strip()} (annotate).")


def make_answer(world: review.ReviewWorld, seat: Seat, seed: int) -> client.Answer:
    """What a simulated rater says of what it is shown, by the world's true reward."""
    choose = jax.jit(lambda key, rewards: raters.choose(key, seat.rater, rewards))
    rank = jax.jit(lambda key, rewards: raters.rank(key, seat.rater, rewards))
    times: collections.Counter[str] = collections.Counter()

    def answer(shown: Mapping[str, Any]) -> list[dict[str, Any]]:
        asked = " ".join(turn["text"] for turn in shown["turns"])
        rewards = jnp.asarray(_rewards(world, [f"{asked} {text}" for text in shown["answers"]]))
        key = raters.item_key(seed, shown["item"], times[shown["item"]])
        times[shown["item"]] += 1
        if shown["ask"] == [project.CHOICE]:
            payload: dict[str, Any] = {"choice": CHOICES[int(choose(key, rewards))]}
        else:
            payload = {"ranks": [int(rank) for rank in rank(key, rewards)]}
        return [{"kind": shown["ask"][0], "payload": payload}]

    return answer


def _rewards(world: review.ReviewWorld, texts: Sequence[str]) -> np.ndarray:
    tokens, lengths = rows_of(world, texts)
    return gold.gold_reward(world, tokens, lengths).astype(np.float32)


def rows_of(world: review.ReviewWorld, texts: Sequence[str]) -> tuple[np.ndarray, np.ndarray]:
    """(tokens [N, T], lengths [N]) of texts, each with the first token that is never shown."""
    tokens = np.full((len(texts), world.length), world.pad, np.int32)
    lengths = np.zeros(len(texts), np.int32)
    for i, text in enumerate(texts):
        own = review.ids(world, text)
        tokens[i, 0], tokens[i, 1 : 1 + len(own)] = world.bos, own
        lengths[i] = 1 + len(own)
    return tokens, lengths


def annotate(
    place: pathlib.Path,
    world: review.ReviewWorld,
    seats: Sequence[Seat],
    tokens: Mapping[str, str],
    count: int,
    seed: int,
    log: Callable[[str], None],
) -> dict[str, int]:
    """How many of `count` items each seat judged, until none is left.

    Programs take turns, so that the same seeds give the same labels. A person's share of items is
    left to the person, whom this waits for.
    """
    with serving(place) as address, contextlib.ExitStack() as stack:
        clients = {seat.name: client.Client(address, tokens[seat.name]) for seat in seats}
        for own in clients.values():
            stack.callback(own.close)
        people = [seat.name for seat in seats if seat.person]
        for name in people:
            log(f"{name}: judge at {address}?token={tokens[name]}")
        share = -(-count // len(seats)) if people else sys.maxsize
        waiting = {
            seat.name: make_answer(world, seat, seed + number)
            for number, seat in enumerate(seats)
            if not seat.person
        }
        done = {name: clients[name].progress()["done"] for name in waiting}
        while waiting:
            for name in list(waiting):
                if done[name] < share and client.judge(clients[name], waiting[name]):
                    done[name] += 1
                else:
                    del waiting[name]
        while people:
            time.sleep(1)
            people = [name for name in people if clients[name].progress()["left"]]
        return {name: own.progress()["done"] for name, own in clients.items()}


def labels(file: pathlib.Path, world: review.ReviewWorld) -> tables.Table:
    """A harvested file of pairs as a table, the answer with more votes first."""
    parts = containers.parts(file)
    layout, _ = reading.detected(parts, "", {}, str(file))
    source, tally = reading.Source(layout=layout, max_unusable_share=0.0), reading.Tally()
    texts, preference, weight = list[str](), list[float](), list[float]()
    for row in reading.read(parts, source, tally):
        assert isinstance(row, typed.Answers)
        chosen = comparisons.choose(row, comparisons.ALL)
        assert chosen is not None
        asked = " ".join(turn.text for turn in row.prompt)
        texts += [f"{asked} {row.answers[number][0].text}" for number in chosen.answers]
        preference += chosen.preference
        weight.append(row.weight)
    tally.check(source)
    tokens, lengths = rows_of(world, texts)
    columns = corpora.rows(tokens, lengths, start=world.prompt_length)
    count = len(weight)
    return {
        **{name: x.reshape(count, 2, -1) for name, x in columns.items()},
        "preferred": np.tile(np.array([0, 1], np.int32), (count, 1, 1)),
        "pair_mask": np.ones((count, 1), bool),
        "preference": np.array(preference, np.float32)[:, None],
        "weight": np.array(weight, np.float32),
        "gold": gold.gold_reward(world, tokens, lengths).reshape(count, 2),
    }


def errors(table: tables.Table, temperature: float) -> np.ndarray:
    """[N]: squared distance of each pair's label from how likely a careful rater prefers it."""
    margin = (table["gold"][:, 0] - table["gold"][:, 1]) / temperature
    return (table["preference"][:, 0] - 1 / (1 + np.exp(-margin))) ** 2
