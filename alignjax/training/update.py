"""One optimizer update, exact under micro-batches and meshes."""

from collections.abc import Callable, Mapping
from typing import Any, Protocol

import jax
import jax.numpy as jnp
import optax

from alignjax.core import mean, struct
from alignjax.models import model as models
from alignjax.training import algorithm as algorithms

Weights = dict[str, jax.Array]  # each term's weight, by the term's name


class Gradients(Protocol):
    """(params, frozen, batch, key) -> (gradients, a tree like params; Metrics)."""

    def __call__(
        self,
        params: models.Params,
        frozen: models.Frozen,
        batch: algorithms.Batch,
        key: jax.Array,
    ) -> tuple[models.Params, algorithms.Metrics]: ...


class Update(Protocol):
    """Jitted (state, frozen, batch, key) -> (state, Metrics)."""

    def __call__(
        self,
        state: algorithms.TrainState,
        frozen: models.Frozen,
        batch: algorithms.Batch,
        key: jax.Array,
    ) -> tuple[algorithms.TrainState, algorithms.Metrics]: ...

    def lower(self, *args: Any) -> jax.stages.Lowered: ...


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


def _checked(result: Any) -> tuple[algorithms.Terms, algorithms.Metrics]:
    """What a loss returned, while it is traced.

    Raises:
      ValueError: it is not a pair of mappings from names to means, or a mean is not one number.
    """
    pair = isinstance(result, tuple) and len(result) == 2
    parts = result if pair else (result,)
    wrong = [type(x).__name__ for x in parts if not isinstance(x, Mapping)]
    means = [(k, x) for part in parts if isinstance(part, Mapping) for k, x in part.items()]
    kinds = {n: "an array" if hasattr(x, "shape") else type(x).__name__ for n, x in means}
    wrong += [f"{n}, {kinds[n]}" for n, x in means if not isinstance(x, mean.Mean)]
    if not wrong:
        sums = [(n, jnp.shape(s)) for n, x in means for s in (x.total, x.weight)]
        wrong += [f"{name} of shape {list(shape)}" for name, shape in sums if shape]
    if wrong or not pair:
        raise ValueError(
            "a loss must return ({term: Mean}, {metric: Mean}), each of one number; got "
            f"{'; '.join(dict.fromkeys(wrong)) or 'one mapping'} (algorithm). "
            "See alignjax/core/mean.py."
        )
    return result


def make_gradients(loss: algorithms.Loss, *, micro_batches: int = 1) -> Gradients:
    """The gradients and metrics of a whole batch.

    Each term's weight is summed over all micro-batches first; then the gradient of
    sum_k total_k / weight_k is accumulated in fp32. So k micro-batches equal one batch up to
    rounding, whatever the lengths, and terms with different denominators mix exactly.
    """

    def part_gradients(
        params: models.Params,
        frozen: models.Frozen,
        batch: algorithms.Batch,
        key: jax.Array,
        weights: Weights | None = None,
    ) -> tuple[models.Params, algorithms.Metrics]:
        """weights: of the whole batch; None where these rows are the whole batch."""

        def objective(params: models.Params) -> tuple[jax.Array, algorithms.Metrics]:
            terms, metrics = _checked(loss(params, frozen, batch, key))
            own = safe({n: x.weight for n, x in terms.items()}) if weights is None else weights
            value: Any = sum(term.total / own[name] for name, term in terms.items())
            return value, {**metrics, "loss": mean.single(value)}

        return jax.grad(objective, has_aux=True)(params)

    def safe(weights: Weights) -> Weights:
        return {n: jnp.maximum(jax.lax.stop_gradient(w), 1e-8) for n, w in weights.items()}

    def gradients(
        params: models.Params, frozen: models.Frozen, batch: algorithms.Batch, key: jax.Array
    ) -> tuple[models.Params, algorithms.Metrics]:
        if micro_batches == 1:
            return part_gradients(params, frozen, batch, key)

        def weights_of(batch: algorithms.Batch, key: jax.Array) -> Weights:
            terms, _ = _checked(loss(params, frozen, batch, key))
            return {name: term.weight for name, term in terms.items()}

        parts = split_micro(batch, micro_batches)
        keys = jax.random.split(key, micro_batches)
        # Only the weights leave this loop, and they come from masks: the compiler drops the rest
        # of the forward pass from it.
        weights = safe(_sum(jax.lax.map(lambda xs: weights_of(*xs), (parts, keys))))

        def body(
            total: models.Params, xs: tuple[algorithms.Batch, jax.Array]
        ) -> tuple[models.Params, algorithms.Metrics]:
            part, metrics = part_gradients(params, frozen, *xs, weights)
            return jax.tree.map(lambda a, b: a + b.astype(a.dtype), total, part), metrics

        zeros = jax.tree.map(lambda p: jnp.zeros_like(p, jnp.float32), params)
        total, metrics = jax.lax.scan(body, zeros, (parts, keys))
        metrics = _sum(metrics)
        metrics["loss"] = mean.single(metrics["loss"].total)
        return jax.tree.map(lambda g, p: g.astype(p.dtype), total, params), metrics

    return gradients


def make_update(
    loss: algorithms.Loss, tx: optax.GradientTransformation, *, micro_batches: int = 1
) -> Update:
    """One optimizer step, jitted; the state is donated.

    A non-finite loss or gradient leaves parameters and optimizer untouched and is counted in the
    metric `skipped`.
    """
    gradients = make_gradients(loss, micro_batches=micro_batches)

    def update(
        state: algorithms.TrainState,
        frozen: models.Frozen,
        batch: algorithms.Batch,
        key: jax.Array,
    ) -> tuple[algorithms.TrainState, algorithms.Metrics]:
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
            "grad_norm": mean.single(norm),
            "skipped": mean.single(1.0 - finite),
        }
        return state, jax.tree.map(jnp.asarray, metrics)

    return jax.jit(update, donate_argnums=0)


def in_chunks(fn: Callable[[Any], Any], batch: Any, count: int) -> Any:
    """`fn` of rows [B, ...], run on `count` equal parts one after the other: [B, ...] in order.

    `fn` must treat every row by itself. Only one part's intermediate arrays are in memory at once.

    Raises:
      ValueError: count does not divide B.
    """
    if count == 1:
        return fn(batch)

    def join(x: jax.Array) -> jax.Array:
        x = jnp.swapaxes(x, 0, 1)
        return x.reshape(x.shape[0] * x.shape[1], *x.shape[2:])

    return jax.tree.map(join, jax.lax.map(fn, split_micro(batch, count)))
