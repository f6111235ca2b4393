"""One optimizer update, exact under micro-batches and meshes."""

from collections.abc import Callable
from typing import Any

import jax
import jax.numpy as jnp
import optax

from alignjax.core import mean, struct
from alignjax.training import algorithm as algorithms


def split_micro(batch: Any, count: int) -> Any:
    """Rows [B, ...] as [count, B/count, ...], row i going to part i mod count.

    Interleaving keeps every row on the device that holds it.

    Raises:
      ValueError: count does not divide B.
    """
    rows = jax.tree.leaves(batch)[0].shape[0]
    if rows % count:
        raise ValueError(
            f"loop.micro_batches must divide the rows of an update; got {count} for {rows} rows."
        )

    def split(x: jax.Array) -> jax.Array:
        return jnp.swapaxes(x.reshape(rows // count, count, *x.shape[1:]), 0, 1)

    return jax.tree.map(split, batch)


def _sum(tree: Any) -> Any:
    return jax.tree.map(lambda x: jnp.sum(x, axis=0), tree)


def make_gradients(loss: Callable[..., Any], *, micro_batches: int = 1) -> Callable[..., Any]:
    """(params, frozen, batch, key) -> (gradients, Metrics) of the whole batch.

    Each term's weight is summed over all micro-batches first; then the gradient of
    sum_k total_k / weight_k is accumulated in fp32. So k micro-batches equal one batch up to
    rounding, whatever the lengths, and terms with different denominators mix exactly.
    """

    def part_gradients(params, frozen, batch, key, weights):
        def objective(params):
            terms, metrics = loss(params, frozen, batch, key)
            value = sum(term.total / weights[name] for name, term in terms.items())
            return value, ({**metrics, "loss": mean.Mean(total=value, weight=1.0)})

        return jax.grad(objective, has_aux=True)(params)

    def safe(weights):
        return {n: jnp.maximum(jax.lax.stop_gradient(w), 1e-8) for n, w in weights.items()}

    def gradients(params, frozen, batch, key):
        def weights_of(batch, key):
            terms, _ = loss(params, frozen, batch, key)
            return {name: term.weight for name, term in terms.items()}

        if micro_batches == 1:
            return part_gradients(params, frozen, batch, key, safe(weights_of(batch, key)))
        parts = split_micro(batch, micro_batches)
        keys = jax.random.split(key, micro_batches)
        # Only the weights leave this loop, and they come from masks: the compiler drops the rest
        # of the forward pass from it.
        weights = safe(_sum(jax.lax.map(lambda xs: weights_of(*xs), (parts, keys))))

        def body(total, xs):
            part, metrics = part_gradients(params, frozen, *xs, weights)
            return jax.tree.map(lambda a, b: a + b.astype(a.dtype), total, part), metrics

        zeros = jax.tree.map(lambda p: jnp.zeros_like(p, jnp.float32), params)
        total, metrics = jax.lax.scan(body, zeros, (parts, keys))
        metrics = _sum(metrics)
        metrics["loss"] = mean.Mean(total=metrics["loss"].total, weight=1.0)
        return jax.tree.map(lambda g, p: g.astype(p.dtype), total, params), metrics

    return gradients


def make_update(
    loss: Callable[..., Any], tx: optax.GradientTransformation, *, micro_batches: int = 1
) -> Callable[..., Any]:
    """Jitted (TrainState, Frozen, Batch, Key) -> (TrainState, Metrics); the state is donated.

    A non-finite loss or gradient leaves parameters and optimizer untouched and is counted in the
    metric `skipped`.
    """
    gradients = make_gradients(loss, micro_batches=micro_batches)

    def update(state: algorithms.TrainState, frozen: Any, batch: Any, key: jax.Array) -> Any:
        grads, metrics = gradients(state.params, frozen, batch, key)
        norm = optax.global_norm(grads)
        finite = jnp.isfinite(norm) & jnp.isfinite(metrics["loss"].total)
        updates, opt_state = tx.update(grads, state.opt_state, state.params)
        params = optax.apply_updates(state.params, updates)

        def keep(new: jax.Array, old: jax.Array) -> jax.Array:
            return jnp.where(finite, new, old)

        state = struct.replace(
            state,
            params=jax.tree.map(keep, params, state.params),
            opt_state=jax.tree.map(keep, opt_state, state.opt_state),
        )
        metrics = {
            **metrics,
            "grad_norm": mean.Mean(total=norm, weight=1.0),
            "skipped": mean.Mean(total=1.0 - finite, weight=1.0),
        }
        return state, jax.tree.map(jnp.asarray, metrics)

    return jax.jit(update, donate_argnums=0)
