"""Judgements to training rows: one a pair and group, with the share of votes and their number."""

import collections
import dataclasses
import itertools
import math
from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from typing import Any

import numpy as np

from alignjax.data.layouts import single
from alignjax.feedback import assign, content, payloads, project, verdicts, votes
from alignjax.feedback.store import items, queries
from alignjax.feedback.votes import Vote
from alignjax.text import chat

Fields = dict[str, Any]
Turns = tuple[tuple[str, str], ...]
ROLES = {chat.HUMAN: "user", chat.ASSISTANT: "assistant", chat.SYSTEM: "system"}


@dataclasses.dataclass
class About:
    """Who says something of a prompt. said: the votes, scores, ... of one row to be."""

    item: content.Item
    turns: Turns
    answers: tuple[str, ...]
    raters: list[int] = dataclasses.field(default_factory=list)
    said: list[Any] = dataclasses.field(default_factory=list)

    def add(self, rater: int, what: Any) -> None:
        self.raters.append(rater)
        self.said.append(what)


class Collected:
    """Judgements by the rows that they become; every kind of row has its own table."""

    def __init__(self) -> None:
        self.tables: dict[str, dict[Any, About]] = collections.defaultdict(dict)
        self.used: dict[str, int] = collections.Counter()  # judgements by kind
        self.unused: dict[str, int] = collections.Counter()  # by kind, those that become no row

    def about(self, table: str, item: content.Item, *answers: str, key: Any = ()) -> About:
        """The entry of a prompt and answers, equal ones of other items joined."""
        entries = self.tables[table]
        return entries.setdefault((item.turns, answers, key), About(item, item.turns, answers))

    def vote(
        self, item: content.Item, one: str, two: str, vote: Vote, table: str = "pairs"
    ) -> None:
        """Adds a vote on two answers, in whichever order they were compared before."""
        if table == "pairs":
            self.vote(item, one, two, vote, "comparisons")
        if (item.turns, (two, one), ()) in self.tables[table]:
            one, two = two, one
            vote = vote.turned()
        self.about(table, item, one, two).add(vote.rater, vote)

    def label(self, item: content.Item, rater: int, labels: Mapping[int, bool]) -> None:
        """Adds which answers are wanted, by number."""
        for number, wanted in labels.items():
            self.about("unpaired", item, item.candidates[number].text).add(rater, wanted)


def collect(
    judged: Iterable[queries.Judged],
    item_of: Callable[[str], content.Item],
    has_voice: Callable[[int], bool] = lambda rater: True,
) -> Collected:
    """What may train: live judgements of first sight, on items without a known answer.

    has_voice: whether a rater's judgements become rows; others are counted as unused.
    """
    found = Collected()
    for own in judged:
        if not own.is_live or own.is_gold or own.repeat or own.payload is None:
            continue
        adder = ADDERS[own.kind]
        is_used = has_voice(own.rater) and adder(found, item_of(own.item), own, own.payload)
        found.used[own.kind] += is_used
        found.unused[own.kind] += not is_used
    return found


def _choice(found: Collected, item: content.Item, own: queries.Judged, said: Any) -> bool:
    count, chosen = len(item.candidates), said["chosen"]
    both_bad = said["choice"] == payloads.BOTH_BAD
    if both_bad:
        found.label(item, own.rater, dict.fromkeys(range(count), False))
    elif chosen is not None:
        losers = [n for n in range(count) if n != chosen] if count == 2 else []
        found.label(item, own.rater, {chosen: True, **dict.fromkeys(losers, False)})
    if count == 2:
        one, two = (candidate.text for candidate in item.candidates)
        found.vote(item, one, two, Vote(own.rater, chosen, both_bad, said["strength"]))
    elif not both_bad:  # the best of several: the others lost to it, and are not ranked
        ranks = [1 if chosen in (None, n) else None for n in range(count)]
        _ranked(found, item, own, ranks)
    return True


