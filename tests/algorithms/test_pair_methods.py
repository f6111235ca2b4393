"""The losses on pairs that `dpo` trains with: every preset's, by name, with its own numbers."""

import dataclasses
import math

import jax
import numpy as np
import pytest

from alignjax import compat
from alignjax.algorithms import dpo
from alignjax.core import struct
from alignjax.models import transformer
from alignjax.training import annotation, loop, update
from tests.training import tiny

LOG_2 = math.log(2)
# Losses on pairs that read nothing but pairs; the others need arrays of their own.
TRAINABLE = {
    "paper": (
        "dpo dpo_norm robust_dpo hinge ipo exo_pair discopop nca_pair bco_pair sppo_hard apo_zero "
        "apo_down dpop r_dpo aot aot_unpaired orpo simpo alphapo cpo slic tpo tpo_l "
        "dpo_davidson dpo_rao_kupper dpo_rater_noise"
    ),
    "trl-1.16": (
        "dpo dpo_norm robust_dpo hinge ipo exo_pair discopop nca_pair bco_pair sppo_hard apo_zero "
        "apo_down aot aot_unpaired chosen_nll cpo cpo_hinge cpo_ipo simpo alphapo orpo online_dpo "
        "online_ipo tpo tpo_hinge tpo_ipo tpo_l"
    ),
    "trl-0.28": (
        "dpo robust_dpo hinge ipo exo_pair discopop nca_pair bco_pair sppo_hard apo_zero apo_down "
        "aot aot_unpaired chosen_nll"
    ),
    "openrlhf-0.11": "dpo ipo",
    "tunix-0.1.7": "dpo orpo",
}
CASES = [(preset, method) for preset, names in TRAINABLE.items() for method in names.split()]


@pytest.mark.parametrize(("preset", "method"), CASES)
def test_the_config_resolves_and_names_its_numbers(preset, method):
    config = dpo.DpoConfig(method=method, compat=preset)
    config.validate()
    defaults = compat.PRESETS[preset][method].defaults
    line = config.formula()
    assert line.startswith(f"{preset} {method}: ")
    for name, value in defaults.items():
        assert name in {f.name for f in dataclasses.fields(config)}
        assert f"{name}={value}" in line


def test_the_cases_are_all_that_fit():
    """Every preset's losses on pairs that read nothing but pairs."""
    for preset in compat.PRESETS:
        fitting = compat.fitting(preset, "pairs", dpo.DpoConfig.WITHOUT)
        assert set(fitting) == set(TRAINABLE.get(preset, "").split())


# The loss where policy and reference agree, by hand.
FIRST = {
    "ipo": lambda beta, **_: 0.25 / beta**2,
    "hinge": lambda target_margin=1.0, **_: target_margin,
    "sppo_hard": lambda beta, **_: 0.5 / beta**2,
    "nca_pair": lambda **_: 2.0 * LOG_2,
    "bco_pair": lambda **_: 2.0 * LOG_2,
    "apo_zero": lambda **_: 1.0,
    "apo_down": lambda **_: 1.0,
    "discopop": lambda **_: 0.5 * LOG_2 + 0.5,
    "dpo": lambda **_: LOG_2,
    "dpo_norm": lambda **_: LOG_2,
    "robust_dpo": lambda **_: LOG_2,
    "dpo_davidson": lambda tie_strength, **_: math.log(2 + tie_strength),
    "dpo_rao_kupper": lambda threshold, **_: math.log(1 + math.exp(threshold)),
    "dpo_rater_noise": lambda **_: LOG_2,
    "aot": lambda **_: LOG_2,
    "aot_unpaired": lambda **_: LOG_2,
}


@pytest.mark.parametrize(("preset", "method"), [c for c in CASES if c[1] in FIRST])
def test_known_first_losses_are_those_of_equal_policies(preset, method):
    config = dpo.DpoConfig(method=method, compat=preset)
    by_hand = FIRST[method](**config.recipe.options(**config.options))
    for seed in range(3):
        arrays = {**dpo.same_policies(seed), "shift": np.zeros((), np.float32)}
        value, tolerance = dpo.first_loss(config, arrays, rounding=1e-4)
        np.testing.assert_allclose(value, by_hand, rtol=1e-5)
        assert 0 < tolerance < 0.01 * max(value, 1.0)


