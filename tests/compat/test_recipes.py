"""What holds for every recipe of every preset: data, reads, weights, micro-batches."""

import fnmatch
import itertools
from collections.abc import Iterator, Mapping

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from alignjax import compat
from alignjax.compat import blocks, vocabulary
from alignjax.compat.blocks import options as settings
from tests.compat import batches

ALL = [(preset, method) for preset, recipes in compat.PRESETS.items() for method in recipes]
LOSSES = [(p, m) for p, m in ALL if compat.PRESETS[p][m].table != "estimates"]
POLICY = {"logprobs", "chosen_logprobs", "rejected_logprobs", "token_logprobs"}
# Tunix's DPO falls back to log-probabilities where the arrays hold no reference.
LENIENT = {("tunix-0.1.7", "dpo", "reference")}
# Where the defaults pick so few tokens that nothing is coupled in a small batch.
COUPLED = {
    "clip_cov": {"fraction": 0.5, "minimum": -9.0, "maximum": 9.0},
    "kl_cov": {"fraction": 0.3},
}


def quick(cases):
    """The papers' recipes in the quick tests; the releases are of the same blocks."""
    return pytest.mark.parametrize(
        ("preset", "method"),
        [pytest.param(p, m, marks=[] if p == "paper" else pytest.mark.slow) for p, m in cases],
        ids=lambda x: x,
    )


def plain(value) -> bool:
    """Made of text, numbers and their containers alone."""
    if isinstance(value, Mapping):
        return all(map(plain, value.values()))
    if isinstance(value, (tuple, frozenset)):
        return all(map(plain, value))
    return value is None or type(value) in (str, int, float, bool)


@pytest.mark.parametrize(("preset", "method"), ALL)
def test_a_recipe_is_data(preset, method):
    recipe = compat.recipe(preset, method)
    assert all(plain(getattr(recipe, name)) for name in recipe.__dataclass_fields__)
    again = eval(repr(recipe), {"Recipe": compat.Recipe, "frozenset": frozenset})
    assert again == recipe
    assert hash(again) == hash(recipe)
    assert recipe.optional <= recipe.reads <= compat.READS.keys()
    assert recipe.table in blocks.COMPUTE


def test_recipes_are_compared_by_all_their_parts():
    ipo = {preset: compat.PRESETS[preset]["ipo"] for preset in ("paper", "trl-1.16", "trl-0.28")}
    assert len(set(ipo.values())) == 3
    assert {p: r.score for p, r in ipo.items()} == {
        "paper": "sum", "trl-1.16": "sum/length", "trl-0.28": "mean"
    }  # fmt: skip
    assert len({r.link for r in ipo.values()}) == 1
    with pytest.raises(ValueError, match=r"reads .* must be one of .*Did you mean 'reference'"):
        compat.Recipe(table="pairs", reads={"referense"}, formula="f", source="s")
    with pytest.raises(ValueError, match=r"table must be one of .*Did you mean 'pairs'"):
        compat.Recipe(table="pair", formula="f", source="s")


@quick(ALL)
def test_every_option_reaches_a_block(preset, method, monkeypatch):
    recipe = compat.recipe(preset, method)
    reached = {"divergence", "reduction", "weight"}  # the composition's own
    reached |= {"length"} if "reduction" in recipe.defaults else set()  # of one reduction
    keep = settings.accepted

    def accepted(block, options):
        reached.update(keep(block, options))
        return keep(block, options)

    monkeypatch.setattr(settings, "accepted", accepted)
    options = batches.required(preset, method)
    recipe(batches.batch(preset, method), **options)
    if recipe.divergences:  # the alpha of one of them
        recipe(batches.batch(preset, method), **options, divergence="alpha")
    assert set(recipe.defaults) <= reached


# --- reads ---
class Recorder(Mapping):
    """Arrays that remember which were asked for."""

    def __init__(self, arrays: dict) -> None:
        self.arrays, self.names = arrays, set()

    def __getitem__(self, name: str):
        self.names.add(name)
        return self.arrays[name]

    def __contains__(self, name: object) -> bool:
        return name in self.arrays

    def __iter__(self) -> Iterator[str]:
        return iter(self.arrays)

    def __len__(self) -> int:
        return len(self.arrays)


