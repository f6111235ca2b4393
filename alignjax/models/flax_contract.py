"""What the Flax bridge must know of a model that is not ours."""

import dataclasses
from collections.abc import Callable
from typing import Any

import jax
import jax.numpy as jnp

from alignjax.core import shapes, trees
from alignjax.models import sight
from alignjax.parallel import axes

INPUTS = ("tokens", "positions", "segments", "mask")
Method = str | Callable[..., Any]  # a method's name, or a function (module, *arguments)


@dataclasses.dataclass(kw_only=True)
class Contract:
    """How a Flax language model is called and where its output matrix is.

    inputs: arguments of the model, in order, the first "tokens" [B,T] int. positions [B,T] int;
      segments [B,T] int, 0 on padding and 1, 2, ... for sequences packed into a row; mask
      [B,1,T,T] bool, true where a query may see a key (causal, within a segment), the shape that
      Flax's attention takes. A model that does not get positions and one of segments and mask is
      right on rows of one sequence padded at the right only: on any other row its states are NaN,
      which stops a run, and never silently wrong.
    states: the method that returns the hidden states [B,T,D] from which logits are one product.
    unembedding: path of the matrix [D,V] in the parameters ("head/kernel"), or a function of the
      parameters that returns it (`lambda p: p["embed"]["embedding"].T` where tied). None says
      that `states` returns logits: they are taken as states with an identity [V,V]. That is
      exact, but costs V^2 weights and whole logits, so it is for small vocabularies.
    bias: path of a bias [V] of the logits. States get a last entry 1 for it; the sum is the same.
    make_cache, decode: a cache of the model's own, (batch, length) -> a tree of arrays, and the
      method (tokens, positions, segments, cache) -> (states, cache) for any T. Without them the
      sampler keeps the tokens and runs the whole row again for each new one: right and slow,
      N forward passes of P + N tokens for N new ones.
    """

    unembedding: str | Callable[[Any], jax.Array] | None
    inputs: tuple[str, ...] = ("tokens", "positions", "segments")
    states: Method = "__call__"
    bias: str | None = None
    make_cache: Callable[[int, int], Any] | None = None
    decode: Method | None = None
    logit_softcap: float = 0.0  # z = softcap tanh(logits / softcap); 0 is none
    logit_tile: int = 0  # time steps whose logits exist at once; 0 chooses by size
    rounding: float = 0.0  # see Model; 0 is 1e-4 for fp32 states on CPU and 5e-2 otherwise

    def validate(self) -> None:
        if self.inputs[:1] != ("tokens",) or len(set(self.inputs)) < len(self.inputs):
            raise ValueError(
                f"inputs must start with 'tokens' and name each input once; got {self.inputs} "
                "(Contract)."
            )
        for name in self.inputs:
            shapes.check_choice("inputs (Contract)", name, INPUTS)
        for name in ("logit_softcap", "logit_tile", "rounding"):
            shapes.check_number(name, getattr(self, name), minimum=0)
        if (self.make_cache is None) != (self.decode is None):
            present = "decode" if self.make_cache is None else "make_cache"
            raise ValueError(
                f"make_cache and decode must come together; got {present} only "
                "(Contract). Give both, or neither to recompute."
            )
        precision = jax.config.jax_default_matmul_precision  # type: ignore[attr-defined]
        exact = jax.default_backend() == "cpu" or precision in ("highest", "float32")
        if self.unembedding is None and not exact:
            raise ValueError(
                "a model that returns logits must run where fp32 products are exact; got backend "
                f"{jax.default_backend()} (Contract). Return hidden states and name "
                "the unembedding, or set jax_default_matmul_precision='highest'."
            )

    @property
    def any_rows(self) -> bool:
        """Whether the model is told enough for packed rows and padding on either side."""
        return "positions" in self.inputs and bool({"segments", "mask"} & set(self.inputs))


def probe(contract: Contract) -> list[jax.Array]:
    """The smallest arguments that a model of the contract takes."""
    tokens = jnp.zeros((1, 2), jnp.int32)
    return arguments(contract, tokens, tokens + jnp.arange(2, dtype=jnp.int32), tokens + 1)


def arguments(
    contract: Contract, tokens: jax.Array, positions: jax.Array, segments: jax.Array
) -> list[jax.Array]:
    """What the model is called with."""
    inputs = {"tokens": tokens, "positions": positions, "segments": segments}
    if "mask" in contract.inputs:
        seen = sight.visible(sight.sight(positions, segments, positions, segments))
        # Padding sees itself: an empty row of a softmax is NaN in some modules.
        inputs["mask"] = (seen | jnp.eye(tokens.shape[1], dtype=jnp.bool_))[:, None]
    return [inputs[name] for name in contract.inputs]


def matrix_of(contract: Contract, own: Any) -> jax.Array:
    """[D, V], or [D + 1, V] with the bias as its last row.

    Raises:
      ValueError: a path is not in the parameters, or a bias beside the matrix is not named.
    """
    if callable(contract.unembedding):
        matrix = contract.unembedding(own)
    else:
        matrix = _at("unembedding", contract.unembedding or "", own)
        beside = (contract.unembedding or "").removesuffix("kernel") + "bias"
        if contract.bias is None and beside in trees.named_leaves(own):
            raise ValueError(
                f"bias must be named where the unembedding has one; got None, and the model has "
                f"{beside} (Contract). Set bias={beside!r}."
            )
    shapes.check("unembedding", matrix, "D V")
    check_vocabulary(matrix.shape[1])
    matrix = axes.shard(matrix, "embed vocab")
    if contract.bias is None:
        return matrix
    bias = _at("bias", contract.bias, own)
    shapes.check(f"bias {contract.bias}", bias, "V", {"V": matrix.shape[1]})
    last = axes.shard(bias, "vocab").astype(matrix.dtype)
    return jnp.concatenate([matrix, last[None]])


def check_vocabulary(size: int) -> None:
    """Refuses a vocabulary that the current mesh does not divide.

    Raises:
      ValueError: naming both sizes.
    """
    shards = axes.axis_size("vocab")
    if size % shards:
        raise ValueError(
            f"the vocabulary must be a multiple of the mesh's model axis; got {size} and {shards} "
            "(mesh.model). Use a smaller model axis."
        )


def _at(what: str, path: str, own: Any) -> jax.Array:
    named = trees.named_leaves(own)
    if path not in named:
        raise ValueError(
            f"{what} must be a path in the model's parameters; got {path!r} (Contract). "
            f"The paths are {', '.join(named)}."
        )
    return named[path]
