"""Recipes of preference losses: what holds for all of them, and why some differ from their code."""

import math

import jax
import numpy as np
import pytest

from alignjax import compat, losses

RECIPES = {
    preset: {
        name: recipe
        for name, recipe in recipes.items()
        if recipe.table in ("pairs", "unpaired") and "scores" not in recipe.reads
    }
    for preset, recipes in compat.PRESETS.items()
    if preset in ("paper", "trl-0.28", "trl-1.13", "trl-1.16")
}
ALL = [(preset, method) for preset, recipes in RECIPES.items() for method in recipes]
# The papers' formulas in the quick tests; the releases compute with the same functions.
EVERY = pytest.mark.parametrize(
    ("preset", "method"),
    [pytest.param(p, m, marks=[] if p == "paper" else pytest.mark.slow) for p, m in ALL],
    ids=lambda x: x,
)
SORTED = {"aot", "aot_unpaired"}
# Options away from their defaults, where a recipe has them, that switch parts of a loss on.
ON = {"wpo": True, "ld_alpha": 0.3, "udm": True, "nll_weight": 0.7, "divergence": "js"}
B, T = 6, 7
TEXTS = ("chosen_", "rejected_", "gold_", "", "mismatched_")
LOG2 = math.log(2)


def draw(seed: int = 0) -> dict[str, np.ndarray]:
    """Every array that a preference recipe reads."""
    rng = np.random.default_rng(seed)
    slots = np.arange(T)[None]
    start = rng.integers(0, T - 1, B)[:, None]
    arrays: dict[str, np.ndarray] = {
        "desirable": np.array([1, 0, 0, 1, 1, 0]),
        "desirable_probability": rng.uniform(0.1, 0.9, B),
        "reference_point": np.float32(0.2),
        "shift": np.float32(0.1),
    }
    for text in TEXTS:
        end = start + rng.integers(1, T - start[:, 0] + 1)[:, None]
        logprobs = -rng.exponential(1.0, (B, T)) - 0.01
        arrays |= {
            f"{text}mask": ((slots >= start) & (slots < end)).astype(int),
            f"{text}sequence_mask": (slots < end).astype(int),
            f"{text}logprobs": logprobs.astype(np.float32),
            f"reference_{text}logprobs": (logprobs + 1.5 * rng.normal(size=(B, T))).astype(
                np.float32
            ),
            f"{text}sum_p2": rng.uniform(0.1, 0.9, (B, T)).astype(np.float32),
        }
    return arrays


def rows(arrays: dict, chosen: np.ndarray) -> dict:
    return {name: x[chosen] if np.ndim(x) else x for name, x in arrays.items()}


def variants(recipe: compat.Recipe) -> list[dict]:
    """No options, and each part of the loss that options switch on."""
    return [{}, *[{name: ON[name]} for name in recipe.defaults if name in ON]]


def values(terms: dict) -> dict[str, float]:
    return {name: float(term.value) for name, term in terms.items()}


@EVERY
def test_pure_under_jit_with_finite_gradients(preset, method):
    recipe, arrays = compat.recipe(preset, method), draw()
    floats = {k: v for k, v in arrays.items() if v.dtype.kind == "f"}

    def total(floats):
        terms = recipe({**arrays, **floats})
        return sum(term.value for term in terms.values()), values_of(terms)

    def values_of(terms):
        return {name: term.value for name, term in terms.items()}

    (_, first), gradients = jax.jit(jax.value_and_grad(total, has_aux=True))(floats)
    eager = values(recipe(arrays))
    assert values(recipe(arrays)) == eager
    for name, value in first.items():
        assert float(value) == pytest.approx(eager[name], rel=1e-6)
    assert all(np.all(np.isfinite(g)) for g in gradients.values())
    moved = {k for k, g in gradients.items() if np.any(np.asarray(g) != 0)}
    assert moved, "no input has a gradient"
    assert all(k.endswith("logprobs") and not k.startswith("reference") for k in moved)
    for name in moved:  # no token outside the answers has any
        text = name.removesuffix("logprobs")
        read = arrays[f"{text}sequence_mask" if method == "orpo" else f"{text}mask"]
        assert np.all(np.asarray(gradients[name])[read == 0] == 0)


@EVERY
def test_micro_batches_join_to_the_batch(preset, method):
    """All but losses that sort the whole batch."""
    recipe, arrays = compat.recipe(preset, method), draw()
    for options in variants(recipe):
        whole = values(recipe(arrays, **options))
        parts = [recipe(rows(arrays, part), **options) for part in np.split(np.arange(B), 3)]
        joined = {name: parts[0][name] + parts[1][name] + parts[2][name] for name in parts[0]}
        agrees = values(joined) == pytest.approx(whole, rel=2e-6)
        assert agrees != (method in SORTED), options


