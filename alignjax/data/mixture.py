"""Several corpora of one tokenizer as one, read by weight: data of pretraining and fine-tuning."""

import dataclasses
from collections.abc import Sequence

from alignjax.data import corpus, files, lazy, order, prepare, prepared, rows, tables

TFDS = "tfds:"
KINDS = ("documents", "demonstrations")  # rows of tokens alone: they need nothing of their corpus


@dataclasses.dataclass(kw_only=True)
class MixtureConfig(corpus.DataConfig):
    """Parts with weights: the share of training rows that come from each, in epochs of its own.

    Held-out rows are those of all parts, one after the other, each once.
    """

    parts: tuple[corpus.DataConfig, ...] = ()
    weights: tuple[float, ...] = ()  # of the parts, in any unit

    def validate(self) -> None:
        if not self.parts or len(self.parts) != len(self.weights):
            raise ValueError(
                f"data.weights must have one for each of data.parts; got {len(self.weights)} for "
                f"{len(self.parts)} (data)."
            )
        order.schedule(self.weights)
        for part in self.parts:
            part.validate()

    def make(self, log: corpus.Log) -> corpus.Corpus:
        self.validate()
        return joined([part.make(log) for part in self.parts], self.weights)

    def prepared(self, log: corpus.Log, cache: prepare.Cache) -> corpus.Corpus:
        self.validate()
        return joined([part.prepared(log, cache) for part in self.parts], self.weights)

    def outline(self) -> corpus.Corpus:
        first = self.parts[0].outline()
        return first._replace(kinds=tuple(kind for kind in first.kinds if kind in KINDS))


def joined(corpora: Sequence[corpus.Corpus], weights: Sequence[float]) -> corpus.Corpus:
    """Several corpora as one, of which training rows are taken by weight.

    Raises:
      ValueError: they have several tokenizers or lengths.
    """
    first = corpora[0]
    for number, other in enumerate(corpora[1:], start=1):
        names = ("vocab_size", "length", "pad", "eos")
        different = [n for n in names if getattr(first, n) != getattr(other, n)]
        if first.fingerprints.get("tokenizer") != other.fingerprints.get("tokenizer"):
            different.append("tokenizer")
        if different:
            raise ValueError(
                f"data.parts must have one tokenizer and one length; got another "
                f"{' and '.join(different)} in part {number} (data). Name one tokenizer's file "
                "in all of them."
            )
    kinds = tuple(k for k in first.kinds if k in KINDS and all(k in own.kinds for own in corpora))

    def table(kind: str, split: str) -> corpus.Table:
        return lazy.table_of(lazy.Joined([own.read(kind, split) for own in corpora]))

    def shares(kind: str) -> Sequence[tuple[int, float]]:
        sizes = [tables.count(own.read(kind, "train")) for own in corpora]
        return list(zip(sizes, weights, strict=True))

    fingerprints = {
        f"{name} of part {number}": value
        for number, own in enumerate(corpora)
        for name, value in own.fingerprints.items()
        if name != "tokenizer"
    }
    own = {n: x for n, x in first.fingerprints.items() if n == "tokenizer"}
    return first._replace(
        kinds=kinds,
        table=table,
        shares=shares,
        fingerprints={**own, **fingerprints},
        gold=None,
        conversation=None,
        tasks=None,
        world=None,
        summary=tuple(
            f"part {number}: {line}" for number, own in enumerate(corpora) for line in own.summary
        ),
    )


@dataclasses.dataclass(kw_only=True)
class CorporaConfig(files.FilesConfig):
    """Several files or folders by weight; all other options are those of each.

    Without a tokenizer's file one is trained on the first rows of all of them.
    """

    path: str = ""
    paths: tuple[str, ...] = ()  # of the corpora; tfds:NAME/CONFIG:VERSION is one of TFDS_DATA_DIR
    weights: tuple[float, ...] = ()  # of the corpora, in any unit

    def validate(self) -> None:
        super().validate()
        if not self.paths or len(self.paths) != len(self.weights) or self.path or self.tfds:
            raise ValueError(
                f"data.paths must name corpora, and data.weights a number for each; got "
                f"{len(self.paths)} and {len(self.weights)}, with path={self.path!r}, "
                f"tfds={self.tfds!r} (data). Set --config.data.paths=ONE,OTHER "
                "--config.data.weights=3,1."
            )
        order.schedule(self.weights)

    def parts(self) -> list[files.FilesConfig]:
        """The configuration of each corpus."""
        shared = {
            field.name: getattr(self, field.name) for field in dataclasses.fields(files.FilesConfig)
        }
        found = []
        for name in self.paths:
            is_tfds = name.startswith(TFDS)
            place = {"tfds": name.removeprefix(TFDS)} if is_tfds else {"path": name}
            found.append(files.FilesConfig(**shared | place))
        return found

    def make(self, log: corpus.Log) -> corpus.Corpus:
        self.validate()
        parts = self.parts()
        given = [] if self.tokenizer else [files.train_rows(part) for part in parts]
        most = files.TOKENIZER_ROWS // len(parts)
        speaker = files.make_speaker(self, [row for own in given for row in own[:most]])
        made = [files.make_corpus(part, log, speaker) for part in parts]
        return joined(made, self.weights)

    def prepared(self, log: corpus.Log, cache: prepare.Cache) -> corpus.Corpus:
        self.validate()
        parts = self.parts()
        if self.tokenizer:
            speaker = files.make_speaker(self, ())
        else:
            sources = [files.scanned(part, cache)[0].training() for part in parts]
            speaker = prepared.trained(
                sources, cache, self.vocab_size, files.TOKENIZER_ROWS // len(parts), rows.texts
            )
        made = [files.prepared_corpus(part, log, cache, speaker) for part in parts]
        return joined(made, self.weights)

    def outline(self) -> corpus.Corpus:
        first = self.parts()[0].outline()
        return first._replace(kinds=tuple(kind for kind in first.kinds if kind in KINDS))

    def where(self) -> tuple[str, ...]:
        return ("paths", "tokenizer")
