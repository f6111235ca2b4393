"""The report of `alignjax check-data`: every check of the reader, and statistics of the data.

No model is needed. With a tokenizer, lengths and truncation are in its tokens; without one they
are estimated from UTF-8 bytes and marked as estimates. Rows are read once, one after another; what
is kept of each are some numbers.
"""

import array
import collections
import dataclasses
import itertools
import math
import os
from collections.abc import Iterable, Iterator, Mapping, Sequence, Set
from typing import Any, TypeAlias

import numpy as np

from alignjax.data import (
    comparisons,
    encoding,
    file_recipe,
    files,
    leaks,
    makers,
    reading,
    rendering,
    rows,
    scripts,
    storage,
)
from alignjax.text import chat

BYTES_PER_TOKEN = 4.0  # of English text under a vocabulary of 8k to 32k pieces, roughly
PERCENTILES = (0, 10, 50, 90, 99, 100)
CHUNK = 256  # rows encoded at a time
UNCUT = 1 << 30  # tokens: no row is as long
WHOLE = {
    "labelled": "conversation",
    "prompts": "prompt",
    "demonstrations": "conversation",
    "documents": "text",
}
# Which examples are shown, and measured for truncation, of the kinds that the rows give.
SHOWN = (
    "pairs", "demonstrations", "steps", "unpaired", "scored", "labelled", "prompts", "documents",
)  # fmt: skip


# Options of a check: fields of the data's configuration, with their defaults.
DEFAULTS: Mapping[str, Any] = dataclasses.asdict(files.FilesConfig(path=""))
Numbers: TypeAlias = "array.array[int]"


@dataclasses.dataclass(frozen=True)
class Report:
    """lines: of text. examples: the first rows, rendered as pieces with and without loss."""

    lines: tuple[str, ...]
    examples: tuple[rendering.Example, ...]


@dataclasses.dataclass
class _Statistics:
    """What is kept of rows: counts, lengths and short digests."""

    files: collections.Counter[str] = dataclasses.field(default_factory=collections.Counter)
    turns: collections.Counter[int] = dataclasses.field(default_factory=collections.Counter)
    columns: collections.Counter[str] = dataclasses.field(default_factory=collections.Counter)
    scripts: collections.Counter[str] = dataclasses.field(default_factory=collections.Counter)
    lengths: dict[str, Numbers] = dataclasses.field(default_factory=dict)
    digests: dict[str, Numbers] = dataclasses.field(
        default_factory=lambda: {
            name: array.array("Q") for name in ("row", "told", "prompt", "pair")
        }
    )
    # Whether each digest is of a row in a file for evaluation.
    held: dict[str, Numbers] = dataclasses.field(
        default_factory=lambda: {name: array.array("B") for name in ("told", "prompt")}
    )
    ties: int = 0
    soft: int = 0
    weighed: int = 0

    def add(self, row: rows.Row, is_held: bool) -> None:
        """Counts a row; is_held: whether its file's name says that it is for evaluation."""
        self.files[row.file] += 1
        self.columns.update(row.columns.keys())
        self.weighed += row.weight != 1
        self.digests["row"].append(leaks.number(comparisons.digest(row)))
        self.digests["told"].append(leaks.number(comparisons.told(row)))
        self.held["told"].append(is_held)
        for text in rows.texts(row):
            scripts.count(text, self.scripts)
        if isinstance(row, rows.Text):
            return
        prompt = rows.prompt_of(row)
        self.turns[len(prompt)] += 1
        self.digests["prompt"].append(leaks.number(comparisons.prompt_digest(row)))
        self.held["prompt"].append(is_held)
        if isinstance(row, rows.Answers):
            self._compared(row)

    def _compared(self, row: rows.Answers) -> None:
        self.soft += row.preference is not None and 0 < row.preference < 1
        self.ties += comparisons.choose(row, comparisons.BEST_WORST) is None
        if len(row.answers) == 2:
            key, turned = comparisons.vote_key(row)
            first_wins = (comparisons.preference(row) >= 0.5) != turned
            self.digests["pair"].append(leaks.number(key) & ~1 | first_wins)

    def measure(self, sizes: Iterable[tuple[str, int]]) -> None:
        """Adds lengths by the name of what has them."""
        for name, size in sizes:
            self.lengths.setdefault(name, array.array("q")).append(size)

    def repeated(self, name: str) -> int:
        """How many digests were there before."""
        numbers = np.frombuffer(self.digests[name], np.uint64)
        return len(numbers) - len(np.unique(numbers))

    def shared(self, name: str) -> tuple[int, int]:
        """(digests of evaluation that stand among those of training, all of evaluation)."""
        numbers = np.frombuffer(self.digests[name], np.uint64)
        held = np.frombuffer(self.held[name], np.bool_)
        return int(np.isin(numbers[held], numbers[~held]).sum()), int(held.sum())

    def pairs(self) -> str:
        """How often pairs are repeated, and which way round; a digest's last bit says that."""
        numbers = np.unique(np.frombuffer(self.digests["pair"], np.uint64))
        pairs = len(np.unique(numbers >> np.uint64(1)))
        repeated = len(self.digests["pair"]) - pairs
        return (
            f", {repeated} repeated pairs (merged as votes), {len(numbers) - pairs} pairs given in "
            "both directions"
        )