@EVERY
def test_masked_pairs_and_answers_are_as_if_absent(preset, method):
    recipe, arrays = compat.recipe(preset, method), draw()
    keep = np.array([1, 0, 1, 1, 0, 1])
    masked = {**arrays, "pair_mask": keep, "answer_mask": keep}
    for name, x in arrays.items():
        if name.endswith("logprobs"):
            masked[name] = np.where(keep[:, None] == 1, x, np.nan)
    for options in variants(recipe):
        cut = values(recipe(rows(arrays, keep == 1), **options))
        assert values(recipe(masked, **options)) == pytest.approx(cut, rel=2e-6), options


def test_kto_estimates_its_reference_point_from_the_answers_that_count():
    recipe, arrays = compat.recipe("paper", "kto"), draw()
    del arrays["reference_point"]
    keep = np.array([1, 0, 1, 1, 0, 1])
    arrays["reference_mismatched_logprobs"] -= 1.0  # z0 > 0
    cut = rows(arrays, keep == 1)
    difference = cut["mismatched_logprobs"] - cut["reference_mismatched_logprobs"]
    z0 = np.mean(np.sum(difference * cut["mismatched_mask"], axis=1))
    assert z0 > 0.5
    wanted = values(recipe({**cut, "reference_point": np.float32(z0)}))
    assert values(recipe({**arrays, "answer_mask": keep})) == pytest.approx(wanted, rel=1e-5)


def exo(e: float) -> float:
    return math.log(0.5) - 0.5 * math.log(1 - e) - 0.5 * math.log(e)


# Where policy and reference agree (and shift and z0 are 0), each with its own defaults.
FIRST = {
    "dpo_davidson": np.log(3),
    "dpo_rao_kupper": np.log1p(np.exp(0.5)),
    "dpo_rater_noise": LOG2,
    "dpo": LOG2, "dpo_norm": LOG2, "robust_dpo": LOG2, "hinge": 1.0, "exo_pair": exo(1e-3),
    "discopop": 0.5 * LOG2 + 0.5, "nca_pair": 2 * LOG2, "bco_pair": 2 * LOG2, "apo_zero": 1.0,
    "apo_down": 1.0, "dpop": LOG2, "aot": LOG2, "aot_unpaired": LOG2, "kto": 0.5,
    "apo_zero_unpaired": 0.5, "online_dpo": LOG2,
}  # fmt: skip


@EVERY
def test_first_loss_where_policy_and_reference_agree(preset, method):
    recipe, arrays = compat.recipe(preset, method), draw()
    for text in TEXTS:
        arrays[f"reference_{text}logprobs"] = arrays[f"{text}logprobs"]
    arrays["shift"] = arrays["reference_point"] = np.float32(0)
    beta = recipe.defaults.get("beta", 0.1)
    first = {
        **FIRST,
        "ipo": 0.25 / beta**2,
        "online_ipo": 0.25 / beta**2,
        "sppo_hard": 0.5 / beta**2,
        "bco": 2 * LOG2 if preset == "paper" else LOG2,
    }
    if method not in first:
        assert method in {"r_dpo", *REFERENCE_FREE}  # they have tests of their own
        return
    result = values(recipe(arrays))
    assert sum(result.values()) == pytest.approx(first[method], rel=1e-6)


# Without a reference: where chosen, rejected and gold answer have probability e^-0.5 per token, of
# 2 tokens. Per preset and method, with its defaults.
REFERENCE_FREE = {
    "chosen_nll": 0.5,
    "orpo": 0.5 + 0.1 * LOG2,
    "cpo": LOG2 + 0.5,
    "cpo_hinge": 1.5,
    "cpo_ipo": 25.5,
    "simpo": math.log1p(math.exp(0.5)) + 0.5,
    "alphapo": math.log1p(math.exp(0.5)),
    "tpo": LOG2 + 0.5,
    "tpo_hinge": 1.5,
    "tpo_ipo": 2500.5,
    "tpo_l": math.log1p(math.exp(0.5)) + 0.5,
    "slic": 1.5,
}
PER_ANSWER = {  # papers sum the NLL over an answer's tokens, or have none
    "cpo": LOG2 + 1.0,
    "tpo": LOG2 + 1.0,
    "slic": 1.0 + 0.5 * 1.0,
    "simpo": math.log1p(math.exp(1.375)),
    "alphapo": math.log1p(math.exp(0.25)),
}


