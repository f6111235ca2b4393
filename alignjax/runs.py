"""A run's folder: whose it is, and the parameters that it holds."""

import dataclasses
import json
import pathlib
from collections.abc import Mapping
from typing import Any

import jax

from alignjax.models import config as model_config
from alignjax.models import model as models
from alignjax.models.adapters import adapt
from alignjax.models.checkpoints import folder as stored
from alignjax.parallel import processes
from alignjax.training import checkpoint

# What may change on resume: how long (which moves the end of the learning-rate schedule), how
# often saved, on which devices, from which folders.
HARMLESS = (
    "loop.steps",
    "loop.log_every",
    "loop.checkpoint_every",
    "loop.keep_checkpoints",
    "loop.max_skipped",
    "loop.save_patience",
    "mesh.",
    "model.remat",
    "model.attention_kernel",
    "model.logit_tile",
    "model.unroll",
    "weights",
    "policy",
    "reward",
    "base.folder",
    "data.path",
    "data.pairs",
)


def flat(config: Any) -> dict[str, Any]:
    """A configuration as {"loop.steps": 100, ...}."""

    def walk(node: Any, prefix: str) -> dict[str, Any]:
        if isinstance(node, dict):
            items: dict[str, Any] = {}
            for name, child in node.items():
                items |= walk(child, f"{prefix}{name}.")
            return items
        return {prefix[:-1]: list(node) if isinstance(node, tuple) else node}

    return walk(config if isinstance(config, dict) else dataclasses.asdict(config), "")


def as_json(value: Any) -> Any:
    """The value as it is after being written and read again: tuples are lists."""
    return json.loads(json.dumps(value))


def claim(
    workdir: pathlib.Path, record: Mapping[str, Any], *, harmless: tuple[str, ...] = HARMLESS
) -> None:
    """Writes the run's identity into its folder, or checks that it is the one already there.

    Raises:
      ValueError: the processes of the run differ in it, or the folder belongs to a run of another
        configuration or data; nothing is written. Failure: the folder is not shared.
    """
    file = workdir / "config.json"
    record = as_json(record)
    processes.check_same("configuration and data", flat(record))
    processes.only_first(lambda: _claim(file, record, harmless))
    processes.check_shared(file)


def _claim(file: pathlib.Path, record: Mapping[str, Any], harmless: tuple[str, ...]) -> None:
    workdir = file.parent
    if not file.exists():
        workdir.mkdir(parents=True, exist_ok=True)
        partial = file.with_suffix(".partial")
        partial.write_text(json.dumps(record, indent=1))
        partial.replace(file)
        return
    old, new = flat(json.loads(file.read_text())), flat(record)
    changed = [
        name
        for name in sorted({*old, *new})
        if old.get(name) != new.get(name) and not name.removeprefix("config.").startswith(harmless)
    ]
    if changed:
        lines = ", ".join(f"{n}: {old.get(n)!r} there, {new.get(n)!r} now" for n in changed[:8])
        raise ValueError(
            f"{workdir} must be continued with the configuration it was begun with; got {lines}. "
            "Use another --workdir for another configuration."
        )


def abstract_params(model: models.Model, meta: Mapping[str, Any]) -> Any:
    """Shapes of the parameters in a checkpoint, from its meta."""
    model = adapt.adapt(model, adapter_of(meta))
    plain = jax.eval_shape(model.init, jax.random.key(0))
    with_head = jax.eval_shape(model.with_scalar, plain)
    if meta["method"] == "ppo" and not meta["config"]["algorithm"]["shared_critic"]:
        return {"policy": plain, "value": with_head}
    return with_head if meta["method"] in ("ppo", "reward") else plain


def adapter_of(meta: Mapping[str, Any]) -> adapt.AdapterConfig:
    """The adapters that a run trained; FullConfig where it trained whole weights."""
    return adapt.config_of(meta["config"].get("adapter", {}))