def check_data(
    path: str | os.PathLike[str] = "",
    *,
    speaker: chat.Speaker | None = None,
    show: int = 3,
    **options: Any,
) -> Report:
    """The report of a file, a folder or a TFDS data set.

    Args:
      speaker: None takes the tokenizer that `options` name, or estimates lengths from bytes.
      show: so many rows are rendered.
      options: fields of `files.FilesConfig`.

    Raises:
      ValueError: in one line, for anything that training would refuse.
    """
    config = files.FilesConfig(**{"path": str(path), "max_truncated_share": 1.0, **options})
    config.validate()
    source, parts, layout = files.opened(config)
    if speaker is None and config.tokenizer:
        speaker = files.make_speaker(config, ())
    kept, tally, counts = _Statistics(), reading.Tally(), encoding.Counts()
    sides = {part.where: part.split for part in parts}
    first: list[rows.Row] = []
    kind = ""
    for chunk in _chunks(reading.read(parts, source, tally)):
        kind = kind or next(k for k in SHOWN if k in encoding.KINDS_OF[type(chunk[0])])
        first += chunk[: show - len(first)]
        for row in chunk:
            kept.add(row, sides.get(row.file) == "eval")
        if speaker is None:
            kept.measure(size for row in chunk for size in _estimated(row))
            continue
        counts += encoding.encode(chunk, kind, speaker, config.options())[1]
        whole = dataclasses.replace(config.options(), length=UNCUT, prompt_length=UNCUT)
        for example in encoding.encode(chunk, kind, speaker, whole)[0]:
            kept.measure(_measured(example, kind))
    tally.check(source)
    if not kept.files:
        raise file_recipe.no_rows(config.place(), "all", tally.read)
    leaks.said(*kept.shared("told"), config.max_leaked_share, config.place())
    named = sorted({file for own in parts for file in own.files})
    lines = [
        f"data: {config.place()}, {len(parts)} parts, sha256 {storage.fingerprint(named)}",
        layout,
        *_row_lines(kept, tally, source.layout.needed()),
        *_length_lines(kept, speaker is not None),
        _cut_line(kept, kind, counts if speaker is not None else None, config),
    ]
    shown = rendering.examples(first, kind, speaker, config.options())
    return Report(tuple(lines), tuple(shown))


def _chunks(given: Iterable[rows.Row]) -> Iterator[list[rows.Row]]:
    """The rows, some at a time."""
    rest = iter(given)
    while chunk := list(itertools.islice(rest, CHUNK)):
        yield chunk


def _row_lines(kept: _Statistics, tally: reading.Tally, needed: Set[str]) -> list[str]:
    usable = sum(kept.files.values())
    further = {name: n for name, n in kept.columns.items() if name not in needed}
    pairs = kept.pairs() if kept.digests["pair"] else ""
    lines = [
        f"rows: {usable} rows of {tally.read} read; dropped: {tally.reasons()}",
        *(f"file: {name}: {count} usable rows" for name, count in sorted(kept.files.items())),
        f"duplicates: {kept.repeated('row')} rows, {kept.repeated('prompt')} repeated prompts"
        f"{pairs}",
        f"columns passed through, read by no loss: {_shares(further, usable)}",
    ]
    for name, words in (("told", "rows"), ("prompt", "prompts")):
        again, held = kept.shared(name)
        if held:
            lines.append(f"leaked: {again} of {held} {words} for evaluation stand in training")
    if kept.turns:
        turns = ", ".join(f"{n}: {count}" for n, count in sorted(kept.turns.items()))
        lines.append(f"prompt turns: {turns}")
    if kept.soft or kept.weighed or kept.ties:
        lines.append(
            f"votes: {kept.soft} rows with a preference between 0 and 1, {kept.weighed} with a "
            f"weight, {kept.ties} tied"
        )
    lines.append(f"scripts by letters: {_scripts(kept.scripts)}")
    return lines