def _ranked(
    found: Collected, item: content.Item, own: queries.Judged, ranks: Sequence[int | None]
) -> None:
    texts = [candidate.text for candidate in item.candidates]
    found.about("rankings", item, *texts, key=own.assignment).add(own.rater, ranks)
    places = [math.inf if rank is None else rank for rank in ranks]  # unranked lost to all ranked
    for i, j in itertools.combinations(range(len(ranks)), 2):
        if ranks[i] is not None or ranks[j] is not None:
            better = None if places[i] == places[j] else int(places[j] < places[i])
            found.vote(item, texts[i], texts[j], Vote(own.rater, better), "comparisons")


def _ranking(found: Collected, item: content.Item, own: queries.Judged, said: Any) -> bool:
    ranks = said["ranks"]
    if len(ranks) > 2:
        _ranked(found, item, own, ranks)
        return True
    one, two = (math.inf if rank is None else rank for rank in ranks)
    better = None if one == two else int(two < one)
    first, second = (candidate.text for candidate in item.candidates)
    found.vote(item, first, second, Vote(own.rater, better))
    return True


def _score(found: Collected, item: content.Item, own: queries.Judged, said: Any) -> bool:
    for number, candidate in enumerate(item.candidates):
        scores = {s: values[number] for s, values in said["scores"].items()}
        scores = {scale: value for scale, value in scores.items() if value is not None}
        if scores:
            found.about("scores", item, candidate.text).add(own.rater, scores)
    if len(item.candidates) > 1:
        texts = [candidate.text for candidate in item.candidates]
        found.about("ultrafeedback", item, *texts).add(own.rater, (said["scores"], own.reason))
    return True


def _rewrite(found: Collected, item: content.Item, own: queries.Judged, said: Any) -> bool:
    original = item.candidates[said["answer"]].text
    found.about("demonstrations", item, said["text"]).add(own.rater, True)
    found.vote(item, said["text"], original, Vote(own.rater, 0))
    return True


def _spans(found: Collected, item: content.Item, own: queries.Judged, said: Any) -> bool:
    for number, candidate in enumerate(item.candidates):
        spans = [span for span in said["spans"] if span["answer"] == number]
        if spans:
            found.about("spans", item, candidate.text, key=own.assignment).add(own.rater, spans)
    return True


def _verdict(found: Collected, item: content.Item, own: queries.Judged, said: Any) -> bool:
    texts = [candidate.text for candidate in item.candidates]
    table = "pairs" if len(texts) == 2 else "comparisons"
    readable = [pair for pair in verdicts.read(said) if math.isfinite(pair.logit)]
    for pair in readable:
        better = None if pair.logit == 0 else int(pair.logit < 0)
        vote = Vote(own.rater, better, chance=pair.chance)
        found.vote(item, texts[pair.one], texts[pair.two], vote, table)
    return bool(readable)


def _flags(found: Collected, item: content.Item, own: queries.Judged, said: Any) -> bool:
    return False  # they stand in the raw judgements alone


ADDERS: Mapping[str, Callable[[Collected, content.Item, queries.Judged, Any], bool]] = {
    project.CHOICE: _choice,
    project.RANKING: _ranking,
    project.SCORE: _score,
    project.REWRITE: _rewrite,
    project.SPANS: _spans,
    project.FLAGS: _flags,
    project.VERDICT: _verdict,
}


def messages(turns: Turns) -> list[Fields]:
    """Turns as messages with role and content."""
    return [{"role": ROLES[role], "content": text} for role, text in turns]


def asked(turns: Turns) -> str | list[Fields]:
    """A prompt: one human turn as text where no loader reads more into it, else messages."""
    plain = len(turns) == 1 and turns[0][0] == chat.HUMAN
    text = turns[0][1]
    if plain and not chat.is_transcript(text) and not text.lstrip().startswith("["):
        return text
    return messages(turns)


def answer(text: str) -> str | list[Fields]:
    """An answer, as text where no loader reads more into it."""
    return messages(((chat.ASSISTANT, text),)) if text.lstrip().startswith("[") else text


