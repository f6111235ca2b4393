"""A frozen base in 8 or 4 bits, whose matrices are whole only where they are used."""

import dataclasses
import math
from collections.abc import Callable
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np

from alignjax.core import shapes, struct, trees
from alignjax.models import layers, params
from alignjax.models.adapters import codes as coding
from alignjax.models.adapters import sites
from alignjax.parallel import axes

BITS = (0, 4, 8)


@dataclasses.dataclass(kw_only=True)
class BaseConfig:
    """Storage of the frozen matrices under adapters (QLoRA, Dettmers et al. 2023).

    Embeddings, the unembedding, norms, biases and routers stay in `model.param_dtype`.
    """

    bits: int = 0  # 0 (as they are) | 8 (int8) | 4 (NF4)
    block: int = 64  # numbers along a matrix's inputs that share a scale
    double: bool = True  # of 4 bits: the scales are themselves kept in 8 bits

    def validate(self) -> None:
        if self.bits not in BITS:
            raise ValueError(
                f"base.bits must be 4, 8, or 0 for weights as they are; got {self.bits} (base)."
            )
        shapes.check_number("base.block", self.block, minimum=2)
        if self.block % 2:
            raise ValueError(f"base.block must be even; got {self.block} (base). Use 64.")

    @property
    def words(self) -> str:
        """The storage in words: "nf4, blocks of 64, double"; "" for numbers as they are."""
        if not self.bits:
            return ""
        kind = {8: "int8", 4: "nf4"}[self.bits]
        return f"{kind}, blocks of {self.block}{', double' * self.is_double}"

    @property
    def is_double(self) -> bool:
        return self.double and self.bits == 4


@struct.pytree
class Doubled:
    """Scales in 8 bits of their own (`codes.double`).

    codes: uint8 [..., C, 256]; scales fp32 [..., C]; offset fp32 [...]. size: (N, M), blocks and
    outputs of the matrix.
    """

    codes: jax.Array
    scales: jax.Array
    offset: jax.Array
    size: tuple[int, int] = struct.static(default=(0, 0))

    def whole(self) -> jax.Array:
        """[..., N, M] fp32."""
        book = jnp.asarray(coding.dynamic_map())
        values = book[self.codes.astype(jnp.int32)] * self.scales[..., None]
        values = values + self.offset[..., None, None]
        lead, (blocks, outputs) = self.offset.shape, self.size
        flat = values.reshape(*lead, -1)[..., : blocks * outputs]
        return jnp.swapaxes(flat.reshape(*lead, outputs, blocks), -1, -2)


@struct.pytree
class Quantised(layers.Coded):
    """A matrix, or stacks of them, as codes and scales (`codes.int8`, `codes.nf4`).

    codes: int8 [..., N, block, M], or uint8 [..., N, block / 2, M]. scales: fp32 [..., N, M], or
    those `Doubled`. N blocks along the inputs, M outputs.
    """

    codes: jax.Array
    scales: Any
    inputs: tuple[int, ...] = struct.static(default=())
    outputs: tuple[int, ...] = struct.static(default=())
    bits: int = struct.static(default=8)
    kind: str = struct.static(default="float32")  # dtype of the numbers that it stands for

    @property
    def shape(self) -> tuple[int, ...]:
        return (*self.codes.shape[:-3], *self.inputs, *self.outputs)

    @property
    def dtype(self) -> Any:
        return jnp.dtype(self.kind)

    def whole(self, dtype: Any) -> jax.Array:
        """[..., inputs..., outputs...], computed in fp32 and rounded once."""
        scales = self.scales.whole() if isinstance(self.scales, Doubled) else self.scales
        *lead, blocks, _, outputs = self.codes.shape
        if self.bits == 8:
            values = self.codes.astype(jnp.float32)
        else:
            pairs = jnp.stack([self.codes >> 4, self.codes & 15], axis=-2)
            values = _decoded(pairs.reshape(*lead, blocks, -1, outputs))
        values = values * scales[..., None, :]
        return values.reshape(self.shape).astype(dtype)

    def laid_out(self, lead: str, inputs: str, outputs: str) -> "Quantised":
        """The axes of its arrays: whole on every device."""
        return jax.tree.map(lambda x: _whole_axes(x.ndim), self)


def _decoded(places: jax.Array) -> jax.Array:
    """NF4 of numbers 0 to 15, chosen bit by bit: few devices look up single numbers fast."""
    values: list[Any] = [jnp.float32(x) for x in coding.NF4]
    for bit in range(4):
        upper = (places >> bit) & 1 == 1
        values = [jnp.where(upper, b, a) for a, b in zip(values[::2], values[1::2], strict=True)]
    return values[0]


