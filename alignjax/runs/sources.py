"""Sources of networks: folders of runs and open weights, as arrays or as shapes alone."""

import dataclasses
import functools
import pathlib
from collections.abc import Callable, Mapping
from typing import Any, NamedTuple, Protocol

import jax

from alignjax.core import keys, trees
from alignjax.models import config as model_config
from alignjax.models import model as models
from alignjax.models.adapters import adapt, merge, quantised
from alignjax.models.checkpoints import folder as open_weights
from alignjax.models.checkpoints import heads
from alignjax.runs import bases, experiment, folder, kept, standing
from alignjax.text import chat, chat_format
from alignjax.training import checkpoint, fingerprints, program
from alignjax.training import method as methods

WORDS = {
    methods.POLICY: "language model",
    methods.SCORER: "reward model",
    methods.CRITIC: "critic",
}


class Reading(NamedTuple):
    """A tokenizer with its layout of conversations, and the longest rows and prompts."""

    speaker: chat.Speaker | None
    length: int
    prompt_length: int


@dataclasses.dataclass(frozen=True, kw_only=True)
class Origin:
    """A source of networks: a run's folder or open weights.

    config: of the model there. run: its experiment, None for open weights. adapter: what it
    trained, None where that was whole weights. networks: configs of further trained roles. base:
    kind, folder and identity of the weights under its adapters, and their `storage` in few bits.
    skip: what is left out of open weights (`weights_skip`).
    """

    path: str
    config: model_config.ModelConfig
    run: experiment.Experiment | None = None
    adapter: Any = None
    fingerprints: Mapping[str, str] = dataclasses.field(default_factory=dict)
    networks: Mapping[str, Any] = dataclasses.field(default_factory=dict)
    base: Mapping[str, str] | None = None
    length: int = 1024
    skip: str = ""

    @property
    def storage(self) -> quantised.BaseConfig:
        """The storage of the weights under its adapters."""
        return quantised.BaseConfig() if self.run is None else self.run.base

    @property
    def is_run(self) -> bool:
        return self.run is not None

    def product(self) -> Mapping[str, methods.Part]:
        """The parts that it provides; open weights may be a language or a reward model."""
        if self.run is None:
            return {methods.POLICY: methods.whole(), methods.SCORER: methods.whole()}
        return self.run.algorithm.METHOD.product(self.run.algorithm)

    def part_of(self, wanted: tuple[str, ...], role: str) -> str:
        """The first of the wanted parts that it provides.

        Raises:
          ValueError: there is none.
        """
        product = self.product()
        for part in wanted:
            if part in product:
                return part
        name = "open weights" if self.run is None else self.run.algorithm.METHOD.name
        raise ValueError(
            f"{role} must be the run of a {WORDS[wanted[0]]}; got {self.path}, a run of {name}."
        )

    def reading(self) -> Reading:
        """The tokenizer of its network, and the lengths of its rows and prompts."""
        if self.run is None:
            speaker = chat_format.load_chat_format(self.path)
            return Reading(speaker, self.length, self.length // 2)
        record = folder.Record(self.run, {"fingerprints": self.fingerprints})
        corpus = kept.corpus_of(pathlib.Path(self.path), record, lambda line: None)
        return Reading(corpus.speaker, corpus.length, corpus.prompt_length)

    def network(self, part: str) -> tuple[model_config.ModelConfig, Any]:
        """(configuration of the model that reads a part, its adapter or None)."""
        role = "" if self.run is None else self.product()[part].role
        if role not in self.networks:
            return self.config, self.adapter
        config, adapter = folder.decode_network(self.networks[role])
        return config, None if isinstance(adapter, adapt.FullConfig) else adapter

    def taken(self, part: str, params: Any) -> Any:
        """A part's tree, taken out of the params of the run."""
        config, adapter = self.network(part)
        plain = config.make()
        model = plain if adapter is None else adapt.adapt(plain, adapter)
        return self.product()[part].take(model, params)


class Source(Protocol):
    """The interface by which an assembly reads folders; plain, config: the model without adapters.

    own: a part as the run trained it, adapters without their base; joined: with it; merged: as
    plain weights; under: as the frozen weights under adapters, in few bits where it is so wanted;
    fresh: adapters of a run that begins over a base. same_base: whether a run's adapters stand on
    the weights that a record's `base` describes. release: let go of what was read.
    """

    def release(self) -> None: ...

    def origin(self, path: str, like: Any = None) -> Origin | None: ...
    def has_adapters(self, origin: Origin) -> bool: ...
    def same_base(self, origin: Origin, about: Mapping[str, str]) -> bool: ...
    def own(self, origin: Origin, part: str, plain: Any, config: Any) -> Any: ...
    def joined(self, origin: Origin, part: str, plain: Any, config: Any) -> Any: ...
    def merged(self, origin: Origin, part: str, plain: Any, config: Any) -> Any: ...
    def base(self, origin: Origin, plain: Any, config: Any) -> Any: ...
    def under(
        self, origin: Origin, part: str, plain: Any, config: Any, how: quantised.BaseConfig
    ) -> Any: ...
    def fresh(self, model: models.Model, seed: int, base: Any) -> Any: ...
    def with_scalar(self, model: models.Model, tree: Any) -> Any: ...
    def identity(self, tree: Any) -> str: ...


def is_run(path: str) -> bool:
    """Whether a path is the folder of a run."""
    return folder.is_run(pathlib.Path(path))


def open_origin(
    path: str, log: Callable[[str], None] = lambda line: None, *, skip: str = ""
) -> Origin:
    """The origin of a run's folder, a model folder or a .gguf file.

    Raises:
      ValueError: it is none of them, or of a newer release.
    """
    place = pathlib.Path(path)
    if not folder.is_run(place) and _is_model(place):
        config = open_weights.open_model(path, skip=skip).config
        return Origin(path=path, config=config, fingerprints=_tokenizer_of(path), skip=skip)
    if not folder.is_run(place):
        raise ValueError(
            "a checkpoint to start from must be the folder of a finished run; got "
            f"{path}, which holds none. Train that stage first or correct the path."
        )
    return origin_of(path, folder.read(place, log))


def origin_of(path: str, record: folder.Record) -> Origin:
    """The origin of a run's folder, whose record is read already."""
    run = record.config
    is_whole = isinstance(run.adapter, adapt.FullConfig)
    return Origin(
        path=path,
        config=run.model,
        run=run,
        adapter=None if is_whole else run.adapter,
        fingerprints=record.values.get("fingerprints", {}),
        networks=record.values.get("networks", {}),
        base=record.values.get("base"),
    )


def _is_model(place: pathlib.Path) -> bool:
    return place.suffix == ".gguf" or (place / folder.FILE).exists()


def _is_parted(tree: Any, config: Any) -> bool:
    """Whether a tied model's weights came out untied."""
    return isinstance(config, model_config.TransformerConfig) and (
        config.tied and tree.unembed is not None
    )


def _tokenizer_of(path: str) -> dict[str, str]:
    """The fingerprint of the tokenizer beside open weights; none where that is not to be read."""
    try:
        return {"tokenizer": chat_format.load_chat_format(path).fingerprint}
    except ValueError:
        return {}


def _skipped(like: Any) -> str:
    """What an experiment leaves out of open weights."""
    return "" if like is None else like.config.weights_skip


class Stored:
    """Arrays, sharded: a device reads its own slices. A part is cached until `release`."""

    def __init__(self, unfinished: Callable[[standing.Unfinished], None] = standing.refuse) -> None:
        """unfinished: what to do, once, with a run that is named and has not finished."""
        self._trees: dict[tuple[str, str], Any] = {}
        self._unfinished, self._seen = unfinished, set[str]()

    def release(self) -> None:
        """Drops the trees that were read."""
        self._trees.clear()

    def origin(self, path: str, like: Any = None) -> Origin | None:
        if not path:
            return None
        origin = open_origin(path, skip=_skipped(like))
        if origin.run is not None and path not in self._seen:
            state = standing.unfinished(path, folder.Record(origin.run, {}))
            if state is not None:
                self._unfinished(state)
            self._seen.add(path)
        return origin

    def has_adapters(self, origin: Origin) -> bool:
        return origin.adapter is not None

    def own(self, origin: Origin, part: str, plain: Any, config: Any) -> Any:
        key = (origin.path, part)
        if key not in self._trees:
            self._trees[key] = self._read(origin, part, plain, config)
        return self._trees[key]

    def _read(self, origin: Origin, part: str, plain: Any, config: Any) -> Any:
        if not origin.is_run:
            read = heads.open_reward if part == methods.SCORER else open_weights.open_model
            return read(origin.path, skip=origin.skip).load(config)
        return origin.taken(part, folder.load_params(origin.path, origin.config.make()))

    def same_base(self, origin: Origin, about: Mapping[str, str]) -> bool:
        return origin.base is not None and origin.base["identity"] == about["identity"]

    def joined(self, origin: Origin, part: str, plain: Any, config: Any) -> Any:
        tree = self.own(origin, part, plain, config)
        if not adapt.has_adapters(tree):
            return tree
        return adapt.bind(tree, {"base": self.base(origin, plain, config)})

    def merged(self, origin: Origin, part: str, plain: Any, config: Any) -> Any:
        tree = merge.whole(self.joined(origin, part, plain, config))
        if part != methods.SCORER and origin.adapter is not None and _is_parted(tree, config):
            raise ValueError(
                "a model that goes on whole must have an embedding as tied as before; the adapters "
                f"of {origin.path} part it from its unembedding. Export it and name the folder as "
                "weights, or train on with its adapters."
            )
        return tree

    def base(self, origin: Origin, plain: Any, config: Any) -> Any:
        """The frozen weights under a run's adapters, by the folder and identity in its record.

        Raises:
          ValueError: the folder holds no such weights any more.
        """
        about = origin.base
        assert about is not None
        place = bases.place(about["folder"])
        below = open_origin(place, skip=about.get("skip", ""))
        tree = self.under(below, methods.POLICY, plain, config, origin.storage)
        if self.identity(tree) != about["identity"]:
            raise ValueError(
                f"the base of adapters must be the weights they were trained over; "
                f"{place} holds others now. Put those back, or train the adapters again."
            )
        return tree

    def under(
        self, origin: Origin, part: str, plain: Any, config: Any, how: quantised.BaseConfig
    ) -> Any:
        """As they are: the tree that other roles read. In few bits: one of its own, whose matrices
        are not held in full together where the origin is open weights."""
        if not how.bits:
            return self.joined(origin, part, plain, config)
        key = (origin.path, f"{part} in {how.words}")
        if key not in self._trees:
            convert = quantised.converter(plain.declared, how)
            if origin.is_run:
                tree = self._read(origin, part, plain, config)
                self._trees[key] = trees.map_named(convert, tree)
            else:
                stored = open_weights.open_model(origin.path, skip=origin.skip)
                self._trees[key] = stored.load(config, convert)
        return self._trees[key]

    def fresh(self, model: models.Model, seed: int, base: Any) -> Any:
        own = jax.jit(model.init)(keys.stream(seed, "adapter"))
        return adapt.started(own, base)

    def with_scalar(self, model: models.Model, tree: Any) -> Any:
        return model.with_scalar(tree)

    def identity(self, tree: Any) -> str:
        return fingerprints.identity(tree)


class Shapes:
    """Shapes alone. A path that does not exist yet means a network like the experiment's own."""

    def __init__(self) -> None:
        self._trees: dict[tuple[str, str], Any] = {}

    def release(self) -> None:
        """Drops the shapes."""
        self._trees.clear()

    def origin(self, path: str, like: Any = None) -> Origin | None:
        return self._origin(path, like, _skipped(like)) if path else None

    def _origin(self, path: str, like: Any, skip: str) -> Origin:
        place = pathlib.Path(path)
        if folder.is_run(place) or _is_model(place):
            origin = open_origin(path, skip=skip)
            # A tokenizer that the data are yet to train is not known from their outline.
            known = like is None or {"tokenizer", "world"} & like.corpus.fingerprints.keys()
            return origin if known else dataclasses.replace(origin, fingerprints={})
        return _Anything(
            path=path,
            config=model_config.TransformerConfig() if like is None else like.shape,
            fingerprints={} if like is None else like.corpus.fingerprints,
        )

    def has_adapters(self, origin: Origin) -> bool:
        return origin.adapter is not None

    def same_base(self, origin: Origin, about: Mapping[str, str]) -> bool:
        """By identity where it is known, else by the folders' paths."""
        if origin.base is None:
            return False
        if origin.base.get("storage") != about.get("storage"):
            return False
        if about["identity"]:
            return origin.base["identity"] == about["identity"]
        one, other = (pathlib.Path(base["folder"]) for base in (origin.base, about))
        return one.resolve() == other.resolve()

    def own(self, origin: Origin, part: str, plain: Any, config: Any) -> Any:
        key = (origin.path, part)
        if key not in self._trees:
            self._trees[key] = self._of(origin, part, plain)
        return self._trees[key]

    def _of(self, origin: Origin, part: str, plain: Any) -> Any:
        if origin.run is not None:
            record = folder.Record(origin.run, {"networks": origin.networks})
            stored = checkpoint.stored_shapes(pathlib.Path(origin.path))
            params = folder.trained_shapes(record, origin.config.make(), stored)
            return program.shapes_of(functools.partial(origin.taken, part), params)
        tree = folder.initial_shapes(plain)
        return tree if part == methods.POLICY else self.with_scalar(plain, tree)

    def joined(self, origin: Origin, part: str, plain: Any, config: Any) -> Any:
        tree = self.own(origin, part, plain, config)
        if not adapt.has_adapters(tree):
            return tree
        return program.shapes_of(adapt.bind, tree, {"base": self.base(origin, plain, config)})

    def merged(self, origin: Origin, part: str, plain: Any, config: Any) -> Any:
        return program.shapes_of(merge.whole, self.joined(origin, part, plain, config))

    def base(self, origin: Origin, plain: Any, config: Any) -> Any:
        assert origin.base is not None
        below = self._origin(origin.base["folder"], None, origin.base.get("skip", ""))
        return self.under(below, methods.POLICY, plain, config, origin.storage)

    def under(
        self, origin: Origin, part: str, plain: Any, config: Any, how: quantised.BaseConfig
    ) -> Any:
        key = (origin.path, f"{part} in {how.words}")
        if not how.bits:
            return self.joined(origin, part, plain, config)
        if key not in self._trees:
            tree = self.joined(origin, part, plain, config)
            self._trees[key] = quantised.quantised(tree, plain.declared, how)
        return self._trees[key]

    def fresh(self, model: models.Model, seed: int, base: Any) -> Any:
        return folder.initial_shapes(model)

    def with_scalar(self, model: models.Model, tree: Any) -> Any:
        return program.shapes_of(model.with_scalar, tree)

    def identity(self, tree: Any) -> str:
        return ""


class _Anything(Origin):
    """A source that does not exist yet: it provides any part that is wanted."""

    def part_of(self, wanted: tuple[str, ...], role: str) -> str:
        return wanted[0]
