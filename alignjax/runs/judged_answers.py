"""A run's answers judged against others': win rates in both orders, with and without length."""

import json
import math
import pathlib
from collections.abc import Callable, Mapping, Sequence
from typing import Any, NamedTuple

import numpy as np

from alignjax.core import errors, untrusted
from alignjax.evals import estimate, judging
from alignjax.feedback import verdicts as texts_of
from alignjax.rewards import described, judge
from alignjax.runs import answers, described_judge
from alignjax.sampling import transforms

SUMMARY, ROWS = "judged.json", "judged.jsonl"
Z = 1.959963984540054  # of a 95% interval


class Asked(NamedTuple):
    """What is compared. workdir: a run. against: another one, or JSONL of {"prompt", "answer"}.
    judge: its file. limit: of prompts of the eval split; 0 is all. rows: answers sampled at once.
    """

    workdir: pathlib.Path
    against: pathlib.Path
    judge: str
    sampling: transforms.SamplingConfig
    seed: int = 0
    limit: int = 0
    rows: int = 64
    best: bool = False
    definitions: str = ""


class Judged(NamedTuple):
    """N pairs of answers, judged. win: share that the run wins, a tie half. control: win_rate by
    chances, at equal length, and how often the longer answer wins. report: of the judge."""

    name: str
    win: estimate.Estimate
    control: judging.LengthControl
    report: judging.Report

    def estimates(self) -> dict[str, estimate.Estimate]:
        """What is told, by name."""
        return {
            "win rate": self.win,
            "win rate by chances": self.control.win_rate,
            "win rate at equal length": self.control.controlled,
            "longer answer wins": self.control.longer,
            "orders that disagree": self.report.flips,
            "verdicts for the first": self.report.first,
        }

    def as_dict(self) -> dict[str, Any]:
        """For JSON; what is undefined is null."""
        numbers = {}
        for name, own in self.estimates().items():
            low, high = interval(own)
            told = {**own.as_dict(), "low": low, "high": high}
            numbers[name] = {key: x if math.isfinite(x) else None for key, x in told.items()}
        counts = {"pairs": self.report.pairs, "ties": self.report.ties}
        unread = {"unread": self.report.unread, "warnings": list(self.report.warnings)}
        return {"judge": self.name, **counts, **unread, **numbers}

    def lines(self) -> list[str]:
        """For people."""
        rows = [f"judge: {self.name}"]
        for name, own in self.estimates().items():
            low, high = interval(own)
            rows.append(f"{name}: {own.value:.4f} [{low:.4f}, {high:.4f}] (n = {own.n})")
        rows.append(
            f"pairs: {self.report.pairs}, {self.report.ties} tied; unread: {self.report.unread} of "
            f"{2 * self.report.pairs} verdicts"
        )
        return [*rows, *(f"warning: {line}" for line in self.report.warnings)]


def interval(own: estimate.Estimate) -> tuple[float, float]:
    """The 95% interval of a share, by its standard error, within [0, 1]; NaN where undefined."""
    if math.isnan(own.value):
        return math.nan, math.nan
    return max(0.0, own.value - Z * own.se), min(1.0, own.value + Z * own.se)


def judged(asked: Asked, folder: pathlib.Path, log: Callable[[str], None]) -> Judged:
    """The numbers; the answers with their verdicts go into files of `folder`.

    Raises:
      ValueError: a run is not to be read or has no policy, the other side lacks an answer to a
        prompt, or the judge is not to be opened.
    """
    settings = described.read(asked.judge)
    written = read(asked.against) if asked.against.is_file() else None
    own = _sampled(asked, asked.workdir)
    log(f"answers: {len(own)} of {asked.workdir}")
    other = _sampled(asked, asked.against) if written is None else written
    lacks = [prompt for prompt in own if prompt not in other]
    if lacks:
        raise ValueError(
            f"--against must have an answer to every prompt; got none to {lacks[0]!r:.80} and "
            f"{len(lacks) - 1} more ({asked.against}). Name a run of the same data, or a file of "
            "its prompts."
        )
    prompts = list(own)
    a, b = [own[p] for p in prompts], [other[p] for p in prompts]
    with described_judge.opened(settings) as (opened, digest):
        verdicts = opened.pair(prompts, a, b)
    found = compared(f"{settings.name}@{digest[:12]}", verdicts, a, b)
    rows = [
        {"prompt": p, "answer": x, "other": y, "logits": [_plain(one), _plain(two)]}
        for p, x, y, one, two in zip(prompts, a, b, *verdicts, strict=True)
    ]
    folder.mkdir(parents=True, exist_ok=True)
    lines = (json.dumps(row, ensure_ascii=False) + "\n" for row in rows)
    (folder / ROWS).write_text("".join(lines), encoding="utf-8", errors="surrogatepass")
    (folder / SUMMARY).write_text(json.dumps(found.as_dict(), indent=1))
    return found


def compared(name: str, verdicts: judge.Verdicts, a: Sequence[str], b: Sequence[str]) -> Judged:
    """The numbers of verdicts on answers a and b; lengths are in characters."""
    sign = np.sign(verdicts.logits)
    wins = (0.5 + 0.5 * sign)[np.isfinite(sign)]
    win = estimate.mean(wins) if len(wins) else estimate.Estimate(math.nan, math.nan, 0)
    lengths = [np.array([len(text) for text in side], float) for side in (a, b)]
    control = judging.LengthControl(win, win, win)  # undefined where nothing could be read
    if win.n:
        control = judging.length_controlled(verdicts.probabilities, *lengths)
    return Judged(name, win, control, judging.report(verdicts))


def check_unread(result: Judged) -> None:
    """Raises Failure where more verdicts could not be read than a report may leave out."""
    own, most = result.report, judging.UNREAD
    if own.unread > most * 2 * own.pairs:
        raise errors.Failure(
            f"unread verdicts must be at most {most:.1%}; got {own.unread} of {2 * own.pairs} "
            f"(judge {result.name}). Change its template or options, or take another judge."
        )


def read(path: pathlib.Path) -> dict[str, str]:
    """{prompt: answer} of JSONL.

    Raises:
      ValueError: a line is no object with two texts, or there is none.
    """
    found: dict[str, str] = {}
    for number, line in untrusted.read_lines(path, untrusted.ROWS):
        if not line.strip():
            continue
        try:
            fields = untrusted.parse_json(line, f"{path}:{number}")
            prompt, text = fields["prompt"], fields["answer"]
        except (ValueError, KeyError, TypeError):
            prompt = text = None
        if not isinstance(prompt, str) or not isinstance(text, str):
            raise ValueError(
                f'a line must be like {{"prompt": "...", "answer": "..."}}; got another '
                f"({path}:{number})."
            )
        found[prompt] = text
    if not found:
        raise ValueError(f"--against must hold an answer at least; got none ({path}).")
    return found


def _sampled(asked: Asked, workdir: pathlib.Path) -> Mapping[str, str]:
    """{prompt: answer} of a run on its eval split; of equal prompts the first."""
    drawn = answers.answers(
        workdir, (), 1, config=asked.sampling, seed=asked.seed, limit=asked.limit,
        rows=asked.rows, best=asked.best and workdir == asked.workdir,
        definitions=asked.definitions,
    )  # fmt: skip
    found: dict[str, str] = {}
    for turns, texts in zip(drawn.prompts, drawn.texts, strict=True):
        found.setdefault(texts_of.asked([(turn.role, turn.text) for turn in turns]), texts[0])
    return found


def _plain(logit: float) -> float | None:
    return float(logit) if math.isfinite(logit) else None
