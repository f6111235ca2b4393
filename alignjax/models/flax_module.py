"""Our Transformer as a Linen or NNX module: a shell around the same functions and parameters."""

import copy
from typing import Any

import jax
import jax.numpy as jnp

from alignjax.core import struct, trees
from alignjax.models import flax_bridge, layers, params, transformer
from alignjax.models.config import TransformerConfig
from alignjax.parallel import axes


def to_nested(weights: transformer.Transformer) -> dict[str, Any]:
    """The weights as Flax keeps them: {"embed": ..., "blocks": {"0": {"mlp": {"gate": ...}}}}.

    Nothing is copied or renamed; what is None has no entry. `from_nested` is the inverse.

    Raises:
      ValueError: a weight carries an adapter.
    """

    def is_operator(x: Any) -> bool:
        return isinstance(x, layers.Operator)

    named = _by_name(weights, is_operator)
    for name, leaf in named.items():
        if is_operator(leaf):
            raise ValueError(
                f"weights for Flax must be plain arrays; got an adapter at {name} (to_nested). "
                "Merge it first."
            )
    return _nest(named)


def _by_name(tree: Any, is_leaf: Any) -> dict[str, Any]:
    paths = jax.tree_util.tree_leaves_with_path(tree, is_leaf=is_leaf)
    return {trees.path_name(path): leaf for path, leaf in paths}


def _nest(named: dict[str, Any]) -> dict[str, Any]:
    """{"mlp": {"gate": x}} of {"mlp/gate": x}."""
    tree: dict[str, Any] = {}
    for name, leaf in named.items():
        *folders, last = name.split("/")
        here = tree
        for folder in folders:
            here = here.setdefault(folder, {})
        here[last] = leaf
    return tree


def from_nested(config: TransformerConfig, tree: Any) -> transformer.Transformer:
    """The weights of the Transformer of `config` from the nested dict of a Flax module.

    Raises:
      ValueError: a name is missing or unknown, or a shape is not the config's.
    """
    config.validate()
    leaves = trees.named_leaves(tree)
    declared = _declare(config, "scalar" in leaves)
    wanted = {name: info.shape for name, info in _by_name(declared, params.is_info).items()}
    wrong = [f"{name} is missing" for name in wanted if name not in leaves]
    wrong += [f"{name} is unknown" for name in leaves if name not in wanted]
    wrong += [
        f"{name} is {jnp.shape(leaves[name])}, not {shape}"
        for name, shape in wanted.items()
        if name in leaves and jnp.shape(leaves[name]) != shape
    ]
    if wrong:
        raise ValueError(
            f"a nested dict must hold the config's weights; got {'; '.join(wrong)} (from_nested). "
            "Check the config."
        )
    return trees.map_named(lambda name, _: leaves[name], declared, is_leaf=params.is_info)


def _declare(config: TransformerConfig, scalar_head: bool) -> transformer.Transformer:
    declared = transformer.declare(config)
    if not scalar_head:
        return declared
    return struct.replace(declared, scalar=params.ParamInfo((config.width,), "embed", 0))


def as_linen(config: TransformerConfig, *, scalar_head: bool = False) -> Any:
    """The Transformer of `config` as a Linen module with the same parameters and the same bits.

    Methods, all of (tokens [B,T], positions [B,T] = 0, 1, ..., segments [B,T] = 1):
      __call__: logits [B,T,V] fp32.
      hidden: states [B,T,D], those of `transformer(config).hidden`.
      scalar: the scalar head [B,T] fp32, where there is one.
    variables["params"] is `to_nested` of our weights. Initial parameters follow the same
    distributions with keys of Flax's own; for the same numbers as ours take
    `to_nested(model.init(key))`. On a mesh they are laid out as ours, and `init` too takes rows
    that the batch axes divide.

    Raises:
      ValueError: flax is missing, or the config is bad.
    """
    linen = flax_bridge.flax_package().linen
    config = copy.deepcopy(config)  # a module is a constant
    model = transformer.transformer(config)
    declared = _nest(_by_name(_declare(config, scalar_head), params.is_info))
    dtype = jnp.dtype(config.param_dtype)

    # The config is in the closure: as a field it would have no hash, which jit asks modules for.
    class Transformer(linen.Module):  # type: ignore[name-defined, misc]
        """Decoder-only Transformer of AlignJAX."""

        def setup(self) -> None:
            def make(key: jax.Array, infos: Any) -> Any:
                return params.init(infos, key, dtype)

            tree = {name: self.param(name, make, infos) for name, infos in declared.items()}
            self.weights = from_nested(config, tree)

        def hidden(self, tokens: jax.Array, positions: Any = None, segments: Any = None) -> Any:
            if positions is None:
                slots = jnp.arange(tokens.shape[1], dtype=jnp.int32)[None]
                positions = jnp.zeros_like(tokens) + slots
            if segments is None:
                segments = jnp.ones_like(tokens)
            return model.hidden(self.weights, tokens, positions=positions, segments=segments)[0]

        def __call__(self, tokens: jax.Array, positions: Any = None, segments: Any = None) -> Any:
            states = self.hidden(tokens, positions, segments)
            matrix = axes.shard(model.unembedding(self.weights), "embed vocab")
            logits = axes.einsum("btd,dv->btv", states, matrix, "batch slot vocab", jnp.float32)
            if not model.logit_softcap:
                return logits
            return model.logit_softcap * jnp.tanh(logits / model.logit_softcap)

        def scalar(self, tokens: jax.Array, positions: Any = None, segments: Any = None) -> Any:
            return model.scalar(self.weights, self.hidden(tokens, positions, segments))

    return Transformer()


def as_nnx(config: TransformerConfig, rngs: Any, *, scalar_head: bool = False) -> Any:
    """The same as an NNX module, with parameters as `nnx.Param` under the same names.

    rngs: an `nnx.Rngs` for fresh parameters. `flax_bridge.nnx_weights(module).params` is the
    nested dict.
    """
    nnx = flax_bridge.flax_package().nnx
    module = nnx.bridge.ToNNX(as_linen(config, scalar_head=scalar_head), rngs=rngs)
    return module.lazy_init(jnp.zeros((axes.axis_size("batch"), 2), jnp.int32))
