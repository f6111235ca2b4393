"""DPOTrainer of TRL 0.28.0: `loss_type` by our names.

What its code does beyond the formulas, recorded as named differences: an f-divergence has no effect
(the configuration turns it into a string, the trainer compares that with an enum); LD-DPO counts
positions from the start of the prompt; WPO leaves out each answer's last token. `nll_weight` is its
rpo_alpha; its mean leaves out tokens whose id is 0: take them out of chosen_mask.
"""

from collections.abc import Callable
from typing import Any

import jax

from alignjax import losses
from alignjax.compat import pairs, reference_free
from alignjax.compat.recipe import Arrays, Recipe, Terms
from alignjax.core import shapes
from alignjax.losses import divergences

WPO_MAXIMUM = 1.0
DIVERGENCES: dict[str, pairs.Divergence] = {
    "reverse_kl": pairs.DIVERGENCES["reverse_kl"],
    "js": pairs.DIVERGENCES["js"],
    "alpha": lambda x, alpha: divergences.power(x, shapes.check_number("alpha", alpha)),
}
DEFAULTS = {"beta": 0.1, "wpo": False, "nll_weight": 0.0}
SCORE = {"ld_alpha": 1.0}
DIVERGENCE = {"divergence": "reverse_kl", "alpha": 1.0}


def _reduced(per_pair: jax.Array, arrays: Arrays, *, wpo: bool, nll_weight: float) -> Terms:
    """The mean over pairs, and the NLL of all chosen answers' tokens."""
    if wpo and nll_weight:
        raise ValueError(
            f"nll_weight must be 0 with wpo, whose weights TRL 0.28 multiplies it with; got "
            f"{nll_weight}."
        )
    terms = pairs.reduced(per_pair, arrays, wpo=wpo, wpo_maximum=WPO_MAXIMUM)
    if nll_weight:
        terms["nll"] = reference_free.weighted(pairs.chosen_nll(arrays)["loss"], nll_weight)
    return terms


def _recipe(
    compute: Callable[..., Terms], formula: str, loss_type: str, defaults: dict[str, Any]
) -> Recipe:
    return Recipe(
        compute=compute,
        formula=f"{formula}; mean over pairs; + nll_weight times -log pi, mean over all chosen "
        "answers' tokens",
        source=f"trainer/dpo_trainer.py, loss_type={loss_type!r}",
        defaults={**DEFAULTS, **defaults},
    )


def _on_scores(
    link: Callable[..., jax.Array], formula: str, loss_type: str, **options: float
) -> Recipe:
    """A loss of f(a) and f(b)."""

    def compute(
        arrays: Arrays,
        *,
        ld_alpha: float,
        divergence: str,
        alpha: float,
        wpo: bool,
        nll_weight: float,
        **numbers: float,
    ) -> Terms:
        f = DIVERGENCES[shapes.check_choice("divergence", divergence, DIVERGENCES)]
        scored = [f(x, alpha) for x in pairs.log_ratios(arrays, ld_alpha)]
        return _reduced(link(*scored, **numbers), arrays, wpo=wpo, nll_weight=nll_weight)

    return _recipe(compute, formula, loss_type, {**SCORE, **DIVERGENCE, **options})


def _on_ratios(
    link: Callable[..., jax.Array], formula: str, loss_type: str, *extra: str, **options: float
) -> Recipe:
    """A loss of a and b themselves: no divergence reaches it."""

    def compute(
        arrays: Arrays, *, ld_alpha: float, wpo: bool, nll_weight: float, **numbers: float
    ) -> Terms:
        given = {name: arrays[name] for name in extra}
        loss = link(*pairs.log_ratios(arrays, ld_alpha), **given, **numbers)
        return _reduced(loss, arrays, wpo=wpo, nll_weight=nll_weight)

    return _recipe(compute, formula, loss_type, {**SCORE, **options})