def test_the_first_loss_is_checked_as_sharply_as_rounding_allows():
    """In bfloat16 too a reference that is off by a fifth of a nat a pair is found."""
    model = transformer.transformer(tiny.shape())._replace(rounding=5e-2)
    method, state, frozen, _ = tiny.ready("dpo", model, beta=0.1)
    batch = {k: jax.numpy.asarray(v) for k, v in tiny.batch("dpo", 0, 64).items()}
    batch |= jax.jit(method.annotate)(frozen, batch)
    (expected,) = method.first(batch).values()
    last = batch["loss_mask"][:, 0].argmax(axis=-1)
    for margin, passes in ((0.0, True), (0.3, False), (-0.3, False), (3.0, False)):
        moved = batch["reference_logprobs"].at[np.arange(64), 0, last].add(margin)
        off = {**batch, "reference_logprobs": moved}
        _, metrics = method.loss(state.params, frozen, off, jax.random.key(0))
        difference = abs(float(metrics["dpo"].value) - expected.value)
        assert (difference <= expected.tolerance) == passes


@pytest.mark.parametrize("options", [{"wpo": True}, {"method": "simpo"}, {"method": "orpo"}])
def test_what_weighs_pairs_by_the_policy_or_has_no_reference_has_no_known_first_loss(options):
    model = transformer.transformer(tiny.shape())
    method, _, frozen, _ = tiny.ready("dpo", model, **{"beta": None, **options})
    batch = {k: jax.numpy.asarray(v) for k, v in tiny.batch("dpo", 0, 8).items()}
    if method.annotate:
        batch |= jax.jit(method.annotate)(frozen, batch)
    assert method.first(batch) == {}


@pytest.mark.parametrize("method", ["simpo", "orpo", "cpo", "alphapo"])
def test_without_a_reference_there_is_no_pass_and_metrics_use_the_methods_own_reward(method):
    model = transformer.transformer(tiny.shape())
    algorithm, state, _, _ = tiny.ready("dpo", model, beta=None, method=method)
    assert algorithm.annotate is None
    assert algorithm.only_annotate == ()
    batch = {k: jax.numpy.asarray(v) for k, v in tiny.batch("dpo", 0, 8).items()}
    _, metrics = algorithm.loss(state.params, {}, batch, jax.random.key(0))
    stats, _ = dpo.answer_stats(model, state.params, batch)
    mask = np.asarray(batch["loss_mask"])
    sums = np.sum(np.where(mask, stats.logprob, 0), axis=-1)
    means = sums / mask.sum(axis=-1)
    by_hand = {
        "simpo": 2.5 * means,
        "cpo": 0.1 * sums,
        "alphapo": 2.5 * (1 - np.exp(-0.25 * means)) / 0.25,
        "orpo": means - np.log1p(-np.exp(means)),
    }[method]
    np.testing.assert_allclose(metrics["chosen_reward"].value, by_hand[:, 0].mean(), rtol=1e-4)
    margin = by_hand[:, 0] - by_hand[:, 1]
    np.testing.assert_allclose(metrics["margin"].value, margin.mean(), rtol=1e-3)
    np.testing.assert_allclose(metrics["accuracy"].value, (margin > 0).mean(), rtol=1e-6)


def test_the_answer_to_imitate_is_the_one_that_the_table_names():
    """SLiC of three answers: a hinge of the first two, and the likelihood of the third."""
    model = transformer.transformer(tiny.shape())
    method, state, _, _ = tiny.ready("dpo", model, beta=None, method="slic")
    pairs, more = (tiny.batch("dpo", step, 4) for step in (0, 1))
    table = {name: np.concatenate([x, more[name][:, :1]], axis=1) for name, x in pairs.items()}
    gold = np.array([2, 2, -1, 2], np.int32)
    table |= {"demonstration": gold, "pair_mask": np.ones((4, 1), bool)}
    table["preferred"] = np.tile(np.array([0, 1], np.int32), (4, 1, 1))
    assert method.columns == ("demonstration",)
    batch = {name: jax.numpy.asarray(x) for name, x in table.items()}
    _, metrics = jax.jit(method.loss)(state.params, {}, batch, jax.random.key(0))
    stats, _ = dpo.answer_stats(model, state.params, batch)
    sums = np.sum(np.where(table["loss_mask"], stats.logprob, 0), axis=-1)
    hinge = np.maximum(0, 1 - sums[:, 0] + sums[:, 1])
    by_hand = hinge - 0.5 * np.where(gold >= 0, sums[:, 2], 0)
    np.testing.assert_allclose(metrics["slic"].value, by_hand.mean(), rtol=1e-5)
    del table["demonstration"]
    with pytest.raises(ValueError, match="must have the column demonstration for this loss; got"):
        annotation.annotated(method, {}, table, 2)