def reads_of(name: str) -> set[str]:
    """The words of the vocabulary that an array belongs to."""
    return {
        read
        for read, patterns in compat.READS.items()
        if any(fnmatch.fnmatchcase(name, pattern) for pattern in patterns)
    }


def lacking(arrays: dict, reads) -> dict:
    """The arrays without those of these reads."""
    return {name: x for name, x in arrays.items() if not reads_of(name) & set(reads)}


def test_every_array_is_of_the_policy_a_mask_or_in_the_vocabulary():
    arrays = batches.batch("paper", "dpo") | batches.batch("paper", "gdpo")
    arrays |= batches.batch("paper", "all_pairs") | batches.batch("paper", "process_reward")
    for name in arrays:
        assert name in POLICY or name.endswith("mask") or reads_of(name), name
    covered = set().union(*map(reads_of, arrays))
    assert covered == compat.READS.keys()
    assert vocabulary.SWITCHES.keys() <= compat.READS.keys()


@quick(ALL)
def test_reads_are_what_is_read(preset, method):
    """Over all options that switch a part on, no more and no less."""
    recipe, arrays = compat.recipe(preset, method), batches.batch(preset, method)
    touched = set()
    for options in batches.variants(preset, method, recipe.defaults):
        for dropped in ((), ("reference_point",), ("sampler",)):
            recorder = Recorder(lacking(arrays, set(dropped) & recipe.optional))
            recipe(recorder, **options)
            touched |= recorder.names
            allowed = recipe.needs(**options) | recipe.optional
            for name in recorder.names - POLICY:
                assert not reads_of(name) or reads_of(name) & allowed, (options, name)
    assert recipe.reads <= set().union(*map(reads_of, touched))
    assert all(reads_of(n) & recipe.reads or n in POLICY or n.endswith("mask") for n in touched)


@quick(ALL)
def test_what_is_needed_suffices_and_nothing_of_it_can_be_left_out(preset, method):
    recipe, arrays = compat.recipe(preset, method), batches.batch(preset, method)
    for options in batches.variants(preset, method, recipe.defaults):
        needs = recipe.needs(**options)
        assert needs <= recipe.reads - recipe.optional
        enough = lacking(arrays, compat.READS.keys() - needs)
        enough |= {n: x for n, x in arrays.items() if reads_of(n) & needs}
        recipe(enough, **options)
        for read in needs:
            if (preset, method, read) in LENIENT:
                continue
            with pytest.raises(ValueError, match="must be among the arrays of"):
                recipe(lacking(enough, {read}), **options)


def test_options_narrow_what_is_needed():
    dpo = compat.recipe("paper", "dpo")
    assert dpo.reads == {"reference", "sum_p2"}
    assert dpo.needs() == {"reference"}
    assert dpo.needs(wpo=True) == {"reference", "sum_p2"}
    smoothed = compat.recipe("paper", "smoothed_nll")
    assert smoothed.needs() == {"logsumexp", "mean_logit"}
    assert smoothed.needs(label_smoothing=0.0) == set()
    assert compat.recipe("paper", "z_loss").needs() == {"logsumexp"}
    slic = compat.recipe("paper", "slic")
    assert (slic.needs(), slic.needs(nll_weight=0.0)) == ({"gold"}, set())
    grpo = compat.recipe("trl-1.16", "grpo")
    assert grpo.needs() == {"advantages"}
    assert grpo.needs(kl_weight=0.1, entropy_share=0.5) == {"advantages", "reference", "entropy"}
    kto = compat.recipe("paper", "kto")
    assert kto.reads >= {"mismatched", "reference_point"}
    assert kto.needs() == {"reference", "desirable", "mismatched"}
    bco = compat.recipe("paper", "bco")
    assert bco.needs() == {"reference", "desirable", "shift"}
    assert bco.needs(udm=True) == bco.reads
    assert compat.recipe("paper", "simpo").reads == set()
    assert compat.recipe("tunix-0.1.7", "dpo").needs() == {"reference"}
    assert compat.recipe("paper", "bradley_terry").optional == {"margin"}
    with pytest.raises(ValueError, match="option of paper dpo must be one of"):
        dpo.needs(wop=True)