def transcript(turns: Turns, text: str) -> str | None:
    """The turns and an answer as hh-rlhf writes them; None where they can't be told apart again."""
    whole = (*turns, (chat.ASSISTANT, text))
    marks = {chat.HUMAN: "\n\nHuman: ", chat.ASSISTANT: "\n\nAssistant: ", chat.SYSTEM: "System: "}
    if any(role == chat.SYSTEM for role, _ in whole[1:]):
        return None
    joined = "".join(marks[role] + said for role, said in whole)
    try:
        back = chat.parse_transcript(joined)
    except chat.ChatError:
        return None
    plain = [(role, said.strip()) for role, said in whole]
    return joined if [tuple(turn) for turn in back] == plain else None


class Rows:
    """Rows of what was collected. aggregate: how votes on two answers are joined."""

    def __init__(
        self, found: Collected, raters: Mapping[int, queries.Rater], aggregate: votes.Aggregate
    ) -> None:
        self._found, self._raters, self._aggregate = found, raters, aggregate

    def of(self, table: str) -> Iterator[tuple[Turns, Fields]]:
        """(prompt, fields) of every row."""
        entries = list(self._found.tables[table].values())
        if table in ("pairs", "comparisons"):
            yield from self._pairs([part for own in entries for part in self._by_group(own)])
            return
        make = {
            "rankings": _ranking_row, "nectar": _nectar_row, "scores": _score_row,
            "ultrafeedback": _ultrafeedback_row, "demonstrations": _demonstration_row,
            "unpaired": _unpaired_row, "spans": _spans_row,
        }[table]  # fmt: skip
        if table == "nectar":
            entries = list(self._found.tables["rankings"].values())
        for own in entries:
            fields = make(own)
            if fields is not None:
                yield own.turns, {**self._shared(table, own), **fields}

    def _shared(self, table: str, own: About) -> Fields:
        raters = list(dict.fromkeys(own.raters))
        people = [rater for rater in raters if not self._is_judge(rater)]
        groups = {self._group(rater) for rater in people} or {None}
        said = (own.turns, own.answers, raters if table in ("rankings", "nectar", "spans") else ())
        if table == "pairs" and groups != {None}:
            said = (*said, *groups)  # a pair has a row for each group: see `_by_group`
        return {
            "id": f"{table}-{assign.number(said):016x}",
            "raters": [f"rater-{rater}" for rater in raters],
            "weight": float(len(own.raters)),
            "language": own.item.language,
            "group": groups.pop() if len(groups) == 1 else None,
        }

    def _is_judge(self, rater: int) -> bool:
        return self._raters[rater].kind == items.JUDGE

    def _group(self, rater: int) -> Any:
        return self._raters[rater].attributes.get("group")

    def _by_group(self, own: About) -> Iterator[About]:
        """An entry's votes, apart by people's group: joined they would hide what divides it.

        A judge is of no group, and one vote among others in each.
        """
        said = list(zip(own.raters, own.said, strict=True))
        people = [(rater, vote) for rater, vote in said if not self._is_judge(rater)]
        parts: dict[Any, About] = {}
        for rater, vote in people:
            part = About(own.item, own.turns, own.answers)
            parts.setdefault(self._group(rater), part).add(rater, vote)
        if not people:
            parts[None] = About(own.item, own.turns, own.answers)
        for part in parts.values():
            for rater, vote in said:
                if self._is_judge(rater):
                    part.add(rater, vote)
        yield from parts.values()

    def _pairs(self, entries: Sequence[About]) -> Iterator[tuple[Turns, Fields]]:
        """One row for each entry: two answers, of which the one with more votes is chosen."""
        shares = votes.shares([own.said for own in entries], self._aggregate)
        for own, first in zip(entries, shares, strict=True):
            ties = [vote for vote in own.said if vote.better is None]
            decided = [vote.better for vote in own.said if vote.better is not None]
            count, bad = len(own.said), sum(vote.both_bad for vote in ties)
            preference = votes.preference(own.said, first)
            strengths = [vote.strength for vote in own.said if vote.strength is not None]
            shared = self._shared("pairs", own)
            turned = preference < 0.5 or (preference == 0.5 and assign.number(own.answers) % 2)
            chosen, rejected = own.answers[::-1] if turned else own.answers
            most = max(decided.count(0), decided.count(1), len(ties) - bad, bad)
            yield own.turns, {
                **shared, "chosen": chosen, "rejected": rejected,
                "preference": 1 - preference if turned else preference,
                "agreement": most / count, "ties": (len(ties) - bad) / count,
                "both_bad": bad / count,
                "strength": float(np.mean(strengths)) if strengths else None,
            }  # fmt: skip


