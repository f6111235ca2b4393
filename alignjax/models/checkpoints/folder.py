"""A model as others store it: a folder of safetensors with its `config.json`, or a GGUF file."""

import dataclasses
import pathlib
from collections.abc import Callable, Mapping
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np

from alignjax.core import shapes, struct
from alignjax.models import params, transformer
from alignjax.models.checkpoints import (
    few_bits,
    gguf_io,
    hf_config,
    names,
    safetensors_io,
    sharded,
)
from alignjax.models.checkpoints.families import COMPOSITES, FAMILIES, composite
from alignjax.models.config import (
    DeltaConfig,
    MlaConfig,
    MoeConfig,
    RopeScaling,
    TransformerConfig,
)

SPECIAL = ("bos_token_id", "eos_token_id", "pad_token_id")
# Tensors that repeat what a parameter holds, or that others compute anew.
UNREAD: tuple[str, ...] = ("*.rotary_emb.inv_freq",)


@dataclasses.dataclass(frozen=True, kw_only=True)
class Stored:
    """A stored model, opened and understood; no weight is read yet.

    fields: its `config.json` (empty for GGUF). sources: where each parameter stands. scored: it has
    a scalar head in place of a language model's unembedding (`heads.py`). context: tokens of the
    longest rows that it was trained for, 0 where its files do not say. told: a line of how its
    weights are stored, or "".
    """

    config: TransformerConfig
    tensors: sharded.Tensors
    sources: Any
    fields: Mapping[str, Any]
    unread: tuple[str, ...] = UNREAD
    scored: bool = False
    context: int = 0
    told: str = ""

    def beyond(self, length: int, what: str) -> list[str]:
        """A line where `what` has more tokens than the model was trained for; else none.

        No refusal: rotations go on, and to train a model for longer rows is a reason to have them.
        """
        rope, lines = self.config.rope, []
        if rope.by_length() and length > rope.original_length:
            lines = [
                f"{what} of {length} tokens go beyond the {rope.original_length} from which on "
                f"positions turn by a row's length ({rope.kind}): keys in a cache stay as they "
                "were turned, so that answers are not scored exactly as they were sampled."
            ]
        if not 0 < self.context < length:
            return lines
        return [
            *lines,
            f"{what} of {length} tokens go beyond the {self.context} that the model was trained "
            "for (max_position_embeddings): later positions are new to it.",
        ]

    def load(
        self,
        config: TransformerConfig | None = None,
        convert: Callable[[str, jax.Array], Any] = lambda name, x: x,
    ) -> transformer.Transformer:
        """The parameters in `config.param_dtype`, each device reading its own slices.

        config: the same model with other dtypes, or its first layers only, if wanted. convert: what
        is kept of each parameter, by its path, before the next one is read.
        """
        config = config or self.config
        if config.layers < self.config.layers:
            return self._first(config.layers).load(config, convert)
        self._check_copy()
        declared = transformer.declare(config)
        if self.scored:
            declared = struct.replace(declared, unembed=None)
        wanted = sharded.targets(declared, jnp.dtype(config.param_dtype))
        if self.scored:
            head = params.ParamInfo((config.width,), "embed", 0)
            wanted = struct.replace(wanted, scalar=sharded.targets(head, jnp.float32))
        return sharded.load(self.tensors, wanted, self.sources, unread=self.unread, convert=convert)

    def _first(self, layers: int) -> "Stored":
        """The model cut after so many layers."""
        config = self.config.first(layers)
        kind = self.fields.get("model_type")
        left = range(layers, self.config.layers)
        cut = [f"{start}.{n}.*" for n in left for start in ("model.layers", "blk")]
        return dataclasses.replace(
            self,
            config=config,
            sources=sources_of(kind, config) if kind else names.gguf_sources(config),
            unread=(*self.unread, *cut),
        )

    def _check_copy(self) -> None:
        """Refuses a tied model whose stored unembedding is not the embedding, in which transformers
        would leave them untied."""
        held, name = self.tensors.tensors, "lm_head.weight"
        if not self.config.tied or name not in held:
            return
        table, rows = "model.embed_tokens.weight", 1024
        same = table in held and held[table].shape == held[name].shape
        for start in range(0, held[name].shape[0] if same else 0, rows):
            at = (slice(start, start + rows),)
            same = same and np.array_equal(
                self.tensors.read(name, at), self.tensors.read(table, at)
            )
        if not same:
            raise ValueError(
                f"{name} must equal {table} under tie_word_embeddings; it does not "
                f"({held[name].file}). Set tie_word_embeddings to false in config.json."
            )