# --- weights and micro-batches ---
@quick(LOSSES)
def test_weights_are_of_masks_alone(preset, method):
    recipe, one = compat.recipe(preset, method), batches.batch(preset, method, seed=0)
    other = batches.batch(preset, method, seed=1)
    moved = {n: other[n] if x.dtype == np.float32 else x for n, x in one.items()}
    for options in batches.variants(preset, method, recipe.defaults):
        terms = recipe(one, **options), recipe(moved, **options)
        assert terms[0].keys() == terms[1].keys()
        weights = [[float(term.weight) for term in t.values()] for t in terms]
        assert weights[0] == weights[1]
        values = [sum(float(term.value) for term in t.values()) for t in terms]
        assert values[0] != values[1]


def in_parts(recipe, arrays: dict, options: dict, parts: int) -> tuple[float, dict]:
    """(value, gradients) of the sum over row-parts of totals over the whole batch's weights."""
    floats = {n: x for n, x in arrays.items() if x.dtype == np.float32}
    size = batches.ROWS // parts

    def rows(x, start):
        is_row = np.ndim(x) and np.shape(x)[0] == batches.ROWS
        return x[start : start + size] if is_row else x

    def objective(floats):
        whole = {**arrays, **floats}
        pieces = [
            recipe({n: rows(x, start) for n, x in whole.items()}, **options)
            for start in range(0, batches.ROWS, size)
        ]
        weights = {n: sum(piece[n].weight for piece in pieces) for n in pieces[0]}
        return sum(
            piece[n].total / jnp.maximum(weights[n], 1e-8) for piece in pieces for n in weights
        )

    return jax.value_and_grad(objective)(floats)


def distance(one: tuple, other: tuple) -> float:
    """The largest difference of value and gradients, relative to the largest entry.

    A value near 0 is one of terms of order 1 that cancel: it is held to fp32's rounding of 0.1.
    """
    gradients = [(one[1][name], other[1][name], 1e-3) for name in one[1]]
    return max(
        np.abs(np.asarray(x) - np.asarray(y)).max() / max(np.abs(np.asarray(x)).max(), least)
        for x, y, least in [(one[0], other[0], 0.1), *gradients]
    )


@quick(LOSSES)
def test_micro_batches_are_one_batch_unless_rows_are_coupled(preset, method):
    recipe, arrays = compat.recipe(preset, method), batches.batch(preset, method)
    counted = np.arange(batches.ROWS) != 5  # so that parts weigh unlike
    arrays |= {"pair_mask": counted, "answer_mask": counted}
    arrays["mask"] = arrays["mask"] * counted[:, None]
    options = {**batches.required(preset, method), **COUPLED.get(method, {})}
    assert recipe.couples(arrays, **options) == recipe.coupled
    gap = distance(in_parts(recipe, arrays, options, 1), in_parts(recipe, arrays, options, 4))
    assert gap > 1e-3 if recipe.coupled else gap <= 1e-6


@pytest.mark.parametrize(
    ("method", "dropped", "options"),
    [("kto", {"reference_point"}, {}), ("dapo", set(), {"entropy_share": 0.5})],
)
def test_rows_that_arrays_or_options_couple(method, dropped, options):
    recipe = compat.recipe("trl-1.16", method)
    arrays = lacking(batches.batch("trl-1.16", method), dropped)
    arrays["reference_mismatched_logprobs"] = arrays["reference_mismatched_logprobs"] - 0.5
    assert recipe.couples(arrays, **options)
    assert not recipe.couples(batches.batch("trl-1.16", method))
    gap = distance(in_parts(recipe, arrays, options, 1), in_parts(recipe, arrays, options, 4))
    assert gap > 1e-3


PADDED = {
    "score_regression": "answer_mask", "outcome_reward": "answer_mask", "kto": "answer_mask",
    "bco": "answer_mask", "apo_zero_unpaired": "answer_mask", "bradley_terry": "pair_mask",
    "dpo": "pair_mask", "simpo": "pair_mask", "plackett_luce": "mask", "all_pairs": "mask",
    "process_reward": "mask", "token_nll": "mask", "dft": "mask", "smoothed_nll": "mask",
}  # fmt: skip


