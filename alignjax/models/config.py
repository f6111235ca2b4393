"""The shape of a decoder-only Transformer."""

import dataclasses
import itertools
from typing import Any, ClassVar, Self

from alignjax.core import shapes
from alignjax.models import config_parts
from alignjax.models.config_parts import ConvConfig, LentConfig, WideConfig

REMAT = ("none", "dots", "heads", "attention", "full")
KERNELS = ("auto", "reference", "tiled", "splash", "cudnn")
DTYPES = ("float32", "bfloat16")
ATTENTION = ("full", "sliding", "chunked", "nope", "delta", "conv")
ROPE_SCALING = ("none", "linear", "llama3", "yarn", "dynamic", "longrope", "proportional")


class ModelConfig:
    """What every model's configuration is: a dataclass that makes a Model.

    A subclass in any file, of a Flax module by `flax_bridge` say, is a model that every method
    trains. RUNNING: fields that say how it runs, not what it computes; they may differ between a
    run and one that goes on from it. PRECISION: those of its dtypes.
    """

    RUNNING: ClassVar[tuple[str, ...]] = ()
    PRECISION: ClassVar[tuple[str, ...]] = ()
    vocab_size: int

    def validate(self) -> None:
        """Raises ValueError where an option is wrong."""

    def make(self) -> Any:
        """The `models.model.Model`, on the mesh that is set."""
        raise NotImplementedError

    def sized(self, vocab_size: int) -> Self:
        """The same with so many rows in the embedding."""
        return dataclasses.replace(self, vocab_size=vocab_size)  # type: ignore[type-var]


@dataclasses.dataclass(kw_only=True)
class RopeScaling:
    """How the rotary frequencies were stretched beyond the length of pretraining."""

    kind: str = "none"  # none | linear | llama3 | yarn | dynamic | longrope | proportional
    factor: float = 1.0  # new length over the original one
    original_length: int = 0  # tokens, of pretraining
    low_frequency: float = 1.0  # llama3: turns over the original length below which all is scaled
    high_frequency: float = 4.0  # llama3: turns above which nothing is scaled
    beta_fast: float = 32.0  # yarn: turns above which nothing is scaled
    beta_slow: float = 1.0  # yarn: turns below which all is scaled
    # Of cos and sin. yarn: 0 is 0.1 log(factor) + 1. longrope: as it is
    attention_factor: float = 0.0
    short: tuple[float, ...] = ()  # longrope: divisors of rows up to the original length
    long: tuple[float, ...] = ()  # longrope: of longer rows
    truncate: bool = True  # yarn: whether the bounds of its ramp are whole dimensions
    score_mscale: float = 0.0  # yarn, MLA: scores times (0.1 this log(factor) + 1)^2
    share: float = 1.0  # proportional: of a head's pairs, the fastest ones; the others stand still

    def validate(self) -> None:
        shapes.check_choice("model.rope.kind", self.kind, ROPE_SCALING)
        shapes.check_number("model.rope.factor", self.factor, above=0)
        needed = 1 if self.kind in ("llama3", "yarn", "dynamic", "longrope") else 0
        shapes.check_number("model.rope.original_length", self.original_length, minimum=needed)
        shapes.check_number("model.rope.share", self.share, above=0, maximum=1)
        if self.kind in ("dynamic", "longrope"):
            least = {"dynamic": ("factor", 1), "longrope": ("attention_factor", 1e-6)}[self.kind]
            shapes.check_number(f"model.rope.{least[0]}", getattr(self, least[0]), minimum=least[1])

    def by_length(self) -> bool:
        """Whether angles depend on how long the row is."""
        return self.kind in ("dynamic", "longrope")


