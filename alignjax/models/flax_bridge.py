"""Flax at one seam: a Linen or NNX language model as a Model, and our Transformer as a Flax module.

Flax is imported inside functions: nothing else of the package needs it.
"""

from collections.abc import Callable
from typing import Any, NamedTuple

import jax
import jax.numpy as jnp

from alignjax.core import struct, trees
from alignjax.models import flax_contract, token_cache
from alignjax.models import model as models
from alignjax.parallel import axes


@struct.pytree
class Weights:
    """A Flax model's own nested dict of parameters, and beside it the scalar head [D] or None."""

    params: Any
    scalar: jax.Array | None = None


class _Own(NamedTuple):
    """A Flax model as functions: key -> nested dict, and (nested dict, method, arguments)."""

    init: Callable[[jax.Array], Any]
    call: Callable[..., Any]


def from_linen(module: Any, contract: flax_contract.Contract) -> models.Model:
    """A Linen module as a Model that every algorithm trains; params are Weights.

    `init` calls the module's `__call__` (`contract.states` if it has none) with the contract's
    inputs. Weights that exist already are `Weights(params=variables["params"])`. On a mesh fresh
    ones are whole on every device, and those that you place keep their layout; the module itself
    is traced under automatic axes. Adapters do not apply: the module declares no parameters to us.

    Raises:
      ValueError: flax is missing, the module keeps state besides "params" or draws random numbers,
        or shapes and paths do not fit the contract.
    """
    linen = flax_package().linen
    contract.validate()

    def init(key: jax.Array) -> Any:
        method = "__call__" if callable(module) else contract.states
        variables = module.init({"params": key}, *flax_contract.probe(contract), method=method)
        others = sorted(set(variables) - {"params", "intermediates"})
        if others:
            raise ValueError(
                f"a Linen module must keep its state in 'params'; got {', '.join(others)} too "
                "(flax_bridge.from_linen). Build it without caches and running statistics."
            )
        return linen.meta.unbox(variables.get("params", {}))

    def call(own: Any, method: flax_contract.Method, *arguments: Any) -> Any:
        return module.apply({"params": own}, *arguments, method=method)

    return _model(_Own(init, call), contract)


def from_nnx(make: Callable[[Any], Any], contract: flax_contract.Contract) -> models.Model:
    """The NNX module that `make(nnx.Rngs)` builds, as a Model; params are Weights.

    The module runs in eval mode (no dropout). Weights of a module that exists are
    `nnx_weights(module)`; `nnx.update(module, nnx_state(module, weights))` puts new ones back.
    Meshes and adapters: as for `from_linen`.

    Raises:
      ValueError: flax is missing, the module has state besides Param or changes it when called, or
        shapes and paths do not fit the contract.
    """
    nnx = flax_package().nnx
    contract.validate()

    def built(key: jax.Array) -> Any:
        module = make(nnx.Rngs(key))
        # Eval mode, where the module has modes: no dropout, no running statistics.
        off = {"deterministic": True, "use_running_average": True}
        module.set_attributes(raise_if_not_found=False, **off)
        return module

    abstract = nnx.eval_shape(lambda: built(jax.random.key(0)))
    graph, declared, streams, others = nnx.split(abstract, nnx.Param, nnx.RngState, ...)
    if jax.tree.leaves(others):
        names = ", ".join(sorted(trees.named_leaves(nnx.to_pure_dict(others))))
        raise ValueError(
            f"an NNX module must keep its state in Param; got {names} too (flax_bridge.from_nnx). "
            "Build it without caches and running statistics."
        )
    if jax.tree.leaves(streams):  # of dropout, which eval mode never reads

        def sample(key: jax.Array) -> Any:
            return nnx.state(built(key), nnx.RngState)

        streams = jax.jit(sample)(jax.random.key(0))

    def call(own: Any, method: flax_contract.Method, *arguments: Any) -> Any:
        module = nnx.merge(graph, _filled(declared, own), streams)
        before = jax.tree.leaves(nnx.state(module))
        bound = getattr(module, method) if isinstance(method, str) else None
        result = bound(*arguments) if bound else method(module, *arguments)  # type: ignore[operator]
        after = {id(leaf) for leaf in jax.tree.leaves(nnx.state(module))}
        if any(id(leaf) not in after for leaf in before):
            raise ValueError(
                "an NNX module must not change its variables when called; got new values "
                "(flax_bridge.from_nnx). Keep caches in make_cache and decode, dropout off."
            )
        return result

    return _model(_Own(lambda key: nnx_weights(built(key)).params, call), contract)


