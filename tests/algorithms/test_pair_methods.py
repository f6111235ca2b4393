"""The losses on pairs that `dpo` trains with: every preset's, by name, with its own numbers."""

import dataclasses

import jax
import numpy as np
import pytest

from alignjax import compat
from alignjax.algorithms import dpo
from alignjax.models import transformer
from alignjax.training import update
from tests.training import tiny

# Losses on pairs that read nothing but pairs; the others need arrays of their own.
TRAINABLE = {
    "paper": (
        "dpo dpo_norm robust_dpo hinge ipo exo_pair discopop nca_pair sppo_hard apo_zero apo_down "
        "dpop r_dpo aot aot_unpaired orpo simpo alphapo cpo"
    ),
    "trl-1.16": (
        "dpo dpo_norm robust_dpo hinge ipo exo_pair discopop nca_pair bco_pair sppo_hard apo_zero "
        "apo_down aot aot_unpaired chosen_nll cpo simpo alphapo"
    ),
    "trl-0.28": (
        "dpo robust_dpo hinge ipo exo_pair discopop nca_pair sppo_hard apo_zero apo_down aot "
        "aot_unpaired chosen_nll"
    ),
    "openrlhf-0.11": "dpo ipo",
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


@pytest.mark.parametrize(("preset", "method"), [c for c in CASES if c[1] in dpo.FIRST])
def test_known_first_losses_are_those_of_equal_policies(preset, method):
    config = dpo.DpoConfig(method=method, compat=preset)
    found = [float(config.loss(dpo.same_policies(seed))[method].value) for seed in range(3)]
    np.testing.assert_allclose(found, dpo.first_loss(config), rtol=1e-6)


def test_what_weighs_pairs_by_the_policy_has_no_known_first_loss():
    assert dpo.first_loss(dpo.DpoConfig(wpo=True)) is None
    assert dpo.first_loss(dpo.DpoConfig(compat="trl-0.28", nll_weight=1.0)) is None


def test_dpo_of_the_paper_is_the_default():
    assert dpo.DpoConfig().formula() == dpo.DpoConfig(method="dpo", compat="paper").formula()
    assert "beta=0.1" in dpo.DpoConfig().formula()
    assert "beta=0.3" in dpo.DpoConfig(beta=0.3).formula()


@pytest.mark.parametrize(
    ("changes", "message"),
    [
        ({"compat": "trl-1.6"}, "compat must be one of .*Did you mean 'trl-1.16'"),
        ({"method": "dopo"}, "method of paper must be one of .*Did you mean"),
        ({"method": "ipo", "label_smoothing": 0.1}, "option of paper ipo must be one of"),
        ({"method": "grpo"}, "logprobs must be among the arrays of paper grpo|method of paper"),
        ({"method": "bco_pair"}, "shift must be among the arrays of paper bco_pair"),
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
        before, after = (float(config.loss(x)["dpo"].value) for x in (arrays, moved))
        assert (before != after) == changes