@dataclasses.dataclass(kw_only=True)
class MoeConfig:
    """A mixture of experts in place of the MLP; off with 0 experts."""

    experts: int = 0  # E
    active: int = 1  # experts that a token uses
    ff: int = 0  # inner width of one expert
    shared_ff: int = 0  # inner width of the expert that every token uses; 0 is none
    shared_gate: bool = False  # a sigmoid of the token weighs that expert (Qwen)
    scores: str = "softmax"  # softmax | sigmoid, of the router's logits
    normalise: bool = True  # the weights of a token's experts sum to 1
    scale: float = 1.0  # of the routed experts' sum
    weigh_inputs: bool = False  # the weight multiplies the expert's input, not its output (Llama 4)
    bias_correction: bool = False  # a bias chooses experts without weighing them (DeepSeek V3)
    bias: bool = False  # of the router and of an expert's three maps (GPT-OSS)
    # Experts' gate is at most this, and the other way in within +- this, plus 1; 0 is off (GPT-OSS)
    clamp: float = 0.0
    clamp_gain: float = 1.702  # with it the gate is gate sigmoid(this gate)
    beside: bool = False  # the dense MLP stays, beside the experts: `beside` (Gemma 4)
    groups: int = 1  # of experts; a token chooses within its best `active_groups`
    active_groups: int = 1
    first: int = 0  # layers before this one keep a dense MLP
    every: int = 1  # layers whose number from 1 this divides have experts
    dense: tuple[int, ...] = ()  # numbers, from 0, of more layers that keep a dense MLP
    balance_loss: float = 0.0  # weight of the load-balancing loss
    z_loss: float = 0.0  # weight of the router's z-loss

    def validate(self) -> None:
        if not self.experts:
            return
        for name in ("ff", "active", "groups", "active_groups", "every"):
            shapes.check_number(f"model.moe.{name}", getattr(self, name), minimum=1)
        shapes.check_number("model.moe.active", self.active, maximum=self.experts)
        shapes.check_choice("model.moe.scores", self.scores, ("softmax", "sigmoid"))
        shapes.check_number("model.moe.first", self.first, minimum=0)
        for name in ("balance_loss", "z_loss", "shared_ff", "clamp"):
            shapes.check_number(f"model.moe.{name}", getattr(self, name), minimum=0)
        shapes.check_number("model.moe.clamp_gain", self.clamp_gain, above=0)
        if self.beside and self.shared_ff:
            raise ValueError(
                f"model.moe.shared_ff must be 0 where model.moe.beside is true; got "
                f"{self.shared_ff} (model). The dense MLP is the one that every token uses."
            )
        if self.bias and self.weigh_inputs:
            raise ValueError(
                "model.moe.bias must be false where model.moe.weigh_inputs is true; got true "
                "(model). A weight on the input would not weigh the biases."
            )
        if self.experts % self.groups or self.active_groups > self.groups:
            raise ValueError(
                f"model.moe.groups must divide experts and be at least active_groups; got "
                f"{self.groups} of {self.experts} experts, {self.active_groups} active (model)."
            )
        room = self.active_groups * self.experts // self.groups
        if self.active > room:
            raise ValueError(
                f"model.moe.active must be at most the experts of the active groups; got "
                f"{self.active} of {room} (model). Raise model.moe.active_groups."
            )


@dataclasses.dataclass(kw_only=True)
class MlaConfig:
    """Multi-head latent attention (DeepSeek V2); off with kv_rank 0."""

    kv_rank: int = 0  # width of the latent of keys and values
    query_rank: int = 0  # width of the queries' latent; 0 projects queries directly
    rope_dim: int = 64  # dimensions of a head that carry the position
    value_dim: int = 128  # of a head's value
    norm_eps: float = 1e-6  # of the latents' norms

    def validate(self) -> None:
        if self.kv_rank:
            for name in ("kv_rank", "rope_dim", "value_dim"):
                shapes.check_number(f"model.mla.{name}", getattr(self, name), minimum=1)
            shapes.check_number("model.mla.query_rank", self.query_rank, minimum=0)
            shapes.check_number("model.mla.norm_eps", self.norm_eps, above=0)