def _shares(columns: Mapping[str, int], total: int) -> str:
    named = [f"{n}" if c == total else f"{n} ({c} rows)" for n, c in sorted(columns.items())]
    return ", ".join(named) or "none"


def _scripts(counts: collections.Counter[str]) -> str:
    total = sum(counts.values())
    named = [f"{name} {count / total:.2%}" for name, count in counts.most_common(8)]
    return ", ".join(named) or "none"


def _measured(example: encoding.Example, kind: str) -> list[tuple[str, int]]:
    """The lengths in tokens of an example's parts; an answer without its prompt."""
    if "sizes" in example:
        names = ("chosen", "rejected") if len(example["sizes"]) == 2 else ()
        sizes = example["sizes"].tolist()
        named = zip(names or ["answer"] * len(sizes), sizes, strict=True)
        return [("prompt", len(example["prompt"])), *named]
    whole = len(example["ids"])
    if kind in WHOLE:
        return [(WHOLE[kind], whole)]
    start = int(np.argmax(example["mask"]))
    sizes = [("prompt", start), ("answer", whole - start)]
    return [*sizes, ("steps", len(example["step_ends"]))] if "step_ends" in example else sizes


def _estimated(row: rows.Row) -> list[tuple[str, int]]:
    """The same by bytes, of all answers."""

    def size(turns: Sequence[Any]) -> int:
        text = sum(len(turn.text.encode()) for turn in turns)
        return math.ceil(text / BYTES_PER_TOKEN) + len(turns)

    if isinstance(row, rows.Text):
        return [("text", math.ceil(len(row.text.encode()) / BYTES_PER_TOKEN) + 2)]
    if isinstance(row, rows.Conversation | rows.Labelled):
        return [("conversation", size(row.turns) + 1)]
    sizes = [("prompt", size(rows.prompt_of(row)) + 2)]  # BOS, and the assistant's marker
    if isinstance(row, rows.Answers):
        first = comparisons.best(row)
        for place, side in enumerate(row.answers):
            sizes.append(("chosen" if place == first else "rejected", size(side)))
    elif isinstance(row, rows.Judged | rows.Scored):
        sizes.append(("answer", size(row.answer)))
    elif isinstance(row, rows.Steps):
        answer = chat.Turn(chat.ASSISTANT, makers.STEP.join(row.steps))
        sizes += [("answer", size([answer])), ("steps", len(row.steps))]
    return sizes


def _length_lines(kept: _Statistics, is_exact: bool) -> list[str]:
    unit = "tokens" if is_exact else f"tokens, estimated at {BYTES_PER_TOKEN:g} bytes each"
    lines = [f"lengths in {unit}:"]
    for name, own in kept.lengths.items():
        lengths = np.frombuffer(own, np.int64)
        values = np.percentile(lengths, PERCENTILES, method="inverted_cdf")
        shown = ", ".join(f"p{q} {int(v)}" for q, v in zip(PERCENTILES, values, strict=True))
        lines.append(f"  {name}: {shown}, mean {lengths.mean():.1f}")
    return lines


def _cut_line(
    kept: _Statistics, kind: str, counts: encoding.Counts | None, config: files.FilesConfig
) -> str:
    """What would be cut at the configured lengths."""
    at = f"{kind} at length {config.length}, prompt {config.prompt_length}"
    if counts is not None:
        return f"{at}: {counts}"
    sizes = {name: np.frombuffer(own, np.int64) for name, own in kept.lengths.items()}
    usable = sum(kept.files.values())
    prompt = sizes.get("prompt", np.zeros(usable, np.int64))
    over = prompt > config.prompt_length
    whole = sizes.get("conversation", sizes.get("text"))
    rest = np.minimum(prompt, config.prompt_length)
    if whole is not None:
        over = whole[:usable] > config.length if len(whole) == len(over) else over
    elif "answer" in sizes and len(sizes["answer"]) == len(over):
        over |= rest + sizes["answer"] > config.length
    elif "chosen" in sizes and len(sizes["rejected"]) == len(over):
        over |= rest + np.maximum(sizes["chosen"], sizes["rejected"]) > config.length
    what = "share split into pieces" if kind == "documents" else "truncated share"
    return f"{at}: {what} {over.mean():.4f}, estimated from bytes"
