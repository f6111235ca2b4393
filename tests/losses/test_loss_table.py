"""What holds for every loss: equal to the second implementation, and the invariances."""

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from alignjax import losses
from tests.losses import table
from tests.reference import losses as reference


def cases(holds=lambda case: True):
    return pytest.mark.parametrize("case", [c for c in table.CASES if holds(c)], ids=str)


ALL = cases()
LARGE = ("B", "BT", "P", "near", "S", "dist")
COMPILED: dict[str, object] = {}


def shape_of(case, args):
    return jax.eval_shape(case.call, *args).shape


def key(case, args):
    return f"{case} {list(case.args.values())} {[np.shape(x) for x in args]}"


def run(case, args, weights=None):
    """(value, gradients) under jit; compiled once per case and shape."""
    arrays = [x if np.asarray(x).dtype.kind in "ib" else jnp.asarray(x, jnp.float32) for x in args]
    fn = COMPILED.setdefault(key(case, args), jax.jit(case.value_and_grads))
    if weights is None:
        weights = np.random.default_rng(0).normal(size=shape_of(case, arrays))
    value, grads = fn(arrays, jnp.asarray(weights, jnp.float32))
    return np.asarray(value), [np.asarray(g) for g in grads]


def close(left, right, tolerance=2e-6):
    for x, y in zip(jax.tree.leaves(left), jax.tree.leaves(right), strict=True):
        np.testing.assert_allclose(x, y, rtol=tolerance, atol=tolerance)


def wanted(case, args):
    want = getattr(reference, case.name)(*args, **case.kwargs)
    return np.stack(want, -1) if isinstance(want, tuple) else want


@ALL
def test_equals_second_implementation(case):
    args = case.draw()
    value, _ = run(case, args)
    assert value.dtype == np.float32
    close(value, wanted(case, args), 1e-5)


@cases(lambda c: c.differentiate and not c.surrogate)
def test_gradient_is_that_of_the_second_implementation(case):
    """Along one direction, by central differences in float64."""
    args, step = case.draw(), 1e-6
    weights = np.random.default_rng(0).normal(size=shape_of(case, args))
    _, grads = run(case, args, weights)
    rng = np.random.default_rng(1)
    for name, grad in zip(case.differentiate, grads, strict=True):
        place = list(case.args).index(name)
        along = rng.normal(size=grad.shape)
        ends = [
            np.sum(weights * wanted(case, [*args[:place], x, *args[place + 1 :]]))
            for x in (args[place] + step * along, args[place] - step * along)
        ]
        slope = (ends[0] - ends[1]) / (2 * step)
        assert np.sum(grad * along) == pytest.approx(slope, rel=2e-5, abs=2e-5)


@ALL
def test_jit_changes_nothing_and_content_does_not_recompile(case):
    args = case.draw()
    value, _ = run(case, args)
    run(case, case.draw(seed=1))
    floats = [jnp.asarray(x, jnp.float32) if x.dtype.kind == "f" else x for x in args]
    close(case.call(*floats), value)
    assert COMPILED[key(case, args)]._cache_size() == 1


@cases(lambda c: "mask" in c.args)
def test_masked_entries_do_not_matter(case):
    args = case.draw()
    value, grads = run(case, args)
    mask = args[list(case.args).index("mask")]
    broken = [
        np.where((mask == 0).reshape(mask.shape + (1,) * (x.ndim - 2)), np.nan, x)
        if x.dtype.kind == "f" and x.shape[:2] == mask.shape
        else x
        for x in args
    ]
    again, grads_again = run(case, broken)
    close((again, grads_again), (value, grads), 0)
    if value.shape == mask.shape:
        assert np.all(value[mask == 0] == (case.name == "importance_ratio"))
    for g in grads:
        assert np.all(g[mask == 0] == 0)
        assert np.any(g[mask == 1] != 0)


@cases(lambda c: c.args.get("mask") == "mask" and "mask_other" not in c.args.values())
def test_padding_side_does_not_matter(case):
    args = case.draw()
    mask = args[list(case.args).index("mask")]
    orders = [np.argsort(1 - mask, axis=1, kind="stable"), np.argsort(mask, axis=1, kind="stable")]

    def moved(x, order):
        if x.shape[:2] != mask.shape:
            return x
        return np.stack([row[o] for row, o in zip(x, order, strict=True)])

    results = []
    for order in orders:
        value, grads = run(
            case, [moved(x, order) for x in args], weights=weights_of(case, args, order)
        )
        back = np.argsort(order, axis=1)
        results.append([moved(x, back) for x in [value, *grads]])
    close(results[0], results[1], 1e-5)


