"""Export of a run as a model folder, and import of open weights as a run."""

import dataclasses
import pathlib
from collections.abc import Callable, Mapping
from typing import Any

import jax
import jax.numpy as jnp

from alignjax.algorithms import imported
from alignjax.models.adapters import merge, peft_config, peft_format
from alignjax.models.checkpoints import folder as folders
from alignjax.models.checkpoints import heads
from alignjax.models.checkpoints.families import FAMILIES
from alignjax.models.config import TransformerConfig
from alignjax.parallel import mesh as meshes
from alignjax.runs import (
    assembly,
    continuing,
    evaluation,
    experiment,
    exported_tokenizer,
    folder,
    kept,
    sources,
)
from alignjax.training import algorithm, checkpoint, fingerprints
from alignjax.training import method as methods


def export_run(
    workdir: pathlib.Path,
    to: pathlib.Path,
    *,
    dtype: str = "",
    adapters: bool = False,
    best: bool = False,
    log: Callable[[str], None] = print,
    definitions: str = "",
) -> None:
    """Writes a run's model as a folder that transformers loads, or its adapters as one for peft.

    A reward model becomes a sequence classifier with one label; a policy a causal language model.
    Adapters are merged into it. The tokenizer comes along: its files, the ids at which answers end,
    the template unless the run was trained with another; what cannot be written is told.

    Args:
      workdir: the run's folder. to: the folder to write, new or empty.
      dtype: of the tensors; empty is that of the run's parameters.
      adapters: write the policy's adapters alone, in peft's format.
      best: the best state that the loop kept.

    Raises:
      ValueError: no run there, no family of transformers is this model, or the target is in use.
    """
    record = evaluation.open_record(workdir, log, definitions)
    with meshes.use(meshes.make_mesh(record.config.mesh)):
        run = evaluation.Run(workdir, record, best=best, log=log)
        if adapters:
            _export_adapters(run, to)
            log(f"written: {to} (adapters for peft)")
            return
        part = methods.POLICY if methods.POLICY in run.product else methods.SCORER
        shape = run.parts.shape
        if not isinstance(shape, TransformerConfig):
            raise ValueError(
                f"only a Transformer can be exported; got {type(shape).__name__} ({workdir}). "
                "Write such a model's weights with its own library."
            )
        exported: Any = shape
        fields = {**_fields(run, exported), **exported_tokenizer.ids(run.corpus)}
        if part != methods.POLICY and fields.get("pad_token_id") is None:
            fields = {**fields, "pad_token_id": run.corpus.pad}  # a classifier ends rows by it
        kind = jnp.dtype(dtype) if dtype else None
        params = merge.whole(run.joined(part))
        if part == methods.POLICY and exported.tied and params.unembed is not None:
            # Adapters of one of the two made them differ.
            exported = dataclasses.replace(exported, tied=False)
            fields = {**fields, "tie_word_embeddings": False}
            log("its unembedding is no more its embedding: written as a model that is not tied")
        save: Any = folders.save_model if part == methods.POLICY else heads.save_reward
        save(to, exported, params, fields, dtype=kind)
    own = workdir / folder.TOKENIZER
    told = exported_tokenizer.write(run.config.data, run.corpus, run.config.weights, to, own)
    log(f"written: {to} ({fields['model_type']}, {told[0]})")
    for line in told[1:]:
        log(line)


def _export_adapters(run: evaluation.Run, to: pathlib.Path) -> None:
    """The adapters of a run's policy, or of its reward model, in peft's format."""
    adapter, about = run.config.adapter, run.record.values.get("base")
    if about is None or not isinstance(adapter, peft_config.Config):
        raise ValueError(
            f"--adapters must be asked of a run that trained LoRA, IA3 or a prefix; {run.folder} "
            f"has {type(adapter).__name__}. Leave it out."
        )
    part = methods.POLICY if methods.POLICY in run.product else methods.SCORER
    base = run.frozen()["base"]
    shape: Any = run.parts.shape
    name = about["folder"]
    together = _together(run, shape, getattr(adapter, "targets", ()))
    if together:
        raise ValueError(
            "--adapters must be asked of matrices that the family keeps apart; in its files "
            f"{together} stand in one tensor with others ({run.folder}). Leave it out: the merged "
            "model is written."
        )
    peft_format.save(to, adapter, run.own(part), shape, base=base, base_name=name)


def _together(run: evaluation.Run, shape: Any, targets: tuple[str, ...]) -> str:
    """Those of an adapter's targets that its base's family stores in one tensor with others."""
    kind = _fields(run, shape)["model_type"]
    return ", ".join(name for name in targets if name in FAMILIES[kind].fused)


def _fields(run: evaluation.Run, shape: Any) -> Mapping[str, Any]:
    """The `config.json` to write: that of the folder the run began from, where there is one."""
    weights, stored = run.config.weights, kept.about(run.folder).get("fields")
    if not weights or run.config.weights_layers:
        return folders.hf_fields(shape)
    if stored is None:
        stored = folders.open_model(weights, skip=run.config.weights_skip).fields
    return stored or folders.hf_fields(shape)


def import_model(
    config: experiment.Experiment, workdir: pathlib.Path, *, log: Callable[[str], None] = print
) -> None:
    """Writes an experiment's open weights as a run's folder, which others name as their `policy`.

    The weights are stored in `model.param_dtype` on the experiment's mesh, with the fingerprints
    of its data, so that a later stage with another tokenizer is refused.

    Raises:
      ValueError: no weights are named, or the folder belongs to another run.
    """
    if not config.weights:
        raise ValueError(
            "weights must name the model to import; got '' (import). Set --config.weights=MODEL."
        )
    config = dataclasses.replace(config, algorithm=imported.ImportedConfig())
    corpus = experiment.make_corpus(config.data, log)
    with meshes.use(meshes.make_mesh(config.mesh)):
        parts = assembly.Assembly(config, corpus, sources.Stored())
        shape: Any = parts.shape
        stored = folders.open_model(config.weights, skip=config.weights_skip)
        if stored.told:
            log(stored.told)
        params = stored.load(shape)
        record = folder.describe(
            dataclasses.replace(config, model=parts.shape),
            corpus,
            formula=f"open weights of {config.weights}",
            start={"policy": fingerprints.identity(params)},
        )
        continuing.claim(workdir, record)
        kept.write(workdir, config, corpus)
        state = algorithm.TrainState(
            step=jnp.zeros((), jnp.int32), params=params, opt_state=(), carry=()
        )
        checkpoints = checkpoint.Checkpoints(workdir)
        checkpoints.save(state, {**record, "finished": True})
        checkpoints.wait()
        checkpoints.close()
    log(f"{sum(x.size for x in jax.tree.leaves(params)):,} parameters: {workdir}")
