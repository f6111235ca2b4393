"""A run's folder: whose it is, and the parameters that it holds."""

import dataclasses
import json
import pathlib
from collections.abc import Mapping
from typing import Any

import jax

from alignjax.models import config as model_config
from alignjax.models import model as models
from alignjax.training import checkpoint

# What may change on resume: how long (which moves the end of the learning-rate schedule), how
# often saved, on which devices, from which folders.
HARMLESS = (
    "loop.steps",
    "loop.log_every",
    "loop.checkpoint_every",
    "loop.keep_checkpoints",
    "loop.max_skipped",
    "mesh.",
    "model.remat",
    "model.logit_tile",
    "model.unroll",
    "weights",
    "policy",
    "reward",
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


def claim(
    workdir: pathlib.Path, record: Mapping[str, Any], *, harmless: tuple[str, ...] = HARMLESS
) -> None:
    """Writes the run's identity into its folder, or checks that it is the one already there.

    Raises:
      ValueError: the folder belongs to a run of another configuration or data; nothing is written.
    """
    file = workdir / "config.json"
    record = json.loads(json.dumps(record))
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
    plain = jax.eval_shape(model.init, jax.random.key(0))
    with_head = jax.eval_shape(model.with_scalar, plain)
    if meta["method"] == "ppo" and not meta["config"]["algorithm"]["shared_critic"]:
        return {"policy": plain, "value": with_head}
    return with_head if meta["method"] in ("ppo", "reward") else plain


def load_run(
    folder: str | pathlib.Path,
    model: models.Model,
    config: model_config.TransformerConfig,
    fingerprints: Mapping[str, str],
) -> tuple[Any, dict[str, Any]]:
    """(params, meta) of a run, after checking that it is of the same model.

    Raises:
      ValueError: the folder holds no checkpoint, or of another model.
    """

    def abstract(meta: dict[str, Any]) -> Any:
        stored, own = meta["config"]["model"], dataclasses.asdict(config)
        for name in own:
            if name not in ("remat", "logit_tile", "unroll") and stored.get(name) != own[name]:
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
    """The language model that a run trained.

    Raises:
      ValueError: the run trained a reward model.
    """
    params, meta = load_run(folder, model, config, fingerprints)
    if meta["method"] == "reward":
        raise ValueError(
            f"policy must be the run of a language model; got {folder}, a reward model's."
        )
    if meta["method"] != "ppo":
        return params
    return params["policy"] if isinstance(params, dict) else model.without_scalar(params)


def load_reward(
    folder: str | pathlib.Path,
    model: models.Model,
    config: model_config.TransformerConfig,
    fingerprints: Mapping[str, str],
) -> Any:
    """The reward model that a run trained.

    Raises:
      ValueError: the run trained something else.
    """
    params, meta = load_run(folder, model, config, fingerprints)
    if meta["method"] != "reward":
        raise ValueError(
            f"reward must be the run of a reward model; got {folder}, a run of {meta['method']}."
        )
    return params
