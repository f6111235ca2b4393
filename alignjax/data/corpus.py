"""The interface between experiments and data."""

from collections.abc import Callable, Mapping, Sequence
from typing import Any, NamedTuple

import numpy as np

from alignjax.data import tables
from alignjax.text import chat

Table = tables.Table
Log = Callable[[str], None]  # prints or stores one line


class Corpus(NamedTuple):
    """Tables of token ids, and what is needed to read them.

    kinds: which tables of `tables.KINDS` there are. table: (kind, split) -> Table; splits "train"
      and "eval".
    gold: (tokens [N, T], lengths [N]) -> [N], the known true reward; None where there is none.
    text: ids -> readable text. fingerprints: named hashes of everything that the ids depend on.
    speaker: the tokenizer with its layout of conversations; None where rows are no text.
    conversation: (split, index) -> the turns of the prompt with this `index`, for models that read
      text with a tokenizer of their own; None where rows are no text.
    tasks: split -> the columns of every prompt by its `index`: its text and whatever a rule
      compares a completion with; None where there are none.
    shares: kind -> (rows, weight) of each table that a training table joins, in its order; None
      where it is one table, read whole in every epoch.
    steps: ids at which the steps of answers end; None where lines are steps, or there are none.
    categories: names of the columns of labels. world: the generator of synthetic data.
    answers, comparisons: K and C of rankings and pairs, for plans.
    columns: further columns of the tables, by name, where methods read them.
    summary: lines about what was read, dropped and cut.
    """

    vocab_size: int
    pad: int
    eos: int
    length: int
    prompt_length: int
    kinds: tuple[str, ...]
    table: Callable[[str, str], Table]
    text: Callable[[np.ndarray], str]
    fingerprints: Mapping[str, str]
    gold: Callable[[np.ndarray, np.ndarray], np.ndarray] | None = None
    speaker: chat.Speaker | None = None
    conversation: Callable[[str, int], Sequence[Any]] | None = None
    tasks: Callable[[str], Sequence[Mapping[str, Any]]] | None = None
    shares: Callable[[str], Sequence[tuple[int, float]]] | None = None
    steps: tuple[int, ...] | None = None
    categories: tuple[str, ...] = ()
    world: Any = None
    summary: tuple[str, ...] = ()
    answers: int = 2
    comparisons: int = 1
    columns: Mapping[str, tables.Column] = {}

    @property
    def ends(self) -> tuple[int, ...]:
        """All ids at which a sampled answer ends: `eos`, then the other stops of the tokenizer."""
        return ends_of(self.eos, self.speaker)

    def read(self, kind: str, split: str) -> Table:
        """The table of a kind, compared with the contract.

        Raises:
          ValueError: this data has no such table, or the table breaks the contract.
        """
        if kind not in self.kinds:
            raise ValueError(
                f"data must hold {kind}; got data with {', '.join(self.kinds)} (data)."
            )
        return tables.check(self.table(kind, split), kind, self.columns)


def ends_of(eos: int, speaker: chat.Speaker | None) -> tuple[int, ...]:
    """`eos`, then the other ids at which the speaker's answers end."""
    others = () if speaker is None else speaker.ends
    return (eos, *(token for token in others if token != eos))


class DataConfig:
    """Base class of data configurations: dataclasses, with options as fields, that make a corpus.

    Every method can be trained on a subclass, whatever file defines it.
    """

    def validate(self) -> None:
        """Raises ValueError where an option is wrong."""

    def make(self, log: Log) -> Corpus:
        """The corpus; `log` takes lines on what was kept, cut and dropped.

        Raises:
          ValueError: the data are missing or bad.
        """
        raise NotImplementedError

    def prepared(self, log: Log, cache: Any) -> Corpus:
        """The corpus with tables that are kept on disk, in a `prepare.Cache`, and read by row.

        The default is `make`: data that are made, or of which all is read at once.
        """
        return self.make(log)

    def outline(self) -> Corpus:
        """The corpus's sizes without its rows, for plans; only sizes, kinds, pad and eos are read.

        The default reads the data; a subclass whose data may be absent overrides this.
        """
        return self.make(lambda line: None)

    def where(self) -> tuple[str, ...]:
        """Names of fields that hold the data's location: they may change when a run resumes.

        Whether the data are the same is decided by their fingerprints.
        """
        return ()


def outline(
    *,
    vocab_size: int,
    length: int,
    prompt_length: int,
    kinds: Sequence[str],
    categories: tuple[str, ...] = (),
    answers: int = 2,
    comparisons: int = 1,
    columns: Mapping[str, tables.Column] | None = None,
) -> Corpus:
    """A corpus without rows, for `DataConfig.outline`."""

    def table(kind: str, split: str) -> Table:
        raise ValueError("an outline of data has no rows (corpus.outline). Use DataConfig.make.")

    return Corpus(
        vocab_size=vocab_size,
        pad=0,
        eos=1,
        length=length,
        prompt_length=prompt_length,
        kinds=tuple(kinds),
        table=table,
        text=str,
        tasks=lambda split: (),
        fingerprints={},
        steps=(),
        categories=categories,
        answers=answers,
        comparisons=comparisons,
        columns=columns or {},
    )
