"""A model under adapters is another model: it makes adapters alone and joins them with its base."""

import dataclasses
import zlib
from typing import Any

import jax
import jax.numpy as jnp

from alignjax.core import struct, trees
from alignjax.models import model as models
from alignjax.models import params
from alignjax.models.adapters import bottleneck, ia3, lora, prefix, sites, vocabulary


@dataclasses.dataclass(kw_only=True)
class FullConfig:
    """No adapter: every parameter is trained."""

    def validate(self) -> None:
        """Nothing can be wrong."""


AdapterConfig = (
    FullConfig | lora.LoraConfig | ia3.Ia3Config | bottleneck.BottleneckConfig | prefix.PrefixConfig
)


def adapt(model: models.Model, config: AdapterConfig) -> models.Model:
    """The model whose parameters are adapters over frozen["base"].

    `init` makes adapters only: a tree of the model's own structure with an adapter at each site
    and None elsewhere, so that the optimizer holds nothing else. `bind` puts the base's weights
    where the tree has None and under each adapter; nothing is merged or copied. A whole tree is
    bound to itself and `empty` of a tree to the base, so that a reference costs nothing.
    Weights that are trained whole beside adapters are NaN until they are `started`.
    With `with_scalar` the head is trained whole beside the adapters.

    Raises:
      ValueError: a bad configuration, or a model that does not declare its parameters.
    """
    config.validate()
    if isinstance(config, FullConfig):
        return model
    if model.declared is None:
        raise ValueError(
            "a model under adapters must declare its parameters; this one does not (adapter). "
            "Train it whole."
        )
    declared = config.declare(model.declared)
    return model._replace(
        # Adapters are master weights of their own, whatever the base is stored in.
        init=lambda key: params.init(declared, key, jnp.float32),
        bind=bind,
        drops_out=isinstance(config, lora.LoraConfig) and config.dropout > 0,
    )


is_adapter = sites.is_adapter


def bind(own: Any, frozen: models.Frozen, key: jax.Array | None = None) -> Any:
    """Adapters joined with frozen["base"]; with a key they drop out.

    The halves of one matrix share their inputs, what drops out of them, and the map from them.
    """
    paths = jax.tree_util.tree_leaves_with_path(own, is_leaf=is_adapter)
    nodes = {trees.path_name(path): node for path, node in paths}

    def join(name: str, adapter: Any, weight: Any) -> Any:
        if adapter is None:
            return weight
        if not is_adapter(adapter):
            return adapter
        if isinstance(adapter, lora.LowRank) and adapter.partner:
            name = adapter.partner
            adapter = struct.replace(adapter, down=nodes[name].down)
        number = zlib.crc32(name.encode()) & 0x7FFFFFFF
        return adapter.over(weight, None if key is None else jax.random.fold_in(key, number))

    return trees.map_named(join, own, frozen["base"], is_leaf=is_adapter)


def started(own: Any, base: Any) -> Any:
    """New adapters over their base: what is trained whole begins as a copy of the base's weight."""

    def one(node: Any, weight: Any) -> Any:
        if not isinstance(node, vocabulary.Whole):
            return node
        source = base.embed.T if weight is None else weight  # of a tied unembedding
        return struct.replace(node, value=jnp.copy(source).astype(jnp.float32))

    return jax.tree.map(one, own, base, is_leaf=is_adapter)


def empty(own: Any) -> Any:
    """The tree without any adapter: bound, it is the base itself."""
    return jax.tree.map(lambda _: None, own, is_leaf=is_adapter)


def has_adapters(tree: Any) -> bool:
    """Whether a tree is of adapters, or has some joined to its weights."""
    return any(hasattr(x, "over") for x in jax.tree.leaves(tree, is_leaf=is_adapter))
