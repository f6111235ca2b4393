"""Adapters of the embedding and the unembedding, and weights trained whole beside adapters."""

import math
from typing import Any

import jax
import jax.numpy as jnp

from alignjax.core import struct, trees
from alignjax.models import layers, params
from alignjax.models.adapters import sites
from alignjax.parallel import axes

TARGETS = ("embed", "unembed")
# Weights that may be trained whole, by the last part of their path.
WHOLE = (
    "embed", "unembed", "norm", "attention_norm", "mlp_norm", "attention_post_norm",
    "mlp_post_norm", "query_norm", "key_norm",
)  # fmt: skip


@struct.pytree
class EmbedLora(layers.Table):
    """(E + s down up)[token]; down [V, R], up [R, D], the latter normal at first, the former zero.

    tie: whether a tied unembedding is that of the adapted table; else it stays the base's.
    """

    down: jax.Array
    up: jax.Array
    base: Any = layers.UNBOUND
    scale: float = struct.static(default=1.0)
    tie: bool = struct.static(default=False)

    def over(self, base: Any, key: jax.Array | None) -> "EmbedLora":
        """This adapter on its frozen table; ids have nothing to drop."""
        return struct.replace(self, base=base)

    def rows(self, tokens: jax.Array, dtype: Any) -> jax.Array:
        base, down, up = (x.astype(dtype) for x in (self.base, self.down, self.up))
        inner = axes.take(axes.shard(down, "slot rank"), tokens, out="batch time rank")
        own = axes.einsum("btr,rd->btd", inner, axes.shard(up, "rank embed"), "batch time embed")
        table = axes.shard(base, "slot embed")
        return axes.take(table, tokens, out="batch time embed") + self.scale * own

    @property
    def ties(self) -> bool:
        return self.tie

    def turned(self) -> jax.Array:
        return self.merged().T if self.tie else self.base.T

    def merged(self) -> jax.Array:
        """The one table [V, D] that does the same, in fp32."""
        added = _product("vr,rd->vd", self.down, self.up, "vocab fsdp")
        return self.base.astype(jnp.float32) + self.scale * added


@struct.pytree
class UnembedLora(layers.Head):
    """W + s down up; down [D, R], up [R, V]. base: None where a tied table stands for W."""

    down: jax.Array
    up: jax.Array
    base: Any = layers.UNBOUND
    scale: float = struct.static(default=1.0)

    def over(self, base: Any, key: jax.Array | None) -> "UnembedLora":
        """This adapter on its frozen matrix."""
        return struct.replace(self, base=base)

    def matrix(self, tied: jax.Array) -> jax.Array:
        base = tied if self.base is None else self.base
        added = _product("dr,rv->dv", self.down, self.up, "fsdp vocab")
        return axes.shard(base, "fsdp vocab").astype(jnp.float32) + self.scale * added


def _product(equation: str, down: jax.Array, up: jax.Array, out: str) -> jax.Array:
    down, up = down.astype(jnp.float32), up.astype(jnp.float32)
    return axes.einsum(equation, down, up, out=out)


@struct.pytree
class Whole:
    """A weight's own trained copy, that begins as the base's: see `adapt.started`.

    apart: whether a tied unembedding stays that of the base (of an embedding).
    """

    value: jax.Array
    apart: bool = struct.static(default=False)

    def over(self, base: Any, key: jax.Array | None) -> Any:
        """The copy in the base's place."""
        return WholeTable(value=self.value, base=base) if self.apart else self.value


@struct.pytree
class WholeTable(layers.Table):
    """An embedding's trained copy [V, D] whose base is what a tied unembedding reads."""

    value: jax.Array
    base: jax.Array

    def over(self, base: Any, key: jax.Array | None) -> "WholeTable":
        """This table on that base."""
        return struct.replace(self, base=base)

    def rows(self, tokens: jax.Array, dtype: Any) -> jax.Array:
        table = axes.shard(self.value, "slot embed").astype(dtype)
        return axes.take(table, tokens, out="batch time embed")

    def turned(self) -> jax.Array:
        return self.base.T

    def merged(self) -> jax.Array:
        """The table."""
        return self.value


def place(tree: Any, declared: Any, config: Any) -> Any:
    """A tree of LoRA's adapters with those of the vocabulary and whole weights put in.

    config: `lora.LoraConfig`.

    Raises:
      ValueError: the model has no such weight.
    """
    met: set[str] = set()

    def whole(name: str, info: Any) -> Any:
        last = name.rsplit("/", 1)[-1]
        if last not in config.whole:
            return None
        met.add(last)
        apart = last == "embed" and declared.unembed is None and not config.tie
        return Whole(value=info._replace(stddev=math.nan), apart=apart)

    head = _head(declared)
    with_head = struct.replace(declared, unembed=head)
    copies = trees.map_named(whole, with_head, is_leaf=params.is_info)
    missing = [name for name in config.whole if name not in met]
    if missing:
        raise ValueError(
            f"adapter.whole must be weights of the model; got {missing[0]!r}, which it does not "
            f"have (adapter). Leave it out."
        )
    tree = jax.tree.map(
        lambda own, copy: copy if own is None else own, tree, copies, is_leaf=sites.is_adapter
    )
    made: dict[str, Any] = {}
    if "embed" in config.targets:
        made["embed"] = EmbedLora(
            **_pair(declared.embed, config.rank_of("embed"), (0, 1)),
            scale=config.scale_of("embed"),
            tie=config.tie,
        )
    if "unembed" in config.targets:
        rank = config.rank_of("unembed")
        sizes = ((3 * head.shape[0]) ** -0.5, 0)
        made["unembed"] = UnembedLora(**_pair(head, rank, sizes), scale=config.scale_of("unembed"))
    return struct.replace(tree, **made)


def _head(declared: Any) -> Any:
    """The ParamInfo of the unembedding, of a tied one too."""
    if declared.unembed is not None:
        return declared.unembed
    (rows, width), names = declared.embed.shape, declared.embed.axes.split()
    return params.ParamInfo((width, rows), " ".join(reversed(names)), width**-0.5)


def _pair(info: Any, rank: int, deviations: tuple[float, float]) -> dict[str, Any]:
    """down and up of a matrix, with their initial deviations."""
    (rows, columns), (first, second) = info.shape, info.axes.split()
    return {
        "down": params.ParamInfo((rows, rank), f"{first} rank", deviations[0]),
        "up": params.ParamInfo((rank, columns), f"rank {second}", deviations[1]),
    }