def converter(declared: Any, config: BaseConfig) -> Callable[[str, Any], Any]:
    """(path, weight) -> what stands for it in the base: Quantised for a matrix of the layers.

    A weight is an array, whose matrices come to the host one by one, or a shape.

    Raises:
      ValueError: the block does not divide a matrix's inputs, or the mesh shards its experts.
    """
    config.validate()
    leaves = jax.tree_util.tree_leaves_with_path(declared, is_leaf=params.is_info)
    infos = {trees.path_name(path): info for path, info in leaves}
    found = {name: match for name, info in infos.items() if (match := sites.site(name, info))}
    for match in found.values() if config.bits else ():
        _check(match, config)

    def one(name: str, weight: Any) -> Any:
        if not config.bits or name not in found:
            return weight
        make = _quantised if isinstance(weight, jax.Array) else _shape_of
        return make(found[name], weight, config)

    return one


def quantised(tree: Any, declared: Any, config: BaseConfig) -> Any:
    """A base tree, arrays or shapes, with its matrices in few bits; errors as of `converter`."""
    return trees.map_named(converter(declared, config), tree)


def _check(site: sites.Site, config: BaseConfig) -> None:
    if site.fan_in % config.block:
        raise ValueError(
            f"base.block must divide the inputs of every matrix; got {config.block}, and "
            f"{site.fan_in} inputs of {site.name} (base). Use a smaller block."
        )
    split = [name for name in ("experts", "ff") if axes.axis_size(name) > 1]
    if site.has_experts and split:
        over = " and ".join(axis for name in split for axis in axes.mesh_axes(name))
        raise ValueError(
            f"base.bits must be 0 where the mesh divides routed experts; got {config.bits}, and "
            f"devices along {over} (base). Use the axes data and replica alone."
        )


def _quantised(site: sites.Site, weight: jax.Array, config: BaseConfig) -> Quantised:
    found: list[Any] = []
    scales: list[Any] = []
    for at in np.ndindex(*site.stacked):
        part = axes.shard(weight[at], _whole_axes(weight.ndim - len(at)))
        flat = np.asarray(part, np.float32).reshape(-1, config.block, math.prod(site.outputs))
        codes, own = (coding.int8 if config.bits == 8 else coding.nf4)(flat)
        found.append(codes)
        scales.append(coding.double(own) if config.is_double else (own,))
    return _stored(
        site,
        weight.dtype,
        config,
        _placed(found, site),
        [_placed(parts, site) for parts in zip(*scales, strict=True)],
    )


def _shape_of(site: sites.Site, weight: Any, config: BaseConfig) -> Quantised:
    """The same in shapes."""
    blocks, outputs = site.fan_in // config.block, math.prod(site.outputs)
    size = config.block if config.bits == 8 else config.block // 2
    count = math.ceil(blocks * outputs / coding.SCALES)
    scales: list[tuple[tuple[int, ...], Any]] = [((blocks, outputs), jnp.float32)]
    if config.is_double:
        scales = [((count, coding.SCALES), jnp.uint8), ((count,), jnp.float32), ((), jnp.float32)]
    kind = jnp.int8 if config.bits == 8 else jnp.uint8

    def shape(size: tuple[int, ...], dtype: Any) -> Any:
        whole = (*site.stacked, *size)
        return jax.eval_shape(lambda: axes.shard(jnp.zeros(whole, dtype), _whole_axes(len(whole))))

    codes = shape((blocks, size, outputs), kind)
    return _stored(site, weight.dtype, config, codes, [shape(*one) for one in scales])


def _stored(
    site: sites.Site, dtype: Any, config: BaseConfig, codes: Any, scales: list[Any]
) -> Quantised:
    held = scales[0]
    if config.is_double:
        size = (site.fan_in // config.block, math.prod(site.outputs))
        held = Doubled(codes=scales[0], scales=scales[1], offset=scales[2], size=size)
    return Quantised(
        codes=codes,
        scales=held,
        inputs=site.inputs,
        outputs=site.outputs,
        bits=config.bits,
        kind=str(jnp.dtype(dtype)),
    )


def _placed(parts: Any, site: sites.Site) -> jax.Array:
    """The stack of the matrices' arrays, whole on every device."""
    x = np.stack(parts)
    x = x.reshape(*site.stacked, *x.shape[1:])
    if not axes.has_mesh():
        return jax.device_put(x)
    where = jax.sharding.NamedSharding(jax.sharding.get_mesh(), axes.spec(_whole_axes(x.ndim)))
    return jax.device_put(x, where)


def _whole_axes(ndim: int) -> str:
    return " ".join(["slot"] * ndim)