def _ranking_row(own: About) -> Fields:
    (ranks,) = own.said
    return {"prompt": asked(own.turns), "answers": [answer(t) for t in own.answers], "ranks": ranks}


def _nectar_row(own: About) -> Fields | None:
    """A whole ranking with each rank beside its answer."""
    (ranks,) = own.said
    if any(rank is None for rank in ranks):
        return None
    pairs = zip(own.answers, ranks, strict=True)
    return {
        "prompt": asked(own.turns),
        "answers": [{"answer": answer(text), "rank": rank} for text, rank in pairs],
    }


def _score_row(own: About) -> Fields:
    """Means over raters: of each scale, and of all under "score"."""
    scales = {
        scale: float(np.mean([said[scale] for said in own.said if scale in said]))
        for scale in dict.fromkeys(name for said in own.said for name in said)
    }
    known = {scale: mean for scale, mean in scales.items() if scale in single.SCALES}
    return {
        "prompt": asked(own.turns), "response": answer(own.answers[0]), **known,
        "score": float(np.mean(list(scales.values()))), "scales": scales,
    }  # fmt: skip


def _ultrafeedback_row(own: About) -> Fields | None:
    """Means over raters of each scale, beside every answer; None where no scale has all answers."""
    completions = []
    numbers_of = range(len(own.answers))
    scales = list(dict.fromkeys(scale for said, _ in own.said for scale in said))
    means = {
        s: [_mean([said[s][n] for said, _ in own.said if s in said]) for n in numbers_of]
        for s in scales
    }
    complete = [scale for scale in scales if None not in means[scale]]
    reasons = " ".join(reason for _, reason in own.said if reason)
    for number, text in enumerate(own.answers):
        rated = {s: means[s][number] for s in scales}
        numbers = [value for value in rated.values() if value is not None]
        overall = {"fine-grained_score": _mean(numbers), "overall_score": _mean(numbers)}
        completions.append({
            "response": answer(text), "model": own.item.candidates[number].model,
            "annotations": {
                s: {"Rating": "N/A" if value is None else f"{value:g}", "Rationale": reasons}
                for s, value in rated.items()
            },
            **{name: value for name, value in overall.items() if value is not None},
        })  # fmt: skip
    return {"instruction": asked(own.turns), "completions": completions} if complete else None


def _mean(given: Sequence[float | None]) -> float | None:
    numbers = [value for value in given if value is not None]
    return float(np.mean(numbers)) if numbers else None


def _demonstration_row(own: About) -> Fields:
    return {"messages": messages((*own.turns, (chat.ASSISTANT, own.answers[0])))}


def _unpaired_row(own: About) -> Fields | None:
    """Whether most votes want the answer; None where they are level."""
    wanted = sum(own.said)
    if 2 * wanted == len(own.said):
        return None
    label = 2 * wanted > len(own.said)
    share = max(wanted, len(own.said) - wanted) / len(own.said)
    return {
        "prompt": asked(own.turns), "completion": answer(own.answers[0]), "label": label,
        "agreement": share,
    }  # fmt: skip


def _spans_row(own: About) -> Fields:
    (spans,) = own.said
    kept = [{name: value for name, value in s.items() if name != "answer"} for s in spans]
    return {"prompt": asked(own.turns), "response": own.answers[0], "spans": kept}