@dataclasses.dataclass(kw_only=True)
class DeltaConfig:
    """Layers of the gated delta rule (Yang et al. 2024), of kind "delta"; off with 0 heads."""

    key_heads: int = 0  # K, of queries and keys
    value_heads: int = 0  # so many of them on each key head that these are all
    key_dim: int = 0  # H, of a query or key
    value_dim: int = 0  # U, of a value
    taps: int = 4  # tokens that the convolution before the rule sees

    @property
    def group(self) -> int:
        """Value heads on one key head."""
        return self.value_heads // self.key_heads

    @property
    def values(self) -> int:
        """Width of one key head's values."""
        return self.group * self.value_dim

    def validate(self, *, used: bool) -> None:
        """used: whether the model has such layers."""
        if not used:
            return
        for name in ("key_heads", "value_heads", "key_dim", "value_dim", "taps"):
            shapes.check_number(f"model.delta.{name}", getattr(self, name), minimum=1)
        if self.value_heads % self.key_heads:
            raise ValueError(
                "model.delta.value_heads must be a multiple of model.delta.key_heads; got "
                f"{self.value_heads} and {self.key_heads} (model). Change one of them."
            )


@dataclasses.dataclass(kw_only=True)
class TransformerConfig(ModelConfig):
    """A decoder (Touvron et al. 2023): RMSNorm, RoPE, GQA, gated MLP, and what families change."""

    RUNNING = ("remat", "attention_kernel", "logit_tile", "unroll")
    PRECISION = ("compute_dtype", "param_dtype")

    vocab_size: int = 0  # rows of the embedding; 0 is filled in from the tokenizer or world
    layers: int = 2
    width: int = 64  # D, the residual stream
    heads: int = 4  # query heads
    kv_heads: int = 4  # key and value heads; heads / kv_heads queries share one
    head_dim: int = 16  # under MLA: of the part without position
    ff: int = 176  # F, the gated MLP's inner width
    activation: str = "silu"  # silu | gelu (its tanh form)
    rope_theta: float = 10000.0  # base of the rotary angles
    local_rope_theta: float = 0.0  # of sliding layers, unscaled; 0 is as the others
    rope_dim: int = 0  # a head's first dimensions, that alone turn; 0 is all
    rope_interleaved: bool = False  # pairs of neighbours turn, not the two halves
    rope: RopeScaling = dataclasses.field(default_factory=RopeScaling)
    # full | sliding | chunked | nope, or no attention: delta (`DeltaConfig`), conv (`ConvConfig`);
    # repeated over layers
    attention: tuple[str, ...] = ("full",)
    attention_gate: bool = False  # what heads mix is weighed by a sigmoid of the token (Qwen)
    window: int = 0  # tokens that a sliding layer sees, or in a chunk
    qkv_bias: bool = False
    out_bias: bool = False
    mlp_bias: bool = False
    # none | scaled (RMSNorm of each head) | plain (without a scale) | whole (of all heads at once)
    qk_norm: str = "none"
    value_norm: bool = False  # values of each head are normed too, without a scale (Gemma 4)
    query_scale: float = 0.0  # of the scores; 0 is head_dim^-1/2
    attention_softcap: float = 0.0  # c tanh(scores / c); 0 is off
    sinks: bool = False  # each head has a learned score that takes a share and gives nothing
    logit_softcap: float = 0.0  # the same of the logits
    query_tuning: float = 0.0  # nope layers: queries times 1 + this log(1 + floor(place / span))
    query_tuning_span: int = 8192  # tokens
    norm_eps: float = 1e-5
    norm_plus_one: bool = False  # a norm's scale is 1 + its weight (Gemma)
    pre_norms: bool = True  # a norm before each branch; false only with post_norms (OLMo 2)
    post_norms: bool = False  # a norm after each branch too (Gemma 2)
    embed_scale: float = 1.0  # of the embedding
    branch_scale: float = 1.0  # of what a branch adds to the residual stream (Granite)
    logit_scale: float = 1.0  # of the logits
    tied: bool = True  # unembed with the embedding's transpose
    # P, of an embedding that each layer has of its own; 0 is none (`layer_inputs`, Gemma 4)
    layer_inputs: int = 0
    layer_scales: bool = False  # a layer's output is multiplied by a stored number (Gemma 4)
    moe: MoeConfig = dataclasses.field(default_factory=MoeConfig)
    mla: MlaConfig = dataclasses.field(default_factory=MlaConfig)
    delta: DeltaConfig = dataclasses.field(default_factory=DeltaConfig)
    conv: ConvConfig = dataclasses.field(default_factory=ConvConfig)
    wide: WideConfig = dataclasses.field(default_factory=WideConfig)
    lent: LentConfig = dataclasses.field(default_factory=LentConfig)
    compute_dtype: str = "float32"  # of activations and matmul inputs; sums stay fp32
    param_dtype: str = "float32"  # of the master weights
    # What a layer keeps for its gradient: none (recomputes nothing) | dots (results of matrix
    # products and of attention) | heads (queries, keys, values and what attention makes of them) |
    # attention (that alone) | full (recomputes all but the layer's input) | auto (`block.kept`)
    remat: str = "auto"
    attention_kernel: str = "auto"  # auto (`kernels.choose`) | reference | tiled | splash | cudnn
    unroll: int = 1  # layers in one scan step: more compiles slower, `transformer.unrolled`
    logit_tile: int = 0  # time steps whose logits exist at once; 0 chooses by size

    def validate(self) -> None:
        for name in ("layers", "width", "heads", "kv_heads", "head_dim", "ff", "vocab_size"):
            shapes.check_number(f"model.{name}", getattr(self, name), minimum=1)
        if self.heads % self.kv_heads:
            raise ValueError(
                f"model.heads must be a multiple of model.kv_heads; got {self.heads} and "
                f"{self.kv_heads} (model). Change one of them."
            )
        self._check_heads()
        self._check_kernel()
        for name in ("rope_theta", "norm_eps", "embed_scale", "branch_scale", "logit_scale"):
            shapes.check_number(f"model.{name}", getattr(self, name), above=0)
        for name in ("local_rope_theta", "query_scale", "attention_softcap", "logit_softcap"):
            shapes.check_number(f"model.{name}", getattr(self, name), minimum=0)
        for kind in self.attention:
            shapes.check_choice("model.attention", kind, ATTENTION)
        windowed = any(kind in ("sliding", "chunked") for kind in self.attention)
        shapes.check_number("model.window", self.window, minimum=1 if windowed else 0)
        shapes.check_number("model.unroll", self.unroll, minimum=1, maximum=self.layers)
        shapes.check_number("model.logit_tile", self.logit_tile, minimum=0)
        shapes.check_choice("model.activation", self.activation, ("silu", "gelu"))
        shapes.check_choice("model.qk_norm", self.qk_norm, ("none", "scaled", "plain", "whole"))
        if not (self.pre_norms or self.post_norms):
            raise ValueError(
                "model.pre_norms must be true where model.post_norms is false; got false (model). "
                "A branch needs a norm."
            )
        shapes.check_choice("model.compute_dtype", self.compute_dtype, DTYPES)
        shapes.check_choice("model.param_dtype", self.param_dtype, DTYPES)
        shapes.check_choice("model.remat", self.remat, ("auto", *REMAT))
        shapes.check_choice("model.attention_kernel", self.attention_kernel, KERNELS)
        for part in (self.rope, self.moe, self.mla):
            part.validate()
        self.delta.validate(used="delta" in self.kinds())
        self.conv.validate()
        if {"delta", "conv"} <= {*self.kinds()}:
            raise ValueError(
                "model.attention must have one kind of layer without keys; got delta and conv "
                "(model). A cache keeps the states of one."
            )
        self.wide.validate(self.heads)
        self.lent.validate(self.kinds())
        shapes.check_number("model.layer_inputs", self.layer_inputs, minimum=0)

    def make(self) -> Any:
        from alignjax.models import transformer  # which reads this class

        return transformer.transformer(self)

    def _check_kernel(self) -> None:
        if self.attention_kernel == "cudnn" and (
            self.compute_dtype == "float32"
            or self.attention_softcap
            or self.sinks
            or self.mla.kv_rank
        ):
            raise ValueError(
                "model.attention_kernel=cudnn must have compute_dtype=bfloat16, no soft cap, no "
                f"sinks and no MLA; got compute_dtype={self.compute_dtype}, attention_softcap="
                f"{self.attention_softcap}, sinks={self.sinks}, mla.kv_rank={self.mla.kv_rank} "
                "(model). Use auto."
            )

    def _check_heads(self) -> None:
        latent = self.mla.kv_rank > 0
        name, size = ("mla.rope_dim", self.mla.rope_dim) if latent else ("head_dim", self.head_dim)
        if self.rope_dim and not latent:
            shapes.check_number("model.rope_dim", self.rope_dim, minimum=2, maximum=self.head_dim)
            name, size = "rope_dim", self.rope_dim
        if size % 2:
            raise ValueError(f"model.{name} must be even for rotary embedding; got {size} (model).")
        for part in ("short", "long") if self.rope.kind == "longrope" else ():
            given = len(getattr(self.rope, part))
            if given != size // 2:
                raise ValueError(
                    f"model.rope.{part} must have a number for each of the {size // 2} pairs of "
                    f"model.{name}; got {given} (model)."
                )
        if not latent:
            return
        if self.kv_heads != self.heads:
            raise ValueError(
                f"model.kv_heads must equal model.heads under MLA; got {self.kv_heads} and "
                f"{self.heads} (model)."
            )
        off_under: dict[str, Any] = {"qk_norm": "none", "qkv_bias": False}
        off_under |= {
            "attention_softcap": 0.0,
            "attention_gate": False,
            "sinks": False,
            "rope_dim": 0,
            "value_norm": False,
            "wide": WideConfig(),
            "lent": LentConfig(),
        }
        for field, off in off_under.items():
            if getattr(self, field) != off:
                raise ValueError(
                    f"model.{field} must be {off!r} under MLA; got {getattr(self, field)!r} "
                    f"(model). Latent attention has no such part."
                )

    def rotated(self, kind: str = "") -> int:
        """Dimensions of a head that carry the position, in a kind of layer."""
        if self.wide.head_dim and kind == "full":
            return self.wide.head_dim
        return self.mla.rope_dim if self.mla.kv_rank else self.rope_dim or self.head_dim

    def kinds(self) -> list[str]:
        """Each layer's kind of attention."""
        return list(itertools.islice(itertools.cycle(self.attention), self.layers))

    def mixes(self, number: int) -> str:
        """What a layer has in place of attention, "delta" or "conv"; "" where it has attention."""
        kind = self.kinds()[number]
        return kind if kind in config_parts.MIXERS else ""

    def first(self, layers: int) -> Self:
        """The model cut after so many layers.

        Raises:
          ValueError: its layers hang together, so that a part of them is no model.
        """
        if layers < self.layers and (self.lent.layers or self.layer_inputs):
            raise ValueError(
                "weights_layers must be 0 for a model whose layers share keys or one table of "
                f"embeddings (Gemma 4); got {layers}."
            )
        return dataclasses.replace(self, layers=layers)

    def stacks(self) -> list[tuple[bool, range]]:
        """Runs of layers of one structure: (whether they have experts, their numbers).

        Layers of one run have one mixer too, `config_parts.mixer`, and keys of their own or not.
        """
        return config_parts.stacks(self)
