"""The shape of a decoder-only Transformer."""

import dataclasses

from alignjax.core import shapes

REMAT = ("none", "dots", "full")
DTYPES = ("float32", "bfloat16")


@dataclasses.dataclass(kw_only=True)
class TransformerConfig:
    """A Llama-style decoder (Touvron et al. 2023): RMSNorm, RoPE, GQA, gated MLP."""

    vocab_size: int = 0  # rows of the embedding; 0 is filled in from the tokenizer or world
    layers: int = 2
    width: int = 64  # D, the residual stream
    heads: int = 4  # query heads
    kv_heads: int = 4  # key and value heads; heads / kv_heads queries share one
    head_dim: int = 16
    ff: int = 176  # F, the gated MLP's inner width
    rope_theta: float = 10000.0  # base of the rotary angles
    norm_eps: float = 1e-5
    tied: bool = True  # unembed with the embedding's transpose
    compute_dtype: str = "float32"  # of activations and matmul inputs; sums stay fp32
    param_dtype: str = "float32"  # of the master weights
    remat: str = "none"  # none | dots (save matmul results) | full (save layer inputs)
    unroll: int = 1  # layers in one scan step: more compiles slower and runs faster on CPU
    logit_tile: int = 0  # time steps whose logits exist at once; 0 chooses by size

    def validate(self) -> None:
        for name in ("layers", "width", "heads", "kv_heads", "head_dim", "ff", "vocab_size"):
            shapes.check_number(f"model.{name}", getattr(self, name), minimum=1)
        if self.heads % self.kv_heads:
            raise ValueError(
                f"model.heads must be a multiple of model.kv_heads; got {self.heads} and "
                f"{self.kv_heads} (model). Change one of them."
            )
        if self.head_dim % 2:
            raise ValueError(
                f"model.head_dim must be even for rotary embedding; got {self.head_dim} (model)."
            )
        shapes.check_number("model.rope_theta", self.rope_theta, above=0)
        shapes.check_number("model.norm_eps", self.norm_eps, above=0)
        shapes.check_number("model.unroll", self.unroll, minimum=1, maximum=self.layers)
        shapes.check_number("model.logit_tile", self.logit_tile, minimum=0)
        shapes.check_choice("model.compute_dtype", self.compute_dtype, DTYPES)
        shapes.check_choice("model.param_dtype", self.param_dtype, DTYPES)
        shapes.check_choice("model.remat", self.remat, REMAT)