@pytest.mark.parametrize("method", ["aot", "aot_unpaired"])
def test_coupled_losses_refuse_micro_batches(method):
    algorithm = tiny.make("dpo", transformer.transformer(tiny.shape()), method=method)
    with pytest.raises(
        ValueError, match=r"loop.micro_batches must be 1 for a loss that is coupled"
    ):
        loop.check_sizes(
            loop.LoopConfig(micro_batches=2), algorithm.plan, coupled=algorithm.coupled
        )


@pytest.mark.slow
@pytest.mark.parametrize(("preset", "method"), [c for c in CASES if not c[1].startswith("aot")])
def test_micro_batches_change_no_gradient(preset, method):
    """Of every loss on pairs that can be trained, and no metric: of a policy that has moved, since
    at the start every margin is rounding."""
    algorithm, state, frozen, _ = tiny.ready(
        "dpo", transformer.transformer(tiny.shape()), beta=None, compat=preset, method=method
    )
    noise = 0.3 * jax.random.normal(jax.random.key(4), state.params.norm.shape)
    params = struct.replace(state.params, norm=state.params.norm + noise)
    batch = {k: jax.numpy.asarray(v) for k, v in tiny.batch("dpo", 0, 8).items()}
    if algorithm.columns:
        batch["demonstration"] = jax.numpy.asarray([0, 1, -1, 0, 0, -1, 1, 0], np.int32)
    if algorithm.annotate:
        batch |= jax.jit(algorithm.annotate)(frozen, batch)
    state = struct.replace(state, params=params)
    batch, *_ = algorithm.collect(state, frozen, batch, jax.random.key(0))
    whole, parts = (
        jax.jit(update.make_gradients(algorithm.loss, micro_batches=n))(
            params, frozen, batch, jax.random.key(0)
        )
        for n in (1, 4)
    )
    for one, four in zip(jax.tree.leaves(whole[0]), jax.tree.leaves(parts[0]), strict=True):
        size = max(1.0, float(np.max(np.abs(one))))  # SPPO's gradients are in the hundreds
        np.testing.assert_allclose(one, four, rtol=1e-3, atol=1e-5 * size)
    for name, metric in whole[1].items():
        np.testing.assert_allclose(metric.value, parts[1][name].value, rtol=1e-4, atol=1e-6)


def moved(state):
    """The state with a policy that is not its reference."""
    noise = 0.3 * jax.random.normal(jax.random.key(4), state.params.norm.shape)
    params = struct.replace(state.params, norm=state.params.norm + noise)
    return struct.replace(state, params=params)


@pytest.mark.parametrize("preset", ["paper", "trl-0.28"])
def test_the_shift_of_bco_is_the_running_mean_of_all_rewards(preset):
    model = transformer.transformer(tiny.shape())
    changes = {"method": "bco_pair", "compat": preset, "beta": 0.5}
    method, state, frozen, _ = tiny.ready("dpo", model, **changes)
    state = moved(state)
    batch = {k: jax.numpy.asarray(v) for k, v in tiny.batch("dpo", 0, 8).items()}
    batch |= jax.jit(method.annotate)(frozen, batch)
    stats, _ = dpo.answer_stats(model, state.params, batch)
    ratios = np.where(batch["loss_mask"], stats.logprob - batch["reference_logprobs"], 0.0)
    rewards = 0.5 * ratios.sum(axis=-1)  # [8, 2]
    new, carry, metrics = method.collect(state, frozen, batch, jax.random.key(0))
    np.testing.assert_allclose(metrics["shift"].value, rewards.mean(), rtol=1e-4, atol=1e-6)
    terms, _ = method.loss(state.params, frozen, new, jax.random.key(0))
    by_hand = np.log1p(np.exp(rewards.mean() - rewards[:, 0]))
    by_hand = by_hand + np.log1p(np.exp(rewards[:, 1] - rewards.mean()))
    np.testing.assert_allclose(terms["bco_pair"].value, by_hand.mean(), rtol=1e-4)
    # The next batch's mean is joined by its count: here half of the rows.
    half = {name: x[:4] for name, x in batch.items()}
    _, _, metrics = method.collect(
        struct.replace(state, carry=carry), frozen, half, jax.random.key(0)
    )
    both = np.concatenate([rewards, rewards[:4]]).mean()
    np.testing.assert_allclose(metrics["shift"].value, both, rtol=1e-4, atol=1e-6)


