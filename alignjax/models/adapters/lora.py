"""LoRA, rank-stabilised LoRA and DoRA."""

import dataclasses
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np

from alignjax.core import shapes, struct
from alignjax.models import layers, params
from alignjax.models.adapters import sites, vocabulary
from alignjax.parallel import axes

KNOWN = (*sites.LINEAR, *sites.EXPERTS, *sites.APART, *vocabulary.TARGETS)


@dataclasses.dataclass(kw_only=True)
class LoraConfig:
    """W + s down up (Hu et al. 2022), s = alpha / rank."""

    rank: int = 8
    alpha: float = 16.0
    # among query, key, value, out, gate, up, down (of dense and shared MLPs); under latent
    # attention query_down and latent too; of experts, experts_in (gate and up with one map in) or
    # experts_gate and experts_up, and experts_down; embed and unembed. all-linear is every matrix
    # of the layers but experts' and routers'
    targets: tuple[str, ...] = ("query", "value")
    # trained whole beside the adapters, as copies of the base's weights: embed, unembed, norm,
    # attention_norm, mlp_norm, attention_post_norm, mlp_post_norm, query_norm, key_norm
    whole: tuple[str, ...] = ()
    tie: bool = False  # of a tied model: what is done to embed is done to its unembedding too
    ranks: tuple[str, ...] = ()  # other ranks by target: "key=4"
    alphas: tuple[str, ...] = ()  # other alphas by target: "key=8"
    stabilised: bool = False  # s = alpha / sqrt(rank) (Kalajdzievski 2023)
    dora: bool = False  # direction and length of each column apart (Liu et al. 2024)
    dropout: float = 0.0  # of the adapter's input, in the pass that is differentiated

    def validate(self) -> None:
        known = (*KNOWN, sites.ALL_LINEAR) if len(self.targets) == 1 else KNOWN
        sites.check_targets(self.targets, known)
        if self.whole:
            sites.check_targets(self.whole, vocabulary.WHOLE, "whole")
        self._check_vocabulary()
        both = {*self.targets} & {*sites.APART}
        if both and "experts_in" in self.targets:
            raise ValueError(
                "adapter.targets must name experts_in or experts_gate and experts_up, not both; "
                f"got {', '.join(self.targets)} (adapter)."
            )
        shapes.check_number("adapter.rank", self.rank, minimum=1)
        shapes.check_number("adapter.alpha", self.alpha, above=0)
        shapes.check_number("adapter.dropout", self.dropout, minimum=0, below=1)
        for name, kind in (("ranks", int), ("alphas", float)):
            for target, value in _pattern(name, getattr(self, name), kind).items():
                shapes.check_number(f"adapter.{name}", value, above=0)
                if target not in self.targets and not self._is_all(target):
                    raise ValueError(
                        f"adapter.{name} must name targets; got {target!r}, and the targets are "
                        f"{', '.join(self.targets)} (adapter)."
                    )

    def _check_vocabulary(self) -> None:
        twice = [name for name in self.whole if name in self.targets]
        if twice:
            raise ValueError(
                f"adapter.whole must name no target; got {twice[0]} in both (adapter). Train it "
                "whole or adapt it."
            )
        used = [name for name in vocabulary.TARGETS if name in self.targets]
        if used and self.dora:
            raise ValueError(
                f"adapter.dora must be off with {' and '.join(used)} as targets; got True "
                "(adapter). Leave them out."
            )
        if "unembed" in used and self.dropout:
            raise ValueError(
                "adapter.dropout must be 0 with unembed as a target, whose product is never taken "
                f"apart; got {self.dropout} (adapter). Leave it out."
            )
        away = {"unembed"} & {*self.targets, *self.whole}
        if self.tie and (away or "embed" not in (*self.targets, *self.whole)):
            raise ValueError(
                "adapter.tie must be of embed alone, whose table the unembedding turns; got "
                f"targets {', '.join(self.targets)} and whole {', '.join(self.whole) or 'none'} "
                "(adapter)."
            )

    def _is_all(self, target: str) -> bool:
        return self.targets == (sites.ALL_LINEAR,) and target in sites.LINEAR

    def of(self, declared: Any) -> "LoraConfig":
        """The same with the targets of that model by name."""
        if self.targets != (sites.ALL_LINEAR,):
            return self
        return dataclasses.replace(self, targets=sites.linear(declared))

    def rank_of(self, target: str) -> int:
        return _pattern("ranks", self.ranks, int).get(target, self.rank)

    def alpha_of(self, target: str) -> float:
        return _pattern("alphas", self.alphas, float).get(target, self.alpha)

    def scale_of(self, target: str) -> float:
        """s, the factor of down up."""
        alpha, rank = self.alpha_of(target), self.rank_of(target)
        return alpha / (rank**0.5 if self.stabilised else rank)

    def declare(self, declared: Any) -> Any:
        """The adapters of a declared model: LowRank at every target, None elsewhere.

        Raises:
          ValueError: a target is no weight of the model, or cannot be adapted in that way.
        """
        own = self.of(declared)
        layered = tuple(name for name in own.targets if name not in vocabulary.TARGETS)
        tree = sites.place(declared, layered, own._site, halves=True)
        return vocabulary.place(tree, declared, own)

    def _site(self, site: sites.Site) -> "LowRank":
        rank, lead = self.rank_of(site.target), site.lead_axes
        info: Any = params.ParamInfo
        self._check_site(site)
        # The variance of the uniform distribution on +- fan_in^-1/2 of LoRA's own code.
        down = info(
            site.lead(*site.inputs, rank),
            f"{lead} {site.input_axes} rank",
            (3 * site.fan_in) ** -0.5,
        )
        return LowRank(
            down=layers.UNBOUND if site.partner else down,
            up=info(site.lead(rank, *site.outputs), f"{lead} rank {site.output_axes}", 0),
            stretch=info(site.lead(*site.outputs), f"{lead} {axes.used(site.output_axes)}", 0)
            if self.dora
            else None,
            partner=site.partner,
            experts=site.has_experts,
            scale=self.scale_of(site.target),
            dropout=self.dropout,
        )

    def _check_site(self, site: sites.Site) -> None:
        if site.has_experts and (self.dora or self.dropout):
            raise ValueError(
                "adapter.dora must be off and adapter.dropout 0 with routed experts as targets; "
                f"got {self.dora} and {self.dropout} (adapter). Leave {site.target} out."
            )
        last = site.name.rsplit("/", 1)[-1]
        if site.input_axes not in ("route", "latent") or last not in ("key", "value"):
            return
        numbers = {
            (name in self.targets, self.rank_of(name), self.alpha_of(name))
            for name in ("key", "value")
        }
        if len(numbers) > 1:
            raise ValueError(
                "adapter.targets must name key and value together, with one rank and alpha, under "
                f"latent attention, where one matrix makes both; got {', '.join(self.targets)} "
                "(adapter)."
            )


