"""Bottleneck adapters: a narrow MLP with a skip, behind a sub-layer."""

import dataclasses
from typing import Any

import jax

from alignjax.core import shapes, struct
from alignjax.models import layers, params
from alignjax.models.adapters import sites
from alignjax.parallel import axes

# The maps that end a sub-layer, by the adapters' places.
PLACES = {"houlsby": ("attention/out", "mlp/down"), "pfeiffer": ("mlp/down",)}


@dataclasses.dataclass(kw_only=True)
class BottleneckConfig:
    """y + act(y down + b) up + c of what a sub-layer adds to the residual stream."""

    width: int = 16  # of the bottleneck
    places: str = "houlsby"  # houlsby (attention and MLP, 2019) | pfeiffer (MLP alone, 2021)
    activation: str = "gelu"  # silu | gelu (its tanh form)

    def validate(self) -> None:
        shapes.check_number("adapter.width", self.width, minimum=1)
        shapes.check_choice("adapter.places", self.places, PLACES)
        shapes.check_choice("adapter.activation", self.activation, ("silu", "gelu"))

    def declare(self, declared: Any) -> Any:
        """The adapters of a declared model: Bottleneck behind sub-layers, None elsewhere.

        Raises:
          ValueError: a layer has no such map (its MLP is a mixture of experts).
        """
        ends, names = PLACES[self.places], []

        def make(site: sites.Site) -> Any:
            if not site.name.endswith(ends):
                return None
            names.append(site.name)
            return self._site(site)

        targets = tuple(end.rsplit("/", 1)[-1] for end in ends)
        tree = sites.place(declared, targets, make)
        if len(names) != len(ends) * len(declared.blocks):
            raise ValueError(
                f"bottleneck adapters need {' and '.join(ends)} in every layer; got only "
                f"{', '.join(names) or 'none'} (adapter.places). Use LoRA for experts' models."
            )
        return tree

    def _site(self, site: sites.Site) -> "Bottleneck":
        (d,), m = site.outputs, self.width
        info: Any = params.ParamInfo
        return Bottleneck(
            down=info(site.lead(d, m), "layers fsdp rank", d**-0.5),
            down_bias=info(site.lead(m), "layers rank", 0),
            up=info(site.lead(m, d), "layers rank fsdp", 0),
            up_bias=info(site.lead(d), "layers embed", 0),
            activation=self.activation,
        )


@struct.pytree
class Bottleneck(layers.Operator):
    """y + act(y down + down_bias) up + up_bias with y = x W + b, the sub-layer's own output.

    It stands before the residual sum, and before the norm of families that norm their branches.
    down [D, M], up [M, D], in the model with a leading layer axis; `up` starts at zero.
    Reference: Houlsby et al. 2019, figure 2; Pfeiffer et al. 2021.
    """

    down: jax.Array
    down_bias: jax.Array
    up: jax.Array
    up_bias: jax.Array
    base: layers.Weight = layers.UNBOUND
    activation: str = struct.static(default="gelu")

    def over(self, base: Any, key: jax.Array | None) -> "Bottleneck":
        """This adapter behind its frozen weight."""
        return struct.replace(self, base=base)

    def product(
        self, equation: str, x: jax.Array, *, stored: str, out: str, bias: Any = None
    ) -> jax.Array:
        y = layers.linear(equation, x, self.base, stored=stored, out=out, bias=bias)
        side = sites.sides(equation, stored, out)
        lead, d = side.lead, side.outputs
        down = axes.shard(self.down, "embed rank")
        up = axes.shard(self.up, "rank embed")
        inner = axes.einsum(f"{lead}{d},{d}M->{lead}M", y, down, out=f"{side.lead_axes} rank")
        inner = layers.activation(self.activation, inner + self.down_bias)
        return y + axes.einsum(f"{lead}M,M{d}->{lead}{d}", inner, up, out=out) + self.up_bias