def test_a_pair_of_weight_2_moves_the_shift_as_two_pairs_do_and_micro_batches_do_not():
    model = transformer.transformer(tiny.shape())
    config = dpo.DpoConfig(method="bco_pair", beta=0.5)
    method, state, frozen, _ = tiny.ready("dpo", model, method="bco_pair", beta=0.5)
    state = moved(state)
    batch = {k: jax.numpy.asarray(v) for k, v in tiny.batch("dpo", 0, 4).items()}
    batch |= jax.jit(method.annotate)(frozen, batch)
    twice = {name: jax.numpy.concatenate([x, x[:1]]) for name, x in batch.items()}
    weighed = {**batch, "weight": jax.numpy.asarray([2.0, 1.0, 1.0, 1.0])}
    shifts = [
        own.collect(state, frozen, rows, jax.random.key(0))[2]["shift"].value
        for own, rows in (
            (method, twice),
            (method, weighed),
            (dpo.dpo(model, config, micro_batches=2), weighed),
        )
    ]
    np.testing.assert_allclose(shifts, shifts[0], rtol=1e-4)
    plain = method.collect(state, frozen, batch, jax.random.key(0))[2]["shift"].value
    assert abs(float(plain - shifts[0])) > 1e-4


def test_dpo_of_the_paper_is_the_default():
    assert dpo.DpoConfig().formula() == dpo.DpoConfig(method="dpo", compat="paper").formula()
    assert "beta=0.1" in dpo.DpoConfig().formula()
    assert "beta=0.3" in dpo.DpoConfig(beta=0.3).formula()


@pytest.mark.parametrize(
    ("changes", "message"),
    [
        ({"compat": "trl-1.6"}, "compat must be one of .*Did you mean 'trl-1.16'"),
        ({"method": "dopo"}, "method of paper on pairs must be one of .*Did you mean"),
        ({"method": "ipo", "label_smoothing": 0.1}, "option of paper ipo must be one of"),
        ({"method": "grpo"}, "method of paper on pairs must be one of .*It is one on rollouts"),
        ({"method": "bradley_terry"}, "method of paper on pairs must be one of .*It reads scores"),
        ({"divergence": "jss"}, "divergence must be one of .*Did you mean 'js'"),
        ({"beta": 0.0}, "beta must be finite and > 0"),
        ({"beta": float("nan")}, "beta must be finite and > 0"),
        ({"label_smoothing": 0.5}, "label_smoothing must be finite and >= 0 and < 0.5"),
    ],
)
def test_a_bad_config_is_refused_in_one_line(changes, message):
    with pytest.raises(ValueError, match=message) as caught:
        dpo.DpoConfig(**changes).validate()
    assert "\n" not in str(caught.value)


@pytest.mark.parametrize(
    ("preset", "method"),
    [
        ("trl-1.16", "ipo"),
        pytest.param("paper", "simpo", marks=pytest.mark.slow),
        pytest.param("trl-1.16", "dpo_norm", marks=pytest.mark.slow),
        pytest.param("openrlhf-0.11", "dpo", marks=pytest.mark.slow),
    ],
)
def test_a_step_lifts_the_chosen_over_the_rejected(preset, method):
    method, state, frozen, tx = tiny.ready(
        "dpo", transformer.transformer(tiny.shape()), beta=0.5, compat=preset, method=method
    )
    batch = {k: jax.numpy.asarray(v) for k, v in tiny.batch("dpo", 0, 8).items()}
    if method.annotate is not None:  # SimPO has no reference
        batch |= jax.jit(method.annotate)(frozen, batch)
    run = update.make_update(method.loss, tx)
    for step in range(4):
        state, metrics = run(state, frozen, batch, jax.random.key(step))
    assert float(metrics["margin"].value) > 0


def test_common_length_options_reach_the_token_level():
    """LD-DPO at ld_alpha 0 does not see the tail of the longer answer; plain DPO does."""
    arrays = dpo.same_policies(seed=0)
    arrays["chosen_mask"] = np.arange(8) < np.array([[6], [4]])
    arrays["rejected_mask"] = np.arange(8) < np.array([[3], [4]])
    moved = {**arrays, "chosen_logprobs": arrays["chosen_logprobs"] - (np.arange(8) == 5)}
    for ld_alpha, changes in ((0.0, False), (1.0, True)):
        config = dpo.DpoConfig(ld_alpha=ld_alpha)
        before, after = (float(config.terms(x)["dpo"].value) for x in (arrays, moved))
        assert (before != after) == changes
