"""Sizes of layers that differ from the others of their model, and how layers fall into runs."""

import dataclasses
import itertools
from typing import Any, NamedTuple

from alignjax.core import shapes

MIXERS = ("delta", "conv")  # kinds of layer without keys, each with states of its own


@dataclasses.dataclass(kw_only=True)
class ConvConfig:
    """Layers of a short gated convolution, of kind "conv" (LFM2)."""

    taps: int = 3  # W, tokens that it sees
    bias: bool = False  # of its maps and of the convolution

    def validate(self) -> None:
        shapes.check_number("model.conv.taps", self.taps, minimum=1)


@dataclasses.dataclass(kw_only=True)
class WideConfig:
    """Heads of full layers, where other layers' have other sizes (Gemma 4); off with head_dim 0."""

    head_dim: int = 0
    kv_heads: int = 0
    single: bool = False  # keys, before their norm and their rotation, are the values too

    def validate(self, heads: int) -> None:
        """heads: queries' heads, of all layers alike."""
        if not self.head_dim:
            return
        shapes.check_number("model.wide.kv_heads", self.kv_heads, minimum=1)
        if heads % self.kv_heads:
            raise ValueError(
                f"model.heads must be a multiple of model.wide.kv_heads; got {heads} and "
                f"{self.kv_heads} (model). Change one of them."
            )
        if self.head_dim % 2:
            raise ValueError(
                f"model.wide.head_dim must be even for rotary embedding; got {self.head_dim} "
                "(model)."
            )


@dataclasses.dataclass(kw_only=True)
class LentConfig:
    """Last layers without keys and values of their own: each sees those of the last layer of its
    kind before all of them (Brandon et al. 2024, Gemma 4); off with 0 layers."""

    layers: int = 0
    ff: int = 0  # F, the inner width of their MLPs; 0 is as the others

    def validate(self, kinds: list[str]) -> None:
        if not self.layers:
            return
        shapes.check_number("model.lent.layers", self.layers, minimum=1, maximum=len(kinds) - 1)
        shapes.check_number("model.lent.ff", self.ff, minimum=0)
        before, after = kinds[: -self.layers], kinds[-self.layers :]
        missing = [kind for kind in after if kind not in before or kind in MIXERS]
        if missing:
            raise ValueError(
                "model.lent.layers must see keys and values of a layer of their kind before them; "
                f"got {self.layers} and none of kind {missing[0]} (model). Lower it."
            )


class Heads(NamedTuple):
    """Attention of one layer: heads of keys and values, a head's size, whether keys are its own,
    and whether values have a map of their own."""

    kv_heads: int
    head_dim: int
    keys: bool
    values: bool


def heads(config: Any, number: int) -> Heads:
    """Of a layer of a TransformerConfig."""
    own = lender(config, number) == number
    wide = config.wide
    if mixer(config, number) == "wide":
        return Heads(wide.kv_heads, wide.head_dim, own, own and not wide.single)
    return Heads(config.kv_heads, config.head_dim, own, own)


def mixer(config: Any, number: int) -> str:
    """What stands where attention does, "delta" or "conv"; or of which heads attention is: "wide"
    (of `WideConfig`) or "heads". A cache keeps the layers of each together."""
    kind = config.kinds()[number]
    if kind in MIXERS:
        return kind
    return "wide" if config.wide.head_dim and kind == "full" else "heads"


def lender(config: Any, number: int) -> int:
    """The layer whose keys and values a layer sees: itself, or one before the last ones."""
    first, kinds = config.layers - config.lent.layers, config.kinds()
    if number < first:
        return number
    return max(n for n in range(first) if kinds[n] == kinds[number])


def lenders(config: Any) -> frozenset[int]:
    """Layers whose keys and values others see."""
    first = config.layers - config.lent.layers
    return frozenset(lender(config, n) for n in range(first, config.layers))


def inner(config: Any, number: int) -> int:
    """F, the inner width of a layer's dense MLP."""
    behind = lender(config, number) < number
    return config.lent.ff if behind and config.lent.ff else config.ff


def placed(config: Any) -> list[int]:
    """Each layer's place among those of its mixer, and so in what a cache keeps; of one without
    keys of its own the place of the layer that it sees."""
    seen: dict[str, int] = {}
    places: list[int] = []
    for number in range(config.layers):
        whose, kind = lender(config, number), mixer(config, number)
        if whose < number:
            places.append(places[whose])
            continue
        places.append(seen.get(kind, 0))
        seen[kind] = places[-1] + 1
    return places


def kept(config: Any, kind: str) -> int:
    """How many layers of a mixer keep something of their own."""
    return sum(mixer(config, n) == kind and lender(config, n) == n for n in range(config.layers))


def stacks(config: Any) -> list[tuple[bool, range]]:
    """`TransformerConfig.stacks`."""
    moe, lending = config.moe, lenders(config)

    def structure(n: int) -> tuple[Any, ...]:
        sparse = (
            moe.experts > 0 and n >= moe.first and (n + 1) % moe.every == 0 and n not in moe.dense
        )
        whose = lender(config, n)
        # What is lent leaves the loop over a run's layers, so that a lender is a run by itself.
        return sparse, mixer(config, n), whose if whose < n or n in lending else None, whose < n

    runs, start = [], 0
    for (sparse, *_), group in itertools.groupby(structure(n) for n in range(config.layers)):
        stop = start + len(list(group))
        runs.append((sparse, range(start, stop)))
        start = stop
    return runs