def nnx_weights(module: Any) -> Weights:
    """The Param values of an NNX module as Weights."""
    nnx = flax_package().nnx
    return Weights(params=nnx.to_pure_dict(nnx.state(module, nnx.Param)))


def nnx_state(module: Any, weights: Weights) -> Any:
    """The nnx.State of Weights, for `nnx.update`; `module` has the type of each value."""
    nnx = flax_package().nnx
    return _filled(nnx.state(module, nnx.Param), weights.params)


def _filled(state: Any, values: Any) -> Any:
    fresh = jax.tree.map(lambda x: x, state)  # filled in place
    flax_package().nnx.replace_by_pure_dict(fresh, values)
    return fresh


def flax_package() -> Any:
    """The flax package, with linen and nnx imported.

    Raises:
      ValueError: it is not installed.
    """
    try:
        import flax
        import flax.linen
        import flax.nnx
    except ImportError:
        raise ValueError(
            "the Flax bridge needs the flax package. Install it: pip install flax."
        ) from None
    return flax


def _automatic(function: Callable[..., Any], out: Any) -> Callable[..., Any]:
    """`function`, written for no mesh, under automatic axes; results laid out by names `out`."""
    if not axes.has_mesh():
        return function
    return jax.sharding.auto_axes(function, out_sharding=jax.tree.map(axes.spec, out))


class _Sizes(NamedTuple):
    width: int  # of the module's own states
    vocab: int
    dtype: Any


def _measure(own: _Own, contract: flax_contract.Contract) -> _Sizes:
    """Sizes of a model that is never allocated.

    Raises:
      ValueError: states and unembedding do not fit each other.
    """
    weights = jax.eval_shape(lambda: own.init(jax.random.key(0)))
    try:
        states = jax.eval_shape(
            lambda w: own.call(w, contract.states, *flax_contract.probe(contract)), weights
        )
    except flax_package().errors.InvalidRngError as error:
        raise ValueError(
            f"a module must draw no random numbers when called; got {str(error).splitlines()[0]} "
            "(flax_bridge.from_linen). Build it with deterministic=True."
        ) from None
    if not hasattr(states, "shape"):
        raise ValueError(
            f"states must return one array [B, T, D]; got {type(states).__name__} "
            "(Contract). Name a method that does."
        )
    if states.ndim != 3 or states.shape[:2] != (1, 2):
        raise ValueError(
            f"states must return [B, T, D]; got {states.shape} for B = 1, T = 2 "
            "(Contract). Name a method that does."
        )
    width = states.shape[2]
    if contract.unembedding is None:
        if contract.bias is not None:
            raise ValueError(
                f"bias must be None for a model that returns logits; got {contract.bias!r} "
                "(Contract)."
            )
        flax_contract.check_vocabulary(width)
        return _Sizes(width, width, states.dtype)
    matrix = jax.eval_shape(lambda w: flax_contract.matrix_of(contract, w), weights)
    rows = width + (contract.bias is not None)
    # A square one would pass unseen the wrong way round: tables of Embed are always [V, D].
    table = str(contract.unembedding).endswith("embedding")
    if table or len(matrix.shape) != 2 or matrix.shape[0] != rows:
        raise ValueError(
            f"unembedding must have shape [D, V] with D = {width}, the width of the states; got "
            f"{matrix.shape} (Contract). A matrix [V, D] needs a function: "
            "unembedding=lambda p: p[...].T."
        )
    return _Sizes(width, matrix.shape[1], states.dtype)


