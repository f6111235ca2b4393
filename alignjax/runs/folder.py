"""A run's folder: its record, and its trained parameters."""

import dataclasses
import functools
import os
import pathlib
from collections.abc import Callable, Mapping
from typing import Any, NamedTuple

import jax
import jax.numpy as jnp

from alignjax.core import source_file, untrusted
from alignjax.core import trees as named_trees
from alignjax.data import corpus as corpora
from alignjax.models import config as model_config
from alignjax.models import model as models
from alignjax.models.adapters import adapt
from alignjax.runs import experiment, records, upgrade
from alignjax.training import checkpoint, fingerprints
from alignjax.training import method as methods

FILE = "config.json"
TOKENIZER = "tokenizer"  # the folder of what a run keeps of its data: `kept`
OVER = " over "  # in the identity of adapters that were merged into their base
PARAMS = "params/"  # names of trained leaves in a checkpoint begin so
PLACES = "places"  # in a record: where its sources lie, seen from its folder


class Record(NamedTuple):
    """A run's record. config: its experiment, the model resolved; values: all of it as JSON."""

    config: experiment.Experiment
    values: Mapping[str, Any]


def is_run(workdir: pathlib.Path) -> bool:
    """Whether a folder holds the record of a run."""
    return "method" in stored_values(workdir / FILE)


def stored_values(file: pathlib.Path) -> dict[str, Any]:
    """The JSON of a record; {} where there is no file, or something else in it."""
    if not file.is_file():
        return {}
    try:
        values = untrusted.read_json(file, untrusted.RECORD)
    except ValueError as error:
        raise ValueError(
            f"the record of a run must be JSON; got {error} ({file}). Restore it from a "
            "checkpoint's meta, or use another folder."
        ) from None
    return values if isinstance(values, dict) else {}


def read(
    workdir: pathlib.Path, log: Callable[[str], None] = lambda line: None, definitions: str = ""
) -> Record:
    """The record of a run's folder; `log` gets a line per field that an older release lacked.

    definitions: a file that defines the run's own classes, in place of those that it names.

    Raises:
      ValueError: it is not the folder of a run, or of a newer release.
    """
    values = stored_values(workdir / FILE)
    records.check_format(values, str(workdir))
    if "method" not in values:
        raise ValueError(
            f"--workdir must be the folder of a run of `alignjax train` or a lifecycle's stage; "
            f"got {workdir}. Name one that holds checkpoints."
        )
    if definitions:
        source_file.stand_in(definitions)
    return parse(_at_places(values, workdir, log), str(workdir), log)


def places(sources: Mapping[str, Any], workdir: pathlib.Path) -> dict[str, str | list[str]]:
    """Where the present ones of a record's sources lie, seen from its folder.

    sources: by the field's name, a path or a list of them; a list is told whole or not at all.
    """
    seen: dict[str, str | list[str]] = {}
    for name, source in sources.items():
        paths = source if isinstance(source, list) else [source]
        if all(path and pathlib.Path(path).exists() for path in paths) and paths:
            relative = [os.path.relpath(path, workdir) for path in paths]
            seen[name] = relative if isinstance(source, list) else relative[0]
    return seen


def _at_places(
    values: dict[str, Any], workdir: pathlib.Path, log: Callable[[str], None]
) -> dict[str, Any]:
    """The record, with the present paths of sources that moved together with the run."""
    values = records.as_json(values)
    for name, place in values.get(PLACES, {}).items():
        *above, last = name.split(".")
        node = values
        for part in above:
            node = node[part]
        if isinstance(place, list):
            node[last] = [
                _present(name, *both, workdir, log) for both in zip(node[last], place, strict=True)
            ]
        else:
            node[last] = _present(name, node[last], place, workdir, log)
    return values


def _present(
    name: str, path: str, place: str, workdir: pathlib.Path, log: Callable[[str], None]
) -> str:
    """Where one source of a record lies now: at its path, or else seen from the run's folder."""
    here = workdir / place
    if pathlib.Path(path).exists() or not here.exists():
        return path
    moved = os.path.normpath(here)
    log(f"{workdir}: {name} is not at {path} any more and is read at {moved}.")
    return moved


def parse(
    values: Mapping[str, Any],
    where: str,
    log: Callable[[str], None] = lambda line: None,
) -> Record:
    """The record of JSON values; errors and arguments as `read`."""
    records.check_format(values, where)
    values = upgrade.upgraded(values)
    absent: list[str] = []
    config = records.decode(values.get("config"), experiment.Experiment, absent.append)
    for role, network in values.get("networks", {}).items():
        decode_network(network, absent.append, f"networks.{role}")
    for line in absent:
        log(f"{where}: {line}")
    return Record(config, values)


def make_record(parts: Any, start: Mapping[str, Any], frozen: Mapping[str, Any]) -> dict[str, Any]:
    """The record of an experiment (`assembly.Assembly`) and the trees that it starts from."""
    config = dataclasses.replace(parts.config, model=parts.shape)
    trees = {**start, **{name: tree for name, tree in frozen.items() if name != "base"}}
    # A run that went on with another reference or reward model would not be the same run. A tree
    # that is another's is told by that one.
    names: dict[int, str] = {}
    for name, tree in trees.items():
        names.setdefault(id(tree), name)
    if parts.is_fresh:  # numbers of a seed differ in their last bits between machines
        names.pop(id(trees[parts.own]))
    return describe(
        config,
        parts.corpus,
        formula=parts.record.echo(config.algorithm),
        start={name: _identity(parts, name, trees[name]) for name in names.values()},
        networks={
            name: _encode_network(parts, name)
            for name in methods.trained_roles(parts.roles)
            if parts.network(name).model is not parts.model
        },
        base=parts.base_about() if parts.is_adapted else None,
    )