def _pattern(name: str, entries: tuple[str, ...], kind: Any) -> dict[str, Any]:
    """{"key": 4} from ("key=4",)."""
    numbers = {}
    for entry in entries:
        target, _, value = entry.partition("=")
        try:
            numbers[target] = kind(value)
        except ValueError:
            raise ValueError(
                f"adapter.{name} must be entries TARGET=NUMBER; got {entry!r} (adapter)."
            ) from None
    return numbers


@struct.pytree
class LowRank(layers.Operator):
    """x W + s (x down) up; under DoRA each column of W + s down up at a trained length.

    down [inputs..., R], up [R, outputs...], in the model with a leading layer axis. stretch
    [outputs...]: what is added to the base's column lengths; None without DoRA. A length is kept
    as its difference from the base's, so that adapters are initialised without reading the base and
    start as exactly the base.

    partner: path of the adapter of the matrix's other half, whose `down` this one uses; its own is
    None until they are bound. Of `experts`, down and up are [E, ...] (`grouped`).

    base, key: the frozen weight and the dropout's key, joined by `over`. ids [B]: the adapter of
    each row, where down and up have a leading adapter axis; scale and dropout are then tuples, and
    ranks are what each adapter's own rank was (many.py).
    """

    down: jax.Array
    up: jax.Array
    stretch: jax.Array | None = None
    base: layers.Weight = layers.UNBOUND
    key: jax.Array | None = None
    ids: jax.Array | None = None
    partner: str = struct.static(default="")
    experts: bool = struct.static(default=False)
    scale: Any = struct.static(default=1.0)
    dropout: Any = struct.static(default=0.0)
    ranks: tuple[int, ...] = struct.static(default=())

    def over(self, base: Any, key: jax.Array | None) -> "LowRank":
        """This adapter on its frozen weight."""
        if key is None or not np.any(self.dropout):
            return struct.replace(self, base=base)
        return struct.replace(self, base=base, key=jax.random.split(key, self.up.shape[0]))

    def product(
        self, equation: str, x: jax.Array, *, stored: str, out: str, bias: Any = None
    ) -> jax.Array:
        equation, out, order = sites.in_order(equation, out)
        side = sites.sides(equation, stored, out)
        base = layers.linear(equation, x, self.base, stored=stored, out=out)
        down, up, row = self._matrices(side, x.shape[0])
        inner = axes.einsum(
            f"{side.lead}{side.inputs},{row}{side.inputs}R->{side.lead}R",
            self._dropped(x, side),
            down,
            out=f"{side.lead_axes} rank",
        )
        added = axes.einsum(
            f"{side.lead}R,{row}R{side.outputs}->{side.lead}{side.outputs}", inner, up, out=out
        )
        scale = self._by_row(self.scale, x.shape[0], added.ndim).astype(added.dtype)
        result = base + scale * added
        if self.stretch is not None:
            result = (result * self._ratio(side, stored)).astype(result.dtype)
        result = result if bias is None else result + bias
        return result if order == tuple(range(result.ndim)) else jnp.transpose(result, order)

    @property
    def absorbs(self) -> bool:
        """Not what drops out: that is of the map's inputs."""
        return self.key is None

    def absorbed(self, equation: str, x: jax.Array, *, stored: str, out: str) -> jax.Array:
        """The map [R, K, H] of "btkh,rkh->btkr", x W^T + s (x up^T) down^T; of "btkr,rku->btku" as
        `product`, a head at a time. Under DoRA x, or the result, is scaled by column."""
        operands, _, result = equation.partition("->")
        letters, _, weight = operands.partition(",")
        ins, outs, turned = weight[0], weight[1:], weight[0] in result
        (of_ins, *of_outs), lead = stored.split(), " ".join(out.split()[:-1])
        side = sites.Sides(letters[:-1], ins, outs, lead, of_ins, " ".join(of_outs))
        ratio: Any = 1 if self.stretch is None else self._ratio(side, stored)
        x = (x * ratio).astype(x.dtype) if turned else x
        base: Any = self.base
        added = layers.linear(equation, x, base, stored=stored, out=out)
        down, up, row = self._matrices(side, x.shape[0])
        into, back, inner = f"{row}{ins}R", f"{row}R{outs}", f"{side.lead}R"
        steps = ((back, up), (into, down)) if turned else ((into, down), (back, up))
        (first, a), (second, b) = steps
        low = axes.einsum(f"{letters},{first}->{inner}", x, a, out=f"{lead} rank")
        low = axes.einsum(f"{inner},{second}->{result}", low, b, out=out)
        scale = self._by_row(self.scale, x.shape[0], low.ndim).astype(low.dtype)
        total = added + scale * low
        return total if turned else (total * ratio).astype(total.dtype)

    def _matrices(self, side: sites.Sides, rows: int) -> tuple[jax.Array, jax.Array, str]:
        """(down, up, letter of the rows' own axis or "") as they are used."""
        down, up = f"{side.input_axes} rank", f"rank {side.output_axes}"
        if self.ids is None:
            return axes.shard(self.down, down), axes.shard(self.up, up), ""
        ids = self._rows(rows)

        def by_row(x: jax.Array, names: str) -> jax.Array:
            return axes.take(axes.shard(x, f"rank {names}"), ids, f"batch {names}")

        return by_row(self.down, down), by_row(self.up, up), side.lead[0]

    def _rows(self, rows: int) -> jax.Array:
        """[rows] the adapter of each row."""
        ids: Any = self.ids
        own = ids[:, None] + jnp.zeros((rows // ids.shape[0],), ids.dtype)
        return own.reshape(rows)

    def _by_row(self, number: Any, rows: int, ndim: int) -> Any:
        """A number of the adapter, or [rows, 1, ...] where each row has its own."""
        if self.ids is None:
            return jnp.float32(number)
        table = axes.shard(jnp.asarray(number, jnp.float32), "rank")
        own = axes.take(table, self._rows(rows), "batch")
        return own.reshape(rows, *[1] * (ndim - 1))

    def _dropped(self, x: jax.Array, side: sites.Sides) -> jax.Array:
        if self.key is None:
            return x
        stays = 1 - self._by_row(self.dropout, x.shape[0], x.ndim)
        names = f"{side.lead_axes} {side.input_axes}"
        uniform = axes.shard(jax.random.uniform(self.key, x.shape), names)
        return jnp.where(uniform < stays, x / stays.astype(x.dtype), 0)

    def grouped(self, rows: jax.Array, sizes: jax.Array) -> jax.Array:
        """[N, outputs] of rows [N, inputs] in runs, one an expert, of these sizes [E]."""
        inner = jax.lax.ragged_dot(rows, self.down, sizes)
        added = jax.lax.ragged_dot(inner, self.up, sizes)
        if isinstance(self.base, layers.Coded):
            return self.base.grouped(rows, sizes) + self.scale * added
        return jax.lax.ragged_dot(rows, plain(self.base), sizes) + self.scale * added

    def laid_out(self, lead: str, inputs: str, outputs: str) -> "LowRank":
        """The axes of each of its arrays, for experts."""
        coded = isinstance(self.base, layers.Coded)
        base: Any = self.base
        return struct.replace(
            self,
            base=base.laid_out(lead, inputs, outputs) if coded else f"{lead} {inputs} {outputs}",
            down=f"{lead} {inputs} rank",
            up=f"{lead} rank {outputs}",
        )

    def _ratio(self, side: sites.Sides, stored: str) -> jax.Array:
        """[outputs...] fp32: the trained length of each column over its present one."""

        def run(own: LowRank) -> jax.Array:
            return own._quotient(side, stored)

        # A base of codes is made whole again for the gradient, never kept.
        return (jax.checkpoint(run) if isinstance(self.base, layers.Coded) else run)(self)

    def _quotient(self, side: sites.Sides, stored: str) -> jax.Array:
        """`_ratio`.

        |w + s d|^2 = |w|^2 + 2 s w.d + s^2 |d|^2 with d = down u, from products of the size of
        `up`: the merged matrix is never computed. The present length gets no gradient (Liu et al.
        2024, section 4.3).
        """
        ins, outs = side.inputs, side.outputs
        up_axes, here = f"rank {side.output_axes}", side.output_axes
        base, down, up = (
            axes.shard(x, names).astype(jnp.float32)
            for x, names in (
                (dense(self.base, jnp.float32), stored),
                (self.down, f"{side.input_axes} rank"),
                (self.up, up_axes),
            )
        )
        own = axes.einsum(f"{ins}{outs},{ins}{outs}->{outs}", base, base, out=here)
        across = axes.einsum(f"{ins}R,{ins}{outs}->R{outs}", down, base, out=up_axes)
        square = axes.einsum(f"{ins}R,{ins}S->RS", down, down, out="rank rank")
        moved = axes.einsum(f"RS,S{outs}->R{outs}", square, up, out=up_axes)
        moved = 2 * self.scale * across + self.scale**2 * moved
        now = own + axes.einsum(f"R{outs},R{outs}->{outs}", up, moved, out=here)
        now = jax.lax.stop_gradient(jnp.maximum(now, 1e-30))
        stretch: Any = self.stretch
        # A quotient of squares: where they are equal it is 1 to the last bit under every compiler.
        return jnp.sqrt(jnp.maximum(own, 1e-30) / now) + stretch / jnp.sqrt(now)

    def merged(self) -> jax.Array:
        """The one matrix [layers, inputs..., outputs...] that does the same, in fp32."""
        whole = dense(self.base, jnp.float32)
        lead = 2 if self.experts else 1
        ins, stack = self.down.ndim - 1 - lead, "LE"[:lead]
        letters = "abcdfgh"[:ins], "ijklmnop"[: self.up.ndim - 1 - lead]
        added = jnp.einsum(
            f"{stack}{letters[0]}R,{stack}R{letters[1]}->{stack}{letters[0]}{letters[1]}",
            self.down.astype(jnp.float32),
            self.up.astype(jnp.float32),
            precision="highest",
        )
        moved = whole + self.scale * added
        if self.stretch is None:
            return moved
        inputs = tuple(range(1, ins + 1))
        lengths = [jnp.sqrt(jnp.sum(w * w, axis=inputs, keepdims=True)) for w in (whole, moved)]
        stretch = jnp.expand_dims(self.stretch.astype(jnp.float32), inputs)
        return moved * (lengths[0] + stretch) / lengths[1]


def dense(weight: Any, dtype: Any) -> jax.Array:
    """The matrix of a weight without an adapter, in `dtype`; errors as of `plain`."""
    if isinstance(weight, layers.Coded):
        return weight.whole(dtype)
    return plain(weight).astype(dtype)


def plain(weight: Any) -> jax.Array:
    """A weight that is an array.

    Raises:
      ValueError: it carries another adapter.
    """
    if isinstance(weight, layers.Operator):
        raise ValueError(
            "a base under DoRA must be plain matrices; got one that carries an adapter already. "
            "Merge that one first."
        )
    return weight