def load_base(
    meta: Mapping[str, Any],
    model: models.Model,
    config: model_config.TransformerConfig,
    fingerprints: Mapping[str, str],
) -> Any:
    """The frozen weights under a run's adapters, by the folder and identity in its meta.

    Raises:
      ValueError: the folder holds no such weights any more.
    """
    base = meta["base"]
    if base["kind"] == "weights":
        tree = stored.open_model(base["folder"]).load(config)
    else:
        tree = load_policy(base["folder"], model, config, fingerprints)
    if checkpoint.identity(tree) != base["identity"]:
        raise ValueError(
            f"the base of adapters must be the weights they were trained over; {base['folder']} "
            "holds others now. Put those back, or train the adapters again."
        )
    return tree


def load_run(
    folder: str | pathlib.Path,
    model: models.Model,
    config: model_config.TransformerConfig,
    fingerprints: Mapping[str, str],
) -> tuple[Any, dict[str, Any]]:
    """(params, meta) of a run as it trained them, after checking that it is of the same model.

    Under adapters the params are adapters alone.

    Raises:
      ValueError: the folder holds no checkpoint, or of another model.
    """

    def abstract(meta: dict[str, Any]) -> Any:
        stored, own = meta["config"]["model"], as_json(dataclasses.asdict(config))
        for name in own:
            if (
                name not in ("remat", "attention_kernel", "logit_tile", "unroll")
                and stored.get(name) != own[name]
            ):
                raise ValueError(
                    f"model.{name} must be that of the run to start from; got {own[name]!r}, and "
                    f"{stored.get(name)!r} in {folder}. Use the same model."
                )
        for name in ("tokenizer", "world"):
            if meta["fingerprints"].get(name) != fingerprints.get(name):
                raise ValueError(
                    f"the {name} must be that of the run to start from, or ids would mean other "
                    f"tokens; got another one than in {folder}. Use the same {name}."
                )
        return abstract_params(model, meta)

    return checkpoint.load(pathlib.Path(folder), abstract)


def load_policy(
    folder: str | pathlib.Path,
    model: models.Model,
    config: model_config.TransformerConfig,
    fingerprints: Mapping[str, str],
) -> Any:
    """The language model that a run trained; adapters joined with their base.

    Raises:
      ValueError: the run trained a reward model, or its base is not there.
    """
    params, meta = load_own_policy(folder, model, config, fingerprints)
    return _joined(params, meta, model, config, fingerprints)


def _joined(
    params: Any,
    meta: Mapping[str, Any],
    model: models.Model,
    config: model_config.TransformerConfig,
    fingerprints: Mapping[str, str],
) -> Any:
    if not adapt.has_adapters(params):
        return params
    return adapt.bind(params, {"base": load_base(meta, model, config, fingerprints)})


def load_own_policy(
    folder: str | pathlib.Path,
    model: models.Model,
    config: model_config.TransformerConfig,
    fingerprints: Mapping[str, str],
) -> tuple[Any, dict[str, Any]]:
    """(language model, meta) of a run; adapters without their base.

    Raises:
      ValueError: the run trained a reward model.
    """
    params, meta = load_run(folder, model, config, fingerprints)
    if meta["method"] == "reward":
        raise ValueError(
            f"policy must be the run of a language model; got {folder}, a reward model's."
        )
    if meta["method"] == "ppo":
        is_pair = isinstance(params, dict)
        params = params["policy"] if is_pair else model.without_scalar(params)
    return params, meta


def load_reward(
    folder: str | pathlib.Path,
    model: models.Model,
    config: model_config.TransformerConfig,
    fingerprints: Mapping[str, str],
) -> Any:
    """The reward model that a run trained; adapters joined with their base.

    Raises:
      ValueError: the run trained something else, or its base is not there.
    """
    params, meta = load_own_reward(folder, model, config, fingerprints)
    return _joined(params, meta, model, config, fingerprints)


def load_own_reward(
    folder: str | pathlib.Path,
    model: models.Model,
    config: model_config.TransformerConfig,
    fingerprints: Mapping[str, str],
) -> tuple[Any, dict[str, Any]]:
    """(reward model, meta) of a run; adapters without their base.

    Raises:
      ValueError: the run trained something else.
    """
    params, meta = load_run(folder, model, config, fingerprints)
    if meta["method"] != "reward":
        raise ValueError(
            f"reward must be the run of a reward model; got {folder}, a run of {meta['method']}."
        )
    return params, meta