def _identity(parts: Any, name: str, tree: Any) -> str:
    """The identity of the tree that a role begins with.

    What adapters merged into their base give differs in its last bits between machines: they
    themselves and their base tell of it.
    """
    network, is_own = parts.network(name), name == parts.own
    origin = parts.own_origin if is_own else network.origin
    if origin is not None and origin.base is not None and not adapt.has_adapters(tree):
        part = parts.own_part(origin) if is_own else network.part
        own = parts.source.own(origin, part, parts.plain, network.config)
        if adapt.has_adapters(own):
            return f"{fingerprints.identity(own)}{OVER}{origin.base['identity']}"
    return fingerprints.identity(tree)


def describe(
    config: experiment.Experiment,
    corpus: corpora.Corpus,
    *,
    formula: str,
    start: Mapping[str, str],
    networks: Mapping[str, Any] | None = None,
    base: Mapping[str, str] | None = None,
) -> dict[str, Any]:
    """The record of a run as JSON."""
    return {
        "format": records.FORMAT,
        "method": config.algorithm.METHOD.name,
        "formula": formula,
        "config": records.encode(config),
        "fingerprints": dict(corpus.fingerprints),
        "start": dict(start),
        **({"networks": dict(networks)} if networks else {}),
        **({"base": dict(base)} if base else {}),
    }


def _encode_network(parts: Any, name: str) -> Any:
    """A trained role's model; whole weights where its parameters are no adapters."""
    network = parts.network(name)
    adapter = parts.config.adapter if network.shares else adapt.FullConfig()
    return {"model": records.encode(network.config), "adapter": records.encode(adapter)}


def decode_network(
    values: Mapping[str, Any], note: Callable[[str], None] = lambda line: None, path: str = ""
) -> tuple[Any, Any]:
    """(configuration of the model, of its adapter) that `_encode_network` wrote; see `decode`."""
    model, adapter = (
        records.decode(values.get(name), hint, note, f"{path}.{name}")
        for name, hint in (("model", model_config.ModelConfig), ("adapter", adapt.AdapterConfig))
    )
    return model, adapter


def network_of(values: Mapping[str, Any]) -> models.Model:
    """The model that `_encode_network` wrote."""
    model, adapter = decode_network(values)
    return adapt.adapt(model.make(), adapter)


def load_params(folder: str | pathlib.Path, plain: models.Model) -> Any:
    """The params of a run's last checkpoint as it trained them.

    plain: the run's own model without adapters. Under adapters the params are adapters alone.

    Raises:
      ValueError: the folder holds no checkpoint.
    """

    def abstract(meta: dict[str, Any]) -> Any:
        record = parse(meta, str(folder))
        return trained_shapes(record, plain, meta.get("shapes", {}))

    params, _ = checkpoint.load(pathlib.Path(folder), abstract)
    return params


def trained_shapes(
    record: Record, plain: models.Model, stored: Mapping[str, str] | None = None
) -> Any:
    """Shapes of what a run trains: the tree of its one trained role, or a mapping by role.

    stored: of a checkpoint, {name of a leaf: its type and shape}. A mapping may have further
    entries, of arrays that no network has.
    """
    config = record.config
    own = adapt.adapt(plain, config.adapter)
    roles = config.algorithm.METHOD.roles(config.algorithm)
    networks = record.values.get("networks", {})
    trees = {}
    for name in methods.trained_roles(roles):
        model = network_of(networks[name]) if name in networks else own
        tree = initial_shapes(model)
        role = roles[name]
        if role.head:
            tree = jax.eval_shape(lambda t, m=model, r=role: m.with_scalar(t, r.heads), tree)
        trees[name] = tree
    leaves = {n.partition("/")[2]: s for n, s in (stored or {}).items() if n.startswith(PARAMS)}
    tops = {name.partition("/")[0] for name in leaves}
    (first, whole), *others = trees.items()
    if not others:
        parts = {name.partition("/")[0] for name in named_trees.named_leaves(whole)}
        if first not in tops or tops == parts:
            return whole
    further = {name: shape for name, shape in leaves.items() if name.partition("/")[0] not in trees}
    return {**trees, **_nested(further)}


def _nested(leaves: Mapping[str, str]) -> dict[str, Any]:
    """Shapes by their paths' parts, of leaves as a checkpoint names them: {"a/b": "float32[2]"}."""
    tree: dict[str, Any] = {}
    for name, text in leaves.items():
        *above, last = name.split("/")
        node = tree
        for part in above:
            node = node.setdefault(part, {})
        dtype, _, sizes = text.partition("[")
        shape = tuple(int(size) for size in sizes.rstrip("]").split(",") if size)
        node[last] = jax.eval_shape(functools.partial(jnp.zeros, shape, dtype))
    return tree


def initial_shapes(model: models.Model) -> Any:
    """Shapes of a model's parameters. Nothing is computed: the mesh's devices may be absent."""
    return jax.eval_shape(lambda: model.init(jax.random.key(0)))