def open_model(path: str | pathlib.Path, *, skip: str = "") -> Stored:
    """Opens a folder in the format of transformers, or a GGUF file of a Llama.

    skip: "vision" reads the text part of a model of text and images, as a model of its own, "mtp" a
    model without its layer for a further token, "vision+mtp" leaves out both; "" is nothing, and
    such models are refused.

    Raises:
      ValueError: there is no such model, its family or a field of it is not known, or its files are
        not what they claim to be; before any weight is read.
    """
    shapes.check_choice("weights_skip", skip, composite.SKIPS)
    path = pathlib.Path(path)
    if path.is_dir():
        return _open_folder(path, skip)
    if path.suffix == ".gguf":
        return _open_gguf(path)
    raise ValueError(
        f"model must be a folder with config.json and safetensors, or a .gguf file; got {path}."
    )


def parse_config(values: Mapping[str, Any], where: str) -> TransformerConfig:
    """The TransformerConfig that the fields of a `config.json` describe.

    Raises:
      ValueError: an unknown family, or a field that the family does not know.
    """
    family = _family(values, where)
    fields = hf_config.Fields(dict(values), where)
    for name in ("is_encoder_decoder", "tie_encoder_decoder", "is_decoder"):
        fields.only(name, False)
    config = family.config(fields)
    fields.done()
    config.validate()
    return config


def _family(values: Mapping[str, Any], where: str) -> names.Family:
    kind = values.get("model_type")
    if not isinstance(kind, str) or kind not in FAMILIES:
        raise ValueError(
            f"model_type must be one of {', '.join(sorted({*FAMILIES, *COMPOSITES}))}; got "
            f"{kind!r:.100} ({where})."
        )
    return FAMILIES[kind]


def sources_of(kind: str, config: TransformerConfig) -> transformer.Transformer:
    """The tree of Sources of a family's model, by its `model_type`."""
    return FAMILIES[kind].sources(config)


def hf_fields(config: TransformerConfig) -> dict[str, Any]:
    """A `config.json` for a model that was not read from a folder.

    It is of the first family that expresses the configuration wholly. Special token ids are null,
    because families have defaults of their own, beyond a small vocabulary too; they and the length
    of training (`max_position_embeddings`) are for the caller to fill in.

    Raises:
      ValueError: no family of transformers is this model.
    """
    near: tuple[str, list[str]] | None = None
    for kind, family in FAMILIES.items():
        try:
            fields = family.describe(config)
            changed = differences(config, parse_config(fields, "hf_fields"))
        except (ValueError, ArithmeticError):  # the family has no word for it
            continue
        if not changed:
            return {**dict.fromkeys(SPECIAL), **fields}
        if near is None or len(changed) < len(near[1]):
            near = kind, changed
    hint = f" Nearest is {near[0]}, which differs in {', '.join(near[1])}." if near else ""
    raise ValueError(f"model must be one of a family of transformers; got another (model).{hint}")


def differences(config: TransformerConfig, other: TransformerConfig) -> list[str]:
    """Fields in which two configurations are different functions of their weights.

    How a model is run, and the losses that it is trained with, do not count.
    """
    ours, theirs = _normal(config), _normal(other)
    return [name for name, value in ours.items() if value != theirs[name]]


def _normal(config: TransformerConfig) -> dict[str, Any]:
    """Fields by name, each function written in one way only."""
    kinds = config.kinds()
    sliding, windowed = "sliding" in kinds, bool({"sliding", "chunked"} & {*kinds})
    own = config.local_rope_theta or (config.rope_theta if config.rope.kind == "none" else 0.0)
    tuned = config.query_tuning > 0
    scale = config.query_scale or config.head_dim**-0.5
    fields = {f.name: getattr(config, f.name) for f in dataclasses.fields(config)}
    rope = config.rope if config.rope.kind != "none" else RopeScaling()
    if not config.mla.kv_rank:
        rope = dataclasses.replace(rope, score_mscale=0.0)
    return {name: value for name, value in fields.items() if name not in _LOCAL} | {
        "attention": kinds,
        "window": config.window if windowed else 0,
        "local_rope_theta": own if sliding else 0.0,
        "query_scale": float(f"{scale:.6g}"),
        "logit_scale": float(f"{config.logit_scale:.6g}"),
        "query_tuning_span": config.query_tuning_span if tuned else 0,
        "rope": rope,
        "rope_dim": config.rotated(),
        "moe": _normal_moe(config),
        "mla": config.mla if config.mla.kv_rank else MlaConfig(),
        "delta": config.delta if "delta" in kinds else DeltaConfig(),
        "conv": config.conv if "conv" in kinds else None,
    }


def _normal_moe(config: TransformerConfig) -> MoeConfig:
    if not config.moe.experts:
        return MoeConfig()
    gain = config.moe.clamp_gain if config.moe.clamp else 0.0
    return dataclasses.replace(config.moe, balance_loss=0.0, z_loss=0.0, clamp_gain=gain)


