"""A run's folder: whose it is, and the parameters that it holds."""

import dataclasses
import json
import pathlib
from collections.abc import Callable, Mapping
from typing import Any, NamedTuple

import jax

from alignjax.core import source_file
from alignjax.data import corpus as corpora
from alignjax.models import config as model_config
from alignjax.models import model as models
from alignjax.models.adapters import adapt
from alignjax.parallel import mesh as meshes
from alignjax.parallel import processes
from alignjax.runs import experiment, records, upgrade
from alignjax.training import checkpoint
from alignjax.training import loop as loops
from alignjax.training import method as methods

FILE = "config.json"
# What may change on resume: how long (which moves the end of the learning-rate schedule), how
# often saved and judged, on which devices, from which folders.
HARMLESS = frozenset(
    (
        *(f"config.loop.{name}" for name in loops.HARMLESS),
        *(f"config.mesh.{field.name}" for field in dataclasses.fields(meshes.MeshConfig)),
        "config.weights",
        *(f"config.{name}" for name in methods.SOURCES),
        "base.folder",
        "format",
        "release",
    )
)


class Record(NamedTuple):
    """A run's record. config: its experiment, the model resolved; values: all of it as JSON."""

    config: experiment.Experiment
    values: Mapping[str, Any]


def is_run(workdir: pathlib.Path) -> bool:
    """Whether a folder holds the record of a run."""
    return "method" in _values(workdir / FILE)


def _values(file: pathlib.Path) -> dict[str, Any]:
    if not file.is_file():
        return {}
    try:
        values = json.loads(file.read_text())
    except ValueError as error:
        raise ValueError(
            f"the record of a run must be JSON; got {error} ({file}). Restore it from a "
            "checkpoint's meta, or use another folder."
        ) from None
    return values if isinstance(values, dict) else {}


def read(
    workdir: pathlib.Path, log: Callable[[str], None] = lambda line: None, definitions: str = ""
) -> Record:
    """The record of a run's folder; `log` gets a line for what an older release did not write.

    definitions: a file that defines the run's own classes, in place of those that it names.

    Raises:
      ValueError: it is not the folder of a run, or of a newer release.
    """
    values = _values(workdir / FILE)
    if "method" not in values:
        raise ValueError(
            f"--workdir must be the folder of a run of `alignjax train` or a lifecycle's stage; "
            f"got {workdir}. Name one that holds checkpoints."
        )
    if definitions:
        source_file.stand_in(definitions)
    return parse(values, str(workdir), log)


def parse(
    values: Mapping[str, Any],
    where: str,
    log: Callable[[str], None] = lambda line: None,
) -> Record:
    """The record of JSON values; errors and arguments as `read`."""
    records.check_format(values, where)
    values = upgrade.upgraded(values)
    absent: list[str] = []
    config = records.decode(values["config"], experiment.Experiment, absent.append)
    for line in absent:
        log(f"{where}: {line}")
    return Record(config, values)


def harmless(config: Any) -> frozenset[str]:
    """Names of fields of a flat record that may differ when a run goes on."""
    model, data = config.model, config.data
    return HARMLESS | {
        *(f"config.model.{name}" for name in model.RUNNING),
        *(f"config.data.{name}" for name in data.where()),
    }


def make_record(parts: Any, start: Mapping[str, Any], frozen: Mapping[str, Any]) -> dict[str, Any]:
    """The record of an experiment (`assembly.Assembly`) and the trees that it begins with."""
    config = dataclasses.replace(parts.config, model=parts.shape)
    trees = {**start, **{name: tree for name, tree in frozen.items() if name != "base"}}
    # A run that went on with another reference or reward model would not be the same run. A tree
    # that is another's is told by that one.
    names: dict[int, str] = {}
    for name, tree in trees.items():
        names.setdefault(id(tree), name)
    return describe(
        config,
        parts.corpus,
        formula=parts.record.echo(config.algorithm),
        start={name: checkpoint.identity(trees[name]) for name in names.values()},
        networks={
            name: _encode_network(parts, name)
            for name in methods.trained_roles(parts.roles)
            if parts.network(name).model is not parts.model
        },
        base=parts.base_about() if parts.is_adapted else None,
    )


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


