"""Prefix tuning: learned keys and values in every layer that every query sees."""

import dataclasses
from collections.abc import Callable
from typing import Any

import jax
import jax.numpy as jnp

from alignjax.core import shapes, struct
from alignjax.models import params, sight
from alignjax.parallel import axes


@dataclasses.dataclass(kw_only=True)
class PrefixConfig:
    """Keys and values before the first token (Li and Liang 2021)."""

    length: int = 16  # P, learned slots a layer
    # Whether the prefix is attended to apart and added times tanh of a gate that starts at 0
    # (Zhang et al. 2023): it starts as exactly the base. Without a gate the prefix takes part of
    # each softmax from the start, as in the paper and in peft.
    gated: bool = True

    def validate(self) -> None:
        shapes.check_number("adapter.length", self.length, minimum=1)

    def declare(self, declared: Any) -> Any:
        """The adapters of a declared model: Prefix in every attention, None elsewhere.

        Raises:
          ValueError: attention without keys and values of its own.
        """
        nothing = jax.tree.map(lambda _: None, declared, is_leaf=params.is_info)
        pairs = zip(declared.blocks, nothing.blocks, strict=True)
        blocks = tuple(
            struct.replace(bare, attention=self._attention(block.attention, bare.attention))
            for block, bare in pairs
        )
        return struct.replace(nothing, blocks=blocks)

    def _attention(self, infos: Any, bare: Any) -> Any:
        if not hasattr(infos, "prefix") or infos.key is None or infos.value is None:
            raise ValueError(
                "prefix tuning needs attention over keys and values; this model has latents (MLA), "
                "layers of the gated delta rule or of a convolution, or layers without keys or "
                "values of their own (Gemma 4). Use LoRA."
            )
        (n, _, k, h), (*_, u), g = infos.key.shape, infos.value.shape, infos.query.shape[3]
        info: Any = params.ParamInfo
        names = "layers slot kv head"
        return struct.replace(
            bare,
            prefix=Prefix(
                keys=info((n, self.length, k, h), names, 1.0),
                values=info((n, self.length, k, u), names, 0.1),
                gate=info((n, k, g), "layers kv group", 0) if self.gated else None,
            ),
        )


@struct.pytree
class Prefix:
    """keys [P, K, H] and values [P, K, U], unrotated and seen by every query at any distance.

    gate: [K, G], one a head, or None. In the model all have a leading layer axis.
    """

    keys: jax.Array
    values: jax.Array
    gate: jax.Array | None = None

    def over(self, base: Any, key: jax.Array | None) -> "Prefix":
        """Itself: it stands beside weights, not on one."""
        return self

    def attend(
        self,
        attention: Callable[[jax.Array, jax.Array, Any], jax.Array],
        key: jax.Array,
        value: jax.Array,
        seen: jax.Array | sight.Sight,
    ) -> jax.Array:
        """The attention of the queries over the tokens' keys and values and over these.

        attention: (keys, values, seen) -> [B, T, K, G, U], with the queries inside. seen: of the
        tokens' keys, a sight or a mask [B, T, S]. Without a gate: one softmax over both. With one:
        attention(tokens) + tanh(gate) attention(prefix).
        """
        rows = jnp.zeros_like(key[:, :, :1]), jnp.zeros_like(value[:, :, :1])
        keys, values = (
            jnp.swapaxes(axes.shard(own, "slot kv head"), 0, 1).astype(row.dtype) + row
            for own, row in zip((self.keys, self.values), rows, strict=True)
        )
        count = self.keys.shape[0]
        if self.gate is None:
            keys, values = (
                jnp.concatenate(pair, axis=2) for pair in ((keys, key), (values, value))
            )
            return attention(keys, values, sight.preceded(seen, count))
        gate = jnp.tanh(axes.shard(self.gate, "kv group"))[..., None]
        alone = attention(keys, values, sight.only(seen, count))
        return attention(key, value, seen) + gate * alone