def _open_folder(path: pathlib.Path, skip: str) -> Stored:
    file = path / "config.json"
    values = hf_config.read(file)
    coding = few_bits.coding_of(values, str(file))
    # What is read is whole again, and so is what is written.
    values = {name: value for name, value in values.items() if name != few_bits.FIELD}
    joint = COMPOSITES.get(str(values.get("model_type")))
    if joint is None:  # before any file of tensors is opened
        config = parse_config(values, str(file))
    tensors = coding.opened(safetensors_io.open_folder(path))
    if joint is not None:
        tensors = own = composite.TextTensors(tensors, skip, str(path), hears=joint.hears)
        values = composite.text_fields(values, joint, own, str(file))
        config = parse_config(values, str(file))
    family = _family(values, str(file))
    tensors = family.opened(tensors, skip, str(path))
    copies = ("lm_head.weight",) if config.tied else ()
    return Stored(
        config=config,
        tensors=tensors,
        sources=family.sources(config),
        fields=values,
        unread=(*UNREAD, *copies, *family.unread(config)),
        context=_tokens(values.get("max_position_embeddings")),
        told=coding.told,
    )


def _tokens(value: Any) -> int:
    return value if isinstance(value, int) and value > 0 else 0


def _open_gguf(path: pathlib.Path) -> Stored:
    file = gguf_io.open_file(path)
    config = _gguf_config(file.metadata, "output.weight" not in file.tensors, str(path))
    return Stored(
        config=config,
        tensors=file,
        sources=names.gguf_sources(config),
        fields={},
        context=_tokens(file.metadata.get("llama.context_length")),
    )


def _gguf_config(metadata: Mapping[str, Any], tied: bool, where: str) -> TransformerConfig:
    """The TransformerConfig of a GGUF file's metadata."""
    kind = metadata.get("general.architecture")
    if kind != "llama":
        raise ValueError(f"general.architecture must be llama; got {kind!r:.100} ({where}).")
    start = "llama."
    fields = hf_config.Fields(
        {k.removeprefix(start): v for k, v in metadata.items() if k.startswith(start)}, where
    )
    heads = fields.size("attention.head_count")
    width = fields.size("embedding_length")
    head_dim = fields.size("attention.key_length", width // heads)
    fields.only("attention.value_length", head_dim)
    fields.only("rope.dimension_count", head_dim)
    for name in ("context_length", "rope.scaling.finetuned"):
        fields.take(name, None)
    pieces = metadata.get("tokenizer.ggml.tokens")
    config = TransformerConfig(
        vocab_size=fields.size("vocab_size", len(pieces) if pieces else None),
        layers=fields.size("block_count"),
        width=width,
        heads=heads,
        kv_heads=fields.size("attention.head_count_kv", heads),
        head_dim=head_dim,
        ff=fields.size("feed_forward_length"),
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
    weights: transformer.Transformer,
    fields: Mapping[str, Any],
    *,
    dtype: Any = None,
) -> None:
    """Writes a folder that transformers loads: `config.json` and safetensors.

    Args:
      config, weights: the model.
      fields: its `config.json`, that of the folder it came from or of `hf_fields`.
      dtype: of the tensors; that of the parameters where None.

    Raises:
      ValueError: the fields describe another model, or the folder holds a model already.
    """
    if weights.scalar is not None:
        raise ValueError(
            "a language model must have no scalar head to be saved as one (save_model). "
            "Save a reward or value model by `heads.save_reward`."
        )
    family = checked_family(config, fields)
    write(path, weights, family.sources(config), fields, dtype or config.param_dtype)


def checked_family(config: TransformerConfig, fields: Mapping[str, Any]) -> names.Family:
    """The family that the fields of a `config.json` name.

    Raises:
      ValueError: they describe another model.
    """
    changed = differences(config, parse_config(fields, "fields"))
    if changed:
        raise ValueError(
            f"config.json must describe the model that is saved; they differ in "
            f"{', '.join(changed)} (save_model). Take the fields from `hf_fields`."
        )
    return _family(fields, "fields")


def write(
    path: str | pathlib.Path,
    weights: Any,
    sources: Any,
    fields: Mapping[str, Any],
    dtype: Any,
) -> None:
    """A folder of one model's tensors with its `config.json`, whole or not at all."""
    written = jax.dtypes.canonicalize_dtype(dtype)
    if not jnp.issubdtype(written, jnp.floating):
        raise ValueError(f"dtype must be a floating one; got {written} (save_model).")
    safetensors_io.write_folder(
        path,
        sharded.tensors_of(weights, sources, written),
        metadata={"format": "pt"},
        files={"config.json": hf_config.encode({**fields, "dtype": str(written)})},
    )


# Fields of the configuration for how a model is run, not what it computes.
_LOCAL = ("compute_dtype", "param_dtype", "remat", "attention_kernel", "unroll", "logit_tile")
