"""DPOTrainer of TRL 0.28.0: `loss_type` by our names.

What its code does beyond the formulas, recorded as named differences: an f-divergence has no effect
(the configuration turns it into a string, the trainer compares that with an enum); LD-DPO counts
positions from the start of the prompt; WPO leaves out each answer's last token. `nll_weight` is its
rpo_alpha; its mean leaves out tokens whose id is 0: take them out of chosen_mask.
"""

from typing import Any

from alignjax.compat.recipe import Recipe

DEFAULTS = {"beta": 0.1, "wpo": False, "nll_weight": 0.0}
SCORE = {"ld_alpha": 1.0}
DIVERGENCE = {"divergence": "reverse_kl", "alpha": 1.0}
CHOICES = ("reverse_kl", "js", "alpha:power")


def _recipe(
    link: str,
    formula: str,
    loss_type: str,
    defaults: dict[str, Any],
    *,
    score: str = "sum",
    divergences: tuple[str, ...] = (),
    reads: tuple[str, ...] = (),
) -> Recipe:
    return Recipe(
        table="pairs",
        score=score,
        divergence="reverse_kl",
        divergences=divergences,
        link=link,
        weight="wpo_at_most_1",
        reduction="mean over pairs",
        terms=("chosen_token_nll",),
        defaults={**DEFAULTS, **defaults},
        reads=frozenset({"reference", "sum_p2", *reads}),
        formula=f"{formula}; mean over pairs; + nll_weight times -log pi, mean over all chosen "
        "answers' tokens",
        source=f"trainer/dpo_trainer.py, loss_type={loss_type!r}",
    )


def _on_scores(link: str, formula: str, loss_type: str, **numbers: float) -> Recipe:
    """A loss of f(a) and f(b)."""
    defaults = {**SCORE, **DIVERGENCE, **numbers}
    return _recipe(link, formula, loss_type, defaults, divergences=CHOICES)


def _on_ratios(link: str, formula: str, loss_type: str, *reads: str, **numbers: float) -> Recipe:
    """A loss of a and b themselves: no divergence reaches it."""
    return _recipe(link, formula, loss_type, {**SCORE, **numbers}, reads=reads)


def _sorted(link: str, formula: str) -> Recipe:
    """A loss of scores that are sorted over the batch."""
    return Recipe(
        table="pairs",
        score="sum",
        divergence="reverse_kl",
        link=link,
        reduction="mean over sorted pairs",
        defaults={"beta": 0.1, "label_smoothing": 0.0, "ld_alpha": 1.0},
        reads=frozenset({"reference"}),
        coupled=True,
        formula=f"{formula}; mean over pairs",
        source=f"trainer/dpo_trainer.py, loss_type={link!r}",
    )


RECIPES = {
    "dpo": _on_scores(
        "logistic",
        "-(1-e) log sig(beta (f(a) - f(b))) - e log sig(-beta (f(a) - f(b))), e = label_smoothing",
        "sigmoid",
        label_smoothing=0.0,
    ),
    "robust_dpo": _on_scores(
        "unbiased_logistic",
        "(-(1-e) log sig(z) + e log sig(-z)) / (1-2e), z = beta (f(a) - f(b)), e = flip_rate",
        "robust",
        flip_rate=0.0,
    ),
    "exo_pair": _on_scores(
        "exo_pair_never_0",
        "KL((sig(z), sig(-z)) || (1-e, e)), z = beta (f(a) - f(b)), e = label_smoothing, 1e-3 if 0",
        "exo_pair",
        label_smoothing=0.0,
    ),
    "hinge": _on_scores("hinge", "max(0, 1 - beta (f(a) - f(b)))", "hinge"),
    "ipo": _recipe(
        "squared",
        "(f(a/n_c) - f(b/n_r) - 1/(2 beta))^2",
        "ipo",
        DIVERGENCE,
        score="mean",
        divergences=CHOICES,
    ),
    "bco_pair": _on_ratios(
        "bco_pair",
        "-log sig(beta a - d) - log sig(-(beta b - d)), d the array `shift`: the running mean over "
        "steps of the batch's mean of beta a and beta b, this batch included",
        "bco_pair",
        "shift",
    ),
    "sppo_hard": _on_ratios("sppo_hard", "(a - 1/(2 beta))^2 + (b + 1/(2 beta))^2", "sppo_hard"),
    "nca_pair": _on_ratios(
        "nca_pair",
        "-log sig(beta a) - log sig(-beta a) / 2 - log sig(-beta b) / 2",
        "nca_pair",
    ),
    "apo_zero": _on_ratios("apo_zero", "1 - sig(beta a) + sig(beta b)", "apo_zero"),
    "apo_down": _on_ratios("apo_down", "sig(beta a) + 1 - sig(beta (a - b))", "apo_down"),
    "discopop": _on_ratios(
        "discopop",
        "-(1-m) log sig(z) + m exp(-z), z = beta (a - b), m = sig(z / temperature)",
        "discopop",
        temperature=0.05,
    ),
    "aot": _sorted("aot", "cDPO of sort(l_c - l_r) - sort(reference's l_c - l_r)"),
    "aot_unpaired": _sorted("aot_unpaired", "cDPO of sort(a) - sort(b)"),
    "chosen_nll": Recipe(
        table="pairs",
        score="tokens",
        link="token_nll",
        reduction="mean over chosen tokens",
        formula="-log pi; mean over all chosen answers' tokens",
        source="trainer/dpo_trainer.py, loss_type='sft'",
    ),
}