@pytest.mark.parametrize(
    ("preset", "method"), [(p, m) for p, m in ALL if m in REFERENCE_FREE], ids=lambda x: x
)
def test_first_loss_of_equal_answers_without_a_reference(preset, method):
    arrays = draw()
    for text in TEXTS:
        arrays[f"{text}logprobs"] = np.full((B, T), -0.5, np.float32)
        arrays[f"{text}mask"] = np.array([[0, 1, 1, 0, 0, 0, 0]] * B)
    wanted = {**REFERENCE_FREE, **(PER_ANSWER if preset == "paper" else {})}[method]
    result = sum(values(compat.recipe(preset, method)(arrays)).values())
    assert result == pytest.approx(wanted, rel=1e-6)


def test_r_dpo_starts_from_the_lengths():
    arrays = draw()
    for side in ("chosen_", "rejected_"):
        arrays[f"reference_{side}logprobs"] = arrays[f"{side}logprobs"]
    longer = (arrays["chosen_mask"].sum(1) - arrays["rejected_mask"].sum(1)) * 0.01
    result = values(compat.recipe("paper", "r_dpo")(arrays))["loss"]
    assert result == pytest.approx(float(np.mean(np.log1p(np.exp(-longer)))), rel=1e-6)


BETA = {"beta": 0.3}
ALONE = {**BETA, "nll_weight": 0.0}
SMOOTH = {**BETA, "label_smoothing": 0.2}
SAME = [  # two recipes with the same formula, and options for each
    *[
        (("paper", method, {**BETA, **options}), ("trl-1.16", method, {**BETA, **options}))
        for method, options in [
            ("dpo", {}), ("dpo", {"divergence": "js"}), ("dpo", {"wpo": True}),
            ("dpo", {"ld_alpha": 0.3}), ("dpo_norm", {}), ("hinge", {}), ("exo_pair", {}),
            ("robust_dpo", {"flip_rate": 0.2}), ("discopop", {}), ("nca_pair", {}),
            ("sppo_hard", {}), ("apo_zero", {}), ("apo_down", {}), ("aot", {}),
            ("aot_unpaired", {}), ("kto", {"undesirable_weight": 0.5}), ("apo_zero_unpaired", {}),
        ]
    ],
    *[
        (("paper", method, {**BETA, **options}), ("trl-1.16", method, {**BETA, **options, **off}))
        for method, options, off in [
            ("simpo", {"target_margin": 0.4}, {"nll_weight": 0.0}),
            ("alphapo", {"target_margin": 0.4, "alpha": 0.3}, {}),
        ]
    ],
    (("paper", "cpo", ALONE), ("trl-1.16", "cpo", ALONE)),
    (("paper", "tpo", ALONE), ("trl-1.16", "tpo", ALONE)),
    (("paper", "ipo", BETA), ("trl-1.16", "online_ipo", BETA)),
    (("paper", "dpo", SMOOTH), ("trl-0.28", "dpo", SMOOTH)),
    (("paper", "bco_pair", BETA), ("trl-0.28", "bco_pair", BETA)),
    (("trl-1.16", "ipo", BETA), ("trl-0.28", "ipo", BETA)),
]  # fmt: skip


@pytest.mark.parametrize(("one", "other"), SAME, ids=lambda x: f"{x[0]}-{x[1]}")
def test_recipes_with_one_formula_agree(one, other):
    """So what was compared with a release holds for the paper's formula too."""
    result = [values(compat.recipe(p, m)(draw(), **options)) for p, m, options in (one, other)]
    assert result[0] == pytest.approx(result[1], rel=1e-6)


def test_recipes_with_one_name_and_two_formulas_differ():
    for method, presets in {"ipo": ("paper", "trl-1.16"), "cpo": ("paper", "trl-1.16")}.items():
        result = [values(compat.recipe(preset, method)(draw(), beta=0.3)) for preset in presets]
        assert abs(sum(result[0].values()) - sum(result[1].values())) > 0.1


def test_bco_of_the_paper_has_a_mean_for_each_kind():
    arrays = draw()
    arrays["desirable"] = np.array([1, 0, 0, 1, 0, 0])
    # Nobody asks how desirable the prompts of desirable answers are.
    arrays["desirable_probability"] = np.where(arrays["desirable"], np.nan, 0.7)
    for options in ({}, {"udm": True}):
        paper = compat.recipe("paper", "bco")(arrays, beta=0.3, **options)
        trl = compat.recipe("trl-1.13", "bco")(arrays, beta=0.3, **options)
        assert [float(term.weight) for term in paper.values()] == [2, 4]
        both = paper["desirable"].total + paper["undesirable"].total
        assert float(both) / B == pytest.approx(float(trl["loss"].value), rel=1e-6)