def _ipo(
    arrays: Arrays, *, beta: float, divergence: str, alpha: float, wpo: bool, nll_weight: float
) -> Terms:
    """IPO on f of the mean log-ratio per token: log-probabilities are averaged before all else."""
    f = DIVERGENCES[shapes.check_choice("divergence", divergence, DIVERGENCES)]
    policy, reference = pairs.means(arrays), pairs.means(arrays, "reference_")
    scored = [
        f(p - jax.lax.stop_gradient(r), alpha) for p, r in zip(policy, reference, strict=True)
    ]
    loss = losses.ipo(*scored, beta=beta)
    return _reduced(loss, arrays, wpo=wpo, nll_weight=nll_weight)


def _exo_pair(chosen: Any, rejected: Any, *, beta: float, label_smoothing: float) -> jax.Array:
    """Label smoothing 0 means 1e-3."""
    return losses.exo_pair(chosen, rejected, beta=beta, label_smoothing=label_smoothing or 1e-3)


def _sorted(compute: Callable[..., Terms], formula: str, loss_type: str) -> Recipe:
    return Recipe(
        compute=compute,
        formula=f"{formula}; mean over pairs",
        source=f"trainer/dpo_trainer.py, loss_type={loss_type!r}",
        defaults={"beta": 0.1, "label_smoothing": 0.0, "ld_alpha": 1.0},
    )


RECIPES = {
    "dpo": _on_scores(
        losses.dpo,
        "-(1-e) log sig(beta (f(a) - f(b))) - e log sig(-beta (f(a) - f(b))), e = label_smoothing",
        "sigmoid",
        label_smoothing=0.0,
    ),
    "robust_dpo": _on_scores(
        losses.robust_dpo,
        "(-(1-e) log sig(z) + e log sig(-z)) / (1-2e), z = beta (f(a) - f(b)), e = flip_rate",
        "robust",
        flip_rate=0.0,
    ),
    "exo_pair": _on_scores(
        _exo_pair,
        "KL((sig(z), sig(-z)) || (1-e, e)), z = beta (f(a) - f(b)), e = label_smoothing, 1e-3 if 0",
        "exo_pair",
        label_smoothing=0.0,
    ),
    "hinge": _on_scores(losses.hinge, "max(0, 1 - beta (f(a) - f(b)))", "hinge"),
    "ipo": _recipe(_ipo, "(f(a/n_c) - f(b/n_r) - 1/(2 beta))^2", "ipo", DIVERGENCE),
    "bco_pair": _on_ratios(
        losses.bco_pair,
        "-log sig(beta a - d) - log sig(-(beta b - d)), d the array `shift`: the running mean over "
        "steps of the batch's mean of beta a and beta b, this batch included",
        "bco_pair",
        "shift",
    ),
    "sppo_hard": _on_ratios(
        losses.sppo_hard, "(a - 1/(2 beta))^2 + (b + 1/(2 beta))^2", "sppo_hard"
    ),
    "nca_pair": _on_ratios(
        losses.nca_pair,
        "-log sig(beta a) - log sig(-beta a) / 2 - log sig(-beta b) / 2",
        "nca_pair",
    ),
    "apo_zero": _on_ratios(losses.apo_zero, "1 - sig(beta a) + sig(beta b)", "apo_zero"),
    "apo_down": _on_ratios(losses.apo_down, "sig(beta a) + 1 - sig(beta (a - b))", "apo_down"),
    "discopop": _on_ratios(
        losses.discopop,
        "-(1-m) log sig(z) + m exp(-z), z = beta (a - b), m = sig(z / temperature)",
        "discopop",
        temperature=0.05,
    ),
    "aot": _sorted(pairs.aot, "cDPO of sort(l_c - l_r) - sort(reference's l_c - l_r)", "aot"),
    "aot_unpaired": _sorted(pairs.aot_unpaired, "cDPO of sort(a) - sort(b)", "aot_unpaired"),
    "chosen_nll": Recipe(
        compute=pairs.chosen_nll,
        formula="-log pi; mean over all chosen answers' tokens",
        source="trainer/dpo_trainer.py, loss_type='sft'",
    ),
}
