"""A model as others store it: a folder of safetensors with its `config.json`, or a GGUF file."""

import dataclasses
import pathlib
from collections.abc import Mapping
from typing import Any

import jax
import jax.numpy as jnp

from alignjax.models import transformer
from alignjax.models.checkpoints import (
    dense,
    families_moe,
    gguf_io,
    hf_config,
    names,
    safetensors_io,
    sharded,
)
from alignjax.models.config import TransformerConfig

FAMILIES = {
    **dense.FAMILIES,
    **{name: family.config for name, family in families_moe.FAMILIES.items()},
}
# Tensors that repeat what a parameter holds, or that others compute anew.
UNREAD: tuple[str, ...] = ("*.rotary_emb.inv_freq",)


@dataclasses.dataclass(frozen=True, kw_only=True)
class Stored:
    """A stored model, opened and understood; no weight is read yet.

    fields: its `config.json` (empty for GGUF). sources: where each parameter stands.
    """

    config: TransformerConfig
    tensors: sharded.Tensors
    sources: Any
    fields: Mapping[str, Any]
    unread: tuple[str, ...] = UNREAD

    def load(self, config: TransformerConfig | None = None) -> transformer.Transformer:
        """The parameters in `config.param_dtype`, each device reading its own slices.

        config: the same model with other dtypes, if wanted.
        """
        config = config or self.config
        wanted = sharded.targets(transformer.declare(config), jnp.dtype(config.param_dtype))
        return sharded.load(self.tensors, wanted, self.sources, unread=self.unread)


def open_model(path: str | pathlib.Path) -> Stored:
    """Opens a folder in the format of transformers, or a GGUF file of a Llama.

    Raises:
      ValueError: there is no such model, its family or a field of it is not known, or its files are
        not what they claim to be; before any weight is read.
    """
    path = pathlib.Path(path)
    if path.is_dir():
        return _open_folder(path)
    if path.suffix == ".gguf":
        return _open_gguf(path)
    raise ValueError(
        f"model must be a folder with config.json and safetensors, or a .gguf file; got {path}."
    )


def parse_config(values: dict[str, Any], where: str) -> TransformerConfig:
    """The TransformerConfig that the fields of a `config.json` describe.

    Raises:
      ValueError: an unknown family, or a field that the family does not know.
    """
    kind = values.get("model_type")
    if kind not in FAMILIES:
        raise ValueError(
            f"model_type must be one of {', '.join(sorted(FAMILIES))}; got {kind!r:.100} ({where})."
        )
    fields = hf_config.Fields(values, where)
    config = FAMILIES[kind](fields)
    fields.done()
    config.validate()
    return config


def sources_of(kind: str, config: TransformerConfig) -> transformer.Transformer:
    """The tree of Sources of a family's model, by its `model_type`."""
    family = families_moe.FAMILIES.get(kind)
    return family.sources(config) if family else names.sources(config)


def _open_folder(path: pathlib.Path) -> Stored:
    file = path / "config.json"
    values = hf_config.read(file)
    config = parse_config(values, str(file))
    tensors = safetensors_io.open_folder(path)
    unread = UNREAD
    if config.tied:
        unread = (*UNREAD, "lm_head.weight")  # a copy of the embedding, where it is there
    kind = values["model_type"]
    if kind in families_moe.FAMILIES:
        unread = (*unread, *families_moe.FAMILIES[kind].unread(config))
    return Stored(
        config=config,
        tensors=tensors,
        sources=sources_of(kind, config),
        fields=values,
        unread=unread,
    )


def _open_gguf(path: pathlib.Path) -> Stored:
    file = gguf_io.open_file(path)
    config = _gguf_config(file.metadata, "output.weight" not in file.tensors, str(path))
    return Stored(config=config, tensors=file, sources=names.gguf_sources(config), fields={})


def _gguf_config(metadata: Mapping[str, Any], tied: bool, where: str) -> TransformerConfig:
    """The TransformerConfig of a GGUF file's metadata."""
    kind = metadata.get("general.architecture")
    if kind != "llama":
        raise ValueError(f"general.architecture must be llama; got {kind!r:.100} ({where}).")
    start = "llama."
    fields = hf_config.Fields(
        {k.removeprefix(start): v for k, v in metadata.items() if k.startswith(start)}, where
    )
    heads = int(fields.number("attention.head_count"))
    width = int(fields.number("embedding_length"))
    head_dim = int(fields.number("attention.key_length", width // heads))
    fields.only("attention.value_length", head_dim)
    fields.only("rope.dimension_count", head_dim)
    for name in ("context_length", "rope.scaling.finetuned"):
        fields.take(name, None)
    pieces = metadata.get("tokenizer.ggml.tokens")
    config = TransformerConfig(
        vocab_size=int(fields.number("vocab_size", len(pieces) if pieces else None)),
        layers=int(fields.number("block_count")),
        width=width,
        heads=heads,
        kv_heads=int(fields.number("attention.head_count_kv", heads)),
        head_dim=head_dim,
        ff=int(fields.number("feed_forward_length")),
        norm_eps=float(fields.number("attention.layer_norm_rms_epsilon")),
        rope_theta=float(fields.number("rope.freq_base", 10000.0)),
        tied=tied,
    )
    fields.done()
    config.validate()
    return config


def save_model(
    path: str | pathlib.Path,
    config: TransformerConfig,
    params: transformer.Transformer,
    fields: Mapping[str, Any],
    *,
    dtype: Any = None,
) -> None:
    """Writes a folder that transformers loads: `config.json` and safetensors.

    Args:
      config, params: the model.
      fields: its `config.json`; checked to describe `config`.
      dtype: of the tensors; that of the parameters where None.

    Raises:
      ValueError: the fields describe another model, or the folder holds a model already.
    """
    described = parse_config(dict(fields), "fields")
    own = dataclasses.replace(described, **{n: getattr(config, n) for n in _LOCAL})
    losses = {n: getattr(config.moe, n) for n in ("balance_loss", "z_loss")}
    own.moe = dataclasses.replace(own.moe, **losses)
    if own != config:
        changed = [
            f.name
            for f in dataclasses.fields(config)
            if getattr(config, f.name) != getattr(own, f.name)
        ]
        raise ValueError(
            f"config.json must describe the model that is saved; they differ in "
            f"{', '.join(changed)} (save_model)."
        )
    if params.scalar is not None:
        raise ValueError("a language model must have no scalar head to be saved as one.")
    written = jax.dtypes.canonicalize_dtype(dtype or config.param_dtype)
    sources = sources_of(fields["model_type"], config)
    tensors = sharded.tensors_of(params, sources, written)
    safetensors_io.write_folder(path, tensors, metadata={"format": "pt"})
    hf_config.write(pathlib.Path(path) / "config.json", {**fields, "dtype": str(written)})


# Fields of the configuration that say how a model is run, not what it computes.
_LOCAL = ("compute_dtype", "param_dtype", "remat", "unroll", "logit_tile")