@cases(lambda c: c.args.get("mask") == "mask" and "mask_other" not in c.args.values())
def test_padding_amount_does_not_matter(case):
    """Three more masked columns, of any content, change nothing of the others."""
    args = case.draw()
    mask = args[list(case.args).index("mask")]

    def wider(x):
        if x.shape[:2] != mask.shape:
            return x
        fill = np.nan if x.dtype.kind == "f" else 0
        width = [(0, 0), (0, 3)] + [(0, 0)] * (x.ndim - 2)
        return np.pad(x, width, constant_values=fill)

    weights = np.random.default_rng(0).normal(size=shape_of(case, args))
    more = [wider(x) for x in args]
    padded = np.nan_to_num(wider(weights)) if weights.shape[:2] == mask.shape else weights
    value, grads = run(case, args, weights)
    found, found_grads = run(case, more, padded)
    for ours, wanted in zip([found, *found_grads], [value, *grads], strict=True):
        if wanted.shape[:2] == mask.shape:
            ours = ours[:, : mask.shape[1]]
        close(ours, wanted, 1e-5)


# Losses of whole rows and recurrences over time: a packed row of theirs is not two rows.
WHOLE_ROWS = [
    "gae",
    "discounted_returns",
    "reinforce_plus_plus",
    "minillm_advantages",
    "sequence_ratio",
    "gspo_token",
    "vespo",
    "nash_md",
    "score_sum",
    "score_mean",
    "wpo_weight",
]


@cases(
    lambda c: (
        set(c.args.values()) <= {"P", "near", "BT", "unit_BT", "dist", "mask"}
        and not c.coupled
        and c.name not in WHOLE_ROWS
        and c.kwargs.get("level") not in ("sequence", "geometric")
    )
)
def test_packed_rows_are_the_rows(case):
    """Two answers in one row, one after the other, give what each gives alone."""
    args = case.draw()
    mask = args[list(case.args).index("mask")]
    assert shape_of(case, args)[:2] == mask.shape

    def packed(x):
        return np.concatenate([x[::2], x[1::2]], axis=1)

    weights = np.random.default_rng(0).normal(size=shape_of(case, args))
    value, grads = run(case, args, weights)
    found, found_grads = run(case, [packed(x) for x in args], packed(weights))
    close([found, *found_grads], [packed(x) for x in (value, *grads)], 1e-6)


def weights_of(case, args, order):
    shape = shape_of(case, args)
    weights = np.random.default_rng(0).normal(size=shape)
    if shape[:2] != order.shape:
        return weights
    return np.stack([row[o] for row, o in zip(weights, order, strict=True)])


def by_rows(case, args, rows):
    """The arguments with rows taken in another order; scalars and weights of rewards stay."""
    return [
        x if kind in ("scalar", "K") else x[rows]
        for kind, x in zip(case.args.values(), args, strict=True)
    ]


@ALL
def test_batch_order_moves_with_the_rows(case):
    args, rows = case.draw(), np.array([2, 0, 3, 1, 7, 5, 4, 6])
    ones = np.ones(shape_of(case, args))
    value, grads = run(case, args, ones)
    again, grads_again = run(case, by_rows(case, args, rows), ones)
    if case.name.startswith("aot"):
        close(again, value)  # sorted
    else:
        close(again, value[rows])
    close(grads_again, [g[rows] for g in grads])


@cases(lambda c: not c.coupled)
def test_micro_batches_give_the_same(case):
    args = case.draw()
    ones = np.ones(shape_of(case, args))
    value, grads = run(case, args, ones)
    parts = []
    for first in (0, 4):  # twice the same four rows: the shape that is compiled already
        rows = np.tile(np.arange(first, first + 4), 2)
        half, half_grads = run(case, by_rows(case, args, rows), ones)
        parts.append([x[:4] for x in [half, *half_grads]])
    for left, right, whole in zip(*parts, [value, *grads], strict=True):
        close(np.concatenate([left, right]), whole)