def decode_network(values: Mapping[str, Any]) -> tuple[Any, Any]:
    """(configuration of the model, of its adapter) that `_encode_network` wrote."""
    model, adapter = (
        records.decode(values[name], hint, lambda line: None, name)
        for name, hint in (("model", model_config.ModelConfig), ("adapter", adapt.AdapterConfig))
    )
    return model, adapter


def network_of(values: Mapping[str, Any]) -> models.Model:
    """The model that `_encode_network` wrote."""
    model, adapter = decode_network(values)
    return adapt.adapt(model.make(), adapter)


def claim(
    workdir: pathlib.Path,
    record: Mapping[str, Any],
    *,
    may_differ: frozenset[str] | None = None,
) -> list[str]:
    """Writes the run's identity into its folder, or checks that it is the one already there.

    may_differ: names of a flat record; those of the record's own experiment if None.

    Returns:
      Lines on what an older release did not write.

    Raises:
      ValueError: the processes of the run differ in it, or the folder belongs to a run of another
        configuration or data; nothing is written. Failure: the folder is not shared.
    """
    file = workdir / FILE
    record = records.as_json(record)
    processes.check_same("configuration and data", records.flat(record))
    notes: list[str] = []
    processes.only_first(lambda: _claim(file, record, may_differ, notes))
    processes.check_shared(file)
    return notes


def _claim(
    file: pathlib.Path,
    record: Mapping[str, Any],
    may_differ: frozenset[str] | None,
    notes: list[str],
) -> None:
    workdir = file.parent
    if not file.exists():
        workdir.mkdir(parents=True, exist_ok=True)
        partial = file.with_suffix(".partial")
        partial.write_text(json.dumps(record, indent=1))
        partial.replace(file)
        return
    there = _values(file)
    if may_differ is None:
        old = parse(there, str(workdir), notes.append)
        may_differ = harmless(old.config) | {f"start.{n}" for n in _unwritten(there, record)}
        there = {**old.values, "config": records.as_json(records.encode(old.config))}
    old_values, values = records.flat(there), records.flat(record)
    changed = [
        name
        for name in sorted({*old_values, *values})
        if old_values.get(name) != values.get(name) and name not in may_differ
    ]
    if changed:
        lines = ", ".join(
            f"{n}: {old_values.get(n)!r} there, {values.get(n)!r} now" for n in changed[:8]
        )
        raise ValueError(
            f"{workdir} must be continued with the configuration it was begun with; got {lines}. "
            "Use another --workdir for another configuration."
        )


def _unwritten(there: Mapping[str, Any], record: Mapping[str, Any]) -> set[str]:
    """Trees whose identities an older format does not hold."""
    if there.get("format", 1) >= records.FORMAT:
        return set()
    return set(there.get("start", {})) ^ set(record.get("start", {}))


def load_params(folder: str | pathlib.Path, plain: models.Model) -> Any:
    """The params of a run's last checkpoint as it trained them.

    plain: the run's own model without adapters. Under adapters the params are adapters alone.

    Raises:
      ValueError: the folder holds no checkpoint.
    """

    def abstract(meta: dict[str, Any]) -> Any:
        record = parse(meta, str(folder))
        return trained_shapes(record, plain)

    params, _ = checkpoint.load(pathlib.Path(folder), abstract)
    return params


def trained_shapes(record: Record, plain: models.Model) -> Any:
    """Shapes of what a run trains: the tree of its one trained role, or a dict by role."""
    config = record.config
    own = adapt.adapt(plain, config.adapter)
    roles = config.algorithm.METHOD.roles(config.algorithm)
    networks = record.values.get("networks", {})
    trees = {}
    for name in methods.trained_roles(roles):
        model = network_of(networks[name]) if name in networks else own
        tree = initial_shapes(model)
        trees[name] = jax.eval_shape(model.with_scalar, tree) if roles[name].head else tree
    return next(iter(trees.values())) if len(trees) == 1 else trees


def initial_shapes(model: models.Model) -> Any:
    """Shapes of a model's parameters. Nothing is computed: the mesh may be of devices elsewhere."""
    return jax.eval_shape(lambda: model.init(jax.random.key(0)))
