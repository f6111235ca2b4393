"""IA3: learned gains on keys, values and the MLP's inner activations."""

import dataclasses
from typing import Any

import jax
import jax.numpy as jnp

from alignjax.core import struct
from alignjax.models import layers, params
from alignjax.models.adapters import sites
from alignjax.parallel import axes


@dataclasses.dataclass(kw_only=True)
class Ia3Config:
    """Gains on activations (Liu et al. 2022)."""

    targets: tuple[str, ...] = ("key", "value", "down")
    inputs: tuple[str, ...] = ("down",)  # targets whose input is scaled; of the others the output

    def validate(self) -> None:
        sites.check_targets(self.targets)
        strange = [name for name in self.inputs if name not in self.targets]
        if strange:
            raise ValueError(
                f"adapter.inputs must name targets; got {strange[0]!r}, and the targets are "
                f"{', '.join(self.targets)} (adapter)."
            )

    def declare(self, declared: Any) -> Any:
        """The adapters of a declared model: Gain at every target, None elsewhere."""
        return sites.place(declared, self.targets, self._site)

    def _site(self, site: sites.Site) -> "Gain":
        of_input = site.target in self.inputs
        sizes, names = (
            (site.inputs, site.input_axes) if of_input else (site.outputs, site.output_axes)
        )
        names = axes.used(names)
        info: Any = params.ParamInfo(site.lead(*sizes), f"layers {names}", -1)
        return Gain(gain=info, of_input=of_input)


@struct.pytree
class Gain(layers.Operator):
    """gain * (x W + b), or (gain * x) W + b.

    gain: [outputs...], or [inputs...] with `of_input`; in the model with a leading layer axis.
    """

    gain: jax.Array
    base: layers.Weight = layers.UNBOUND
    of_input: bool = struct.static(default=False)

    def over(self, base: Any, key: jax.Array | None) -> "Gain":
        """This adapter on its frozen weight."""
        return struct.replace(self, base=base)

    def product(
        self, equation: str, x: jax.Array, *, stored: str, out: str, bias: Any = None
    ) -> jax.Array:
        side = sites.sides(equation, stored, out)
        names = side.input_axes if self.of_input else side.output_axes
        gain = axes.shard(self.gain, names)
        if self.of_input:
            return layers.linear(equation, x * gain, self.base, stored=stored, out=out, bias=bias)
        return gain * layers.linear(equation, x, self.base, stored=stored, out=out, bias=bias)

    def merged(self) -> jax.Array:
        """The one matrix that does the same, in fp32. A bias grows by `bias_gain`."""
        base: Any = self.base
        weight = layers.whole(base, jnp.float32)
        more = weight.ndim - self.gain.ndim
        if self.of_input:
            shape = (*self.gain.shape, *[1] * more)
        else:
            shape = (self.gain.shape[0], *[1] * more, *self.gain.shape[1:])
        return weight * self.gain.reshape(shape).astype(jnp.float32)

    @property
    def bias_gain(self) -> Any:
        """Factor of the weight's bias; None is 1."""
        return None if self.of_input else self.gain