@ALL
@pytest.mark.parametrize("size", [1.0, 300.0])
def test_bf16_at_extreme_values_is_finite(case, size):
    args = [
        jnp.asarray(x * (size if kind in LARGE else 1), jnp.bfloat16) if x.dtype.kind == "f" else x
        for kind, x in zip(case.args.values(), case.draw(), strict=True)
    ]
    shape = jax.eval_shape(case.call, *args)
    assert shape.dtype == jnp.float32
    # The cast comes first, so bf16 numbers given as fp32 take the same path: no second compilation.
    value, grads = run(case, args, np.ones(shape.shape))
    assert all(np.all(np.isfinite(x)) for x in [value, *grads])


COUPLED = {c.name for c in table.CASES if c.coupled}
ON_DEVICES = COUPLED | {"dpo", "plackett_luce", "ppo_clip", "gspo", "gae", "generalised_jsd"}


@ALL
def test_mesh_changes_nothing(case):
    """Every loss is traced with its axes over 8 devices, where wrong ones raise; some are run."""
    if jax.device_count() < 8:
        pytest.skip("needs 8 devices")
    args = [x.astype(np.float32) if x.dtype.kind == "f" else x for x in case.draw()]
    mesh = jax.make_mesh((4, 2), ("data", "seq"), axis_types=(jax.sharding.AxisType.Explicit,) * 2)
    with jax.set_mesh(mesh):
        spread = []
        for kind, x in zip(case.args.values(), args, strict=True):
            over = ("data", "seq")[: x.ndim] if x.shape[1:2] == (table.T,) else ("data",)[: x.ndim]
            spread.append(jax.device_put(x, jax.P(*(() if kind == "K" else over))))
        fn = jax.jit(case.value_and_grads)
        if case.name not in ON_DEVICES:
            fn.trace(spread, 1.0)
            return
        value_mesh, grads_mesh = fn(spread, 1.0)
    value, grads = run(case, args, np.ones(shape_of(case, args)))
    close((value_mesh, grads_mesh), (value, grads), 1e-5)


BAD = [
    ("beta", 0.0),
    ("beta", -0.1),
    ("beta", float("nan")),
    ("label_smoothing", 0.5),
    ("label_smoothing", -0.1),
    ("flip_rate", 0.5),
    ("clip_low", 0.0),
    ("clip_high", float("inf")),
    ("fraction", 1.5),
    ("alpha", float("nan")),
    ("target_margin", -1.0),
    ("discount", 1.1),
    ("decay", -0.1),
    ("maximum", 0.5),
]


LEGAL = {("generalised_jsd", 0.0), ("nash_md", 0.0), ("smoothed_nll", 0.5)}


@ALL
def test_bad_arguments_are_named(case):
    args = case.draw()
    call = getattr(losses, case.name)
    for name, value in BAD:
        if name in case.kwargs and (case.name, value) not in LEGAL:
            kwargs = {**case.kwargs, name: value}
            with pytest.raises(ValueError, match=f"{name} must be"):
                jax.eval_shape(lambda *a, k=kwargs: call(*a, **k), *args)
    first = next(iter(case.args))
    with pytest.raises(ValueError, match=f"({first}|mask) must"):
        jax.eval_shape(lambda *a: call(*a, **case.kwargs), args[0][..., None, None], *args[1:])
    if len(args) > 1:
        short = [args[0][:-1], *args[1:]]
        with pytest.raises(ValueError, match="must have shape"):
            jax.eval_shape(lambda *a: call(*a, **case.kwargs), *short)
    if "mask" in case.args:
        place = list(case.args).index("mask")
        wrong = [*args[:place], args[place] * 2, *args[place + 1 :]]
        with pytest.raises(ValueError, match="mask must hold only 0 and 1"):
            call(*wrong, **case.kwargs)


def test_table_is_complete():
    elsewhere = {
        "adaptive_kl", "best_of_n_kl", "clipped_surrogate", "clip_cov", "geometric_mixture",
        "alpha_divergence", "forward_kl_divergence", "js_divergence", "reverse_kl_divergence",
        "implicit_reward", "is_informative", "kto_reference_point", "margin", "mix",
        "preference_accuracy", "running_mean", "soft_update", "top_fraction", "udm_weight",
        "above_quantile", "with_tail", "row_mean", "row_sum", "row_fixed", "token_mean",
        "group_mean", "maximin_weights",
    }  # fmt: skip
    tiled = {f"alignjax.losses.{name}" for name in ("logprobs", "tiled_divergence", "top_k")}
    functions = {n for n in losses.__all__ if getattr(losses, n).__module__ not in tiled}
    assert functions - elsewhere == {case.name for case in table.CASES}