@pytest.mark.parametrize(("preset", "maximum"), [("paper", np.inf), ("trl-0.28", 1.0)])
def test_wpo_weights_have_a_maximum_in_trl_0_28_only(preset, maximum):
    arrays = draw()
    weights = 1.0
    for side in ("chosen_", "rejected_"):
        relative = arrays[f"{side}logprobs"] - np.log(arrays[f"{side}sum_p2"])
        count = arrays[f"{side}mask"].sum(1)
        weights = weights * np.exp((relative * arrays[f"{side}mask"]).sum(1) / count)
    assert weights.min() < 1 < weights.max()
    singles = [
        values(compat.recipe(preset, "hinge")(rows(arrays, np.array([i])), beta=0.3))["loss"]
        for i in range(B)
    ]
    result = values(compat.recipe(preset, "hinge")(arrays, beta=0.3, wpo=True))["loss"]
    assert result == pytest.approx(np.mean(np.minimum(weights, maximum) * singles), rel=1e-5)


def test_every_pair_loss_has_the_formula_of_a_paper():
    wanted = {
        "dpo", "robust_dpo", "hinge", "ipo", "exo_pair", "nca_pair", "bco_pair", "sppo_hard",
        "apo_zero", "apo_down", "discopop", "dpop", "r_dpo", "aot", "aot_unpaired", "kto", "bco",
        "apo_zero_unpaired", "orpo", "simpo", "alphapo", "cpo", "tpo",
    }  # fmt: skip
    assert wanted <= set(losses.__all__)
    assert wanted <= set(RECIPES["paper"])


@EVERY
def test_formula_and_echo_name_every_option(preset, method):
    recipe = compat.recipe(preset, method)
    assert "mean over" in recipe.formula
    echo = recipe.echo()
    assert echo.startswith(f"{preset} {method}: ")
    assert all(f"{name}=" in echo for name in recipe.defaults)


@EVERY
def test_unknown_options_are_named(preset, method):
    recipe = compat.recipe(preset, method)
    if not recipe.defaults:
        with pytest.raises(ValueError, match=f"option of {preset} {method} must be one of"):
            recipe(draw(), bete=0.1)
        return
    known = next(iter(recipe.defaults))
    with pytest.raises(ValueError, match=f"got '{known}x'. Did you mean '{known}'"):
        recipe(draw(), **{f"{known}x": 1.0})


@EVERY
def test_missing_arrays_are_named(preset, method):
    recipe, arrays = compat.recipe(preset, method), draw()
    missing = "logprobs" if method in {"kto", "apo_zero_unpaired", "bco"} else "chosen_logprobs"
    del arrays[missing]
    with pytest.raises(ValueError, match=f"^{missing} must be among the arrays of {recipe.name};"):
        recipe(arrays)


@pytest.mark.parametrize(
    ("preset", "method", "options", "message"),
    [
        ("trl-1.61", "dpo", {}, "compat must be one of .*'trl-1.61'. Did you mean 'trl-1.16'"),
        ("paper", "dop", {}, "method of paper must be one of .*Did you mean 'd"),
        ("trl-1.16", "dpop", {}, "method of trl-1.16 must be one of .*got 'dpop'"),
        ("paper", "dpo", {"divergence": "jss"}, "divergence must be one of .*mean 'js'"),
        ("trl-0.28", "dpo", {"divergence": "forward_kl"}, "divergence must be one of"),
        ("trl-0.28", "dpo", {"wpo": True, "nll_weight": 1.0}, "nll_weight must be 0 with wpo"),
        ("paper", "dpo", {"beta": 0.0}, "beta must be finite and > 0"),
        ("paper", "exo_pair", {"label_smoothing": 0.0}, "label_smoothing must be finite and > 0"),
        ("trl-1.16", "cpo", {"nll_weight": -1.0}, "nll_weight must be finite and >= 0"),
        ("trl-1.16", "orpo", {"ratio_weight": -1.0}, "ratio_weight must be finite and >= 0"),
        ("paper", "bco", {"udm": True, "minimum_weight": 0.0}, "minimum must be finite and > 0"),
    ],
)
def test_bad_choices_are_named(preset, method, options, message):
    with pytest.raises(ValueError, match=message):
        compat.recipe(preset, method)(draw(), **options)


def test_trl_0_28_exo_pair_without_smoothing_uses_one_thousandth():
    recipe, arrays = compat.recipe("trl-0.28", "exo_pair"), draw()
    assert values(recipe(arrays)) == values(recipe(arrays, label_smoothing=1e-3))
    assert values(recipe(arrays)) != values(recipe(arrays, label_smoothing=1e-2))