def _model(own: _Own, contract: flax_contract.Contract) -> models.Model:
    size = _measure(own, contract)

    def init(key: jax.Array) -> Weights:
        names = jax.tree.map(lambda x: " ".join(["embed"] * x.ndim), jax.eval_shape(own.init, key))
        return Weights(params=_automatic(own.init, names)(key))

    def unembedding(weights: Weights) -> jax.Array:
        if contract.unembedding is None:
            return axes.shard(jnp.eye(size.vocab, dtype=size.dtype), "embed vocab")
        return flax_contract.matrix_of(contract, weights.params)

    def scalar(weights: Weights, states: jax.Array) -> jax.Array:
        return models.read_head(states[..., : size.width], weights.scalar)

    def with_scalar(weights: Weights, heads: int = 0) -> Weights:
        return struct.replace(weights, scalar=models.zero_head(size.width, heads))

    fp32 = size.dtype == jnp.float32 and jax.default_backend() == "cpu"
    return models.Model(
        init=init,
        hidden=_make_hidden(own, contract, size.width),
        unembedding=unembedding,
        scalar=scalar,
        with_scalar=with_scalar,
        without_scalar=lambda weights: struct.replace(weights, scalar=None),
        cache=contract.make_cache or token_cache.empty,
        bind=lambda weights, frozen, key=None: weights,
        vocab_size=size.vocab,
        logit_tile=contract.logit_tile,
        logit_softcap=contract.logit_softcap,
        rounding=contract.rounding or (1e-4 if fp32 else 5e-2),
    )


def _make_hidden(own: _Own, contract: flax_contract.Contract, width: int) -> Callable[..., Any]:
    """`Model.hidden`: one pass, one pass over all that the cache has kept, or the model's own."""

    def with_one(states: jax.Array) -> jax.Array:
        if contract.bias is None:
            return states
        return jnp.concatenate([states, jnp.ones_like(states[..., :1])], axis=-1)

    def forward(weights: Any, tokens: Any, positions: Any, segments: Any) -> jax.Array:
        inputs = flax_contract.arguments(contract, tokens, positions, segments)
        states = with_one(own.call(weights, contract.states, *inputs))
        if contract.any_rows:
            return states
        slots = jnp.arange(tokens.shape[1])[None]
        real = slots < jnp.sum(segments > 0, axis=1, keepdims=True)
        plain = jnp.all((segments == real) & ((positions == slots) | ~real), axis=1)
        return jnp.where(plain[:, None, None], states, jnp.nan)

    def again(
        weights: Any, cache: token_cache.TokenCache, tokens: Any, positions: Any, segments: Any
    ) -> Any:
        cache, slots = token_cache.append(cache, tokens, positions, segments)
        read = cache.read or cache.tokens.shape[1]
        kept = (x[:, :read] for x in (cache.tokens, cache.positions, cache.segments))
        states = forward(weights, *kept)
        slots = jnp.minimum(slots, read - 1)  # padding: any state will do
        return jnp.take_along_axis(states, slots[:, :, None], axis=1), cache

    def decode(weights: Any, cache: Any, tokens: Any, positions: Any, segments: Any) -> Any:
        states, after = own.call(weights, contract.decode, tokens, positions, segments, cache)
        if states.shape != (*tokens.shape, width):
            raise ValueError(
                f"decode must return states [B, T, D] = {(*tokens.shape, width)} and the cache; "
                f"got {states.shape} (Contract)."
            )
        return with_one(states), after

    def hidden(
        weights: Weights,
        tokens: jax.Array,
        *,
        positions: jax.Array,
        segments: jax.Array,
        cache: Any = None,
    ) -> tuple[jax.Array, Any]:
        own_weights = weights.params
        if cache is None:
            run = _automatic(forward, "batch time embed")
            return run(own_weights, tokens, positions, segments), None
        if not axes.has_mesh():
            run = decode if contract.decode else again
        else:
            # A loop's carry keeps its layout: the cache leaves as it came. Rows have a token each
            # in decoding, so nothing shards time where there is a cache.
            where = jax.tree.map(lambda x: jax.typeof(x).sharding.spec, cache)
            run = jax.sharding.auto_axes(
                decode if contract.decode else again,
                out_sharding=(axes.spec("batch slot embed"), where),
            )
        return run(own_weights, cache, tokens, positions, segments)

    return hidden