@pytest.mark.parametrize("method", PADDED)
def test_rows_of_padding_weigh_nothing(method):
    """Whatever numbers stand in them."""
    recipe, arrays = compat.recipe("paper", method), batches.batch("paper", method)
    mask, rows = PADDED[method], np.arange(batches.ROWS)
    keep = rows < 6
    keep_like = keep.reshape(-1, *[1] * (np.ndim(arrays.get(mask, keep)) - 1))
    masked = {**arrays, mask: np.asarray(arrays.get(mask, np.ones_like(keep))) * keep_like}
    cut = {n: x[keep] if np.ndim(x) and len(x) == batches.ROWS else x for n, x in arrays.items()}
    hidden = {  # scores of rows that are not there may be anything
        n: np.where(keep.reshape(-1, *[1] * (x.ndim - 1)), x, np.nan)
        if n in ("scores", "logits", "targets", "labels") and mask != "pair_mask"
        else x
        for n, x in masked.items()
    }

    def value(arrays):
        return sum(term.value for term in recipe(arrays).values())

    assert float(value(hidden)) == pytest.approx(float(value(cut)), rel=1e-6)
    floats = {n: x for n, x in hidden.items() if x.dtype == np.float32}
    gradients = jax.grad(lambda f: value({**hidden, **f}))(floats)
    for name, gradient in gradients.items():
        if np.ndim(gradient) and len(gradient) == batches.ROWS:
            assert np.all(np.asarray(gradient)[~keep] == 0), name


# --- which methods fit ---
def test_methods_by_the_rows_that_they_train_on():
    assert compat.fitting("paper", "unpaired") == ("kto", "apo_zero_unpaired", "bco")
    pairs = compat.fitting("paper", "pairs")
    assert {"dpo", "simpo", "slic", "bradley_terry"} <= set(pairs)
    assert "kto" not in pairs
    alone = compat.fitting("paper", "pairs", without={"reference", "scores", "gold"})
    assert set(alone) == {"orpo", "simpo", "alphapo", "cpo"}
    demonstrations = compat.fitting("paper", "demonstrations")
    assert {"token_nll", "dft", "smoothed_nll"} <= set(demonstrations)
    assert compat.fitting("paper", "documents") == demonstrations
    assert compat.fitting("trl-1.13", "steps") == ("process_reward",)
    assert set(compat.fitting("paper")) == set(compat.PRESETS["paper"])


def test_every_preset_has_what_its_language_and_reward_losses_are():
    tables = {
        "token_nll": "demonstrations", "dft": "demonstrations", "smoothed_nll": "demonstrations",
        "bradley_terry": "pairs", "plackett_luce": "rankings", "all_pairs": "rankings",
        "score_regression": "scored", "outcome_reward": "scored", "process_reward": "steps",
    }  # fmt: skip
    for preset, method in itertools.product(compat.PRESETS, tables):
        if method in compat.PRESETS[preset]:
            assert compat.recipe(preset, method, tables[method]).table == tables[method]
    assert tables.keys() <= compat.PRESETS["paper"].keys()


@pytest.mark.parametrize(
    ("preset", "method", "options", "message"),
    [
        ("paper", "dpoo", {"table": "pairs"}, "method of paper on pairs must be one of .*'dpo'"),
        ("paper", "kto", {"table": "pairs"}, "on pairs must .*got 'kto'.* It is one on unpaired"),
        ("paper", "slic", {"without": {"gold"}}, "got 'slic'.* It reads gold"),
        (
            "trl-1.12",
            "dpo",
            {"table": "pairs"},
            "compat must be one of .*; got 'trl-1.12' and 'dpo'",
        ),
        ("paper", "dpo", {"table": "pair"}, "table must be one of .*Did you mean 'pairs'"),
        ("paper", "dpo", {"without": {"referense"}}, "without must be one of .*'reference'"),
    ],
)
def test_methods_that_do_not_fit_are_answered_with_those_that_do(preset, method, options, message):
    with pytest.raises(ValueError, match=message) as raised:
        compat.recipe(preset, method, **options)
    assert "kto" not in str(raised.value).partition("; got")[0] or method == "slic"
    assert compat.recipe("paper", "dpo", table="pairs") == compat.recipe("paper", "dpo")
